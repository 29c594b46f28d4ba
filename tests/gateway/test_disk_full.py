"""The disk takes no more bytes: requests are served and what is missing is counted, or nothing is served unrecorded.

Twice: with a small tmpfs that really is full (root only), and with a limit on the size of the workers' files, which
any user can set.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, PROVIDER_KEY, Answer, Connection, Gateway, Request, Upstream, request, until
from shared import missing

from fluxen.ledger import store

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
ledger: {{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0, on_failure: {on_failure}}}
log: {{requests: false}}
"""

Fill = Callable[[Gateway], Callable[[], None]]
"""Makes the disk full; what is returned makes room again."""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        missing(f"needs to mount a small tmpfs ({mount.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def ballast(folder: Path) -> Callable[[], None]:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path.unlink


def small_files(size: int) -> Fill:
    def fill(server: Gateway) -> Callable[[], None]:
        [worker] = proc.workers(server.process.pid)
        before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (size, before[1]))
        return lambda: resource.prlimit(worker, resource.RLIMIT_FSIZE, before) and None

    return fill


@pytest.fixture(params=["tmpfs", "file size", "stderr as well"])
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fill]:
    """600 bytes hold no segment's first line, but some notices; 0 bytes hold no notice either."""
    if request.param == "tmpfs":
        with small_disk(tmp_path / "gateway-0" / "data"):
            yield lambda server: ballast(server.data_dir)
    else:
        yield small_files(600 if request.param == "file size" else 0)


def end(server: Gateway) -> None:
    """It ends as always; its notices speak of errors."""
    server.stopped = True
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.stderr(), server.stderr()
    assert "restarting" not in server.stderr(), server.stderr()


def notice(server: Gateway) -> str | None:
    """What it says of the lines that could not be written."""
    return next((str(line["reason"]) for line in server.logged("ledger") if line["lost"] > 0), None)


def ask_until(server: Gateway, wanted: Callable[[Answer], bool], what: str) -> int:
    """Ask until an answer is as wanted; how often."""
    count = 0

    def ask() -> bool:
        nonlocal count
        count += 1
        return wanted(server.ask(request()))

    until(ask, what, 30)
    return count


def test_requests_are_served_and_what_is_missing_is_counted(
    gateway: StartGateway, upstream: Upstream, fill: Fill
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, on_failure="serve"))
    for _ in range(10):
        assert server.ask(request()).status == 200
    assert len(server.rows(10)) == 10

    held, go_on = [], []

    def hold(connection: Connection, _: Request) -> None:
        held.append(connection)
        until(lambda: go_on, "the disk to be full")
        connection.send(OK)

    upstream.plays(hold)
    with server.connect() as begun:
        begun.send(request())  # its begin is written, its end will not be
        until(lambda: server.query("SELECT 1 FROM in_flight"), "the begin line")
        make_room = fill(server)
        mute = not server_may_write(server)
        upstream.plays(OK)
        for _ in range(200):
            assert server.ask(request()).status == 200, "a full disk is no reason not to serve"
        go_on.append(True)
        answer = begun.answer()
        assert answer is not None
        assert answer.status == 200
        assert server.ask(request()).status == 200  # by now the other's end has been tried
    if not mute:
        line = until(lambda: notice(server), "a notice")
        assert "No space left" in line or "File too large" in line
    make_room()
    ids = []
    for _ in range(10):
        answer = server.ask(request())
        assert answer.status == 200
        ids.append(answer.id)
    until(lambda: accounted(server) == 222, "the journal to own up")
    for one in ids:
        assert server.row(one)["status"] == 200, "what came when there was room is there"
    found = store.verify(server.ledger)
    assert not found.problems
    assert found.missing > 100
    assert found.in_flight == 0
    end(server)
    assert accounted(server) == 222
    assert len(server.query("SELECT 1 FROM requests WHERE error = 'lost'")) >= 1


def server_may_write(server: Gateway) -> bool:
    """Whether the worker's notices can be written."""
    [worker] = proc.workers(server.process.pid)
    return resource.prlimit(worker, resource.RLIMIT_FSIZE)[0] != 0


def accounted(server: Gateway) -> int:
    """Requests that have a row, and those that are confessed to have none."""
    found = store.verify(server.ledger)
    return found.rows + found.missing


SERVED = "SELECT 1 FROM requests WHERE status = 200 OR error = 'lost'"
"""A request may be begun and served when the disk fills: its row says `lost`."""


def test_nothing_is_served_unrecorded(gateway: StartGateway, upstream: Upstream, fill: Fill) -> None:
    server = gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, on_failure="refuse"))
    for _ in range(3):
        assert server.ask(request()).status == 200
    make_room = fill(server)
    ask_until(server, lambda answer: answer.status == 503, "it to refuse")
    seen = len(upstream.requests)
    for _ in range(20):
        answer = server.ask(request())
        assert (answer.status, answer.complete) == (503, True)
        assert b"ledger_unavailable" in answer.body
    assert len(upstream.requests) == seen, "it was refused and sent"
    assert server.ask(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200
    make_room()
    ask_until(server, lambda answer: answer.status == 200, "it to serve again")
    until(
        lambda: len(server.query(SERVED)) == len(upstream.requests),
        "a row for all that was served",
    )
    end(server)
    assert not store.verify(server.ledger).problems


def test_a_disk_that_is_full_from_the_start(gateway: StartGateway, upstream: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "gateway-0" / "data"
    with small_disk(folder):
        make_room = ballast(folder)
        server = gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, on_failure="serve"))
        for _ in range(5):
            assert server.ask(request()).status == 200
        line = until(lambda: notice(server), "a notice")
        assert "No space left on device" in line
        make_room()
        asked = 5 + ask_until(server, lambda _: bool(server.query("SELECT 1 FROM requests")), "a row")
        until(lambda: accounted(server) == asked, "the journal to own up")
        assert store.verify(server.ledger).missing >= 5
        end(server)
        assert accounted(server) == asked
