"""Asking a named report: groups with their figures, totals, what is unknown, and the time before to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from fluxen.errors import QueryError
from fluxen.ledger.schema import IN_FLIGHT
from fluxen.reports import unknown
from fluxen.reports.dimensions import grouping
from fluxen.reports.named import REPORTS, Named
from fluxen.reports.period import previous_span
from fluxen.reports.query import TOTAL, Database, DuckDb, Row, Scope, in_flight, moment, run, run_flat
from fluxen.reports.unknown import Unknown, many
from fluxen.reports.where import Where

if TYPE_CHECKING:
    from fluxen.ledger.reader import Reader

Cell = str | int | bool | Decimal | datetime | None
Fill = Callable[[Database, Scope, Sequence[Row]], None]
"""Adds a column to groups that no query can find (rows have d0, d1, … and TOTAL)."""

CHANGE: Final = "change_pct"
_SHORTEST: Final = 60  # seconds, of a course
_OPEN: Final = frozenset(column.name for column in IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: requests that arrived in [since, until) and that `where` lets through, by dimensions.

    sort: a column, `:asc` or `:desc` behind it. compare: also the time before. slices: into how many equal parts of
    the time the course of each group is cut (0: not at all). now: the end of a time without one, aware.
    """

    by: tuple[str, ...] | None = None  # None: as the report has it
    since: datetime | None = None
    until: datetime | None = None
    where: Where = field(default_factory=Where)
    zone: tzinfo = UTC
    sort: str | None = None
    limit: int | None = None
    compare: bool = False
    slices: int = 0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Previous:
    """The time that was compared with, and its totals."""

    since: datetime
    until: datetime
    totals: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Groups in order. `rows` follow `columns` (by + measures), `totals` `measures`; money is in dollars, times of
    requests are UTC without saying so."""

    named: Named
    by: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    measures: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[Cell, ...]  # over all groups, also those a limit cut off
    more: int  # groups cut off by the limit
    unknown: Unknown
    in_flight: int
    previous: Previous | None = None
    trends: tuple[tuple[Decimal | None, ...], ...] = ()  # of each row

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.by, *self.measures)

    @property
    def requests(self) -> int:
        """How many requests it is about; of `errors`: how many failed."""
        count = self.totals[self.measures.index(self.named.counts)]
        assert isinstance(count, int)
        return count

    @property
    def lost(self) -> int:
        return self.unknown.lost

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table can't say."""
        notes = list(self.unknown.notes)
        if self.in_flight:
            notes.append(f"{many(self.in_flight, 'request')} in flight, not counted yet")
        if self.more:
            notes.append(f"{many(self.more, 'more row')}; the total covers all")
        return tuple(notes)


def ask(reader: Reader, name: str, question: Question, fill: Fill | None = None) -> Report:
    """One report of the embedded ledger; everything in it is of one moment. fill: see Fill."""
    before = _previous(question)
    since = before[0] if before else question.since
    return reader.run(
        lambda connection: answer(DuckDb(connection), REPORTS[name], question, fill), since=since, until=question.until
    )


def answer(database: Database, named: Named, question: Question, fill: Fill | None = None) -> Report:
    """The report, of any database."""
    names = named.by if question.by is None else question.by
    end = question.until or question.now + timedelta(days=1)
    by = grouping(names, database.tag, question.zone, question.since, end)
    scope = Scope(question.since, question.until, question.where, by)
    groups, totals = _figures(database, named, scope, fill)
    measures = named.columns
    before = _previous(question)
    previous = None
    if before is not None:
        earlier = Scope(*before, question.where, by)
        earlier_groups, earlier_totals = _figures(database, named, earlier, fill)
        _compare(named, groups if not by.timed else (), earlier_groups, len(by.names))
        _compare(named, [totals], [earlier_totals], 0)
        previous = Previous(*before, tuple(earlier_totals[name] for name in measures))
        measures = (*measures, f"previous_{named.headline}", CHANGE)
    _sort(groups, named, by.names, measures, question.sort, by_time=by.by_time)
    shown = groups[: question.limit]
    labels = by.labels()
    return Report(
        named=named,
        by=by.names,
        since=question.since,
        until=question.until,
        measures=measures,
        rows=tuple((*labels(_key(row, len(by.names))), *(row.get(name) for name in measures)) for row in shown),  # type: ignore[arg-type]
        totals=tuple(totals.get(name) for name in measures),
        more=len(groups) - len(shown),
        unknown=_unknown(database, scope, totals),
        in_flight=in_flight(database, scope, _OPEN),
        previous=previous,
        trends=_trends(database, named, scope, shown, question) if question.slices else (),
    )


