"""What is being spent and served right now: sums over the last minute, five minutes and hour, by three dimensions.

Fed with requests as they end; it has no clock, no ledger and no screen. Each window is cut into sixty buckets, and its
sums are kept up to date as buckets leave it: what an event and a look cost does not depend on how much happened.
Money is whole pico-dollars. A request of unknown cost is counted, never added as 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from fluxen.ledger.history import DAY, ENDED, ended_at
from fluxen.ledger.record import Begin, End

WINDOWS: Final = {"1m": 60, "5m": 300, "1h": 3600}
"""Seconds."""
BY: Final = ("model", "key", "upstream")
BUCKETS: Final = 60


class Group(NamedTuple):
    """What a request belongs to; None: not known."""

    model: str | None
    key: str | None
    upstream: str | None


class Sums:
    """Sums over requests. input_tokens: all of them, cached or not. unknown: requests of unknown cost."""

    __slots__ = ("cost", "errors", "estimated", "input_tokens", "latency", "output_tokens", "requests", "unknown")

    def __init__(
        self,
        requests: int = 0,
        errors: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        unknown: int = 0,
        estimated: int = 0,
        latency: int = 0,
        cost: int = 0,
    ) -> None:
        self.requests = requests
        self.errors = errors
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cost = cost  # pico-dollars
        self.unknown = unknown
        self.estimated = estimated  # requests whose tokens are an estimate
        self.latency = latency  # ms, added up

    def add(self, other: Sums, sign: int = 1) -> None:
        self.requests += sign * other.requests
        self.errors += sign * other.errors
        self.input_tokens += sign * other.input_tokens
        self.output_tokens += sign * other.output_tokens
        self.cost += sign * other.cost
        self.unknown += sign * other.unknown
        self.estimated += sign * other.estimated
        self.latency += sign * other.latency

    def copy(self) -> Sums:
        sums = Sums()
        sums.add(self)
        return sums

    @classmethod
    def of(cls, end: End) -> Sums:
        """Of one request."""
        cached = (end.cache_read_tokens or 0) + (end.cache_write_5m_tokens or 0) + (end.cache_write_1h_tokens or 0)
        return cls(
            1,
            int(end.error is not None or (end.status or 0) >= 400),
            (end.input_tokens or 0) + cached,
            end.output_tokens or 0,
            int(end.cost_pico is None and end.usage_source != "none"),
            int(end.usage_source == "estimated"),
            end.latency_ms or 0,
            end.cost_pico or 0,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One group of a view: its name (None: not known), its sums, and how many of its requests are open."""

    name: str | None
    sums: Sums
    in_flight: int


@dataclass(frozen=True, slots=True)
class View:
    """A look at one window, the dearest group first. `totals`: of every window, by its name."""

    window: str
    by: str
    lines: list[Line]
    totals: dict[str, Sums]
    in_flight: int


class Live:
    """Sums over the windows. All times are seconds since 1970 and should not go back."""

    def __init__(self) -> None:
        self._windows = {name: _Window(seconds) for name, seconds in WINDOWS.items()}

    def ended(self, end: End, now: float) -> None:
        """A request that ended. When it did is what its row says, but not later than now."""
        sums = Sums.of(end)
        group = Group(end.model if end.model is not None else end.model_asked, end.key_id, end.upstream)
        self._add(min(ended_at(end) / 1e6, now), group, sums, now)

    def load(self, rows: Iterable[Sequence[object]], now: float) -> None:
        """The rows of `past`."""
        for second, model, key, upstream, cost, *counts in rows:
            group = Group(_text(model), _text(key), _text(upstream))
            sums = Sums(*(int(str(count)) for count in counts))
            sums.cost = pico(cost)
            self._add(min(float(str(second)), now), group, sums, now)

    def view(self, now: float, window: str, by: str, open_requests: Iterable[Begin] = ()) -> View:
        """What the window says now; groups in which nothing ended, but something is open, are in it, too."""
        totals: dict[str, Sums] = {}
        for name, one in self._windows.items():
            one.forget(now)
            totals[name] = one.total.copy()
        place = BY.index(by)
        sums: dict[str | None, Sums] = {}
        for whole, found in self._windows[window].groups.items():
            sums.setdefault(whole[place], Sums()).add(found)
        in_flight: dict[str | None, int] = {}
        for begin in open_requests:
            group = (begin.model_asked, begin.key_id, begin.upstream)[place]
            in_flight[group] = in_flight.get(group, 0) + 1
            sums.setdefault(group, Sums())
        lines = [Line(group, found, in_flight.get(group, 0)) for group, found in sums.items()]
        lines.sort(key=lambda line: (-line.sums.cost, -line.sums.requests, -line.in_flight, line.name or ""))
        return View(window, by, lines, totals, sum(in_flight.values()))

    def _add(self, at: float, group: Group, sums: Sums, now: float) -> None:
        for window in self._windows.values():
            window.add(at, group, sums, now)


