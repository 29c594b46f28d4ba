# Runs before PyInstaller's own hooks and ours, and before the program: `--version` needs nothing of theirs.
def _version() -> None:
    import sys

    if sys.argv[1:] in (["--version"], ["-V"]):
        from fluxen_cli.__main__ import main

        main()
        sys.exit()


_version()
del _version
