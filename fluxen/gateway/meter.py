"""Our copy of an answer, kept small: what the analyzer needs to read the usage, and no more.

The client gets the upstream's bytes as they are. The copy made here is decoded (gzip, deflate, br, zstd) piece by
piece, bounded in memory and in work, and given up without harm when it can't be decoded: the row then says that the
usage is unknown.

- An unstreamed answer is kept whole up to WHOLE bytes; beyond that only its head and tail.
- A stream keeps its first HEAD and its last TAIL bytes: providers report usage in the first or the last events.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import brotli
import zstandard

HEAD = 8 * 1024
TAIL = 16 * 1024
WHOLE = 1024 * 1024
STEP = 64 * 1024  # decoded bytes taken from a decoder at a time
DECODED_LIMIT = 256 * 1024 * 1024  # a bomb ends here: the rest of the answer is not metered


class Decoder(Protocol):
    """Turns encoded pieces into decoded ones of about STEP bytes, one at a time: who stops asking is not overrun."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ValueError when `data` is not of this encoding."""


class _Zlib:
    """gzip (also of several members) and deflate (zlib-wrapped as the RFC says, or raw as some servers send it)."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inner = zlib.decompressobj(wbits)
        self._start: bytes | None = b"" if wbits == 15 else None  # of deflate, until its header tells which

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._start is not None:
            data = self._start + data
            self._start = data if len(data) < 2 else None
            if self._start is not None:
                return
            if data[0] & 15 != 8 or (data[0] << 8 | data[1]) % 31:
                self._inner = zlib.decompressobj(-15)
        more = True
        while more:
            if self._inner.eof:
                if self._wbits != 31 or not data:
                    return
                self._inner = zlib.decompressobj(31)
            try:
                piece = self._inner.decompress(data, STEP)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            if piece:
                yield piece
            data = self._inner.unconsumed_tail or self._inner.unused_data
            more = bool(data) or len(piece) == STEP  # zlib may keep output that did not fit


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = True
        while more:
            try:
                piece = self._inner.process(data, output_buffer_limit=STEP)
            except brotli.error as error:
                raise ValueError(str(error)) from None
            data = b""
            more = bool(piece) and not self._inner.is_finished()
            if piece:
                yield piece


class _Zstd:
    """Its binding gives back all that a piece decodes to, and 4 bytes may stand for 128 KB: it gets small pieces."""

    PIECE = 256

    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
        self._inner = decompressor.decompressobj(read_across_frames=True)

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), self.PIECE):
            try:
                piece = self._inner.decompress(data[start : start + self.PIECE])
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
            if piece:
                yield piece


def decoder_for(encoding: bytes | None) -> Decoder | None:
    """The decoder of a Content-Encoding, None for identity. Raises ValueError for one that Fluxen can't decode."""
    match (encoding or b"identity").strip().lower():
        case b"identity" | b"":
            return None
        case b"gzip" | b"x-gzip":
            return _Zlib(31)
        case b"deflate":
            return _Zlib(15)
        case b"br":
            return _Brotli()
        case b"zstd":
            return _Zstd()
        case other:
            raise ValueError(f"unknown content encoding {other[:32]!r}")


def decode_whole(data: bytes, encoding: bytes | None, limit: int) -> bytes:
    """A request body decoded at once, at most `limit` bytes. Raises ValueError."""
    decoder = decoder_for(encoding)
    if decoder is None:
        return data
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(data), STEP):
        for piece in decoder.feed(data[start : start + STEP]):
            size += len(piece)
            if size > limit:
                raise ValueError("the decoded body is too large")
            pieces.append(piece)
    return b"".join(pieces)


_EVENTS = (
    b"text/event-stream", b"application/x-ndjson", b"application/stream+json", b"application/vnd.amazon.eventstream",
    b"application/jsonl", b"application/x-jsonlines",
)  # fmt: skip


def meter_for(content_type: bytes, encoding: bytes | None, counts: bytes | None = None) -> Meter | None:
    """The meter of an answer, None for one in which no usage can be. content_type in lower case. counts: what the
    answer's head tells of its usage."""
    streamed = content_type.startswith(_EVENTS)
    if not (streamed or content_type.startswith(b"application/json") or counts is not None):
        return None
    meter = Meter(streamed, encoding)
    meter.counts = counts
    return meter


class Meter:
    """Collects the copy. `failed` is set when the answer could not be decoded."""

    __slots__ = (
        "_decoder", "_dropped", "_first", "_first_size", "_last", "_last_size", "_limit", "_total", "counts",
        "failed", "streamed",
    )  # fmt: skip

    def __init__(self, streamed: bool, encoding: bytes | None) -> None:
        self.streamed = streamed
        self.failed = False
        self.counts: bytes | None = None
        self._limit = HEAD if streamed else WHOLE
        self._first: list[bytes] = []
        self._first_size = 0
        self._last: deque[bytes] | None = None
        self._last_size = 0
        self._dropped = 0
        self._total = 0
        self._decoder: Decoder | None = None
        if encoding is not None:
            try:
                self._decoder = decoder_for(encoding)
            except ValueError:
                self.failed = True

    def add(self, data: bytes) -> None:
        """Take in a piece of the answer's body as the upstream sent it (chunked framing removed)."""
        if self.failed:
            return
        if self._decoder is None:
            self._keep(data)
            return
        try:
            for piece in self._decoder.feed(data):
                self._total += len(piece)
                if self._total > DECODED_LIMIT:
                    self.failed = True
                    return
                self._keep(piece)
        except ValueError:
            self.failed = True

    def _keep(self, data: bytes) -> None:
        last = self._last
        if last is None:
            room = self._limit - self._first_size
            if len(data) <= room:
                self._first.append(data)
                self._first_size += len(data)
                return
            self._first.append(data[:room])
            self._first_size = self._limit
            last = self._last = deque()
            data = data[room:]
        if len(data) > TAIL:
            self._dropped += len(data) - TAIL
            data = data[-TAIL:]
        last.append(data)
        size = self._last_size + len(data)
        while (left := size - len(last[0])) >= TAIL:
            self._dropped += size - left
            size = left
            last.popleft()
        self._last_size = size

    def keep_more(self, limit: int) -> None:
        """Keep a longer head of a stream: its text will have to be counted. Before its first byte."""
        self._limit = limit

    @property
    def total(self) -> int:
        """The decoded bytes of the answer that came."""
        return self._first_size + self._last_size + self._dropped

    @property
    def clipped(self) -> bool:
        """Whether an unstreamed answer was too large to be kept whole."""
        return not self.streamed and self._last is not None

    def head(self) -> bytes:
        """The first bytes: of an unstreamed answer up to WHOLE, of a stream up to HEAD, or as keep_more said."""
        first = self._first
        return first[0] if len(first) == 1 else b"".join(first)

    def tail(self) -> bytes:
        """The last TAIL bytes of what came after the head."""
        return b"".join(self._last)[-TAIL:] if self._last else b""

    def ends(self) -> tuple[bytes, bytes]:
        """The first HEAD and the last TAIL bytes of a stream, however much more is kept."""
        head, tail = self.head(), self.tail()
        if len(head) > HEAD:
            head, tail = head[:HEAD], (head[HEAD:] + tail)[-TAIL:]
        return head, tail

    def ended(self) -> bool:
        """Whether a stream has said its last word, OpenAI's `[DONE]`. openai-python closes the connection when it reads
        that, mostly before the end of the chunked body has come."""
        return self.streamed and (self.head()[-64:] + self.tail()[-64:]).rstrip().endswith(b"data: [DONE]")
