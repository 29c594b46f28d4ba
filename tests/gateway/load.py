"""Load for a gateway: an upstream and clients in one event loop, both of which do as a request says.

Each request carries its number (`x-client-request-id`, a column of its row) and its play (`x-play`, which tells the
upstream what to do). So what the client got, what the upstream saw and what the ledger says can be compared one by one.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httptools
from gateway.rig import KEY, PROVIDER_KEY

RESET = struct.pack("ii", 1, 0)
USAGE = b'"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}'
BODY = b'{"id":"x","model":"gpt-4o-mini","choices":[{"finish_reason":"stop"}],' + USAGE + b"}"
EVENT = b'data: {"id":"x","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
LAST = b'data: {"id":"x","model":"gpt-4o-mini","choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:{port}", workers: 2, shutdown_timeout_ms: 20000}}
upstreams:
  openai: {{target_url: "http://127.0.0.1:{upstream}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
ledger: {{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}}
"""


def config(upstream: int, port: int = 0) -> str:
    return CONFIG.format(port=port, upstream=upstream, provider=PROVIDER_KEY, key=KEY)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ── the upstream ─────────────────────────────────────────────────────────────────────────────────────────────────


class Upstream:
    """Plays what each request asks for, and notes which requests it saw."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: Counter[int] = Counter()
        self.arrived: dict[int, asyncio.Event] = {}
        self.connections: set[UpstreamConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamConnection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    def saw(self, number: int) -> None:
        self.seen[number] += 1
        if (event := self.arrived.get(number)) is not None:
            event.set()


class UpstreamConnection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._number = -1
        self._play = b""
        self._task: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._open.set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._upstream.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._open.clear()

    def resume_writing(self) -> None:
        self._open.set()

    def data_received(self, data: bytes) -> None:
        if self._play != b"gone":
            self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-client-request-id":
            self._number = int(value)
        elif name == b"x-play":
            self._play = value

    def on_headers_complete(self) -> None:
        self._upstream.saw(self._number)
        if self._play == b"early":
            body = b'{"error":{"message":"too large"}}'
            self.transport.write(
                b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )

    def on_message_complete(self) -> None:
        kind, _, argument = self._play.partition(b":")
        if kind == b"early":
            self.transport.close()
        elif kind == b"unary":
            self.transport.write(answer(b"200 OK", BODY))
        elif kind == b"error":
            self.transport.write(answer(argument + b" Error", b'{"error":{"message":"no"}}'))
        else:
            self._task = asyncio.get_running_loop().create_task(self._later(kind, argument))

    async def _later(self, kind: bytes, argument: bytes) -> None:
        if kind == b"slow":
            await asyncio.sleep(float(argument))
            self.transport.write(answer(b"200 OK", BODY))
        elif kind == b"never":
            await asyncio.sleep(3600)
        else:
            await self._stream(kind, argument)

    async def _stream(self, kind: bytes, argument: bytes) -> None:
        """`count,seconds between,bytes` of chunks; then the end that `kind` names."""
        count, pause, size = argument.split(b",")
        event = EVENT * max(1, int(size) // len(EVENT))
        self.transport.write(SSE)
        for _ in range(int(count)):
            await self._open.wait()
            self.transport.write(chunk(event))
            await asyncio.sleep(float(pause))
        if kind == b"stream":
            self.transport.write(chunk(LAST) + b"0\r\n\r\n")
        elif kind == b"silent":  # of what it used
            self.transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        elif kind == b"fin":
            self.transport.close()
        elif kind == b"rst":
            self.transport.get_extra_info("socket").setsockopt(1, 13, RESET)  # SOL_SOCKET, SO_LINGER
            self.transport.abort()
        elif kind == b"garbage":
            self.transport.write(b"zz\r\nthis is no chunk\r\n")
        else:
            raise AssertionError(f"no such play: {kind!r}")


def answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


# ── the clients ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Outcome:
    """What became of one request, as its client saw it."""

    number: int
    kind: str
    id: str | None = None
    status: int = 0
    complete: bool = False
    sent: bool = False
    """The whole request (or what the client meant to send of it) was written to an open connection."""
    left: bool = False
    seconds: float = 0.0


class ClientConnection(asyncio.Protocol):
    """A client's connection: one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.outcome: Outcome | None = None
        self.changed = asyncio.Event()
        self.lost = False
        self.reusable = False
        self.open = asyncio.Event()
        self.open.set()
        self.bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        self.open.set()
        self.changed.set()

    def pause_writing(self) -> None:
        self.open.clear()

    def resume_writing(self) -> None:
        self.open.set()

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()
        self.changed.set()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-fluxen-id" and self.outcome is not None:
            self.outcome.id = value.decode()

    def on_headers_complete(self) -> None:
        if self.outcome is not None:
            self.outcome.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        if self.outcome is not None:
            self.outcome.complete = True

    async def until(self, done: Callable[[], bool]) -> bool:
        """Wait until `done()`; False when the connection ended before."""
        while not done():
            if self.lost:
                return False
            self.changed.clear()
            await self.changed.wait()
        return True


Kind = Callable[["Load", ClientConnection, Outcome], Awaitable[None]]


def head(number: int, play: bytes, *, length: int | None, path: bytes = b"/v1/chat/completions") -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    kind = b"application/octet-stream" if path.startswith(b"/openai/v1/files") else b"application/json"
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n"
        b"x-client-request-id: %d\r\nx-play: %b\r\n%b\r\n\r\n" % (path, KEY.encode(), kind, number, play, framing)
    )


def held(number: int, play: bytes, size: int = 2048) -> bytes:
    body = b'{"model":"gpt-4o-mini","stream":true,"x":"' + b"x" * size + b'"}'
    return head(number, play, length=len(body)) + body


