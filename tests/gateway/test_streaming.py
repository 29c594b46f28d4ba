"""Streams in both directions: bytes go on as they come, nobody buffers much, and who leaves is noticed."""

from __future__ import annotations

import fcntl
import hashlib
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from gateway import proc
from gateway.conftest import StartGateway
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
    answer,
    chunked,
    request,
    split_head,
    until,
    values,
)

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
  anthropic: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
ledger: {{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}}
"""

MB = 1 << 20
FLAT = 8 * MB  # what a worker may grow by while tens or hundreds of MB pass through it
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","choices":[{"delta":{"content":"word"}}]}\n\n'
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"claude-3-5-sonnet-20241022","content":[],"usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))


class Gate:
    """A play that stops where the test wants it to."""

    def __init__(self) -> None:
        self.passed = threading.Event()

    def open(self) -> None:
        self.passed.set()

    def wait(self) -> None:
        assert self.passed.wait(60), "the test never opened the gate"


def read_until(client: Client, wanted: bytes) -> bytes:
    """What the client gets up to `wanted`."""
    data = b""
    while wanted not in data:
        more = client.read()
        assert more, f"the connection ended before {wanted!r} came: {data!r}"
        data += more
    return data


def identity(got: bytes) -> str:
    """The id in an answer's head."""
    _, headers = split_head(got.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    return values(headers, b"x-fluxen-id")[0].decode()


# ── as they come ─────────────────────────────────────────────────────────────────────────────────────────────────


FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked", chunk(b"first"), chunk(b"second") + b"0\r\n\r\n"),
    "length": (b"Content-Length: 11", b"first", b"second"),
    "until close": (b"Connection: close", b"first", b"second"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_first_chunk_arrives_before_the_second_is_sent(server: Gateway, upstream: Upstream, framing: str) -> None:
    header, first, second = FRAMINGS[framing]
    gate = Gate()

    def play(connection: Connection, _: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + header + b"\r\n\r\n" + first)
        gate.wait()
        connection.send(second)
        if framing == "until close":
            connection.close()

    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        got = read_until(client, b"first")
        assert b"second" not in got
        gate.open()
        read_until(client, b"second")


def test_the_head_arrives_before_the_body_is_sent(server: Gateway, upstream: Upstream) -> None:
    gate = Gate()

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE)
        gate.wait()
        connection.send(chunked(EVENT))

    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        read_until(client, b"\r\n\r\n")
        gate.open()
        read_until(client, b"\r\n0\r\n\r\n")


def test_a_long_stream_is_not_cut_by_the_request_timeout(gateway: StartGateway, upstream: Upstream) -> None:
    config = CONFIG.replace("upstreams:\n", "upstreams:\n  request_timeout_ms: 1500\n")
    server = gateway(config.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))
    pieces = [b"data: %d\n\n" % number for number in range(16)]

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE)
        for piece in pieces:
            time.sleep(0.25)  # the upstream's pace, not a wait for something
            connection.send(chunk(piece))
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    started = time.monotonic()
    got = server.ask(request())
    assert time.monotonic() - started > 2 * 1.5
    assert got.complete
    assert got.body == b"".join(pieces)
    row = server.row(got)
    assert (row["status"], row["error"]) == (200, None)
    assert row["latency_ms"] >= 3900
    assert row["ttfb_ms"] < row["latency_ms"] / 2


# ── nobody buffers more than a little ────────────────────────────────────────────────────────────────────────────


class Gauge:
    """Counts bytes that one side got rid of, to see when it stalls."""

    def __init__(self) -> None:
        self.bytes = 0
        self.done = False

    def stalls(self) -> int:
        """Wait until nothing has moved for half a second; the count then."""
        last, since = self.bytes, time.monotonic()
        deadline = since + 60
        while time.monotonic() - since < 0.5:
            assert time.monotonic() < deadline, "it never stalled"
            assert not self.done, "everything was taken although nobody reads"
            time.sleep(0.01)
            if self.bytes != last:
                last, since = self.bytes, time.monotonic()
        return last


