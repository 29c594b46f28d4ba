"""The options that all reports share."""

from __future__ import annotations

from typing import Annotated

import typer

BY = (
    "Group by one or more of: hour, day, week, month, model, model_asked, upstream, credential, key, team, project, "
    "route, endpoint, dialect, stream, status, error, finish, cache, rule, tier, source, user_agent, node, "
    "price_version, tag:NAME."
)
MOMENT = (
    "7d, 12h, 30m, 2w (ago), 2026-11-01, 2026-11-01T09:30, 2026-11, today, yesterday, this-week, last-week, "
    "this-month, last-month, this-year, now."
)
WHERE = (
    "Only requests like this: model=gpt-4o*, team!=x, status>=400, 'cost>0.01', error= (none), tag:NAME=a|b. "
    "Commas or repeating it: all must hold."
)

Since = Annotated[str | None, typer.Option(help=f"Requests from this moment on: {MOMENT}")]
Until = Annotated[str | None, typer.Option(help="Requests before this moment; written like --since.")]
By = Annotated[str, typer.Option(help=BY)]
Filter = Annotated[list[str] | None, typer.Option("--where", metavar="EXPR", help=WHERE)]
Tag = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Only requests with this tag. Repeatable.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Show this many rows; the total covers all.")]
Sort = Annotated[
    str | None,
    typer.Option(help="Sort by this column: the largest figure first, names from A. With :asc or :desc as told."),
]
Compare = Annotated[
    bool | None,
    typer.Option(
        "--compare/--no-compare",
        help="Also the time before: change_pct. Default: with --since, not for --csv.",
        show_default=False,
    ),
]
Timezone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Where days begin and times are told: Europe/Berlin. Default: FLUXEN_TIMEZONE, else UTC."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON; money as text, exact.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="CSV without a total; money exact.")]
AsMarkdown = Annotated[bool, typer.Option("--md", help="A Markdown table.")]
