"""Heads of requests: llhttp, then RequestHead, Openings, admission, routes, and what goes on to an upstream.

The judge is a parser of our own. What Fluxen lets in has to be a request without doubt, with exactly one credential
that is a client key's, for an upstream that key may use; what goes on has to be the same request to everybody who
reads it, with the provider's credential in place of the client's.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path

import httptools
from fuzz import judge

from fluxen.config.load import load_bytes
from fluxen.gateway.admission import Fault
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.opening import Forward, Openings
from fluxen.gateway.snapshot import Snapshot, build

KEY, NARROW, PROVIDER = b"fx-client-0123456789abcdef", b"fx-narrow-0123456789abcdef", b"sk-provider-fedcba9876"
CONFIG = b"""
version: 1
upstreams:
  openai: {target_url: "http://one.example", api_key: sk-provider-fedcba9876}
  anthropic: {target_url: "http://two.example/base", api_key: sk-provider-fedcba9876}
  tunnel: {request_path: /a/b, target_url: "http://three.example:8080", api_key: sk-provider-fedcba9876}
api_keys:
  static:
    - {id: all, key: fx-client-0123456789abcdef}
    - {id: narrow, key: fx-narrow-0123456789abcdef, upstreams: [tunnel]}
"""
HOP_BY_HOP = (
    b"connection", b"te", b"upgrade", b"keep-alive", b"trailer", b"expect", b"proxy-connection", b"proxy-authenticate",
    b"proxy-authorization", b"http2-settings",
)  # fmt: skip
HOSTS = {"openai": b"one.example", "anthropic": b"two.example", "tunnel": b"three.example:8080"}

MODULES = ("head", "opening", "target", "routes", "admission", "address", "throttle")
METHODS = (b"POST", b"POST", b"POST", b"GET", b"HEAD", b"DELETE", b"PUT", b"CONNECT", b"TRACE", b"PRI", b"get")
TARGETS = (
    b"/v1/chat/completions", b"/openai/v1/chat/completions", b"/a/b/v1/files", b"/a/b", b"/a/bc",
    b"/anthropic/v1/messages",
    b"/v1/messages", b"/v1beta/models/gemini-2:generateContent", b"/v1/models", b"/a/b/..%2f..%2fopenai/v1/x",
    b"/-/healthz",
    b"/a/b/../../openai/v1/files", b"//openai/v1/x", b"/a/b/%2e%2e/%2e%2e/openai", b"/openai/..;/a/b", b"/A/B/x", b"*",
    b"http://one.example/v1/models", b"/a%2fb/x", b"/a/b?x=1&key=" + KEY, b"/a/b?key=" + KEY + b"&key=x", b"/a/b?key=",
    b"/a/b/x?key=%66x-client-0123456789abcdef", b"/a/b\\x", b"/a/b/x#y", b"/a/b/%00", b"/a/b/\xc3\xa9",
)  # fmt: skip
LINES = (
    b"Host: localhost", b"Authorization: Bearer " + KEY, b"x-api-key: " + KEY, b"X-Goog-Api-Key:" + KEY,
    b"api-key: " + KEY,
    b"Authorization: Bearer " + NARROW, b"authorization: bearer  " + KEY + b" ", b"Authorization: Basic " + KEY,
    b"Authorization: Bearer wrong", b"Content-Length: 2", b"content-length: 2", b"Content-Length:2",
    b"Content-Length: 02",
    b"Content-Length: +2", b"Content-Length: 2, 2", b"Content-Length: 18446744073709551616",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked", b"Connection: close", b"Connection: keep-alive",
    b"Connection: authorization", b"Connection: x-a, host", b"Connection: content-length", b"X-A: b", b" folded",
    b"\tfolded",
    b"Expect: 100-continue", b"Upgrade: websocket", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"TE: trailers",
    b"x-fluxen-tags: a=b", b"x-fluxen-x: y", b"Content-Type: application/json", b"Content-Type: multipart/form-data",
    b"Content-Encoding: gzip", b"Host: other", b"Keep-Alive: timeout=5", b"Proxy-Authorization: Basic eA==",
    b"Cookie: a=b",
    b"anthropic-version: 2023-06-01", b"x-client-request-id: 1", b"User-Agent: x", b"Origin: http://evil",
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Null: a\x00b", b"X-High: \xff\xfe", b": empty", b"NoColon", b"X-Long: " + b"y" * 300, b"x-api-key : " + KEY,
    b"Content_Length: 5", b"Authorization:", b"X-A: b\nX-Hidden: c", b"X-A: b\rX-Hidden: c",
)  # fmt: skip


class Parsed:
    """What llhttp says of a head."""

    def __init__(self, raw: bytes) -> None:
        self.accepted = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.accepted = False

    def on_headers_complete(self) -> None:
        self.accepted = True


class Heads:
    name = "heads"
    traced = tuple(f"fluxen/gateway/{name}.py" for name in MODULES)
    base_steps = 20_000
    words: Sequence[bytes] = (
        *LINES, *TARGETS, b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"%2e", b"%2f", b"%5c", b"/", b"..", b"?", b"&",
        b"key=", b":", b" ",
        b"\t", b"\x00", b"\x0b", b"\x80", KEY, NARROW, b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"Content-Length",
        b"chunked", b",",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        """folder: an empty one, for the data folder of a gateway that is never started."""
        env = {"FLUXEN_DATA_DIR": str(folder / "data"), "HOME": str(folder)}
        self._snapshot: Snapshot = build(load_bytes(CONFIG, env, folder / "fluxen.yaml"), env)
        self._kinds = HeaderKinds()
        self._openings = Openings(self._snapshot, self._kinds)

    def seeds(self) -> list[bytes]:
        start = b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nContent-Length: 2"
        return [start % (target, key) for target in TARGETS for key in (KEY, NARROW, b"wrong")]

    def make(self, chance: random.Random) -> bytes:
        version = b"HTTP/1.1" if chance.random() < 0.9 else chance.choice((b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b""))
        lines = [b" ".join((chance.choice(METHODS), chance.choice(TARGETS), version))]
        if chance.random() < 0.8:
            lines += [LINES[0], chance.choice(LINES[1:9])]
        lines += [chance.choice(LINES) for _ in range(chance.randrange(6))]
        if chance.random() < 0.02:
            lines += [b"X-%d: y" % number for number in range(chance.choice((150, 200, 250)))]
        return b"\r\n".join(lines)

    def run(self, case: bytes) -> Hashable:
        raw = (case + b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        if not Parsed(raw + b"\r\n\r\n").accepted:
            return None
        opening, length = self._openings.find(raw)
        head = opening.head
        again = self._openings.recall(raw)
        assert again is None or again == (opening, length or 0), f"the second time it means {again}"
        if opening.fault is not None or opening.own:
            return opening.fault and opening.fault.code
        body = b"" if head.chunked else b"x" * min(length or 0, 8)
        asked = read_one(raw, length, body, head.chunked)
        credentials = asked.credentials()
        assert len(credentials) == 1, f"let in with {len(credentials)} credentials"
        assert credentials[0] in (KEY, NARROW), f"let in with {credentials[0]!r}"
        for upstream in self._snapshot.upstreams:
            route = opening.route
            if route is None or route.upstream not in (None, upstream):
                continue
            forward = opening.forward(upstream)
            if isinstance(forward, Fault):
                continue
            assert credentials[0] == KEY or upstream.name == "tunnel", (
                f"a key for another upstream reaches {upstream.name}"
            )
            forwarded(asked, forward, upstream.name, body, len(body), opening.held or not head.chunked)
        route = opening.route
        return None if route is None else (route.kind, route.endpoint, opening.held, head.chunked)


def read_one(raw: bytes, length: int | None, body: bytes, chunked: bool) -> judge.Request:
    """The request as the judge reads it. Lengths that no test wants to send are replaced."""
    wire = raw + b"\r\n\r\n"
    if chunked:
        wire += b"0\r\n\r\n"
    elif length is not None and length != len(body):
        lines = [
            line if line.partition(b":")[0].lower() != b"content-length" else b"Content-Length: %d" % len(body)
            for line in wire.split(b"\r\n")
        ]
        wire = b"\r\n".join(lines)
    reading = judge.read(wire + body)
    assert (len(reading.requests), reading.rest) == (1, "nothing"), f"let in, and is no request: {reading.why}"
    return reading.requests[0]


def forwarded(asked: judge.Request, forward: Forward, name: str, body: bytes, length: int, with_length: bool) -> None:
    """Judge what goes on."""
    if forward.after is None:
        wire = forward.before + (b"0\r\n\r\n" if not with_length else b"")
    else:
        wire = b"%b%d%b%b" % (forward.before, length, forward.after, body)
    reading = judge.read(wire)
    assert (len(reading.requests), reading.rest) == (1, "nothing"), (
        f"what goes on is no request: {reading.why} {wire!r}"
    )
    sent = reading.requests[0]
    assert sent.method == asked.method, sent
    assert sent.body == body, sent
    assert sent.version == 1, sent
    assert sent.get(b"host") == [HOSTS[name]], sent
    credentials = [value for carrier in judge.CARRIERS for value in sent.get(carrier)]
    provider = [PROVIDER, b"Bearer " + PROVIDER]
    assert len(credentials) == 1 and credentials[0] in provider, f"goes on with {credentials}"
    own = asked.credentials()[0]
    assert own not in wire or own in b"\n".join(others(asked)), "the client's key goes on"
    left = list(asked.headers)
    for header in sent.headers:
        if header[0].lower() in (b"host", b"content-length", b"transfer-encoding", *judge.CARRIERS):
            continue
        assert header in left, f"{header} was not sent"
        left.remove(header)
        low = header[0].lower()
        assert low not in HOP_BY_HOP, header
        assert not low.startswith(b"x-fluxen-"), header


def others(asked: judge.Request) -> list[bytes]:
    """Where the client itself put its key although that is no carrier of keys."""
    kept = [name + value for name, value in asked.headers if name.lower() not in judge.CARRIERS]
    path, _, query = asked.target.partition(b"?")
    return [*kept, path, *(pair for pair in query.split(b"&") if not pair.startswith(b"key="))]
