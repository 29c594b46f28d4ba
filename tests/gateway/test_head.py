"""Heads: what goes on of a request's head and of an answer's, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.head import MAX_HEADERS, AnswerHead, HeaderKinds, RequestHead, parse_tags

START = b"POST /v1/x?a=b HTTP/1.1"
CREDENTIALS = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
HOPS = (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
        b"trailer", b"upgrade", b"http2-settings", b"expect")  # fmt: skip
OTHERS = (
    b"accept",
    b"content-type",
    b"user-agent",
    b"x-stainless-lang",
    b"cookie",
    b"anthropic-version",
    b"x-a",
    b"te2",
)

TOKEN = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12).map(str.encode)
CASE = st.sampled_from([bytes.lower, bytes.upper, bytes.title])
VALUE = st.binary(max_size=20).map(
    lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip(b" \t")
)  # fmt: skip


def head(*lines: bytes, start: bytes = START) -> RequestHead:
    return RequestHead(b"\r\n".join([start, *lines]), HeaderKinds())


def upstream_head(
    found: RequestHead, target: bytes, host: bytes, credential: tuple[bytes, bytes] | None, keep: bool, length: int
) -> bytes:
    """As it goes upstream; length -1: the body is not held."""
    before, after = found.compiled(target, host, credential, keep, length >= 0)
    return before if after is None else before + b"%d" % length + after


def lines_of(raw: bytes) -> list[bytes]:
    assert raw.endswith(b"\r\n\r\n")
    return raw[:-4].split(b"\r\n")


@given(st.lists(st.tuples(st.one_of(TOKEN, st.sampled_from(OTHERS)), CASE, VALUE), max_size=12), st.data())
def test_everything_else_goes_on_as_it_is(others: list[tuple[bytes, object, bytes]], data: st.DataObject) -> None:
    """Order, case, duplicates and values of what Fluxen has no word to say about; between them Host, the credential
    and hop-by-hop headers anywhere."""
    sent: list[bytes] = []
    for name, case, value in others:
        name = case(name)  # type: ignore[operator]
        if name.lower() in (*CREDENTIALS, *HOPS, b"host", b"content-length", b"transfer-encoding", b"api-key"):
            continue
        if name.lower().startswith(b"x-fluxen-") or (
            name.lower() in (b"content-type",) and any(line.lower().startswith(name.lower() + b":") for line in sent)
        ):
            continue
        sent.append(name + b": " + value)
    kept = list(sent)
    for extra in (b"hOsT: there", b"X-Api-Key: client", b"TE: trailers", b"X-Fluxen-Tags: a=b", b"Keep-Alive: 5"):
        sent.insert(data.draw(st.integers(0, len(sent))), extra)
    found = head(*sent)
    assert found.fault is None
    out = lines_of(upstream_head(found, b"/up", b"host:1", (b"x-api-key", b"provider"), False, -1))
    assert out[0] == b"POST /up HTTP/1.1"
    assert [line for line in out[1:] if line not in (b"hOsT: host:1", b"X-Api-Key: provider")] == kept
    assert sum(line == b"hOsT: host:1" for line in out) == 1
    assert sum(line == b"X-Api-Key: provider" for line in out) == 1
    assert out[1:] == [
        {b"hOsT: there": b"hOsT: host:1", b"X-Api-Key: client": b"X-Api-Key: provider"}.get(line, line)
        for line in sent
        if line not in (b"TE: trailers", b"X-Fluxen-Tags: a=b", b"Keep-Alive: 5")
    ]


@pytest.mark.parametrize("carrier", [*CREDENTIALS, None])
@pytest.mark.parametrize("wanted", [b"authorization", b"x-api-key", None])
def test_the_credential_is_replaced(carrier: bytes | None, wanted: bytes | None) -> None:
    found = head(b"Host: x", *([carrier.title() + b": client"] if carrier else []), b"A: b")
    raw = upstream_head(found, b"/", b"h", (wanted, b"theirs") if wanted else None, False, -1)
    out = lines_of(raw)
    assert b"client" not in raw
    names = [line.partition(b":")[0].lower() for line in out[1:]]
    assert [name for name in names if name in CREDENTIALS] == ([wanted] if wanted else [])
    assert upstream_head(found, b"/", b"h", (wanted, b"theirs") if wanted else None, False, -1) == raw, (
        "a second attempt"
    )


def test_the_clients_own_credential_goes_on_unchanged() -> None:
    found = head(b"Host: x", b"aUTHorization: bEARer  sk-mine ", b"A: b")
    assert b"\r\naUTHorization: bEARer  sk-mine \r\n" in upstream_head(found, b"/", b"h", None, True, -1)


def test_a_host_is_added_where_none_was() -> None:
    found = head(b"A: b", start=b"GET / HTTP/1.0")
    assert found.fault is None
    assert found.http10
    assert lines_of(upstream_head(found, b"/", b"h", None, False, -1)) == [b"GET / HTTP/1.1", b"A: b", b"Host: h"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"A: b"], 400),
        ([b"Host: x", b"HOST: x"], 400),
        ([b"Host: x", b"Authorization: a", b"authorization: a"], 400),
        ([b"Host: x", b"Authorization: a", b"api-key: a"], 400),
        ([b"Host: x", b"x-goog-api-key: a", b"x-api-key: a"], 400),
        ([b"Host: x", b"Content-Type: a", b"content-type: a"], 400),
        ([b"Host: x", b"Content-Encoding: gzip", b"content-encoding: br"], 400),
        ([b"Host: x", b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Host: x", b"Expect: x"], 417),
        ([b"Host: x", *(b"A: b" for _ in range(MAX_HEADERS))], 431),
        ([b"Host: x", *(b"X-Fluxen-A: b" for _ in range(MAX_HEADERS))], 431),
        ([b"Host: x", *(b"Connection: b" for _ in range(MAX_HEADERS))], 431),
        ([b"Host: x", b"Connection: x-api-key", b"X-Api-Key: a"], 400),
        ([b"Host: x", b"X-Api-Key: a", b"Connection: x-api-key"], 400),
    ],
)
def test_faults(lines: list[bytes], status: int) -> None:
    fault = head(*lines).fault
    assert fault is not None
    assert fault[0] == status


@pytest.mark.parametrize(
    "start",
    [b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.2", b"GET / http/1.1",
     b"GET x HTTP/1.1", b"GET http://x/ HTTP/1.1", b"CONNECT / HTTP/1.1", b"TRACE / HTTP/1.1", b"OPTIONS * HTTP/1.1",
     b"GET / x HTTP/1.1"],
)  # fmt: skip
def test_request_lines(start: bytes) -> None:
    assert head(b"Host: x", start=start).fault is not None


@given(st.binary(max_size=120))
def test_no_bytes_break_it(raw: bytes) -> None:
    """Only what llhttp has accepted comes here, but a first line may come of what it has not."""
    RequestHead(raw.split(b"\r\n")[0], HeaderKinds())


def test_keep_alive() -> None:
    assert head(b"Host: x").keep_alive
    assert head(b"Host: x", b"Connection: Keep-Alive").keep_alive
    assert not head(b"Host: x", b"Connection: Close").keep_alive
    assert not head(b"Host: x", b"Connection: a, CLOSE ,b").keep_alive
    assert not head(b"Host: x", b"Connection: keep-alive", start=b"GET / HTTP/1.0").keep_alive


def test_a_held_chunked_body_gets_a_length() -> None:
    found = head(b"Host: x", b"transfer-ENCODING: Chunked", b"A: b")
    assert found.chunked
    assert lines_of(upstream_head(found, b"/", b"h", None, False, 12))[2:] == [b"Content-Length: 12", b"A: b"]


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b"a=b", {"a": "b"}),
        (b" a = b , c=d=e,f=", {"a": "b", "c": "d=e", "f": ""}),
        (b"a", None),
        (b"=b", None),
        (b"", None),
        (b"a=b,", None),
        (b"a=\x01", None),
        (b"a=" + b"x" * 257, None),
        (b",".join(b"k%d=v" % n for n in range(17)), None),
        (b"x" * 1025, None),
    ],
)
def test_tags(value: bytes, tags: dict[str, str] | None) -> None:
    assert parse_tags(value) == tags


# --- answers


@given(st.lists(st.tuples(TOKEN, CASE, VALUE), max_size=10), st.data())
def test_answers_are_relayed_as_they_are(others: list[tuple[bytes, object, bytes]], data: st.DataObject) -> None:
    sent = [
        case(name) + b":" + value  # type: ignore[operator]
        for name, case, value in others
        if name.lower() not in (b"connection", b"upgrade", b"keep-alive") and not name.lower().startswith(b"x-fluxen-")
    ]
    kept = list(sent)
    for extra in (
        b"Connection: keep-alive, x-hop, upgrade,x-fluxen-id",
        b"X-HOP:1",
        b"X-Fluxen-Id: evil",
        b"keep-alive: 5",
        b"Upgrade: x",
    ):
        sent.insert(data.draw(st.integers(0, len(sent))), extra)
    found = AnswerHead(b"\r\n".join([b"HTTP/1.1 200 OK", *sent]))
    expected = [line for line in kept if line.partition(b":")[0].lower() != b"x-hop"]
    assert found.relayed(b"X: y\r\n", False) == b"\r\n".join([b"HTTP/1.1 200 OK", *expected, b"X: y", b"", b""])


@pytest.mark.parametrize(
    ("lines", "framed", "encoded"),
    [
        ([], False, False),
        ([b"Content-Length: 5"], True, False),
        ([b"transfer-encoding: Chunked "], True, True),
        ([b"Transfer-Encoding: gzip, chunked"], True, True),
        ([b"Transfer-Encoding: gzip"], False, True),
    ],
)
def test_how_an_answer_ends(lines: list[bytes], framed: bool, encoded: bool) -> None:
    found = AnswerHead(b"\r\n".join([b"HTTP/1.1 200 OK", *lines]))
    assert (found.framed, found.encoded) == (framed, encoded)


def test_what_is_read_of_an_answer() -> None:
    lines = [b"HTTP/1.0 200 OK", b"Content-TYPE: Application/JSON ", b"content-encoding:\tGZip", b"X-Request-ID: r1"]
    found = AnswerHead(b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]))
    assert found.content_type == b"application/json"
    assert found.content_encoding is not None
    assert found.content_encoding.lower() == b"gzip"
    assert found.request_id == b"r1"
    out = found.relayed(b"", True)
    assert out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"chunked" not in out


def test_bedrock_counts_in_the_head() -> None:
    lines = [
        b"X-Amzn-Bedrock-Input-Token-Count: 0038",
        b"x-amzn-bedrock-output-token-count:0 ",
        b"x-amzn-bedrock-cache-read-input-token-count: many",
        b"x-amzn-bedrock-cache-write-input-token-count: -1",
        b"x-amzn-bedrock-other-token-count: 5",
        b"x-amzn-bedrock-invocation-latency: 3163",
    ]
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *lines])
    head = AnswerHead(raw)
    assert head.counts == b'{"inputTokens":38,"outputTokens":0}'
    assert head.relayed(b"", False) == raw + b"\r\n\r\n"  # and all of them go on
    assert AnswerHead(b"HTTP/1.1 200 OK\r\nContent-Length: 5").counts is None
