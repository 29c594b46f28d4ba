"""Framing of requests, as an attacker and as an odd client send them.

What matters each time: what the client gets, what the upstream saw (nothing, when the request is refused), and whether
the connection is closed, so that no byte behind a doubtful request is taken for another request.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, OK_BODY, PATIENCE, PROVIDER_KEY, Connection, Gateway, Upstream, chunked, keyed

B = b'{"model":"m","stream":false}'
AUTH = b"Authorization: Bearer " + KEY.encode()
CL = b"Content-Length: 28"
TE = b"Transfer-Encoding: chunked"
CHUNKED = chunked(B)
SECRET = b"Bearer " + PROVIDER_KEY.encode()


def raw(*headers: bytes, body: bytes = B, line: bytes = b"POST /openai/v1/chat/completions HTTP/1.1") -> bytes:
    """A request with exactly these headers."""
    return b"\r\n".join([line, *headers]) + b"\r\n\r\n" + body


def usual(*headers: bytes, body: bytes = B, line: bytes = b"POST /openai/v1/chat/completions HTTP/1.1") -> bytes:
    """With Host, the key and a JSON type before them."""
    return raw(b"Host: localhost", AUTH, b"Content-Type: application/json", *headers, body=body, line=line)


@pytest.fixture(params=["http", "https"])
def server(
    shared_gateway: StartGateway, upstream: Upstream, certificate: Path, request: pytest.FixtureRequest
) -> Gateway:
    return shared_gateway(keyed(upstream, certificate if request.param == "https" else None))


def nothing_went_up(upstream: Upstream) -> bool:
    return not upstream.requests and not any(connection.received_bytes for connection in upstream.connections)


REFUSED = {
    "CL and TE": (usual(CL, TE, body=CHUNKED), 400),
    "TE and CL": (usual(TE, CL, body=CHUNKED), 400),
    "TE and CL: 0": (usual(TE, b"Content-Length: 0", body=CHUNKED), 400),
    "two CL that differ": (usual(CL, b"Content-Length: 5"), 400),
    "two CL that agree": (usual(CL, CL), 400),
    "CL as a list": (usual(b"Content-Length: 28, 28"), 400),
    "CL with a plus": (usual(b"Content-Length: +28"), 400),
    "CL negative": (usual(b"Content-Length: -1"), 400),
    "CL hexadecimal": (usual(b"Content-Length: 0x1c"), 400),
    "CL empty": (usual(b"Content-Length:"), 400),
    "CL with an underscore": (usual(b"Content-Length: 2_8"), 400),
    "CL with a space inside": (usual(b"Content-Length: 2 8"), 400),
    "CL over 64 bits": (usual(b"Content-Length: 18446744073709551644"), 400),
    "CL with 100 digits": (usual(b"Content-Length: " + b"9" * 100), 400),
    "space before the colon": (usual(b"Content-Length : 28"), 400),
    "tab before the colon": (usual(b"Transfer-Encoding\t: chunked", body=CHUNKED), 400),
    "header without a name": (usual(CL, b": x"), 400),
    "header without a colon": (usual(CL, b"X-A"), 400),
    "space before the first header": (raw(b" X-A: b", b"Host: localhost", AUTH, CL), 400),
    "TE identity": (usual(b"Transfer-Encoding: identity"), (400, 501)),
    "TE xchunked": (usual(b"Transfer-Encoding: xchunked", body=CHUNKED), (400, 501)),
    "TE chunked, identity": (usual(b"Transfer-Encoding: chunked, identity", body=CHUNKED), (400, 501)),
    "TE gzip, chunked": (usual(b"Transfer-Encoding: gzip, chunked", body=CHUNKED), 501),
    "TE gzip then chunked in two headers": (usual(b"Transfer-Encoding: gzip", TE, body=CHUNKED), (400, 501)),
    "TE chunked then gzip in two headers": (usual(TE, b"Transfer-Encoding: gzip", body=CHUNKED), (400, 501)),
    "TE gzip alone": (usual(b"Transfer-Encoding: gzip"), (400, 501)),
    "TE chunked twice": (usual(TE, TE, body=CHUNKED), 400),
    "TE chunked, chunked": (usual(b"Transfer-Encoding: chunked, chunked", body=CHUNKED), (400, 501)),
    "TE in quotes": (usual(b'Transfer-Encoding: "chunked"', body=CHUNKED), (400, 501)),
    "TE with a parameter": (usual(b"Transfer-Encoding: chunked;q=1", body=CHUNKED), (400, 501)),
    "TE with vertical tab": (usual(b"Transfer-Encoding: \x0bchunked", body=CHUNKED), (400, 501)),
    "TE empty": (usual(b"Transfer-Encoding:", CL), (400, 501)),
    "TE under HTTP/1.0": (usual(TE, body=CHUNKED, line=b"POST /openai/v1/x HTTP/1.0"), 400),
    "folded header": (usual(CL, b"X-A: b\r\n c"), 400),
    "folded Transfer-Encoding": (usual(b"Transfer-Encoding:\r\n chunked", body=CHUNKED), 400),
    "bare LF everywhere": (usual(CL).replace(b"\r\n", b"\n"), 400),
    "bare LF in one header": (usual(CL, b"X-A: b\nX-B: c"), 400),
    "bare CR in a value": (usual(CL, b"X-A: b\rc"), 400),
    "bare CR before a colon": (usual(CL, b"X-A\r: c"), 400),
    "NUL in a value": (usual(CL, b"X-A: b\x00c"), 400),
    "NUL in a name": (usual(CL, b"X-\x00A: b"), 400),
    "control character in a value": (usual(CL, b"X-A: b\x01c"), 400),
    "chunk size 0x": (usual(TE, body=b"0x1c\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk size with a plus": (usual(TE, body=b"+1c\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk size with a space before": (usual(TE, body=b" 1c\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk size empty": (usual(TE, body=b"\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk lines end in LF": (usual(TE, body=b"1c\n" + B + b"\n0\n\n"), 400),
    "chunk longer than it says": (usual(TE, body=b"1b\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk size over 64 bits": (usual(TE, body=b"1000000000000001c\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "chunk extension with LF": (usual(TE, body=b"1c;a\nb\r\n" + B + b"\r\n0\r\n\r\n"), 400),
    "no Host": (raw(AUTH, CL), 400),
    "two Hosts": (usual(CL, b"Host: other"), 400),
    "two Hosts that agree": (usual(CL, b"HOST: localhost"), 400),
    "two Authorizations": (usual(CL, b"Authorization: Bearer evil"), 400),
    "two Authorizations that agree": (usual(CL, AUTH), 400),
    "two carriers in headers": (usual(CL, b"x-api-key: " + KEY.encode()), 400),
    "header and query": (usual(CL, line=b"POST /openai/v1/chat/completions?key=x HTTP/1.1"), 400),
    "key twice in the query": (
        raw(b"Host: localhost", CL, line=b"POST /openai/v1/x?key=%b&a=b&key=x HTTP/1.1" % KEY.encode()),
        400,
    ),
    "absolute form": (usual(CL, line=b"POST http://evil.example/openai/v1/x HTTP/1.1"), 400),
    "absolute form of ourselves": (usual(CL, line=b"POST http://localhost/openai/v1/x HTTP/1.1"), 400),
    "authority form": (usual(CL, line=b"POST evil.example:80 HTTP/1.1"), 400),
    "asterisk form": (usual(line=b"OPTIONS * HTTP/1.1", body=b""), 400),
    "CONNECT": (usual(line=b"CONNECT evil.example:443 HTTP/1.1", body=b""), 400),
    "CONNECT to a path": (usual(line=b"CONNECT /openai/v1/x HTTP/1.1", body=b""), 400),
    "TRACE": (usual(line=b"TRACE /openai/v1/x HTTP/1.1", body=b""), 405),
    "unknown method": (usual(CL, line=b"FROB /openai/v1/x HTTP/1.1"), 400),
    "method in lower case": (usual(CL, line=b"post /openai/v1/x HTTP/1.1"), 400),
    "space in the path": (usual(CL, line=b"POST /openai/v1/a b HTTP/1.1"), 400),
    "tab for a space": (usual(CL, line=b"POST\t/openai/v1/x\tHTTP/1.1"), 400),
    "8-bit path": (usual(CL, line=b"POST /openai/v1/\xff\xfe HTTP/1.1"), 400),
    "CR in the path": (usual(CL, line=b"POST /openai/v1/a\rb HTTP/1.1"), 400),
    "NUL in the path": (usual(CL, line=b"POST /openai/v1/a\x00b HTTP/1.1"), 400),
    "fragment": (usual(CL, line=b"POST /openai/v1/x#y HTTP/1.1"), 400),
    "HTTP/0.9": (b"GET /openai/v1/models\r\n\r\n", 400),
    "HTTP/1.2": (usual(CL, line=b"POST /openai/v1/x HTTP/1.2"), 400),
    "HTTP/2.0": (usual(CL, line=b"POST /openai/v1/x HTTP/2.0"), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
    "70 KB header": (usual(CL, b"X-A: " + b"a" * 70_000), 431),
    "70 KB in many headers": (usual(CL, *(b"X-%d: " % n + b"a" * 700 for n in range(100))), 431),
    "70 KB target": (usual(CL, line=b"POST /openai/v1/" + b"a" * 70_000 + b" HTTP/1.1"), 431),
    "500 headers": (usual(CL, *(b"X-%d: 1" % n for n in range(500))), 431),
    "Expect of something else": (usual(CL, b"Expect: 200-ok"), 417),
    "two spaces in the request line": (usual(CL, line=b"POST  /openai/v1/x HTTP/1.1"), 400),
    "space behind the request line": (usual(CL, line=b"POST /openai/v1/x HTTP/1.1 "), 400),
    "trailers that frame": (usual(TE, body=CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n"), 400),
    "Connection names Authorization": (usual(CL, b"Connection: keep-alive, authorization"), 400),
    "two types": (usual(CL, b"Content-Type: text/plain"), 400),
    "Connection names the credential": (
        raw(b"Host: localhost", b"x-api-key: " + KEY.encode(), CL, b"Connection: close, x-api-key"),
        400,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_closed(case: str, server: Gateway, upstream: Upstream) -> None:
    sent, status = REFUSED[case]
    with server.connect() as client:
        answer = client.ask(sent)
        assert answer.status in (status if isinstance(status, tuple) else (status,)), answer.wire
        assert answer.complete
        assert b'"error"' in answer.body
        assert answer.get(b"connection") == [b"close"]
        assert client.closes()
    assert nothing_went_up(upstream)


@pytest.mark.parametrize("case", [name for name, (sent, _) in REFUSED.items() if len(sent) < 2000])
def test_refused_byte_by_byte(case: str, server: Gateway, upstream: Upstream) -> None:
    """Where the pieces end makes no difference: the same verdict in any case."""
    sent, status = REFUSED[case]
    with server.connect() as client:
        for at in range(len(sent)):
            client.send(sent[at : at + 1])
            if not client.is_open():
                break
        answer = client.answer()
        assert answer is not None
        assert answer.status in (status if isinstance(status, tuple) else (status,)), answer.wire
        assert client.closes()
    assert nothing_went_up(upstream)


ACCEPTED = {
    "plain": usual(CL),
    "chunked": usual(TE, body=CHUNKED),
    "chunked, name and value in odd case": usual(b"tRANSFER-eNCODING: ChunKed", body=CHUNKED),
    "chunked behind a tab": usual(b"Transfer-Encoding:\tchunked", body=CHUNKED),
    "many chunks": usual(TE, body=chunked(*(B[n : n + 1] for n in range(len(B))))),
    "chunk size in upper case and with zeros": usual(TE, body=b"0001C\r\n" + B + b"\r\n000\r\n\r\n"),
    "chunk extension": usual(TE, body=b"1c;a=b\r\n" + B + b"\r\n0;c\r\n\r\n"),
    "chunk extension in quotes": usual(TE, body=b'1c;a="b;c"\r\n' + B + b"\r\n0\r\n\r\n"),
    "trailers": usual(TE, b"Trailer: X-T", body=CHUNKED[:-2] + b"X-T: 1\r\nHost: evil\r\n\r\n"),
    "CL with zeros": usual(b"Content-Length: 00028"),
    "spaces around CL": usual(b"Content-Length: \t 28 \t"),
    "20 KB header": usual(CL, b"X-A: " + b"a" * 20_000),
    "empty line before": b"\r\n" + usual(CL),
    "8-bit value": usual(CL, b"X-A: \xe4\xff"),
    "Expect without waiting": usual(CL, b"Expect: 100-continue"),
}


@pytest.mark.parametrize("pieces", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str, pieces: str, server: Gateway, upstream: Upstream) -> None:
    """Odd but unambiguous. Upstream it is plain: one Host, one framing, no trailers, no hop-by-hop header."""
    sent = ACCEPTED[case]
    with server.connect() as client:
        if pieces == "at once" or len(sent) > 2000:
            client.send(sent)
        else:
            for at in range(len(sent)):
                client.send(sent[at : at + 1])
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.body) == (200, OK_BODY)
        assert (b"100-continue" in sent) == bool(answer.interim)
        again = client.ask(usual(CL))
        assert again.status == 200, "the connection is kept"
    assert len(upstream.requests) == 2
    seen = upstream.requests[0]
    assert seen.line == b"POST /v1/chat/completions HTTP/1.1"
    assert seen.body == B
    assert seen.get(b"host") == [upstream.url[7:].encode()]
    assert seen.get(b"authorization") == [SECRET]
    lengths = seen.get(b"content-length")
    assert [int(value) for value in lengths] == [len(B)]
    for gone in (b"transfer-encoding", b"trailer", b"x-t", b"expect", b"connection", b"te"):
        assert not seen.get(gone), gone


def test_pipelining(server: Gateway, upstream: Upstream) -> None:
    """Three at once are answered in order, one after the other."""
    upstream.plays(*(OK.replace(b"\r\n\r\n", b"\r\nX-N: %d\r\n\r\n" % number) for number in range(4)))
    with server.connect() as client:
        client.send(b"".join(usual(CL, b"X-N: %d" % number) for number in range(3)))
        answers = [client.answer() for _ in range(3)]
        assert [one.status for one in answers if one] == [200] * 3
        assert [one.get(b"x-n") for one in answers if one] == [[b"0"], [b"1"], [b"2"]]
        assert len({one.id for one in answers if one}) == 3
        assert client.ask(usual(CL)).status == 200
    assert [seen.get(b"x-n") for seen in upstream.requests[:3]] == [[b"0"], [b"1"], [b"2"]]


def test_pipelining_behind_a_long_answer(server: Gateway, upstream: Upstream) -> None:
    """What comes while an answer is awaited waits, whole and in pieces, chunked and not."""
    second = usual(CL, b"X-N: 2")
    third = usual(TE, b"X-N: 3", body=chunked(B[:10], B[10:]))
    awaited, sent = threading.Event(), threading.Event()

    def answer_late(connection: Connection, _: object) -> None:
        awaited.set()
        assert sent.wait(PATIENCE)
        connection.send(OK)

    upstream.plays(answer_late, OK)
    with server.connect() as client:
        client.send(usual(CL))
        assert awaited.wait(PATIENCE)
        for at in range(len(second) - 20):
            client.send(second[at : at + 1])
        client.send(second[-20:] + third)
        sent.set()
        for _ in range(3):
            answer = client.answer()
            assert answer is not None
            assert answer.status == 200
    assert [seen.get(b"x-n") for seen in upstream.requests] == [[], [b"2"], [b"3"]]
    assert [seen.body for seen in upstream.requests] == [B] * 3


def test_pipelining_behind_a_chunked_request(server: Gateway, upstream: Upstream) -> None:
    """What comes in one read with a chunked body's end is not answered, and nobody sees it: the connection ends."""
    with server.connect() as client:
        assert client.ask(usual(TE, body=CHUNKED) + usual(CL, b"X-N: 2")).status == 200
        assert client.closes()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "tail", [b"POST /openai/v1/x HTTP/1.1\r\nX-A: ", b"POST /openai/v1/x HTTP/1.1\r\nX-A", b"GARBAGE"]
)
@pytest.mark.parametrize("path", [b"/openai/v1/chat/completions", b"/v1/messages"])
def test_head_that_begins_behind_a_chunked_request(
    path: bytes, tail: bytes, server: Gateway, upstream: Upstream
) -> None:
    """Its second half must not be taken for a request, neither behind a slow answer nor behind one of our own that is
    there at once (/v1/messages has no upstream here)."""
    smuggled = b"GET /openai/v1/smuggled HTTP/1.1\r\nHost: localhost\r\n" + AUTH + b"\r\n\r\n"
    with server.connect() as client:
        first = client.ask(usual(TE, body=CHUNKED + tail, line=b"POST " + path + b" HTTP/1.1"))
        assert first.status == (404 if b"messages" in path else 200)
        client.send(smuggled)
        assert client.answer() is None
        assert client.ended
    assert not any(b"smuggled" in seen.target for seen in upstream.requests)


