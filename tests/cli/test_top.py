"""`fluxen top` beside a real gateway: what it says is what the ledger holds; the terminal is left as it was found."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli.live import BODY, FLUXEN, Scene, Watching
from cli.terminal import Terminal
from gateway.proc import maps
from gateway.rig import answer, until
from shared import Fluxen, require_program

ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"
PRICED = answer(
    b'{"id":"c","model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":1111,"completion_tokens":57,'
    b'"prompt_tokens_details":{"cached_tokens":1000}}}'
)
BUSY = answer(b'{"error":{"message":"slow down"}}', status=b"429 Too Many Requests")
EACH = Decimal("0.00012585")  # 111 × $0.15 + 1000 × $0.075 + 57 × $0.60 per million


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path / "scene")
    found.upstream.plays(PRICED)
    yield found
    found.close()


def top(scene: Scene, *args: str) -> str:
    done = subprocess.run(
        [*FLUXEN, "top", "--once", *args], env=scene.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def snapshot(scene: Scene, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(top(scene, "--json", *args))
    return found


def test_one_snapshot_says_what_the_ledger_holds(scene: Scene) -> None:
    """Of files and journal, of a running gateway and of one that is gone."""
    scene.call(3)
    scene.call(2, "bob")
    scene.upstream.plays(BUSY)
    scene.call(1, "bob")
    until(lambda: len(scene.rows()) == 6, "six rows")
    found = snapshot(scene, "--by", "key", "--window", "5m")
    assert list(found)[:3] == ["schema_version", "report", "at"]
    assert (found["live"], found["in_flight"], found["by"], found["window"]) == (True, 0, "key", "5m")
    alice, bob = found["rows"]
    assert (alice["key"], alice["requests"], alice["errors"], alice["input_tokens"]) == ("alice", 3, 0, 3333)
    assert (bob["key"], bob["requests"], bob["errors"], bob["output_tokens"]) == ("bob", 3, 1, 114)
    assert Decimal(alice["cost_usd"]) == 3 * EACH
    assert Decimal(found["windows"]["1h"]["cost_usd"]) == 5 * EACH
    assert Decimal(found["windows"]["5m"]["usd_per_minute"]) == EACH
    assert found["windows"]["1m"]["unknown_cost"] == 0
    scene.stop()
    subprocess.run([*FLUXEN, "ledger", "compact"], env=scene.env(), capture_output=True, check=True)
    again = snapshot(scene, "--by", "key", "--window", "5m")
    assert (again["rows"], again["live"]) == (found["rows"], False)
    assert "no gateway writes here now" in top(scene)


def test_unknown_cost_is_counted_and_not_zero(scene: Scene) -> None:
    scene.upstream.plays(answer(b'{"model":"nobodys-model","usage":{"prompt_tokens":5,"completion_tokens":5}}'))
    scene.call(2, body=BODY.replace(b"gpt-4o-mini", b"nobodys-model"))
    until(lambda: len(scene.rows()) == 2, "two rows")
    (row,) = snapshot(scene)["rows"]
    assert (row["model"], row["cost_usd"], row["usd_per_minute"], row["unknown_cost"]) == (
        "nobodys-model",
        None,
        None,
        2,
    )
    text = top(scene, "--budget", "1/month")
    assert re.search(r"^nobodys-model +– .* – +2$", text, re.MULTILINE)
    assert "budget $1/month: $0 spent + 2 requests of unknown cost, $1.0000 left; nothing is being spent" in text


def test_budgets(scene: Scene) -> None:
    scene.call(4)
    until(lambda: len(scene.rows()) == 4, "four rows")
    budget = snapshot(scene, "--budget", "0.001/month")["budget"]
    assert (Decimal(budget["spent_usd"]), Decimal(budget["left_usd"])) == (4 * EACH, Decimal("0.001") - 4 * EACH)
    assert abs(budget["seconds_left"] - (0.001 / float(4 * EACH) - 1) * 300) < 2
    assert budget["lasts"] is False
    assert "at the 5m rate" in top(scene, "--budget", "0.001/month")
    assert "over by $0.000403" in top(scene, "--budget", "0.0001/month")
    assert "lasts the month" in top(scene, "--budget", "999999/month")


def test_what_is_open_is_in_flight(scene: Scene) -> None:
    scene.upstream.raw(lambda connection: connection.read_request() and connection.drain())
    client = scene.connect()
    client.send(
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer key-of-alice-0123456789\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    )
    until(lambda: scene.query("SELECT * FROM in_flight"), "an open request")
    found = snapshot(scene)
    assert (found["in_flight"], found["rows"][0]["model"], found["rows"][0]["in_flight"]) == (1, "gpt-4o-mini", 1)
    client.close()
    until(scene.rows, "its end")
    assert snapshot(scene)["in_flight"] == 0


def test_in_a_pipe_a_snapshot_again_and_again(scene: Scene) -> None:
    """Each request counts once in what follows the first one, which the ledger knew already."""
    scene.call(2)
    watching = Watching(scene, "top", "--json", "--interval", "0.2", "--budget", "1/month")
    watching.lines(1)
    scene.call(3)
    with scene.load(1):
        watching.lines(8)
    total = len(scene.rows())

    def last() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(watching.out.rpartition("\n")[0].rpartition("\n")[2] or "{}")
        return found

    until(lambda: last()["windows"]["1h"]["requests"] >= total, "all requests")
    counts = [json.loads(line)["windows"]["1h"]["requests"] for line in watching.out.splitlines()]
    assert counts == sorted(counts)
    assert counts[-1] == total
    assert Decimal(last()["budget"]["spent_usd"]) == total * EACH
    assert "duckdb" not in maps(watching.process.pid)
    assert watching.stop() == 130
    assert watching.err == ""


def test_a_reader_that_is_gone_ends_it(scene: Scene) -> None:
    scene.call()
    command = [*FLUXEN, "top", "--interval", "3600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=scene.env())
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"fluxen top")
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def on_screen(scene: Scene, *args: str, columns: int = 120, **env: str) -> Terminal:
    terminal = Terminal([*FLUXEN, "top", "--interval", "0.2", *args], {**scene.env(), **env}, scene.folder, columns)
    terminal.wait_for("q quit")
    return terminal


def visible(terminal: Terminal) -> str:
    """The last whole screen, without what moves the cursor and colours."""
    screen = terminal.said.rpartition("fluxen top")[0].rpartition("fluxen top")[2]
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", screen)


def widest(screen: str) -> int:
    return max(len(line.rstrip()) for line in screen.split("\n"))


def wait_for_screen(terminal: Terminal, text: str) -> None:
    until(lambda: terminal._read() and text in visible(terminal), f"a screen with {text!r}", 30)


def wait_for_width(terminal: Terminal, columns: int) -> None:
    until(lambda: terminal._read() and widest(visible(terminal)) <= columns, f"a screen of {columns} columns", 30)


def test_the_screen_lives_and_obeys(scene: Scene) -> None:
    scene.call()
    terminal = on_screen(scene, "--budget", "50/day")
    wait_for_screen(terminal, "gpt-4o-mini-2024-07-18")
    assert "budget $50/day" in visible(terminal)
    terminal.type("k")
    wait_for_screen(terminal, "alice")
    scene.call(2, "bob")
    wait_for_screen(terminal, "bob")
    terminal.type("u")
    wait_for_screen(terminal, "upstream")
    terminal.type("h")
    wait_for_screen(terminal, "$ in 1h")
    terminal.type("\x1b[A\x1bOBxq")  # keys that mean nothing, and one that does, at once
    assert terminal.ends() == 0
    assert terminal.said.count(ENTER) == terminal.said.count(LEAVE) == 1
    assert terminal.said.rindex(SHOW) > terminal.said.rindex(HIDE)


def test_the_screen_follows_the_terminals_size(scene: Scene) -> None:
    scene.call()
    terminal = on_screen(scene, columns=120)
    wait_for_screen(terminal, "in tok/s")
    for columns in (60, 40):
        fcntl.ioctl(terminal._master, termios.TIOCSWINSZ, struct.pack("HHHH", 14, columns, 0, 0))
        wait_for_width(terminal, columns)
        assert "in tok/s" not in visible(terminal)
        for heading in ("$/min", "unknown $"):  # whole, over both tables
            assert visible(terminal).count(heading) == 2
    terminal.type("q")
    assert terminal.ends() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_the_terminal_as_it_was(scene: Scene, number: signal.Signals, code: int) -> None:
    terminal = on_screen(scene)
    before = termios.tcgetattr(terminal._master)
    assert not before[3] & termios.ECHO
    os.kill(terminal.pid, number)
    while LEAVE not in terminal.said:
        assert terminal._read()
    until(lambda: termios.tcgetattr(terminal._master)[3] & termios.ECHO, "the terminal to echo again")
    assert terminal.ends() == code
    assert "Traceback" not in terminal.said


def test_it_can_be_stopped_and_continued(scene: Scene) -> None:
    """By a shell with jobs: Ctrl-Z, then fg."""
    job = f"set -m; {shlex.join([*FLUXEN, 'top', '--interval', '0.2'])}; echo stands still; fg >/dev/null"
    terminal = Terminal([require_program("bash"), "-c", job], scene.env(), scene.folder, 120)
    terminal.wait_for("q quit")
    terminal.type("\x1a")
    while "q quit" not in terminal.said.partition("stands still")[2]:
        assert terminal._read(), terminal.said[-2000:]
    scene.call(1, "bob")
    terminal.type("k")
    wait_for_screen(terminal, "bob")
    terminal.type("q")
    assert terminal.ends() == 0
    before, _, after = terminal.said.partition("stands still")
    assert [(part.count(ENTER), part.count(LEAVE)) for part in (before, after)] == [(1, 1), (1, 1)]
    assert before.rindex(LEAVE) > before.rindex(ENTER)
    assert before.rindex(SHOW) > before.rindex(HIDE)


def test_without_colours(scene: Scene) -> None:
    scene.call()
    terminal = on_screen(scene, "--budget", "1/day", NO_COLOR="1")
    terminal.type("q")
    assert terminal.ends() == 0
    assert not re.search(r"\x1b\[(3|4|9|10)[0-9]m", terminal.said)
    dumb = Terminal([*FLUXEN, "top", "--once"], {**scene.env(), "TERM": "dumb"}, scene.folder)
    assert dumb.ends() == 0
    assert "\x1b" not in dumb.said


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--budget", "50"], 2, "is no budget"),
        (["--by", "colour"], 2, "colour"),
        (["--data-dir", "nowhere"], 5, "nowhere"),
    ],
)
def test_what_is_wrong_is_said(fluxen: Fluxen, tmp_path: Path, args: list[str], code: int, said: str) -> None:
    (tmp_path / "home" / ".local" / "share" / "fluxen" / "ledger" / "journal").mkdir(parents=True)
    done = fluxen("top", "--once", *args)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
