"""How a line looks: one JSON object for a log pipeline, or columns for a person. Pure: values in, bytes out.

What comes in as text may have come from anybody: control characters and direction overrides are shown as escapes, and
every text and every line is bounded. A line fits into PIPE_BUF bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

import msgspec

LONGEST: Final = 1000
"""Characters of a text in a line."""
TRACE: Final = 2600
"""… and of a traceback, of which the end says most."""
_LINE: Final = 4000

RED, YELLOW, GREEN, DIM, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m", "\x1b[0m"
_COLOURS: Final = {"debug": DIM, "info": "", "warning": YELLOW, "error": RED}
_SHOWN: Final = {"debug": "debug", "info": "info", "warning": "WARN", "error": "ERROR"}
_SENTENCES: Final = ("message", "warning", "problems", "reason")
"""Fields that a person reads without their names."""
_HIDDEN: Final = re.compile(r"[^\x20-\x7e]")
_BARE: Final = re.compile(r"[A-Za-z0-9_./:@$*+%~,-]+")

_encode = msgspec.json.Encoder(decimal_format="number").encode

Value = str | int | float | bool | None


def visible(text: str, limit: int = LONGEST) -> str:
    """What can't be seen, as escapes; not longer than `limit`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class Clock:
    """Times as text. What changes once a second is worked out once a second."""

    __slots__ = ("_local", "_prefix", "_second")

    def __init__(self, *, local: bool) -> None:
        """local: the time of day where the terminal stands; else RFC 3339 in UTC."""
        self._local = local
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        moment = time.time()
        second = int(moment)
        if second != self._second:
            self._second = second
            self._prefix = (
                time.strftime("%H:%M:%S", time.localtime(second))
                if self._local
                else time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            )
        return self._prefix if self._local else f"{self._prefix}.{int((moment - second) * 1000):03d}Z"


def json_line(ts: str, level: str, process: str, event: str, fields: Mapping[str, Value]) -> bytes:
    head = {"ts": ts, "level": level, "process": process, "event": event}
    line = _encode({**head, **fields})
    if len(line) > _LINE:
        line = _encode({**head, **{name: _cut(name, value) for name, value in fields.items()}, "cut": True})
    if len(line) > _LINE:
        line = _encode({**head, "cut": True})
    return line + b"\n"


def _cut(name: str, value: Value) -> Value:
    if not isinstance(value, str):
        return value
    return value[-1500:] if name == "traceback" else value[:100]


def console_line(ts: str, level: str, process: str, event: str, fields: Mapping[str, Value], *, colour: bool) -> bytes:
    """`14:05:09 WARN  unreachable: connection refused  upstream=openai  (worker 0)`"""
    shown = dict(fields)
    said = [str(text) for text in (shown.pop(name, None) for name in _SENTENCES) if text]
    trace = shown.pop("traceback", None)
    text = ": ".join((event.replace("_", " "), *said))
    rest = "  ".join(f"{name}={_quoted(value)}" for name, value in shown.items() if value is not None)
    tail = f"  {rest}" if rest else ""
    lines = f"\n{trace}" if trace else ""
    if not colour:
        line = f"{ts} {_SHOWN[level]:<5} {text}{tail}  ({process}){lines}"
    else:
        tint = _COLOURS[level]
        line = f"{DIM}{ts}{PLAIN} {tint}{_SHOWN[level]:<5} {text}{PLAIN}{tail}  {DIM}({process}){PLAIN}{lines}"
    raw = line.encode("utf-8", "replace")
    if len(raw) > _LINE:
        raw = raw[:_LINE].decode("utf-8", "ignore").encode() + (PLAIN.encode() if colour else b"")
    return raw + b"\n"


def _quoted(value: Value) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else msgspec.json.encode(text).decode()
