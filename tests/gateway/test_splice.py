"""The one name that is put into a request's body: nothing else changes, and what can be read in two ways stays."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fluxen.gateway.splice import ASKED, behind, plain, spliced

OPTIONS = {"include_usage": True}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["model", "messages", "stream", "tools", "n", "user"]) | st.text(max_size=8)
SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """A JSON value in one of its spellings: white space anywhere, letters escaped or not, in any case of hex."""
    if isinstance(value, dict):
        inner = ",".join(
            f"{draw(SPACE)}{draw(spelled(name))}{draw(SPACE)}:{draw(SPACE)}{draw(spelled(item))}{draw(SPACE)}"
            for name, item in value.items()
        )
        return "{" + (inner or draw(SPACE)) + "}"
    if isinstance(value, list):
        inner = ",".join(f"{draw(SPACE)}{draw(spelled(item))}{draw(SPACE)}" for item in value)
        return "[" + (inner or draw(SPACE)) + "]"
    if isinstance(value, str):
        if draw(st.booleans()):
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        units = value.encode("utf-16-be", "surrogatepass")
        pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
        return '"' + "".join("\\u" + (pair.upper() if draw(st.booleans()) else pair) for pair in pairs) + '"'
    return json.dumps(value)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    names = st.dictionaries(NAMES, JSON, max_size=6)
    fields = {**draw(names), "stream": True, **draw(names)}
    text = draw(SPACE) + draw(spelled(fields)) + draw(SPACE)
    return text.encode("utf-8", "surrogatepass")


@given(bodies(), st.lists(st.integers(0, 400), max_size=5))
@example(b'{"stream":true}', [14, 15])
@example(b'{"stream":true}\n', [15])
@example(b'{"stream":true,"x":"}"} \r\n', [])
@settings(max_examples=150)
def test_the_same_and_one_name_more(body: bytes, cuts: list[int]) -> None:
    """However the body is spelled, and wherever it was cut into pieces."""
    left = behind(body)
    if left is None:
        assert not _plain(body)
        return
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]
    made = b"".join(spliced(pieces, left))
    assert made.replace(ASKED, b"", 1) == body
    assert json.loads(made) == {**json.loads(body), "stream_options": OPTIONS}
    names = [name for name, _ in json.loads(made, object_pairs_hook=list)]
    assert names[-1] == "stream_options" and names.count("stream_options") == 1
    assert behind(made) is None, "asked for twice"


def _plain(body: bytes) -> bool:
    """Whether a body is one that nobody could take for another."""
    try:
        names = [name for name, _ in json.loads(body.decode(), object_pairs_hook=list)]
    except UnicodeDecodeError:
        return False
    return len(set(names)) == len(names) and all(name.isascii() and name.isalnum() and name.islower() for name in names)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'[{"stream":true}]',
        b'"stream_options"',
        b'{"stream":true',
        b'{"stream":true,}',
        b'{"stream":true}}',
        b'{"stream":true} {"stream":true}',
        b'\xef\xbb\xbf{"stream":true}',
        b'{"stream":true}\0',
        b"{'stream':true}",
        b'{"stream":true /* no */}',
        b'{"stream":true,"x":NaN}',
        b'{"stream":true,"x":"\xff"}',
        b'{"stream":true,"stream_options":{"include_usage":false}}',
        b'{"stream":true,"stream_options":null}',
        b'{"stream_options":{},"stream":true}',
        b'{"stream":true,"stream\\u005foptions":{}}',
        b'{"stream":true,"\\u0073tream_options":{}}',
        b'{"stream":true,"Stream_Options":{}}',
        b'{"stream":true,"streamOptions":{}}',
        b'{"stream":true,"stream-options":{}}',
        b'{"stream":true," stream_options":{}}',
        '{"stream":true,"ｓｔｒｅａｍ_ｏｐｔｉｏｎｓ":{}}'.encode(),
        '{"stream":true,"stream_\u200boptions":{}}'.encode(),
        b'{"stream":true,"' + b"-" * 100 + b'stream_options":{}}',
        b'{"stream":true,"stream":true}',
        b'{"stream":true,"str\\u0065am":false}',
        b'{"stream":true,"Stream":false}',
        b'{"stream":true,"model":"a","model":"b"}',
        b'{"stream":true,"":1,"":2}',
        b'{"stream":true,' + b",".join(b'"n%d":1' % number for number in range(1000)) + b"}",
        b'{"stream":true,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_can_be_read_in_two_ways_stays(body: bytes) -> None:
    assert behind(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true,"messages":[{"stream_options":{}}]}',
        b'{"stream":true,"messages":[{"content":"\\"stream_options\\":{}"}]}',
        b'{"stream":true,"stream_options_2":{}}',
        b'{"stream":true,"Model":1,"model":2}',
        '{"stream":true,"messages":["你好 \U0001f600"]}'.encode(),
        b'\r\n\t {"stream" : true} \r\n\t',
    ],
)
def test_what_is_not_that_name_does_not_matter(body: bytes) -> None:
    left = behind(body)
    assert left is not None
    assert json.loads(b"".join(spliced([body], left))) == {**json.loads(body), "stream_options": OPTIONS}


@given(st.binary(max_size=200))
def test_whatever_is_sent(body: bytes) -> None:
    """It never raises; what it takes for an object is one."""
    if behind(body) is not None:
        assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: ", b"\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: "),
        (
            b"POST / HTTP/1.1\r\nAccept-Encoding: gzip, br\r\nHost: x\r\nContent-Length: ",
            b"\r\naccept-encoding:zstd\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ",
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: ",
            b"\r\nACCEPT-ENCODING: *\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: ",
        ),
    ],
)
def test_an_answer_that_can_be_read_is_asked_for(before: bytes, after: bytes, expected: bytes) -> None:
    assert plain(before, after) == (expected, b"\r\nAccept-Encoding: identity\r\n\r\n")
