"""Fluxen: a self-hosted AI gateway that forwards bytes untouched and records what every request cost."""

__version__ = "0.1.0"
