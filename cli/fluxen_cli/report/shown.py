"""One report in the form that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fluxen.reports.named import MEASURED, PERCENTILES
from fluxen.reports.period import show_moment
from fluxen.reports.report import CHANGE
from fluxen.reports.zone import zone_name
from fluxen_cli import charts, output

if TYPE_CHECKING:
    from fluxen.reports.report import Report

_BAR: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """How a report was asked for. form: json, csv, md or table; where: the filter as written."""

    form: str
    zone: tzinfo
    where: str
    tags: dict[str, str]


def emit(report: Report, asked: Asked) -> None:
    """Print it; what the table can't say goes to stderr, in Markdown below the table."""
    if asked.form == "json":
        output.emit_json(fields(report, asked))
    elif asked.form == "csv":
        output.emit_csv(report.columns, report.rows)
    elif not report.requests:
        narrowed = asked.where or asked.tags
        what = "errors" if report.named.name == "errors" else "requests"
        output.note(f"no {what}" + (" like this" if narrowed else " in this time" if _timed(report) else " yet"))
    else:
        _emit_table(report, asked)
    lines = [*report.notes, *_compared(report, asked.zone)]
    if asked.form == "md":
        output.emit("".join(["\n", *(f"* {output.markdown(line)}\n" for line in lines)]) if lines else "")
    else:
        for line in lines:
            output.note(output.visible(line))


def fields(report: Report, asked: Asked) -> dict[str, object]:
    """Of the JSON answer."""
    unknown = report.unknown
    previous = report.previous
    return {
        "report": report.named.name,
        "since": _moment(report.since),
        "until": _moment(report.until),
        "timezone": zone_name(asked.zone),
        "by": report.by,
        "where": asked.where,
        "tags": asked.tags,
        "rows": [dict(zip(report.columns, row, strict=True)) for row in report.rows],
        "more_rows": report.more,
        "totals": dict(zip(report.measures, report.totals, strict=True)),
        "previous": previous
        and {
            "since": _moment(previous.since),
            "until": _moment(previous.until),
            "totals": dict(zip(report.named.columns, previous.totals, strict=True)),
        },
        **unknown.fields(),
        "unknown_cost_at_most_usd": unknown.bound_usd,
        "unknown_cost_without_bound": unknown.unbounded,
        "in_flight": report.in_flight,
    }


def _emit_table(report: Report, asked: Asked) -> None:
    columns, rows, totals = _for_eyes(report, asked.zone)
    if asked.form == "md":
        output.emit_markdown(columns, rows, totals)
        return
    output.emit_table(columns, rows, totals, drawn=_drawn(report) if report.named.name != "latency" else ())


def _for_eyes(report: Report, zone: tzinfo) -> tuple[list[str], list[list[object]], list[object] | None]:
    """Columns, rows and totals as they are told: shares as such, times in the zone, the time before as a change."""
    hidden = f"previous_{report.named.headline}"
    shown = [name for name in report.measures if name != hidden]
    tell = [_teller(name, zone) for name in shown]

    def told(cells: Sequence[object]) -> list[object]:
        found = dict(zip(report.measures, cells, strict=True))
        return [tell_one(found[name]) for name, tell_one in zip(shown, tell, strict=True)]

    width = len(report.by)
    rows = [[*row[:width], *told(row[width:])] for row in report.rows]
    totals = [*["total", *[""] * width][:width], *told(report.totals)] if width else None
    if report.named.name == "latency":
        return _measured(report.by, shown, rows, totals)
    return [*report.by, *shown], rows, totals


def _measured(
    by: Sequence[str], shown: Sequence[str], rows: list[list[object]], totals: list[object] | None
) -> tuple[list[str], list[list[object]], list[object] | None]:
    """Percentiles one measure a line: twenty-five columns are for programs."""
    lines: list[list[object]] = []
    for row in [*rows, *([totals] if totals else [])]:
        labels, found = row[: len(by)], dict(zip(shown, row[len(by) :], strict=True))
        for measured in MEASURED:
            change = [found[CHANGE] if measured == "latency_ms" else ""] if CHANGE in found else []
            figures = [found[f"{measured}_{figure}"] for figure in PERCENTILES]
            if figures[0]:
                lines.append([*labels, measured, *figures, *change])
    return [*by, "measured", *PERCENTILES, *([CHANGE] if CHANGE in shown else [])], lines, None


def _teller(name: str, zone: tzinfo) -> Callable[[object], object]:
    if name == CHANGE:
        return lambda value: None if value is None else output.Figure(f"{value:+}")
    if name.endswith(("_pct", "_p50", "_p90", "_p95", "_p99", "_worst")):
        return lambda value: output.Figure(str(value)) if isinstance(value, Decimal) else value
    if name.endswith("_seen"):
        return lambda value: _local(value, zone) if isinstance(value, datetime) else value
    return lambda value: value


def _local(moment: datetime, zone: tzinfo) -> str:
    return show_moment(moment.replace(tzinfo=UTC, microsecond=0), zone)


def _drawn(report: Report) -> list[tuple[str, list[str]]]:
    """What a terminal shows besides: each group's part, and its course."""
    if not charts.can_draw() or not report.by:
        return []
    place = report.columns.index(report.named.headline)
    figures = [row[place] for row in report.rows]
    known = [figure for figure in figures if isinstance(figure, int | Decimal)]
    drawn = []
    if report.trends and not set(report.by) & {"hour", "day", "week", "month"}:
        drawn.append(("course", [charts.sparkline(course) for course in report.trends]))
    if known:
        bars = [charts.bar(one if isinstance(one, int | Decimal) else None, max(known), _BAR) for one in figures]
        drawn.append((report.named.headline, bars))
    return drawn


def _compared(report: Report, zone: tzinfo) -> list[str]:
    if report.previous is None or not report.requests:
        return []
    headline = report.named.headline
    value = report.previous.totals[report.named.columns.index(headline)]
    change = report.totals[report.measures.index(CHANGE)]
    times = f"{show_moment(report.previous.since, zone)} to {show_moment(report.previous.until, zone)}"
    known = output.UNKNOWN if value is None else f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
    return [f"before, {times}: {headline} {known}" + ("" if change is None else f", now {change:+} %")]


def _moment(moment: datetime | None) -> str | None:
    return show_moment(moment) if moment else None


def _timed(report: Report) -> bool:
    return report.since is not None or report.until is not None
