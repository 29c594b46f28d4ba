"""The token ranks that are shipped: which byte strings are tokens, and in which order they are merged.

Never downloaded: the files lie beside this module (packaging/build_ranks.py says in which form), and what is unpacked
must have the SHA-256 that stands here.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from itertools import accumulate, pairwise
from typing import Final, Literal

import msgspec
import zstandard

Encoding = Literal["o200k_base", "cl100k_base"]
ENCODINGS: Final[tuple[Encoding, ...]] = ("o200k_base", "cl100k_base")

_SHA256: Final[dict[Encoding, str]] = {
    "o200k_base": "265174f79a39ff552ccc5c59bce1c2eccb92828131bbc47378e7600e9c3e0b8d",
    "cl100k_base": "a7b503f1738973d8d6efb24c6cc3ee9ab9ee2be470864f03d92bfebb6e304a93",
}
_LIMIT: Final = 4 * 1024 * 1024  # bytes, unpacked


class Ranks(msgspec.Struct, frozen=True, gc=False):
    """`tokens` are in the order of their ranks, which are 0, 1, 2 …; `pattern` cuts a text into pieces that no token
    crosses (a regular expression of the `regex` module); `sha256` is that of the official text form."""

    name: str
    pattern: str
    sha256: str
    tokens: tuple[bytes, ...]

    def by_token(self) -> dict[bytes, int]:
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))


class _Header(msgspec.Struct):
    name: str
    pattern: str
    count: int
    sha256: str


@functools.cache
def packed_ranks(encoding: Encoding) -> bytes:
    """The file as it is shipped, read once in a process."""
    return resources.files(__package__).joinpath("ranks", f"{encoding}.zst").read_bytes()


def load_ranks(encoding: Encoding) -> Ranks:
    """Read, unpacked and checked anew at each call: some 40 ms of CPU for o200k_base. Raises ValueError when the
    installation is damaged."""
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed_ranks(encoding), max_output_size=_LIMIT)
    except zstandard.ZstdError as error:
        raise ValueError(f"the ranks of {encoding} can't be unpacked: {error}") from None
    if hashlib.sha256(raw).hexdigest() != _SHA256[encoding]:
        raise ValueError(f"the ranks of {encoding} are not those that were shipped")
    line, _, _ = raw.partition(b"\n")
    header = msgspec.json.decode(line, type=_Header)
    start = len(line) + 1
    lengths = raw[start : start + header.count]
    edges = pairwise(accumulate(lengths, initial=start + header.count))
    return Ranks(header.name, header.pattern, header.sha256, tuple([raw[a:b] for a, b in edges]))
