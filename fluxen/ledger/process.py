"""The body of the compactor process: a step every few seconds until the supervisor is gone, then a last one."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import Protocol

import duckdb
import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.compactor import Compactor, Step
from fluxen.telemetry.log import Log

STATUS = "compactor.json"
BUSY_SECONDS = 1.0
"""How soon to try again when another compactor holds the lock."""


class Settings(Protocol):
    """What the process needs of the configuration's `ledger:`."""

    @property
    def retention_days(self) -> int | None: ...
    @property
    def grace_seconds(self) -> float: ...
    @property
    def compact_seconds(self) -> float: ...


class Status(msgspec.Struct):
    """What the compactor publishes after each step (times in microseconds, 0 = never)."""

    pid: int = 0
    stepped: int = 0
    ingested: int = 0
    generation: int = 0
    error: str | None = None


def run(folder: Path, settings: Settings, stop_fd: int, log: Log) -> None:
    """Compact until `stop_fd` reaches its end, then once more what is sealed by then. Ctrl-C is the supervisor's."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    compactor = Compactor(folder, retention_days=settings.retention_days, grace_seconds=settings.grace_seconds)
    status = Status(os.getpid())
    try:
        while True:
            step = _step(compactor, status, log)
            pause = 0.0 if step.more else BUSY_SECONDS if step.busy else settings.compact_seconds
            if _ended(stop_fd, pause):
                while _step(compactor, status, log).more:
                    pass
                return
    finally:
        compactor.close()


def status(folder: Path) -> Status | None:
    """What the compactor of this ledger published last; None when none ever ran."""
    try:
        return msgspec.json.decode((folder / STATUS).read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _step(compactor: Compactor, status: Status, log: Log) -> Step:
    """A step that survives what time or an operator mends: a full disk, a lack of memory, a newer file."""
    try:
        step = compactor.step()
    except (OSError, LedgerError, duckdb.Error) as error:
        log.notice("compaction_failed", level="error", reason=error, hint="it is tried again")
        status.error = str(error)
        step = Step()
    else:
        status.error = "another compactor is at work" if step.busy else None
    status.stepped = time.time_ns() // 1000
    if step.segments:
        status.ingested, status.generation = status.stepped, step.generation
    hidden = compactor.folder / f".{STATUS}"
    try:
        hidden.write_bytes(msgspec.json.encode(status))
        hidden.rename(compactor.folder / STATUS)
    except OSError as error:
        log.notice("status_not_published", reason=error)
    return step


def _ended(stop_fd: int, seconds: float) -> bool:
    ready, _, _ = select.select([stop_fd], [], [], seconds)
    return bool(ready) and os.read(stop_fd, 1) == b""
