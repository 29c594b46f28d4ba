"""Framing of server-sent events: any payloads, any of the three line ends, from either end of the stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fluxen.analyzer import sse

# A line of data: no line end, and no leading space, of which the first belongs to the framing.
LINES = st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"").lstrip(b" "))
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
NOISE = st.sampled_from([b"", b": comment", b"event: x", b"id: 5", b"retry: 1", b"datum: no"])


@given(st.lists(st.tuples(st.lists(LINES, min_size=1, max_size=3), NOISE), max_size=6), ENDS)
def test_events_come_out_as_they_went_in(events: list[tuple[list[bytes], bytes]], end: bytes) -> None:
    stream = b""
    for lines, noise in events:
        for line in (noise, *(b"data: " + line for line in lines)):
            if line:
                stream += line + end
        stream += end
    normalised = sse.normalised(stream)
    found = [block for block in sse.forwards(normalised) if block]
    assert [sse.data(block) for block in found] == [b"\n".join(lines) for lines, _ in events]
    assert list(sse.backwards(normalised))[::-1] == list(sse.forwards(normalised))


@given(st.text(alphabet="\n\rx", max_size=40))
def test_both_directions_lose_nothing_of_blank_lines(text: str) -> None:
    normalised = sse.normalised(text.encode())
    assert b"\r" not in normalised
    assert b"\n\n".join(sse.forwards(normalised)) == normalised
    assert b"\n\n".join(list(sse.backwards(normalised))[::-1]) == normalised
