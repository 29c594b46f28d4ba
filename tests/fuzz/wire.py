"""Whole connections: bytes to a real `fluxen serve`, and what reaches a real upstream behind it.

Nobody but a parser of our own says what the client asked for and what the upstream was told; both have to be the same
requests, in order, each with its own answer. What the parser does not take for a request must not get through, nor
what carries no client key; and every request must come to an end.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz import judge
from fuzz.heads import HOP_BY_HOP, KEY, LINES, METHODS, NARROW, PROVIDER, Heads
from gateway.rig import PATIENCE, Gateway

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", head_timeout_ms: 2000, body_timeout_ms: 2000}}
upstreams:
  openai: {{target_url: "{url}", api_key: sk-provider-fedcba9876}}
  tunnel: {{request_path: /a/b, target_url: "{url}", api_key: sk-provider-fedcba9876}}
api_keys:
  static:
    - {{id: all, key: fx-client-0123456789abcdef}}
    - {{id: narrow, key: fx-narrow-0123456789abcdef, upstreams: [tunnel]}}
"""
BEFORE = 3  # connections whose requests may reach the upstream a little later, because the client has left
START = b"%b %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
BODIES = (
    b'{"model":"m"}', b"{}", b"", b"x",
    b"GET /openai/v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY + b"\r\n\r\n",
    b"0\r\n\r\n", b"y" * 5000, b"\r\n", b'{"model":"m","stream":true}',
)  # fmt: skip
ASKED = b',"stream_options":{"include_usage":true}'
"""What the gateway adds to the body of a stream, on the route that is not a tunnel."""
SPLICED = (b"/v1/chat/completions", b"/v1/completions")
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"1\r\nx\r\n1;a=b\r\ny\r\n0\r\n\r\n", b"00005\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n", b"5\r\nhello\r\n0\r\nX-T: a\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"-1\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n\r\n", b"5 ;x\r\nhello\r\n0\r\n\r\n", b"5;\nx\r\nhello\r\n0\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r", b"5\r\nhel", b"5\r\nhello\r\n\r\n0\r\n\r\n", b"5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
)  # fmt: skip
WIRE_TARGETS = (
    b"/v1/chat/completions", b"/openai/v1/chat/completions", b"/a/b/v1/files", b"/a/b/x?y=z", b"/a/b?key=" + KEY,
    b"/v1/models",
    b"/openai/v1/files", b"/-/healthz", b"/a/b/../../openai/x", b"/a/b/x%2f..%2fy",
)  # fmt: skip


@dataclass(slots=True)
class Seen:
    """A request at the upstream."""

    number: int
    request: judge.Request


