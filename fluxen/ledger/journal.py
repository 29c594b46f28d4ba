"""The journal of one worker: append-only segments of JSON lines, a begin and an end for each request.

A segment is named `<stream>-<number>.jnl`; the stream names the writer. Its first line is a header; then come begin
and end lines. Its writer holds an exclusive flock on it for as long as it may still write, so a free lock means: sealed
or the writer is dead. Three orders make that safe for readers, who take no lock, and for the compactor:

- a segment is created under a dot name, locked and filled with its header and the begin line of every open request,
  and only then renamed into view: nobody ever sees an unlocked segment of a live writer;
- the old segment is unlocked only after the new one is in view: when a lock is free and no newer segment of the stream
  exists, its writer is dead. An unmatched begin therefore counts in the newest segment of its stream alone;
- old segments are synced and unlocked strictly in order, by one thread.

The event loop commits in groups: what its requests have to say in one turn goes into one write; after it they go on.
It only writes into the page cache. That survives the death of the process, not of the machine: power loss
can take what was written since the last rotation (`segment_seconds`), and it shows as missing or quarantined lines.

A line that can't be written (disk full, quota, any OSError) is cut off again, counted in `lost`, and serving goes on.
When space returns, the journal owns up: a request whose end was refused becomes a row with error `lost`, and those of
which not even the begin was written are confessed in one Loss line, which `ledger verify` adds up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.record import Begin, End, Loss, scrub
from fluxen.ledger.schema import BEGIN_FIELDS, END_FIELDS, SCHEMA

FORMAT = 1
FOLDER = "journal"
SUFFIX = ".jnl"

SEGMENT_BYTES = 8 << 20
"""A segment is rotated when it has grown by this much."""
SEGMENT_SECONDS = 5.0
"""… or when it is this old and holds anything new; also the window of loss when the power fails."""
_PATIENCE = 12
"""How many times SEGMENT_SECONDS a rotation is put off when copying the open requests costs more than it seals."""
_MAX_UNSAID = 100_000
"""Refused ends remembered for their lost rows while the disk is full; more are counted only."""

_encoder = msgspec.json.Encoder()
_decode_begin = msgspec.json.Decoder(Begin).decode
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def segment_name(stream: str, number: int) -> str:
    return f"{stream}-{number:08d}{SUFFIX}"


def parse_name(name: str) -> tuple[str, int] | None:
    """(stream, number) of a segment in view; None for any other file."""
    stream, dash, number = name.removesuffix(SUFFIX).rpartition("-")
    if name.startswith(".") or not name.endswith(SUFFIX) or not dash or not number.isdecimal():
        return None
    return stream, int(number)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def probe(folder: Path) -> None:
    """Raise LedgerError if no journal can be kept in a ledger's folder. A full disk is no reason: that passes."""
    try:
        for part in (folder, folder / FOLDER):
            part.mkdir(parents=True, exist_ok=True, mode=0o750)
            name = part / f".probe-{os.getpid()}"
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
                name.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or folder
            raise LedgerError(
                f"the ledger can't be written: {where}: {error.strerror}", hint="check data_dir, and who owns it"
            ) from error


def header(node: str, worker: int, **more: tuple[str, ...]) -> bytes:
    """The first line of a segment. `more`: the fields of other lines than begins and ends."""
    said = {
        "fluxen": FORMAT,
        "schema": SCHEMA,
        "node": node,
        "worker": worker,
        "pid": os.getpid(),
        "begin": BEGIN_FIELDS,
        "end": END_FIELDS,
    }
    return _encoder.encode(said | more) + b"\n"


def no_checkpoint(name: str) -> None:
    """Where a test may stop or kill the process; in production nothing happens there."""


