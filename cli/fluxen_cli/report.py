"""`fluxen report`: named questions to the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder
from fluxen_cli.tags import parse_tags

BY = (
    "Group by one or more of: hour, day, month, model, model_asked, upstream, credential, key, team, project, route, "
    "endpoint, dialect, stream, status, error, finish, source, user_agent, node, price_version, tag:NAME."
)
MOMENT = "1d, 12h, 30m, 2w (ago), 2026-11-01, 2026-11-01T09:30Z, today, yesterday, this-month, last-month, now. UTC."


def build() -> typer.Typer:
    app = typer.Typer(help="Answers about what was served and spent.", no_args_is_help=True, rich_markup_mode=None)
    app.callback()(lambda: None)  # a group, though it has one command so far
    app.command("costs")(costs)
    return app


def costs(
    since: Annotated[str | None, typer.Option(help=f"Requests from this moment on: {MOMENT}")] = None,
    until: Annotated[str | None, typer.Option(help="Requests before this moment; written like --since.")] = None,
    by: Annotated[str, typer.Option(help=BY)] = "model",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Only requests with this tag. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show this many rows; the total covers all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON; money as text, exact.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV without a total; money exact.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """What was spent: requests, tokens and dollars.

    Works while the gateway serves and after it stopped or was killed. A cost that is not known is '–' and counted in
    unknown_cost, never added as 0. cache read and write tokens are not part of input_tokens.
    """
    from datetime import UTC, datetime

    from fluxen.reports.costs import MEASURES, parse_by
    from fluxen.reports.costs import costs as ask
    from fluxen.reports.period import parse_span, show_moment

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    start, end = parse_span(since, until, datetime.now(UTC))
    dimensions = parse_by(by)
    tags = parse_tags(tag or ())
    folder = ledger_folder(data_dir, config)

    from fluxen.ledger.reader import Reader

    found = ask(Reader(folder), since=start, until=end, by=dimensions, tags=tags, limit=limit)
    if as_json:
        output.emit_json(
            {
                "report": "costs",
                "since": show_moment(start) if start else None,
                "until": show_moment(end) if end else None,
                "by": found.by,
                "tags": tags,
                "rows": [dict(zip(found.columns, row, strict=True)) for row in found.rows],
                "more_rows": found.more,
                "totals": dict(zip(MEASURES, found.totals, strict=True)),
                "unknown_cost_at_most_usd": found.unknown_bound,
                "unknown_cost_without_bound": found.unknown_unbounded,
                "lost": found.lost,
                "in_flight": found.in_flight,
            }
        )
    elif as_csv:
        output.emit_csv(found.columns, found.rows)
    elif found.totals[0]:
        labels = ["total", *[""] * (len(found.by) - 1)][: len(found.by)]
        output.emit_table(found.columns, found.rows, [*labels, *found.totals] if found.by else None)
    else:
        output.note("no requests" + (" like this" if tags else " in this time" if start or end else " yet"))
    for line in found.notes:
        output.note(line)
