"""Connections to upstreams: kept alive and used again, never stale, and made to whichever address answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, OK_BODY, PROVIDER_KEY, Connection, Gateway, Request, Upstream, request, until
from gateway.test_timeouts import deaf

from fluxen.gateway.pool import IDLE_CONNECTIONS, IDLE_SECONDS, Origin, Pool
from fluxen.gateway.timers import TimerWheel, ticks
from fluxen.gateway.upstream import UpstreamConnection

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))


# ── on a whole gateway ───────────────────────────────────────────────────────────────────────────────────────────


def test_connections_are_used_again(server: Gateway, upstream: Upstream) -> None:
    for _ in range(20):
        assert server.ask(request()).status == 200  # each from a client connection of its own
    assert len(upstream.connections) == 1


def test_as_many_connections_as_requests_at_once(server: Gateway, upstream: Upstream) -> None:
    clients = [server.connect() for _ in range(8)]
    for _ in range(3):
        for client in clients:
            client.send(request())
        for client in clients:
            got = client.answer()
            assert got is not None
            assert got.body == OK_BODY
    for client in clients:
        client.close()
    assert len(upstream.connections) <= 8


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
def test_a_connection_that_the_upstream_ends_is_not_used_again(
    server: Gateway, upstream: Upstream, answer: bytes
) -> None:
    upstream.plays(answer)
    for number in range(1, 4):
        got = server.ask(request())
        assert (got.status, got.body) == (200, OK_BODY)
        assert len(upstream.connections) == number


SAID = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nE\r\ndata: [DONE]\n\n\r\n"
)


@pytest.mark.parametrize("rest", [b"0\r\n\r\n", b"800\r\n" + b"x" * 0x800, None], ids=["the end", "much", "nothing"])
def test_a_client_that_leaves_at_the_last_word(server: Gateway, upstream: Upstream, rest: bytes | None) -> None:
    """The connection to the upstream is used again if the answer's end comes at once, and closed otherwise."""
    left, sent = threading.Event(), threading.Event()

    def says(connection: Connection, _: Request) -> None:
        connection.send(SAID)
        assert left.wait(30)
        if rest is not None:
            connection.send(rest)
        sent.set()

    upstream.plays(says, OK)
    with server.connect() as client:
        client.send(request(body=b'{"model": "gpt-4o", "stream": true}'))
        got = b""
        while b"[DONE]" not in got:
            got += client.read()
    row = server.rows(at_least=1)[-1]
    assert (row["status"], row["error"]) == (200, None)
    left.set()
    assert sent.wait(30)
    if rest == b"0\r\n\r\n":
        assert server.ask(request()).body == OK_BODY
        assert len(upstream.connections) == 1
    else:
        assert upstream.connections[0].ended.wait(10)
        assert server.ask(request()).body == OK_BODY


OTHERS = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers"


def test_what_comes_unasked_spoils_a_connection(server: Gateway, upstream: Upstream) -> None:
    """Bytes behind an answer would be taken for the answer to somebody else's request."""
    settled = threading.Event()

    def later(connection: Connection, _: Request) -> None:
        connection.send(OK)
        assert settled.wait(30)
        connection.send(OTHERS)
        connection.drain()

    upstream.plays(later, OK)
    assert server.ask(request()).body == OK_BODY
    settled.set()
    assert upstream.connections[-1].ended.wait(10)
    for _ in range(5):
        assert server.ask(request()).body == OK_BODY


def test_more_than_an_answer(server: Gateway, upstream: Upstream) -> None:
    """Which of the bytes are the answer can't be trusted: an error that says so, never an empty reply."""
    upstream.plays(OK + OTHERS, OK)
    got = server.ask(request())
    assert (got.status, got.complete) == (502, True)
    assert b"others" not in got.wire
    row = server.row(got)
    assert (row["status"], row["error"]) == (502, "upstream_broke")
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("reported", 11, 7)
    for _ in range(5):
        assert server.ask(request()).body == OK_BODY


