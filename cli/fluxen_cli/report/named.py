"""The commands `fluxen report NAME`: the same options, each its own question."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from fluxen_cli.places import ConfigFile, DataDir, ledger_folder
from fluxen_cli.report import options
from fluxen_cli.tags import parse_tags

if TYPE_CHECKING:
    from fluxen.reports.savings import Savings

_SLICES: Final = 24
"""Of a sparkline."""

_WORKS: Final = "Works while the gateway serves and after it stopped or was killed."
_HELP: Final = {
    "costs": (
        "What was spent: requests, tokens and dollars.",
        f"{_WORKS} A cost that is not known is '–' and counted in unknown_cost, never added as 0. cache read and "
        "write tokens are not part of input_tokens.",
        "model",
    ),
    "usage": (
        "What was used: tokens of every class and tool calls.",
        f"{_WORKS} Classes are disjoint but for reasoning (a part of output), audio and image tokens. reported, "
        "estimated and unknown_usage say where the counts of how many requests come from.",
        "model",
    ),
    "models": (
        "What each model is worth: use, failures, price, speed.",
        f"{_WORKS} usd_per_request is of answered requests whose cost is known, rounded; prompt_tokens are all that "
        "was read, cached or not. Models by the name that was asked for: a failure has no other (--by model).",
        "model_asked,upstream",
    ),
    "keys": (
        "Who spent it: what each client key was used for.",
        f"{_WORKS} models is how many different ones; prompt_tokens are all that was read, cached or not.",
        "key",
    ),
    "errors": (
        "What failed: how often, at what rate, since when.",
        f"{_WORKS} error_pct: of all requests of the same group without status, error and finish, as many failed so.",
        "status,error,upstream,model_asked",
    ),
    "latency": (
        "How long it took: percentiles of what clients waited for.",
        f"{_WORKS} Answered requests only. ttfb: to the first byte; overhead: Fluxen's own part; of tokens_per_s the "
        "higher percentiles are slower: 95 % of answers were at least as fast as p95.",
        "model",
    ),
    "cache": (
        "What caches did, the providers' and our own.",
        f"{_WORKS} read_pct: of all prompt tokens, read from a provider's cache. provider_saved_usd: what that saved "
        "at the prices in force, the extra price of writing deducted; unknown_saving: requests without a price.",
        "model",
    ),
}
NAMES: Final = tuple(_HELP)


def help_of(name: str) -> str:
    first, more, _ = _HELP[name]
    return f"{first}\n\n{more}"


def command(name: str) -> Callable[..., None]:
    """The command of one report."""

    def report(
        since: options.Since = None,
        until: options.Until = None,
        by: options.By = _HELP[name][2],
        where: options.Filter = None,
        tag: options.Tag = None,
        sort: options.Sort = None,
        limit: options.Limit = None,
        compare: options.Compare = None,
        timezone: options.Timezone = None,
        as_json: options.AsJson = False,
        as_csv: options.AsCsv = False,
        as_md: options.AsMarkdown = False,
        data_dir: DataDir = None,
        config: ConfigFile = None,
    ) -> None:
        if as_json + as_csv + as_md > 1:
            raise typer.BadParameter("--json, --csv and --md exclude each other")
        if compare and since is None:
            raise typer.BadParameter("--compare needs --since: before what?")
        from datetime import UTC, datetime

        from fluxen.reports.dimensions import parse_by
        from fluxen.reports.period import parse_span
        from fluxen.reports.where import parse_where, tagged
        from fluxen.reports.zone import chosen_zone

        now = datetime.now(UTC)
        zone = chosen_zone(timezone, os.environ)
        start, end = parse_span(since, until, now, zone)
        dimensions = parse_by(by)
        tags = parse_tags(tag or ())
        condition = parse_where(where or ())
        folder = ledger_folder(data_dir, config)

        from fluxen.ledger.reader import Reader
        from fluxen.reports.report import Question, ask
        from fluxen_cli.report.shown import Asked, emit

        if compare is None:
            compare = start is not None and not as_csv
        for_eyes = sys.stdout.isatty() and not (as_json or as_csv or as_md)
        question = Question(
            dimensions,
            start,
            end,
            condition & tagged(tags),
            zone,
            sort,
            limit,
            compare,
            _SLICES if for_eyes else 0,
            now,
        )
        fill = _savings(folder.parent, config) if name == "cache" else None
        found = ask(Reader(folder), name, question, fill)
        form = "json" if as_json else "csv" if as_csv else "md" if as_md else "table"
        emit(found, Asked(form, zone, condition.text, tags))

    return report


def _savings(data: Path, config: Path | None) -> Savings:
    """With the prices that are in force where the data is kept, and who bills the upstreams of the configuration."""
    from fluxen.config.locate import written_upstreams
    from fluxen.config.paths import find_config
    from fluxen.reports.reprice import providers_of
    from fluxen.reports.savings import Savings
    from fluxen_cli.cost.book import prices_in_force

    path = find_config(config, os.environ)
    upstreams = written_upstreams(path, os.environ) if path is not None else {}
    return Savings(prices_in_force(data, config), providers_of(upstreams))
