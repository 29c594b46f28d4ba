"""Bytes in = bytes out: what goes up and what comes down, byte for byte."""

from __future__ import annotations

import gzip
import itertools
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK_BODY,
    PROVIDER_KEY,
    Connection,
    Gateway,
    Request,
    Upstream,
    answer,
    chunked,
    keyed,
    request,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

AUTH = b"Authorization: Bearer " + KEY.encode()
SECRET = b"Bearer " + PROVIDER_KEY.encode()

ODD = [
    b"User-Agent: odd/1.0 (\xe4)",
    b"X-Stainless-Lang: python",
    b"x-stainless-lang: again",
    b"ACCEPT: */*",
    b"Accept-Encoding: gzip, br;q=0.5",
    b"accept-encoding:",
    b"Cookie: a=b; c=d",
    b"X-Spaces:   many   inside   and behind  \t",
    b"x-client-request-id: r-1",
    b"anthropic-beta: a,b",
    b"X-Forwarded-For: 10.0.0.1",
]


@pytest.fixture(params=["http", "https"])
def server(
    shared_gateway: StartGateway, upstream: Upstream, certificate: Path, request: pytest.FixtureRequest
) -> Gateway:
    return shared_gateway(keyed(upstream, certificate if request.param == "https" else None))


def wire(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# --- up


@pytest.mark.parametrize("size", [0, 1, 2_000, 70_000, 3_000_000])
def test_up_to_the_byte(size: int, server: Gateway, upstream: Upstream) -> None:
    """Order, case, duplicates and values; Host and the credential are replaced in their places; nothing is added."""
    body = b'{"model":"m","x":"' + random.Random(size).randbytes(size) + b'"} \r\n'
    length = b"content-LENGTH: %d" % len(body)
    query = b"?a=%2F&&b=?c HTTP/1.1"
    rest = [*ODD[2:6], b"content-type: Application/JSON; charset=utf-8", *ODD[6:], length]
    sent = wire(b"POST /openai/v1/chat/completions" + query, ODD[0], b"HOST: localhost:1", ODD[1],
                b"authorization: bearer " + KEY.encode(), *rest, body=body)  # fmt: skip
    want = wire(b"POST /v1/chat/completions" + query, ODD[0], b"HOST: " + upstream.url[7:].encode(), ODD[1],
                b"authorization: " + SECRET, *rest, body=body)  # fmt: skip
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(sent).status == 200
            assert upstream.request().wire == want


@pytest.mark.parametrize(
    ("carrier", "target"),
    [
        (b"x-API-key: " + KEY.encode(), b"/openai/v1/x?a=b"),
        (b"x-goog-api-key: " + KEY.encode(), b"/openai/v1/x?a=b"),
        (b"api-key: " + KEY.encode(), b"/openai/v1/x?a=b"),
        (AUTH, b"/openai/v1/x?a=b"),
        (None, b"/openai/v1/x?key=" + KEY.encode() + b"&a=b"),
        (None, b"/openai/v1/x?a=b&key=" + KEY.encode()),
    ],
)
def test_the_carrier_is_the_only_difference(
    carrier: bytes | None, target: bytes, server: Gateway, upstream: Upstream
) -> None:
    lines = [b"A: 1", *([carrier] if carrier else []), b"B: 2"]
    assert server.ask(wire(b"GET " + target + b" HTTP/1.1", b"Host: localhost", *lines)).status == 200
    seen = upstream.request()
    assert seen.line == b"GET /v1/x?a=b HTTP/1.1"
    assert KEY.encode() not in seen.wire
    assert [line for line in seen.headers if line[0].lower() != b"host"] == (
        [(b"A", b"1"), ((b"Authorization" if carrier == AUTH else b"authorization"), SECRET), (b"B", b"2")]
        if carrier
        else [(b"A", b"1"), (b"B", b"2"), (b"authorization", SECRET)]
    )


def test_chunked_json_gets_a_length_in_its_place(server: Gateway, upstream: Upstream) -> None:
    body = b'{"model":"m"}'
    lines = [b"A: 1", b"Transfer-Encoding: chunked", b"Content-Type: application/json", b"B: 2"]
    sent = wire(b"POST /openai/v1/x HTTP/1.1", b"Host: localhost", AUTH, *lines, body=chunked(body[:3], body[3:]))
    assert server.ask(sent).status == 200
    lines[1] = b"Content-Length: %d" % len(body)
    host = b"Host: " + upstream.url[7:].encode()
    assert upstream.request().wire == wire(b"POST /v1/x HTTP/1.1", host, b"Authorization: " + SECRET, *lines, body=body)


@pytest.mark.parametrize("kind", [b"application/octet-stream", b"multipart/form-data; boundary=x", b"text/plain", b""])
@pytest.mark.parametrize("way", ["length", "chunked"])
def test_uploads(kind: bytes, way: str, server: Gateway, upstream: Upstream) -> None:
    """Not JSON: passed on as it comes, framed as the client framed it."""
    body = random.Random(7).randbytes(700_000)
    framing = b"Content-Length: %d" % len(body) if way == "length" else b"transfer-encoding: Chunked"
    lines = [framing, *([b"Content-Type: " + kind] if kind else []), b"A: b"]
    sent = wire(b"POST /openai/v1/files HTTP/1.1", b"Host: localhost", AUTH, *lines)
    sent += body if way == "length" else chunked(*(body[at : at + 60_001] for at in range(0, len(body), 60_001)))
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(sent)
            assert got.status == 200
            seen = upstream.request()
            assert seen.body == body
            host = b"Host: " + upstream.url[7:].encode()
            assert seen.head == wire(b"POST /v1/files HTTP/1.1", host, b"Authorization: " + SECRET, *lines)
    assert server.row(got)["request_bytes"] == len(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_encoded_request_bodies_pass_untouched(encoding: str, server: Gateway, upstream: Upstream) -> None:
    body = PACK[encoding](b'{"model":"inside","stream":false}')
    got = server.ask(request(body=body, headers=[b"Content-Encoding: " + encoding.encode()]))
    assert upstream.request().body == body
    assert upstream.request().get(b"content-encoding") == [encoding.encode()]
    assert server.row(got)["model_asked"] == "inside"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"\xff","stream":1}', b'{"model":1e999}', b'{"model":"a","model":"b"}', b"[", b"\x00\x01", b"null",
        b'{"model":' + b"[" * 5000, b"\xef\xbb\xbf{}", b'{"stream":1e999,"model":[]}',
    ],
)  # fmt: skip
def test_bodies_nobody_can_read_pass_untouched(body: bytes, server: Gateway, upstream: Upstream) -> None:
    """The upstream judges them."""
    with server.connect() as client:
        for encoding in ([], [b"Content-Encoding: gzip"]):
            assert client.ask(request(body=body, headers=encoding)).status == 200
            assert upstream.request().body == body


