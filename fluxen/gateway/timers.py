"""One coarse timer wheel per worker serves every timeout (100 ms steps).

A `call_later` and its cancel cost 1.4 µs; a request would need six. Here arming is two attribute writes: an item
carries the tick it is due at, and the wheel looks at it when its slot comes round. An item whose deadline moved on
meanwhile is put into a later slot, so postponing (every chunk of a stream does) is one attribute write.

An item never sits further ahead than LOOK_AHEAD: a closed connection is let go of after 5 s at the latest,
whatever its timeout was.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK_SECONDS = 0.1
LOOK_AHEAD = 50  # ticks


class Timed(Protocol):
    """What the wheel can hold. `due` is the tick of the deadline, 0 when disarmed; `slot` belongs to the wheel."""

    due: int
    slot: int

    def timed_out(self) -> None:
        """The deadline has passed."""


def ticks(seconds: float) -> int:
    """Seconds as whole ticks, rounded up, and one more: the tick at hand may be nearly over. Never early."""
    return max(1, -int(-seconds // TICK_SECONDS)) + 1


class TimerWheel:
    """Deadlines of one event loop. `now` is the current tick: read it to postpone an armed item cheaply."""

    def __init__(self) -> None:
        self.now = 1
        self._slots: dict[int, list[Timed]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._origin = 0.0

    def arm(self, item: Timed, after: int) -> None:
        """Have `item.timed_out()` called `after` ticks from now, unless postponed or disarmed (`item.due = 0`)."""
        due = self.now + after
        item.due = due
        slot = due if after < LOOK_AHEAD else self.now + LOOK_AHEAD
        if not self.now < item.slot <= slot:
            item.slot = slot
            waiting = self._slots.get(slot)
            if waiting is None:
                self._slots[slot] = [item]
            else:
                waiting.append(item)

    def advance(self, to: int) -> None:
        """Go on to tick `to` and fire what is due."""
        while self.now < to:
            self.now += 1
            for item in self._slots.pop(self.now, ()):
                if item.slot != self.now:
                    continue  # moved to an earlier slot, which has been served
                item.slot = 0
                if item.due == 0:
                    continue
                if item.due > self.now:
                    self.arm(item, item.due - self.now)
                else:
                    item.due = 0
                    item.timed_out()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._origin = loop.time() - self.now * TICK_SECONDS
        self._handle = loop.call_later(TICK_SECONDS, self._tick, loop)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_later(TICK_SECONDS, self._tick, loop)
        self.advance(int((loop.time() - self._origin) / TICK_SECONDS))
