"""`fluxen cost reprice`: recorded requests by the prices of today."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder
from fluxen_cli.report import options

if TYPE_CHECKING:
    from fluxen.ledger.adjuster import Adjuster
    from fluxen.reports.reprice import Line, Repricing, Selection

COUNTED = ("requests", "adjusted", "unpriced_before", "unpriced_after", "before_usd", "after_usd", "difference_usd")
COLUMNS = ("model", *COUNTED)
NAMED = 5
"""So many models a note names."""
WORTH_A_BAR = 20_000
"""From so many rows on, a terminal shows how far it is."""


def command(
    since: Annotated[str, typer.Option(help=f"Requests from this moment on: {options.MOMENT}")],
    until: Annotated[str | None, typer.Option(help="Requests before this moment; default: now.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="GLOB", help="Only of this model: gpt-4o*. Repeatable.")
    ] = None,
    upstream: Annotated[
        list[str] | None, typer.Option("--upstream", metavar="GLOB", help="Only of this upstream. Repeatable.")
    ] = None,
    where: options.Filter = None,
    only_unpriced: Annotated[bool, typer.Option("--only-unpriced", help="Only requests without a cost.")] = False,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List prices to use instead of those in force; - reads stdin.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Take away the cost of requests that have no price any more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    timezone: options.Timezone = None,
    as_json: options.AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Compute the cost of recorded requests anew, with the prices in force now for the time of each of them.

    No row is rewritten: what comes out otherwise is appended as an adjustment, and every report shows the newest. Done
    twice, it changes nothing more. A request whose usage is not known stays without a cost. Works while the gateway
    serves and while it does not.
    """
    import socket
    from datetime import UTC, datetime

    from fluxen.ledger.adjuster import adjusting
    from fluxen.ledger.reader import Reader
    from fluxen.reports.period import parse_span
    from fluxen.reports.reprice import Selection, providers_of, reprice
    from fluxen.reports.where import parse_where
    from fluxen.reports.zone import chosen_zone
    from fluxen_cli.cost.book import prices_in_force

    now = datetime.now(UTC)
    start, end = parse_span(since, until, now, chosen_zone(timezone, os.environ))
    selected = Selection(
        start, end or now, tuple(model or ()), tuple(upstream or ()), parse_where(where or ()), only_unpriced
    )
    folder = ledger_folder(data_dir, config)
    piped = prices is not None and str(prices) == "-"
    if not dry_run and not yes and (piped or not sys.stdin.isatty()):
        raise FluxenError("nobody is there to be asked whether to adjust", hint="say so with --yes, or see --dry-run")
    book = prices_in_force(folder.parent, config, prices)
    providers = providers_of(_upstreams(config))
    with nullcontext() if dry_run else adjusting(folder, socket.gethostname()[:64]) as adjuster:
        with _progress() as progress:
            found = reprice(
                Reader(folder), book, providers, selected, adjuster=adjuster, forget=forget, progress=progress
            )
        if not as_json and found.total.adjusted:
            output.emit_table(COLUMNS, [_row(line) for line in found.lines], _row(found.total, "total"))
        if adjuster is not None and adjuster.count:
            if not yes:
                _ask(found.total)
            _publish(adjuster, folder)
    if as_json:
        _emit(found, selected, dry_run)
    for line in _notes(found, dry_run):
        output.note(line)


def _upstreams(config: Path | None) -> dict[str, tuple[str | None, str | None]]:
    from fluxen.config.locate import written_upstreams
    from fluxen.config.paths import find_config

    path = find_config(config, os.environ)
    return written_upstreams(path, os.environ) if path is not None else {}


def _publish(adjuster: Adjuster, folder: Path) -> None:
    import duckdb

    from fluxen.errors import LedgerError
    from fluxen.ledger import store

    adjuster.publish()
    try:
        store.take_in(folder)
    except (LedgerError, OSError, duckdb.Error) as error:  # they count all the same
        output.note(f"warning: the adjustments stay in the journal for now: {output.visible(str(error))}")


def _ask(total: Line) -> None:
    sign = "+" if total.after >= total.before else "-"
    change = f"{sign}${output.money(abs(_dollars(total.after - total.before)))}"
    try:
        answer = output.ask(f"Adjust {_many(total.adjusted)} ({change})? (y/N)")
    except EOFError:
        answer = ""
    if answer.lower() not in ("y", "yes"):
        raise FluxenError("nothing was adjusted")


def _row(line: Line, name: str | None = None) -> tuple[object, ...]:
    money = (_dollars(line.before), _dollars(line.after), _dollars(line.after - line.before))
    counts = (line.requests, line.adjusted, line.unpriced_before, line.unpriced_after)
    return (name or line.model, *counts, *money)


def _emit(found: Repricing, selected: Selection, dry_run: bool) -> None:
    from fluxen.reports.period import show_moment

    def shown(line: Line) -> dict[str, object]:
        row = dict(zip(COLUMNS, _row(line), strict=True))
        return {**row, "kept_without_price": line.kept, "not_repriceable": line.untold}

    totals = shown(found.total)
    del totals["model"]
    output.emit_json(
        {
            "report": "reprice",
            "since": show_moment(selected.since) if selected.since else None,
            "until": show_moment(selected.until) if selected.until else None,
            "models": selected.models,
            "upstreams": selected.upstreams,
            "where": selected.where.text if selected.where else "",
            "price_version": found.version,
            "dry_run": dry_run,
            "rows": [shown(line) for line in found.lines],
            "totals": totals,
        }
    )


def _notes(found: Repricing, dry_run: bool) -> Iterator[str]:
    total = found.total
    if not total.requests:
        yield "no requests like this with a known usage"
        return
    by = f"by the prices {found.version}"
    if not total.adjusted:
        yield f"nothing to adjust: {_many(total.requests)} cost the same {by}"
    else:
        verb = "would be" if dry_run else "is" if total.adjusted == 1 else "are"
        yield f"{_many(total.adjusted)} {verb} adjusted {by}"
    if total.unpriced_after:
        yield f"{_many(total.unpriced_after)} unpriced: {_named(found, lambda line: line.unpriced_after)}"
    if total.kept:
        models = _named(found, lambda line: line.kept)
        yield f"{_many(total.kept)} without a price now: the recorded cost stays, unless --forget: {models}"
    if total.untold:
        models = _named(found, lambda line: line.untold)
        yield f"{_many(total.untold)} can't be priced again, their rows tell too little: {models}"


def _named(found: Repricing, count: Callable[[Line], int]) -> str:
    """Which models: llama-3 (300), my-model (12) …"""
    lines = sorted((line for line in found.lines if count(line)), key=count, reverse=True)
    names = [f"{output.visible(line.model or 'no model')} ({count(line)})" for line in lines[:NAMED]]
    return ", ".join([*names, f"{len(lines) - NAMED} more models"] if len(lines) > NAMED else names)


def _many(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _dollars(pico: int) -> Decimal:
    return Decimal(pico).scaleb(-12)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, from the moment there is something to wait for."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fluxen_cli.unwinding import unwinding

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    columns = (TextColumn("pricing"), BarColumn(28), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with unwinding(), bar:
        task = bar.add_task("", total=None, visible=False)

        def show(done: int, whole: int) -> None:
            bar.update(task, completed=done, total=whole, visible=whole >= WORTH_A_BAR)

        yield show
