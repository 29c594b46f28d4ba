"""Reading a piece of JSON whose beginning, or end, was not kept.

The idea: a JSON text's depth can be counted from its end as well as from its start. From a key that stands directly
inside `response` of an event, the rest of the event closes exactly two objects. So the rest, with `{"response":{` put
before it, is valid JSON if and only if the key stood there; had it stood deeper (a tool's schema may have a property
called "usage") or inside a string, the decoder finds a closer too many, or none. One decode proves place and form.
The same from the other side: a beginning, up to and with a value, is valid JSON once its objects are closed.

A quote that opens a string is never preceded by a backslash, and the text `"usage"` that follows one without a
backslash is a whole string: so a search for a key's bytes finds every key, and a few that are none. Those fail.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

from fluxen.providers.answer import Part
from fluxen.providers.dialect import Dialect

_TRIES: Final = 12  # occurrences of one key that are looked at: bounds the work on hostile text
_BACKSLASH: Final = 0x5C


def read_end(dialect: Dialect, piece: bytes) -> Part:
    """What the last bytes of a JSON object say, whose beginning is missing."""
    found = Part()
    for landmark in dialect.landmarks:
        if _knows(found, landmark):
            continue
        for at in _from_end(piece, landmark):
            rest = piece[at:]
            part = next((p for p in (dialect.part(opener + rest) for opener in dialect.openers) if _useful(p)), None)
            if part is not None:
                found.complete_from(part)
                break
    return found


def read_start(dialect: Dialect, piece: bytes, landmarks: tuple[bytes, ...]) -> Part:
    """What the first bytes of a JSON object say, whose end is missing. `landmarks`: those to look for."""
    found = Part()
    for landmark in landmarks:
        if _knows(found, landmark):
            continue
        for at in _from_start(piece, landmark):
            part = _closed(dialect, piece, landmark, at)
            if part is not None:
                found.complete_from(part)
                break
    return found


def _closed(dialect: Dialect, piece: bytes, landmark: bytes, at: int) -> Part | None:
    """The beginning, up to the end of the value of the key at `at`, with its objects closed."""
    is_usage = _tells(landmark) == "usage"
    end = at + len(landmark)
    for _ in range(_TRIES):  # a usage object ends at one of the next braces, a name at one of the next quotes
        end = piece.find(b"}" if is_usage else b'"', end) + 1
        if end == 0:
            return None
        for closers in (b"}", b"}}"):
            part = dialect.part(piece[:end] + closers)
            if part is None or not _useful(part):
                continue
            if is_usage and (part.usage is None or not piece.endswith(part.usage, 0, end)):
                continue  # a closer of ours ended the usage object itself: it goes on
            return part
    return None


def _from_end(piece: bytes, landmark: bytes) -> Iterator[int]:
    """Where the key may stand, from the last to the first."""
    if landmark not in piece:  # a search forwards is several times faster than one backwards
        return
    at = len(piece)
    for _ in range(_TRIES):
        at = piece.rfind(landmark, 0, at)
        if at < 0:
            return
        if at == 0 or piece[at - 1] != _BACKSLASH:
            yield at


def _from_start(piece: bytes, landmark: bytes) -> Iterator[int]:
    at = -1
    for _ in range(_TRIES):
        at = piece.find(landmark, at + 1)
        if at < 0:
            return
        if at == 0 or piece[at - 1] != _BACKSLASH:
            yield at


@functools.cache  # there are a few dozen
def _tells(landmark: bytes) -> str:
    """What stands behind a key: the name of a Part's field."""
    low = landmark.lower()
    if b"model" in low or b"tier" in low:
        return "model" if b"model" in low else "tier"
    return "finish" if any(word in low for word in (b"finish", b"stop", b"status", b"reason")) else "usage"


def _knows(part: Part, landmark: bytes) -> bool:
    return getattr(part, _tells(landmark)) is not None


def _useful(part: Part | None) -> bool:
    return part is not None and any(
        told is not None for told in (part.usage, part.model, part.finish, part.tier, part.calls)
    )
