"""The hazards of a one-file executable, which unpacks itself into a temporary folder and runs from there.

Its parent is a small loader that waits for it and then removes the folder. So: when the loader is killed, the gateway
has to end by itself and tidy up; and because something may clean the temporary folder under a gateway that runs for
months, whatever is needed later is loaded at the start, and a process that has to be started again is forked from one
that has loaded it (research: a late import of a native module fails once the folder is gone).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from fluxen.telemetry.log import Log

_AGAIN_SECONDS = 1.0  # until a child that died is forked again


def folder() -> Path | None:
    """Where this program was unpacked for this one run; None when it is installed (also as a frozen folder)."""
    unpacked = Path(getattr(sys, "_MEIPASS", ""))
    return unpacked if unpacked.name.startswith("_MEI") else None  # a frozen folder has its parts in _internal


def hold(unpacked: Path) -> int:
    """Lock the folder for as long as the returned descriptor lives: systemd-tmpfiles leaves locked folders alone."""
    held = os.open(unpacked, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held


def remove(unpacked: Path) -> None:
    """What the loader would have done."""
    shutil.rmtree(unpacked, ignore_errors=True)


def keep(log: Log, body: Callable[[int], None], life: int) -> None:
    """Run body(stop) in a fork, and again whenever it dies, until `life` ends; then end `stop` and wait for it.

    What the caller has imported needs no file any more.
    """
    while True:
        stop, held = os.pipe()
        alive, dies_with = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            os.close(alive)
            body(stop)
            os._exit(0)
        os.close(stop)
        os.close(dies_with)
        ended = life in select.select([life, alive], [], [])[0]
        os.close(held)
        os.close(alive)
        _, status = os.waitpid(child, 0)
        if ended or status == 0:
            return
        log.warning("ended", reason="starting again", status=status)
        if select.select([life], [], [], _AGAIN_SECONDS)[0]:
            return
