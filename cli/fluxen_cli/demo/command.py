"""`fluxen demo`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep configuration and ledger in DIR, a new folder.")
    ] = None,
) -> None:
    """See the whole product in ten seconds, without any key.

    Starts a provider that answers from a script, a real gateway in front of it, and three teams that talk to it; kills
    a worker on the way, and shows the reports. Nothing leaves this machine, nothing of yours is read or written, and
    all of it is gone at the end. Provider, prompts and token counts are invented; the prices are the real ones.
    """
    from fluxen_cli.demo.story import tell

    tell(keep)
