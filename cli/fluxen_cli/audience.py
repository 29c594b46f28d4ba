"""Whoever reads what a command prints for a long time: a pipe's other end may go while there is nothing to print."""

from __future__ import annotations

import select
import sys


class Audience:
    """Of stdout. A command that waits for something to print should end when nobody is there any more."""

    def __init__(self) -> None:
        self._poll = select.poll()
        try:
            self._poll.register(sys.stdout.fileno(), 0)  # nothing is awaited but an error
        except OSError:  # it was closed from the beginning
            self._none = True
        else:
            self._none = False

    def gone(self, seconds: float) -> bool:
        """Wait so long; at once when nobody reads, or nobody will."""
        return self._none or bool(self._poll.poll(seconds * 1000))
