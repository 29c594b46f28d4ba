"""What the ledger holds at one moment, found without a lock that anybody waits for.

The journal is listed FIRST and the manifest read SECOND. A segment in the listing whose rows are in the manifest's
files is named there as consumed until it is deleted; so either it is skipped, or it is read and its rows are nowhere
else, or opening it fails because it was deleted meanwhile, and everything starts again.

A begin without an end counts in the newest segment of its stream alone. Whether its writer lives is asked with a
shared flock that is tried, never waited for, and given back at once. That can't harm: a writer locks a segment before
it is in view and never again; the compactor, should it try within these microseconds, takes the segment one step
later. A free lock means dead only if no newer segment is listed afterwards and the segment itself was not deleted
meanwhile (segments of a stream are deleted in order, so a newer one can't have come and gone); then the segment is
read again, for it may have grown before its writer died. In all other cases the request was in flight when we looked,
or the compactor holds the lock in order to write it down as lost: then it looks open for the rest of that step.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fluxen.errors import LedgerError
from fluxen.ledger import manifest as manifests
from fluxen.ledger.journal import FOLDER, no_checkpoint, parse_name, segment_name
from fluxen.ledger.manifest import Manifest
from fluxen.ledger.schema import check
from fluxen.ledger.segment import Segment, parse

ATTEMPTS = 1000
"""Each attempt fails only if the compactor deleted a file meanwhile: more than a few in a row is no coincidence."""


@dataclass(slots=True)
class Snapshot:
    """The ledger at one moment: immutable files of the manifest, and the journal lines that are in none of them."""

    manifest: Manifest
    ends: list[bytes] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    in_flight: list[bytes] = field(default_factory=list)
    adjustments: list[bytes] = field(default_factory=list)
    missing: int = 0
    bad: int = 0
    segments: int = 0


def streams(names: Iterable[str]) -> dict[str, list[int]]:
    """Segment numbers in order, by stream; other names are ignored."""
    found: dict[str, list[int]] = {}
    for name in sorted(names):
        if parsed := parse_name(name):
            found.setdefault(parsed[0], []).append(parsed[1])
    for numbers in found.values():
        numbers.sort()
    return found


def list_journal(folder: Path) -> list[str]:
    try:
        return os.listdir(folder / FOLDER)  # noqa: PTH208 - names are wanted
    except FileNotFoundError:
        return []


def take(folder: Path, checkpoint: Callable[[str], None] = no_checkpoint) -> Snapshot:
    """A consistent snapshot. It may be used as long as all its files exist; when one vanished, take another."""
    for _ in range(ATTEMPTS):
        try:
            return _take(folder, checkpoint)
        except FileNotFoundError:
            continue
    raise LedgerError(f"files of {folder} keep vanishing", hint="does something else clean up in this folder?")


def _take(folder: Path, checkpoint: Callable[[str], None]) -> Snapshot:
    listed = streams(list_journal(folder))
    checkpoint("journal listed")
    snapshot = Snapshot(manifests.load(folder))
    checkpoint("manifest read")
    for file in snapshot.manifest.files:
        check(file.schema, file.name)
    consumed = {gone.name for gone in snapshot.manifest.consumed}
    _not_overtaken(folder, listed, consumed)
    for stream, numbers in listed.items():
        for number in numbers:
            name = segment_name(stream, number)
            if name in consumed:
                continue
            segment = _read(folder, name)
            checkpoint("segment read")
            if number == numbers[-1] and segment.begins:
                if _writer_is_dead(folder, stream, number):
                    segment = _read(folder, name)
                    snapshot.lost += segment.lost
                else:
                    snapshot.in_flight += segment.begins.values()
            snapshot.ends += segment.ends
            snapshot.adjustments += segment.adjustments
            snapshot.missing += segment.missing
            snapshot.bad += len(segment.bad)
            snapshot.segments += 1
    return snapshot


def _not_overtaken(folder: Path, listed: dict[str, list[int]], consumed: Collection[str]) -> None:
    """Start again when a writer rotated and the compactor consumed all we listed of it: its open requests are in a
    segment that came after the listing."""
    ended = [stream for stream, numbers in listed.items() if segment_name(stream, numbers[-1]) in consumed]
    if ended:
        now = streams(list_journal(folder))
        if any(now.get(stream, [])[-1:] != listed[stream][-1:] for stream in ended):
            raise FileNotFoundError


def _read(folder: Path, name: str) -> Segment:
    return parse((folder / FOLDER / name).read_bytes(), name)


def _writer_is_dead(folder: Path, stream: str, number: int) -> bool:
    descriptor = os.open(folder / FOLDER / segment_name(stream, number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        newest = streams(list_journal(folder)).get(stream, [])[-1:]
        return newest == [number] and os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)
