"""What an operator should see of a worker: one line a kind and second on stderr, the rest counted."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime


class Notices:
    """Lines at a bounded rate: nobody fills a disk by sending garbage."""

    SECONDS = 1.0

    def __init__(self, who: str) -> None:
        self._who = who
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def say(self, kind: str, text: str) -> None:
        """`kind` is one of a small set (it may name an upstream), `text` names no secret."""
        now = time.monotonic()
        if now - self._last.get(kind, -self.SECONDS) < self.SECONDS:
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        self._last[kind] = now
        held = self._held.pop(kind, 0)
        more = f" (and {held} more)" if held else ""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with contextlib.suppress(OSError, ValueError):  # where nobody reads, or the disk is full: serving goes on
            sys.stderr.write(f"{stamp} {self._who} {kind}: {text}{more}\n")
            sys.stderr.flush()