class Upstream:
    """Answers each request with its number. What is no request is a fault."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.seen: deque[Seen] = deque()
        self.faults: deque[str] = deque()
        self._count = 0
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a close does not
        self._accepting.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with sock, suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while more := sock.recv(65536):
                data += more
                reading = judge.read(data)
                if reading.rest == "wrong":
                    self.faults.append(f"{reading.why}: {data!r}")
                    return
                for request in reading.requests:
                    data = data[len(request.wire) :]
                    with self._lock:
                        self._count += 1
                        number = self._count
                        self.seen.append(Seen(number, request))
                    body = b"" if request.method == b"HEAD" else b"%d" % number
                    sock.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nx-saw: %d\r\nContent-Length: %d\r\n\r\n%b"
                        % (number, len(b"%d" % number), body)
                    )


class Wire:
    name = "wire"
    traced: tuple[str, ...] = ()
    base_steps = 0
    words: Sequence[bytes] = (
        *Heads.words, *CHUNKS, *BODIES, b"\r\n0\r\n\r\n", b"\r\nTransfer-Encoding: chunked", b"\r\nContent-Length: 5",
        b"POST /a/b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY + b"\r\nContent-Length: 0\r\n\r\n",
    )  # fmt: skip

    def __init__(self, upstream: Upstream, gateway: Gateway) -> None:
        self._upstream = upstream
        self._gateway = gateway
        self._recent: deque[list[judge.Request]] = deque(maxlen=BEFORE + 1)

    def seeds(self) -> list[bytes]:
        start = START % (b"POST", b"/a/b/v1/files", KEY)
        framed = [start + line + b"\r\n\r\n" + CHUNKS[0] for line in LINES]
        framed += [start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks for chunks in CHUNKS]
        return framed + [
            START % (b"POST", target, KEY)
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            for target in WIRE_TARGETS
            for body in BODIES
        ]

    def make(self, chance: random.Random) -> bytes:
        return b"".join(self._request(chance) for _ in range(chance.choice((1, 1, 2, 3))))

    def _request(self, chance: random.Random) -> bytes:
        method = chance.choice(METHODS) if chance.random() < 0.4 else b"POST"
        head = START % (method, chance.choice(WIRE_TARGETS), chance.choice((KEY, KEY, KEY, NARROW, b"wrong")))
        head += b"".join(chance.choice(LINES) + b"\r\n" for _ in range(chance.choice((0, 0, 1, 2))))
        body = chance.choice(BODIES)
        kind = chance.randrange(10)
        if kind < 4:
            kind_of = chance.choice((b"application/json", b"application/octet-stream", b"text/plain"))
            return head + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind_of, len(body), body)
        if kind < 8:
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chance.choice(CHUNKS)
        if kind < 9:
            return head + b"\r\n"
        return head + b"Content-Length: %d\r\n\r\n%b" % (max(0, len(body) + chance.choice((-1, 1))), body)

    def run(self, case: bytes) -> Hashable:
        reading = judge.read(case)
        self._recent.append(reading.requests)
        stream, ended = self._send(case, reading)
        try:
            got, rest = judge.answers(stream, [*(request.method for request in reading.requests), reading.method])
        except judge.Wrong as wrong:
            raise AssertionError(f"the answer is none: {wrong}") from wrong
        assert self._gateway.process.poll() is None, f"the gateway has ended: {self._gateway.stderr()[-2000:]}"
        # Whether malformed bytes ask by HEAD, two may see differently: the connection ends behind the answer.
        assert ended or not rest or reading.rest == "wrong", f"half an answer: {rest!r}"
        assert ended or len(got) >= len(reading.requests) or reading.requests[-1].method == b"CONNECT", (
            f"{len(reading.requests)} requests, {len(got)} answers after {PATIENCE} s, and the connection is open"
        )
        assert not any(answer.status == 500 for answer in got), got
        numbers = {one.number: one.request for one in self._judged()}
        for at, answer in enumerate(got):
            for number in answer.get(b"x-saw"):
                assert at < len(reading.requests), f"an answer to what is no request: {answer}"
                saw = numbers.get(int(number))
                assert saw is not None and same(reading.requests[at], saw), f"the answer to another request: {answer}"
        return reading.rest, tuple(answer.status for answer in got), ended

    def _send(self, case: bytes, reading: judge.Reading) -> tuple[bytes, bool]:
        """What came back, and whether the gateway closed the connection."""
        methods = [request.method for request in reading.requests]
        stream = b""
        with socket.create_connection(("127.0.0.1", self._gateway.port), PATIENCE) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):
                for piece in pieces(case):
                    sock.sendall(piece)
            # Only for whole requests is an answer due. Of anything else it is looked at for a moment what comes.
            deadline = time.monotonic() + (PATIENCE if methods else 0.05)
            while (left := deadline - time.monotonic()) > 0:
                if not select.select([sock], [], [], left)[0]:
                    break
                try:
                    data = sock.recv(65536)
                except OSError:
                    return stream, True
                if not data:
                    return stream, True
                stream += data
                with suppress(judge.Wrong):
                    if methods and len(judge.answers(stream, methods)[0]) >= len(methods):
                        if reading.rest == "nothing":
                            break
                        deadline = min(deadline, time.monotonic() + 0.05)
        return stream, False

    def _judged(self) -> Iterator[Seen]:
        """What the upstream saw since, each request one that somebody with a key has sent."""
        if self._upstream.faults:
            raise AssertionError(f"the upstream was sent no request: {self._upstream.faults.popleft()}")
        while self._upstream.seen:
            one = self._upstream.seen.popleft()
            assert any(same(asked, one.request) for asked in (one for many in self._recent for one in many)), (
                f"reached the upstream, and nobody who may has asked for it: {one.request.wire!r}"
            )
            yield one


def pieces(case: bytes) -> list[bytes]:
    """As one, or in a few pieces: which, the bytes themselves say."""
    chance = random.Random(zlib.crc32(case))
    if len(case) < 2 or chance.random() < 0.5:
        return [case]
    cuts = sorted(chance.randrange(1, len(case)) for _ in range(chance.choice((1, 2, 5))))
    return [case[start:end] for start, end in zip([0, *cuts], [*cuts, len(case)], strict=True) if end > start]


def same(asked: judge.Request, saw: judge.Request) -> bool:
    """Whether the upstream saw what the client asked for, and the client may ask for that."""
    credentials = asked.credentials()
    if len(credentials) != 1 or credentials[0] not in (KEY, NARROW) or saw.credentials() != [PROVIDER]:
        return False
    added = ASKED in saw.body and ASKED not in asked.body and asked.target.startswith(SPLICED)
    if (asked.method, asked.body) != (saw.method, saw.body.replace(ASKED, b"", 1) if added else saw.body):
        return False
    if not any(saw.target == target and (tunnel or credentials[0] == KEY) for target, tunnel in targets(asked.target)):
        return False
    sent = [(name.lower(), value) for name, value in asked.headers]
    ours = (b"host", b"content-length", b"transfer-encoding", *judge.CARRIERS)
    if added:
        ours = (*ours, b"accept-encoding")
    return all(
        name.lower() in ours or ((name.lower(), value) in sent and name.lower() not in HOP_BY_HOP)
        for name, value in saw.headers
    )


def targets(target: bytes) -> list[tuple[bytes, bool]]:
    """What may become of a target, and whether it is the tunnel's."""
    path, mark, query = target.partition(b"?")
    kept = b"&".join(pair for pair in query.split(b"&") if not pair.startswith(b"key="))
    ask = mark + kept if kept or not query else b""
    if path == b"/a/b" or path.startswith(b"/a/b/"):
        return [((path[4:] or b"/") + ask, True)]
    if path == b"/openai" or path.startswith(b"/openai/"):
        rest = path[7:] or b"/"
        return [(rest + ask, False), (b"/v1" + rest + ask, False)]
    return [(path + ask, False)]


@contextmanager
def serving(folder: Path) -> Iterator[Wire]:
    """A gateway and its upstream in this folder. At the end the gateway must have said nothing of an error."""
    upstream = Upstream()
    home = folder / "home"
    home.mkdir()
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    gateway = Gateway(folder / "gateway", CONFIG.format(url=upstream.url), {**env, "HOME": str(home), "NO_PROXY": "*"})
    try:
        yield Wire(upstream, gateway)
        gateway.stop()
    finally:
        if not gateway.stopped:
            gateway.kill()
        upstream.close()
