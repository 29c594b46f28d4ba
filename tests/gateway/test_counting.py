"""Questions to the counter and its answers: over real sockets, with a real process where it dies."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from gateway.rig import until
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway import counter
from fluxen.gateway.counter import Estimator, Lines
from fluxen.gateway.counting import MOST_BYTES, MOST_OPEN, Counting
from fluxen.gateway.questions import (
    HELLO,
    PIECE,
    Counted,
    Incoming,
    Question,
    begun_message,
    counted_message,
    messages,
    read_counted,
)
from fluxen.telemetry.log import Log


def asking(request: bytes = b"", head: bytes = b"", tail: bytes = b"") -> tuple[Question, list[bytes]]:
    asked = Question(
        "openai", "/v1/chat/completions", "gpt-4o", 0.0, len(request), 0, None, len(head), len(tail),
        len(head) + len(tail), True,
    )  # fmt: skip
    return asked, [request, head, tail]


# ── what goes over the line ──────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 3 * PIECE), max_size=5), st.integers(0, 3 * PIECE), st.integers(0, PIECE))
def test_what_is_sent_is_what_comes(body: list[int], head: int, tail: int) -> None:
    rng = random.Random(head)
    parts = [rng.randbytes(size) for size in (*body, head, tail)]
    question = Question("d", "/e", None, 1.5, sum(body), 0, "gzip", head, tail, head + tail + 9, False)
    incoming = Incoming()
    sent = list(messages(7 << 32, question, parts))
    assert all(len(message) < PIECE + 1024 for message in sent)
    tasks = [incoming.take(message) for message in sent]
    assert tasks[:-1] == [None] * (len(sent) - 1)
    task = tasks[-1]
    assert task is not None
    assert (task.number, task.question) == (7 << 32, question)
    assert task.parts() == (b"".join(parts[:-2]), parts[-2], parts[-1])


@given(st.lists(st.integers(0, 2 * PIECE), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_whoever_comes_in_the_middle_takes_no_half_for_a_whole(sizes: list[int], rng: random.Random) -> None:
    """Whatever is missing at the start, and whatever question is broken off and sent again."""
    contents = {number: rng.randbytes(size) for number, size in enumerate(sizes, 1)}
    sent: list[bytes] = []
    for number, content in contents.items():
        whole = list(messages(number, *asking(content)))
        sent += whole[: rng.randrange(len(whole) + 1)]
        sent += whole if rng.random() < 0.7 else []
    sent = sent[rng.randrange(len(sent) + 1) :]
    incoming = Incoming()
    for message in sent:
        task = incoming.take(message)
        if task is not None:
            assert task.parts()[0] == contents[task.number]


@given(st.lists(st.binary(max_size=60)))
def test_no_message_breaks_it(sent: list[bytes]) -> None:
    incoming = Incoming()
    for message in sent:
        incoming.take(message)
        read_counted(message)
    whole = list(messages(5, *asking(b"x" * 10)))
    assert [incoming.take(message) for message in whole][-1] is not None


def test_a_count_that_cannot_be_one_is_none() -> None:
    good = Counted(1, 2, 0, 0.1, 0.2)
    assert read_counted(counted_message(9, good)) == (9, good)
    assert read_counted(counted_message(9, None)) == (9, None)
    head = counted_message(9, None)
    for bad in (b"[-1,2,0,0.1,0.2]", b"[1,2,0,-0.1,0.2]", b"[1,2]", b"{}", b'["1",2,0,0.1,0.2]', b"[1e99,2,0,0.1,0.2]"):
        assert read_counted(head + bad) == (9, None)


# ── worker and counter ───────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """A counter in a process of its own, which can be killed and started again. Both ends of the line stay open here,
    as in the supervisor."""

    def __init__(self, lines: Lines, estimate: Estimator, lives: int = 1) -> None:
        """lives: how often it is started, if it dies by itself."""
        self._lines = lines
        self._estimate = estimate
        self._lives = lives
        self.pid = 0
        self.start()

    def start(self) -> None:
        self._life, self._held = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._held)
                self._lines.keep_only(None, counter=True)
                for _ in range(self._lives - 1):  # as in the supervisor, a process without threads forks it again
                    child = os.fork()
                    if child == 0:
                        break
                    os.waitpid(child, 0)
                counter.run(self._lines.of_counter, self._life, Log("counter"), self._estimate)
            finally:
                os._exit(0)

    def kill(self, how: int = signal.SIGKILL) -> int:
        """Its wait status."""
        if how:
            os.kill(self.pid, how)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._life)
        os.close(self._held)
        self.pid = 0
        return status


@contextmanager
def counting(lines: Lines, estimate: Estimator, lives: int = 1) -> Iterator[Process]:
    process = Process(lines, estimate, lives)
    try:
        yield process
    finally:
        lines.close()
        if process.pid:
            process.kill()


def by_length(question: Question, request: bytes, head: bytes, tail: bytes) -> Counted | None:
    """An estimator that says what it got."""
    if request == b"nothing":
        raise ValueError("can't be told")
    if request == b"bug":
        raise KeyError("a secret prompt")
    if request == b"dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if request == b"hangs":
        select.select([], [], [])
    return Counted(len(request), len(head), len(tail), 0.0, 0.0)


Work = Callable[[Counting, Callable[[object], None]], None]


def asked(line: socket.socket, work: Work, expected: int, patience: float = 20) -> list[object]:
    """Be a worker: do `work` with what to give answers to, and return those that have come once they are `expected`."""
    got: list[object] = []

    async def run() -> None:
        side = Counting(line.dup(), asyncio.get_running_loop())
        side.start()
        work(side, got.append)
        deadline = time.monotonic() + patience
        while len(got) < expected and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        side.end()

    asyncio.run(run())
    return got


def test_each_question_has_its_answer() -> None:
    lines = Lines(1)
    sizes = [0, 1, PIECE, PIECE + 1, 5 * PIECE + 3, 3_000_000, 10]

    def work(side: Counting, then: Callable[[object], None]) -> None:
        for size in sizes:
            assert side.ask(*asking(b"x" * size, b"y" * 3, b"z" * 2), then)

    with counting(lines, by_length):
        got = asked(lines.of_worker(0), work, len(sizes))
    assert sorted(one.input for one in got if isinstance(one, Counted)) == sorted(sizes)
    assert {(one.output, one.reasoning) for one in got if isinstance(one, Counted)} == {(3, 2)}


def test_what_cannot_be_told_is_none_and_harms_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(1)

    def work(side: Counting, then: Callable[[object], None]) -> None:
        for text in (b"nothing", b"bug", b"good"):
            side.ask(*asking(text), then)

    with counting(lines, by_length):
        got = asked(lines.of_worker(0), work, 3)
    assert sorted(map(str, got)) == sorted(["None", "None", str(Counted(4, 0, 0, 0.0, 0.0))])
    told = capfd.readouterr().err
    assert "KeyError" in told
    assert "secret" not in told


def test_a_question_that_kills_is_asked_twice_and_the_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxen.gateway.counting.PATIENCE", 10.0)  # two starts take time on a busy machine
    lines = Lines(1)

    def work(side: Counting, then: Callable[[object], None]) -> None:
        side.ask(*asking(b"dies"), then)
        for _ in range(5):
            side.ask(*asking(b"x" * 100_000), then)

    with counting(lines, by_length, lives=3):
        got = asked(lines.of_worker(0), work, 6)
    assert got.count(None) == 1
    assert [one.input for one in got if isinstance(one, Counted)] == [100_000] * 5


def test_a_counter_that_hangs_holds_nobody_for_ever() -> None:
    lines = Lines(1)

    def work(side: Counting, then: Callable[[object], None]) -> None:
        side.ask(*asking(b"hangs"), then)
        side.ask(*asking(b"behind it"), then)

    begun = time.monotonic()
    with counting(lines, by_length):
        assert asked(lines.of_worker(0), work, 2) == [None, None]
    assert time.monotonic() - begun < 10


def test_a_worker_does_not_get_the_answers_of_the_one_before() -> None:
    lines = Lines(1)

    def early(side: Counting, then: Callable[[object], None]) -> None:
        for _ in range(20):
            side.ask(*asking(b"x" * 200_000), then)

    def late(side: Counting, then: Callable[[object], None]) -> None:
        side.ask(*asking(b"yy"), then)

    with counting(lines, by_length):
        asked(lines.of_worker(0), early, 1)  # leaves with most of it on the way
        got = asked(lines.of_worker(0), late, 1)
    assert got == [Counted(2, 0, 0, 0.0, 0.0)]


def test_workers_have_their_own_lines() -> None:
    lines = Lines(3)

    def work(side: Counting, then: Callable[[object], None]) -> None:
        side.ask(*asking(b"abc"), then)

    with counting(lines, by_length):
        for number in range(3):
            assert asked(lines.of_worker(number), work, 1) == [Counted(3, 0, 0, 0.0, 0.0)]


def test_no_more_is_asked_than_can_be_remembered() -> None:
    """Nobody counts here: what is beyond the bound is told at once."""
    lines = Lines(1)
    taken: list[bool] = []

    def work(side: Counting, then: Callable[[object], None]) -> None:
        taken.extend(side.ask(*asking(b"x"), then) for _ in range(MOST_OPEN + 10))
        assert side.given_up == 10

    got = asked(lines.of_worker(0), work, MOST_OPEN)
    lines.close()
    assert taken == [True] * MOST_OPEN + [False] * 10
    assert got == [None] * MOST_OPEN


def test_nor_more_bytes_at_once() -> None:
    lines = Lines(1)
    large = bytes(MOST_BYTES // 2)
    taken: list[bool] = []

    def work(side: Counting, then: Callable[[object], None]) -> None:
        taken.extend(side.ask(*asking(request), then) for request in (large, large, b"x"))

    asked(lines.of_worker(0), work, 0)
    lines.close()
    assert taken == [True, True, False]


def test_what_is_answered_needs_no_room_any_more() -> None:
    """Else a worker that has counted enough in its life would never count again."""
    lines = Lines(1)
    large = bytes(MOST_BYTES // 2)
    taken: list[bool] = []

    def work(side: Counting, then: Callable[[object], None]) -> None:
        def again(counted: object) -> None:
            then(counted)
            if len(taken) < 4:
                taken.append(side.ask(*asking(large), again))

        taken.append(side.ask(*asking(large), again))

    with counting(lines, by_length):
        got = asked(lines.of_worker(0), work, 4)
    assert taken == [True] * 4
    assert got == [Counted(len(large), 0, 0, 0.0, 0.0)] * 4


def test_what_nobody_waits_for_is_not_counted() -> None:
    lines = Lines(1)
    line = lines.of_worker(0)
    line.settimeout(20)
    question, parts = asking(b"x")
    with counting(lines, by_length):
        assert line.recv(1000) == HELLO
        for number, seconds in ((3, -1), (4, 60)):
            for message in messages(number, msgspec.structs.replace(question, due=time.monotonic() + seconds), parts):
                line.send(message)
        heard = [line.recv(1000) for _ in range(2)]
    assert heard == [begun_message(4), counted_message(4, Counted(1, 0, 0, 0.0, 0.0))]


def test_what_was_sent_to_the_counter_before_is_not_counted() -> None:
    """It is asked again, if it is open."""
    lines = Lines(1)
    line = lines.of_worker(0)
    line.settimeout(20)
    question, parts = asking(b"x")
    question = msgspec.structs.replace(question, due=time.monotonic() + 60)
    for message in messages(3, question, parts):
        line.send(message)
    with counting(lines, by_length):
        assert line.recv(1000) == HELLO
        for message in messages(4, question, parts):
            line.send(message)
        assert line.recv(1000) == begun_message(4)


def test_without_a_counter_nothing_is_asked() -> None:
    async def run() -> bool:
        side = Counting(None, asyncio.get_running_loop())
        side.start()
        side.warm("openai", "/v1/chat/completions", "gpt-4o")
        taken = side.ask(*asking(b"x"), print)
        await side.settled(1)
        side.end()
        return taken

    assert asyncio.run(run()) is False


def test_the_counter_ends_when_all_that_might_ask_have() -> None:
    """Not before: workers finish what they do when the supervisor is gone, and may have something to ask."""
    lines = Lines(2)
    process = Process(lines, by_length)
    kept = lines.of_worker(1).dup()
    lines.close()
    os.close(process._held)
    process._held = os.open(os.devnull, os.O_RDONLY)
    assert kept.recv(1000) == HELLO
    question, parts = asking(b"late")
    for message in messages(3, msgspec.structs.replace(question, due=time.monotonic() + 60), parts):
        kept.send(message)
    assert kept.recv(1000) == begun_message(3)
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    kept.close()
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG), "the counter to end")
    assert process.kill(0) == 0
