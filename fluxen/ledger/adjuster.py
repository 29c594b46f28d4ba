"""Writing adjustments: new costs of requests that have ended, as journal segments of their own.

A run collects what it finds, and publishes it when it has seen everything: each segment is written and synced under a
dot name and renamed into view whole, so no reader ever sees a piece of one. A run that is killed has published some of
its segments, all of them, or none; whatever it was, the next run finds what is left to adjust. Nobody else needs to
know of a run: for readers and the compactor its segments are those of a writer that has ended.

Only one run at a time computes and publishes; two that looked at the same rows would adjust them twice.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.journal import FOLDER, header, no_checkpoint, segment_name, sync_folder
from fluxen.ledger.owner import hand_over
from fluxen.ledger.record import Adjustment
from fluxen.ledger.schema import ADJUSTMENT_FIELDS

LOCK = "reprice.lock"
WORKER = -1
"""What a segment's header says of the worker: none, a command."""
SEGMENT_BYTES = 4 << 20
_IN_MEMORY = 4 << 20

_encode = msgspec.json.Encoder().encode


class Adjuster:
    """Collects adjustments, in memory or in a nameless file beside the ledger, and publishes them."""

    def __init__(
        self,
        folder: Path,
        node: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        self._root = folder
        self._journal = folder / FOLDER
        self._node = node
        self._segment_bytes = segment_bytes
        self._checkpoint = checkpoint
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self.count = 0

    def add(self, adjustment: Adjustment) -> None:
        self._spool.write(_encode(adjustment) + b"\n")
        self.count += 1

    def clear(self) -> None:
        """Forget what was collected: the rows are looked at again."""
        self._spool.seek(0)
        self._spool.truncate()
        self.count = 0

    def publish(self) -> int:
        """Make all of them count; how many. LedgerError says how many did when the rest can't be written."""
        stream = f"{time.time_ns() // 1000:014x}-{secrets.token_hex(4)}"
        self._spool.seek(0)
        published = 0
        try:
            for number, lines in enumerate(self._segments()):
                self._publish(segment_name(stream, number), lines)
                published += len(lines)
        except OSError as error:
            done = f" ({published} of {self.count} are made)" if published else ""
            raise LedgerError(
                f"adjustments can't be written: {error.strerror or error}{done}",
                hint="is there room on the disk? May you write there? Then do it again: nothing is adjusted twice",
            ) from error
        self.clear()
        return published

    def close(self) -> None:
        self._spool.close()

    def _segments(self) -> Iterator[list[bytes]]:
        lines: list[bytes] = []
        size = 0
        for line in self._spool:
            lines.append(line)
            size += len(line)
            if size >= self._segment_bytes:
                yield lines
                lines, size = [], 0
        if lines:
            yield lines

    def _publish(self, name: str, lines: list[bytes]) -> None:
        hidden = self._journal / f".{name}"
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            with os.fdopen(descriptor, "wb") as file:
                hand_over(descriptor, self._journal)
                self._checkpoint("adjustments created")
                file.write(header(self._node, WORKER, adjust=ADJUSTMENT_FIELDS))
                file.writelines(lines)
                file.flush()
                os.fsync(descriptor)
            self._checkpoint("adjustments written")
            hidden.rename(self._journal / name)
        except OSError:
            hidden.unlink(missing_ok=True)
            raise
        self._checkpoint("adjustments renamed")
        sync_folder(self._journal)


@contextmanager
def adjusting(
    folder: Path,
    node: str,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    checkpoint: Callable[[str], None] = no_checkpoint,
) -> Iterator[Adjuster]:
    """The one run that may adjust a ledger's rows. LedgerError when another one is at it, or nothing can be written."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LedgerError(
            f"the ledger can't be written: {folder / LOCK}: {error.strerror}", hint="do it as who owns the data folder"
        ) from error
    try:
        hand_over(descriptor, folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError("another repricing of this ledger is under way", hint="wait until it is done") from None
        (folder / FOLDER).mkdir(mode=0o750, exist_ok=True)
        adjuster = Adjuster(folder, node, segment_bytes=segment_bytes, checkpoint=checkpoint)
        try:
            yield adjuster
        finally:
            adjuster.close()
    finally:
        os.close(descriptor)
