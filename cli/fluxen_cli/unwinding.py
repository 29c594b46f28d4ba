"""Signals that end a command while its terminal is not as it was: a hidden cursor must come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwinding() -> Iterator[None]:
    """While it lasts SIGTERM and SIGHUP raise SystemExit(128 + N), so that whatever is open is closed."""
    with ExitStack() as stack:
        for number in _ENDS:
            before = signal.signal(number, _end)
            stack.callback(signal.signal, number, before)
        yield


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
