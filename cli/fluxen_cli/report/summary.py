"""`fluxen report` without a subcommand."""

from __future__ import annotations

import typer


def command(context: typer.Context) -> None:
    pass
