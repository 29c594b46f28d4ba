"""Who tries keys: failed attempts by source, so that guessing gets slow. Pure: the time is given.

Each source may fail BURST times; then one attempt in REFILL seconds. A bucket is one number, the moment at which it
would be full again. Bounded memory: beyond SOURCES those that have failed the least are forgotten.
"""

from __future__ import annotations

import heapq
from typing import Final

BURST: Final = 20
REFILL: Final = 3.0  # seconds for one more attempt


class Throttle:
    """Failed attempts of one worker process. Each worker counts for itself: N of them see N times as many."""

    SOURCES: Final = 10_000

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, source: str, now: float) -> float:
        """Seconds until this source may fail once more; 0.0 when it may now. now: seconds of a clock that only ever
        goes forward, the same for all calls."""
        full_at = self._full_at.get(source)
        if full_at is None:
            return 0.0
        if full_at <= now:
            del self._full_at[source]
            return 0.0
        return max(0.0, full_at - now - (BURST - 1) * REFILL)

    def failed(self, source: str, now: float) -> None:
        """Count a failed attempt."""
        full_at = self._full_at.get(source)
        if full_at is None and len(self._full_at) >= self.SOURCES:
            self._make_room(now)
        self._full_at[source] = max(full_at or now, now) + REFILL

    def _make_room(self, now: float) -> None:
        """Forget who has all his attempts again; if that are few, the half that is nearest to it."""
        kept = {source: full_at for source, full_at in self._full_at.items() if full_at > now}
        if len(kept) > self.SOURCES // 2:
            kept = dict(heapq.nlargest(self.SOURCES // 2, kept.items(), key=lambda item: item[1]))
        self._full_at = kept
