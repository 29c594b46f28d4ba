"""The compactor: one process that turns sealed segments into Parquet, merges, forgets, and publishes fluxen.duckdb.

A step holds the flock of `ledger.lock`, so there is never more than one, and goes through these stages; a kill between
any two of them leaves either the old state or the new one, plus files that nobody refers to and the next step removes:

    ingest    sealed segments → Parquet files, one commit: adds the files, marks the segments consumed
    merge     files of one day, kind and size → one of the next size; a day that is over → one file (several, each of
              up to half a million rows, when it was that busy); one commit each
    retain    days older than the retention leave the ledger, one commit
    publish   fluxen.duckdb of the new state
    sweep     what was consumed or replaced is deleted after its grace, then forgotten, one commit

A segment stays SEGMENT_GRACE after it was consumed, for readers' ease only (they start again when one vanished); a
Parquet file stays for the grace, because other people's tools reach it by the views they opened.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fluxen.errors import LedgerError
from fluxen.ledger import catalogue
from fluxen.ledger import manifest as manifests
from fluxen.ledger.catalogue import TEMPORARY
from fluxen.ledger.engine import connect
from fluxen.ledger.journal import FOLDER, no_checkpoint, parse_name, sync_folder
from fluxen.ledger.manifest import ADJUSTMENTS, DATA, DataFile, Gone, Kind, Manifest
from fluxen.ledger.owner import hand_over
from fluxen.ledger.parquet import ParquetWriter
from fluxen.ledger.schema import check
from fluxen.ledger.sealed import harvest

LOCK = "ledger.lock"
QUARANTINE = "quarantine"
GRACE_SECONDS = 3600.0
SEGMENT_GRACE = 10.0
MERGE_FILES = 8
"""This many files of one day and level are merged into one of the next."""
MERGED_ROWS = 500_000
"""… unless the result would be larger than this: sorting it must fit into MEMORY, and a step should end soon."""
SETTLE_SECONDS = 600.0
"""A day that is over is merged into one file when nothing came for this long: late rows come in company."""
HIDDEN_SECONDS = 60.0
"""A hidden segment this old belongs to a writer that died while it rotated."""
MEMORY = "512MB"


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. `busy`: another compactor holds the lock, nothing was done; `more`: sealed ones are left."""

    busy: bool = False
    more: bool = False
    segments: int = 0
    rows: int = 0
    lost: int = 0
    generation: int = 0


def _micros() -> int:
    return time.time_ns() // 1000


