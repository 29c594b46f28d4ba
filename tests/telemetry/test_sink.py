"""Whoever reads the log, or doesn't: nothing waits. Real pipes, terminals, sockets and files."""

from __future__ import annotations

import os
import pty
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluxen.telemetry.sink import PIPE_BUF, Sink

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass


@pytest.fixture
def make() -> Iterator[Callable[[int], Sink]]:
    made: list[Sink] = []

    def sink(descriptor: int) -> Sink:
        made.append(Sink(descriptor))
        return made[-1]

    yield sink
    for one in made:
        one.close()


Make = Callable[[int], Sink]


def drained(descriptor: int) -> bytes:
    """What is there to read now."""
    got = b""
    while select.select([descriptor], [], [], 0)[0] and (piece := os.read(descriptor, 1 << 20)):
        got += piece
    return got


def test_a_pipe_that_nobody_reads_takes_what_it_holds_and_no_more(make: Make, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = make(writing)
    lines = LINE * 5000
    taken = sink.write(lines)
    assert 0 < taken < len(lines)
    assert taken % len(LINE) == 0, "whole lines"
    assert sink.write(LINE) == 0
    assert os.get_blocking(writing), "it is shared with whoever started us"
    assert drained(reading) == lines[:taken]
    assert sink.write(LINE) == len(LINE)
    assert drained(reading) == LINE


def test_lines_of_several_processes_do_not_mix(make: Make, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = make(writing)
    children = []
    for name in b"abcd":
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            lines = bytearray((b"%c" % name * (50 + name) + b"\n") * 3000)
            while lines:
                taken = sink.write(lines)
                if taken <= 0:
                    select.select([], [writing], [])
                else:
                    del lines[:taken]
            os._exit(0)
        children.append(pid)
    os.close(writing)
    got = b""
    # The sink of this process holds the pipe open as well, so its end is known by the count of lines.
    while got.count(b"\n") < 4 * 3000:
        assert select.select([reading], [], [], 30)[0]
        got += os.read(reading, 1 << 16)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    lines = got.split(b"\n")[:-1]
    assert len(lines) == 4 * 3000
    assert {bytes(line) for line in lines} == {b"%c" % name * (50 + name) for name in b"abcd"}


def test_nobody_at_the_other_end(make: Make, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = make(writing)
    os.close(reading)
    assert sink.write(LINE) == -1


def test_a_terminal_that_is_stopped(make: Make) -> None:
    master, slave = pty.openpty()
    try:
        sink = make(slave)
        assert sink.terminal
        taken = sink.write(LINE * 5000)
        assert 0 < taken < len(LINE) * 5000
        assert sink.write(LINE) == 0
        assert os.get_blocking(slave)
        assert drained(master).startswith(b"x" * 99)
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_as_of_the_journal(make: Make, kind: socket.SocketKind) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        sink = make(ours.fileno())
        assert sink.write(LINE) == len(LINE)
        assert theirs.recv(1000) == LINE
        taken = sink.write(LINE * 100_000)
        assert 0 < taken < len(LINE) * 100_000
        assert sink.write(LINE) == 0
        assert ours.getblocking()


def test_a_file(make: Make, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as file:
        sink = make(file.fileno())
        assert not sink.terminal
        assert sink.write(LINE * 5000) == len(LINE) * 5000
    assert (tmp_path / "log").read_bytes() == LINE * 5000


def test_a_full_disk(make: Make) -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        assert make(file.fileno()).write(LINE) == -1


def test_a_descriptor_that_is_closed(make: Make, pipe: tuple[int, int]) -> None:
    _, writing = pipe
    os.close(writing)
    assert make(writing).write(LINE) == -1


def test_a_line_is_written_whole_or_not_at_all_also_a_long_one(make: Make, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = make(writing)
    long = b"y" * (PIPE_BUF - 1) + b"\n"
    taken = sink.write(long * 100)
    assert taken > 0
    assert taken % PIPE_BUF == 0
    assert drained(reading) == long * (taken // PIPE_BUF)
