"""`stream_usage: exact`: streams on unified routes report what they used, and their clients notice nothing."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK,
    OK_BODY,
    Client,
    Connection,
    Gateway,
    Play,
    Request,
    Upstream,
    answer,
    chunked,
    request,
    split_head,
    unchunk,
    until,
    values,
)

CHAT = b"/v1/chat/completions"
BODY = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}'
ASKED = {"include_usage": True}
USAGE = b'{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}'


def event(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"


def piece(content: bytes) -> bytes:
    """An event as OpenAI sends it to who has asked for the usage."""
    return event(
        b'{"id":"x","object":"chat.completion.chunk","model":"gpt-4o-2024-08-06",'
        b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"usage":null}' % content
    )


FINISH = event(
    b'{"id":"x","model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}'
)
REPORT = event(
    b'{"id":"x","object":"chat.completion.chunk","model":"gpt-4o-2024-08-06","choices":[],"usage":%b}' % USAGE
)
DONE = b"data: [DONE]\n\n"
SEEN = piece(b"one") + piece(b"two") + FINISH + DONE
"""What the client is to see of the stream."""
STREAM = piece(b"one") + piece(b"two") + FINISH + REPORT + DONE

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-request-id: req_1\r\n"


def sse(*pieces: bytes, headers: Iterable[bytes] = ()) -> bytes:
    """A stream in chunks."""
    return (
        HEAD + b"".join(line + b"\r\n" for line in headers) + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces)
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def read_until(client: Client, wanted: bytes, before: bytes = b"") -> bytes:
    """What the client gets up to `wanted`, which may have begun in what came before."""
    data = b""
    while wanted not in before + data:
        more = client.read()
        assert more, f"the connection ended before {wanted!r} came: {data!r}"
        data += more
    return data


def identity(got: bytes) -> str:
    """The id in an answer's head."""
    _, headers = split_head(got.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    return values(headers, b"x-fluxen-id")[0].decode()


CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", api_key: "sk-provider-fedcba9876543210"{more}}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


def config(upstream: Upstream, more: str = "", top: str = "") -> str:
    return CONFIG.format(url=upstream.url, key=KEY, more=more) + top


@pytest.fixture
def served(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(config(upstream))


def test_the_stream_reports(served: Gateway, upstream: Upstream) -> None:
    """The provider is asked, in the client's own bytes and one name more; the client does not see the answer to it."""
    upstream.plays(sse(STREAM))
    got = served.ask(request(CHAT, BODY))
    assert (got.status, got.complete) == (200, True)
    assert got.body == SEEN
    assert got.get(b"x-fluxen-spliced") == [b"1"]
    assert got.get(b"transfer-encoding") == [b"chunked"]
    sent = upstream.request()
    assert sent.body == BODY[:-1] + b',"stream_options":{"include_usage":true}}'
    assert sent.get(b"content-length") == [b"%d" % len(sent.body)]
    assert sent.get(b"accept-encoding") == [b"identity"]
    row = served.row(got)
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("reported", 11, 7)
    assert (row["attempts"], row["finish"], row["error"]) == (1, "stop", None)
    assert row["request_bytes"] == len(BODY)
    assert row["response_bytes"] == len(got.wire) - len(got.head)
    assert row["cost_usd"] is not None


# --- what the client sees


WORD = b'{"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}'
LAST = b'{"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":%b}' % USAGE
TOTAL = b'{"id":"x","choices":[],"usage":%b}' % USAGE
FILTERS = event(b'{"choices":[],"id":"","model":"","prompt_filter_results":[{"prompt_index":0}]}')
STREAMS: dict[str, tuple[bytes, bytes]] = {
    "CRLF": (STREAM.replace(b"\n", b"\r\n"), SEEN.replace(b"\n", b"\r\n")),
    "comments": (b": hello\n\n" + STREAM + b": bye\n\n", b": hello\n\n" + SEEN + b": bye\n\n"),
    "spaces": (
        event(WORD) + event(b'{ "choices": [ ], "usage": %b }' % USAGE) + DONE,
        event(WORD) + DONE,
    ),
    "usage in the last choice": (event(WORD) + event(LAST) + DONE, event(WORD) + event(LAST) + DONE),
    "no choices and no usage": (FILTERS + STREAM, FILTERS + SEEN),
    "the last word missing": (event(WORD) + event(TOTAL), event(WORD)),
    "the last empty line missing": (event(WORD) + event(TOTAL)[:-1], event(WORD)),
    "an empty line missing behind another": (STREAM[:-1], SEEN[:-1]),
    "named events": (b"event: chunk\n" + event(WORD) + b"event: chunk\nid: 7\n" + event(TOTAL) + DONE,
                     b"event: chunk\n" + event(WORD) + DONE),
    "an event of 100 KB": (piece(b"x" * 100_000) + STREAM, piece(b"x" * 100_000) + SEEN),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAMS)
def test_whatever_the_stream_looks_like(case: str, served: Gateway, upstream: Upstream) -> None:
    stream, seen = STREAMS[case]
    upstream.plays(sse(stream))
    got = served.ask(request(CHAT, BODY))
    assert (got.body, got.complete) == (seen, True)
    row = served.row(got)
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("reported", 11, 7)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_wherever_it_is_cut(size: int, served: Gateway, upstream: Upstream) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

    def play(connection: Connection, _: Request) -> None:
        wire = sse(*pieces)
        for at in range(0, len(wire), 3 * size):
            connection.send(wire[at : at + 3 * size])

    upstream.plays(play)
    with served.connect() as client:
        for _ in range(3):
            got = client.ask(request(CHAT, BODY))
            assert (got.body, got.complete) == (SEEN, True)


def test_events_go_on_as_they_come(served: Gateway, upstream: Upstream) -> None:
    """Also when the event to keep back has come, and nothing behind it."""
    turn = threading.Semaphore(0)

    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for part in (b": still here\n", b"\n" + piece(b"one"), piece(b"two") + FINISH[:30], FINISH[30:] + REPORT, DONE):
            assert turn.acquire(timeout=15)
            connection.send(chunk(part))
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    with served.connect() as client:
        client.send(request(CHAT, BODY))
        got = read_until(client, b"\r\n\r\n")
        for wanted in (b": still here\n", piece(b"one"), piece(b"two"), FINISH):
            turn.release()
            got += read_until(client, wanted, got.partition(b"\r\n\r\n")[2])
        turn.release()
        got += read_until(client, b"\r\n0\r\n\r\n", got)
    found = unchunk(got.partition(b"\r\n\r\n")[2])
    assert found is not None and found[0] == b": still here\n\n" + SEEN


FRAMINGS: dict[str, tuple[bytes, bool]] = {
    "length": (HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM, True),
    "until the connection ends": (HEAD + b"\r\n" + STREAM, False),
    "HTTP/1.0": (HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + STREAM, False),
    "gzip": (sse(gzip.compress(STREAM), headers=[b"Content-Encoding: gzip"]), True),
    "deflate": (sse(zlib.compress(STREAM), headers=[b"Content-Encoding: deflate"]), True),
    "trailers": (sse(STREAM)[:-2] + b"x-cost: 1\r\n\r\n", True),
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_whatever_the_framing(framing: str, served: Gateway, upstream: Upstream) -> None:
    """Nothing in the head says of the body what is not so."""
    wire, framed = FRAMINGS[framing]

    def play(connection: Connection, _: Request) -> None:
        connection.send(wire)
        if not framed:
            connection.close()

    upstream.plays(play)
    with served.connect() as client:
        got = client.ask(request(CHAT, BODY))
        assert (got.status, got.body, got.complete) == (200, SEEN, True)
        assert got.get(b"content-length") == got.get(b"content-encoding") == []
        assert got.get(b"transfer-encoding") == ([b"chunked"] if framed else [])
        assert got.get(b"x-fluxen-spliced") == [b"1"]
        assert framed == client.is_open()
    assert served.row(got)["usage_source"] == "reported"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_client_of_http_1_0(framing: str, served: Gateway, upstream: Upstream) -> None:
    """It gets the bare events, and the end of the connection is theirs."""
    wire, framed = FRAMINGS[framing]

    def play(connection: Connection, _: Request) -> None:
        connection.send(wire)
        if not framed:
            connection.close()

    upstream.plays(play)
    with served.connect() as client:
        got = client.ask(request(CHAT, BODY, version=b"HTTP/1.0"))
        assert (got.status, got.body, got.complete) == (200, SEEN, True)
        assert got.get(b"transfer-encoding") == got.get(b"content-length") == []
    assert served.row(got)["usage_source"] == "reported"


def test_an_encoding_that_nobody_knows(served: Gateway, upstream: Upstream) -> None:
    """It passes as it is."""
    upstream.plays(sse(b"\x00\x01whatever", headers=[b"Content-Encoding: x-own"]))
    got = served.ask(request(CHAT, BODY))
    assert (got.body, got.get(b"content-encoding")) == (b"\x00\x01whatever", [b"x-own"])


@pytest.mark.parametrize("bad", [b"no gzip at all", gzip.compress(b"\0" * 50_000_000)], ids=["malformed", "a bomb"])
def test_an_encoding_that_can_not_be_undone(bad: bytes, served: Gateway, upstream: Upstream) -> None:
    """At once: it is no answer. Later: the answer breaks, and does not look complete."""
    encoded = [b"Content-Encoding: gzip"]
    upstream.plays(sse(bad, headers=encoded))
    got = served.ask(request(CHAT, BODY))
    assert (got.status, served.row(got)["error"]) == (502, "upstream_broke")
    seen = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        good = gzip.compress(piece(b"one"))
        wire = sse(good, bad, headers=encoded)
        at = wire.index(good) + len(good)
        connection.send(wire[:at])
        assert seen.wait(15)
        connection.send(wire[at:])

    upstream.plays(play)
    with served.connect() as client:
        client.send(request(CHAT, BODY))
        begun = read_until(client, piece(b"one"))
        seen.set()
        while more := client.read():
            begun += more
    assert b"\r\n0\r\n\r\n" not in begun
    assert served.row(identity(begun))["error"] == "upstream_broke"
    upstream.plays(sse(STREAM))
    assert served.ask(request(CHAT, BODY)).body == SEEN


ANSWERS: dict[str, bytes] = {
    "no stream": OK,
    "another error": answer(b'{"error":{"message":"no such model"}}', status=b"404 Not Found"),
    "a limit": answer(b'{"error":{}}', status=b"429 Too Many Requests", headers=[b"Retry-After: 3"]),
    "a fault": answer(b"<html>", status=b"500 Internal Server Error", kind=b"text/html"),
    "events of an error": answer(event(TOTAL), status=b"503 Service Unavailable", kind=b"text/event-stream"),
    "a wrong request": answer(b'{"error":{"message":"messages is empty"}}', status=b"400 Bad Request"),
    "a large refusal": answer(b'{"stream_options":"%b"}' % (b"x" * 40_000), status=b"400 Bad Request"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize("case", ANSWERS)
def test_other_answers_pass_as_they_are(case: str, version: bytes, served: Gateway, upstream: Upstream) -> None:
    upstream.plays(ANSWERS[case])
    head, _, body = ANSWERS[case].partition(b"\r\n\r\n")
    got = served.ask(request(CHAT, BODY, version=version))
    assert (got.status, got.body, got.complete) == (int(head[9:12]), body, True)
    assert got.get(b"x-fluxen-spliced") == [b"1"]
    length = re.search(rb"Content-Length: (\d+)", head)
    assert got.get(b"content-length") == ([length[1]] if length else [])
    assert len(upstream.requests) == 1
    assert served.row(got)["attempts"] == 1


# --- what is sent


ALONE: dict[str, bytes] = {
    "asked by the client": b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true}}',
    "not asked by the client": b'{"model":"gpt-4o","stream_options":{"include_usage":false},"stream":true}',
    "escaped": b'{"model":"gpt-4o","stream":true,"stream\\u005foptions":null}',
    "written otherwise": b'{"model":"gpt-4o","stream":true,"streamOptions":{}}',
    "twice": b'{"model":"gpt-4o","stream":true,"n":1,"n":1}',
    "no stream": b'{"model":"gpt-4o","stream":false}',
    "stream is a number": b'{"model":"gpt-4o","stream":1}',
    "no word of it": b'{"model":"gpt-4o"}',
    "not JSON": b'{"model":"gpt-4o","stream":true,}',
    "a list": b'[{"model":"gpt-4o","stream":true}]',
}


@pytest.mark.parametrize("case", ALONE)
def test_bodies_that_stay(case: str, served: Gateway, upstream: Upstream) -> None:
    """Byte for byte, and so does the answer: who asks gets what he asks for."""
    upstream.plays(sse(STREAM))
    got = served.ask(request(CHAT, ALONE[case], headers=[b"Accept-Encoding: gzip, br"]))
    sent = upstream.request()
    assert (sent.body, sent.get(b"accept-encoding")) == (ALONE[case], [b"gzip, br"])
    assert (got.body, got.wire[len(got.head) :]) == (STREAM, chunked(STREAM))
    assert got.get(b"x-fluxen-spliced") == []


@pytest.mark.parametrize(
    "target",
    [b"/openai/v1/chat/completions", b"/openai/chat/completions", b"/v1/responses", b"/v1/embeddings"],
)
def test_routes_that_stay(target: bytes, served: Gateway, upstream: Upstream) -> None:
    """A mount is a tunnel, and others report unasked."""
    upstream.plays(sse(STREAM))
    got = served.ask(request(target, BODY))
    assert (upstream.request().body, got.body, got.get(b"x-fluxen-spliced")) == (BODY, STREAM, [])


def test_an_encoded_body_stays(served: Gateway, upstream: Upstream) -> None:
    body = gzip.compress(BODY)
    upstream.plays(sse(STREAM))
    got = served.ask(request(CHAT, body, headers=[b"Content-Encoding: gzip"]))
    assert (upstream.request().body, got.body) == (body, STREAM)


def test_completions(served: Gateway, upstream: Upstream) -> None:
    body = b' {"prompt":"}", "model":"gpt-3.5-turbo-instruct", "stream" : true }\r\n'
    upstream.plays(sse(event(b'{"choices":[{"text":"a"}]}') + event(TOTAL) + DONE))
    got = served.ask(request(b"/v1/completions", body))
    assert got.body == event(b'{"choices":[{"text":"a"}]}') + DONE
    assert json.loads(upstream.request().body) == {**json.loads(body), "stream_options": ASKED}
    assert served.row(got)["usage_source"] == "reported"


def test_a_body_in_chunks(served: Gateway, upstream: Upstream) -> None:
    """It goes on with its length, in one piece, as any that is held."""
    upstream.plays(sse(STREAM))
    wire = chunked(*(BODY[at : at + 5] for at in range(0, len(BODY), 5)))
    got = served.ask(request(CHAT, wire, length=False, headers=[b"Transfer-Encoding: chunked"]))
    assert got.body == SEEN
    sent = upstream.request()
    assert json.loads(sent.body) == {**json.loads(BODY), "stream_options": ASKED}
    assert (sent.get(b"content-length"), sent.get(b"transfer-encoding")) == ([b"%d" % len(sent.body)], [])
    assert served.row(got)["request_bytes"] == len(BODY)


def test_a_large_body_in_pieces(served: Gateway, upstream: Upstream) -> None:
    body = BODY[:-1] + b',"user":"' + "ü".encode() * 1_500_000 + b'"}' + b" " * 70_000
    upstream.plays(sse(STREAM))
    with served.connect() as client:
        client.send(request(CHAT, body)[:-40_000])
        got = client.ask(body[-40_000:])
    assert got.body == SEEN
    assert upstream.request().body == body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}' + b" " * 70_000


def test_nothing_else_of_the_head_changes(served: Gateway, upstream: Upstream) -> None:
    headers = [b"X-One: 1", b"accept-encoding: gzip", b"X-Two: 2", b"Accept-Encoding: br", b"Accept: text/event-stream"]
    upstream.plays(sse(STREAM), OK)
    with served.connect() as client:
        client.ask(request(CHAT, BODY, headers=headers))
        client.ask(request(CHAT, BODY.replace(b"true", b"null"), headers=headers))
    spliced, plain = (sorted(one.headers) for one in upstream.requests)
    own = (b"Content-Length", b"accept-encoding", b"Accept-Encoding")
    assert [one for one in spliced if one[0] not in own] == [one for one in plain if one[0] not in own]
    assert [one for one in spliced if one[0].lower() == b"accept-encoding"] == [(b"Accept-Encoding", b"identity")]


def test_one_connection_for_all(served: Gateway, upstream: Upstream) -> None:
    """Streams that are spliced, those that are not and other answers, one behind the other on either side."""
    upstream.plays(sse(STREAM), OK, sse(STREAM), sse(STREAM), OK)
    plain = BODY.replace(b"true", b"null")
    asked = ALONE["asked by the client"]
    with served.connect() as client:
        bodies = [client.ask(request(CHAT, body)).body for body in (BODY, plain, BODY, asked, plain)]
    assert bodies == [SEEN, OK_BODY, SEEN, STREAM, OK_BODY]
    assert len(upstream.connections) == 1


SETTINGS: dict[str, tuple[str, str, bool]] = {
    "off": ("", "stream_usage: as_sent\n", False),
    "off for this upstream": (", stream_usage: as_sent", "", False),
    "on for this upstream": (", stream_usage: exact", "stream_usage: as_sent\n", True),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_as_configured(case: str, shared_gateway: StartGateway, upstream: Upstream) -> None:
    more, top, exact = SETTINGS[case]
    server = shared_gateway(config(upstream, more, top))
    upstream.plays(sse(STREAM))
    got = server.ask(request(CHAT, BODY))
    assert (upstream.request().body == BODY) is not exact
    assert got.body == (SEEN if exact else STREAM)


def test_a_key_for_certain_models(shared_gateway: StartGateway, upstream: Upstream) -> None:
    """Its bodies are read strictly, and asked for their usage all the same."""
    text = config(upstream).replace("{id: me,", '{id: me, models: ["gpt-4*"],')
    server = shared_gateway(text)
    upstream.plays(sse(STREAM))
    assert server.ask(request(CHAT, BODY)).body == SEEN
    assert b"stream_options" in upstream.request().body


# --- a provider that does not know the field


REFUSALS: dict[str, bytes] = {
    "OpenAI's way": answer(
        b'{"error":{"message":"Unknown parameter: \'stream_options\'.","param":"stream_options"}}',
        status=b"400 Bad Request",
    ),
    "Mistral's way": answer(
        b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options",'
        b'"include_usage"],"msg":"Extra inputs are not permitted","input":true}]}}',
        status=b"422 Unprocessable Entity",
    ),
    "without a name": answer(b'{"detail":"unknown field in body"}', status=b"400 Bad Request"),
    "in chunks": b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"include_", b"usage?"),
    "compressed": answer(
        gzip.compress(b"no stream_options"), status=b"400 Bad Request", headers=[b"Content-Encoding: gzip"]
    ),
    "closing": answer(b"stream_options", status=b"400 Bad Request", headers=[b"Connection: close"]),
}  # fmt: skip


def picky(refusal: bytes, good: bytes) -> Play:
    """A provider that knows no stream_options."""

    def play(connection: Connection, asked: Request) -> None:
        connection.send(refusal if b"stream_options" in asked.body else good)

    return play


def many(upstream: Upstream) -> str:
    """One upstream for each refusal and version, all at the same place: what one refuses is not known of the others."""
    lines = [
        f'  "{name}": {{target_url: "{upstream.url}", models: ["{name}"]}}\n'
        for name in (called(case, version) for case in REFUSALS for version in VERSIONS)
    ]
    return config(upstream).replace("api_keys:", "".join(lines) + "api_keys:")


VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")


def called(case: str, version: bytes) -> str:
    return f"u{list(REFUSALS).index(case)}-{version[-1]}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", REFUSALS)
def test_it_is_asked_once_more_without(
    case: str, version: bytes, shared_gateway: StartGateway, upstream: Upstream
) -> None:
    """Its client sees one good stream, and nobody asks that upstream again."""
    server = shared_gateway(many(upstream))
    name = called(case, version)
    body = BODY.replace(b"gpt-4o", name.encode())
    upstream.plays(picky(REFUSALS[case], sse(STREAM)))
    first = server.ask(request(CHAT, body, headers=[b"Accept-Encoding: br"], version=version))
    second = server.ask(request(CHAT, body, version=version))
    for got in (first, second):
        assert (got.status, got.body, got.complete) == (200, STREAM, True)
        assert got.get(b"x-fluxen-spliced") == []
    spliced, plain, later = upstream.requests
    assert b"stream_options" in spliced.body
    assert (plain.body, plain.get(b"accept-encoding"), later.body) == (body, [b"br"], body)
    rows = server.row(first), server.row(second)
    assert [(row["upstream"], row["attempts"]) for row in rows] == [(name, 2), (name, 1)]
    assert rows[0]["request_bytes"] == len(body)
    (line,) = (line for line in server.logged("unspliced") if line["upstream"] == name)
    assert "stream_options" in line["reason"]


def test_until_the_next_reload(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    upstream.plays(picky(REFUSALS["OpenAI's way"], sse(STREAM)))
    server.ask(request(CHAT, BODY))
    server.ask(request(CHAT, BODY))
    assert len(upstream.requests) == 3
    upstream.plays(sse(STREAM))
    assert server.ask(request(CHAT, BODY)).body == STREAM
    (server.folder / "fluxen.yaml").write_text(config(upstream) + "log: {requests: false}\n")
    until(lambda: server.ask(request(CHAT, BODY)).body == SEEN, "the upstream to be asked again")


def test_each_upstream_for_itself(gateway: StartGateway, upstreams: Callable[[str], Upstream]) -> None:
    picking, knowing = upstreams("picky"), upstreams("openai")
    other = f'  vllm: {{target_url: "{picking.url}", models: ["llama*"]}}\napi_keys:'
    text = config(knowing).replace("api_keys:", other)
    server = gateway(text)
    picking.plays(picky(REFUSALS["OpenAI's way"], sse(STREAM)))
    knowing.plays(sse(STREAM))
    llama = BODY.replace(b"gpt-4o", b"llama-3")
    assert [server.ask(request(CHAT, body)).body for body in (llama, BODY, llama, BODY)] == [STREAM, SEEN, STREAM, SEEN]


def test_a_refusal_of_something_else(served: Gateway, upstream: Upstream) -> None:
    """It sounded like it, but it is refused either way: the client hears that, and the upstream is asked again."""
    refusal = answer(b'{"error":{"message":"Unknown parameter: colour"}}', status=b"400 Bad Request")
    upstream.plays(refusal)
    got = served.ask(request(CHAT, BODY))
    assert (got.status, got.wire.endswith(b'Unknown parameter: colour"}}')) == (400, True)
    assert [b"stream_options" in one.body for one in upstream.requests] == [True, False]
    assert (served.row(got)["attempts"], served.row(got)["error"]) == (2, "upstream_status")
    upstream.plays(sse(STREAM))
    assert served.ask(request(CHAT, BODY)).body == SEEN


def test_the_second_may_fail_otherwise(served: Gateway, upstream: Upstream) -> None:
    def leave(connection: Connection, _: Request) -> None:
        connection.close()

    upstream.plays(REFUSALS["OpenAI's way"], leave)
    got = served.ask(request(CHAT, BODY))
    assert (got.status, served.row(got)["error"], served.row(got)["attempts"]) == (502, "upstream_broke", 2)


def test_a_refusal_that_does_not_end(served: Gateway, upstream: Upstream) -> None:
    """What is held back is bounded."""

    def play(connection: Connection, _: Request) -> None:
        connection.send(b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(chunk(b"stream_options" * 100) * 100)
        connection.drain()

    upstream.plays(play)
    with served.connect() as client:
        client.send(request(CHAT, BODY))
        assert read_until(client, b"stream_options").startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert upstream.connections[-1].ended.wait(10)
    assert len(upstream.requests) == 1


def test_with_several_keys(gateway: StartGateway, upstream: Upstream) -> None:
    """One is refused, the field is refused, and the request arrives."""
    text = config(upstream).replace(
        'api_key: "sk-provider-fedcba9876543210"',
        'credentials: [{name: a, api_key: "sk-provider-aaaaaaaaaaaa"}, {name: b, api_key: "sk-provider-bbbbbbbbbbbb"}]',
    )
    server = gateway(text)

    def play(connection: Connection, asked: Request) -> None:
        if asked.get(b"authorization") == [b"Bearer sk-provider-aaaaaaaaaaaa"]:
            connection.send(answer(b"who?", status=b"401 Unauthorized"))
        else:
            connection.send(REFUSALS["OpenAI's way"] if b"stream_options" in asked.body else sse(STREAM))

    upstream.plays(play)
    got = server.ask(request(CHAT, BODY))
    assert (got.status, got.body) == (200, STREAM)
    row = server.row(got)
    assert (row["attempts"], row["credential"]) == (3, "b")
    assert [b"stream_options" in one.body for one in upstream.requests] == [True, True, False]


def test_a_connection_that_was_closed_meanwhile(served: Gateway, upstream: Upstream) -> None:
    """The request is sent once more, and asks again."""

    def once(connection: Connection, asked: Request) -> None:
        connection.send(sse(STREAM))
        connection.close()

    upstream.plays(once, sse(STREAM))
    with served.connect() as client:
        assert [client.ask(request(CHAT, BODY)).body for _ in range(2)] == [SEEN, SEEN]
    assert all(b"stream_options" in one.body for one in upstream.requests)


# --- leaving, breaking, waiting


def test_the_client_leaves_at_the_last_word(served: Gateway, upstream: Upstream) -> None:
    """openai-python does: the report has come by then, and nothing was an error."""
    gone = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(STREAM))
        assert gone.wait(15)
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    with served.connect() as client:
        client.send(request(CHAT, BODY))
        got = read_until(client, DONE)
    id = identity(got)
    row = served.row(id)
    gone.set()
    assert (row["error"], row["usage_source"], row["output_tokens"]) == (None, "reported", 7)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_the_client_leaves_in_the_midst(how: str, served: Gateway, upstream: Upstream) -> None:
    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(piece(b"one")))
        connection.drain()

    upstream.plays(play)
    client = served.connect()
    client.send(request(CHAT, BODY))
    got = read_until(client, piece(b"one"))
    client.close() if how == "FIN" else client.reset()
    assert upstream.connections[-1].ended.wait(10), "the provider goes on"
    row = served.row(identity(got))
    assert (row["status"], row["error"]) == (200, "client_closed")
    assert row["usage_source"] != "reported"


def cut(connection: Connection) -> None:
    connection.close()


def malformed(connection: Connection) -> None:
    connection.send(b"zz\r\n")
    connection.drain()


@pytest.mark.parametrize("breaks", [cut, Connection.reset, malformed])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_the_upstream_breaks(
    breaks: Callable[[Connection], None], version: bytes, served: Gateway, upstream: Upstream
) -> None:
    """So does the answer: it never looks complete, and half an event is not passed on."""
    seen = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(piece(b"one") + piece(b"two")[:40]))
        assert seen.wait(15)
        breaks(connection)

    upstream.plays(play)
    with served.connect() as client:
        client.send(request(CHAT, BODY, version=version))
        got = read_until(client, piece(b"one"))
        seen.set()
        while more := client.read():
            got += more
        assert client.was_reset or version == b"HTTP/1.1"
    assert b"\r\n0\r\n\r\n" not in got
    assert b"two" not in got
    row = served.row(identity(got))
    assert (row["status"], row["error"]) == (200, "upstream_broke")