class _Window:
    """The sums of the last so many seconds."""

    def __init__(self, seconds: int) -> None:
        self.groups: dict[Group, Sums] = {}
        self.total = Sums()
        self._step = seconds // BUCKETS
        self._buckets: deque[tuple[int, dict[Group, Sums]]] = deque()  # in order of their number

    def add(self, at: float, group: Group, sums: Sums, now: float) -> None:
        number = int(at) // self._step
        if number <= int(now) // self._step - BUCKETS:
            return
        bucket = self._bucket(number)
        for sink in (bucket, self.groups):
            if (into := sink.get(group)) is None:
                into = sink[group] = Sums()
            into.add(sums)
        self.total.add(sums)

    def forget(self, now: float) -> None:
        """Take out what is too old by now."""
        oldest = int(now) // self._step - BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            for group, sums in self._buckets.popleft()[1].items():
                self.total.add(sums, -1)
                into = self.groups[group]
                into.add(sums, -1)
                if not into.requests:
                    del self.groups[group]

    def _bucket(self, number: int) -> dict[Group, Sums]:
        """Mostly the newest one; a late row finds its place from the end."""
        place = len(self._buckets)
        while place and self._buckets[place - 1][0] > number:
            place -= 1
        if place and self._buckets[place - 1][0] == number:
            return self._buckets[place - 1][1]
        bucket: dict[Group, Sums] = {}
        self._buckets.insert(place, (number, bucket))
        return bucket


def past(now: float) -> tuple[str, list[object]]:
    """A query, and its parameters, for what ended in the longest window before `now`, as `load` takes it: by second in
    the last minute, and the coarser the older, so that a busy hour is not a million rows."""
    five, minute = WINDOWS["5m"] // BUCKETS, WINDOWS["1h"] // BUCKETS
    at = int(now)
    sql = f"""
WITH finished AS (
    SELECT ({ENDED}) // 1000000 AS moment, * FROM requests WHERE ts > make_timestamp(?) AND {ENDED} > ?
)
SELECT CASE WHEN moment // {minute} * {minute} + {minute} <= ? THEN moment // {minute} * {minute}
            WHEN moment // {five} * {five} + {five} <= ? THEN moment // {five} * {five} ELSE moment END,
    coalesce(model, model_asked), key_id, upstream, sum(cost_usd), count(*),
    count(*) FILTER (error IS NOT NULL OR status >= 400),
    sum(coalesce(input_tokens, 0) + coalesce(cache_read_tokens, 0) + coalesce(cache_write_5m_tokens, 0)
        + coalesce(cache_write_1h_tokens, 0))::BIGINT,
    sum(coalesce(output_tokens, 0))::BIGINT,
    count(*) FILTER (cost_usd IS NULL AND usage_source IS DISTINCT FROM 'none'),
    count(*) FILTER (usage_source = 'estimated'),
    sum(coalesce(latency_ms, 0))::BIGINT
FROM finished GROUP BY 1, 2, 3, 4
"""
    start = (at - WINDOWS["1h"] - minute) * 1_000_000
    # Nothing lasts longer than a day; by `ts` whole files are left out.
    return sql, [start - DAY, start, at - WINDOWS["5m"] - five, at - WINDOWS["1m"] - 1]


def pico(dollars: object) -> int:
    """Pico-dollars of a sum in dollars, as a query gives it; nothing is 0."""
    return int(dollars.scaleb(12)) if isinstance(dollars, Decimal) else 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)