def test_a_bomb_passes_untouched_and_soon(server: Gateway, upstream: Upstream) -> None:
    """32 KB that stand for a gigabyte: it is the upstream's to refuse, and no reason to stop serving."""
    body = zstandard.compress(b" " * 500_000_000)
    got = server.ask(request(body=body, headers=[b"Content-Encoding: zstd"]))
    assert got.status == 200
    assert upstream.request().body == body
    assert server.row(got)["latency_ms"] < 5000


# --- down

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}
STREAM = b"".join(
    b'data: {"id":"x","model":"m-1","choices":[{"delta":{"content":"%d"},"finish_reason":null}]}\n\n' % n
    for n in range(50)
) + (
    b'data: {"id":"x","model":"m-1","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}'
    b"\n\ndata: [DONE]\n\n"
)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("kind", ["json", "events"])
@pytest.mark.parametrize("encoding", [*PACK, "raw deflate", "identity"])
def test_encoded_answers_pass_untouched_and_are_metered(
    encoding: str, kind: str, framing: str, server: Gateway, upstream: Upstream
) -> None:
    plain = OK_BODY if kind == "json" else STREAM
    if encoding == "raw deflate":
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(plain) + packer.flush()
    else:
        body = PACK.get(encoding, bytes)(plain)
    head = [
        b"HTTP/1.1 200 OK",
        b"Content-Type: " + (b"application/json" if kind == "json" else b"text/event-stream; charset=utf-8"),
        b"CONTENT-encoding: " + encoding.removeprefix("raw ").encode(),
        b"Content-Length: %d" % len(body) if framing == "length" else b"Transfer-Encoding: chunked",
    ]
    sent = body if framing == "length" else chunked(*(body[at : at + 7] for at in range(0, len(body), 7)))
    upstream.plays(wire(*head, body=sent))
    got = server.ask(request(body=b'{"model":"m-1","stream":%b}' % (b"true" if kind == "events" else b"false")))
    assert got.wire == wire(*head, b"x-fluxen-id: " + got.id.encode(), body=sent)
    row = server.row(got)
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 7, "reported")
    assert row["model"] == "m-1"
    assert row["response_bytes"] == len(sent)


