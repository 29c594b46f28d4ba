"""What is taken out of a stream of events, and that nothing else is touched or kept waiting."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fluxen.gateway.sieve import LONGEST, Sieve

REPORT = b'{"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
WORD = b'{"id":"x","choices":[{"delta":{"content":"a"}}],"usage":null}'
ENDS = (b"\n", b"\r\n", b"\r")

# What an event may say: the bytes of its data, and whether nobody but Fluxen wants it.
REPORTS = [
    REPORT,
    b'{"usage":{},"choices":[]}',
    b'{ "choices" : [ ] , "usage" : { "prompt_tokens" : 1 } }',
    b'{"choices":[],"usage":{"a":"\\n\\n data: []"},"error":null}',
]
OTHERS = [
    WORD,
    b"[DONE]",
    b'{"choices":[],"usage":null}',
    b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
    b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}',
    b'{"choices":null,"usage":{"prompt_tokens":1}}',
    b'{"usage":{"prompt_tokens":1}}',
    b'{"choices":[],"usage":{"prompt_tokens":1},"error":{"message":"no"}}',
    b'{"choices":[],"usage":[]}',
    b'{"choices":[],"usage":{"prompt_tokens":1}',
    b'{"text":"{\\"choices\\":[],\\"usage\\":{}}","choices":[1]}',
    b'[{"choices":[],"usage":{}}]',
    b'{"choices":[{"delta":{"content":"a"}}],"usage":{},"filtered":{"choices":[]}}',
    b"",
    b'{"choices":[],"usage":{"x":"' + b"y" * LONGEST + b'"}}',
    b"z" * (LONGEST + 100),
    b"\xff\xfe\x00",
]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A stream, and what is to be passed on of it."""
    whole, wanted = b"", b""
    ends = draw(st.sampled_from([(b"\n", b"\r\n"), (b"\r",)]))  # a CR before a LF would be one end of a line
    for _ in range(draw(st.integers(0, 5))):
        end = draw(st.sampled_from(ends))
        between = b"".join(draw(st.lists(st.sampled_from([b": ping" + end, b":" + end, end]), max_size=2)))
        report = draw(st.booleans())
        data = draw(st.sampled_from(REPORTS if report else OTHERS))
        lines = [draw(st.sampled_from([b"data: ", b"data:", b"data:  "])) + data]
        if draw(st.booleans()):
            lines.insert(0, draw(st.sampled_from([b"event: x", b"id: 1", b"retry: 5", b"data_: {}"])))
        if draw(st.booleans()):
            lines.append(draw(st.sampled_from([b": in the midst", b"id: 2", b"data"])) if not report else b"id: 3")
        event = end.join(lines) + end + end
        whole += between + event
        wanted += between + (b"" if report else event)
    return whole, wanted


@given(streams(), st.lists(st.integers(0, 3000), max_size=12))
@example((b"data: " + REPORT + b"\r\n\r\ndata: [DONE]\r\n\r\n", b"data: [DONE]\r\n\r\n"), [90, 91, 92, 93])
@settings(max_examples=300)
def test_only_the_report_is_taken_out(stream: tuple[bytes, bytes], cuts: list[int]) -> None:
    """Byte for byte, whatever ends the lines, and wherever the stream was cut on its way."""
    whole, wanted = stream
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    sieve = Sieve()
    got = b"".join(sieve.feed(whole[start:end]) for start, end in pairwise(edges))
    assert got + sieve.end() == wanted


@given(streams())
@settings(max_examples=20)
def test_byte_by_byte(stream: tuple[bytes, bytes]) -> None:
    whole, wanted = stream
    sieve = Sieve()
    got = b"".join(sieve.feed(whole[at : at + 1]) for at in range(len(whole)))
    assert got + sieve.end() == wanted


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r", b"\r\n\r\n", b"data: {", b'"choices":[]', b": x"]))
)
def test_whatever_comes_goes(pieces: list[bytes]) -> None:
    sieve = Sieve()
    assert b"".join(map(sieve.feed, pieces)) + sieve.end() == b"".join(pieces)


@pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF", "CR"])
def test_an_event_is_not_kept_waiting(end: bytes) -> None:
    """It goes on with the byte that ends it, alone or with others, and a comment with the end of its line."""
    sieve = Sieve()
    event = b"data: " + WORD + end + end
    assert sieve.feed(event) == event
    assert sieve.feed(event * 3) == event * 3
    assert sieve.feed(event + event[:20]) == event
    assert sieve.feed(event[20:]) == event
    assert sieve.feed(b": keep-alive" + end) == b": keep-alive" + end
    assert sieve.feed(end) == end
    assert sieve.feed(b"data: " + REPORT + end + end) == b""
    assert sieve.feed(event) == event
    assert sieve.end() == b""


def test_a_large_event_is_passed_on_as_it_comes() -> None:
    """The memory that one stream takes is bounded, however its events are cut."""
    sieve = Sieve()
    passed = sieve.feed(b"data: ")
    for _ in range(1000):
        passed += sieve.feed(b"x" * 1000)
    assert len(passed) > 1_000_006 - LONGEST - 1000
    passed += sieve.feed(b"\n")
    assert len(passed) == 1_000_007
    assert sieve.feed(b"\ndata: " + REPORT + b"\n\n" + b"data: [DONE]\n\n") == b"\ndata: [DONE]\n\n"


@pytest.mark.parametrize(
    ("rest", "passed"), [(b"data: " + REPORT, b""), (b"data: " + WORD, b"data: " + WORD), (b"data: {", b"data: {")]
)
@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_a_stream_that_ends_within_an_event(rest: bytes, passed: bytes, tail: bytes) -> None:
    sieve = Sieve()
    assert sieve.feed(rest + tail) == b""
    assert sieve.end() == (passed + tail if passed else b"")
    assert sieve.end() == b""
