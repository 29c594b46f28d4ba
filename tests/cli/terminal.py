"""A terminal for tests: what a program says to a person, and what it does with the keys that person presses."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0
"""Seconds without a word after which a program is taken for hanging."""


class Terminal:
    """A terminal with a program in it, which is a session of its own."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path, columns: int = 80) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
            os.chdir(folder)
            os.execve(command[0], command, env)
        self.said = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        while text not in self.said:
            assert self._read(), f"ended without {text!r}: {self.said}"

    def ends(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        assert select.select([self._master], [], [], PATIENCE)[0], f"says no more: {self.said}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.said += self._decoder.decode(data)
        return bool(data)
