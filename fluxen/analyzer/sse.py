"""Server-sent events, decoded on bytes.

A line ends with \\n, \\r\\n or \\r and nothing else: `str.splitlines` would also break at U+2028, which JSON may hold.
A blank line ends an event. Its data is its `data:` lines joined by \\n; other fields and comments don't concern us.
"""

from __future__ import annotations


def blocks(stream: bytes) -> list[bytes]:
    """The stream's events, undecoded, in order; the last one may lack its end, the first one its beginning."""
    if b"\r" in stream:  # literal carriage returns can't stand inside JSON strings: this changes no data
        stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return stream.split(b"\n\n")


def data(block: bytes) -> bytes:
    """An event's data; empty if it has none."""
    if block.startswith(b"data:") and b"\n" not in block:
        return block[5:]
    lines = [line[5:] for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
