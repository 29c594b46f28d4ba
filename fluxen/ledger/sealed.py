"""Finding the segments that no writer will ever touch again, and which of them are the last word of a dead writer.

A segment is sealed when its flock is free. Segments of one stream are taken strictly in order: behind one that is
still locked nothing is taken, so whatever was consumed and deleted earlier is older than what is left.

The folder is listed AGAIN while the locks are held. A writer renames the next segment into view before it unlocks the
old one; hence, if that second listing holds no newer segment of the stream, there never will be one: the writer is
dead, and its unmatched begins are lost requests. (Had the first listing decided, a compactor stopped between listing
and locking would call a writer dead that only rotated meanwhile.)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fluxen.ledger.journal import FOLDER, no_checkpoint, segment_name
from fluxen.ledger.segment import Segment, parse
from fluxen.ledger.snapshot import list_journal, streams

STEP_BYTES = 16 << 20
"""A step takes no more segments once it has this much: bounds memory and the time to a commit."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed segment whose lock we hold."""

    name: str
    descriptor: int
    dead: bool
    """It is the newest of its stream: its unmatched begins are lost."""

    def read(self) -> Segment:
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            file.seek(0)
            return parse(file.read(), self.name)


@dataclass(frozen=True, slots=True)
class Harvest:
    segments: list[Sealed]
    more: bool
    """There were more than one step takes."""


@contextmanager
def harvest(
    folder: Path, consumed: Collection[str], checkpoint: Callable[[str], None] = no_checkpoint
) -> Iterator[Harvest]:
    """The sealed segments that are not consumed yet, locked for as long as the context lasts."""
    with ExitStack() as locks:
        taken: list[tuple[str, int, int]] = []
        size = 0
        first = streams(list_journal(folder))
        checkpoint("listed")
        for stream, numbers in first.items():
            for number in numbers:
                name = segment_name(stream, number)
                if name in consumed:
                    continue
                if size >= STEP_BYTES:
                    break
                descriptor = _try_lock(folder / FOLDER / name)
                if descriptor is None:
                    break
                locks.callback(os.close, descriptor)
                taken.append((stream, number, descriptor))
                size += os.fstat(descriptor).st_size
        checkpoint("locked")
        newest = {stream: numbers[-1] for stream, numbers in streams({*list_journal(folder), *consumed}).items()}
        yield Harvest(
            [
                Sealed(segment_name(stream, number), descriptor, dead=newest.get(stream, number) == number)
                for stream, number, descriptor in taken
            ],
            more=size >= STEP_BYTES,
        )


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
