"""Framing of answers: what an upstream may send, and what becomes of it.

Two promises: an answer that is not whole never looks whole to the client, and the client always gets some answer.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    KEYED,
    OK,
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
    until,
)

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
HTTP10 = request(version=b"HTTP/1.0")


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(keyed(upstream))


def then_close(data: bytes) -> object:
    def play(connection: Connection, _: Request) -> None:
        connection.send(data)
        connection.close()

    return play


# --- whole answers

WHOLE = {
    "plain": (OK, OK_BODY),
    "chunked": (CHUNKED_HEAD + chunked(OK_BODY[:10], OK_BODY[10:]), OK_BODY),
    "chunked with trailers": (CHUNKED_HEAD + chunked(OK_BODY)[:-2] + b"X-T: 1\r\n\r\n", OK_BODY),
    "chunk extensions": (CHUNKED_HEAD + b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(OK_BODY), OK_BODY), OK_BODY),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no reason": (OK.replace(b"200 OK", b"200 "), OK_BODY),
    "neither space nor reason": (OK.replace(b"200 OK", b"200"), OK_BODY),
    "204": (b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", b""),
    "304 with a length": (b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 99\r\n\r\n', b""),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, OK_BODY),
    "103 and 100 before": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK,
        OK_BODY,
    ),
    "500": (answer(b'{"error":{}}', status=b"500 Internal Server Error"), b'{"error":{}}'),
    "429": (answer(b"{}", status=b"429 Too Many Requests", headers=[b"Retry-After: 3"]), b"{}"),
    "302": (answer(b"{}", status=b"302 Found", headers=[b"Location: http://evil.example/"]), b"{}"),
    "60 KB head": (answer(headers=[b"X-A: " + b"a" * 60_000]), OK_BODY),
    "300 headers": (answer(headers=[b"X-%d: 1" % n for n in range(300)]), OK_BODY),
}


@pytest.mark.parametrize("split", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", WHOLE)
def test_whole(case: str, split: str, server: Gateway, upstream: Upstream) -> None:
    """Relayed as it came; both connections are used again."""
    wire, body = WHOLE[case]
    if split == "at once" or len(wire) > 4000:
        upstream.plays(wire)
    else:
        upstream.plays(lambda connection, _: [connection.send(wire[n : n + 1]) for n in range(len(wire))])
    final = wire[wire.rindex(b"HTTP/1.1") :]
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request())
            assert got.complete
            assert got.body == body
            assert not got.interim
            expected = final.replace(b"\r\n\r\n", b"\r\nx-fluxen-id: " + got.id.encode() + b"\r\n\r\n", 1)
            assert got.wire == expected
            row = server.row(got)
            assert row["status"] == got.status
            assert row["error"] == (None if got.status < 400 else "upstream_status")
            assert row["attempts"] == 1
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_ends_with_the_connection(head: bytes, server: Gateway, upstream: Upstream) -> None:
    upstream.plays(then_close(head + b"Content-Type: application/json\r\n\r\n" + OK_BODY))
    with server.connect() as client:
        got = client.ask(request())
        assert got.complete
        assert got.body == OK_BODY
        assert got.head.startswith(b"HTTP/1.1 200 OK\r\n"), "a proxy speaks its own version"
        assert got.get(b"connection") == [b"close"]
        assert not client.was_reset
    row = server.row(got)
    assert (row["status"], row["error"], row["output_tokens"]) == (200, None, 7)


def test_http10_upstream_with_a_length(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(then_close(OK.replace(b"HTTP/1.1", b"HTTP/1.0")))
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request())
            assert (got.status, got.body, got.complete) == (200, OK_BODY, True)
            assert got.head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("length", [b"Content-Length: 130\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_head_requests(length: bytes, server: Gateway, upstream: Upstream) -> None:
    upstream.plays(b"HTTP/1.1 200 OK\r\nX-A: b\r\n" + length + b"\r\n")
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request(b"/openai/v1/models", b"", method=b"HEAD"), b"HEAD")
            assert got.status == 200
            assert got.get(b"x-a") == [b"b"]
            assert length.strip() in got.head
            assert server.row(got)["status"] == 200
        assert client.is_open()


def test_hop_by_hop_headers_of_answers(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(
        answer(
            headers=[b"Keep-Alive: timeout=5", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"x-hop: 2",
                     b"Proxy-Authenticate: x", b"Proxy-Connection: x", b"Upgrade: h2c", b"X-Fluxen-Id: evil",
                     b"x-fluxen-spliced: 1", b"X-Stays: 1", b"x-stays: 2"],
        )
    )  # fmt: skip
    got = server.ask(request())
    assert [name for name, _ in got.headers] == [
        b"Content-Type", b"Content-Length", b"X-Stays", b"x-stays", b"x-fluxen-id",
    ]  # fmt: skip
    assert got.id != "evil"


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding"])
def test_an_answers_connection_can_not_name_what_frames(name: bytes, server: Gateway, upstream: Upstream) -> None:
    framed = answer(headers=[b"Connection: " + name])
    if name == b"transfer-encoding":
        framed = CHUNKED_HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close, " + name + b"\r\n\r\n") + chunked(OK_BODY)
    upstream.plays(framed)
    got = server.ask(request())
    assert (got.body, got.complete) == (OK_BODY, True)


def test_upstream_closes_when_it_says_so(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(then_close(answer(headers=[b"Connection: close"])))
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request())
            assert got.body == OK_BODY
            assert not got.get(b"connection"), "the client's connection is another one"
    assert len(upstream.connections) == 2


# --- answers that are none

MALFORMED = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 frame": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "bare LF": OK.replace(b"\r\n", b"\n"),
    "bare LF in one header": answer(headers=[b"X-A: b\nX-B: c"]),
    "folded header": answer(headers=[b"X-A: b\r\n c"]),
    "bare CR": answer(headers=[b"X-A: b\rc"]),
    "NUL": answer(headers=[b"X-A: b\x00c"]),
    "space before the colon": answer(headers=[b"X-A : b"]),
    "CL and TE": CHUNKED_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + chunked(OK_BODY),
    "TE and CL": answer(headers=[b"Transfer-Encoding: chunked"]),
    "two CL that differ": answer(headers=[b"Content-Length: 5"]),
    "CL negative": OK.replace(b"Content-Length: 130", b"Content-Length: -1"),
    "CL over 64 bits": OK.replace(b"Content-Length: 130", b"Content-Length: 18446744073709551746"),
    "bad status": OK.replace(b"200 OK", b"2x0 OK"),
    "bad version": OK.replace(b"HTTP/1.1", b"HTTP/7.1"),
    "switches protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "head over 64 KB": answer(headers=[b"X-A: " + b"a" * 70_000]),
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000,
    "empty lines behind an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n\r\n\r\n" + b"x" * 40,
    "bad chunk with the head": CHUNKED_HEAD + b"zz\r\n" + OK_BODY,
    "chunk without an end with the head": CHUNKED_HEAD + b"5\r\n" + OK_BODY + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("split", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, split: str, server: Gateway, upstream: Upstream) -> None:
    """502 while nothing was relayed, a broken reply after that; soon, and the connection is never used again."""
    wire = MALFORMED[case]
    if split == "at once" or len(wire) > 4000:
        upstream.plays(wire)
    else:
        upstream.plays(lambda connection, _: [connection.send(wire[n : n + 1]) for n in range(len(wire))])
    with server.connect() as client:
        client.send(request())
        got = client.answer()
        if got is None or not got.complete:
            assert split == "byte by byte", "nothing was relayed yet: there was no need to break"
            assert "chunk" in case
            assert client.ended
        else:
            assert got.status == 502, got.wire
            assert not got.body.endswith(OK_BODY)
            assert b'"code":"upstream_broke"' in got.body
            assert client.ask(request(b"/nowhere")).status == 404, "the client's connection is kept"
    row = server.row(got) if got is not None else until(lambda: server.rows()[-1:], "a row")[0]
    assert row["error"] == "upstream_broke"
    upstream.connections[0].ended.wait(10)
    upstream.plays(OK)
    assert server.ask(request()).status == 200
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("tail", [OK, b"garbage", b"HTTP/1.1 100 Continue\r\n\r\n", OK.replace(b"OK", b"OK, but evil")])
@pytest.mark.parametrize("frame", [OK, CHUNKED_HEAD + chunked(OK_BODY), b"HTTP/1.1 204 No\r\nX-A: b\r\n\r\n"])
def test_more_than_the_answer(frame: bytes, tail: bytes, server: Gateway, upstream: Upstream) -> None:
    """Bytes behind an answer reach nobody: neither this client nor the next one on that connection."""
    upstream.plays(frame + tail)
    got = server.ask(request())
    assert tail not in got.wire
    assert got.status == 502 or got.body in (OK_BODY, b"")
    upstream.connections[0].ended.wait(10)
    upstream.plays(OK)
    again = server.ask(request())
    assert (again.status, again.body) == (200, OK_BODY)
    assert len(upstream.connections) == 2


def test_body_behind_a_head_answer(server: Gateway, upstream: Upstream) -> None:
    """The classic: a server that answers HEAD with a body. It must not become the next answer."""
    upstream.plays(OK.replace(b"200 OK", b"201 Evil"), OK)
    with server.connect() as client:
        head = client.ask(request(b"/openai/v1/models", b"", method=b"HEAD"), b"HEAD")
        assert head.status in (201, 502)
        got = client.ask(request())
        assert (got.status, got.body) == (200, OK_BODY)
    assert len(upstream.connections) == 2


def test_bytes_on_an_idle_connection(server: Gateway, upstream: Upstream) -> None:
    """An answer that nobody asked for is nobody's answer."""
    ready = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(OK)
        ready.wait(15)
        connection.send(OK.replace(b"200 OK", b"200 Evil"))

    upstream.plays(play, OK)
    assert server.ask(request()).status == 200
    ready.set()
    assert upstream.connections[0].ended.wait(10), "the connection is given up"
    got = server.ask(request())
    assert b"Evil" not in got.wire
    assert len(upstream.connections) == 2