def test_down_to_the_byte(server: Gateway, upstream: Upstream) -> None:
    """Order, case, duplicates and odd spaces of an answer's headers; the upstream's x-fluxen-id is dropped."""
    lines = [
        b"HTTP/1.1 299 Anything (goes) \xe4", b"date: x", b"SERVER:y", b"Set-Cookie: a=b", b"set-cookie: c=d",
        b"X-Spaces:   many   \t", b"x-request-id: req_1", b"Content-Length: 2", b"openai-organization:",
    ]  # fmt: skip
    upstream.plays(wire(*lines[:4], b"X-FLUXEN-ID: evil", *lines[4:], body=b"{}"))
    got = server.ask(request())
    assert got.wire == wire(*lines, b"x-fluxen-id: " + got.id.encode(), body=b"{}")
    assert server.row(got)["upstream_request_id"] == "req_1"


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
def test_redirects_are_relayed_not_followed(status: bytes, server: Gateway, upstream: Upstream) -> None:
    location = b"Location: %b/elsewhere" % upstream.url.encode()
    upstream.plays(answer(b"{}", status=status, headers=[location]))
    got = server.ask(request())
    assert got.status == int(status[:3])
    assert location in got.head
    assert len(upstream.requests) == 1


# --- any split

CUTS = st.lists(st.floats(0, 1), max_size=8)


def split(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize("up", ["length", "chunked", "upload"])
@pytest.mark.parametrize("down", ["length", "chunked"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=CUTS, answered=CUTS)
@example(asked=[n / 400 for n in range(400)], answered=[n / 300 for n in range(300)])
def test_any_split(
    up: str, down: str, server: Gateway, upstream: Upstream, asked: list[float], answered: list[float]
) -> None:
    """However a request and its answer are cut into pieces, both arrive, are metered, and leave both connections fit
    for the next."""
    body = b'{"model":"m-1",\r\n\r\n"stream":true,"x":\r\n0\r\n\r\n}'
    sent = request(body=body)
    if up != "length":
        kind = b"application/json" if up == "chunked" else b"application/octet-stream"
        sent = request(body=chunked(body[:9], body[9:]), length=False, json=False,
                       headers=[b"Transfer-Encoding: chunked", b"Content-Type: " + kind])  # fmt: skip
    head = b"Content-Length: %d" % len(STREAM) if down == "length" else b"Transfer-Encoding: chunked"
    framed = STREAM if down == "length" else chunked(*(STREAM[at : at + 90] for at in range(0, len(STREAM), 90)))
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", head]

    def play(connection: Connection, _: Request) -> None:
        for piece in split(wire(*lines, body=framed), answered):
            connection.send(piece)

    upstream.plays(play)
    before = len(upstream.requests)
    with server.connect() as client:
        for _ in range(2):
            for piece in split(sent, asked):
                client.send(piece)
            got = client.answer()
            assert got is not None
            assert got.wire == wire(*lines, b"x-fluxen-id: " + got.id.encode(), body=framed)
    assert [seen.body for seen in upstream.requests[before:]] == [body, body]
    assert len(upstream.connections) == 1
    row = server.row(got)
    if up != "upload":
        assert (row["input_tokens"], row["output_tokens"], row["model_asked"]) == (11, 7, "m-1")