def asks(play: bytes) -> Kind:
    """A request whose answer is taken to its end."""

    async def ask(_: Load, connection: ClientConnection, outcome: Outcome) -> None:
        connection.transport.write(held(outcome.number, play))
        outcome.sent = True
        await connection.until(lambda: outcome.complete)

    return ask


def uploads(size: int, *, chunked: bool, play: bytes = b"unary") -> Kind:
    async def upload(_: Load, connection: ClientConnection, outcome: Outcome) -> None:
        piece = b"y" * 65536
        write = connection.transport.write
        write(head(outcome.number, play, length=None if chunked else size, path=b"/openai/v1/files"))
        for _piece in range(size // len(piece)):
            await connection.open.wait()
            if connection.lost or outcome.complete:
                return
            write(chunk(piece) if chunked else piece)
        if chunked:
            write(b"0\r\n\r\n")
        outcome.sent = True
        await connection.until(lambda: outcome.complete)

    return upload


async def leaves_mid_stream(_: Load, connection: ClientConnection, outcome: Outcome) -> None:
    connection.transport.write(held(outcome.number, b"stream:200,0.05,100"))
    outcome.sent = await connection.until(lambda: connection.bytes > 1000)
    outcome.left = True
    connection.transport.abort()


async def leaves_before_the_first_byte(load: Load, connection: ClientConnection, outcome: Outcome) -> None:
    connection.transport.write(held(outcome.number, b"never"))
    outcome.sent = await load.arrival(outcome.number, connection)
    outcome.left = True
    connection.transport.abort()


async def leaves_mid_upload(load: Load, connection: ClientConnection, outcome: Outcome) -> None:
    connection.transport.write(head(outcome.number, b"gone", length=10_000_000, path=b"/openai/v1/files") + b"y" * 9999)
    outcome.sent = await load.arrival(outcome.number, connection)
    outcome.left = True
    connection.transport.abort()


PLAIN: dict[str, tuple[int, Kind]] = {
    "unary": (50, asks(b"unary")),
    "slow": (10, asks(b"slow:0.3")),
    "stream": (20, asks(b"stream:10,0.05,100")),
    "silent stream": (10, asks(b"silent:5,0.05,100")),
    "long stream": (6, asks(b"stream:40,0.1,200")),
    "refused by the upstream": (3, asks(b"error:429")),
}
FAULTS: dict[str, tuple[int, Kind]] = {
    "fin": (2, asks(b"fin:3,0.2,100")),
    "rst": (2, asks(b"rst:3,0.2,100")),
    "garbage": (2, asks(b"garbage:3,0.2,100")),
    "fat stream": (2, asks(b"stream:64,0,65536")),
    "upload": (2, uploads(2 << 20, chunked=False)),
    "chunked upload": (2, uploads(2 << 20, chunked=True)),
    "answered early": (2, uploads(2 << 20, chunked=False, play=b"early")),
    "leaves mid-stream": (3, leaves_mid_stream),
    "leaves before the first byte": (3, leaves_before_the_first_byte),
    "leaves mid-upload": (2, leaves_mid_upload),
}


@dataclass
class Load:
    """Requests of random kinds at a bounded rate, until told to stop."""

    upstream: Upstream
    port: Callable[[], int]
    kinds: dict[str, tuple[int, Kind]]
    chance: random.Random
    rate: float
    users: int = 64
    outcomes: list[Outcome] = field(default_factory=list)
    stopping: bool = False
    _next: float = 0.0

    async def run(self) -> None:
        """Until `stopping`; then what was begun is finished."""
        self._next = time.monotonic()
        names: Sequence[str] = list(self.kinds)
        weights = [weight for weight, _ in self.kinds.values()]
        async with asyncio.TaskGroup() as group:
            for _ in range(self.users):
                group.create_task(self._user(names, weights))

    async def _user(self, names: Sequence[str], weights: Sequence[int]) -> None:
        connection: ClientConnection | None = None
        while not self.stopping:
            now = time.monotonic()
            self._next = max(self._next, now - 1.0) + 1 / self.rate
            await asyncio.sleep(self._next - now)
            if self.stopping:
                break
            [name] = self.chance.choices(names, weights)
            outcome = Outcome(len(self.outcomes), name)
            self.outcomes.append(outcome)
            connection = await self._one(connection, outcome, self.kinds[name][1])
        if connection is not None:
            connection.transport.close()

    async def _one(self, connection: ClientConnection | None, outcome: Outcome, kind: Kind) -> ClientConnection | None:
        """One request, on the connection of the last if that can be; the connection for the next."""
        if connection is None or connection.lost or not connection.reusable or self.chance.random() < 0.3:
            if connection is not None:
                connection.transport.close()
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    ClientConnection, "127.0.0.1", self.port()
                )
            except OSError:
                return None
        connection.outcome, connection.bytes, connection.reusable = outcome, 0, False
        begun = time.monotonic()
        try:
            await kind(self, connection, outcome)
        except (OSError, RuntimeError):  # uvloop: the transport was closed meanwhile
            pass
        outcome.seconds = time.monotonic() - begun
        connection.outcome = None
        return connection

    async def arrival(self, number: int, connection: ClientConnection) -> bool:
        """Wait until the upstream saw the request; False when the client's connection ended before."""
        event = self.upstream.arrived[number] = asyncio.Event()
        if self.upstream.seen[number]:
            event.set()
        try:
            while not event.is_set() and not connection.lost:
                connection.changed.clear()
                waits = [asyncio.ensure_future(one.wait()) for one in (event, connection.changed)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            return event.is_set()
        finally:
            del self.upstream.arrived[number]
