"""What `fluxen top` shows, kept up to date: the ledger's last hour at first, then the journal as it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from fluxen.ledger.follow import Follower
from fluxen.ledger.history import Ended, answers
from fluxen.ledger.record import End
from fluxen.reports.burn import Budget, Outlook
from fluxen.reports.live import BY, WINDOWS, Live, View, past, pico

BUDGET_WINDOW = "5m"
"""Whose rate says how long a budget lasts: a minute jumps, an hour forgets too slowly."""
_SPENT = (
    "SELECT sum(cost_usd), count(*) FILTER (cost_usd IS NULL AND usage_source IS DISTINCT FROM 'none') "
    "FROM requests WHERE ts >= make_timestamp(?)"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is shown at one moment. live: some gateway writes this ledger. unknown: requests of unknown cost in the
    budget's period."""

    at: datetime
    view: View
    budget: Budget | None
    outlook: Outlook | None
    unknown: int
    live: bool


class Source:
    """Follows one ledger. `by` and `window` say what a snapshot shows, and may be changed."""

    def __init__(self, folder: Path, zone: tzinfo, budget: Budget | None, window: str, by: str) -> None:
        self.window = window
        self.by = by
        self._zone = zone
        self._follower = Follower(folder)
        self._live = Live()
        self._budget = budget
        self._start = datetime.fromtimestamp(0, UTC)  # of the period
        self._spent = 0
        self._unknown = 0

    def open(self, now: float) -> None:
        """What has been until now, once."""
        for _ in self._follower.poll():
            pass  # the ledger, asked as a whole, has it, too
        queries = [self._follower.asked(), past(now)]
        if self._budget is not None:
            self._start = self._budget.start(_moment(now))
            queries.append((_SPENT, [int(self._start.timestamp() * 1_000_000)]))
        told, recent, *spent = answers(self._follower.folder, *queries)
        self._follower.known(told)
        self._live.load(recent, now)
        for ((dollars, unknown),) in spent:
            self._spent, self._unknown = pico(dollars), unknown

    def close(self) -> None:
        self._follower.close()

    def poll(self, now: float) -> None:
        """Take in what is new."""
        if self._budget is not None and (start := self._budget.start(_moment(now))) > self._start:
            self._start, self._spent, self._unknown = start, 0, 0
        for event in self._follower.poll():
            if isinstance(event, Ended):
                self._live.ended(event.record, now)
                self._spend(event.record)

    def snapshot(self, now: float) -> Snapshot:
        view = self._live.view(now, self.window, self.by, [begun.record for begun in self._follower.in_flight])
        outlook = None
        if self._budget is not None:
            rate = view.totals[BUDGET_WINDOW].cost * 60 / WINDOWS[BUDGET_WINDOW]
            outlook = self._budget.outlook(self._spent, rate, _moment(now))
        at = _moment(now).astimezone(self._zone)
        return Snapshot(at, view, self._budget, outlook, self._unknown, self._follower.live)

    def key(self, pressed: str) -> bool:
        """Whether a key means anything here; then what is shown is another."""
        by = {name[0]: name for name in BY}.get(pressed)
        window = {"1": "1m", "5": "5m", "h": "1h"}.get(pressed)
        self.by, self.window = by or self.by, window or self.window
        return bool(by or window)

    def _spend(self, end: End) -> None:
        if end.ts < self._start.timestamp() * 1e6:
            return
        self._spent += end.cost_pico or 0
        self._unknown += end.cost_pico is None and end.usage_source != "none"


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)
