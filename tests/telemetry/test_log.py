"""The gate that every line goes by: levels, formats, rates, bounds, masks; and a reader who does not read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.telemetry.log import KEPT, Log
from fluxen.telemetry.secrets import Secrets
from fluxen.telemetry.settings import Settings
from fluxen.telemetry.sink import PIPE_BUF, Sink

SECRET = "correct-horse-battery"


class Out:
    """A file as stderr, and what was written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("ab")

    def log(self, settings: Settings | None = None, **kwargs: Any) -> Log:
        return Log("worker 7", settings, Sink(self.file.fileno()), **kwargs)

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Out]:
    made = Out(tmp_path / "stderr")
    yield made
    made.file.close()


def test_a_line_is_one_json_object(out: Out) -> None:
    out.log().warning("something_happened", reason="it did", count=3, ratio=0.5, on=True, nothing=None, list=("a", "b"))
    [line] = out.lines
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "warning", "process": "worker 7", "event": "something_happened", "reason": "it did", "count": 3,
        "ratio": 0.5, "on": True, "nothing": None, "list": "a, b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "said"),
    [("debug", "debug info warning error"), ("info", "info warning error"), ("warning", "warning error"),
     ("error", "error")],
)  # fmt: skip
def test_levels(out: Out, level: str, said: str) -> None:
    log = out.log(Settings(level))
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
    assert [line["event"] for line in out.lines] == said.split()
    assert log.requests is (level in ("debug", "info"))


def test_console_for_people(out: Out) -> None:
    log = out.log(Settings(format="console"))
    log.warning("not_reached", reason="Connection refused", upstream="acme", hint="is it up?", more=None)
    log.error("failed", message="at once")
    log.info("fine")
    lines = [line.partition("Z ")[2] for line in out.text.splitlines()]
    assert lines == [
        'WARN  not reached: Connection refused  upstream=acme  hint="is it up?"  (worker 7)',
        "ERROR failed: at once  (worker 7)",
        "info  fine  (worker 7)",
    ]
    assert "\x1b" not in out.text, "a file is no terminal"


def test_nobody_writes_lines_of_his_own(out: Out) -> None:
    """Line ends, escape sequences and what turns the direction of writing come out as escapes, in either format."""
    for format in ("json", "console"):
        log = out.log(Settings(format=format))
        log.warning("odd", reason='a\nb\r\x1b[31mred\x00\x7f\x85\x9b\u2028\u202e"end', name="x\n{}")
    first, second = out.text.splitlines()
    assert json.loads(first)["reason"] == 'a\\nb\\r\\x1b[31mred\\x00\\x7f\\x85\\x9b\\u2028\\u202e"end'
    for line in (first, second):
        assert line.isprintable()


