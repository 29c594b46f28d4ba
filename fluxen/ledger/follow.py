"""Following the journal while it is written: each request once when it begins and once when it ended, none missed.

Whoever follows takes no lock that anybody waits for, needs no DuckDB and adds nothing to the gateway: it lists the
journal and reads what is new. A segment it has open is read to its end even when the compactor has deleted it. The
order in which a writer rotates (see journal.py) is what makes that exact: when the next segment is in view, the one
before it is complete, and the next one begins with every request that is still open.

What can't be seen that way is what came and went between two looks: while the follower was stopped (Ctrl-Z, a machine
asleep), or where `ledger.grace_seconds` is shorter than the time between them. That shows: a number is missing, a
stream vanished that was never seen to end, or too much time has passed. Then the whole ledger is asked once, in a
process aside (history.py), and what was told already is left out.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.history import ENDED, Ended, ended_at, ended_since, rows
from fluxen.ledger.journal import FOLDER, FORMAT, segment_name
from fluxen.ledger.record import Begin, End, Loss
from fluxen.ledger.schema import BEGIN_FIELDS, END_FIELDS, SCHEMA, check
from fluxen.ledger.segment import Header, from_other
from fluxen.ledger.snapshot import list_journal, streams

STALE_SECONDS = 5.0
"""More than this between two looks, and a segment may have come and gone: it stays 10 s (compactor.SEGMENT_GRACE)."""
LATE_SECONDS = 30.0
"""The most by which the line of a request's end may come after the end itself."""
REMEMBERED = 32_768
"""Requests whose end was told, remembered so that none is told twice."""
QUIET_SECONDS = 1.0
"""A segment that did not grow for this long is looked at: does its writer live?"""
CHUNK = 1 << 20

_BEGIN, _END, _LOSS = b'["b",', b'["e",', b'["x",'
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_begin = msgspec.json.Decoder(Begin).decode
_decode_end = msgspec.json.Decoder(End).decode
_decode_loss = msgspec.json.Decoder(Loss).decode
_decode_any = msgspec.json.Decoder(list[object]).decode


class Began(NamedTuple):
    """A request that was dispatched."""

    node: str
    worker: int
    record: Begin


class Missing(NamedTuple):
    """A writer's confession: so many requests got no line at all (disk full)."""

    requests: int


Event = Began | Ended | Missing


