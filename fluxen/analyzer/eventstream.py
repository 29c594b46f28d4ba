"""Amazon's binary event stream, read from its end.

A message is a prelude (total length, length of the headers, CRC of these), headers, a payload and a CRC of everything
before it: https://smithy.io/2.0/aws/amazon-eventstream.html. Nothing marks where one begins. But each has a header of
a known name, mostly the first one, and a prelude whose CRC is right is no accident: so the last messages are found by
looking for that name backwards, and each has to end where the next one begins.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator
from typing import Final

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_LEAST: Final = 16  # bytes of a message without headers and payload
_NAME: Final = b"\x0b:event-type\x07"  # the name's length, the name, the type of its value: a string
_BEFORE: Final = 128  # bytes of other headers that may stand before it
_TRIES: Final = 64  # places that look like that header and are none: bounds the work on hostile bytes


def begins(stream: bytes) -> bool:
    """Whether a stream begins with a message of this kind."""
    return stream[:1] == b"\x00" and _message(stream, 0) is not None


def forwards(stream: bytes) -> Iterator[bytes]:
    """The payloads from the beginning, as far as messages are whole."""
    at = 0
    while (found := _message(stream, at)) is not None and at + found[0] <= len(stream):
        yield stream[at + 12 + found[1] : at + found[0] - 4]
        at += found[0]


def backwards(piece: bytes) -> Iterator[bytes]:
    """The payloads of a stream's last bytes, from the end; then what stands before the first whole message.

    That is the end of a payload whose beginning was not kept, with headers before it if they were. A message that broke
    off at the end is left out.
    """
    end: int | None = None
    for start, length, headers in _starts(piece):
        stop = start + length
        if end is None and stop > len(piece):
            end = start
            continue
        if end is None and stop < len(piece) and piece[stop]:
            continue  # it stands within a payload: what follows is no message, which would begin with a small length
        if (end is not None and stop != end) or not _sound(piece, start, stop):
            return
        yield piece[start + 12 + headers : stop - 4]
        end = start
    rest = piece[:end]
    if len(rest) > _LEAST:
        yield rest[:-4].replace(b"\n", b" ")  # which JSON may be written with, and no string of it holds


def _message(stream: bytes, at: int) -> tuple[int, int] | None:
    """(length, length of the headers) of the message that begins at a place, if one does."""
    if at < 0 or at + 12 > len(stream):
        return None
    length, headers, crc = _PRELUDE.unpack_from(stream, at)
    if length < _LEAST + headers or crc != binascii.crc32(stream[at : at + 8]):
        return None
    return length, headers


def _starts(piece: bytes) -> Iterator[tuple[int, int, int]]:
    """(start, length, length of the headers) of messages, from the last to the first."""
    at, tries = len(piece), 0
    while tries < _TRIES and (at := piece.rfind(_NAME, 0, at)) >= 0:
        for start in range(at - 12, max(at - 12 - _BEFORE, -1), -1):
            if piece[start] == 0 and (found := _message(piece, start)) is not None:
                yield start, *found
                at, tries = start, 0
                break
        else:
            tries += 1


def _sound(piece: bytes, start: int, stop: int) -> bool:
    sent: int = _CRC.unpack_from(piece, stop - 4)[0]
    return sent == binascii.crc32(piece[start : stop - 4])