@given(
    text=st.text(st.characters(blacklist_categories=())),
    name=st.from_regex("[a-z]{1,8}", fullmatch=True),
    format=st.sampled_from(["json", "console"]),
)
def test_whatever_is_said_is_one_bounded_line(
    text: str, name: str, format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = Out(tmp_path_factory.mktemp("log") / "stderr")
    out.log(Settings(format=format)).warning("said", **{name: text * 30, "other": text * 300})
    out.file.close()
    raw = out.path.read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert len(raw) <= PIPE_BUF
    assert raw[:-1].decode().isprintable()
    if format == "json":
        assert json.loads(raw)["event"] == "said"


def test_many_fields_fit_as_well(out: Out) -> None:
    out.log().warning("wide", **{f"field{number}": "x" * 900 for number in range(20)})
    out.log().warning("wider", **{f"field{number}": "x" * 900 for number in range(200)})
    first, second = out.lines
    assert first["field19"] == "x" * 100
    assert (first["cut"], second["cut"], second["event"]) == (True, True, "wider")
    assert max(map(len, out.text.splitlines())) < PIPE_BUF


def fails(secret: str) -> None:
    raise ValueError(f"can't use {secret}")


def test_a_traceback_is_a_field(out: Out) -> None:
    log = out.log(secrets=Secrets([SECRET]))
    try:
        fails(SECRET)
    except ValueError as error:
        log.bug("crashed", error, task="none")
    [line] = out.lines
    assert line["task"] == "none"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("ValueError: can't use ***")
    assert SECRET not in out.text


def test_secrets_are_masked_wherever_they_stand(out: Out) -> None:
    for format in ("json", "console"):
        log = out.log(Settings(format=format), secrets=Secrets([SECRET, "p@ss/word+1"]))
        log.warning("a", reason=f"key {SECRET} refused", at=f"https://u:{SECRET}@host/")
        log.notice("b", about="x", reason=f"<{SECRET}>", list=[SECRET])
        log.warning("c", reason="?k=p%40ss%2Fword%2B1 p@ss/word+1")
        log.child("other").error("d", hint=SECRET)
    assert "correct" not in out.text
    assert "word" not in out.text
    assert out.text.count("***") == 2 * (2 + 2 + 2 + 1)


def test_a_mask_is_put_on_before_a_text_is_cut(out: Out) -> None:
    out.log(secrets=Secrets([SECRET])).warning("long", reason="x" * 990 + SECRET + "y" * 100)
    assert "corr" not in out.text


def test_secrets_of_configurations_before(out: Out) -> None:
    """Requests may still run with them."""
    log = out.log(secrets=Secrets(["first-secret"]))
    for now in ("second-secret", "third-secret", "third-secret"):
        log.change(Settings(), Secrets([now]))
    log.warning("a", reason="first-secret second-secret third-secret")
    log.child("b").warning("b", reason="first-secret second-secret third-secret")
    assert [line["reason"] for line in out.lines] == ["*** *** ***", "*** *** ***"]


def test_a_text_that_was_clean_is_looked_at_anew(out: Out) -> None:
    """What stands in the lines of requests is remembered; a reload may make a secret of it."""
    log = out.log(secrets=Secrets(["first-secret"]))
    assert log.clean("/v1/second-secret") == "/v1/second-secret"
    log.change(Settings(), Secrets(["second-secret"]))
    assert log.clean("/v1/second-secret") == "/v1/***"
    assert log.clean("/v1/first-secret") == "/v1/***"


def test_other_settings(out: Out) -> None:
    log = out.log(Settings("error", "json", requests=True))
    log.warning("not said")
    assert not log.requests
    log.change(Settings("info", "console", requests=True))
    assert log.requests
    log.warning("said")
    assert "WARN  said" in out.text
    assert "not said" not in out.text


def test_notices_come_at_a_bounded_rate(out: Out) -> None:
    log = out.log()
    for _ in range(100):
        log.notice("refused", about="a", code="a")
        log.notice("refused", about="b", code="b")
    assert [line["code"] for line in out.lines] == ["a", "b"]
    log.close()
    assert [(line["code"], line["more"]) for line in out.lines[2:]] == [("a", 98), ("b", 98)]


def test_what_was_held_back_is_said_a_second_later(out: Out) -> None:
    log = out.log()
    for _ in range(3):
        log.notice("refused", code="a")
    log.tick()
    assert len(out.lines) == 1
    deadline = time.monotonic() + 30
    while len(out.lines) < 2 and time.monotonic() < deadline:
        log.tick()
    assert [(line["code"], line.get("more")) for line in out.lines] == [("a", None), ("a", 1)]


def reader(descriptor: int) -> bytes:
    got = b""
    while select.select([descriptor], [], [], 0)[0] and (piece := os.read(descriptor, 1 << 20)):
        got += piece
    return got


@pytest.fixture
def pipe() -> Iterator[tuple[int, Log]]:
    reading, writing = os.pipe()
    sink = Sink(writing)
    yield reading, Log("worker 7", Settings(), sink)
    sink.close()
    os.close(reading)
    os.close(writing)


def test_nobody_reads(pipe: tuple[int, Log]) -> None:
    """What is not taken is kept up to a bound; then lines are lost, counted, and confessed as soon as somebody reads.
    None is cut, and their order stays."""
    reading, log = pipe
    count = 3 * KEPT // 1000
    for number in range(count):
        log.warning("said", number=number, text="x" * 900)
    assert log.dropped > count // 3
    got = b""
    while piece := reader(reading):
        got += piece
        log.tick()
    lines = [json.loads(line) for line in got.splitlines()]
    confessed = lines.pop()
    assert (confessed["event"], confessed["count"]) == ("log_lines_dropped", log.dropped)
    assert [line["number"] for line in lines] == list(range(count - log.dropped))


def test_nobody_is_there(pipe: tuple[int, Log]) -> None:
    reading, log = pipe
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, reading)
    os.close(nowhere)
    log.warning("said")
    log.tick()
    log.close()
    assert log.dropped == 1


def test_within_an_event_loop_lines_of_a_turn_go_out_together(pipe: tuple[int, Log]) -> None:
    reading, log = pipe

    async def turns() -> None:
        log.within(asyncio.get_running_loop())
        log.put(b"one\n")
        log.put(b"two\n")
        assert reader(reading) == b""
        await asyncio.sleep(0)
        assert reader(reading) == b"one\ntwo\n"
        log.put(b"three\n")
        log.warning("at once")
        assert reader(reading).startswith(b"three\n{")

    asyncio.run(turns())


def test_within_an_event_loop_it_tries_again_by_itself(pipe: tuple[int, Log]) -> None:
    reading, log = pipe

    async def turns() -> bytes:
        log.within(asyncio.get_running_loop())
        for number in range(400):
            log.put(b"%0999d\n" % number)
        await asyncio.sleep(0)
        got = b""
        async with asyncio.timeout(30):
            while got.count(b"\n") < 400:
                got += reader(reading)
                await asyncio.sleep(0)
        return got

    assert [int(line) for line in asyncio.run(turns()).splitlines()] == list(range(400))
    assert log.dropped == 0


def test_what_fails_unnoticed_in_an_event_loop_is_said(out: Out) -> None:
    log = out.log()

    async def turn() -> None:
        log.within(asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(fails, "it")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turn())
    [line] = out.lines
    assert (line["level"], line["event"]) == ("error", "bug")
    assert line["traceback"].endswith("ValueError: can't use it")


LIBRARIES = """
import logging, sys, threading, warnings
from fluxen.telemetry.libraries import follow
from fluxen.telemetry.log import Log

follow(Log("before"))
follow(Log("test"))
logging.getLogger("some.package").warning("something is %s", "odd")
logging.getLogger("some.package").info("nothing")
warnings.warn("old", DeprecationWarning, stacklevel=1)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("other").exception("it failed")
thread = threading.Thread(target=lambda: {}["key"], name="worker thread")
thread.start()
thread.join()
"""


def test_libraries_and_threads_speak_there_too(run_python: Callable[[str], str]) -> None:
    lines = [json.loads(line) for line in run_python(LIBRARIES).splitlines()]
    assert {line["process"] for line in lines} == {"test"}
    first, old, failed, thread = lines
    assert (first["event"], first["library"], first["message"]) == ("library", "some.package", "something is odd")
    assert old["library"] == "py.warnings"
    assert (failed["message"], failed["level"]) == ("it failed", "error")
    assert failed["traceback"].endswith("ZeroDivisionError: division by zero")
    assert (thread["event"], thread["thread"]) == ("crashed", "worker thread")
    assert thread["traceback"].endswith("KeyError: 'key'")
