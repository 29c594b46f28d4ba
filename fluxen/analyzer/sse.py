"""Server-sent events, decoded on bytes.

A line ends with \\n, \\r\\n or \\r and nothing else: `str.splitlines` would also break at U+2028, which JSON may hold.
A blank line ends an event. Its data is its `data:` lines joined by \\n; other fields and comments don't concern us.

Events are cut out one by one, from either end, because a reader usually needs the last few and the first one.
"""

from __future__ import annotations

from collections.abc import Iterator


def normalised(stream: bytes) -> bytes:
    """The stream with \\n as its only line end. JSON strings can't hold a literal \\r, so this changes no data."""
    if b"\r" in stream:
        return stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return stream


def forwards(stream: bytes) -> Iterator[bytes]:
    """A normalised stream's events from its beginning, undecoded; the last one may lack its end."""
    start, at = 0, stream.find(b"\n")  # a search for one byte is many times faster than one for two
    while at >= 0:
        if stream[at + 1 : at + 2] == b"\n":
            yield stream[start:at]
            start = at = at + 2
        else:
            at += 1
        at = stream.find(b"\n", at)
    yield stream[start:]


def backwards(stream: bytes) -> Iterator[bytes]:
    """The same from its end; the last one yielded, the stream's first, may lack its beginning."""
    end = len(stream)
    at = stream.rfind(b"\n")
    while at > 0:
        if stream[at - 1] == 0x0A:
            yield stream[at + 1 : end]
            end = at = at - 1
        at = stream.rfind(b"\n", 0, at)
    yield stream[:end]


def data(block: bytes) -> bytes:
    """An event's data; empty if it has none."""
    if block.startswith(b"data:") and b"\n" not in block:
        return block[5:].removeprefix(b" ")
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