# --- answers that break

BREAKS = {
    "before any byte": (b"", None),
    "in the head": (OK[:40], None),
    "behind the head": (OK[: OK.index(b"\r\n\r\n") + 4], 0),
    "in a body with a length": (OK[:-20], len(OK_BODY) - 20),
    "one byte short": (OK[:-1], len(OK_BODY) - 1),
    "in a chunk": (CHUNKED_HEAD + b"%x\r\n" % len(OK_BODY) + OK_BODY[:50], 50),
    "between chunks": (CHUNKED_HEAD + chunked(OK_BODY)[:-5], len(OK_BODY)),
    "before the last CRLF": (CHUNKED_HEAD + chunked(OK_BODY)[:-2], len(OK_BODY)),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("asked", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("case", BREAKS)
def test_broken(case: str, asked: str, how: str, server: Gateway, upstream: Upstream) -> None:
    """502 before the first byte; after it the client can tell that the answer is not whole. Never sent again."""
    wire, relayed = BREAKS[case]
    got_it = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(wire)
        if relayed is not None:
            got_it.wait(15)
        connection.reset() if how == "reset" else connection.close()

    upstream.plays(play)
    with server.connect() as client:
        client.send(request() if asked == "HTTP/1.1" else HTTP10)
        if relayed is None:
            got = client.answer()
            assert got is not None
            assert got.status == 502
            assert got.complete
            assert b'"code":"upstream_broke"' in got.body
            row = server.row(got)
            assert (row["status"], row["error"]) == (502, "upstream_broke")
        else:
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.read()
                assert more
                head += more
            client._pending = head
            got_it.set()
            got = client.answer()
            assert got is not None
            assert not got.complete, "a broken answer looks whole"
            row = server.row(got)
            assert (row["status"], row["error"]) == (200, "upstream_broke")
            assert row["usage_source"] in ("partial", "unknown", "reported")
            assert row["cost_usd"] is None
    assert row["attempts"] == 1
    assert len(upstream.requests) == 1


def test_reset_of_an_answer_that_ends_with_the_connection(server: Gateway, upstream: Upstream) -> None:
    """Close means the end here, so only a reset says that it is not."""
    got_it = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + OK_BODY[:50])
        got_it.wait(15)
        connection.reset()

    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        data = b""
        while not data.endswith(OK_BODY[:50]):
            more = client.read()
            assert more
            data += more
        got_it.set()
        assert client.read() == b""
        assert client.was_reset


def test_bad_chunk_in_the_middle(server: Gateway, upstream: Upstream) -> None:
    """The client sees a broken reply, not a complete one and not silence."""
    relayed = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(CHUNKED_HEAD + b"5\r\n" + OK_BODY[:5] + b"\r\n")
        relayed.wait(15)
        connection.send(b"XYZ\r\n" + OK_BODY[5:] + b"\r\n0\r\n\r\n")

    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        data = b""
        while not data.endswith(b"5\r\n" + OK_BODY[:5] + b"\r\n"):
            more = client.read()
            assert more
            data += more
        started = time.monotonic()
        relayed.set()
        assert client.read() == b""
        assert time.monotonic() - started < 5
    assert upstream.connections[0].ended.wait(10)
    assert server.rows()[-1]["error"] == "upstream_broke"


# --- connections that are used again


def stop_worker(server: Gateway) -> int:
    """SIGSTOP to the one worker, and wait until it has stopped."""
    pid = server.children()["worker 0"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the worker to stop")
    return pid


def test_closed_just_as_the_next_request_is_written(gateway: StartGateway, upstream: Upstream) -> None:
    """The request is answered, and the upstream sees it exactly once, whichever of the two the worker takes up first.

    The worker is stopped while the request and then the upstream's close arrive. (It seldom writes to the closed
    connection then; that such a request is sent once more is proved with a connection by itself, in test_pools.)
    """
    server = gateway(keyed(upstream))
    with server.connect() as client:
        for number in range(6):
            assert client.ask(request()).status == 200
            pooled = upstream.connections[-1]
            pid = stop_worker(server)
            try:
                client.send(request(headers=[b"X-N: %d" % number]))
                pooled.sock.shutdown(socket.SHUT_RDWR)
                until(pooled.ended.is_set, "the upstream's side to be closed")
                pooled.close()
            finally:
                os.kill(pid, signal.SIGCONT)
            got = client.answer()
            assert got is not None
            assert got.status == 200
            assert server.row(got)["attempts"] in (1, 2)
            seen = [one for one in upstream.requests if one.get(b"x-n") == [b"%d" % number]]
            assert len(seen) == 1


def test_not_sent_again_when_it_arrived(server: Gateway, upstream: Upstream) -> None:
    """The upstream read it and then broke: it may have been carried out (and billed). 502."""

    def play(connection: Connection, _: Request) -> None:
        connection.close()

    upstream.plays(OK, play, OK)
    with server.connect() as client:
        assert client.ask(request()).status == 200
        got = client.ask(request(headers=[b"X-N: 2"]))
        assert got.status == 502
        row = server.row(got)
        assert (row["attempts"], row["error"]) == (1, "upstream_broke")
        assert len([one for one in upstream.requests if one.get(b"x-n")]) == 1
        assert client.ask(request()).status == 200


def test_not_sent_again_when_it_was_acknowledged_and_reset(server: Gateway, upstream: Upstream) -> None:
    """As before, by RST; the acknowledgement is on its way before."""

    def quick(connection: Connection) -> None:
        while True:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            one = connection.read_request()
            if one is None:
                return
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            upstream.requests.append(one)
            if one.get(b"x-n"):
                connection.reset()
                return
            connection.send(OK)

    upstream.raw(quick)
    with server.connect() as client:
        assert client.ask(request()).status == 200
        got = client.ask(request(headers=[b"X-N: 2"]))
        assert got.status == 502
        assert server.row(got)["attempts"] == 1
    assert len([one for one in upstream.requests if one.get(b"x-n")]) == 1


def test_never_sent_again_on_a_fresh_connection(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(lambda connection, _: connection.close())
    got = server.ask(request())
    assert got.status == 502
    assert len(upstream.requests) == 1


def test_nothing_listens(gateway: StartGateway) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        server = gateway(KEYED.format(url=url, provider=PROVIDER_KEY, key=KEY))
        with server.connect() as client:
            for _ in range(2):
                got = client.ask(request())
                assert got.status == 502
                assert b'"code":"upstream_unreachable"' in got.body
                row = server.row(got)
                assert (row["error"], row["attempts"], row["cost_usd"]) == ("upstream_unreachable", 1, 0)
