"""The worker's side of counting what no provider reported: the counter, a process of its own, is asked for it.

Counting would hold up the event loop: building the tables of a tokenizer takes 0.2 s, a prompt of 1 MB some 100 ms.
Nothing here waits or blocks. A question gets exactly one answer: the count, or None when it can't be counted, when the
counter did not answer in time, or when there are more questions than it may have to remember.

The counter may die at any moment. Its successor says so, and is asked once more what was open; a question over which
two of them died is given up.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import zstandard

from fluxen.gateway.questions import HELLO, LONGEST, Counted, Question, messages, read_begun, read_counted

Then = Callable[[Counted | None], None]

PATIENCE: Final = 2.0
"""Seconds that a count may take, and as many for each PATIENCE_BYTES; PATIENCE_MOST in all. An answer's last bytes wait
for it."""
PATIENCE_BYTES: Final = 4 * 1024 * 1024
PATIENCE_MOST: Final = 10.0
MOST_BYTES: Final = 48 * 1024 * 1024
"""Of all questions that are open."""
MOST_OPEN: Final = 2000
_DEATHS: Final = 2
_LOOK: Final = 0.1  # seconds between two looks at what is overdue
_BURST: Final = 4  # messages sent in one turn of the event loop, 60 KB each
_WARMED: Final = 64  # models of which the counter was told that they may come


@dataclass(slots=True)
class _Open:
    question: Question
    parts: Sequence[bytes]
    size: int
    then: Then
    begun: bool = False
    deaths: int = 0
    """How many counters ended while they counted it."""


class Counting:
    """Asks the counter. line: this worker's end of the socket pair; None: there is no counter, and no count."""

    def __init__(self, line: socket.socket | None, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._numbers = itertools.count((secrets.randbits(31) + 1) << 32)
        self._open: dict[int, _Open] = {}
        self._bytes = 0
        self._out: deque[Iterator[bytes]] = deque()
        self._unsent: bytes | None = None
        self._writing = False
        self._warmed: set[tuple[str, str, str | None]] = set()
        self._look: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self.pack = zstandard.ZstdCompressor(level=1).compress
        """Makes a body smaller that may have to be counted (Content-Encoding: zstd)."""
        self.given_up = 0
        """Questions without a count, for whatever reason."""

    def start(self) -> None:
        if self._line is not None:
            self._line.setblocking(False)
            self._loop.add_reader(self._line.fileno(), self._hear)

    def ask(self, question: Question, parts: Sequence[bytes], then: Then) -> bool:
        """Have it counted; `then` gets the count, later. False: nothing will come of it, and `then` is not called.

        question.due is set here; parts are the bytes that the question speaks of.
        """
        size = sum(map(len, parts))
        if self._line is None or len(self._open) >= MOST_OPEN or self._bytes + size > MOST_BYTES:
            self.given_up += 1
            return False
        due = time.monotonic() + min(PATIENCE * (1 + size / PATIENCE_BYTES), PATIENCE_MOST)
        asked = msgspec.structs.replace(question, due=due)
        number = next(self._numbers)
        self._open[number] = _Open(asked, parts, size, then)
        self._bytes += size
        self._say(messages(number, asked, parts))
        if self._look is None:
            self._look = self._loop.call_later(_LOOK, self._give_up_overdue)
        return True

    def warm(self, dialect: str, endpoint: str, model: str | None) -> None:
        """An answer may have to be counted soon: what is needed for it should be there by then."""
        like = (dialect, endpoint, model)
        if like not in self._warmed and self._line is not None:
            if len(self._warmed) >= _WARMED:
                self._warmed.clear()
            self._warmed.add(like)
            self._say(messages(1, Question(*like, 0.0, 0, 0, None, 0, 0, 0, False, True), ()))

    async def settled(self, limit: float) -> None:
        """Wait until every question has its answer, `limit` seconds at most: then none is to be expected."""
        if self._open:
            self._empty = self._loop.create_future()
            try:
                await asyncio.wait_for(self._empty, limit)
            except TimeoutError:
                for number in list(self._open):
                    self._answer(number, None)
        await asyncio.sleep(0)  # for those who are told

    def end(self) -> None:
        """No more of it."""
        if self._line is not None:
            self._loop.remove_reader(self._line.fileno())
            self._loop.remove_writer(self._line.fileno())
            self._line.close()
            self._line = None
        if self._look is not None:
            self._look.cancel()

    # --- the line

    def _say(self, out: Iterator[bytes]) -> None:
        self._out.append(out)
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as it is taken, and not much of it at once."""
        line = self._line
        if line is None:
            return
        try:
            for _ in range(_BURST):
                if self._unsent is None and not self._next():
                    if self._writing:
                        self._writing = False
                        self._loop.remove_writer(line.fileno())
                    return
                assert self._unsent is not None
                line.send(self._unsent)
                self._unsent = None
        except BlockingIOError:
            pass
        except OSError:
            self._lost(line)
            return
        if not self._writing:
            self._writing = True
            self._loop.add_writer(line.fileno(), self._flush)

    def _next(self) -> bool:
        """The next message to be sent, if there is one."""
        while self._out:
            self._unsent = next(self._out[0], None)
            if self._unsent is not None:
                return True
            self._out.popleft()
        return False

    def _hear(self) -> None:
        line = self._line
        while line is not None:
            try:
                message = line.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._lost(line)
                return
            if message == HELLO:
                self._ask_again()
            elif (number := read_begun(message)) is not None:
                if number in self._open:
                    self._open[number].begun = True
            else:
                self._answer(*read_counted(message))

    def _ask_again(self) -> None:
        """There is another counter, which knows nothing of what is open, or not all of it."""
        self._out.clear()
        self._unsent = None
        self._warmed.clear()
        for number, one in list(self._open.items()):
            one.deaths += one.begun
            one.begun = False
            if one.deaths >= _DEATHS:
                self._answer(number, None)
            else:
                self._say(messages(number, one.question, one.parts))

    def _lost(self, line: socket.socket) -> None:
        """The counter is gone, and so is the supervisor, who would start another."""
        self._loop.remove_reader(line.fileno())
        self._loop.remove_writer(line.fileno())
        line.close()
        self._line = None
        for number in list(self._open):
            self._answer(number, None)

    # --- the answers

    def _answer(self, number: int, counted: Counted | None) -> None:
        one = self._open.pop(number, None)
        if one is None:
            return  # given up, or asked by the worker before this one
        self._bytes -= one.size
        self.given_up += counted is None
        self._loop.call_soon(one.then, counted)  # what goes wrong there is nothing of ours
        if self._empty is not None and not self._open and not self._empty.done():
            self._empty.set_result(None)

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for number in [number for number, one in self._open.items() if one.question.due <= now]:
            self._answer(number, None)
        self._look = self._loop.call_later(_LOOK, self._give_up_overdue) if self._open else None
