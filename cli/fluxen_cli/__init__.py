"""The command line of Fluxen: one file per command, all printing."""
