"""The command `fluxen`. `--version` answers before anything heavier than this file is imported."""

from __future__ import annotations

import sys


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from fluxen import __version__

        sys.stdout.write(f"fluxen {__version__}\n")
        return
    from fluxen_cli.app import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