def pattern(size: int) -> Iterator[bytes]:
    """`size` bytes in pieces, no two pieces alike."""
    block = hashlib.sha256(b"fluxen").digest() * 2048  # 64 KB
    for number in range(size // len(block)):
        yield number.to_bytes(8, "big") + block[8:]


def test_a_client_that_does_not_read_costs_no_memory(server: Gateway, upstream: Upstream) -> None:
    size = 48 * MB
    gauge = Gauge()

    def play(connection: Connection, _: Request) -> None:
        connection.sock.settimeout(120)
        connection.sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % size
        )
        for piece in pattern(size):
            connection.sock.sendall(piece)
            gauge.bytes += len(piece)
        gauge.done = True

    server.ask(request())  # warm
    [worker] = proc.workers(server.process.pid)
    before = proc.rss(worker)
    upstream.plays(play)
    with server.connect(receive_buffer=64 * 1024) as client:
        client.send(request())
        stalled = gauge.stalls()
        assert 0 < stalled < size
        assert proc.rss(worker) - before < FLAT
        got = read_until(client, b"\r\n\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        digest, count = hashlib.sha256(body), len(body)
        while count < size:
            more = client.read()
            assert more
            digest.update(more)
            count += len(more)
        assert proc.rss(worker) - before < FLAT
    expected = hashlib.sha256()
    for piece in pattern(size):
        expected.update(piece)
    assert (count, digest.digest()) == (size, expected.digest())
    row = server.row(identity(head + b"\r\n\r\n"))
    assert (row["status"], row["error"]) == (200, None)
    assert row["response_bytes"] >= size


class Body:
    """A request body taken in as it comes: counted and hashed, not kept."""

    def __init__(self, head: bytes, begun: bytes) -> None:
        headers = split_head(head)[1]
        lengths = values(headers, b"content-length")
        self.chunked = not lengths
        self._left = int(lengths[0]) if lengths else 0
        self._digest = hashlib.sha256()
        self._raw = b""
        self.size = 0
        self.complete = False
        self.feed(begun)

    def feed(self, data: bytes) -> None:
        if not self.chunked:
            self._take(data)
            self._left -= len(data)
            self.complete = self._left == 0
            return
        self._raw += data
        while self._raw:
            if self._left:  # within a chunk, its CRLF included
                piece = self._raw[: self._left]
                self._left -= len(piece)
                self._raw = self._raw[len(piece) :]
                self._take(piece[: len(piece) - max(0, 2 - self._left)])
            else:
                line, end, rest = self._raw.partition(b"\r\n")
                if not end or (line == b"0" and len(rest) < 2):
                    return
                if line == b"0":
                    assert rest == b"\r\n", rest
                    self.complete = True
                    return
                self._left = int(line, 16) + 2
                self._raw = rest

    def _take(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)

    @property
    def digest(self) -> bytes:
        return self._digest.digest()


UPLOADS = {
    "octet-stream, length": (b"application/octet-stream", False),
    "octet-stream, chunked": (b"application/octet-stream", True),
    "multipart, length": (b"multipart/form-data; boundary=b", False),
    "multipart, chunked": (b"multipart/form-data; boundary=b", True),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_100_mb_upload_through_a_slow_upstream_in_flat_memory(server: Gateway, upstream: Upstream, kind: str) -> None:
    content_type, in_chunks = UPLOADS[kind]
    size = 100 * MB
    gate, gauge, taken = Gate(), Gauge(), []

    def take(connection: Connection) -> None:
        connection.keep = False
        head = connection.read_head()
        assert head is not None
        body = Body(head, connection._pending)
        gate.wait()
        while not body.complete:
            more = connection.read(1 << 18)
            assert more, "the upload was cut"
            body.feed(more)
        taken.append(body)
        connection.send(OK)
        connection.drain()

    def send(client: Client) -> None:
        framing = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % size
        client.send(
            request(
                b"/openai/v1/files", b"", headers=[b"Content-Type: " + content_type, framing], length=False, json=False
            )
        )
        client.sock.settimeout(120)
        for piece in pattern(size):
            client.sock.sendall(chunk(piece) if in_chunks else piece)
            gauge.bytes += len(piece)
        if in_chunks:
            client.sock.sendall(b"0\r\n\r\n")
        gauge.done = True

    server.ask(request())  # warm
    [worker] = proc.workers(server.process.pid)
    before = proc.rss(worker)
    upstream.reset()
    upstream.raw(take)
    with server.connect() as client:
        sender = threading.Thread(target=send, args=(client,))
        sender.start()
        stalled = gauge.stalls()
        assert 0 < stalled < size
        assert proc.rss(worker) - before < FLAT
        gate.open()
        sender.join(120)
        assert gauge.done
        got = client.answer()
        assert got is not None
        assert (got.status, got.body) == (200, OK_BODY)
    assert proc.rss(worker) - before < FLAT
    expected = hashlib.sha256()
    for piece in pattern(size):
        expected.update(piece)
    [body] = taken
    assert (body.size, body.digest, body.chunked) == (size, expected.digest(), in_chunks)
    row = server.row(got)
    assert (row["status"], row["request_bytes"], row["endpoint"]) == (200, size, "/v1/files")


# ── the upstream answers early ───────────────────────────────────────────────────────────────────────────────────

TOO_LARGE = answer(b'{"error":"too large"}', status=b"413 Content Too Large", headers=[b"Connection: close"])


@pytest.mark.parametrize("manner", ["reads on", "closes", "resets"])
def test_an_upstream_that_answers_before_the_body_is_through(server: Gateway, upstream: Upstream, manner: str) -> None:
    """The client gets that answer, and its connection is closed behind it: the rest of the body has no reader."""

    def early(connection: Connection) -> None:
        connection.keep = False
        assert connection.read_head() is not None
        connection.read()
        connection.send(TOO_LARGE)
        if manner == "resets":
            connection.reset()
        elif manner == "reads on":
            connection.drain()

    upstream.raw(early)

    def send(client: Client) -> None:
        for piece in pattern(64 * MB):
            client.sock.sendall(piece)  # a client that sends it all before it looks for the answer

    with server.connect() as client:
        client.send(
            request(
                b"/openai/v1/files", b"", length=False, json=False,
                headers=[b"Content-Type: application/octet-stream", b"Content-Length: %d" % (64 * MB)],
            )
        )  # fmt: skip
        send(client)
        got = client.answer()
        assert got is not None
        assert (got.status, got.complete) == (413, True)
        assert got.body == b'{"error":"too large"}'
        assert client.closes()
    row = server.row(got)
    assert (row["status"], row["error"]) == (413, "upstream_status")


# ── bodies that are held ─────────────────────────────────────────────────────────────────────────────────────────


LIMITS = CONFIG.replace('"127.0.0.1:0"', '"127.0.0.1:0", max_body: 1000000, body_memory: 1500000')


@pytest.fixture
def limited(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(LIMITS.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))


def json_body(size: int) -> bytes:
    return b'{"model":"m","x":"' + b"x" * (size - 20) + b'"}'


def chunked_request(body: bytes) -> bytes:
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    return request(length=False, body=b"", headers=[b"Transfer-Encoding: chunked"]) + chunked(*pieces)


def test_max_body(limited: Gateway, upstream: Upstream) -> None:
    assert limited.ask(request(body=json_body(1_000_000))).status == 200
    assert limited.ask(chunked_request(json_body(1_000_000))).status == 200
    upstream.requests.clear()
    for raw in (request(body=json_body(1_000_001)), chunked_request(json_body(1_000_001))):
        got = limited.ask(raw)
        assert got.status == 413
        assert b"request_too_large" in got.body
        row = limited.row(got)
        assert (row["status"], row["error"], row["cost_usd"]) == (413, "request_too_large", 0)
    assert upstream.requests == []


def test_a_client_that_sends_all_of_a_too_large_body_still_gets_the_413(limited: Gateway) -> None:
    """Most clients look for an answer only when their body is sent."""
    with limited.connect() as client:
        client.sock.settimeout(60)
        client.sock.sendall(request(body=json_body(80 * MB)))
        got = client.answer()
    assert got is not None
    assert got.status == 413


def test_body_memory_is_bounded_and_given_back(limited: Gateway, upstream: Upstream) -> None:
    gate = Gate()

    def hold(connection: Connection, _: Request) -> None:
        gate.wait()
        connection.send(OK)

    upstream.plays(hold)
    with limited.connect() as first:
        first.send(request(body=json_body(900_000)))
        upstream.request()
        for raw in (request(body=json_body(700_000)), chunked_request(json_body(700_000))):
            got = limited.ask(raw)
            assert got.status == 503
            assert b"body_memory_full" in got.body
            assert int(got.get(b"retry-after")[0]) >= 1
            assert limited.row(got)["error"] == "body_memory_full"
        assert limited.ask(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200
        gate.open()
        assert (first.answer() or pytest.fail("no answer")).status == 200
    assert len(upstream.requests) == 1


def test_body_memory_comes_back_whatever_happens(limited: Gateway, upstream: Upstream) -> None:
    """Each way for a held request to end, many times over: were any of it counted still, the last would not fit."""
    large = json_body(900_000)

    def broken(connection: Connection, _: Request) -> None:
        connection.reset()

    def silent(connection: Connection, _: Request) -> None:
        connection.drain()

    for _ in range(3):
        upstream.plays(OK)
        assert limited.ask(request(body=large)).status == 200
        assert limited.ask(chunked_request(large)).status == 200
        upstream.plays(broken)
        assert limited.ask(request(body=large)).status == 502
        for raw in (request(body=large)[:-1], chunked_request(large)[:-1]):  # leaves while it sends
            with limited.connect() as client:
                client.send(raw)
                client.reset()
        assert limited.ask(request(b"/openai/../x", body=large)).status == 400
        upstream.plays(silent)
        until(partial(leaves_while_it_waits, limited, large, upstream), "room for a body")
    upstream.plays(OK)
    until(lambda: limited.ask(request(body=json_body(1_000_000))).status == 200, "all of the memory to be free")
    with limited.connect() as one:
        one.send(request(body=json_body(1_000_000))[:-1])
        until(lambda: limited.ask(request(body=json_body(500_001))).status == 503, "the first to be held")
        assert limited.ask(request(body=json_body(500_000))).status == 200


def leaves_while_it_waits(server: Gateway, body: bytes, upstream: Upstream) -> bool:
    """Send and leave. False when there was no room yet: that those before have left may not have been noticed."""
    seen = len(upstream.requests)
    with server.connect() as client:
        client.send(request(body=body))
        until(lambda: len(upstream.requests) > seen or not client.is_open(), "the request to arrive or be refused")
        client.reset()
    if len(upstream.requests) == seen:
        return False
    return upstream.connections[-1].ended.wait(10)


# ── the client leaves ────────────────────────────────────────────────────────────────────────────────────────────


def leaving_row(server: Gateway, number: bytes) -> dict[str, Any]:
    """The row of a request that never got an id."""
    found = until(
        lambda: server.query("SELECT * FROM requests WHERE client_request_id = ?", [number.decode()]),
        f"the row of {number!r}",
    )
    assert len(found) == 1
    return dict(found[0])


def tagged(number: bytes, **more: Any) -> bytes:
    return request(headers=[b"x-client-request-id: " + number], **more)


LEAVE: dict[str, Callable[[Client], None]] = {"FIN": Client.close, "RST": Client.reset}


@pytest.mark.parametrize("how", LEAVE)
def test_client_leaves_mid_stream(server: Gateway, upstream: Upstream, how: str) -> None:
    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + chunk(EVENT))
        connection.drain()

    upstream.plays(play)
    client = server.connect()
    client.send(tagged(b"mid-" + how.encode()))
    read_until(client, EVENT)
    LEAVE[how](client)
    assert upstream.connections[-1].ended.wait(10), "the upstream connection stays open"
    row = leaving_row(server, b"mid-" + how.encode())
    assert (row["status"], row["error"], row["usage_source"]) == (200, "client_closed", "estimated")
    assert row["output_tokens"] in (1, 2), "a word, of a model that nobody knows"
    assert row["response_bytes"] > 0


def test_client_leaves_a_stream_that_told_its_input(server: Gateway, upstream: Upstream) -> None:
    """What the first event said is recorded; a bill is never 0."""

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + chunk(MESSAGE_START))
        connection.drain()

    upstream.plays(play)
    with server.connect() as client:
        client.send(
            tagged(b"partial", target=b"/anthropic/v1/messages", body=b'{"model":"claude-3-5-sonnet-20241022"}')
        )
        read_until(client, b"message_start")
    assert upstream.connections[-1].ended.wait(10)
    row = leaving_row(server, b"partial")
    assert (row["status"], row["error"], row["usage_source"]) == (200, "client_closed", "estimated")
    assert (row["input_tokens"], row["output_tokens"]) == (25, 1)
    assert row["cost_usd"] > 0


@pytest.mark.parametrize("how", LEAVE)
def test_client_leaves_before_the_first_byte(server: Gateway, upstream: Upstream, how: str) -> None:
    arrived = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        arrived.set()
        connection.drain()

    upstream.plays(play)
    client = server.connect()
    client.send(tagged(b"wait-" + how.encode()))
    assert arrived.wait(10)
    LEAVE[how](client)
    assert upstream.connections[-1].ended.wait(10), "the upstream connection stays open"
    row = leaving_row(server, b"wait-" + how.encode())
    assert (row["status"], row["error"], row["usage_source"]) == (499, "client_closed", "unknown")
    assert row["cost_usd"] is None
    assert row["ttfb_ms"] is None


@pytest.mark.parametrize("how", LEAVE)
def test_client_leaves_mid_upload(server: Gateway, upstream: Upstream, how: str) -> None:
    number = b"upload-" + how.encode()

    def take(connection: Connection) -> None:
        connection.keep = False
        connection.read_head()
        connection.drain()

    upstream.raw(take)
    client = server.connect()
    client.send(
        request(
            b"/openai/v1/audio/transcriptions", b"", length=False, json=False,
            headers=[b"Content-Type: multipart/form-data; boundary=b", b"Content-Length: 9999999",
                     b"x-client-request-id: " + number],
        ) + b"x" * 300_000
    )  # fmt: skip
    until(lambda: upstream.connections and upstream.connections[-1].received_bytes >= 300_000, "the upload's beginning")
    LEAVE[how](client)
    assert upstream.connections[-1].ended.wait(10), "the upstream connection stays open"
    row = leaving_row(server, number)
    assert (row["status"], row["error"], row["cost_usd"]) == (499, "client_closed", None)
    assert row["request_bytes"] == 300_000


def test_client_leaves_while_its_body_is_held(server: Gateway, upstream: Upstream) -> None:
    """Nothing was sent on: it cost nothing, and the upstream never heard of it."""
    with server.connect() as client:
        client.send(tagged(b"held")[:-1])
    row = leaving_row(server, b"held")
    assert (row["status"], row["error"], row["usage_source"], row["cost_usd"]) == (499, "client_closed", "none", 0)
    assert upstream.connections == []


def test_a_client_that_leaves_does_not_harm_the_next(server: Gateway, upstream: Upstream) -> None:
    """The upstream connection of a request that was left is not used again: its answer may still come."""
    arrived = threading.Event()

    def late(connection: Connection, _: Request) -> None:
        arrived.set()
        connection.drain()
        connection.send(answer(b'{"late":true}'))

    upstream.plays(late, OK)
    with server.connect() as client:
        client.send(request())
        assert arrived.wait(10)
    for _ in range(5):
        assert server.ask(request()).body == OK_BODY


# ── the upstream breaks ──────────────────────────────────────────────────────────────────────────────────────────


def cut(connection: Connection, _: Request) -> None:
    connection.close()


def reset(connection: Connection, _: Request) -> None:
    connection.reset()


def bad_chunk(connection: Connection, _: Request) -> None:
    connection.send(b"zz\r\nnot a chunk\r\n0\r\n\r\n")
    connection.drain()


BREAKS: dict[str, Callable[[Connection, Request], None]] = {"FIN": cut, "RST": reset, "bad chunk": bad_chunk}


def broken_after(begun: bytes, how: str) -> Callable[[Connection, Request], None]:
    arrived = threading.Event()

    def play(connection: Connection, request: Request) -> None:
        connection.send(begun)
        if begun:
            assert arrived.wait(30)
        BREAKS[how](connection, request)

    play.arrived = arrived  # type: ignore[attr-defined]
    return play


CASES = [
    (SSE + chunk(EVENT), how, "chunked") for how in BREAKS
] + [
    (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n" + EVENT, how, "length")
    for how in ("FIN", "RST")
] + [
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT, "RST", "until close"),
]  # fmt: skip


@pytest.mark.parametrize(("begun", "how", "framing"), CASES, ids=[f"{how}, {framing}" for _, how, framing in CASES])
def test_upstream_breaks_mid_answer(server: Gateway, upstream: Upstream, begun: bytes, how: str, framing: str) -> None:
    """The client's answer breaks, too: it never looks complete."""
    play = broken_after(begun, how)
    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        got = read_until(client, EVENT)
        play.arrived.set()  # type: ignore[attr-defined]
        rest = b""
        while more := client.read():
            rest += more
        assert b"\r\n0\r\n\r\n" not in rest
        if framing == "until close":
            assert client.was_reset, "a plain close would look like the end of the answer"
    row = server.row(identity(got))
    said = "unknown" if framing == "length" else "estimated"  # what is cut off of a stream was never generated
    assert (row["status"], row["error"], row["usage_source"]) == (200, "upstream_broke", said)
    assert row["cost_usd"] is None, "nobody knows the price of its model"


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"])
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_upstream_breaks_before_it_answered(server: Gateway, upstream: Upstream, begun: bytes, how: str) -> None:
    def play(connection: Connection, request: Request) -> None:
        connection.send(begun)
        BREAKS[how](connection, request)

    upstream.plays(play)
    got = server.ask(request())
    assert (got.status, got.complete) == (502, True)
    assert b"upstream_broke" in got.body
    row = server.row(got)
    assert (row["status"], row["error"], row["usage_source"], row["cost_usd"]) == (
        502,
        "upstream_broke",
        "unknown",
        None,
    )
    assert row["attempts"] == 1
    assert len(upstream.requests) == 1, "the upstream may have begun to bill: it is not asked again"


def test_upstream_answers_garbage(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    got = server.ask(request())
    assert (got.status, got.complete) == (502, True)
    assert server.row(got)["error"] == "upstream_broke"


def test_rows_tell_how_long_it_took(server: Gateway, upstream: Upstream) -> None:
    gate, halfway = Gate(), Gate()

    def play(connection: Connection, _: Request) -> None:
        gate.wait()
        connection.send(SSE + chunk(EVENT))
        halfway.wait()
        connection.send(chunked(EVENT))

    upstream.plays(play)
    begun = time.time()
    with server.connect() as client:
        client.send(request(body=b'{"model":"m","stream":true}'))
        sent = time.monotonic()
        upstream.request()
        time.sleep(0.3)
        gate.open()
        got = read_until(client, EVENT)
        first = time.monotonic() - sent
        time.sleep(0.3)
        halfway.open()
        read_until(client, b"\r\n0\r\n\r\n")
        whole = time.monotonic() - sent
    row = server.row(identity(got))
    assert row["stream"] is True
    assert 300 <= row["ttfb_ms"] <= first * 1000 + 250
    assert row["ttfb_ms"] + 300 <= row["latency_ms"] <= whole * 1000 + 250
    assert 0 < row["overhead_us"] < first * 1e6
    assert abs(row["ts"].timestamp() - begun) < 5


# ── bodies in odd pieces ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_upload_in_chunks(server: Gateway, upstream: Upstream) -> None:
    """All of it is here before there is a connection: what goes upstream must have its end nevertheless."""
    upstream.plays(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), OK)
    framing = [b"Content-Type: application/octet-stream", b"Transfer-Encoding: chunked"]
    for _ in range(2):  # each needs a connection of its own
        sent = request(b"/openai/v1/files", b"0\r\n\r\n", headers=framing, length=False, json=False)
        assert server.ask(sent).status == 200
    assert [seen.body for seen in upstream.requests] == [b"", b""]


def test_a_body_in_tiny_chunks_takes_the_room_of_its_bytes(server: Gateway, upstream: Upstream) -> None:
    server.ask(request())  # warm
    [worker] = proc.workers(server.process.pid)
    before = proc.rss(worker)
    with server.connect() as client:
        client.send(request(b"/openai/v1/chat/completions", b"", headers=[b"Transfer-Encoding: chunked"], length=False))
        for _ in range(MB // 2048):
            client.send(chunk(b"  ") * 1024)
        until(lambda: backlog(client) == 0, "the gateway to read it")
        assert proc.rss(worker) - before < FLAT
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        got = client.answer()
        assert got is not None
        assert got.status == 200
    assert upstream.request().body == b"  " * (MB // 2) + b"{}"


def backlog(client: Client) -> int:
    """Bytes that the gateway's kernel has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(client.sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
