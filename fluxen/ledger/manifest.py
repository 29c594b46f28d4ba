"""MANIFEST.json: which Parquet files are the ledger, and which journal segments are already in them.

One atomic rename of this file is the commit: it adds files and marks segments consumed in the same moment, so a row is
in exactly one of the two for whoever reads the journal's listing first and the manifest second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.journal import no_checkpoint, sync_folder
from fluxen.ledger.owner import hand_over

FORMAT = 1
NAME = "MANIFEST.json"
DATA = "data"

Kind = Literal["requests", "adjustments"]
REQUESTS: Kind = "requests"
ADJUSTMENTS: Kind = "adjustments"


class DataFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One immutable Parquet file of one UTC day. `min` and `max` are the first and last `ts` in it, microseconds."""

    name: str
    day: str
    level: int
    rows: int
    min: int
    max: int
    bytes: int
    schema: int
    added: int
    """When it was committed, microseconds."""
    kind: Kind = REQUESTS
    """What its rows are."""


class Gone(msgspec.Struct, frozen=True):
    """A file that is no part of the ledger any more and is deleted after a grace."""

    name: str
    since: int


class Manifest(msgspec.Struct):
    """The state of the ledger after commit number `generation`, made at `committed` (microseconds)."""

    fluxen: int = FORMAT
    generation: int = 0
    committed: int = 0
    files: list[DataFile] = []
    consumed: list[Gone] = []
    """Segments whose rows are in `files`; forgotten only after they were deleted."""
    replaced: list[Gone] = []
    """Parquet files that were merged or that retention dropped."""
    lost_rows: int = 0
    """Rows with error `lost` made of dead writers' begins, ever."""
    missing: int = 0
    """Requests the writers confessed not to have written at all, ever."""
    quarantined: int = 0
    """Invalid journal lines set aside, ever."""

    def of(self, kind: Kind) -> list[DataFile]:
        """The files of one kind, in order of time."""
        return sorted((file for file in self.files if file.kind == kind), key=lambda file: file.min)


class _Format(msgspec.Struct):
    fluxen: int


def load(folder: Path) -> Manifest:
    """The manifest of a ledger; an empty one when nothing was committed yet."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Manifest()
    try:
        if (version := msgspec.json.decode(content, type=_Format).fluxen) > FORMAT:
            raise LedgerError(f"{path} has format {version}", hint="a newer Fluxen wrote it: upgrade this one")
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerError(
            f"{path} can't be read: {error}", hint="restore the ledger from a backup (fluxen ledger backup)"
        ) from error


def commit(folder: Path, manifest: Manifest, checkpoint: Callable[[str], None] = no_checkpoint) -> None:
    """Make `manifest` the ledger. Its files must be on disk already."""
    hidden = folder / f".{NAME}"
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        hand_over(descriptor, folder)
        file.write(msgspec.json.encode(manifest))
        file.flush()
        os.fsync(descriptor)
    checkpoint("manifest written")
    hidden.rename(folder / NAME)
    checkpoint("manifest renamed")
    sync_folder(folder)
    checkpoint("committed")
