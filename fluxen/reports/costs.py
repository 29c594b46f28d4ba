"""What was spent: requests, tokens and exact dollars by any of the columns people ask for.

Money is summed as DECIMAL(38,12): whole pico-dollars, so the sum of the groups IS the total, on every run. A request
whose cost is unknown is counted, never added as 0; a group in which nothing is known to have cost anything while
something is unknown has no cost (NULL), because "$0" would be a claim. A refused request or an error costs nothing:
its usage source is `none`, and that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from fluxen.errors import QueryError

if TYPE_CHECKING:
    from fluxen.ledger.reader import Reader

DIMENSIONS: dict[str, str] = {
    "hour": "date_trunc('hour', ts)",
    "day": "date_trunc('day', ts)",
    "month": "date_trunc('month', ts)",
    "model": "coalesce(model, model_asked)",
    "model_asked": "model_asked",
    "upstream": "upstream",
    "credential": "credential",
    "key": "key_id",
    "team": "team",
    "project": "project",
    "route": "route",
    "endpoint": "endpoint",
    "dialect": "dialect",
    "stream": "stream",
    "status": "status",
    "error": "error",
    "finish": "finish",
    "source": "usage_source",
    "user_agent": "user_agent",
    "node": "node",
    "price_version": "price_version",
}
"""What `--by` takes, and the expression behind it; besides these `tag:NAME`."""

_TIMES = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}

_UNKNOWN = "cost_usd IS NULL AND usage_source IS DISTINCT FROM 'none'"

_MEASURES: dict[str, str] = {
    "requests": "count(*)",
    "errors": "count(*) FILTER (error IS NOT NULL OR status >= 400)",
    "input_tokens": "sum(input_tokens)",
    "cache_read_tokens": "sum(cache_read_tokens)",
    "cache_write_tokens": (
        "sum(coalesce(cache_write_5m_tokens + cache_write_1h_tokens, cache_write_5m_tokens, cache_write_1h_tokens))"
    ),
    "output_tokens": "sum(output_tokens)",
    "cost_usd": "sum(cost_usd)",
    "unknown_cost": f"count(*) FILTER ({_UNKNOWN})",
}
# Beyond what is shown: for the notes.
_HIDDEN: dict[str, str] = {
    "bound": f"sum(bound_usd) FILTER ({_UNKNOWN})",
    "unbounded": f"count(*) FILTER (({_UNKNOWN}) AND bound_usd IS NULL)",
    "lost": "count(*) FILTER (error = 'lost')",
}
MEASURES = tuple(_MEASURES)

Cell = str | int | bool | Decimal | None


@dataclass(frozen=True, slots=True)
class CostReport:
    """Groups, dearest first (by time: in order). `rows` follow `columns`, `totals` MEASURES; money is in dollars."""

    by: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    columns: tuple[str, ...]  # by + MEASURES
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[Cell, ...]  # of MEASURES, over all groups, also those a limit cut off
    more: int  # groups cut off by the limit
    unknown_bound: Decimal | None  # the most the requests of unknown cost can have cost, as far as it is bounded
    unknown_unbounded: int
    lost: int
    in_flight: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table can't say; the CLI puts it on stderr."""
        notes = []
        unknown = self.totals[MEASURES.index("unknown_cost")]
        if unknown:
            notes.append(f"+ {_many(unknown, 'request')} of unknown cost{self._bound()}")
        if self.lost:
            notes.append(f"{_many(self.lost, 'request')} whose outcome is lost: the process was killed")
        if self.in_flight:
            notes.append(f"{_many(self.in_flight, 'request')} in flight, not counted yet")
        if self.more:
            notes.append(f"{_many(self.more, 'more row')}; the total covers all")
        return tuple(notes)

    def _bound(self) -> str:
        if self.unknown_bound is None:
            return ", without a bound"
        most = f", at most ${self.unknown_bound.normalize():f}"
        return f"{most} ({self.unknown_unbounded} without a bound)" if self.unknown_unbounded else most


