"""`fluxen report` without a subcommand: today and this month on one screen."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import TYPE_CHECKING

import typer

from fluxen_cli import charts, output
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder
from fluxen_cli.report import options

if TYPE_CHECKING:
    from datetime import tzinfo

    from fluxen.reports.report import Report
    from fluxen.reports.summary import Period, Summary

_BAR = 20


def command(
    context: typer.Context,
    where: options.Filter = None,
    timezone: options.Timezone = None,
    as_json: options.AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    if context.invoked_subcommand is not None:
        if where or timezone or as_json or data_dir or config:
            raise typer.BadParameter(f"write options behind the report's name: report {context.invoked_subcommand} …")
        return
    from datetime import UTC, datetime

    from fluxen.reports.where import parse_where
    from fluxen.reports.zone import chosen_zone

    zone = chosen_zone(timezone, os.environ)
    condition = parse_where(where or ())
    folder = ledger_folder(data_dir, config)

    from fluxen.ledger.reader import Reader
    from fluxen.reports.summary import summarise

    found = summarise(Reader(folder), datetime.now(UTC), zone, condition)
    if as_json:
        output.emit_json(_fields(found, zone, condition.text))
        return
    if not any(period.costs.requests for period in found.periods):
        output.note("no requests this month" + (" like this" if condition else ""))
    else:
        _emit(found, zone)
    for line in found.periods[-1].costs.notes:
        output.note(output.visible(line))


def _emit(found: Summary, zone: tzinfo) -> None:
    from fluxen.reports.period import show_moment
    from fluxen.reports.zone import zone_name

    told = show_moment(found.now.replace(second=0, microsecond=0), zone)
    output.emit(
        f"{told[:16].replace('T', ' ')} {zone_name(zone)}; compared with the same time of the day or month before\n\n"
    )
    columns = ["", *(name for period in found.periods for name in (period.name.split()[-1], "change"))]
    lines: list[list[object]] = []
    tables = [_figures(period) for period in found.periods]
    for place, (name, _, _) in enumerate(tables[0]):
        lines.append([name, *(cell for table in tables for cell in table[place][1:])])
    output.emit_table(columns, lines)
    _emit_top("models this month", found.models)
    _emit_top("keys this month", found.keys)
    if found.errors.rows:
        output.emit("\nerrors today\n")
        places = [found.errors.columns.index(name) for name in (*found.errors.by, "errors", "error_pct", "last_seen")]
        rows = [[row[place] for place in places[:-2]] + [_share(row[places[-2]]), _clock(row[places[-1]], zone)]
                for row in found.errors.rows]  # fmt: skip
        output.emit_table([*found.errors.by, "errors", "error_pct", "last_seen"], rows)


def _emit_top(title: str, report: Report) -> None:
    if not report.rows:
        return
    output.emit(f"\n{title}\n")
    names = ("requests", "output_tokens", "cost_usd", "unknown_cost")
    places = [report.columns.index(name) for name in (*report.by, *names)]
    cost = report.columns.index("cost_usd")
    values = [value if isinstance(value, Decimal) else None for value in (row[cost] for row in report.rows)]
    largest = max((value for value in values if value is not None), default=None)
    bars = [charts.bar(value, largest, _BAR) for value in values]
    drawn = [("cost", bars)] if largest and charts.can_draw() else []
    rows = [[row[place] for place in places] for row in report.rows]
    output.emit_table([*report.by, *names], rows, drawn=drawn)


def _figures(period: Period) -> list[tuple[str, object, object]]:
    """Name, value and change of each."""
    from fluxen.reports.named import percent
    from fluxen.reports.report import change

    costs, latency = _totals(period.costs), _totals(period.latency)
    old_costs, old_latency = _before(period.costs), _before(period.latency)
    prompt = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    rows: list[tuple[str, object, object, object]] = [
        ("cost $", costs["cost_usd"], costs["cost_usd"], old_costs.get("cost_usd")),
        ("requests", costs["requests"], costs["requests"], old_costs.get("requests")),
        ("errors", costs["errors"], costs["errors"], old_costs.get("errors")),
        ("errors %", _share(percent(costs["errors"], costs["requests"])), None, None),
        ("input tokens", _sum(costs, prompt), _sum(costs, prompt), _sum(old_costs, prompt)),
        ("output tokens", costs["output_tokens"], costs["output_tokens"], old_costs.get("output_tokens")),
        ("from cache %", _share(percent(costs["cache_read_tokens"], _sum(costs, prompt))), None, None),
    ]
    for measured, name in (("latency_ms", "latency p95 ms"), ("ttfb_ms", "first byte p95 ms")):
        key = f"{measured}_p95"
        rows.append((name, latency[key], latency[key], old_latency.get(key)))
    return [(name, told, _signed(change(new, old))) for name, told, new, old in rows]


def _totals(report: Report) -> dict[str, object]:
    return dict(zip(report.measures, report.totals, strict=True))


def _before(report: Report) -> dict[str, object]:
    previous = report.previous
    return {} if previous is None else dict(zip(report.named.columns, previous.totals, strict=True))


def _sum(figures: dict[str, object], names: tuple[str, ...]) -> int | None:
    known = [value for value in (figures.get(name) for name in names) if isinstance(value, int)]
    return sum(known) if known else None


def _signed(value: Decimal | None) -> object:
    return "" if value is None else output.Figure(f"{value:+} %")


def _share(value: object) -> object:
    return output.Figure(str(value)) if isinstance(value, Decimal) else value


def _clock(value: object, zone: tzinfo) -> object:
    from datetime import UTC, datetime

    from fluxen.reports.period import show_moment

    return show_moment(value.replace(tzinfo=UTC, microsecond=0), zone) if isinstance(value, datetime) else value


def _fields(found: Summary, zone: tzinfo, where: str) -> dict[str, object]:
    from fluxen.reports.period import show_moment
    from fluxen_cli.report.shown import Asked, fields

    asked = Asked("json", zone, where, {})
    return {
        "report": "summary",
        "now": show_moment(found.now),
        "timezone": fields(found.models, asked)["timezone"],
        "where": where,
        "periods": [
            {"name": period.name, "costs": fields(period.costs, asked), "latency": fields(period.latency, asked)}
            for period in found.periods
        ],
        "models": fields(found.models, asked)["rows"],
        "keys": fields(found.keys, asked)["rows"],
        "errors": fields(found.errors, asked)["rows"],
        "in_flight": found.models.in_flight,
    }
