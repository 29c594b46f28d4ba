"""Every wait has an end: connecting, the first byte, silence between bytes, slow clients, idle connections.

Limits of upstreams are tested on a real gateway with small ones. Those of clients (10 s for a head, 75 s of idleness)
are tested on a real worker in this process whose timer wheel is turned by hand: no test waits for them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvloop
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK,
    OK_BODY,
    PROVIDER_KEY,
    Connection,
    Gateway,
    Request,
    Upstream,
    request,
    split_head,
    until,
    values,
)

from fluxen.config.load import load_config
from fluxen.config.model import Server
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.listener import LINGER_MOST, LINGER_TICKS, STALL_TICKS
from fluxen.gateway.listening import Patience
from fluxen.gateway.snapshot import build
from fluxen.gateway.worker import Worker
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader

HEAD_TICKS, BODY_TICKS, KEEP_TICKS = Patience.of(Server())
UPSTREAM = 'target_url: "{url}", api_key: "' + PROVIDER_KEY + '"'
CONFIG = f"""
version: 1
server: {{{{bind_address: "127.0.0.1:0"}}}}
upstreams:
  request_timeout_ms: 700
  openai: {{{{{UPSTREAM}}}}}
  anthropic: {{{{{UPSTREAM}}}}}
  gemini: {{{{{UPSTREAM}}}}}
  slow: {{{{{UPSTREAM}, request_timeout_ms: 60000}}}}
  impatient: {{{{{UPSTREAM}, first_byte_timeout_ms: 60000, idle_timeout_ms: 300}}}}
  refused: {{{{target_url: "http://127.0.0.1:{{refused}}", api_key: x}}}}
  full: {{{{target_url: "http://127.0.0.1:{{full}}", api_key: x, connect_timeout_ms: 400}}}}
  patient: {{{{target_url: "http://127.0.0.1:{{full}}", api_key: x, connect_timeout_ms: 60000}}}}
  nowhere: {{{{target_url: "http://fluxen-test.invalid", api_key: x, connect_timeout_ms: 4000}}}}
api_keys:
  static: [{{{{id: me, key: "{KEY}"}}}}]
