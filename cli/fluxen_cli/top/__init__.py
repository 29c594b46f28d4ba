"""`fluxen top`: what is being spent and served right now."""