@pytest.mark.parametrize("first", ["request", "close"])
def test_an_upstream_that_closes_as_the_next_request_comes(server: Gateway, upstream: Upstream, first: str) -> None:
    """The race of every keep-alive connection, in both orders: the request is sent once more where the upstream
    can't have seen it, and the upstream sees it once."""
    [worker] = proc.workers(server.process.pid)
    attempts = set()
    for number in range(5):
        close, closed = threading.Event(), threading.Event()

        def once(connection: Connection, _: Request, close: Any = close, closed: Any = closed) -> None:
            connection.send(OK)
            assert close.wait(30)
            connection.close()
            closed.set()

        upstream.plays(once, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        assert server.ask(request()).status == 200
        seen = len(upstream.requests)
        with server.connect() as client:
            until(lambda client=client: worker_has(server, client.sock), "the worker to accept")
            os.kill(worker, signal.SIGSTOP)
            try:
                if first == "request":
                    client.send(request(headers=[b"x-number: %d" % number]))
                close.set()
                assert closed.wait(10)
                if first == "close":
                    client.send(request(headers=[b"x-number: %d" % number]))
            finally:
                os.kill(worker, signal.SIGCONT)
            got = client.answer()
        assert got is not None
        assert (got.status, got.body) == (200, OK_BODY)
        assert len(upstream.requests) == seen + 1
        row = server.row(got)
        assert (row["status"], row["error"]) == (200, None)
        attempts.add(row["attempts"])
    assert attempts <= {1, 2}


def worker_has(server: Gateway, sock: socket.socket) -> bool:
    """Whether the worker has taken this connection out of its queue: the kernel then knows its inode."""
    _, port = sock.getsockname()
    with open("/proc/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if int(fields[2].rsplit(":", 1)[1], 16) == port and int(fields[1].rsplit(":", 1)[1], 16) == server.port:
                return fields[9] != "0"
    return False


def test_idle_connections_of_a_gateway_that_ends_are_closed(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))
    server.ask(request())
    assert not upstream.connections[-1].ended.is_set()
    server.stop()
    assert upstream.connections[-1].ended.wait(10)


# ── a pool by itself, on a wheel turned by hand ──────────────────────────────────────────────────────────────────


class Taker:
    """What a connection reports to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def answer_head(self, status: int, _head: object, _until_eof: bool) -> tuple[bytes, None, bool]:
        self.told.append(("head", status))
        return b"", None, False

    def answer_data(self, data: bytes) -> None:
        self.told.append(("data", data))

    def answer_end(self, data: bytes) -> None:
        self.told.append(("end", data))

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        self.told.append(("lost", unseen))

    def upstream_timeout(self) -> None:
        self.told.append(("timeout", None))

    def upstream_writable(self, writable: bool) -> None:
        pass


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


async def use(connection: UpstreamConnection) -> Taker:
    """One request over the connection, and its answer."""
    taker = Taker()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    connection.start(taker, [head], False, False, ticks(60), ticks(60))
    while not taker.told or taker.told[-1][0] not in ("end", "lost", "timeout"):
        await asyncio.sleep(0.001)
    return taker


def in_loop(test: Callable[[TimerWheel, int, list[asyncio.StreamWriter]], Awaitable[None]]) -> None:
    """Run a test with a wheel and an upstream that answers OK; it is told the upstream's port and connections."""

    async def run() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(OK)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
        try:
            await asyncio.wait_for(test(TimerWheel(), server.sockets[0].getsockname()[1], writers), 60)
        finally:
            server.close()
            for writer in writers:
                writer.close()
            await settle()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def pool_of(port: int, wheel: TimerWheel, host: str = "127.0.0.1") -> Pool:
    return Pool(Origin("http", host, port), wheel)


def test_idle_for_too_long() -> None:
    async def test(wheel: TimerWheel, port: int, writers: list[asyncio.StreamWriter]) -> None:
        pool = pool_of(port, wheel)
        connection = await pool.connect(5)
        await use(connection)
        wheel.advance(wheel.now + ticks(IDLE_SECONDS) - 5)
        assert pool.take() is connection
        await use(connection)  # and it is young again
        wheel.advance(wheel.now + ticks(IDLE_SECONDS) - 5)
        await settle()
        assert pool.connections == {connection}
        wheel.advance(wheel.now + 10)
        assert pool.take() is None
        await settle()
        assert pool.connections == set()

    in_loop(test)


def test_a_connection_that_the_upstream_closed_while_idle() -> None:
    async def test(wheel: TimerWheel, port: int, writers: list[asyncio.StreamWriter]) -> None:
        pool = pool_of(port, wheel)
        await use(await pool.connect(5))
        writers[0].close()
        await settle()
        assert pool.take() is None
        assert pool.connections == set()

    in_loop(test)


def test_the_freshest_first_and_not_too_many() -> None:
    async def test(wheel: TimerWheel, port: int, writers: list[asyncio.StreamWriter]) -> None:
        pool = pool_of(port, wheel)
        made = [await pool.connect(5) for _ in range(5)]
        for connection in made:
            await use(connection)
        assert pool.take() is made[-1]
        assert pool.take() is made[-2]
        pool.put(made[-1])
        assert pool.take() is made[-1]
        for connection in [made[-1], made[-2]]:
            pool.put(connection)
        more = [await pool.connect(5) for _ in range(IDLE_CONNECTIONS)]
        for connection in more:
            pool.put(connection)
        await settle()
        assert len(pool.connections) == IDLE_CONNECTIONS
        pool.close_idle()
        await settle()
        assert pool.connections == set()

    in_loop(test)


def test_a_fresh_connection_that_nobody_needed_may_be_stale_later() -> None:
    """It was made for a client that left, and the upstream has closed it when it is used: sent once more."""

    async def test(wheel: TimerWheel, port: int, writers: list[asyncio.StreamWriter]) -> None:
        pool = pool_of(port, wheel)
        connection = await pool.connect(5)
        connection.release()
        while not writers:
            await asyncio.sleep(0.001)
        sock = writers[0].get_extra_info("socket")
        os.dup2(os.open("/dev/null", os.O_RDONLY), sock.fileno())  # closed, and our loop does not know it yet
        assert pool.take() is connection
        assert (await use(connection)).told[-1] == ("lost", True)

    in_loop(test)


class Resolving(uvloop.Loop):
    """A loop for which a host has the addresses that the test says."""

    addresses: tuple[str, ...] = ()

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in self.addresses]


