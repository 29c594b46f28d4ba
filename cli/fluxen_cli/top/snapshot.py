"""A snapshot as lines for people and as an object for programs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from typing import Final

from fluxen.reports.live import WINDOWS, Sums
from fluxen.reports.unknown import many
from fluxen_cli import output
from fluxen_cli.top.source import BUDGET_WINDOW, Snapshot

RATES: Final = ("$/min", "req/s", "in tok/s", "out tok/s", "errors", "latency")
_PICO: Final = Decimal(10**12)


def rates(sums: Sums, seconds: int) -> list[str]:
    """Of the sums of so many seconds. A rate in dollars of which nothing is known is unknown."""
    errors = f"{100 * sums.errors / sums.requests:.1f}%" if sums.requests else output.UNKNOWN
    latency = _time(sums.latency / sums.requests) if sums.requests else output.UNKNOWN
    return [
        _dollars(_rate(sums, seconds)),
        f"{sums.requests / seconds:,.1f}",
        f"{sums.input_tokens / seconds:,.0f}",
        f"{sums.output_tokens / seconds:,.0f}",
        errors,
        latency,
    ]


def headings(by: str, window: str) -> list[str]:
    return [by, *RATES, "in flight", "requests", f"$ in {window}", "unknown $"]


def body(snapshot: Snapshot, most: int | None = None) -> list[list[str]]:
    """A line for each group: what `headings` names. most: no more than so many; the last one says how many are left."""
    view = snapshot.view
    lines = [
        [
            output.UNKNOWN if line.name is None else output.visible(line.name),
            *rates(line.sums, WINDOWS[view.window]),
            str(line.in_flight or ""),
            f"{line.sums.requests:,}",
            _dollars(_cost(line.sums)),
            str(line.sums.unknown or ""),
        ]
        for line in itertools.islice(view.lines, most)
    ]
    if len(view.lines) > len(lines):
        lines.append([f"… {len(view.lines) - len(lines)} more", *[""] * (len(RATES) + 4)])
    return lines


def totals(snapshot: Snapshot) -> list[list[str]]:
    """A line for each window."""
    lines = []
    for name, sums in snapshot.view.totals.items():
        unknown = str(sums.unknown or "")
        lines.append([name, *rates(sums, WINDOWS[name]), f"{sums.requests:,}", _dollars(_cost(sums)), unknown])
    return lines


TOTALS: Final = ("last", *RATES, "requests", "$", "unknown $")


def title(snapshot: Snapshot) -> str:
    at = snapshot.at
    zone = "Z" if at.tzinfo is UTC else at.strftime(" %Z")
    quiet = "" if snapshot.live else "  (no gateway writes here now)"
    return f"fluxen top  {at:%Y-%m-%d %H:%M:%S}{zone}  {snapshot.view.in_flight} in flight{quiet}"


def notes(snapshot: Snapshot) -> list[str]:
    """What becomes of the budget."""
    budget, outlook = snapshot.budget, snapshot.outlook
    if budget is None or outlook is None:
        return []
    spent = f"budget ${_exact(budget.amount).normalize():f}/{budget.period}: ${_dollars(_exact(outlook.spent))} spent"
    if snapshot.unknown:
        spent += f" + {many(snapshot.unknown, 'request')} of unknown cost"
    if outlook.left <= 0:
        return [f"{spent}: over by ${_dollars(_exact(-outlook.left))}"]
    left = f"{spent}, ${_dollars(_exact(outlook.left))} left"
    if outlook.seconds is None:
        return [f"{left}; nothing is being spent"]
    if outlook.lasts:
        return [f"{left}: lasts the {budget.period} at the {BUDGET_WINDOW} rate"]
    return [f"{left}: gone in {span(outlook.seconds)} at the {BUDGET_WINDOW} rate"]


def span(seconds: float) -> str:
    """`2 d 3 h`, `1 h 29 min`, `4 min`, `12 s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    shown = parts[first : first + 2] if first < 2 else parts[first : first + 1]
    return " ".join(f"{count} {unit}" for count, unit in shown if count) or "0 s"


def as_text(snapshot: Snapshot) -> str:
    """For a pipe: a title, the windows, the groups."""
    view = snapshot.view
    groups = body(snapshot)
    lines = [title(snapshot), *notes(snapshot), *_columns([list(TOTALS), *totals(snapshot)])]
    if groups:
        lines += _columns([headings(view.by, view.window), *groups])
    return "".join(f"{line}\n" for line in lines)


def as_object(snapshot: Snapshot) -> dict[str, object]:
    """The same for programs: money is exact, in dollars."""
    view, outlook = snapshot.view, snapshot.outlook
    found: dict[str, object] = {
        "report": "top",
        "at": snapshot.at.astimezone(UTC),
        "live": snapshot.live,
        "in_flight": view.in_flight,
        "windows": {name: _object(sums, WINDOWS[name]) for name, sums in view.totals.items()},
        "by": view.by,
        "window": view.window,
        "rows": [
            {view.by: line.name, "in_flight": line.in_flight, **_object(line.sums, WINDOWS[view.window])}
            for line in view.lines
        ],
    }
    if snapshot.budget is not None and outlook is not None:
        found["budget"] = {
            "amount_usd": _exact(snapshot.budget.amount),
            "period": snapshot.budget.period,
            "ends": snapshot.budget.end(snapshot.at),
            "spent_usd": _exact(outlook.spent),
            "left_usd": _exact(outlook.left),
            "unknown_cost": snapshot.unknown,
            "seconds_left": None if outlook.seconds is None else round(outlook.seconds),
            "lasts": outlook.lasts,
        }
    return found


def _object(sums: Sums, seconds: int) -> dict[str, object]:
    rate = _rate(sums, seconds)
    return {
        "requests": sums.requests,
        "errors": sums.errors,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cost_usd": _cost(sums),
        "unknown_cost": sums.unknown,
        "estimated": sums.estimated,
        "usd_per_minute": rate if rate is None else rate.quantize(Decimal("1e-12")),
        "requests_per_second": round(sums.requests / seconds, 3),
        "input_tokens_per_second": round(sums.input_tokens / seconds, 3),
        "output_tokens_per_second": round(sums.output_tokens / seconds, 3),
        "mean_latency_ms": round(sums.latency / sums.requests) if sums.requests else None,
    }


def _cost(sums: Sums) -> Decimal | None:
    """Dollars; unknown when nothing of it is known."""
    return None if sums.unknown and not sums.cost else _exact(sums.cost)


def _rate(sums: Sums, seconds: int) -> Decimal | None:
    cost = _cost(sums)
    return None if cost is None else cost * 60 / seconds


def _exact(pico: int) -> Decimal:
    return Decimal(pico) / _PICO


def _time(ms: float) -> str:
    return f"{ms / 1000:.2f}s" if ms >= 1000 else f"{ms:.0f}ms"


def _dollars(value: Decimal | None) -> str:
    """As many digits as it takes to see it."""
    if value is None:
        return output.UNKNOWN
    if not value:
        return "0"
    size = abs(value)
    digits = 2 if size >= 100 else 4 if size >= Decimal("0.01") else 6
    if size < Decimal("0.0000005"):
        return "<0.000001"
    text = f"{value:,.{digits}f}"
    return text.removesuffix(".00") if digits == 2 else text


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
