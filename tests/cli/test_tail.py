"""`fluxen tail` as a process beside a real gateway: each request once, whatever happens; clean at its end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.live import FLUXEN, Scene, Watching
from cli.terminal import Terminal
from gateway.proc import maps, workers
from gateway.rig import answer, until
from shared import Fluxen

from fluxen.ledger.schema import COLUMNS, IN_FLIGHT

BUSY = answer(b'{"error":{"message":"slow down"}}', status=b"429 Too Many Requests")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path / "scene")
    yield found
    found.close()


def tail(scene: Scene, *args: str, code: int = 0) -> str:
    """What `fluxen tail --no-follow` prints."""
    done = subprocess.run(
        [*FLUXEN, "tail", "--no-follow", *args],
        env=scene.env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def shown(text: str) -> list[object]:
    return [one["id"] for one in objects(text)]


@pytest.mark.parametrize("args", [["--since", "1h"], ["-n", "100000"]])
def test_each_request_once_through_kills_restarts_and_compaction(scene: Scene, args: list[str]) -> None:
    """Segments of a second, deleted as soon as they are in a file; workers killed; the gateway killed and stopped. It
    starts in the middle of all that."""
    scene.call()
    with scene.load():
        until(lambda: scene.query("SELECT count(*) AS n FROM requests")[0]["n"] > 100, "some requests")
        watching = Watching(scene, "tail", "--json", *args)
        watching.lines(watching.out.count("\n") + 400)
        os.kill(workers(scene.process.pid, 2)[0], signal.SIGKILL)
        watching.lines(watching.out.count("\n") + 400)
        scene.kill()
        scene.start()
        watching.lines(watching.out.count("\n") + 400)
    scene.stop()
    scene.start()
    last = scene.call()[0].id
    until(lambda: last in watching.out, "the last request")
    rows = Counter((str(row["id"]), row["error"]) for row in scene.query("SELECT id, error FROM requests"))
    until(lambda: watching.out.count("\n") >= len(rows), "all requests, lost ones among them", 30)
    assert Counter((one["id"], one["error"]) for one in objects(watching.out)) == rows
    assert watching.stop() == 130
    assert watching.err == ""


def test_lines_for_people_and_programs(scene: Scene) -> None:
    scene.call(2)
    scene.upstream.plays(BUSY)
    scene.call(1, "bob", b'{"model":"o\\u001b[31mdd"}')
    until(lambda: len(scene.rows()) == 3, "three rows")
    lines = tail(scene).splitlines()
    assert [re.split(r" {2,}", line)[1:5] for line in lines] == [
        ["200", "alice", "m-1", "openai"], ["200", "alice", "m-1", "openai"], ["429", "bob", "o\\x1b[31mdd", "openai"],
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z +200 +alice .+ 11 +0 +7 +\S+ +\d\.\d{3}s", lines[0])
    records = objects(tail(scene, "--json"))
    rows = scene.rows()
    assert [one["id"] for one in records] == [str(row["id"]) for row in rows]
    for one, row in zip(records, rows, strict=True):
        assert list(one) == ["schema_version", "event", *(column.name for column in COLUMNS)]
        assert (one["schema_version"], one["event"]) == (1, "end")
        for name in ("model", "status", "input_tokens", "usage_raw", "latency_ms", "node", "worker", "key_id"):
            assert one[name] == row[name], name
        assert str(one["ts"]).removesuffix("Z") == row["ts"].isoformat()


def test_what_ended_before(scene: Scene) -> None:
    """From the journal, from files, from both: the last ones, or all since a moment."""
    ids = [one.id for one in scene.call(5)]
    assert shown(tail(scene, "--json")) == ids
    assert shown(tail(scene, "--json", "-n", "2")) == ids[-2:]
    assert tail(scene, "--json", "-n", "0") == ""
    moment = scene.rows()[2]["ts"].isoformat() + "Z"
    scene.stop()
    subprocess.run([*FLUXEN, "ledger", "compact"], env=scene.env(), capture_output=True, check=True)
    assert scene.query("SELECT count(*) AS n FROM requests")[0]["n"] == 5
    assert not list((scene.ledger / "journal").iterdir())
    assert shown(tail(scene, "--json", "-n", "2")) == ids[-2:]
    scene.start()
    ids += [one.id for one in scene.call(12, "bob")]
    until(lambda: len(scene.rows()) == 17, "all rows")
    assert shown(tail(scene, "--json")) == ids[-10:]
    assert shown(tail(scene, "--json", "-n", "14")) == ids[-14:]
    assert shown(tail(scene, "--json", "--since", moment)) == ids[2:]
    assert shown(tail(scene, "--json", "--since", "1h")) == ids
    assert shown(tail(scene, "--json", "--since", "1h", "-n", "3")) == ids[-3:]
    assert shown(tail(scene, "--json", "--key", "alice")) == ids[:5]
    assert shown(tail(scene, "--json", "--key", "ali*|carol", "-n", "1")) == ids[4:5]


def test_filters_hold_for_what_was_and_what_comes(scene: Scene) -> None:
    good = scene.call()[0].id
    scene.upstream.plays(BUSY)
    bad = scene.call(1, "bob")[0].id
    until(lambda: len(scene.rows()) == 2, "two rows")
    for wanted, args in (
        ([bad], ["--errors"]),
        ([good], ["--model", "m-1"]),
        ([bad], ["--filter", "status>=400", "--upstream", "openai"]),
        ([good], ["--where", "tokens>17,key=alice"]),
        ([], ["--filter", "status>=400", "--key", "alice"]),
        ([good, bad], ["--filter", "key=alice|bob"]),
    ):
        assert shown(tail(scene, "--json", *args)) == wanted, args
    watching = Watching(scene, "tail", "--json", "-n", "1", "--errors")
    assert shown("\n".join(watching.lines(1))) == [bad]
    scene.upstream.plays(answer(), BUSY)
    first, second = scene.call(2)
    assert (first.status, second.status) == (200, 429)
    assert shown("\n".join(watching.lines(2))) == [bad, second.id]
    watching.stop()


def test_begins_are_shown_once(scene: Scene) -> None:
    """Of what was open when it started, and of what begins then."""
    scene.upstream.raw(lambda connection: connection.read_request() and connection.drain())
    sent = b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sent += b"Authorization: Bearer key-of-alice-0123456789\r\nContent-Length: 37\r\n\r\n"
    body = b'{"model":"gpt-4o-mini","messages":[]}'
    client = scene.connect()
    client.send(sent + body)
    until(lambda: scene.query("SELECT * FROM in_flight"), "an open request")
    command = [*FLUXEN, "tail", "--json", "--begins", "--no-follow"]
    done = subprocess.run(command, capture_output=True, text=True, env=scene.env(), check=True)
    assert [(one["event"], one["key_id"]) for one in objects(done.stdout)] == [("begin", "alice")]
    watching = Watching(scene, "tail", "--json", "--begins")
    (begun,) = objects("\n".join(watching.lines(1)))
    assert list(begun) == ["schema_version", "event", *(column.name for column in IN_FLIGHT)]
    assert (begun["event"], begun["model_asked"], begun["key_id"]) == ("begin", "gpt-4o-mini", "alice")
    client.close()
    (_, over) = objects("\n".join(watching.lines(2)))
    assert (over["event"], over["id"]) == ("end", begun["id"])
    with scene.connect() as other:
        other.send(sent + body)
        until(lambda: scene.query("SELECT * FROM in_flight"), "another open request")
    third, fourth = objects("\n".join(watching.lines(4)))[2:]
    assert (third["event"], fourth["event"]) == ("begin", "end")
    assert third["id"] == fourth["id"] != begun["id"]
    watching.stop()


def test_a_reader_that_is_gone_ends_it_at_once(scene: Scene) -> None:
    """Without one more request: nobody would ever write into the pipe."""
    scene.call()
    process = subprocess.Popen([*FLUXEN, "tail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=scene.env())
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"alice" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("command", ["tail", "top", "top --interval 3600"])
def test_nobody_ever_read_it(scene: Scene, command: str) -> None:
    scene.call()
    line = f"exec {shlex.join(FLUXEN)} {command} >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=scene.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_end_it_without_a_word(scene: Scene, number: signal.Signals, code: int) -> None:
    scene.call()
    watching = Watching(scene, "tail")
    watching.lines(1)
    assert watching.stop(number) == code
    assert watching.err == ""


def test_it_stays_light(scene: Scene) -> None:
    """It asked the ledger for what is in files, and yet has no DuckDB."""
    scene.call()
    watching = Watching(scene, "tail", "-n", "1000")
    watching.lines(1)
    assert "duckdb" not in maps(watching.process.pid)
    watching.stop()


def test_on_a_terminal(scene: Scene) -> None:
    scene.call()
    scene.upstream.plays(BUSY)
    scene.call(1, "bob")
    until(lambda: len(scene.rows()) == 2, "two rows")
    env = {**scene.env(), "PYTHONUNBUFFERED": "1"}
    terminal = Terminal([*FLUXEN, "tail"], env, scene.folder, columns=80)
    terminal.wait_for("429")
    terminal.type("\x03")
    assert terminal.ends() == 130
    heading, good, bad = (line for line in terminal.said.replace("\r", "").split("\n") if line.strip("^C"))
    assert heading.startswith("\x1b[1mtime     status key")
    assert re.fullmatch(r"\d\d:\d\d:\d\d +200 alice +m-1 +openai +11 +7 +\S+ +\d\.\d{3}s", good)
    assert bad.startswith("\x1b[33m")
    assert "Traceback" not in terminal.said
    plain = Terminal([*FLUXEN, "tail", "--no-follow"], {**env, "NO_COLOR": "1"}, scene.folder, columns=140)
    assert plain.ends() == 0
    assert "\x1b" not in plain.said
    assert "cached" in plain.said


def test_times_are_of_the_zone_that_is_asked_for(scene: Scene) -> None:
    scene.call()
    (utc,), (there,) = tail(scene).splitlines(), tail(scene, "--timezone", "Asia/Kathmandu").splitlines()
    assert "+05:45" in there
    assert utc.split(" ")[1:] != []
    assert there[29:].split()[1:] == utc[24:].split()[1:]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--filter", "colour=red"], 2, "there is no 'colour'"),
        (["--since", "soon"], 2, "is no moment"),
        (["--timezone", "Europe/Berlyn"], 2, "Europe/Berlin"),
        (["--data-dir", "nowhere"], 5, "nowhere"),
    ],
)
def test_what_is_wrong_is_said(fluxen: Fluxen, tmp_path: Path, args: list[str], code: int, said: str) -> None:
    (tmp_path / "home" / ".local" / "share" / "fluxen" / "ledger" / "journal").mkdir(parents=True)
    done = fluxen("tail", *args)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