class Compactor:
    """Takes the lock for each step only: `fluxen ledger compact` works beside a server's compactor."""

    def __init__(
        self,
        folder: Path,
        *,
        retention_days: int | None = None,
        grace_seconds: float = GRACE_SECONDS,
        merged_rows: int = MERGED_ROWS,
        clock: Callable[[], int] = _micros,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        self.folder = folder.resolve()
        self.retention_days = retention_days
        self.grace = int(grace_seconds * 1e6)
        self.merged_rows = merged_rows
        self._clock = clock
        self._checkpoint = checkpoint
        for part in (FOLDER, DATA, QUARANTINE, TEMPORARY):
            made = self.folder / part
            if not made.is_dir():
                made.mkdir(parents=True, exist_ok=True, mode=0o750)
                hand_over(made, self.folder)
        self._published: int | None = None  # generation of fluxen.duckdb, as far as this compactor knows
        self._connection = connect(threads=1, memory=MEMORY, spill=self.folder / TEMPORARY / "spill")

    def close(self) -> None:
        self._connection.close()

    def step(self, *, wait: float = 0.0, whole_days: bool = False) -> Step:
        """One step. `wait`: seconds to wait for another compactor; `whole_days`: merge each day into one file."""
        with exclusive(self.folder, wait) as ours:
            if not ours:
                return Step(busy=True)
            manifest = manifests.load(self.folder)
            for file in manifest.files:
                check(file.schema, file.name)
            self._tidy(manifest)
            step = self._ingest(manifest)
            if not step.more:
                self._merge(manifest, whole_days=whole_days)
                self._retain(manifest)
            if manifest.generation != self._published:
                catalogue.build(self.folder, manifest, self._checkpoint)
                self._published = manifest.generation
            self._sweep(manifest)
            return step

    def _tidy(self, manifest: Manifest) -> None:
        """Remove what a killed step or rotation left behind."""
        known = {file.name for file in manifest.files} | {gone.name for gone in manifest.replaced}
        for path in (self.folder / DATA).iterdir():
            if path.name not in known:
                path.unlink()
        for path in (self.folder / TEMPORARY).iterdir():
            if path.is_file():
                path.unlink()
        oldest = self._clock() / 1e6 - HIDDEN_SECONDS
        for path in (self.folder / FOLDER).glob(".*"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # its writer is alive after all and renamed it
                continue

    def _ingest(self, manifest: Manifest) -> Step:
        now = self._clock()
        consumed = {gone.name for gone in manifest.consumed}
        with harvest(self.folder, consumed, self._checkpoint) as found:
            if not found.segments:
                return Step(generation=manifest.generation)
            rows: list[bytes] = []
            adjustments: list[bytes] = []
            lost = 0
            for sealed in found.segments:
                segment = sealed.read()
                rows += segment.ends
                adjustments += segment.adjustments
                if sealed.dead:
                    rows += segment.lost
                    lost += len(segment.lost)
                manifest.missing += segment.missing
                manifest.quarantined += len(segment.bad)
                if segment.bad:
                    _set_aside(self.folder / QUARANTINE / f"{sealed.name}.bad", segment.bad)
            manifest.lost_rows += lost
            manifest.generation += 1
            if rows:
                manifest.files += self._writer(now).rows(rows, manifest.generation)
            if adjustments:
                manifest.files += self._writer(now).rows(adjustments, manifest.generation, ADJUSTMENTS)
            manifest.consumed += [Gone(sealed.name, now) for sealed in found.segments]
            self._commit(manifest)
            return Step(
                more=found.more,
                segments=len(found.segments),
                rows=len(rows),
                lost=lost,
                generation=manifest.generation,
            )

    def _merge(self, manifest: Manifest, *, whole_days: bool) -> None:
        while (group := self._mergeable(manifest, whole_days=whole_days)) is not None:
            now = self._clock()
            manifest.generation += 1
            merged = self._writer(now).merge(group, manifest.generation)
            manifest.files = [file for file in manifest.files if file not in group] + [merged]
            manifest.replaced += [Gone(file.name, now) for file in group]
            self._commit(manifest)

    def _mergeable(self, manifest: Manifest, *, whole_days: bool) -> list[DataFile] | None:
        """Files to be merged next, or None."""
        now = self._clock()
        today = _day(now).isoformat()
        days: dict[tuple[str, Kind], list[DataFile]] = {}
        for file in manifest.files:
            days.setdefault((file.day, file.kind), []).append(file)
        for (day, _), files in sorted(days.items()):
            newest = max((file.added for file in files if file.level == 0), default=0)
            settled = day < today and newest <= now - int(SETTLE_SECONDS * 1e6)
            if (whole_days or settled) and (group := _fitting(files, self.merged_rows)):
                return group
            levels: dict[int, list[DataFile]] = {}
            for file in files:
                levels.setdefault(file.level, []).append(file)
            for _, peers in sorted(levels.items()):
                if len(peers) >= MERGE_FILES and (group := _fitting(peers, self.merged_rows)):
                    return group
        return None

    def _retain(self, manifest: Manifest) -> None:
        if self.retention_days is None:
            return
        now = self._clock()
        oldest = (_day(now) - timedelta(days=self.retention_days)).isoformat()
        if expired := [file for file in manifest.files if file.day < oldest]:
            manifest.generation += 1
            manifest.files = [file for file in manifest.files if file.day >= oldest]
            manifest.replaced += [Gone(file.name, now) for file in expired]
            self._commit(manifest)

    def _sweep(self, manifest: Manifest) -> None:
        now = self._clock()
        segments = _due(manifest.consumed, now - min(self.grace, int(SEGMENT_GRACE * 1e6)))
        files = [gone for gone in manifest.replaced if gone.since <= now - self.grace]
        for part, due in ((FOLDER, segments), (DATA, files)):
            for gone in due:
                (self.folder / part / gone.name).unlink(missing_ok=True)
                self._checkpoint("deleted")
            if due:
                sync_folder(self.folder / part)  # before they are forgotten: a file that came back would count twice
        if segments or files:
            manifest.consumed = [gone for gone in manifest.consumed if gone not in segments]
            manifest.replaced = [gone for gone in manifest.replaced if gone not in files]
            self._commit(manifest)

    def _writer(self, now: int) -> ParquetWriter:
        return ParquetWriter(self.folder, self._connection, now, self._checkpoint)

    def _commit(self, manifest: Manifest) -> None:
        manifest.committed = self._clock()
        manifests.commit(self.folder, manifest, self._checkpoint)


@contextmanager
def exclusive(folder: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold the ledger's one lock against other compactors; False when it was not free within `wait` seconds."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        hand_over(descriptor, folder)
        yield _locked(descriptor, wait)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, wait: float) -> bool:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _due(consumed: list[Gone], before: int) -> list[Gone]:
    """Consumed segments whose grace is over; in order within each stream, for readers rely on that."""
    due: list[Gone] = []
    kept: set[str] = set()
    for gone in sorted(consumed, key=lambda gone: gone.name):
        parsed = parse_name(gone.name)
        stream = parsed[0] if parsed else gone.name
        if gone.since <= before and stream not in kept:
            due.append(gone)
        else:
            kept.add(stream)
    return due


def _fitting(files: list[DataFile], most: int) -> list[DataFile] | None:
    """The first neighbours in time that fit into one file; all of them, for all but the busiest days."""
    group: list[DataFile] = []
    rows = 0
    for file in sorted(files, key=lambda file: file.min):
        if rows + file.rows > most:
            if len(group) > 1:
                break
            group, rows = [], 0
        group.append(file)
        rows += file.rows
    return group if len(group) > 1 else None


def _day(micros: int) -> date:
    return datetime.fromtimestamp(micros / 1e6, UTC).date()


def _set_aside(path: Path, lines: list[bytes]) -> None:
    try:
        with path.open("wb") as file:
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LedgerError(f"invalid journal lines can't be set aside: {error}", hint="free some disk space") from error
