"""The look into a request body: what it says of model and stream, and that no body whatever breaks it."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.peek import NOTHING, Peek, peek

LIMIT = 1_000_000

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b'{"model":"m","stream":true}', Peek("m", True)),
        (b'{"stream":false}', Peek(None, False)),
        (b"{}", NOTHING),
        (b' \r\n\t{ "x" : {"model":"inner"} , "model" : "m" } ', Peek("m", None)),
        (b'{"messages":[{"content":"\\"model\\":\\"no\\""}],"model":"m"}', Peek("m", None)),
        (b'{"model":"\\u0067pt","stream":null}', Peek("gpt", None)),
        (b'{"mo\\u0064el":"m"}', Peek("m", None)),
        (b'{"Model":"m"}', NOTHING),
        (b'{"model":"a","model":"b"}', Peek("b", None)),
        (b'{"model":1,"stream":true}', Peek(None, True)),
        (b'{"model":"m","stream":"yes"}', Peek("m", None)),
        (b'{"model":1e999,"stream":true}', Peek(None, True)),
        (b'{"stream":1e999,"model":"m"}', Peek("m", None)),
        (b'{"model":{"a":["\\ud800"]},"stream":true}', NOTHING),
        (b'{"model":"\xff","stream":1}', NOTHING),
        (b'{"model":["\xff"],"stream":true}', Peek(None, True)),
        (b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", NOTHING),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"model":"m"}', NOTHING),
        (b"", NOTHING),
        (b"[]", NOTHING),
        (b'"model"', NOTHING),
        (b'{"model":"m"', NOTHING),
        (b'{"model":"m"}x', NOTHING),
        (b"\xef\xbb\xbf{}", NOTHING),
        ('{"model":"m"}'.encode("utf-16"), NOTHING),
    ],
)
def test_bodies(body: bytes, seen: Peek) -> None:
    assert peek(body, None, LIMIT) == seen


@given(st.binary(max_size=200), st.sampled_from([None, b"gzip", b"deflate", b"br", b"zstd", b"x"]))
def test_no_bytes_break_it(body: bytes, encoding: bytes | None) -> None:
    assert isinstance(peek(body, encoding, LIMIT), Peek)


@given(VALUES, VALUES, st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_what_json_says(model: object, stream: object, rest: dict[str, object]) -> None:
    """As the standard library reads it; of values that are no JSON (NaN) nothing is asked but to survive."""
    body = json.dumps({**rest, "model": model, "stream": stream})
    seen = peek(body.encode("utf-8", "surrogatepass"), None, LIMIT)
    if all(word not in body for word in ("NaN", "Infinity", "\\ud")):
        assert seen.model == (model if isinstance(model, str) else None)
        assert seen.stream == (stream if isinstance(stream, bool) else None)


@given(VALUES)
def test_pieces_of_json(value: object) -> None:
    body = json.dumps({"model": value}).encode()
    for end in range(0, len(body), 7):
        assert isinstance(peek(body[:end] + b"\xff", None, LIMIT), Peek)


def test_encoded_bodies() -> None:
    body = b'{"model":"m","stream":true}'
    assert peek(gzip.compress(body), b"gzip", LIMIT) == Peek("m", True)
    assert peek(zstandard.compress(body), b"zstd", LIMIT) == Peek("m", True)
    assert peek(body, b"gzip", LIMIT) == NOTHING
    assert peek(body, b"identity", LIMIT) == Peek("m", True)
    assert peek(gzip.compress(body), b"gzip, gzip", LIMIT) == NOTHING


@pytest.mark.parametrize("encoding", [b"gzip", b"zstd"])
def test_a_bomb_says_nothing_and_costs_little(encoding: bytes) -> None:
    body = b'{"model":"m","x":"' + b" " * 300_000_000 + b'"}'
    packed = gzip.compress(body, 6) if encoding == b"gzip" else zstandard.compress(body)
    del body
    assert len(packed) < 400_000
    tracemalloc.start()
    assert peek(packed, encoding, LIMIT) == NOTHING
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * LIMIT
