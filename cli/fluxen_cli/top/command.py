"""`fluxen top`: what it takes, and its three ways of showing it: a screen, snapshots in a pipe, one snapshot."""

from __future__ import annotations

import os
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen_cli import output
from fluxen_cli.audience import Audience
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder

if TYPE_CHECKING:
    from fluxen_cli.top.source import Source

INTERRUPTED = 130
LOOK = 0.25
"""Seconds between two looks at the journal; what is shown changes every `--interval`."""


class By(StrEnum):
    """What is a line."""

    model = "model"
    key = "key"
    upstream = "upstream"


class Window(StrEnum):
    """Over which time."""

    minute = "1m"
    five = "5m"
    hour = "1h"


def command(
    by: Annotated[By, typer.Option(help="What is a line; on the screen: m, k, u.")] = By.model,
    window: Annotated[Window, typer.Option(help="Over which time; on the screen: 1, 5, h.")] = Window.minute,
    budget: Annotated[
        str | None, typer.Option(metavar="AMOUNT/PERIOD", help="How long it lasts: 50/day; hour, week, month.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show what is now, and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two snapshots.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a snapshot; money as text, exact.")] = False,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of times and budgets. Default: FLUXEN_TIMEZONE, else UTC.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """What is being spent and served right now: dollars a minute, requests, tokens, what is in flight.

    On a terminal a screen that lives (q ends it); in a pipe a snapshot a second. Reads the journal and costs the
    gateway nothing. Costs that are not known are counted beside the dollars, never in them.
    """
    from fluxen.reports.burn import parse_budget
    from fluxen.reports.zone import chosen_zone
    from fluxen_cli.top.source import Source

    zone = chosen_zone(timezone, os.environ)
    source = Source(
        ledger_folder(data_dir, config),
        zone,
        None if budget is None else parse_budget(budget, zone),
        window.value,
        by.value,
    )
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not (once or as_json)
    try:
        source.open(time.time())
        if live:
            from fluxen_cli.top.screen import run

            run(source, interval, LOOK)
        else:
            _snapshots(source, interval, once=once, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        source.close()


def _snapshots(source: Source, interval: float, *, once: bool, as_json: bool) -> None:
    from fluxen_cli.top.snapshot import as_object, as_text

    audience = Audience()
    due = time.monotonic()
    while True:
        snapshot = source.snapshot(time.time())
        output.emit(output.json_text(as_object(snapshot)) if as_json else as_text(snapshot))
        if once:
            return
        due += interval
        while (wait := due - time.monotonic()) > 0:
            if audience.gone(min(wait, LOOK)):
                return
            source.poll(time.time())
        if not as_json:
            output.emit("\n")
