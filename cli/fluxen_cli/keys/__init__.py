"""`fluxen keys`: who may call, and by which keys of providers."""
