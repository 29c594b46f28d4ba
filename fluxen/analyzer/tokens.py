"""How many tokens a text is, exactly as OpenAI's tokenizer counts them, and safely whatever the text is.

Small texts are counted by a merge loop of our own: the ranks are enough for it, and a prompt of some KB is done before
tiktoken has built its tables (0.3 s). Beyond SMALL tiktoken counts, three times as fast, or our loop where tiktoken
isn't there: the counts are the same. Neither gets what tiktoken can't bear: a piece of a million spaces panics, one
word of 20 MB takes it 12 s, so runs without a border are cut every RUN characters; the count may be off by one token
per cut. Beyond LARGE only a sample is counted.

Special tokens (`<|endoftext|>`) are plain text here: that is how providers read them in a prompt. A half of a surrogate
pair is U+FFFD.
"""

from __future__ import annotations

import functools
import heapq
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from fluxen.analyzer.ranks import Encoding, load_ranks

if TYPE_CHECKING:
    import tiktoken

SMALL: Final = 1024 * 1024  # characters of all texts together that are counted without tiktoken's tables
UNUSUAL: Final = 64 * 1024  # bytes of all pieces together that are no token and had to be merged, likewise
LARGE: Final = 4 * 1024 * 1024  # characters beyond which a sample stands for the whole
RUN: Final = 2048  # characters without a border between words after which one is made

_SAMPLES: Final = 64
_SAMPLE: Final = 16 * 1024  # characters of each
_SAMPLE_ERROR: Final = 0.05  # half the 95 % band of a sample of this size, of texts that are not all alike
_REMEMBERED: Final = 20_000  # pieces whose count is remembered
_SHORT: Final = 48  # bytes of a piece that is merged by looking through it again and again; beyond, with a heap


class Tokenizer:
    """Counts for one encoding. Thread-safe. The ranks are read on first use, tiktoken's tables when they pay."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self._lock = threading.Lock()
        self._ranks: dict[bytes, int] | None = None
        self._pieces: Any = None
        self._known: dict[str, int] = {}
        self._tables: tiktoken.Encoding | None = None
        self._counted = 0  # characters by our own loop
        self._merged = 0  # bytes of them that were no token as they stood

    def count(self, text: str) -> int:
        """The tokens of a text of at most LARGE characters; of a longer one see `estimate`."""
        if not text:
            return 0
        parts = cut(sound(text))
        if self._tables is None:
            self._counted += len(text)
            if self._counted <= SMALL:
                counted = self._count_small(parts)
                if counted is not None:
                    return counted
        tables = self._built()
        if tables is None:
            return self._count_small(parts, bounded=False) or 0
        return sum(len(tokens) for tokens in map(tables.encode_ordinary, parts))

    def estimate(self, text: str) -> tuple[int, float]:
        """(tokens, half the 95 % band as a part of them): 0.0 unless the text is so long that a sample is counted."""
        if len(text) <= LARGE:
            return self.count(text), 0.0
        step = (len(text) - _SAMPLE) // (_SAMPLES - 1)
        sample = [text[i * step : i * step + _SAMPLE] for i in range(_SAMPLES)]
        counted = sum(self.count(piece) for piece in sample)
        return round(counted * len(text) / (_SAMPLES * _SAMPLE)), _SAMPLE_ERROR

    def warm(self) -> None:
        """Build tiktoken's tables now: for a process that has much to count."""
        self._built()

    def _built(self) -> tiktoken.Encoding | None:
        """None where tiktoken can't be imported, as in an executable that leaves it out."""
        with self._lock:
            if self._tables is None:
                try:
                    import tiktoken
                except ImportError:
                    return None
                ranks = load_ranks(self.encoding)
                # No special tokens: they would only be found by calls that we don't make.
                self._tables = tiktoken.Encoding(
                    ranks.name, pat_str=ranks.pattern, mergeable_ranks=ranks.by_token(), special_tokens={}
                )
                self._ranks, self._pieces = None, None
                self._known.clear()
            return self._tables

    def _count_small(self, parts: list[str], *, bounded: bool = True) -> int | None:
        """None when it would be too much work, if that is `bounded`: tiktoken is to count."""
        with self._lock:
            if self._tables is not None and bounded:
                return None
            if self._ranks is None or self._pieces is None:
                import regex

                ranks = load_ranks(self.encoding)
                self._ranks, self._pieces = ranks.by_token(), regex.compile(ranks.pattern)
            ranks_of, known = self._ranks, self._known
            total = 0
            for part in parts:
                for piece in self._pieces.findall(part):
                    count = known.get(piece)
                    if count is None:
                        data = piece.encode()
                        if data in ranks_of:
                            count = 1
                        else:
                            self._merged += len(data)
                            if bounded and self._merged > UNUSUAL:
                                return None
                            count = _merged(data, ranks_of)
                        if len(piece) <= _SHORT:
                            known[piece] = count
                    total += count
            if len(known) > _REMEMBERED:
                known.clear()
            return total


@functools.cache
def tokenizer(encoding: Encoding) -> Tokenizer:
    """The one of this process."""
    return Tokenizer(encoding)


def sound(text: str) -> str:
    """The text with U+FFFD in place of halves of surrogate pairs; whole pairs become the character they mean."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def cut(text: str) -> list[str]:
    """The text in parts none of which has a run of more than RUN blanks, or of RUN characters that are none."""
    if len(text) <= RUN:
        return [text]
    import regex

    borders = [found.end() for found in regex.finditer(rf"\s{{{RUN}}}|\S{{{RUN}}}", text)]
    edges = [0, *borders, len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


def _merged(data: bytes, ranks: dict[bytes, int]) -> int:
    """How many tokens are left of a piece when every pair that is a token is merged, the lowest rank first."""
    if len(data) > _SHORT:
        return _merged_long(data, ranks)
    parts = [data[i : i + 1] for i in range(len(data))]
    while len(parts) > 1:
        best, at = None, 0
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1])
            if rank is not None and (best is None or rank < best):
                best, at = rank, i
        if best is None:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return len(parts)


def _merged_long(data: bytes, ranks: dict[bytes, int]) -> int:
    """The same in n log n: `ends[i]` is where the part that begins at i ends, 0 once it was merged into another."""
    size = len(data)
    ends = list(range(1, size + 1))
    before = list(range(-1, size - 1))  # where the part before begins
    heap = [(rank, i, i + 2) for i in range(size - 1) if (rank := ranks.get(data[i : i + 2])) is not None]
    heapq.heapify(heap)
    left = size
    while heap:
        _, i, end = heapq.heappop(heap)
        middle = ends[i]
        if middle == 0 or middle >= end or ends[middle] != end:  # one of the two was merged otherwise
            continue
        ends[i], ends[middle] = end, 0
        left -= 1
        if end < size:
            before[end] = i
            rank = ranks.get(data[i : ends[end]])
            if rank is not None:
                heapq.heappush(heap, (rank, i, ends[end]))
        if i > 0:
            rank = ranks.get(data[before[i] : end])
            if rank is not None:
                heapq.heappush(heap, (rank, before[i], end))
    return left