def _unknown(database: Database, scope: Scope, totals: Row) -> Unknown:
    if not totals.get("unknown_cost", 1) and not totals.get("estimated", 1):
        return Unknown(totals["cost_usd"])  # the report has seen that there is nothing to name
    whole = Scope(scope.since, scope.until, scope.where, grouping(()))
    known = totals if "cost_usd" in totals else run(database, "spent", whole)[0]
    return unknown.from_rows(run(database, "unknown", whole), known["cost_usd"])


def _figures(database: Database, named: Named, scope: Scope, fill: Fill | None) -> tuple[list[Row], Row]:
    """Groups that have something to show, and the totals."""
    rows = run(database, named.name, scope)
    if fill is not None:
        fill(database, scope, rows)
    for row in rows:
        row.update({name: work_out(row) for name, work_out in named.derived.items()})
    totals = next(row for row in rows if row[TOTAL])
    if not scope.by.names:
        return [dict(totals)] if totals[named.counts] else [], totals
    return [row for row in rows if not row[TOTAL] and row[named.counts]], totals


def _previous(question: Question) -> tuple[datetime, datetime] | None:
    if not question.compare or question.since is None:
        return None
    return previous_span(question.since, question.until or question.now, question.zone)


def _compare(named: Named, rows: Sequence[Row], earlier: Sequence[Row], width: int) -> None:
    """Put the figure of the time before, and the change in per cent, beside the report's own."""
    known = {_key(row, width): row[named.headline] for row in earlier}
    for row in rows:
        old = known.get(_key(row, width))
        row[f"previous_{named.headline}"] = old
        row[CHANGE] = change(row[named.headline], old)


def change(new: object, old: object) -> Decimal | None:
    """In per cent, to a tenth; None where nothing was before or something is not known."""
    if new is None or old is None or not old:
        return None
    grown = (Decimal(str(new)) - Decimal(str(old))) * 100 / Decimal(str(old))
    return grown.quantize(Decimal("0.1"), ROUND_HALF_EVEN)


def _key(row: Row, width: int) -> tuple[Any, ...]:
    return tuple(row[f"d{index}"] for index in range(width))


def _sort(
    rows: list[Row], named: Named, names: tuple[str, ...], measures: Sequence[str], sort: str | None, *, by_time: bool
) -> None:
    """By time in order, else the largest headline first; then most requests, then by name. Unknown comes last."""
    keys = {name: f"d{index}" for index, name in enumerate(names)}
    columns = [(named.headline, True), ("requests", True), *((label, False) for label in keys.values())]
    if by_time:
        columns.insert(0, ("d0", False))
    if sort is not None:
        name, _, direction = sort.partition(":")
        if direction not in ("", "asc", "desc") or (name not in keys and name not in measures):
            raise QueryError(
                f"can't sort by '{sort}'", hint=f"sort by {', '.join((*names, *measures))}; :asc or :desc behind it"
            )
        columns.insert(0, (keys.get(name, name), direction == "desc" or (not direction and name not in keys)))
    for column, down in reversed(columns):  # sorting is stable: the first column comes last
        lacking = [row for row in rows if row.get(column) is None]
        known = [row for row in rows if row.get(column) is not None] if lacking else rows
        known.sort(key=itemgetter(column), reverse=down)
        rows[:] = known + lacking if lacking else known


def _trends(
    database: Database, named: Named, scope: Scope, shown: Sequence[Row], question: Question
) -> tuple[tuple[Decimal | None, ...], ...]:
    """The course of the headline for each group shown; () when the time is too short to have one."""
    since, until = scope.since, scope.until
    if since is None or until is None:
        (span,) = run(database, "span", scope)
        if span["first"] is None:
            return ()
        since = since or span["first"].replace(tzinfo=UTC)
        until = until or span["last"].replace(tzinfo=UTC) + timedelta(microseconds=1)
    seconds = (until - since).total_seconds()
    if seconds < _SHORTEST:
        return ()
    more: Mapping[str, str] = {"count": str(question.slices), "seconds": repr(seconds), "measure": named.trend}
    asked = Scope(since, until, scope.where, scope.by, more)
    width = len(scope.by.names)
    courses: dict[tuple[Any, ...], list[Decimal | None]] = {}
    for row in run_flat(database, "trend", asked, ("slice",), [moment(since)]):
        course = courses.setdefault(_key(row, width), [None] * question.slices)
        if row["value"] is not None:
            course[min(row["slice"], question.slices - 1)] = Decimal(str(row["value"]))
    nothing: list[Decimal | None] = [None] * question.slices
    return tuple(tuple(courses.get(_key(row, width), nothing)) for row in shown)