class Follower:
    """Reads one ledger's journal from where it is now. begins: tell also what has begun.

    `poll` tells what is new; the first one what the journal holds already, which is as much as the compactor has not
    taken yet. To be read to its end before the next.
    """

    def __init__(self, folder: Path, *, begins: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._begins = begins
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._told: dict[str, int] = {}  # id → when it ended, microseconds
        self._forgotten = 0  # when the last one that was dropped from `_told` had ended
        self._polled: float | None = None
        self._gap = False  # something may have come and gone unseen
        self._orphans: set[str] = set()  # requests that were open and are not, though no end was seen

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    @property
    def in_flight(self) -> list[Began]:
        """Requests that have begun and not ended, as of the last poll."""
        return [Began(one.node, one.worker, begin) for one in self._streams.values() for begin in one.in_flight()]

    @property
    def live(self) -> bool:
        """Whether any writer was alive when last looked at."""
        return any(not stream.dead for stream in self._streams.values())

    def asked(self) -> tuple[str, list[object]]:
        """For whoever asks the ledger after the first poll and before the second: a query, for the same state of the
        ledger, of what might be told again. `known` takes its rows."""
        since = int(((self._polled or self._clock()) - LATE_SECONDS) * 1e6)
        condition, parameters = ended_since(since, [begun.record.id for begun in self.in_flight])
        return f"SELECT id::VARCHAR, {ENDED} FROM requests WHERE {condition}", parameters

    def known(self, told: Iterable[tuple[str, int]]) -> None:
        """These (id, when it ended in microseconds) were told by other means: leave them out."""
        for name, ended in told:
            self._remember(name, ended)

    def poll(self) -> Iterator[Event]:
        now = self._clock()
        first = self._polled is None
        self._gap = self._polled is not None and abs(now - self._polled) > STALE_SECONDS
        listed = streams(list_journal(self.folder))
        for name, numbers in listed.items():
            stream = self._streams.get(name)
            if stream is None:
                stream = self._streams[name] = _Stream(self.folder, name)
            yield from self._follow(stream, numbers, first)
            yield from self._ask_whether_dead(stream, now, first)
        for name in [name for name in self._streams if name not in listed]:
            yield from self._vanished(name)
        if (self._gap or self._orphans) and self._polled is not None:
            yield from self._unseen(self._polled)
        self._orphans.clear()
        self._polled = now

    def _follow(self, stream: _Stream, numbers: list[int], first: bool) -> Iterator[Event]:
        """Read what is new in a stream, of which the listing had these segments. All of them but the last were
        complete when it was made."""
        if stream.number >= 0:
            yield from self._read(stream)
        for number in numbers:
            if number <= stream.number:
                continue
            if number != stream.number + 1 and not first:
                self._gap = True
            try:
                before = stream.advance(number)
            except FileNotFoundError:  # the compactor was faster
                self._gap = not first
                continue
            yield from self._read(stream, before)

    def _read(self, stream: _Stream, before: Iterable[bytes] = ()) -> Iterator[Event]:
        """New lines of a stream's segment as events. before: what was open at the end of the segment before it."""
        carried = set(before)
        for record in stream.records():
            if isinstance(record, End):
                if record.id not in self._told:
                    self._remember(record.id, ended_at(record))
                    yield Ended(stream.node, stream.worker, record)
            elif isinstance(record, Loss):
                yield Missing(record.requests)
            elif record in carried:
                carried.discard(record)
            elif self._begins:
                yield Began(stream.node, stream.worker, _decode_begin(stream.open[record]))
        self._orphans.update(name.decode() for name in carried)

    def _ask_whether_dead(self, stream: _Stream, now: float, first: bool) -> Iterator[Event]:
        if (stream.quiet(now) or first) and stream.writer_is_dead():
            yield from self._read(stream)  # it may have grown before its writer died
            yield from self._lost(stream)

    def _lost(self, stream: _Stream) -> Iterator[Event]:
        stream.dead = True
        for begin in stream.in_flight(dead=True):
            lost = End.lost(begin)
            if lost.id not in self._told:
                self._remember(lost.id, ended_at(lost))
                yield Ended(stream.node, stream.worker, lost)
        stream.open.clear()

    def _vanished(self, name: str) -> Iterator[Event]:
        """A stream of which nothing was listed. It is asked for once more: a listing may miss what was renamed into
        view while it was made."""
        stream = self._streams[name]
        if again := streams(list_journal(self.folder)).get(name):
            yield from self._follow(stream, again, first=False)
            return
        if stream.number >= 0:
            yield from self._read(stream)
        if not stream.dead:
            self._gap = True
            self._orphans.update(key.decode() for key in stream.open)
        stream.close()
        del self._streams[name]

    def _unseen(self, since: float) -> Iterator[Event]:
        """What ended after the last look, as far as it was not told."""
        horizon = max(int((since - LATE_SECONDS) * 1e6), self._forgotten)
        for batch in rows(self.folder, *ended_since(horizon, self._orphans)):
            for ended in batch:
                if ended.record.id not in self._told:
                    self._remember(ended.record.id, ended_at(ended.record))
                    yield ended

    def _remember(self, name: str, ended: int) -> None:
        self._told[name] = ended
        if len(self._told) > REMEMBERED:
            self._forgotten = max(self._forgotten, self._told.pop(next(iter(self._told))))


class _Stream:
    """The segments of one writer, read in order. `open`: its begin lines without an end, by id."""

    def __init__(self, folder: Path, name: str) -> None:
        self.open: dict[bytes, bytes] = {}
        self.number = -1
        self.node = ""
        self.worker = 0
        self.dead = False
        self._folder = folder / FOLDER
        self._name = name
        self._fd = -1
        self._offset = 0  # behind the last whole line that was read
        self._header: Header | None = None  # of a segment with other fields than ours, whose lines are read by it
        self._readable = False
        self._looked = 0.0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def advance(self, number: int) -> dict[bytes, bytes]:
        """Go on with this segment; what was open until then. FileNotFoundError when it is gone already."""
        descriptor = os.open(self._folder / segment_name(self._name, number), os.O_RDONLY | os.O_CLOEXEC)
        self.close()
        self._fd, self.number, self.dead = descriptor, number, False
        self._looked = 0.0
        before, self.open = self.open, {}
        self._offset = 0
        return before

    def in_flight(self, *, dead: bool = False) -> Iterator[Begin]:
        for line in self.open.values() if dead or not self.dead else ():
            try:
                yield _decode_begin(line)
            except _UNREADABLE:
                continue

    def records(self) -> Iterator[End | Loss | bytes]:
        """New records: an end, a loss, or the id of a begin that is in `open` now."""
        for lines in self._new_lines():
            for line in lines if self._header is None else self._converted(lines):
                kind = line[:5]
                try:
                    if kind == _END:
                        end = _decode_end(line)
                        self.open.pop(end.id.encode(), None)
                        yield end
                    elif kind == _BEGIN:
                        name = line[6:42] if line[42:44] == b'",' else _decode_begin(line).id.encode()
                        self.open[name] = line
                        yield name
                    elif kind == _LOSS:
                        yield _decode_loss(line)
                except _UNREADABLE:  # power was lost here; the compactor sets it aside
                    continue

    def quiet(self, now: float) -> bool:
        """Whether it is time to ask for its writer: about once a second while nothing comes."""
        if self.dead or self._fd < 0 or abs(now - self._looked) < QUIET_SECONDS:
            return False
        since, self._looked = self._looked, now
        return since > 0

    def writer_is_dead(self) -> bool:
        """As snapshot.py asks it: the lock is free, and still no newer segment is there."""
        if self._fd < 0:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        newest = streams(list_journal(self._folder.parent)).get(self._name, [])[-1:]
        return newest == [self.number] and os.fstat(self._fd).st_nlink > 0

    def _new_lines(self) -> Iterator[list[bytes]]:
        """Whole lines behind the last one that was read, the header's not among them.

        What follows the last newline is read again when it is whole: until then it may be cut off (disk full). So may
        whole lines of a group; then the segment does not continue as it should and is read from its beginning.
        """
        size = CHUNK
        while True:
            start = max(0, self._offset - 1)
            data = os.pread(self._fd, size, start)
            if self._offset and data[:1] != b"\n":
                self._offset = 0
                self.open.clear()
                continue
            end = data.rfind(b"\n") + 1
            if start + end > self._offset:
                lines = data[self._offset - start : end - 1].split(b"\n")
                if not self._offset:
                    self._begin(lines.pop(0))
                self._offset = start + end
                self._looked = 0.0
                if self._readable and lines:
                    yield lines
            elif len(data) == size:
                size *= 2  # a line longer than that
                continue
            if len(data) < size:
                return

    def _begin(self, line: bytes) -> None:
        """The first line. LedgerError when a newer Fluxen wrote it."""
        self._readable, self._header = False, None
        try:
            header = _decode_header(line)
        except _UNREADABLE:
            return
        name = segment_name(self._name, self.number)
        if header.fluxen > FORMAT:
            raise LedgerError(f"{name} has journal format {header.fluxen}", hint="a newer Fluxen wrote it: upgrade")
        check(header.schema, name)
        self._readable = True
        self.node, self.worker = header.node, header.worker
        if (header.schema, header.begin, header.end) != (SCHEMA, BEGIN_FIELDS, END_FIELDS):
            self._header = header

    def _converted(self, lines: list[bytes]) -> Iterator[bytes]:
        """Lines of an older schema as this one writes them."""
        assert self._header is not None
        for line in lines:
            try:
                yield _encode(from_other(_decode_any(line), self._header))
            except _UNREADABLE:
                continue
