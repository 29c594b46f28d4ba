"""Today and this month on one screen: what somebody asks who was just called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Final

from fluxen.reports.named import REPORTS
from fluxen.reports.period import parse_moment, previous_span
from fluxen.reports.query import Database, DuckDb
from fluxen.reports.report import Question, Report, answer
from fluxen.reports.where import Where

if TYPE_CHECKING:
    from fluxen.ledger.reader import Reader

TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Period:
    """A time until now, and as far into the one before it."""

    name: str
    costs: Report
    latency: Report


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything is of one moment. models, keys: the dearest of this month; errors: the most frequent of today."""

    now: datetime
    periods: tuple[Period, ...]
    models: Report
    keys: Report
    errors: Report


def summarise(reader: Reader, now: datetime, zone: tzinfo, where: Where | None = None) -> Summary:
    """Of the embedded ledger. now: aware."""
    month = parse_moment("this-month", now, zone)
    before = previous_span(month, now, zone)
    return reader.run(
        lambda connection: summary(DuckDb(connection), now, zone, where or Where()),
        since=before[0] if before else month,
    )


def summary(database: Database, now: datetime, zone: tzinfo, where: Where) -> Summary:
    """The same, of any database."""
    today, month = (parse_moment(word, now, zone) for word in ("today", "this-month"))

    def ask(name: str, since: datetime, by: tuple[str, ...], *, compare: bool = False) -> Report:
        limit = TOP if by else None
        return answer(
            database, REPORTS[name], Question(by, since, None, where, zone, limit=limit, compare=compare, now=now)
        )

    periods = tuple(
        Period(name, ask("costs", since, (), compare=True), ask("latency", since, (), compare=True))
        for name, since in (("today", today), ("this month", month))
    )
    return Summary(
        now,
        periods,
        models=ask("costs", month, ("model",)),
        keys=ask("costs", month, ("key",)),
        errors=ask("errors", today, REPORTS["errors"].by),
    )
