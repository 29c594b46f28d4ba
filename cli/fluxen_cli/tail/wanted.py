"""Which requests `fluxen tail` shows, and those of them that have ended when it starts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from fluxen.ledger import manifest as manifests
from fluxen.ledger.follow import Began, Follower
from fluxen.ledger.history import Ended, columns, ended_at, rows
from fluxen.reports.where import Where

Event = TypeVar("Event", bound=Began | Ended)


@dataclass(frozen=True, slots=True)
class Wanted:
    """since: arrived from then on. lines: so many of those that ended before, the newest; None: all."""

    where: Where
    errors: bool
    since: datetime | None
    lines: int | None

    def matches(self, event: Began | Ended) -> bool:
        """Apart from the time."""
        record = event.record
        if self.errors and (isinstance(event, Began) or (record.error is None and (record.status or 0) < 400)):  # type: ignore[union-attr]
            return False
        return not self.where or self.where.matches(columns(*event))

    def sql(self) -> tuple[str, list[object]]:
        """The same of a row, and the time, as a condition with its parameters."""
        condition, parameters = self.where.sql()
        if self.errors:
            condition += " AND (error IS NOT NULL OR status >= 400)"
        if self.since is not None:
            return f"ts >= make_timestamp(?) AND {condition}", [_micros(self.since), *parameters]
        return condition, parameters


def before(follower: Follower, wanted: Wanted) -> Iterator[list[Ended]]:
    """What has ended, in that order, in batches: from the journal alone where it has all that is wanted, else the
    ledger is asked as a whole. The follower's first poll is in it."""
    since = 0 if wanted.since is None else _micros(wanted.since)
    ended = (
        event
        for event in follower.poll()
        if isinstance(event, Ended) and event.record.ts >= since and wanted.matches(event)
    )
    newest = list(ended) if wanted.lines is None else heapq.nlargest(wanted.lines, ended, key=_arrival)
    for _ in ended:  # a poll is read to its end
        pass
    if wanted.lines == 0:
        return
    stored = max((file.max for file in manifests.load(follower.folder).files), default=-1)  # the last arrival in files
    complete = [event for event in newest if event.record.ts > stored]
    if since > stored or len(complete) == wanted.lines:
        yield in_order(complete)
        return
    answer = rows(follower.folder, *wanted.sql(), last=wanted.lines, first=[follower.asked()])
    follower.known(next(answer))
    yield from answer


def in_order(events: Iterable[Event]) -> list[Event]:
    """By the time they happened."""
    return sorted(events, key=_moment)


def _moment(event: Began | Ended) -> tuple[int, str]:
    return (ended_at(event.record) if isinstance(event, Ended) else event.record.ts), event.record.id


def _arrival(event: Ended) -> tuple[int, str]:
    return event.record.ts, event.record.id


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