def test_silence_in_the_midst(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, ", idle_timeout_ms: 300"))

    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(piece(b"one")))
        connection.drain()

    upstream.plays(play)
    got = server.ask(request(CHAT, BODY))
    assert not got.complete
    assert server.row(got)["error"] == "upstream_timeout"


def test_a_client_that_does_not_read_costs_no_memory(served: Gateway, upstream: Upstream) -> None:
    one, count = piece(b"x" * 30_000), 1000
    sent = 0
    held_back = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        nonlocal sent
        connection.sock.settimeout(1.0)
        connection.sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(count):
            data = memoryview(chunk(one if number % 2 else REPORT + one))
            while data and not connection.ended.is_set():
                try:
                    data = data[connection.sock.send(data) :]
                except TimeoutError:
                    held_back.set()
            sent += 1
        connection.send(b"0\r\n\r\n")

    served.ask(request(CHAT, BODY))
    [worker] = proc.workers(served.process.pid)
    before = proc.rss(worker)
    upstream.plays(play)
    with served.connect(receive_buffer=64 * 1024) as client:
        client.send(request(CHAT, BODY))
        assert held_back.wait(60), "the upstream was never held back"
        assert sent < count
        assert proc.rss(worker) - before < 8 << 20
        got = [read_until(client, b"\r\n\r\n")]
        while not got[-1].endswith(b"\r\n0\r\n\r\n"):
            got.append(client.read())
            assert got[-1], "the answer broke"
    wire = b"".join(got).partition(b"\r\n\r\n")[2]
    assert b"".join(part for part in re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", wire)).removesuffix(b"\r\n") == one * count


def test_over_tls(shared_gateway: StartGateway, upstream: Upstream, certificate: Path) -> None:
    """To the client."""
    tls = f'tls: {{cert_file: "{certificate}/server.pem", key_file: "{certificate}/server.key"}}'
    server = shared_gateway(config(upstream).replace('"127.0.0.1:0"', f'"127.0.0.1:0", {tls}'))
    upstream.plays(sse(*(STREAM[at : at + 50] for at in range(0, len(STREAM), 50))))
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request(CHAT, BODY))
            assert (got.body, got.complete) == (SEEN, True)


def test_from_tls(gateway: StartGateway, certificate: Path) -> None:
    """To the upstream."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "server.pem", certificate / "server.key")
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[Request] = []

    def serve() -> None:
        for sock, _ in iter(listening.accept, None):
            connection = Connection(context.wrap_socket(sock, server_side=True), 0)
            while (one := connection.read_request()) is not None:
                asked.append(one)
                connection.send(sse(STREAM))

    threading.Thread(target=serve, daemon=True).start()
    target = f"https://localhost:{listening.getsockname()[1]}"
    text = CONFIG.format(url=target, key=KEY, more=f', ca_file: "{certificate}/ca.pem"')
    server = gateway(text)
    with server.connect() as client:
        got = client.ask(request(CHAT, BODY))
    assert (got.body, got.complete) == (SEEN, True)
    assert b"stream_options" in asked[0].body
    assert server.row(got)["usage_source"] == "reported"