ledger: {{{{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}}}}
"""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"


@contextmanager
def deaf() -> Iterator[int]:
    """A port whose queue is full: the kernel drops what asks for a connection."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
            waiting.append(one)
        try:
            yield listening.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Ports where nobody listens, and where nobody answers."""
    with socket.socket() as unused, deaf() as full:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port, and it refuses
        yield {"refused": unused.getsockname()[1], "full": full}


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream, ports: dict[str, int]) -> Gateway:
    return shared_gateway(CONFIG.format(url=upstream.url, **ports))


def silent(connection: Connection, _: Request) -> None:
    connection.drain(60)


def after(begun: bytes) -> Callable[[Connection, Request], None]:
    def play(connection: Connection, _: Request) -> None:
        connection.send(begun)
        connection.drain(60)

    return play


# ── the upstream ─────────────────────────────────────────────────────────────────────────────────────────────────


def openai_shape(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return str(error["code"])


def anthropic_shape(body: bytes) -> str:
    answer = json.loads(body)
    assert answer["type"] == "error"
    assert {"type", "message"} <= answer["error"].keys()
    return str(answer["error"]["type"])


def gemini_shape(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert {"code", "message", "status"} <= error.keys()
    return str(error["status"])


DIALECTS: dict[str, tuple[bytes, Callable[[bytes], str], str, str]] = {
    "openai": (b"/openai/v1/chat/completions", openai_shape, "upstream_timeout", "upstream_unreachable"),
    "anthropic": (b"/anthropic/v1/messages", anthropic_shape, "timeout_error", "api_error"),
    "gemini": (b"/gemini/v1beta/models/g:generateContent", gemini_shape, "DEADLINE_EXCEEDED", "UNAVAILABLE"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Ty"], ids=["nothing", "half a head"])
def test_first_byte(server: Gateway, upstream: Upstream, dialect: str, begun: bytes) -> None:
    path, shape, code, _ = DIALECTS[dialect]
    upstream.plays(after(begun))
    got = server.ask(request(path))
    assert (got.status, got.complete) == (504, True)
    assert shape(got.body) == code
    assert upstream.connections[-1].ended.wait(10), "the upstream goes on for nobody"
    row = server.row(got)
    assert (row["status"], row["error"], row["usage_source"]) == (504, "upstream_timeout", "unknown")
    assert row["cost_usd"] is None, "the provider may bill what it did"
    assert row["latency_ms"] >= 600


def test_interim_answers_are_no_answer(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(after(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))
    assert server.ask(request()).status == 504


def test_silence_between_bytes(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(after(STREAM))
    for mount in (b"/openai", b"/impatient"):
        got = server.ask(request(mount + b"/v1/chat/completions"))
        assert (got.status, got.complete) == (200, False)
        assert got.body == b"5\r\nbegun\r\n"
        assert upstream.connections[-1].ended.wait(10), "the upstream goes on for nobody"
        row = server.row(got)
        assert (row["status"], row["error"], row["usage_source"]) == (200, "upstream_timeout", "unknown")
        assert row["cost_usd"] is None


def test_a_slow_client_is_not_the_upstreams_fault(server: Gateway, upstream: Upstream) -> None:
    """While the client takes nothing, nothing is read from the upstream: its silence does not count."""
    body = b"x" * (24 << 20)

    def play(connection: Connection, _: Request) -> None:
        connection.sock.settimeout(60)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sock.sendall(head + body)

    upstream.plays(play)
    with server.connect(receive_buffer=32768) as client:
        client.send(request(b"/impatient/v1/chat/completions"))
        time.sleep(1.5)  # five times the upstream's limit of silence
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        got = bytearray()
        while len(got) < len(body) or not got.endswith(body[-1000:]) or len(got.partition(b"\r\n\r\n")[2]) < len(body):
            more = client.read()
            assert more, f"cut after {len(got)} bytes"
            got += more
    assert got.partition(b"\r\n\r\n")[2] == body


def test_an_upload_that_the_upstream_does_not_take(server: Gateway, upstream: Upstream) -> None:
    over = threading.Event()
    upstream.raw(lambda _: over.wait(60))  # accepts, and reads nothing
    with server.connect() as client:
        client.send(
            request(
                b"/openai/v1/files", b"", length=False, json=False,
                headers=[b"Content-Type: application/octet-stream", b"Content-Length: 99999999"],
            )
        )  # fmt: skip
        client.sock.setblocking(False)
        got = until(lambda: _push(client.sock), "an answer", 50)
    over.set()
    first, headers = split_head(got.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert b" 504 " in first
    row = server.row(values(headers, b"x-fluxen-id")[0].decode())
    assert (row["status"], row["error"], row["endpoint"]) == (504, "upstream_timeout", "/v1/files")


def _push(sock: socket.socket) -> bytes:
    """Send what can be sent; what came."""
    try:
        sock.send(b"x" * 65536)
    except (BlockingIOError, ConnectionError):
        pass
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def test_connecting_takes_too_long(server: Gateway) -> None:
    begun = time.monotonic()
    got = server.ask(request(b"/full/v1/chat/completions"))
    assert time.monotonic() - begun > 0.35
    assert got.status == 504
    assert openai_shape(got.body) == "upstream_timeout"
    row = server.row(got)
    assert (row["status"], row["error"], row["attempts"]) == (504, "upstream_timeout", 1)
    assert (row["usage_source"], row["cost_usd"]) == ("none", 0), "it was never sent"
    said = [line["reason"] for line in server.logged("unreachable") if line["upstream"] == "full"]
    assert said == ["no connection within 0.4 s"]


def test_client_leaves_while_connecting(server: Gateway) -> None:
    with server.connect() as client:
        client.send(request(b"/patient/v1/chat/completions", headers=[b"x-client-request-id: connecting"]))
        until(
            lambda: server.query("SELECT 1 FROM in_flight WHERE client_request_id = 'connecting'"), "it to be in flight"
        )
    [row] = until(
        lambda: server.query("SELECT * FROM requests WHERE client_request_id = 'connecting'"), "the row of who left"
    )
    assert (row["status"], row["error"]) == (499, "client_closed")
    assert (row["usage_source"], row["cost_usd"]) == ("none", 0)
    assert server.ask(request(b"/full/v1/chat/completions")).status == 504


@pytest.mark.parametrize("dialect", DIALECTS)
def test_refused(gateway: StartGateway, ports: dict[str, int], dialect: str) -> None:
    path, shape, _, code = DIALECTS[dialect]
    server = gateway(CONFIG.format(url=f"http://127.0.0.1:{ports['refused']}", **ports))
    got = server.ask(request(path))
    assert (got.status, got.complete) == (502, True)
    assert shape(got.body) == code
    row = server.row(got)
    assert (row["status"], row["error"], row["attempts"]) == (502, "upstream_unreachable", 1)
    assert (row["usage_source"], row["cost_usd"]) == ("none", 0)
    assert dialect in {line["upstream"] for line in server.logged("unreachable")}


def test_a_host_that_does_not_exist(server: Gateway) -> None:
    got = server.ask(request(b"/nowhere/v1/chat/completions"))
    assert got.status in (502, 504)  # where there is no name server at all, asking takes too long
    assert server.row(got)["error"] in ("upstream_unreachable", "upstream_timeout")


# ── clients, on a wheel turned by hand ───────────────────────────────────────────────────────────────────────────


class Caller(asyncio.Protocol):
    """A client's connection: what came, and whether it ended."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.got = b""
        self.ended = False
        self.lost_by: Exception | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.ended = True
        return True  # our side stays open: what the gateway does then is part of the test

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.lost_by = exc

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def answer(self) -> None:
        """Wait for one more whole OK."""
        before = self.got.count(OK_BODY)
        while self.got.count(OK_BODY) == before:
            assert not self.ended, self.got
            await asyncio.sleep(0.001)


