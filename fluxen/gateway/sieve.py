"""A stream of server-sent events without the one that nobody but Fluxen asked for. Bytes in, bytes out.

It is the event that has no choices and an object of usage; usage beside choices, as some imitators send it, stays, and
so does an error. Events are told apart as the specification has it (lines may end with CRLF, LF or CR; comments), on
bytes, and wherever the stream was cut on its way. Only the event that is not complete waits, up to LONGEST; comments
don't: they are what keeps a silent connection alive.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fluxen.providers.answer import UNREADABLE

LONGEST: Final = 16 * 1024  # bytes; more is no such event

_EMPTY_LINE: Final = (b"\n\n", b"\r\n\r\n")
_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_IDLE: Final = re.compile(rb"(?::[^\r\n]*(?:\r\n|\n|\r)|\r\n|\n|\r)*")  # lines that may stand between two events
_LINE: Final = re.compile(rb"\r\n|\n|\r")
# No choices, whatever the white space; a value may go on in another `data:` line.
_NO_CHOICES: Final = re.compile(rb'"choices"(?:[ \t\r\n]|data:)*:(?:[ \t\r\n]|data:)*\[(?:[ \t\r\n]|data:)*\]')


class _Event(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw]
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Event).decode


class Sieve:
    """What of a stream is passed on. `feed` gives back as much as can be told, `end` the rest."""

    __slots__ = ("_edge", "_held", "_swallow")

    def __init__(self) -> None:
        self._held = b""
        """The event that has begun."""
        self._edge: bytes | None = None
        """Set in the midst of an event that is passed on unseen: the last bytes of it, in which its end may begin."""
        self._swallow = False
        """What was kept back ended with CR: a LF at once behind it belongs to it."""

    def feed(self, data: bytes) -> bytes:
        held = self._held
        if not held and data.endswith(_EMPTY_LINE) and self._edge is None and not self._swallow:
            # Whole events, as they mostly come, and mostly with nothing but lists of objects: then no list is empty.
            if _clear(data):
                return data
        elif self._swallow and data:
            self._swallow = False
            data = data.removeprefix(b"\n")
        if self._edge is not None:
            passed, data = self._pass(data)
            return passed + self._events(data, 0) if data else passed
        return self._events(held + data, max(0, len(held) - 3))

    def end(self) -> bytes:
        """The stream is complete: the event that lacks its empty line."""
        held, self._held = self._held, b""
        return b"" if _is_usage(held) else held

    def _events(self, data: bytes, known: int) -> bytes:
        """What `data` brings, from the beginning of an event on. known: up to where no event ends."""
        kept: list[bytes] = []
        start = at = 0
        passed = -1
        sign = len(data) if _clear(data) else -1  # where the next event without choices may be
        while True:
            if sign < at:
                found = _NO_CHOICES.search(data, at)
                sign = len(data) if found is None else found.start()
            if passed < sign:  # a read can have thousands of events: all before the sign are passed on together
                at, passed = _last_end(data, at, sign), sign
            between = _IDLE.match(data, at)
            if between is not None:
                at = between.end()
            end = _end(data, max(at, known))
            if end < 0:
                break
            if _is_usage(data[at:end]):
                kept.append(data[start:at])
                start = end
                self._swallow = start == len(data) and data.endswith(b"\r")
            at = end
        if len(data) - at > LONGEST:
            self._held, self._edge = b"", data[-3:]
            at = len(data)
        else:
            self._held = data[at:]
        if not kept:
            return data[start:at]
        kept.append(data[start:at])
        return b"".join(kept)

    def _pass(self, data: bytes) -> tuple[bytes, bytes]:
        """More of an event that is passed on unseen, and what is behind it."""
        edge = self._edge or b""
        seen = edge + data
        end = _end(seen, 0)
        if end < 0:
            self._edge = seen[-3:]
            return data, b""
        self._edge = None
        cut = max(0, end - len(edge))
        return data[:cut], data[cut:]


def _clear(data: bytes) -> bool:
    """Whether nothing in it is without choices. Mostly no text has a bracket, and then no list is empty."""
    return data.count(b"[") == data.count(b"[{") or _NO_CHOICES.search(data) is None


def _last_end(data: bytes, start: int, stop: int) -> int:
    """The last end of an event between the two, of those that are written as most are; `start`: there is none."""
    lf, crlf = data.rfind(b"\n\n", start, stop), data.rfind(b"\r\n\r\n", start, stop)
    return max(start, lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def _end(data: bytes, start: int) -> int:
    """Where the first event ends whose empty line is behind `start`; -1: not here."""
    if data.find(b"\r", start) < 0:  # a regular expression is ten times slower
        at = data.find(b"\n\n", start)
        return at + 2 if at >= 0 else -1
    found = _END.search(data, start)
    return -1 if found is None else found.end()


def _is_usage(event: bytes) -> bool:
    if _NO_CHOICES.search(event) is None or len(event) > LONGEST:
        return False
    fields = (line.partition(b":") for line in _LINE.split(event))
    try:
        found = _decode(b"\n".join(value for name, _, value in fields if name == b"data"))
    except UNREADABLE:
        return False
    return not found.choices and bytes(found.usage)[:1] == b"{" and bytes(found.error) == b"null"
