"""The command `fluxen`. `--version` answers before anything heavier than this file is imported; a container's health
check, which is run again and again, comes by without the command line as a whole."""

from __future__ import annotations

import sys


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from fluxen import __version__

        sys.stdout.write(f"fluxen {__version__}\n")
        return
    if arguments[:2] == ["health", "--url"] and len(arguments) == 3 and not arguments[2].startswith("-"):
        from fluxen_cli.readiness import tell

        sys.exit(tell(arguments[2]))
    from fluxen_cli.app import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