class Bench:
    """A worker in this process, an upstream of the same loop, and time that passes when told to."""

    def __init__(self, worker: Worker, port: int, folder: Path) -> None:
        self.worker = worker
        self.port = port
        self.folder = folder
        self.callers: list[Caller] = []
        self.asked = 0
        self.upstream_closed = asyncio.Event()

    async def connect(self) -> Caller:
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(Caller, "127.0.0.1", self.port)
        self.callers.append(caller)
        return caller

    async def settle(self) -> None:
        """Let the loop handle what is under way: each turn polls the sockets once."""
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def turn(self, ticks: int) -> None:
        """Let so much time pass."""
        self.worker.wheel.advance(self.worker.wheel.now + ticks)
        await self.settle()

    async def passes(self, over: Callable[[], bool], most: int) -> int:
        """Turn tick by tick until `over()`; how many it took."""
        for tick in range(most):
            if over():
                return tick
            self.worker.wheel.advance(self.worker.wheel.now + 1)
            await asyncio.sleep(0.0005)
        raise AssertionError(f"nothing happened within {most} ticks")

    def rows(self) -> list[tuple[object, ...]]:
        return Reader(self.folder).query("SELECT status, error, cost_usd FROM requests ORDER BY id").rows


@asynccontextmanager
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    flood = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999999\r\n\r\n"
    here: Bench

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                here.asked += 1
                if b"/flood" in head:
                    writer.write(flood)
                    while True:
                        writer.write(b"x" * 65536)
                        await writer.drain()
                if b"/v1/files" in head:
                    await reader.read()
                    here.upstream_closed.set()
                    return
                await reader.readexactly(28)
                writer.write(OK)
        except (ConnectionError, asyncio.IncompleteReadError):
            here.upstream_closed.set()
        finally:
            writer.close()

    upstream = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    config = tmp_path / "fluxen.yaml"
    config.write_text(CONFIG.format(url=f"http://127.0.0.1:{port}", refused=1, full=1))
    snapshot = build(load_config(config, {"FLUXEN_DATA_DIR": str(tmp_path / "data")}), {})
    journal = Journal(tmp_path / "data" / "ledger", "node", 0)
    worker = Worker(snapshot, Authorities({}), 0, journal, loop)
    server = await loop.create_server(worker.listener, "127.0.0.1", 0)
    here = Bench(worker, server.sockets[0].getsockname()[1], tmp_path / "data" / "ledger")
    try:
        yield here
    finally:
        server.close()
        upstream.close()
        for caller in here.callers:
            caller.transport.abort()
        for pool in worker._pools.values():
            for connection in list(pool.connections):
                connection.abandon()
        for listener in list(worker._listeners):
            listener.abort(ends_with_close=False)
        await here.settle()
        assert not worker._listeners
        assert worker.body_bytes == 0
        journal.close()