def costs(
    reader: Reader,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: Sequence[str] = ("model",),
    limit: int | None = None,
) -> CostReport:
    """Sum the requests that arrived in [since, until) by the given dimensions."""
    names = tuple(dict.fromkeys(by))
    expressions, parameters = _expressions(names)
    window, bounds = _window(since, until)
    groups = ", ".join(f"{expression} AS d{index}" for index, expression in enumerate(expressions))
    measures = ", ".join(f"{sql} AS {name}" for name, sql in (_MEASURES | _HIDDEN).items())
    grouped = f"GROUP BY {', '.join(str(index + 1) for index in range(len(names)))}" if names else ""
    # One statement, so that a request is either in flight or finished, not both or neither. The left join gives a
    # row even when there is no group.
    sql = (
        f"SELECT (SELECT count(*) FROM in_flight {window}) AS in_flight, g.* FROM (SELECT 1 AS one) AS o "
        f"LEFT JOIN (SELECT {groups}{', ' if names else ''}{measures} FROM requests {grouped}) AS g ON true"
    )
    found: list[tuple[Any, ...]] = reader.query(sql, [*bounds, *parameters], since=since, until=until).rows
    shown = [row[1:] for row in found if row[1 + len(names)]]
    width = len(names) + len(MEASURES)
    totals = tuple(_total(shown, len(names) + index, name) for index, name in enumerate(MEASURES))
    rows = sorted((_row(row, names, width) for row in shown), key=lambda row: _order(row, names))
    cut = rows if limit is None else rows[:limit]
    known_bounds = [row[width] for row in shown if row[width] is not None]
    return CostReport(
        by=names,
        since=since,
        until=until,
        columns=(*names, *MEASURES),
        rows=tuple(cut),
        totals=totals,
        more=len(rows) - len(cut),
        unknown_bound=sum(known_bounds, Decimal(0)) if known_bounds else None,
        unknown_unbounded=sum(row[width + 1] for row in shown),
        lost=sum(row[width + 2] for row in shown),
        in_flight=int(found[0][0]) if found else 0,
    )


def parse_by(text: str) -> tuple[str, ...]:
    """`model,day,tag:customer` → the dimensions; an unknown one is an error that lists what there is."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    _expressions(names)
    return names


def _expressions(names: Sequence[str]) -> tuple[list[str], list[object]]:
    expressions: list[str] = []
    parameters: list[object] = []
    for name in names:
        if name.startswith("tag:") and len(name) > 4:
            expressions.append("tags[?]")
            parameters.append(name.removeprefix("tag:"))
        elif name in DIMENSIONS:
            expressions.append(DIMENSIONS[name])
        else:
            raise QueryError(f"can't group by '{name}'", hint=f"group by {', '.join(DIMENSIONS)} or tag:NAME")
    return expressions, parameters


def _window(since: datetime | None, until: datetime | None) -> tuple[str, list[object]]:
    """The WHERE clause over open requests; the column is a TIMESTAMP without zone that means UTC."""
    conditions: list[str] = []
    bounds: list[object] = []
    for moment, condition in ((since, "ts >= ?"), (until, "ts < ?")):
        if moment is not None:
            conditions.append(condition)
            bounds.append(moment.astimezone(UTC).replace(tzinfo=None))
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), bounds


def _row(row: tuple[Any, ...], names: tuple[str, ...], width: int) -> tuple[Cell, ...]:
    """A group as it is reported: times as text, cost NULL where it would be a false zero."""
    labels = tuple(_label(name, value) for name, value in zip(names, row, strict=False))
    measures = dict(zip(MEASURES, row[len(names) : width], strict=True))
    measures["cost_usd"] = _known_cost(measures["cost_usd"], measures["unknown_cost"])
    return (*labels, *measures.values())


def _label(name: str, value: Any) -> Cell:
    if name in _TIMES and value is not None:
        return str(value.strftime(_TIMES[name]))
    return cast("Cell", value)


def _known_cost(total: Decimal | None, unknown: int) -> Decimal | None:
    return None if unknown and not total else total or Decimal(0)


def _total(rows: list[tuple[Any, ...]], index: int, name: str) -> Cell:
    """The sum of a measure over all groups; of token counts nobody reported: None."""
    known = [row[index] for row in rows if row[index] is not None]
    if name == "cost_usd":
        unknown = sum(row[index + 1] for row in rows)  # unknown_cost stands right behind it
        return _known_cost(sum(known, Decimal(0)), unknown)
    counted = name in ("requests", "errors", "unknown_cost")
    return sum(known) if known or counted else None


def _order(row: tuple[Cell, ...], names: tuple[str, ...]) -> tuple[object, ...]:
    """Time first, if that is how it is grouped; then the dearest; what has no known cost comes last."""
    cost = row[len(names) + MEASURES.index("cost_usd")]
    requests = row[len(names) + MEASURES.index("requests")]
    labels = tuple("\U0010ffff" if label is None else str(label) for label in row[: len(names)])
    first = labels[0] if names and names[0] in _TIMES else ""
    dearest = -cost if isinstance(cost, Decimal) else Decimal("Infinity")
    return (first, dearest, -requests if isinstance(requests, int) else 0, labels)


def _many(count: object, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