class Journal:
    """The one writer of its stream. Make it in the process that writes: a flock is shared by forked children.

    Not thread-safe: all calls come from the event loop. `lost` counts the lines that could not be written,
    `open_requests` holds the begin line of each request without an end, `error` the last refusal in words.
    """

    def __init__(
        self,
        folder: Path,
        node: str,
        worker: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        self.folder = folder / FOLDER
        self.node = node
        self.worker = worker
        self.stream = f"{time.time_ns() // 1000:014x}-{secrets.token_hex(4)}"
        self.open_requests: dict[str, bytes] = {}
        self.lost = 0
        self.error: str | None = None
        self.segment_bytes = segment_bytes
        self.segment_seconds = segment_seconds
        self._checkpoint = checkpoint
        self._unsaid: dict[str, bytes] = {}  # begin lines of requests whose end was refused
        self._missing = 0  # requests of which nothing was written, not yet confessed
        self._fd = -1
        self._torn = False  # the segment ends in a piece of a line that could not be cut off yet
        self._number = 0
        self._size = self._fresh = self._limit = 0  # bytes in the segment, at its birth, and when to rotate
        self._born = 0.0
        self._closer = _Closer(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise LedgerError(f"the ledger can't be written: {error}", hint="check data_dir and who owns it") from error
        except OSError as error:
            self.error = str(error)
        self._rotate()

    def write(self, records: list[Begin | End]) -> list[bool]:
        """Several begins and ends, of different requests, with one write. Whether each of them was written.

        When that write fails each record is written by itself: what fits is kept, what doesn't is counted.
        """
        if len(records) > 1 and self._fd >= 0 and not self._torn:
            lines = [self._line(record) for record in records]
            if self._put(b"".join(lines)):
                for record, line in zip(records, lines, strict=True):
                    if type(record) is Begin:
                        self.open_requests[record.id] = line
                    else:
                        self.open_requests.pop(record.id, None)
                if self._size >= self._limit:
                    self._rotate()
                return [True] * len(records)
        return [self.begin(record) if isinstance(record, Begin) else self.end(record) for record in records]

    def begin(self, begin: Begin) -> bool:
        """Say that a request is about to be dispatched. False: it could not be written."""
        line = self._line(begin)
        if not self._append(line):
            return False
        self.open_requests[begin.id] = line
        if self._size >= self._limit:
            self._rotate()
        return True

    def end(self, end: End) -> bool:
        """Say how a request ended, whether or not its begin was written. False: it could not be written."""
        begin = self.open_requests.pop(end.id, None)
        if not self._append(self._line(end)):
            if begin is None or len(self._unsaid) >= _MAX_UNSAID:
                self._missing += 1
            else:
                self._unsaid[end.id] = begin
            return False
        if self._size >= self._limit:
            self._rotate()
        return True

    def tick(self) -> None:
        """Called about once a second: rotate when due, and say what could not be said while the disk was full."""
        if self._fd < 0:
            self._rotate()
        if self._unsaid or self._missing:
            self._own_up()
        age = time.monotonic() - self._born
        new = self._size - self._fresh
        if new and age >= self.segment_seconds and (new >= self._fresh or age >= _PATIENCE * self.segment_seconds):
            self._rotate()

    def close(self) -> None:
        """Sync and unlock the segment; waits for the disk. Requests still open become rows with error `lost`."""
        if self._fd >= 0:
            if self._unsaid or self._missing:
                self._own_up()
            self._closer.take(self._fd)
            self._fd = -1
        self._closer.finish()

    def _line(self, record: Begin | End) -> bytes:
        try:
            return _encoder.encode(record) + b"\n"
        except (UnicodeEncodeError, OverflowError):
            return _encoder.encode(scrub(record)) + b"\n"

    def _append(self, line: bytes) -> bool:
        """Write one line, and count it if that can't be done."""
        if self._fd >= 0 and (not self._torn or self._cut()) and self._put(line):
            return True
        self.lost += 1
        return False

    def _put(self, lines: bytes) -> bool:
        """Write whole lines, all or none of them."""
        try:
            written = os.write(self._fd, lines)
        except OSError as error:
            self.error = str(error)
        else:
            if written == len(lines):
                self._size += written
                return True
            self.error = "short write: no space left"
        self._cut()
        return False

    def _cut(self) -> bool:
        """Cut the segment back to its last whole line."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            self.error = str(error)
            self._torn = True
        else:
            self._torn = False
        return not self._torn

    def _own_up(self) -> None:
        lost = self.lost
        for name, begin in list(self._unsaid.items()):
            if not self._append(self._line(End.lost(_decode_begin(begin)))):
                self.lost = lost  # this line was no request's
                return
            del self._unsaid[name]
        if self._missing and self._append(_encoder.encode(Loss(time.time_ns() // 1000, self._missing)) + b"\n"):
            self._missing = 0
        self.lost = lost

    def _rotate(self) -> None:
        """Open the next segment and hand the old one over to be sealed. When that fails, stay on the old one."""
        name = segment_name(self.stream, self._number)
        hidden = self.folder / f".{name}"
        carried = b"".join((*self._unsaid.values(), *self.open_requests.values()))
        content = header(self.node, self.worker) + carried
        descriptor = -1
        try:
            descriptor = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            self._checkpoint("created")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _write_all(descriptor, content) != len(content):
                raise OSError("short write: no space left")  # noqa: TRY301 - the same cleaning up as for any other
            self._checkpoint("copied")
            hidden.rename(self.folder / name)
        except OSError as error:
            self.error = str(error)
            if descriptor >= 0:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    hidden.unlink()
            self._limit = self._size + self.segment_bytes  # tick tries again, a busy stretch does not
            return
        self._checkpoint("renamed")
        old, self._fd = self._fd, descriptor
        self._torn = False
        self._number += 1
        self._size = self._fresh = len(content)
        self._limit = self._size + max(self.segment_bytes, len(carried))
        self._born = time.monotonic()
        if old >= 0:
            self._closer.take(old)
        self._checkpoint("rotated")


class _Closer:
    """Syncs and unlocks old segments, in order, in a thread that is started with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._thread: Thread | None = None

    def take(self, descriptor: int) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="fluxen-journal", daemon=True)
            self._thread.start()
        self._queue.put(descriptor)

    def finish(self) -> None:
        if self._thread is not None:
            self._queue.put(-1)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (descriptor := self._queue.get()) >= 0:
            # A disk that refuses to sync leaves the lines to the page cache; holding the lock would help nobody.
            with contextlib.suppress(OSError):
                _sync_data(descriptor)
                sync_folder(self._folder)
            os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> int:
    written = 0
    view = memoryview(content)
    while written < len(content) and (step := os.write(descriptor, view[written:])):
        written += step
    return written
