"""Where lines go: a descriptor (stderr) that nobody may be reading. Writing never waits.

A pipe or a terminal that nobody reads fills up, and a write would then wait for ever. The descriptor is shared with
whoever started us, so it can't be made non-blocking itself; on Linux /proc opens the same pipe or terminal once more,
with flags of our own. A socket (systemd's journal) takes them with each call. Where neither can be had the descriptor
is asked first. A file never makes anybody wait.

No piece of a line is written where that can be helped: a pipe takes PIPE_BUF bytes whole or not at all, so lines of
several processes don't mix.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable
from typing import Final

PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)


class Sink:
    """Takes whole lines. Made before the fork, or in each process: both work."""

    __slots__ = ("_descriptor", "_most", "_send", "close", "terminal")

    def __init__(self, descriptor: int) -> None:
        """Raises nothing: what can't be written to takes nothing."""
        self.terminal = False
        self._descriptor = descriptor
        self._most = PIPE_BUF
        self._send: Callable[[bytes | bytearray], int] = self._asking
        self.close: Callable[[], None] = lambda: None
        """Closes what was opened here; the descriptor itself is not ours."""
        with contextlib.suppress(OSError):
            self.terminal = os.isatty(descriptor)
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not self.terminal):  # … such as /dev/null
                self._most, self._send = 1 << 20, self._plainly
            elif stat.S_ISSOCK(kind):
                sock = socket.socket(fileno=os.dup(descriptor))
                self._send, self.close = _sending(sock), sock.close
            elif (stat.S_ISFIFO(kind) or self.terminal) and os.path.exists("/proc/self/fd"):  # noqa: PTH110
                again = f"/proc/self/fd/{descriptor}"
                self._descriptor = os.open(again, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                again_open = self._descriptor
                self._send, self.close = self._plainly, lambda: os.close(again_open)

    def write(self, lines: bytes | bytearray) -> int:
        """Write as much of these whole lines as is taken now; how many bytes that was. -1: refused, not put off."""
        written = 0
        while written < len(lines):
            end = len(lines)
            if end - written > self._most:
                end = lines.rfind(b"\n", written, written + self._most) + 1 or end
            try:
                taken = self._send(lines[written:end])
            except BlockingIOError:
                break
            except (OSError, ValueError):  # nobody reads (EPIPE), the disk is full, the descriptor is closed
                return written or -1
            whole = taken == end - written
            written += taken
            if not whole:
                break
        return written

    def _plainly(self, lines: bytes | bytearray) -> int:
        return os.write(self._descriptor, lines)

    def _asking(self, lines: bytes | bytearray) -> int:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._descriptor, lines)


def _sending(sock: socket.socket) -> Callable[[bytes | bytearray], int]:
    return lambda lines: sock.send(lines, socket.MSG_DONTWAIT)
