"""One name more in the body of a request, and nothing else: the stream is asked for its usage. Bytes in, values out.

A body is only touched where it can be read in one way: one JSON object in UTF-8, no name at its top twice, and none
that a careless parser might take for `stream_options` or `stream`. All others go on as they came.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from fluxen.gateway.kin import NAMES, folded

ASKED: Final = b',"stream_options":{"include_usage":true}'
_FOLDED: Final = {folded("stream_options"): "", folded("stream"): "stream"}
"""Names that matter, folded, and the one spelling that is allowed."""
_SHORT: Final = 1024  # characters of the names of an object that are worth remembering
_ENCODINGS: Final = re.compile(rb"\r\naccept-encoding:[^\r]*", re.IGNORECASE)


class _Name(str):
    """A name as msgspec hands it to us: each time it comes, also the second."""

    __slots__ = ()


class _Unclear(Exception):
    """The body goes on as it is."""


_Object = dict[_Name, msgspec.Raw]
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def behind(text: bytes) -> int | None:
    """How many bytes of a body are behind the place for ASKED; None: it has no such place."""
    try:
        if not text.isascii():
            text.decode()  # somebody who reads invalid UTF-8 may find quotes elsewhere than we do
        fields = _fields(text)
        if not 0 < len(fields) < NAMES:
            return None
        letters = sum(map(len, fields))
        # Most programs write nothing but names, values and what stands between them. An object of that length has no
        # name twice, and none that is escaped: it needs no closer look.
        more = len(text) - letters - sum(map(len, fields.values())) - 4 * len(fields) - 1
        spaced = (_spaced if letters <= _SHORT else _spaced.__wrapped__)(tuple(fields))
        if spaced is None:
            return None
        if more and (more != 2 * len(fields) - 1 or text != spaced % tuple(fields.values())):
            _see_each(text)
    except (_Unclear, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return len(text) - text.rindex(b"}")


@functools.lru_cache(maxsize=256)
def _spaced(names: tuple[str, ...]) -> bytes | None:
    """An object of these names as Python writes it, with a space behind each comma and colon: `%b` stands for a value.
    None where a name is not what it seems to be."""
    if not all(_FOLDED.get(folded(name), name) == name for name in names):
        return None
    return b"{%b}" % b", ".join([b'"%b": %%b' % name.replace("%", "%%").encode() for name in names])


def _see_each(text: bytes) -> None:
    """Raises _Unclear when a name is there twice."""
    seen: set[str] = set()

    def see(_type: type, name: str) -> _Name:
        if name in seen or len(seen) >= NAMES:
            raise _Unclear
        seen.add(name)
        return _Name(name)

    msgspec.json.Decoder(_Object, dec_hook=see).decode(text)


def spliced(pieces: Sequence[bytes], left: int) -> list[bytes]:
    """The pieces of a body with ASKED in it. left: what `behind` says of them together."""
    if len(pieces) == 1:
        cut = len(pieces[0]) - left
        return [pieces[0][:cut], ASKED, pieces[0][cut:]]
    for at in range(len(pieces) - 1, -1, -1):
        piece = pieces[at]
        if len(piece) >= left:
            cut = len(piece) - left
            return [*pieces[:at], piece[:cut], ASKED, piece[cut:], *pieces[at + 1 :]]
        left -= len(piece)
    return list(pieces)


def plain(before: bytes, after: bytes) -> tuple[bytes, bytes]:
    """A request's head, in two parts around the body's length, that asks for an answer without Content-Encoding."""
    return _ENCODINGS.sub(b"", before), b"\r\nAccept-Encoding: identity" + _ENCODINGS.sub(b"", after)
