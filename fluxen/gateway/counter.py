"""The counter: the process that counts tokens where no provider reported them, for all workers.

It has what they must not have: tables of 60 to 100 MB, loaded with the first question that needs them, and work of
many milliseconds at a time. Small questions go first, those that nobody waits for any more are dropped. Whatever one
question does to it (a bug, a text that takes for ever, memory), the others are asked again of its successor.
"""

from __future__ import annotations

import heapq
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from fluxen.analyzer.estimates import Answer, estimate, warm
from fluxen.gateway.meter import decode_whole
from fluxen.gateway.questions import HELLO, PIECE, Counted, Incoming, Question, Task, begun_message, counted_message
from fluxen.telemetry.log import Log

LONGEST: Final = 15.0
"""Seconds after which a count is not coming: the process ends itself, in the middle of whatever code that is."""
_DECODED: Final = 128 * 1024 * 1024  # bytes of a request's body, decoded
_ORPHANED: Final = 60.0  # seconds without a word, with the supervisor gone, until there is nobody left to ask
_TURN: Final = 256  # messages taken from one worker before the others have their turn

Estimator = Callable[[Question, bytes, bytes, bytes], Counted | None]
"""Counts: of a question, the request's body (decoded), and head and tail of the answer. ValueError: it can't."""


class Lines:
    """A socket pair for each worker, made before any fork. The supervisor keeps both ends, since both processes may be
    forked again; a child keeps what is its own."""

    def __init__(self, workers: int) -> None:
        self._pairs = [_pair() for _ in range(workers)]

    def of_worker(self, number: int) -> socket.socket:
        return self._pairs[number][0]

    @property
    def of_counter(self) -> list[socket.socket]:
        return [mine for _, mine in self._pairs]

    def keep_only(self, worker: int | None, *, counter: bool = False) -> None:
        """In a forked child."""
        for number, (its, mine) in enumerate(self._pairs):
            if number != worker:
                its.close()
            if not counter:
                mine.close()

    def close(self) -> None:
        """Nobody is forked any more."""
        for pair in self._pairs:
            for end in pair:
                end.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """Both keep messages apart, so that whoever comes later begins with a whole one."""
    if hasattr(socket, "SOCK_SEQPACKET") and not sys.platform.startswith("darwin"):
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * PIECE)
    return pair


class Counter:
    """Takes questions from lines, and answers them one by one."""

    def __init__(self, lines: Sequence[socket.socket], estimate: Estimator, log: Log) -> None:
        self._lines = {line.fileno(): (line, Incoming()) for line in lines}
        self._estimate = estimate
        self._log = log
        self._poll = select.poll()
        self._tasks: list[tuple[int, int, socket.socket, Task]] = []
        self._order = 0
        for line in lines:
            line.setblocking(False)
            _drop(line)
            self._poll.register(line.fileno(), select.POLLIN)
            self._send(line, HELLO)

    def run(self, life: int) -> None:
        """Until `life` ends and nobody is left who might ask."""
        self._poll.register(life, select.POLLIN)
        heard = time.monotonic()
        alive = True
        while self._lines and (alive or time.monotonic() - heard < _ORPHANED):
            for descriptor, _ in self._poll.poll(0 if self._tasks else None if alive else 1000):
                if descriptor == life:
                    self._poll.unregister(life)
                    alive = False
                else:
                    self._hear(descriptor)
                heard = time.monotonic()
            if self._tasks:
                _, _, line, task = heapq.heappop(self._tasks)
                self._answer(line, task)

    def _hear(self, descriptor: int) -> None:
        line, incoming = self._lines[descriptor]
        for _ in range(_TURN):
            try:
                message = line.recv(2 * PIECE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._poll.unregister(descriptor)
                del self._lines[descriptor]
                return
            task = incoming.take(message)
            if task is not None:
                self._order += 1
                heapq.heappush(self._tasks, (len(task.content), self._order, line, task))

    def _answer(self, line: socket.socket, task: Task) -> None:
        if not task.question.warm and task.question.due < time.monotonic():
            return
        if not task.question.warm:
            self._send(line, begun_message(task.number))
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        counted = self._counted(task)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not task.question.warm:
            self._send(line, counted_message(task.number, counted))

    def _counted(self, task: Task) -> Counted | None:
        question = task.question
        request, head, tail = task.parts()
        try:
            if request and question.encoding is not None:
                request = decode_whole(request, question.encoding.encode("latin-1", "replace"), _DECODED)
            return self._estimate(question, request, head, tail)
        except ValueError:
            return None
        except Exception as error:  # noqa: BLE001 - one question's bug must not cost the others their count
            kind = type(error).__name__  # and no more: its text may quote a prompt
            self._log.notice("count_failed", about=kind, reason=kind, dialect=question.dialect)
            return None

    def _send(self, line: socket.socket, message: bytes) -> None:
        try:
            line.send(message)
        except OSError:
            pass  # a worker that takes nothing, or is gone: it does not wait for ever


def _drop(line: socket.socket) -> None:
    """Take away what was sent to the counter before this one. Whatever is open of it is asked again; but a question
    over which that one died may be there twice, and would cost another one its life than those it is to cost."""
    try:
        for _ in range(_TURN):
            line.recv(2 * PIECE)
    except OSError:
        pass  # nothing more, or nobody there


def counted(question: Question, request: bytes, head: bytes, tail: bytes) -> Counted | None:
    """The real one. Loads what it needs when it first needs it."""
    if question.warm:
        warm(question.dialect, question.model)
        return None
    found = estimate(
        question.dialect, question.endpoint, question.model, request or question.rough or None,
        Answer(head, tail, question.total, question.streamed),
    )  # fmt: skip
    return Counted(found.input, found.output, found.reasoning, found.error, found.output_error)


def run(lines: Sequence[socket.socket], life: int, log: Log, estimator: Estimator = counted) -> None:
    """The body of the process. lines: its ends. life: the reading end of a pipe that the supervisor holds open."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    Counter(lines, estimator, log).run(life)