def test_refused_in_the_middle_of_a_pipeline(server: Gateway, upstream: Upstream) -> None:
    """The good one is answered, the bad one refused, and nothing behind it is looked at."""
    with server.connect() as client:
        client.send(usual(CL) + usual(CL, b"Host: other") + usual(CL, b"X-N: 3"))
        first, second = client.answer(), client.answer()
        assert first is not None
        assert first.status == 200
        assert second is not None
        assert second.status == 400
        assert client.closes()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "tail", [b"GARBAGE", b"\x00" * 40, b"GET / HTTP/9.9\r\n\r\n", b"POST /openai/v1/x HTTP/1.1\nHost"]
)
def test_garbage_behind_a_good_request(tail: bytes, server: Gateway, upstream: Upstream) -> None:
    """The good one is answered; the upstream never sees the rest; the connection ends."""
    with server.connect() as client:
        answer = client.ask(usual(CL) + tail)
        assert (answer.status, answer.body) == (200, OK_BODY)
        try:
            second = client.answer()
        except AssertionError:
            pytest.fail("half an answer")
        assert second is None or second.status == 400
        assert client.ended or client.closes()
    assert len(upstream.requests) == 1
    assert tail not in upstream.connections[0].received


def test_smuggled_request_is_a_body(server: Gateway, upstream: Upstream) -> None:
    """A whole request inside a body stays a body."""
    inner = usual(CL, b"X-Smuggled: 1")
    with server.connect() as client:
        assert client.ask(usual(b"Content-Length: %d" % len(inner), body=inner)).status == 200
        assert client.ask(usual(TE, body=chunked(inner))).status == 200
        assert client.ask(usual(CL)).status == 200
    assert [seen.body for seen in upstream.requests] == [inner, inner, B]
    assert not any(seen.get(b"x-smuggled") for seen in upstream.requests)


