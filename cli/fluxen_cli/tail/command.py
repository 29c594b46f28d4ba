"""`fluxen tail`: what it takes, and how it goes on until nobody wants more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen_cli import output
from fluxen_cli.audience import Audience
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder

if TYPE_CHECKING:
    from fluxen.ledger.follow import Follower
    from fluxen_cli.tail.lines import Lines
    from fluxen_cli.tail.wanted import Wanted

LINES = 10
INTERVAL = 0.1
"""Seconds between two looks at the journal."""
INTERRUPTED = 130


def command(
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", min=0, help=f"So many of those that ended before. Default: {LINES}; with --since all."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Begin with those that arrived from this moment on: 10m, 2h, today …")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", "--where", metavar="EXPR",
            help="Only requests like this: status>=400, cost>0.01, tag:NAME=VALUE …; a comma means and. Repeatable.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only of this client key. a|b: either; * and ? as in file names.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model; written like --key.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Only of this upstream; written like --key.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Only what failed: an error, or a status from 400 on.")
    ] = False,
    begins: Annotated[bool, typer.Option("--begins", help="Show also when a request begins.")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more, until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the ledger's columns.")] = False,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of times, as Europe/Berlin. Default: FLUXEN_TIMEZONE, else UTC.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:  # fmt: skip
    """Requests as they end: when, status, key, model, upstream, tokens, cost, how long it took.

    Reads the journal: with the gateway up, down or restarted, each request is shown once. A cost that is not known is
    '–'; '~' marks what is estimated. Ctrl-C ends it (exit code 130).
    """
    from datetime import UTC, datetime

    from fluxen.ledger.follow import Follower
    from fluxen.reports.period import parse_moment
    from fluxen.reports.where import parse_where
    from fluxen.reports.zone import chosen_zone
    from fluxen_cli.tail.lines import Lines
    from fluxen_cli.tail.wanted import Wanted, before

    zone = chosen_zone(timezone, os.environ)
    named = [f"{name}={value}" for name, value in (("key", key), ("model", model), ("upstream", upstream)) if value]
    wanted = Wanted(
        parse_where([*named, *(where or ())]),
        errors,
        None if since is None else parse_moment(since, datetime.now(UTC), zone),
        LINES if lines is None and since is None else lines,
    )
    show = Lines(zone, as_json=as_json)
    follower = Follower(ledger_folder(data_dir, config), begins=begins)
    try:
        for batch in before(follower, wanted):
            show.events(batch)
        if begins:
            show.events([begun for begun in follower.in_flight if wanted.matches(begun)])
        if follow:
            _follow(follower, wanted, show)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        follower.close()


def _follow(follower: Follower, wanted: Wanted, show: Lines) -> None:
    from fluxen.ledger.follow import Missing
    from fluxen_cli.tail.wanted import in_order

    audience = Audience()
    while not audience.gone(INTERVAL):
        events = []
        for event in follower.poll():
            if isinstance(event, Missing):
                told = f"{event.requests:,} request{'' if event.requests == 1 else 's'}"
                output.note(f"{told} could not be written (disk full?), and will be in no report")
            elif wanted.matches(event):
                events.append(event)
        show.events(in_order(events))
