"""What an operator does with a ledger: verify, compact, export, back up, and rebuild the views after moving it.

All of it works while the server runs and while it does not. Nothing here opens fluxen.duckdb or copies it: a process
that closes a DuckDB file it holds loses DuckDB's POSIX lock on it; the views are built anew instead.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb

from fluxen.errors import FluxenError, LedgerError, NoDataError
from fluxen.ledger import catalogue
from fluxen.ledger import manifest as manifests
from fluxen.ledger import snapshot as snapshots
from fluxen.ledger.compactor import GRACE_SECONDS, QUARANTINE, Compactor, exclusive
from fluxen.ledger.engine import Connection, connect
from fluxen.ledger.journal import FOLDER, parse_name, sync_folder
from fluxen.ledger.manifest import DATA, DataFile
from fluxen.ledger.reader import Reader
from fluxen.ledger.schema import COLUMNS, literal, parquet_path
from fluxen.ledger.snapshot import list_journal

LOCK_SECONDS = 30.0
"""How long a command waits for a compactor's step to end."""

Format = Literal["parquet", "csv", "jsonl"]

_FORMATS: dict[Format, str] = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER",
    "jsonl": "FORMAT json",
}


@dataclass(slots=True)
class Verification:
    """What `verify` found. `problems` are what must not be; the counters are what an operator should know."""

    problems: list[str] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    """Rows of `requests`, journal included."""
    in_flight: int = 0
    segments: int = 0
    """Journal segments that are not in Parquet yet."""
    adjustments: int = 0
    """Costs found anew by repricing, all of them."""
    lost: int = 0
    """Rows with error `lost`: their process ended before the outcome was written."""
    missing: int = 0
    """Requests that could not be written at all, as their writers confessed (disk full)."""
    quarantined: int = 0
    """Invalid journal lines, set aside in quarantine/ or still in a segment (power loss)."""

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `compact` did."""

    segments: int
    rows: int
    files: int


def verify(folder: Path) -> Verification:
    """Read everything there is and compare it with what the manifest says."""
    folder = _existing(folder)
    found = _verify_files(folder)
    if found.ok:
        try:
            _verify_rows(folder, found)
        except FluxenError as error:
            found.problems.append(error.message)
    return found


def compact(
    folder: Path, *, retention_days: int | None = None, grace_seconds: float = GRACE_SECONDS, wait: float = LOCK_SECONDS
) -> Compaction:
    """Take in every sealed segment now and merge each day into one file."""
    compactor = Compactor(_existing(folder), retention_days=retention_days, grace_seconds=grace_seconds)
    segments = rows = 0
    try:
        while True:
            step = compactor.step(wait=wait, whole_days=True)
            if step.busy:
                raise LedgerError("another compactor is in the middle of a step", hint="try again, or stop it")
            segments += step.segments
            rows += step.rows
            if not step.more:
                return Compaction(segments, rows, len(manifests.load(folder).files))
    finally:
        compactor.close()


def take_in(folder: Path) -> None:
    """Take in every sealed segment, unless another compactor is at it; its next step does the same."""
    compactor = Compactor(_existing(folder))
    try:
        while compactor.step().more:
            pass
    finally:
        compactor.close()


def export(
    folder: Path,
    target: Path,
    kind: Format,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Write `requests` with `since <= ts < until` to a file (or a device such as /dev/stdout); returns the rows.

    LedgerError, which names `target`, when it can't be written.
    """
    folder = _existing(folder)
    tags = "to_json(tags)::VARCHAR AS tags" if kind == "csv" else "tags"
    names = ", ".join(tags if column.name == "tags" else column.name for column in COLUMNS)
    aside = _writable(target)
    device = aside == target

    def ask(connection: Connection) -> int:
        try:
            copied = connection.execute(
                f"COPY (SELECT {names} FROM requests) TO {literal(str(aside))} ({_FORMATS[kind]})"
            ).fetchone()
        except duckdb.IOException as error:  # from the target or from the ledger's own files
            if (name := str(aside)) not in str(error):
                raise
            message = str(error).replace(name, str(target))
            raise LedgerError(f"can't write {target}: {message}", hint="is there room on the disk?") from error
        return int(copied[0]) if copied else 0

    try:
        rows = Reader(folder).run(ask, since=since, until=until)
        if not device:
            aside.rename(target)
    finally:
        if not device:
            aside.unlink(missing_ok=True)
    return rows


def _writable(target: Path) -> Path:
    """Where an export to `target` is written: beside it until it is complete, or straight into a device."""
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            return target
        if target.is_dir():
            raise LedgerError(f"can't write {target}: it is a folder", hint="name a file in it")
        aside = target.with_name(f".{target.name}.partial")
        aside.open("wb").close()  # DuckDB would report our hidden name, not the one that was asked for
    except OSError as error:
        hint = f"can you write to the folder {target.absolute().parent}?"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            hint = f"there is no folder {target.absolute().parent}; create it, or name another"
        raise LedgerError(f"can't write {target}: {error.strerror}", hint=hint) from error
    return aside


