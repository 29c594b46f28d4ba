"""How the processes start, end, and die: nobody's request is dropped on the way, and every one of them has its row."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
import uvloop
from gateway import proc
from gateway.conftest import StartGateway, environment
from gateway.rig import (
    KEY,
    OK,
    OK_BODY,
    PROVIDER_KEY,
    Client,
    Connection,
    Gateway,
    Request,
    Upstream,
    chunked,
    request,
    until,
)

from fluxen.analyzer.usage import Reading
from fluxen.config.load import load_config
from fluxen.gateway.accountant import Accountant
from fluxen.gateway.bindings import DoorPlan, bind
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.listener import Listener
from fluxen.gateway.snapshot import build
from fluxen.gateway.worker import Worker
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import End

CONFIG = """
version: 1
server:
  bind_address: "127.0.0.1:{port}"
  workers: {workers}
  shutdown_timeout_ms: {shutdown}
  max_connections: {most}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
ledger: {{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}}
"""

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"


def config(upstream: Upstream, *, workers: int = 1, shutdown: int = 30_000, most: int = 1024, port: int = 0) -> str:
    return CONFIG.format(
        url=upstream.url, provider=PROVIDER_KEY, key=KEY, workers=workers, shutdown=shutdown, most=most, port=port
    )


def end(server: Gateway, patience: float = 60) -> None:
    """SIGTERM to a gateway in which a process was killed: it still ends with 0 and without a traceback."""
    server.stopped = True
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(patience) == 0, server.stderr()
    assert "Traceback" not in server.stderr(), server.stderr()


class Callers:
    """Makes client connections, and closes them at the end of the test."""

    def __init__(self) -> None:
        self.made: list[Client] = []

    def __call__(self, server: Gateway, count: int) -> list[Client]:
        made = [server.connect() for _ in range(count)]
        self.made += made
        return made


@pytest.fixture
def callers() -> Iterator[Callers]:
    made = Callers()
    yield made
    for client in made.made:
        client.close()


def begin_streams(clients: list[Client]) -> list[Client]:
    for client in clients:
        client.send(request())
    for client in clients:
        data = b""
        while b"begun" not in data:
            data += client.read()
            assert not client.ended
    return clients


def rest(client: Client) -> bytes:
    data = b""
    while b"\r\n0\r\n\r\n" not in data and not client.ended:
        data += client.read()
    return data


class Streams:
    """A play: streams that begin at once and end when told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, connection: Connection, _: Request) -> None:
        connection.send(SSE)
        assert self.go_on.wait(120)
        connection.send(chunked(b"ended"))


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def compacted(server: Gateway) -> list[tuple[Any, ...]]:
    """(status, error) of what is in Parquet, as other people's tools see it."""
    if not (server.ledger / "fluxen.duckdb").exists():
        return []
    with duckdb.connect(str(server.ledger / "fluxen.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT status, error FROM requests ORDER BY id").fetchall()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that stand still, as on a machine that is too busy."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


# ── the end that somebody asked for ──────────────────────────────────────────────────────────────────────────────


def to_supervisor(server: Gateway) -> None:
    server.process.send_signal(signal.SIGTERM)


def to_all(server: Gateway) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does


@pytest.mark.parametrize("ask", [to_supervisor, to_all], ids=["SIGTERM", "Ctrl-C"])
def test_what_runs_is_finished(
    gateway: StartGateway, upstream: Upstream, callers: Callers, ask: Callable[[Gateway], None]
) -> None:
    server = gateway(config(upstream, workers=2))
    streams = Streams()
    upstream.plays(OK)
    assert server.ask(request()).status == 200
    upstream.plays(streams)
    clients = begin_streams(callers(server, 6))
    [idle] = callers(server, 1)
    ask(server)
    until(lambda: refuses(server.port), "it to stop accepting")
    assert idle.closes(), "an idle connection holds nothing up"
    assert server.process.poll() is None
    streams.go_on.set()
    for client in clients:
        assert rest(client) == b"5\r\nended\r\n0\r\n\r\n"
        client.close()
    assert server.process.wait(60) == 0
    assert [row["status"] for row in server.rows()] == [200] * 7
    assert compacted(server) == [(200, None)] * 7, "the journal was not drained"
    assert server.query("SELECT * FROM in_flight") == []


def test_what_does_not_end_in_time_is_cut(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    server = gateway(config(upstream, workers=2, shutdown=700))
    streams = Streams()
    upstream.plays(streams)
    clients = begin_streams(callers(server, 4))
    waits = threading.Event()

    def never(connection: Connection, _: Request) -> None:
        waits.set()
        connection.drain(60)

    upstream.plays(never)
    [waiting] = callers(server, 1)
    waiting.send(request())
    assert waits.wait(10)
    [upload] = callers(server, 1)
    upload.send(request(body=b"x" * 1000)[:-500])
    seen = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    answer = waiting.answer()
    assert answer is not None
    assert (answer.status, answer.complete) == (503, True)
    assert b"shutting_down" in answer.body
    assert answer.get(b"retry-after")
    for client in clients:
        assert b"\r\n0\r\n\r\n" not in rest(client)
        client.close()
    assert server.process.wait(60) == 0
    assert time.monotonic() - seen > 0.6
    streams.go_on.set()
    rows = server.rows()
    assert (
        sorted((row["status"], row["error"]) for row in rows)
        == [(200, "shutting_down")] * 4 + [(503, "shutting_down")] * 2
    )
    assert all(row["cost_usd"] is None for row in rows if row["request_bytes"] != 500)
    assert len(compacted(server)) == 6


def test_queued_connections_are_answered(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    """The kernel has said yes to them: closing the socket would reset them."""
    server = gateway(config(upstream, workers=2))
    workers = proc.workers(server.process.pid, 2)
    with stopped(*workers):
        clients = callers(server, 12)
        for client in clients:
            client.send(request())
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not proc.listening(server.process.pid), "the supervisor to let go of its sockets")
    for client in clients:
        answer = client.answer()
        assert answer is not None, "a queued connection was closed unanswered"
        assert (answer.status, answer.body) == (200, OK_BODY)
        assert client.closes()
    assert server.process.wait(60) == 0
    assert len(server.rows()) == 12


@pytest.mark.parametrize("late", [False, True], ids=["sent", "sent a moment later"])
def test_a_worker_that_is_told_to_end_before_it_begins(tmp_path: Path, upstream: Upstream, late: bool) -> None:
    """The shortest life there is: what is in its queue is answered, also what a client is just about to send."""
    path = tmp_path / "fluxen.yaml"
    path.write_text(config(upstream))
    snapshot = build(load_config(path, {"FLUXEN_DATA_DIR": str(tmp_path / "data")}), {})
    for turn in range(5):
        journal = Journal(tmp_path / "data" / "ledger", "node", turn)
        [listening] = bind("127.0.0.1", 0, 1)
        clients = [Client(listening.getsockname()[1]) for _ in range(8)]
        if not late:
            for client in clients:
                client.send(request())
        life, held = os.pipe()
        os.close(held)
        loop = uvloop.new_event_loop()
        doors = [(DoorPlan(1, admin=False, retiring=False), listening)]
        worker = Worker(snapshot, Authorities({}), turn, journal, loop, doors=doors)

        if late:
            loop.call_soon(send_once_told, worker, clients)
        loop.run_until_complete(worker.serve(life))
        loop.close()
        os.close(life)
        for client in clients:
            answer = client.answer()
            assert answer is not None, "a queued connection was closed unanswered"
            assert (answer.status, answer.body) == (200, OK_BODY)
            client.close()
    assert len(Reader(tmp_path / "data" / "ledger").query("SELECT 1 FROM requests").rows) == 40


def send_once_told(worker: Worker, clients: list[Client]) -> None:
    """Within the worker's loop: as soon as it has stopped accepting."""
    if not worker.draining:
        worker.loop.call_soon(send_once_told, worker, clients)
        return
    for client in clients:
        client.send(request())


class Faulty(Accountant):
    """One with a bug, which a model meets."""

    def account(self, end: End, *args: Any, **kwargs: Any) -> Reading:
        if end.model_asked == "unlucky":
            raise ZeroDivisionError
        return super().account(end, *args, **kwargs)


def test_a_bug_that_one_request_meets_hangs_neither_it_nor_others(tmp_path: Path, upstream: Upstream) -> None:
    path = tmp_path / "fluxen.yaml"
    path.write_text(config(upstream))
    snapshot = build(load_config(path, {"FLUXEN_DATA_DIR": str(tmp_path / "data")}), {})
    [listening] = bind("127.0.0.1", 0, 1)
    clients = [Client(listening.getsockname()[1]) for _ in range(6)]
    for number, client in enumerate(clients):
        client.send(request(body=b'{"model":"unlucky"}' if number == 2 else b'{"model":"m"}'))
    life, held = os.pipe()
    os.close(held)
    met: list[object] = []
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(lambda _, context: met.append(type(context["exception"])))
    doors = [(DoorPlan(1, admin=False, retiring=False), listening)]
    worker = Worker(snapshot, Authorities({}), 0, Journal(tmp_path / "data" / "ledger", "node", 0), loop, doors=doors)
    worker.accountant = Faulty(snapshot.prices)
    loop.run_until_complete(worker.serve(life))
    loop.close()
    os.close(life)
    answers = [client.answer() for client in clients]
    for client in clients:
        client.close()
    bodies = [answer.body if answer else None for answer in answers]
    assert bodies == [OK_BODY, OK_BODY, None, OK_BODY, OK_BODY, OK_BODY]
    assert met == [ZeroDivisionError]
    rows = Reader(tmp_path / "data" / "ledger").query("SELECT model_asked, error FROM requests ORDER BY 1").rows
    assert rows == [("m", None)] * 5 + [("unlucky", "lost")]


def test_not_ready_while_it_ends(tmp_path: Path, upstream: Upstream) -> None:
    path = tmp_path / "fluxen.yaml"
    path.write_text(config(upstream))
    snapshot = build(load_config(path, {"FLUXEN_DATA_DIR": str(tmp_path / "data")}), {})

    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        worker = Worker(snapshot, Authorities({}), 0, Journal(tmp_path / "data" / "ledger", "node", 0), loop)
        server = await loop.create_server(lambda: Listener(worker), "127.0.0.1", 0)
        answers = []
        for worker.draining in (False, True):
            for path in (b"/-/readyz", b"/-/healthz"):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
                answers.append((await reader.read()).split(b" ")[1])
                writer.close()
        server.close()
        worker.journal.close()
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == [b"200", b"200", b"503", b"200"]


def test_address_in_use(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, workers=2))
    folder = server.folder / "second"
    folder.mkdir()
    (folder / "fluxen.yaml").write_text(config(upstream, port=server.port))
    second = subprocess.run(
        [sys.executable, "-m", "fluxen_cli", "serve", "--config", str(folder / "fluxen.yaml")],
        env={**environment(folder / "home", {}), "FLUXEN_DATA_DIR": str(folder / "data")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 4, second.stderr
    assert f"127.0.0.1:{server.port} is in use by PID {server.process.pid}" in second.stderr
    assert "--port" in second.stderr
    assert "Traceback" not in second.stderr
    assert server.ask(request()).status == 200


def test_too_many_connections(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    server = gateway(config(upstream, most=3))
    kept = callers(server, 3)
    for client in kept:
        assert client.ask(request()).status == 200
    refused = callers(server, 20)
    for client in refused:
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.complete) == (503, True)
        error = json.loads(answer.body)["error"]
        assert error["code"] == "gateway_full"
        assert {"message", "type", "param"} <= error.keys()
    for client in kept:
        assert client.ask(request()).status == 200
    kept.pop().close()
    # Those that were refused are still connected: they take nobody's place.
    until(lambda: with_answer(server) == 200, "a place to be free", 1.5)


def with_answer(server: Gateway) -> int:
    return server.ask(request()).status


# ── the end that nobody asked for ────────────────────────────────────────────────────────────────────────────────


def test_workers_never_load_duckdb(gateway: StartGateway, upstream: Upstream) -> None:
    """It costs 0.1 s and 38 MB a process, and it starts threads."""
    server = gateway(config(upstream, workers=2))
    for _ in range(20):
        assert server.ask(request()).status == 200
    server.rows(20)
    workers = proc.workers(server.process.pid, 2)
    assert "duckdb" in proc.maps(proc.compactor(server.process.pid)), "then nobody can be seen to have it"
    for pid in (server.process.pid, *workers):
        assert "duckdb" not in proc.maps(pid)
        assert "uvloop" in proc.maps(pid)


def test_a_worker_is_killed(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    """Its requests become rows with error `lost`, its queue waits for its successor, the other worker's streams
    run on."""
    server = gateway(config(upstream, workers=2))
    streams = Streams()
    upstream.plays(streams)
    clients = begin_streams(callers(server, 16))
    workers = proc.workers(server.process.pid, 2)
    victim = workers[0]
    with stopped(victim):
        upstream.plays(OK)
        queued = callers(server, 24)  # about half of them in the victim's queue
        for client in queued:
            client.send(request())
        os.kill(victim, signal.SIGKILL)
    for client in queued:
        answer = client.answer()
        assert answer is not None, "a queued connection was reset"
        assert answer.status == 200
        client.close()
    until(lambda: len(now := proc.roles(server.process.pid)[0]) == 2 and victim not in now, "the worker to be replaced")
    streams.go_on.set()
    ends = [rest(client) for client in clients]
    broken = sum(b"0\r\n\r\n" not in data for data in ends)
    assert 0 < broken < 16
    assert "worker" in server.stderr()
    assert "SIGKILL" in server.stderr()

    def settled() -> list[dict[str, Any]]:
        rows = server.query("SELECT * FROM requests")
        return rows if len(rows) == 40 and not server.query("SELECT 1 FROM in_flight") else []

    rows = until(settled, "all rows")
    lost = [row for row in rows if row["error"] == "lost"]
    assert len(lost) == broken
    for row in lost:
        assert (row["status"], row["usage_source"], row["cost_usd"]) == (None, "unknown", None)
        assert row["upstream"] == "openai"
    assert sum(row["status"] == 200 for row in rows) == 40 - broken
    end(server)
    assert len(compacted(server)) == 40


def test_the_compactor_is_killed(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    for _ in range(3):
        victim = proc.compactor(server.process.pid)
        os.kill(victim, signal.SIGKILL)
        assert server.ask(request()).status == 200
        until(lambda victim=victim: proc.roles(server.process.pid)[1] not in (None, victim), "another compactor", 30)
    until(lambda: len(compacted(server)) == 3, "its work to be done")
    assert len(server.rows()) == 3
    end(server)


def test_the_supervisor_is_killed(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    """The others finish what runs, and end; nothing keeps the port."""
    server = gateway(config(upstream, workers=2))
    streams = Streams()
    upstream.plays(streams)
    clients = begin_streams(callers(server, 4))
    workers = proc.workers(server.process.pid, 2)
    family = [*workers, proc.compactor(server.process.pid)]
    births = {pid: proc.start_time(pid) for pid in family}
    server.process.kill()
    server.process.wait(30)
    server.stopped = True
    until(lambda: refuses(server.port), "the port to be free")
    assert any(proc.alive(pid) for pid in workers)
    streams.go_on.set()
    for client in clients:
        assert rest(client) == b"5\r\nended\r\n0\r\n\r\n"
    until(lambda: not any(proc.alive(pid) and proc.start_time(pid) == births[pid] for pid in family), "all to end", 60)
    assert [row["status"] for row in server.rows(4)] == [200] * 4
    assert "Traceback" not in server.stderr()
    server.start()
    upstream.plays(OK)
    assert server.ask(request()).status == 200
    assert len(server.rows(5)) == 5
    server.stop()
    assert len(compacted(server)) == 5


def test_all_of_them_are_killed(gateway: StartGateway, upstream: Upstream, callers: Callers) -> None:
    """As when the machine's memory runs out: what was written is there, what ran is `lost`."""
    server = gateway(config(upstream, workers=2))
    assert server.ask(request()).status == 200
    streams = Streams()
    upstream.plays(streams)
    begin_streams(callers(server, 3))
    until(lambda: len(server.query("SELECT * FROM in_flight")) == 3, "the first to have ended")
    everybody = [*proc.children(server.process.pid), server.process.pid]
    server.kill()
    until(lambda: not any(proc.alive(pid) for pid in everybody), "all to be dead")
    assert sorted((row["status"] or 0, row["error"] or "") for row in server.rows()) == [(0, "lost")] * 3 + [(200, "")]
    assert server.query("SELECT * FROM in_flight") == []
    server.start()
    until(lambda: len(compacted(server)) == 4, "the dead writers' segments to be taken in", 30)
    assert len(server.rows()) == 4
    streams.go_on.set()
    server.stop()
