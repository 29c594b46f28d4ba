"""The log of one process: the only way a line gets out of a gateway.

Every text goes by the same gate: secrets masked, control characters shown as escapes, its length bounded. A line is
written at once, but for the lines of requests, which the event loop writes once a turn. Nothing ever waits for a
reader: what is not taken is kept, up to a bound; then lines are dropped, counted, and confessed when there is a reader
again.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from fluxen.telemetry.lines import LONGEST, TRACE, Clock, Value, console_line, json_line, visible
from fluxen.telemetry.secrets import Secrets
from fluxen.telemetry.settings import LEVELS, Settings
from fluxen.telemetry.sink import Sink

if TYPE_CHECKING:
    import asyncio

KEPT: Final = 1 << 20
"""Bytes that wait for a reader."""
NOTICE_SECONDS: Final = 1.0
RETIRED: Final = 10_000
"""Secrets of configurations that are no longer in force, of which so many are remembered at most, and the last ones."""
_RETRY_FIRST, _RETRY_MOST = 0.02, 1.0
_END: Final = 10
_KINDS: Final = 1024
_REMEMBERED: Final = 4096


class Log:
    """Lines of one process. Not for threads.

    `dropped` counts the lines that nobody took. `requests`: whether requests are to be written, too.
    """

    def __init__(
        self,
        process: str,
        settings: Settings | None = None,
        sink: Sink | None = None,
        secrets: Secrets | None = None,
        *,
        colour: bool = True,
    ) -> None:
        """colour: allowed where a terminal can show it."""
        self.process = process
        self.dropped = 0
        self._sink = sink or Sink(2)
        self._colour_allowed = colour
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffer = bytearray()
        self._torn = False  # the last thing written was a piece of a line
        self._retry = _RETRY_FIRST
        self._scheduled = False
        self._confessed = 0
        self._last: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], tuple[int, str, dict[str, Value]]] = {}
        self._cleaned: dict[str, str] = {}
        self._secrets = (secrets or Secrets(), Secrets())
        self.change(settings or Settings())

    def child(self, process: str) -> Log:
        """The log of a process forked from this one: the same settings, nothing of what waits here."""
        log = Log(process, self.settings, self._sink, self._secrets[0], colour=self._colour_allowed)
        log._secrets = self._secrets
        return log

    def change(self, settings: Settings, secrets: Secrets | None = None) -> None:
        """Other settings; with `secrets`, those of a new configuration. The ones before stay secret: requests may still
        run with them, and a key that was taken out of a file still opens a door somewhere."""
        self.settings = settings
        self._least = LEVELS.index(settings.level)
        self.requests = settings.requests and self.wants("info")
        self.console = settings.format == "console" or (settings.format == "auto" and self._sink.terminal)
        self.colour = self.console and self._colour_allowed and self._sink.terminal
        self._clock = Clock(local=self.console and self._sink.terminal)
        if secrets is not None:
            current, retired = self._secrets
            gone = current.values - secrets.values
            if gone:
                kept = retired.values if len(retired.values) <= RETIRED else frozenset()
                retired = Secrets((gone | kept) - secrets.values)
            self._secrets = (secrets, retired)
        self._cleaned.clear()

    def within(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on this is the log of an event loop: what goes wrong in it unnoticed is said here."""
        self._loop = loop
        loop.set_exception_handler(self._unnoticed)

    def _unnoticed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            self.error("bug", message=context.get("message"))
        else:
            self.bug("bug", error, message=context.get("message"))

    def wants(self, level: str) -> bool:
        return LEVELS.index(level) >= self._least

    # --- what is said

    def debug(self, event: str, **fields: object) -> None:
        self._say("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._say("error", event, fields)

    def event(self, event: str, **fields: object) -> None:
        """What a log pipeline should know and a person at a terminal sees anyway."""
        if not self.console:
            self._say("info", event, fields)

    def bug(self, event: str, error: BaseException, **fields: object) -> None:
        """An exception that nobody expected, with its traceback."""
        text = "".join(traceback.format_exception(error)).rstrip()
        self._say("error", event, {**fields, "traceback": text[-TRACE:]})

    def notice(self, event: str, *, about: str = "", level: str = "warning", **fields: object) -> None:
        """The same at a bounded rate: nobody fills a disk by sending garbage. One line a second of each event and what
        it is `about` (a small set: upstreams, codes); the others are counted, and the count is said later."""
        kind = (event, about)
        now = time.monotonic()
        if now - self._last.get(kind, -NOTICE_SECONDS) < NOTICE_SECONDS:
            held = self._held.get(kind)
            self._held[kind] = (held[0] + 1 if held else 1, level, self._fields(fields))
            return
        if len(self._last) >= _KINDS:
            self._last.clear()
        self._last[kind] = now
        held = self._held.pop(kind, None)
        self._say(level, event, {**fields, "more": held[0]} if held else fields)

    def tick(self) -> None:
        """Called about once a second: say what was held back, and try again what was not taken."""
        if self._held:
            self._say_held(NOTICE_SECONDS)
        if self._buffer or self.dropped > self._confessed:
            self.flush()

    def _say_held(self, after: float) -> None:
        """Say what was held back for `after` seconds."""
        now = time.monotonic()
        for kind in [kind for kind in self._held if now - self._last.get(kind, 0.0) >= after]:
            count, level, fields = self._held.pop(kind)
            self._last[kind] = now
            self._say(level, kind[0], {**fields, "more": count - 1} if count > 1 else dict(fields))

    def clean(self, text: str) -> str:
        """A text as it may stand in a line. The same texts come again and again: they are looked at once."""
        known = self._cleaned.get(text)
        if known is None:
            known = self._clean(text, LONGEST)
            if len(self._cleaned) >= _REMEMBERED:
                self._cleaned.clear()
            if len(text) <= LONGEST:
                self._cleaned[text] = known
        return known

    def _clean(self, text: str, limit: int) -> str:
        for secrets in self._secrets:
            text = secrets.scrub(text)
        return visible(text, limit)

    def _fields(self, fields: dict[str, object]) -> dict[str, Value]:
        return {name: self._value(name, value) for name, value in fields.items()}

    def _value(self, name: str, value: object) -> Value:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple | set | frozenset):
            value = ", ".join(str(item) for item in value)
        text = str(value)
        if name != "traceback":
            return self._clean(text, LONGEST)
        return "\n".join(self._clean(line, LONGEST) for line in text.splitlines())

    def _say(self, level: str, event: str, fields: dict[str, object]) -> None:
        if self.wants(level):
            self._put(self._line(level, event, self._fields(fields)))
            self.flush()

    def _line(self, level: str, event: str, fields: dict[str, Value]) -> bytes:
        ts = self._clock.now()
        if self.console:
            return console_line(ts, level, self.process, event, fields, colour=self.colour)
        return json_line(ts, level, self.process, event, fields)

    # --- what is written

    def now(self) -> str:
        """The time as it begins a line."""
        return self._clock.now()

    def put(self, line: bytes) -> None:
        """A line that is ready, made of texts that are clean: written at the end of this turn of the event loop."""
        self._put(line)
        if not self._scheduled:
            if self._loop is None:
                self.flush()
            else:
                self._scheduled = True
                self._loop.call_soon(self._turn)

    def _put(self, line: bytes) -> None:
        if len(self._buffer) + len(line) > KEPT:
            self.dropped += 1
        else:
            self._buffer += line

    def _turn(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what is taken."""
        if self._drain() and self.dropped > self._confessed:
            self._confess()
        if self._buffer and self._loop is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_later(self._retry, self._turn)
            self._retry = min(self._retry * 2, _RETRY_MOST)

    def _drain(self) -> bool:
        """Whether all that was there is written."""
        buffer = self._buffer
        if not buffer:
            return True
        taken = self._sink.write(buffer)
        if taken < 0:
            self.dropped += buffer.count(b"\n")
            self._buffer = bytearray(b"\n" if self._torn else b"")
            return False
        if taken:
            self._retry = _RETRY_FIRST
            self._torn = buffer[taken - 1] != _END
            del buffer[:taken]
        return not buffer

    def _confess(self) -> None:
        line = self._line("warning", "log_lines_dropped", {"count": self.dropped - self._confessed})
        taken = self._sink.write(line)
        if taken > 0:
            self._confessed = self.dropped
            self._buffer += line[taken:]

    def close(self, patience: float = 0.2) -> None:
        """Say what was held back, and write what waits; give up after `patience` seconds."""
        self._say_held(0.0)
        deadline = time.monotonic() + patience
        self.flush()
        while self._buffer and time.monotonic() < deadline:
            time.sleep(0.005)
            self.flush()
