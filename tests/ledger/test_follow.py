"""Whoever follows the journal is told of each request once, whatever happens to the segments meanwhile."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ledger.kill import KINDS, Arena, poll
from ledger.samples import begin, end, serve
from ledger.samples import row as samples_row
from ledger.writers import ENVIRONMENT, Writers

from fluxen.errors import LedgerError
from fluxen.ledger import history
from fluxen.ledger.compactor import Compactor
from fluxen.ledger.follow import REMEMBERED, Began, Ended, Event, Follower, Missing
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Begin, End
from fluxen.ledger.schema import BEGIN_FIELDS, COLUMNS, END_FIELDS


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    found = Writers(tmp_path)
    yield found
    found.close()


def ended(events: Iterator[Event] | list[Event]) -> list[End]:
    return [event.record for event in events if isinstance(event, Ended)]


def names(events: Iterator[Event]) -> list[str]:
    return [record.id for record in ended(events)]


def journal(folder: Path, segment_bytes: int = 2000) -> Journal:
    return Journal(folder, "here", 3, segment_bytes=segment_bytes, segment_seconds=0)


def told_until(follower: Follower, done: Callable[[list[Event]], bool], clock: Clock | None = None) -> list[Event]:
    """What it tells until that is so. The clock goes on by a second with each look."""
    found: list[Event] = []
    deadline = time.monotonic() + 30
    while not done(found):
        assert time.monotonic() < deadline, found
        if clock is not None:
            clock.now += 1.5
        found += follower.poll()
    return found


def test_what_the_journal_holds_is_told_and_then_what_comes(tmp_path: Path) -> None:
    writer = journal(tmp_path, 1 << 20)
    before = serve(writer, 3)
    follower = Follower(tmp_path)
    assert ended(follower.poll()) == before
    assert list(follower.poll()) == []
    after = serve(writer, 2)
    (first, second) = follower.poll()
    assert (first, second) == (Ended("here", 3, after[0]), Ended("here", 3, after[1]))
    assert list(follower.poll()) == []
    writer.close()


def test_every_field_comes_as_it_was_written(tmp_path: Path) -> None:
    chance = random.Random(5)
    writer = journal(tmp_path)
    follower = Follower(tmp_path, begins=True)
    assert list(follower.poll()) == []
    starts = [begin(chance, ts=time.time_ns() // 1000) for _ in range(60)]
    ends = [end(start, chance) for start in starts]
    for start, done in zip(starts, ends, strict=True):
        assert writer.begin(start)
        assert writer.end(done)
    events = list(follower.poll())
    assert [event.record for event in events if isinstance(event, Began)] == starts
    assert ended(events) == ends
    writer.close()


def test_rows_asked_of_the_ledger_are_the_same_records(tmp_path: Path) -> None:
    """What is in Parquet files and what is still in the journal, in the order it ended."""
    chance = random.Random(6)
    writer = journal(tmp_path, 20_000)
    starts = [begin(chance) for _ in range(40)]
    ends = [end(start, chance) for start in starts]
    for start, done in zip(starts, ends, strict=True):
        assert writer.begin(start)
        assert writer.end(done)
    compactor = Compactor(tmp_path, grace_seconds=0)
    compactor.step()
    compactor.close()
    found = [one for batch in history.rows(tmp_path) for one in batch]
    assert {one.record.id: one for one in found} == {done.id: Ended("here", 3, done) for done in ends}
    order = [history.ended_at(one.record) for one in found]
    assert order == sorted(order)
    newest = sorted(ends, key=lambda done: (done.ts, done.id))[-5:]
    counted, *batches = history.rows(tmp_path, last=5, first=[("SELECT count(*) FROM requests", ())])
    assert counted == [(40,)]
    assert {one.record.id for batch in batches for one in batch} == {done.id for done in newest}
    names = [column.name for column in COLUMNS]
    by_id = {row[0]: row for row in (samples_row(done, "here", 3) for done in ends)}
    for one in found:
        as_columns = history.columns(*one)
        assert list(as_columns) == names
        assert tuple(as_columns.values()) == (one.record.id, *by_id[uuid.UUID(one.record.id)][1:])
    writer.close()


@pytest.mark.parametrize("begins", [True, False])
def test_open_requests_are_carried_over_rotations_and_told_once(tmp_path: Path, begins: bool) -> None:
    writer = journal(tmp_path)
    follower = Follower(tmp_path, begins=begins)
    list(follower.poll())
    long = begin()
    assert writer.begin(long)
    events = list(follower.poll())
    for _ in range(20):
        serve(writer, 5)
        events += follower.poll()
        assert follower.in_flight == [Began("here", 3, long)]
    assert writer.end(end(long))
    events += follower.poll()
    assert follower.in_flight == []
    counts = Counter((type(event), event.record.id) for event in events if not isinstance(event, Missing))
    assert set(counts.values()) == {1}
    assert len(ended(events)) == 101
    assert sum(kind is Began for kind, _ in counts) == (101 if begins else 0)
    assert len(os.listdir(tmp_path / "journal")) > 10
    writer.close()


def test_several_writers_and_their_restarts(tmp_path: Path, writers: Writers) -> None:
    follower = Follower(tmp_path)
    list(follower.poll())
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for turn in range(3):
        for name in (f"a{turn}", f"b{turn}"):
            writers.start(name)
        for _ in range(5):
            for name in (f"a{turn}", f"b{turn}"):
                request = writers.begin(name)
                writers.end(name, request)
                writers.rotate(name)
                wanted[request] += 1
            found.update(names(follower.poll()))
        for name in (f"a{turn}", f"b{turn}"):
            writers.kill(name)
    assert found == wanted


def test_a_killed_writers_open_requests_are_lost_once(tmp_path: Path, writers: Writers) -> None:
    clock = Clock()
    follower = Follower(tmp_path, clock=clock)
    list(follower.poll())
    writers.start("w")
    request = writers.begin("w")
    clock.now += 2
    assert list(follower.poll()) == []
    clock.now += 2
    assert list(follower.poll()) == []
    assert follower.live
    writers.kill("w")
    (lost,) = ended(told_until(follower, bool, clock))
    assert (lost.id, lost.error, lost.usage_source) == (request, "lost", "unknown")
    assert follower.in_flight == []
    assert not follower.live
    compactor = Compactor(tmp_path, grace_seconds=0)
    compactor.step()  # it becomes a row, and the segment is deleted
    compactor.close()
    clock.now += 2
    assert list(follower.poll()) == []
    assert [row[0] for row in Reader(tmp_path).query("SELECT id::VARCHAR FROM requests").rows] == [request]


def test_a_dead_writers_requests_are_not_in_flight_at_the_first_look(tmp_path: Path, writers: Writers) -> None:
    writers.start("w")
    request = writers.begin("w")
    writers.kill("w")
    follower = Follower(tmp_path)
    assert names(follower.poll()) == [request]
    assert follower.in_flight == []


def test_a_segment_that_is_open_is_read_to_its_end_though_it_was_deleted(tmp_path: Path) -> None:
    writer = journal(tmp_path, 1 << 20)
    follower = Follower(tmp_path)
    serve(writer, 2)
    list(follower.poll())
    unseen = serve(writer, 3)
    writer.tick()  # rotates: segment_seconds is 0
    compactor = Compactor(tmp_path, grace_seconds=0)
    poll(lambda: compactor.step().segments > 0, "the segment to be sealed")
    compactor.close()
    assert [name.rpartition("-")[2] for name in os.listdir(tmp_path / "journal")] == ["00000001.jnl"]
    assert ended(follower.poll()) == unseen
    writer.close()


@pytest.mark.parametrize("dead", [True, False])
def test_what_came_and_went_between_two_looks_is_asked_of_the_ledger(tmp_path: Path, dead: bool) -> None:
    """The follower was stopped. Also a request that was open all that time ends once."""
    writer = journal(tmp_path)
    follower = Follower(tmp_path)
    known = serve(writer, 4)
    long = begin()
    writer.begin(long)
    assert ended(follower.poll()) == known
    unseen = serve(writer, 50)
    writer.end(end(long))
    compactor = Compactor(tmp_path, grace_seconds=0)
    if dead:
        writer.close()
        poll(lambda: not os.listdir(tmp_path / "journal") or not compactor.step(), "the journal to be taken in")
    else:
        unseen += serve(writer, 2)
        writer.tick()
        poll(lambda: (compactor.step(), len(os.listdir(tmp_path / "journal")) == 1)[1], "the journal to be taken in")
        unseen += serve(writer, 3)
    found = names(follower.poll())
    assert Counter(found) == Counter([long.id, *(done.id for done in unseen)])
    assert names(follower.poll()) == []
    if not dead:
        later = serve(writer, 3)
        assert names(follower.poll()) == [done.id for done in later]
        writer.close()
    compactor.close()


@pytest.mark.parametrize("days", [None, 0, 3])
def test_segments_that_a_living_writer_filled_unseen_are_missed_by_their_numbers(
    tmp_path: Path, days: int | None
) -> None:
    """Between two quick looks, with and without a request that was open at the first, for whatever time."""
    clock = Clock()
    writer = journal(tmp_path)
    follower = Follower(tmp_path, clock=clock)
    serve(writer, 2)
    if days is not None:
        long = begin(ts=time.time_ns() // 1000 - days * 86_400_000_000)
        long.id = f"{long.ts // 1000:012x}"[:8] + "-" + f"{long.ts // 1000:012x}"[8:] + long.id[13:]
        writer.begin(long)
    list(follower.poll())
    unseen = serve(writer, 30)
    if days is not None:
        unseen.append(end(long))  # its latency is not known: it counts as ended when it arrived
        writer.end(unseen[-1])
    unseen += serve(writer, 30)
    writer.tick()
    compactor = Compactor(tmp_path, grace_seconds=0)
    poll(lambda: (compactor.step(), len(os.listdir(tmp_path / "journal")) == 1)[1], "the journal to be taken in")
    compactor.close()
    assert Counter(names(follower.poll())) == Counter(done.id for done in unseen)
    assert list(follower.poll()) == []
    writer.close()


def test_after_a_long_pause_the_ledger_is_asked(tmp_path: Path) -> None:
    """A whole writer lived and died unseen: no listing shows it."""
    clock = Clock()
    follower = Follower(tmp_path, clock=clock)
    first = journal(tmp_path)
    serve(first, 1)
    list(follower.poll())
    second = journal(tmp_path)
    unseen = serve(second, 5)
    second.close()
    compactor = Compactor(tmp_path, grace_seconds=0)
    poll(lambda: compactor.step().rows > 0, "the second writer's rows")
    compactor.close()
    clock.now += 60
    assert Counter(names(follower.poll())) == Counter(done.id for done in unseen)
    first.close()


def test_what_was_told_by_other_means_is_left_out(tmp_path: Path) -> None:
    writer = journal(tmp_path)
    follower = Follower(tmp_path)
    list(follower.poll())
    done = serve(writer, 3)
    follower.known([(done[1].id, done[1].ts)])
    assert ended(follower.poll()) == [done[0], done[2]]
    writer.close()


def test_what_the_ledger_was_asked_in_between_is_not_told_again(tmp_path: Path) -> None:
    """Between the first look and the question something ends, and a request that was open is lost."""
    writer = journal(tmp_path)
    done = serve(writer, 3)
    open_one = begin(ts=time.time_ns() // 1000 - 3_600_000_000)
    writer.begin(open_one)
    follower = Follower(tmp_path)
    assert ended(follower.poll()) == done
    more = serve(writer, 2)
    writer.close()
    told, *batches = history.rows(tmp_path, first=[follower.asked()])
    assert Counter(one.record.id for batch in batches for one in batch) == Counter(
        [open_one.id, *(one.id for one in done + more)]
    )
    follower.known(told)
    clock = Clock()
    follower._clock = clock
    for _ in range(4):
        assert list(follower.poll()) == []
        clock.now += 2
    assert not follower.live


def test_a_request_that_was_open_for_days_is_not_missed(tmp_path: Path) -> None:
    """It ends while nobody looks, and is in a file, far before all the others, when somebody does."""
    clock = Clock()
    writer = journal(tmp_path)
    long = begin(ts=time.time_ns() // 1000 - 3 * 86_400_000_000)
    long.id = f"{long.ts // 1000:012x}"[:8] + "-" + f"{long.ts // 1000:012x}"[8:] + long.id[13:]
    writer.begin(long)
    follower = Follower(tmp_path, clock=clock)
    assert list(follower.poll()) == []
    writer.end(end(long))  # its latency is not known: it counts as ended when it arrived
    unseen = serve(writer, 1)
    writer.close()
    compactor = Compactor(tmp_path, grace_seconds=0)
    poll(lambda: not os.listdir(tmp_path / "journal") or not compactor.step(), "the journal to be taken in")
    compactor.close()
    clock.now += 60
    assert Counter(names(follower.poll())) == Counter([long.id, unseen[0].id])


def test_memory_of_what_was_told_is_bounded(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    follower.known((f"{number:036}", number) for number in range(REMEMBERED + 100))
    assert len(follower._told) == REMEMBERED
    assert follower._forgotten == 99


def test_half_a_line_is_not_read_until_it_is_whole(tmp_path: Path) -> None:
    writer = journal(tmp_path, 1 << 20)
    serve(writer, 1)
    follower = Follower(tmp_path)
    list(follower.poll())
    (segment,) = (tmp_path / "journal").iterdir()
    whole = segment.read_bytes()
    serve(writer, 1)
    more = segment.read_bytes()[len(whole) :]
    for cut in (1, 200, len(more) - 1):
        segment.write_bytes(whole + more[:cut])
        assert ended(follower.poll()) == []
    segment.write_bytes(whole + more)
    assert len(ended(follower.poll())) == 1
    writer.close()


def test_lines_that_were_cut_off_again_double_and_lose_nothing(tmp_path: Path) -> None:
    """As the journal does when the disk is full: whole lines of a group go, and others come in their place."""
    writer = journal(tmp_path, 1 << 20)
    serve(writer, 2)
    (segment,) = (tmp_path / "journal").iterdir()
    whole = segment.read_bytes()
    kept = serve(writer, 1)
    lines = segment.read_bytes()[len(whole) :]
    gone = serve(writer, 3)
    follower = Follower(tmp_path)
    assert ended(follower.poll())[2:] == kept + gone
    longer = serve(writer, 1)
    new = segment.read_bytes().splitlines(keepends=True)[-2:]
    segment.write_bytes(whole + lines + b'["x",1,2]\n' + b"".join(new))
    events = list(follower.poll())
    assert ended(events) == longer
    assert Missing(2) in events
    writer.close()


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    writer = journal(tmp_path, 1 << 20)
    (segment,) = (tmp_path / "journal").iterdir()
    with segment.open("ab") as file:
        file.write(
            b'["b","'
            + b"z" * 36
            + b'",1]\n\x00\x00\x00\n["e","no id"]\n["b",7]\n["a","of a later Fluxen",1]\n["e","\xff"]\n\n'
        )
    done = serve(writer, 1)
    assert ended(Follower(tmp_path).poll()) == done
    (tmp_path / "journal" / "nothing-00000000.jnl").write_bytes(b"\x00" * 50 + b"\n" + segment.read_bytes())
    assert ended(Follower(tmp_path).poll()) == done
    writer.close()


def test_segments_of_an_older_fluxen_are_read_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    first, second = serve(journal(tmp_path / "other"), 2)
    second.error = "lost"
    fields = [name for name in END_FIELDS if name not in ("service_tier", "usage_error")][::-1]
    header = {"fluxen": 1, "schema": 1, "node": "old", "worker": 1, "pid": 1, "begin": BEGIN_FIELDS, "end": fields}
    lines = [
        header,
        ["b", *(getattr(Begin(first.id, first.ts), name) for name in BEGIN_FIELDS)],
        ["e", *(getattr(first, name) for name in fields)],
        ["b", *(getattr(Begin(second.id, second.ts), name) for name in BEGIN_FIELDS)],
        ["x", 1, 4],
    ]
    (folder / "old-00000000.jnl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = list(Follower(tmp_path, begins=True).poll())
    assert [type(event) for event in events] == [Began, Ended, Began, Missing, Ended]
    assert events[1] == Ended("old", 1, first)
    assert events[3] == Missing(4)
    assert ended(events)[1].error == "lost"


@pytest.mark.parametrize("change", [{"fluxen": 99}, {"schema": 99}])
def test_segments_of_a_newer_fluxen_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    writer = journal(tmp_path)
    (segment,) = (tmp_path / "journal").iterdir()
    header = {**json.loads(segment.read_bytes()), **change}
    segment.write_text(json.dumps(header) + "\n")
    with pytest.raises(LedgerError, match=r"99"):
        list(Follower(tmp_path).poll())
    writer.close()


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "nowhere")
    assert list(follower.poll()) == []
    writer = journal(tmp_path / "nowhere")
    done = serve(writer, 1)
    assert ended(follower.poll()) == done
    writer.close()


def test_trouble_of_the_process_aside_is_told(tmp_path: Path) -> None:
    def work(send: Callable[[object], None]) -> None:
        send("one")
        raise LedgerError("the ledger is damaged", hint="mend it")

    found = history.aside(work)
    assert next(found) == "one"
    with pytest.raises(LedgerError, match="damaged") as raised:
        next(found)
    assert raised.value.hint == "mend it"

    def dies(send: Callable[[object], None]) -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(LedgerError, match="was killed"):
        list(history.aside(dies))


def test_nobody_waits_for_what_is_not_wanted_any_more(tmp_path: Path) -> None:
    def work(send: Callable[[object], None]) -> None:
        send(os.getpid())
        while True:
            send("x" * 100_000)

    found = history.aside(work)
    child = next(found)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_following_loads_no_duckdb() -> None:
    code = "import fluxen.ledger.follow, sys; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_killed_writers_and_compactors(tmp_path: Path) -> None:
    """Everything at once, segments of 20 KB that are deleted as soon as they are taken in: what the follower was told
    is what the ledger holds in the end, once each."""
    out = tmp_path / "told"
    arena = Arena(tmp_path, seed=11)
    with out.open("w") as told:
        command = [sys.executable, str(Path(__file__).with_name("following.py")), str(arena.folder), str(arena.end)]
        follower = subprocess.Popen(command, stdout=told, env=ENVIRONMENT)
    try:
        for kind in KINDS * 2:
            before = out.stat().st_size
            poll(lambda before=before: out.stat().st_size > before, "the follower to be told something")  # type: ignore[misc]
            arena.kill(kind, arena.chance.randrange(100))
        for writer in arena.writers:
            arena._end_gently(writer)
        arena.end.touch()
        assert follower.wait(60) == 0
    finally:
        arena.close()
        if follower.poll() is None:
            follower.kill()
            follower.wait()
    lines = [SimpleNamespace(kind=kind, of=(node, number), error=error) for kind, node, number, error in _lines(out)]
    ends = Counter((*line.of, line.error) for line in lines if line.kind == "end")
    rows = Reader(arena.folder).query("SELECT node, request_bytes, error FROM requests").rows
    assert len(rows) > 100
    assert ends == Counter(rows)
    begins = Counter(line.of for line in lines if line.kind == "begin")
    assert set(begins.values()) == {1}


def _lines(path: Path) -> list[list[object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