def connect_to(addresses: tuple[str, ...], port: int, limit: float = 10.0) -> tuple[str, float]:
    """Which address a pool connects to, and how long it takes."""

    async def run() -> tuple[str, float]:
        pool = pool_of(port, TimerWheel(), "several.test")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            connection = await pool.connect(limit)
            took = loop.time() - begun
            assert connection.transport is not None
            address = connection.transport.get_extra_info("peername")[0]
            connection.abandon()
            await settle()
            return str(address), took
        finally:
            assert pool.connections == set(), "the losers of the race stay open"

    def loop() -> Resolving:
        made = Resolving()
        made.addresses = addresses
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run())


def test_the_first_address_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert connect_to(("::1", "127.0.0.1"), port)[0] == "127.0.0.1"
        assert connect_to(("127.0.0.1", "::1"), port)[0] == "127.0.0.1"
        assert connect_to(("127.0.0.2", "127.0.0.3", "127.0.0.1"), port)[0] == "127.0.0.1"


def test_the_first_address_is_silent() -> None:
    """It is not waited for: 250 ms later the next one is tried."""
    with deaf() as port, socket.create_server(("127.0.0.2", port)):
        address, took = connect_to(("127.0.0.1", "127.0.0.2"), port)
        assert address == "127.0.0.2"
        assert 0.2 < took < 5


def test_no_address_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            connect_to(("127.0.0.1", "127.0.0.2", "::1"), unused.getsockname()[1])
    with deaf() as port, pytest.raises(TimeoutError):
        connect_to(("127.0.0.1",), port, 0.3)
    with deaf() as port, pytest.raises(TimeoutError):
        connect_to(("127.0.0.1", "127.0.0.1"), port, 0.6)