def test_data_behind_connection_close(server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        answer = client.ask(usual(CL, b"Connection: close") + usual(CL))
        assert answer.status == 200
        assert answer.get(b"connection") == [b"close"]
        assert client.closes()
    assert len(upstream.requests) == 1


# --- Connection


@pytest.mark.parametrize(
    "names",
    [
        b"close, X-Secret",
        b"X-Secret",
        b"keep-alive,x-secret , ,",
        b"x-SECRET\r\nConnection: foo",
        b"foo\r\nconnection:X-Secret",
    ],
)
def test_what_connection_names_is_dropped(names: bytes, server: Gateway, upstream: Upstream) -> None:
    answer = server.ask(usual(CL, b"X-Secret: 1", b"Connection: " + names, b"x-secret: 2", b"X-Other: 3"))
    assert answer.status == 200
    assert not upstream.request().get(b"x-secret")
    assert not upstream.request().get(b"connection")
    assert upstream.request().get(b"x-other") == [b"3"]


@pytest.mark.parametrize("name", [b"content-length", b"Host", b"transfer-encoding", b"close"])
def test_connection_can_not_name_what_frames(name: bytes, server: Gateway, upstream: Upstream) -> None:
    """Nominating Content-Length or Host does not make the upstream see another request."""
    for framing, body in ((CL, B), (TE, CHUNKED)):
        answer = server.ask(usual(framing, b"Connection: keep-alive, " + name, body=body))
        assert answer.status == 200
        seen = upstream.request()
        assert seen.body == B
        assert seen.get(b"content-length") == [b"28"]
        assert len(seen.get(b"host")) == 1
        assert seen.get(b"authorization") == [SECRET]


def test_hop_by_hop_headers_are_dropped(server: Gateway, upstream: Upstream) -> None:
    hops = [b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"Proxy-Authorization: Basic eA==", b"TE: trailers",
            b"Trailer: X-T", b"Proxy-Authenticate: x", b"X-Fluxen-Anything: 1", b"x-fluxen-tags: a=b"]  # fmt: skip
    assert server.ask(usual(CL, *hops)).status == 200
    names = {name.lower() for name, _ in upstream.request().headers}
    assert names == {b"host", b"authorization", b"content-type", b"content-length"}


# --- HTTP/1.0


@pytest.mark.parametrize("headers", [(), (b"Connection: keep-alive",)])
def test_http10(headers: tuple[bytes, ...], server: Gateway, upstream: Upstream) -> None:
    """Spoken to as it can be: answered, then closed; also without a Host."""
    line = b"POST /openai/v1/chat/completions HTTP/1.0"
    for sent in (usual(CL, *headers, line=line), raw(AUTH, CL, *headers, line=line)):
        with server.connect() as client:
            answer = client.ask(sent)
            assert (answer.status, answer.body) == (200, OK_BODY)
            assert client.closes()
        assert upstream.request().line == b"POST /v1/chat/completions HTTP/1.1"
        assert len(upstream.request().get(b"host")) == 1


@pytest.mark.parametrize("headers", [(), (b"Connection: keep-alive",)])
def test_http10_gets_no_chunks(headers: tuple[bytes, ...], server: Gateway, upstream: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    upstream.plays(head + chunked(OK_BODY[:5], OK_BODY[5:]))
    answer = server.ask(usual(CL, *headers, line=b"POST /openai/v1/chat/completions HTTP/1.0"))
    assert (answer.status, answer.body) == (200, OK_BODY)
    assert answer.complete
    assert not answer.get(b"transfer-encoding")
    assert answer.get(b"x-a") == [b"b"]
    assert server.row(answer)["output_tokens"] == 7


def test_http10_sees_when_an_answer_is_cut(server: Gateway, upstream: Upstream) -> None:
    """Its only sign of an end is the end of the connection: a cut answer must end otherwise."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    relayed = threading.Event()

    def play(connection: Connection, _: object) -> None:
        connection.send(head + b"5\r\n" + OK_BODY[:5] + b"\r\n")
        relayed.wait(15)
        connection.close()

    upstream.plays(play)
    with server.connect() as client:
        client.send(usual(CL, line=b"POST /openai/v1/chat/completions HTTP/1.0"))
        got = b""
        while not got.endswith(OK_BODY[:5]):
            more = client.read()
            assert more
            got += more
        relayed.set()
        assert client.read() == b""
        assert client.was_reset, "a cut answer looked complete"


# --- Expect


def test_continue_comes_after_admission(server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        client.send(usual(CL, b"Expect: 100-continue", body=b""))
        got = b""
        while b"\r\n\r\n" not in got:
            got += client.read()
        assert got == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert nothing_went_up(upstream)
        answer = client.ask(B)
        assert (answer.status, answer.body) == (200, OK_BODY)
        assert client.ask(usual(CL)).status == 200
    assert upstream.requests[0].body == B
    assert not upstream.requests[0].get(b"expect")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (raw(b"Host: localhost", CL, b"Expect: 100-continue", body=b""), 401),
        (raw(b"Host: localhost", b"Authorization: Bearer wrong", CL, b"Expect: 100-continue", body=b""), 401),
        (usual(CL, b"Expect: 100-continue", body=b"", line=b"POST /nowhere HTTP/1.1"), 404),
        (usual(b"Content-Length: 99000000", b"Expect: 100-continue", body=b""), 413),
    ],
)
def test_no_continue_for_what_is_refused(sent: bytes, status: int, server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        answer = client.ask(sent)
        assert answer.status == status
        assert not answer.interim
        assert client.closes()
    assert nothing_went_up(upstream)


def test_http10_gets_no_continue(server: Gateway, upstream: Upstream) -> None:
    answer = server.ask(usual(CL, b"Expect: 100-continue", line=b"POST /openai/v1/chat/completions HTTP/1.0"))
    assert answer.status == 200
    assert not answer.interim


# --- Upgrade


@pytest.mark.parametrize("protocol", [b"websocket", b"WebSocket"])
def test_websocket(protocol: bytes, server: Gateway, upstream: Upstream) -> None:
    """426 as Codex wants it, and the request is not carried out as a plain GET."""
    sent = usual(
        b"Connection: Upgrade", b"Upgrade: " + protocol, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: eA==",
        line=b"GET /openai/v1/responses HTTP/1.1", body=b"",
    )  # fmt: skip
    with server.connect() as client:
        answer = client.ask(sent + b"\x81\x05hello", b"GET")
        assert answer.status == 426
        assert b'"error"' in answer.body
        assert client.closes()
    assert nothing_went_up(upstream)


def test_websocket_without_a_key_is_401(server: Gateway, upstream: Upstream) -> None:
    sent = raw(
        b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket", body=b"", line=b"GET /v1/responses HTTP/1.1"
    )
    with server.connect() as client:
        assert client.ask(sent, b"GET").status == 401
        assert client.closes()
    assert nothing_went_up(upstream)


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
NESTED = b'{"model":"m","x":"a\r\nUpgrade: h2c\r\n"}' + usual(CL, b"X-Smuggled: 1")


@pytest.mark.parametrize("split", ["at once", "behind the head", "in the head", "byte by byte"])
@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (usual(CL, *H2C), B),
        (usual(*H2C, TE, body=CHUNKED), B),
        (usual(b"Content-Length: %d" % len(NESTED), *H2C, body=NESTED), NESTED),
        (usual(*H2C, b"Content-Length: 0", body=b""), b""),
    ],
)
def test_h2c_is_ignored(sent: bytes, body: bytes, split: str, server: Gateway, upstream: Upstream) -> None:
    """The offer is turned down by going on in HTTP/1.1: the request and its body arrive, however they are split, and
    what follows is the next request."""
    cut = sent.index(b"\r\n\r\n") + 4
    pieces = {
        "at once": [sent],
        "behind the head": [sent[:cut], sent[cut:]],
        "in the head": [sent[: cut - 30], sent[cut - 30 : cut + 3], sent[cut + 3 :]],
        "byte by byte": [sent[n : n + 1] for n in range(len(sent))],
    }[split]
    with server.connect() as client:
        for piece in pieces:
            client.send(piece)
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.body) == (200, OK_BODY)
        assert client.ask(usual(CL, b"X-N: 2")).status == 200
    assert [seen.body for seen in upstream.requests] == [body, B]
    for name, _ in upstream.requests[0].headers:
        assert name.lower() not in (b"upgrade", b"http2-settings", b"connection")


def test_upgrade_in_a_head_that_began_behind_another_request(server: Gateway, upstream: Upstream) -> None:
    """The head's beginning came in one read with the request before it: its second half must not be taken for a
    request of its own."""
    smuggled = b"POST /openai/v1/smuggled HTTP/1.1\r\nX-A: b"
    second = usual(CL, b"X-A: " + b"a" * 10, b"X-B: c")
    cut = second.index(b"X-B: c")
    tail = smuggled + b"\r\n" + b"\r\n".join(H2C) + b"\r\n" + second[cut:]
    first = usual(CL)
    with server.connect() as client:
        assert client.ask(first + second[:cut]).status == 200
        answer = client.ask(tail)
        assert answer.status in (200, 400)
    assert not any(b"smuggled" in seen.target for seen in upstream.requests)


# --- other methods


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"PUT", b"PATCH", b"OPTIONS"])
def test_other_methods(method: bytes, server: Gateway, upstream: Upstream) -> None:
    upstream.plays(OK if method != b"HEAD" else OK.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    with server.connect() as client:
        for _ in range(2):
            answer = client.ask(usual(line=method + b" /openai/v1/models HTTP/1.1", body=b""), method)
            assert answer.status == 200
            assert answer.body == (b"" if method == b"HEAD" else OK_BODY)
            assert upstream.request().line == method + b" /v1/models HTTP/1.1"
            assert not upstream.request().get(b"content-length")
    assert len(upstream.connections) == 1, "the upstream's connection is used again"


@pytest.mark.parametrize("framing", [(CL, B), (TE, CHUNKED)])
def test_get_with_a_body(framing: tuple[bytes, bytes], server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        for _ in range(2):
            sent = usual(framing[0], line=b"GET /openai/v1/models HTTP/1.1", body=framing[1])
            assert client.ask(sent, b"GET").status == 200
            assert upstream.request().body == B


def test_own_errors_to_head_have_no_body(server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        for _ in range(2):
            answer = client.ask(usual(line=b"HEAD /nowhere HTTP/1.1", body=b""), b"HEAD")
            assert answer.status == 404
            assert int(answer.get(b"content-length")[0]) > 0


def test_many_connection_headers_cost_little(server: Gateway, upstream: Upstream) -> None:
    """64 KB of them: the worker must not be busy for longer than for any other head of that size."""
    headers = [b"Connection:a"] * 4400
    with server.connect() as client:
        answer = client.ask(usual(CL, *headers))
        assert answer.status in (200, 431)


def test_faults_leave_one_bounded_line(server: Gateway, upstream: Upstream) -> None:
    """Malformed heads are counted and logged at a bounded rate; they are no rows."""
    before = len(server.rows())
    for _ in range(20):
        assert server.ask(usual(CL, CL)).status == 400
    answer = server.ask(usual(CL))
    assert server.row(answer)["status"] == 200
    assert len(server.rows()) == before + 1
    lines = [line for line in server.logged("refused") if line["code"] == "invalid_request"]
    assert 1 <= len(lines) <= 20


@pytest.mark.parametrize("name", [b"CONTENT-LENGTH: ", b"Content-length:", b"content-length:\t", b"Content-Length:  "])
def test_the_same_head_again(name: bytes, server: Gateway, upstream: Upstream) -> None:
    """Heads are remembered. A length is the body's own each time, however it is spelled."""
    inner = usual(CL, b"X-Smuggled: 1")
    bodies = [B, B, inner, B + b"x", b"", B, inner]
    with server.connect() as client:
        for body in bodies:
            assert client.ask(usual(name + b"%d" % len(body), body=body)).status == 200
    assert [seen.body for seen in upstream.requests] == bodies
    assert not any(seen.get(b"x-smuggled") for seen in upstream.requests)