def backup(folder: Path, target: Path, *, wait: float = LOCK_SECONDS) -> int:
    """Copy the ledger, consistently, while it is written; returns the number of files.

    Parquet files are hard-linked where that is possible, for they never change. A backup is a ledger folder: to
    restore, copy it back (then `views`). What was in flight when it was taken is lost in it, and says so.
    """
    folder = _existing(folder)
    if target.exists():
        raise LedgerError(f"{target} exists already", hint="name a folder that does not exist yet")
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    with exclusive(folder, wait) as ours:
        if not ours:
            raise LedgerError("a compactor is in the middle of a step", hint="try again, or stop it")
        segments = list_journal(folder)  # before the manifest, as every reader does
        manifest = manifests.load(folder)
        consumed = {gone.name for gone in manifest.consumed}
        try:
            for part in (DATA, FOLDER, QUARANTINE):
                (aside / part).mkdir(parents=True)
            for file in manifest.files:
                _link(folder / DATA / file.name, aside / DATA / file.name)
            for name in sorted(segments):
                if parse_name(name) and name not in consumed:
                    _copy(folder / FOLDER / name, aside / FOLDER / name)
            if (folder / QUARANTINE).is_dir():
                for path in (folder / QUARANTINE).iterdir():
                    _copy(path, aside / QUARANTINE / path.name)
            manifest.consumed, manifest.replaced = [], []
            manifests.commit(aside, manifest)
            for part in (DATA, FOLDER, QUARANTINE):
                sync_folder(aside / part)
            aside.rename(target)
            sync_folder(target.absolute().parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return sum(path.is_file() for path in target.rglob("*"))


def views(folder: Path, *, wait: float = LOCK_SECONDS) -> Path:
    """Build fluxen.duckdb anew, after the folder was moved or restored."""
    folder = _existing(folder)
    with exclusive(folder, wait) as ours:
        if not ours:
            raise LedgerError("a compactor is in the middle of a step", hint="try again, or stop it")
        return catalogue.build(folder, manifests.load(folder))


def _existing(folder: Path) -> Path:
    if not (folder / FOLDER).is_dir() and not (folder / manifests.NAME).is_file():
        raise NoDataError(f"no ledger in {folder}")
    return folder.resolve()


def _verify_files(folder: Path) -> Verification:
    with connect() as connection:
        while True:
            seen = snapshots.take(folder)
            found = Verification(
                files=len(seen.manifest.files),
                segments=seen.segments,
                missing=seen.manifest.missing + seen.missing,
                quarantined=seen.manifest.quarantined + seen.bad,
            )
            for file in seen.manifest.files:
                found.problems += _verify_file(connection, folder / DATA / file.name, file)
            replaced = {file.name for file in seen.manifest.files} - {
                file.name for file in manifests.load(folder).files
            }
            if found.ok or not replaced:
                return found


def _verify_file(connection: Connection, path: Path, file: DataFile) -> list[str]:
    try:
        size = path.stat().st_size
        row = connection.execute(
            "SELECT count(*), epoch_us(min(ts)), epoch_us(max(ts)), count(DISTINCT ts::DATE), bit_xor(hash(t)) "
            f"FROM read_parquet([{parquet_path(str(path))}]) AS t"  # the hash of a row reads every column of it
        ).fetchone()
    except (OSError, duckdb.Error) as error:
        return [f"{file.name} can't be read: {error}"]
    assert row is not None
    problems = []
    if size != file.bytes:
        problems.append(f"{file.name} has {size} bytes, the manifest says {file.bytes}")
    if row[0] != file.rows:
        problems.append(f"{file.name} has {row[0]} rows, the manifest says {file.rows}")
    if (row[1], row[2], row[3]) != (file.min, file.max, 1):
        problems.append(f"{file.name} does not hold the time span the manifest says")
    return problems


def _verify_rows(folder: Path, found: Verification) -> None:
    def ask(connection: Connection) -> list[tuple[str, int]]:
        counted = connection.execute(
            "SELECT count(*), count(*) FILTER (error = 'lost'), (SELECT count(*) FROM in_flight), "
            "(SELECT count(*) FROM adjustments) FROM requests"
        ).fetchone()
        found.rows, found.lost, found.in_flight, found.adjustments = counted or (0, 0, 0, 0)
        return connection.execute(
            "SELECT id::VARCHAR, count(*) FROM requests GROUP BY id HAVING count(*) > 1 ORDER BY 1 LIMIT 10"
        ).fetchall()

    found.problems += [f"request {name} is there {count} times" for name, count in Reader(folder).run(ask)]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as origin, target.open("xb") as copy:
        shutil.copyfileobj(origin, copy)
        copy.flush()
        os.fsync(copy.fileno())
