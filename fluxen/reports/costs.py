"""What was spent: requests, tokens and exact dollars by any of the columns people ask for.

Money is summed as DECIMAL(38,12): whole pico-dollars, so the sum of the groups IS the total, on every run. A request
whose cost is unknown is counted, never added as 0; a group in which nothing is known to have cost anything while
something is unknown has no cost (NULL), because "$0" would be a claim. A refused request or an error costs nothing:
its usage source is `none`, and that is known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

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
    "cost_usd": (
        f"CASE WHEN count(*) FILTER ({_UNKNOWN}) > 0 AND coalesce(sum(cost_usd), 0) = 0 THEN NULL "
        "ELSE coalesce(sum(cost_usd), 0) END"
    ),
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
    tags: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> CostReport:
    """Sum the requests that arrived in [since, until), and have all of `tags`, by the given dimensions."""
    names = tuple(dict.fromkeys(by))
    expressions, parameters = _expressions(names)
    conditions, bounds = _window(since, until)
    tagged = ["tags[?] = ?"] * len(tags or {})
    wanted: list[object] = [word for pair in (tags or {}).items() for word in pair]
    groups = "".join(f"{expression} AS d{index}, " for index, expression in enumerate(expressions))
    measures = ", ".join(f"{sql} AS {name}" for name, sql in (_MEASURES | _HIDDEN).items())
    grouped = f"GROUP BY {', '.join(str(index + 1) for index in range(len(names)))}" if names else ""
    # One statement, so that a request is either in flight or finished, not both or neither. The left join gives a
    # row even when there is no group.
    sql = (
        f"SELECT (SELECT count(*) FROM in_flight {_where(conditions + tagged)}) AS in_flight, g.* "
        f"FROM (SELECT 1 AS one) AS o LEFT JOIN (SELECT {groups}{measures} FROM requests {_where(tagged)} {grouped}) "
        f"AS g ON true ORDER BY {_order(names)}"
    )
    given = [*bounds, *wanted, *parameters, *wanted]
    found: list[tuple[Any, ...]] = reader.query(sql, given, since=since, until=until).rows
    width = len(names) + len(MEASURES)
    groups_found = [row for row in found if row[1 + len(names)]]
    columns = list(zip(*groups_found, strict=True)) or [()] * (1 + width + len(_HIDDEN))
    rows = [row[1 : width + 1] for row in groups_found[:limit]]
    if not _TIMES.keys().isdisjoint(names):
        rows = _with_times_as_text(rows, names)
    known_bounds = [bound for bound in columns[1 + width] if bound is not None]
    return CostReport(
        by=names,
        since=since,
        until=until,
        columns=(*names, *MEASURES),
        rows=tuple(rows),
        totals=_totals(dict(zip(MEASURES, columns[1 + len(names) :], strict=False))),
        more=len(groups_found) - len(rows),
        unknown_bound=sum(known_bounds, Decimal(0)) if known_bounds else None,
        unknown_unbounded=sum(columns[2 + width]),
        lost=sum(columns[3 + width]),
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


def _window(since: datetime | None, until: datetime | None) -> tuple[list[str], list[object]]:
    """Conditions on open requests, and their parameters; the column is a TIMESTAMP without zone that means UTC."""
    conditions: list[str] = []
    bounds: list[object] = []
    for moment, condition in ((since, "ts >= ?"), (until, "ts < ?")):
        if moment is not None:
            conditions.append(condition)
            bounds.append(moment.astimezone(UTC).replace(tzinfo=None))
    return conditions, bounds


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _order(names: tuple[str, ...]) -> str:
    """Time first, if that is how it is grouped; then the dearest. What has no known cost comes last."""
    first = ["d0"] if names and names[0] in _TIMES else []
    labels = [f"d{index} NULLS LAST" for index in range(len(names))]
    return ", ".join([*first, "cost_usd DESC NULLS LAST", "requests DESC", *labels])


def _with_times_as_text(rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    places = [(index, _TIMES[name]) for index, name in enumerate(names) if name in _TIMES]

    @functools.cache
    def text(moment: datetime, form: str) -> str:
        return moment.strftime(form)

    shown = []
    for row in rows:
        cells = list(row)
        for index, form in places:
            cells[index] = text(cells[index], form)  # a row without a time can't be: `ts` is what files are sorted by
        shown.append(tuple(cells))
    return shown


def _totals(columns: dict[str, Sequence[Any]]) -> tuple[Cell, ...]:
    """The sums over all groups; of token counts nobody reported: None."""
    totals: dict[str, Cell] = {}
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        totals[name] = sum(known) if known or name in ("requests", "errors", "unknown_cost") else None
    spent = sum((value for value in columns["cost_usd"] if value is not None), Decimal(0))
    totals["cost_usd"] = spent if spent or not totals["unknown_cost"] else None
    return tuple(totals[name] for name in MEASURES)


def _many(count: object, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
