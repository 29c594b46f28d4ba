"""`fluxen tail`: requests as they end."""