def in_loop(test: Callable[[Bench], Awaitable[None]], tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as here:
            await asyncio.wait_for(test(here), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


SLACK = 60  # ticks by which the wheel may look late (LOOK_AHEAD), and the loop


def test_a_connection_that_never_asks(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        took = await here.passes(lambda: caller.ended, KEEP_TICKS + SLACK)
        assert took >= KEEP_TICKS - 1
        assert caller.got == b""

    in_loop(test, tmp_path)


def test_a_connection_that_asks_no_more(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        for number in range(3):
            caller.write(request(b"/slow/v1/chat/completions"))
            await caller.answer()
            assert caller.got.count(b"HTTP/1.1 200 OK\r\n") == number + 1
            await here.turn(KEEP_TICKS - 10)
            assert not caller.ended, "it was closed too soon"
        assert await here.passes(lambda: caller.ended, KEEP_TICKS + SLACK) >= 5
        assert here.asked == 3

    in_loop(test, tmp_path)


@pytest.mark.parametrize("before", [0, 2])
def test_a_head_that_trickles(tmp_path: Path, before: int) -> None:
    """A byte now and then does not buy more time."""

    async def test(here: Bench) -> None:
        caller = await here.connect()
        for _ in range(before):
            caller.write(request(b"/slow/v1/chat/completions"))
            await caller.answer()
        caller.got = b""
        head = request(headers=[b"x-long: " + b"y" * 500])
        caller.write(head[:60])
        await here.settle()
        ticks = 0
        while not caller.ended:
            caller.write(head[60 + ticks : 61 + ticks])
            await here.turn(1)
            ticks += 1
            assert ticks < HEAD_TICKS + SLACK
        assert ticks >= HEAD_TICKS - 5
        assert caller.got.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in caller.got
        assert here.rows() == [(200, None, None)] * before

    in_loop(test, tmp_path)


def test_a_held_body_that_stops(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        raw = request(b"/slow/v1/chat/completions")
        caller.write(raw[:-20])
        await here.settle()
        await here.turn(BODY_TICKS - 20)
        caller.write(raw[-20:-10])
        await here.settle()
        await here.turn(BODY_TICKS - 20)
        assert not caller.ended, "a body that goes on has time"
        assert caller.got == b""
        await here.passes(lambda: caller.ended, BODY_TICKS)
        assert caller.got.startswith(b"HTTP/1.1 408 ")
        assert here.asked == 0
        assert here.rows() == [(408, "request_timeout", 0)]

    in_loop(test, tmp_path)


def test_an_upload_that_stops(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        caller.write(
            request(
                b"/slow/v1/files", b"", length=False, json=False,
                headers=[b"Content-Type: application/octet-stream", b"Content-Length: 1000"],
            ) + b"x" * 100
        )  # fmt: skip
        while not here.asked:
            await here.settle()
        await here.passes(lambda: caller.ended, BODY_TICKS + SLACK)
        assert caller.got.startswith(b"HTTP/1.1 408 ")
        await asyncio.wait_for(here.upstream_closed.wait(), 10)
        assert here.rows() == [(408, "request_timeout", 0)], "a file that is stored is not billed"

    in_loop(test, tmp_path)


def test_a_client_that_stops_reading(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        caller.transport.pause_reading()
        caller.write(request(b"/slow/flood"))
        await here.settle()
        [listener] = here.worker._listeners
        while listener.writable:
            await here.settle()
        await here.turn(STALL_TICKS - SLACK)
        assert not here.upstream_closed.is_set()
        assert not listener.writable
        await here.passes(here.upstream_closed.is_set, 2 * SLACK)
        assert here.rows() == [(200, "client_closed", None)]
        caller.transport.resume_reading()
        while not caller.ended:
            await here.settle()
        assert caller.lost_by is not None, "a plain close"

    in_loop(test, tmp_path)


def test_a_refused_client_that_stays(tmp_path: Path) -> None:
    """The answer is read, the connection is not let go of by the client: that does not hold it for ever."""

    async def test(here: Bench) -> None:
        caller = await here.connect()
        caller.write(request(b"/nothing/here", body=b"x" * 1000)[:-500])
        while not caller.ended:
            await here.settle()
        assert caller.got.startswith(b"HTTP/1.1 404 ")
        assert len(here.worker._listeners) == 1
        await here.passes(lambda: not here.worker._listeners, LINGER_TICKS + SLACK)

    in_loop(test, tmp_path)


def test_a_refused_client_that_goes_on_for_ever(tmp_path: Path) -> None:
    async def test(here: Bench) -> None:
        caller = await here.connect()
        caller.write(request(b"/nothing/here", body=b"", headers=[b"Content-Length: 999999999"], length=False))
        ticks = 0
        while here.worker._listeners:
            if not caller.transport.is_closing():
                caller.write(b"x" * 1000)
            await here.turn(10)
            ticks += 10
            assert ticks < LINGER_MOST + SLACK
        assert ticks > LINGER_MOST - SLACK
        assert caller.got.startswith(b"HTTP/1.1 404 ")

    in_loop(test, tmp_path)
