"""Sealed segments become Parquet exactly once, whoever dies or stands still in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import msgspec
import pytest
from ledger import kill
from ledger.samples import DAY, NOON, begin, count, end, rows, serve, settled
from ledger.test_journal import locked, poll, segments
from ledger.writers import ENVIRONMENT

from fluxen.errors import LedgerError
from fluxen.ledger import manifest as manifests
from fluxen.ledger import store
from fluxen.ledger.compactor import MERGE_FILES, Compactor, exclusive
from fluxen.ledger.journal import Journal, segment_name
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import LOST, End, new_id
from fluxen.ledger.schema import BEGIN_FIELDS, END_FIELDS, SCHEMA


def write_segment(folder: Path, *lines: bytes, schema: int = SCHEMA, end_fields: tuple[str, ...] = END_FIELDS) -> str:
    """A sealed segment of these lines, under a stream of its own."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    name = segment_name(new_id().replace("-", ""), 0)
    header = {"fluxen": 1, "schema": schema, "node": "n", "worker": 0, "begin": BEGIN_FIELDS, "end": end_fields}
    (folder / "journal" / name).write_bytes(b"\n".join((msgspec.json.encode(header), *lines)))
    return name


def line(record: object) -> bytes:
    return msgspec.json.encode(record)


def test_a_torn_tail_is_cut(tmp_path: Path) -> None:
    whole, torn = end(begin()), line(end(begin()))
    write_segment(tmp_path, line(whole), torn[: len(torn) // 2])
    write_segment(tmp_path, line(end(begin())), torn)  # complete but for its newline: not acknowledged either
    for _ in range(2):
        assert count(tmp_path) == (2, 0, 0)
        settled(tmp_path).close()
    assert store.verify(tmp_path).quarantined == 0


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_segment_torn_in_its_header_holds_nothing(tmp_path: Path, size: int) -> None:
    name = write_segment(tmp_path)
    path = tmp_path / "journal" / name
    path.write_bytes(path.read_bytes()[:size])
    settled(tmp_path).close()
    assert count(tmp_path) == (0, 0, 0)
    assert not segments(tmp_path)


def test_lines_that_power_loss_spoiled_are_set_aside_and_counted(tmp_path: Path) -> None:
    good = [end(begin()) for _ in range(3)]
    spoiled = [
        b"\0" * 300,
        b"not json",
        b'["e","no id",1]',
        b"[]",
        b"{}",
        b'["q",1]',
        line(good[0])[:-40],
        b'["e"]',
        b"\xff",
    ]
    spoiled += [line(End(new_id(), -1)), line(End(new_id(), 1 << 62)), line(End("x' OR 1=1", 1))]
    name = write_segment(tmp_path, line(good[0]), *spoiled, line(good[1]), line(good[2]), b"")
    assert store.verify(tmp_path).quarantined == len(spoiled)  # already, before they are moved
    settled(tmp_path).close()
    assert {str(row[0]) for row in rows(tmp_path)} == {each.id for each in good}
    found = store.verify(tmp_path)
    assert (found.quarantined, found.ok) == (len(spoiled), True)
    assert (tmp_path / "quarantine" / f"{name}.bad").read_bytes() == b"\n".join(spoiled) + b"\n"


def test_a_segment_with_a_spoiled_header_is_set_aside_whole(tmp_path: Path) -> None:
    name = write_segment(tmp_path, line(end(begin())), b"")
    path = tmp_path / "journal" / name
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    settled(tmp_path).close()
    assert store.verify(tmp_path).quarantined == 2


def test_values_that_do_not_fit_are_null_not_fatal(tmp_path: Path) -> None:
    odd = End(
        new_id(), NOON, output_tokens=1 << 70, cost_pico=10**18, latency_ms=1 << 40, status=99_999, attempts=-(1 << 20)
    )
    write_segment(tmp_path, line(odd), b"")
    select = "SELECT output_tokens, cost_usd, latency_ms, status, attempts FROM requests"
    for _ in range(2):
        assert Reader(tmp_path).query(select).rows == [(None,) * 5]
        settled(tmp_path).close()


def test_open_requests_of_a_living_writer_are_neither_rows_nor_lost(tmp_path: Path) -> None:
    """A stream that spans more than five segments is in flight until it ends, and then one row."""
    journal = Journal(tmp_path, "node", 0, segment_bytes=3000)
    long = begin()
    journal.begin(long)
    compactor = settled(tmp_path)
    done = 0
    for _ in range(8):
        done += len(serve(journal, 30))
        compactor.step()
        assert count(tmp_path) == (done, 0, 1)
    assert int(segments(tmp_path)[-1].stem.rpartition("-")[2]) >= 8
    journal.end(end(long))
    assert count(tmp_path) == (done + 1, 0, 0)
    journal.close()
    settled(tmp_path).close()
    assert count(tmp_path) == (done + 1, 0, 0)
    assert store.verify(tmp_path).ok


def test_open_requests_of_a_dead_writer_are_lost_at_once_and_for_good(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 5, segment_bytes=3000)
    open_ = [begin() for _ in range(3)]
    for start in open_:
        journal.begin(start)
    serve(journal, 30)
    journal.close()  # what the kernel does to a killed process's locks
    before = rows(tmp_path)
    assert count(tmp_path) == (30, 3, 0)  # no compactor has seen them yet
    settled(tmp_path).close()
    assert rows(tmp_path) == before
    assert manifests.load(tmp_path).lost_rows == 3


def test_of_a_locked_stream_nothing_newer_is_taken(tmp_path: Path) -> None:
    """Were a newer segment consumed and deleted first, the older one would look like a dead writer's last word."""
    journal = Journal(tmp_path, "node", 0, segment_bytes=1500)
    serve(journal, 40)
    journal.close()
    oldest = segments(tmp_path)[0]
    held = os.open(oldest, os.O_RDONLY)
    import fcntl

    fcntl.flock(held, fcntl.LOCK_EX)
    compactor = Compactor(tmp_path, grace_seconds=0)
    assert compactor.step().segments == 0
    os.close(held)
    assert compactor.step().rows == 40
    assert count(tmp_path) == (40, 0, 0)


def test_one_file_per_day_in_the_end_and_late_rows_find_their_day(tmp_path: Path) -> None:
    now = NOON
    compactor = Compactor(tmp_path, grace_seconds=0, clock=lambda: now)
    total = 0
    for day in range(3):
        for _ in range(MERGE_FILES + 1):
            journal = Journal(tmp_path, "node", 0)
            total += len(serve(journal, 5, ts=NOON + day * DAY))
            journal.close()
            compactor.step()
    days = [file.day for file in manifests.load(tmp_path).files]
    assert len(days) == 6  # nine files each: eight merged into one, and one more
    now = NOON + 3 * DAY
    compactor.step()
    assert sorted(file.day for file in manifests.load(tmp_path).files) == ["2026-11-22", "2026-11-23", "2026-11-24"]
    journal = Journal(tmp_path, "node", 0)
    total += len(serve(journal, 1, ts=NOON - 1))
    journal.close()
    compactor.step()
    assert len(manifests.load(tmp_path).files) == 4  # not rewritten for one row…
    now += 600_000_000
    compactor.step()
    assert len(manifests.load(tmp_path).files) == 3  # … until no more come
    assert count(tmp_path) == (total, 0, 0)
    found = store.verify(tmp_path)
    assert (found.ok, found.rows) == (True, total)
    assert len(list((tmp_path / "data").iterdir())) == 3


def test_files_are_sorted_by_time(tmp_path: Path) -> None:
    for offset in (5, 3, 9, 1):
        journal = Journal(tmp_path, "node", 0)
        for number in range(50):
            journal.end(end(begin(ts=NOON + offset * 1000 + (number * 7919) % 1000)))
        journal.close()
    store.compact(tmp_path, grace_seconds=0)
    (path,) = (tmp_path / "data").iterdir()
    stamps = [row[0] for row in duckdb.sql(f"SELECT epoch_us(ts) FROM read_parquet('{path}')").fetchall()]
    assert stamps == sorted(stamps)
    (codec,) = {row[0] for row in duckdb.sql(f"SELECT compression FROM parquet_metadata('{path}')").fetchall()}
    assert codec == "ZSTD"


def test_replaced_files_stay_for_the_grace(tmp_path: Path) -> None:
    now = NOON
    compactor = Compactor(tmp_path, grace_seconds=60, clock=lambda: now)
    for _ in range(MERGE_FILES):
        journal = Journal(tmp_path, "node", 0)
        serve(journal, 2, ts=NOON)
        journal.close()
        compactor.step()
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert len(names) == MERGE_FILES + 1
    assert len(segments(tmp_path)) == MERGE_FILES
    now += 10_000_000
    compactor.step()
    assert not segments(tmp_path)
    assert {path.name for path in (tmp_path / "data").iterdir()} == names
    now += 50_000_000
    compactor.step()
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert count(tmp_path) == (2 * MERGE_FILES, 0, 0)


def test_segments_of_a_stream_are_deleted_in_order_even_when_the_clock_is_set_back(tmp_path: Path) -> None:
    """Readers rely on it: a segment that is still there has no newer one that came and went."""
    now = NOON + 5_000_000
    compactor = Compactor(tmp_path, clock=lambda: now)
    journal = Journal(tmp_path, "node", 0, segment_seconds=0)
    for moment in (NOON + 5_000_000, NOON):
        now = moment
        serve(journal, 1, ts=NOON)
        journal.tick()
        poll(lambda: not any(map(locked, segments(tmp_path)[:-1])), "the old segments to be sealed")
        assert compactor.step().segments == 1
    now = NOON + 10_000_000
    compactor.step()
    assert [path.stem[-8:] for path in segments(tmp_path)] == ["00000000", "00000001", "00000002"]
    now = NOON + 15_000_000
    compactor.step()
    assert [path.stem[-8:] for path in segments(tmp_path)] == ["00000002"]
    journal.close()


def test_a_busy_day_has_several_files_of_bounded_size(tmp_path: Path) -> None:
    for number in range(10):
        journal = Journal(tmp_path, "node", 0)
        serve(journal, 5, ts=NOON + number)
        journal.close()
        settled(tmp_path, merged_rows=12, clock=lambda: NOON).close()
    settled(tmp_path, merged_rows=12, clock=lambda: NOON + 2 * DAY).close()
    assert sorted(file.rows for file in manifests.load(tmp_path).files) == [10] * 5
    assert store.verify(tmp_path).rows == 50


def test_retention_forgets_whole_days(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    for day in range(5):
        serve(journal, day + 1, ts=NOON - day * DAY)
    journal.close()
    settled(tmp_path, retention_days=2, clock=lambda: NOON).close()
    assert sorted(file.day for file in manifests.load(tmp_path).files) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert count(tmp_path) == (1 + 2 + 3, 0, 0)
    assert store.verify(tmp_path).ok


def test_two_compactors_never_work_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 5)
    journal.close()
    first, second = Compactor(tmp_path), Compactor(tmp_path)
    with exclusive(tmp_path) as ours:
        assert ours
        assert first.step().busy
        assert second.step(wait=0.05).busy
        with pytest.raises(LedgerError, match="another compactor"):
            store.compact(tmp_path, wait=0.05)
    assert first.step().rows == 5
    assert second.step().rows == 0
    assert count(tmp_path) == (5, 0, 0)


def test_what_a_killed_rotation_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    hidden = tmp_path / "journal" / f".{segment_name('dead', 1)}"
    compactor = settled(tmp_path)
    hidden.write_bytes(b"half a header")
    compactor.step()
    assert hidden.exists()
    os.utime(hidden, (0, 0))
    compactor.step()
    assert not hidden.exists()


# ── kills, one at every point ────────────────────────────────────────────────────────────────────────────────────


def struck(tmp_path: Path, option: str, point: str) -> subprocess.Popen[bytes]:
    """A compactor that strikes itself when it comes to `point` for the first time."""
    command = [
        sys.executable,
        str(kill.__file__),
        "--role",
        "compactor",
        "--folder",
        str(tmp_path),
        option,
        f"{point}:1",
    ]
    return subprocess.Popen(command, env=ENVIRONMENT)


@pytest.mark.parametrize("point", kill.COMPACTOR_POINTS)
def test_a_compactor_killed_at(tmp_path: Path, point: str) -> None:
    open_ = begin()
    for _ in range(MERGE_FILES):  # enough for a merge in the same step
        journal = Journal(tmp_path, "node", 0, segment_bytes=3000)
        serve(journal, 20)
        journal.close()
        if point == "parquet written":
            settled(tmp_path).close()
    journal = Journal(tmp_path, "node", 0)
    journal.begin(open_)
    journal.close()
    before = rows(tmp_path)
    assert count(tmp_path) == (20 * MERGE_FILES, 1, 0)
    process = struck(tmp_path, "--die", point)
    assert process.wait(60) == -signal.SIGKILL
    assert rows(tmp_path) == before
    store.compact(tmp_path, grace_seconds=0)
    assert rows(tmp_path) == before
    assert count(tmp_path) == (20 * MERGE_FILES, 1, 0)
    found = store.verify(tmp_path)
    assert (found.ok, found.segments, found.files) == (True, 0, 1)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        file.name for file in manifests.load(tmp_path).files
    }
    with duckdb.connect(str(tmp_path / "fluxen.duckdb"), read_only=True) as catalogue:
        assert catalogue.execute("SELECT count(*) FROM requests").fetchone() == (len(before),)


@pytest.mark.parametrize("point", kill.JOURNAL_POINTS)
def test_a_writer_killed_in_its_rotation_at(tmp_path: Path, point: str) -> None:
    folder, acks = tmp_path / "ledger", kill.Acks(tmp_path / "acks")
    acks.folder.mkdir()
    command = [sys.executable, str(kill.__file__), "--role", "writer", "--folder", str(folder), "--node", "w"]
    command += ["--acks", str(acks.folder), "--die", f"{point}:4"]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=60, check=False).returncode == -signal.SIGKILL
    acks.update()
    assert acks.ended["w"]
    select = "SELECT node, request_bytes, error, false FROM requests ORDER BY id"
    before = Reader(folder).query(select).rows
    assert not list(kill.compare(before, acks.begun, acks.ended))
    assert 0 < sum(error == LOST for _, _, error, _ in before) <= len(acks.begun["w"]) - len(acks.ended["w"]) + 1
    settled(folder).close()
    assert Reader(folder).query(select).rows == before


@pytest.mark.parametrize("point", kill.JOURNAL_POINTS)
def test_a_compaction_in_the_middle_of_a_rotation_at(tmp_path: Path, point: str) -> None:
    """At no point of it is there an unlocked segment that looks like the last one of its writer."""
    compactor = Compactor(tmp_path, grace_seconds=0)
    looks = []

    def checkpoint(here: str) -> None:
        if here == point:
            compactor.step()
            looks.append(count(tmp_path))

    journal = Journal(tmp_path, "node", 0, segment_seconds=0, checkpoint=checkpoint)
    looks.clear()
    open_ = [begin() for _ in range(3)]
    for start in open_:
        journal.begin(start)
    serve(journal, 5)
    journal.tick()
    assert looks == [(5, 0, 3)]
    for start in open_:
        journal.end(end(start))
    journal.close()
    settled(tmp_path).close()
    assert count(tmp_path) == (8, 0, 0)


@pytest.mark.parametrize("fate", ["ends its requests", "dies"])
def test_a_compactor_stopped_between_listing_and_locking(tmp_path: Path, fate: str) -> None:
    """Meanwhile the writer rotates twice; the segment the compactor listed as the newest is not the last word."""
    journal = Journal(tmp_path, "node", 0, segment_bytes=3000)
    open_ = [begin() for _ in range(4)]
    for start in open_:
        journal.begin(start)
    process = struck(tmp_path, "--stop", "listed")
    poll(lambda: kill.state(process.pid) == "T", "the compactor to stop")
    done = 0
    while len(segments(tmp_path)) < 3:
        done += len(serve(journal, 1))
    poll(lambda: not any(map(locked_by_another, segments(tmp_path)[:-1])), "the old segments to be sealed")
    if fate == "dies":
        journal.close()
    process.send_signal(signal.SIGCONT)
    poll(lambda: len(segments(tmp_path)) <= 1, "the compactor to go on")
    if fate == "dies":
        poll(lambda: not segments(tmp_path), "the compactor to finish")
        assert count(tmp_path) == (done, 4, 0)
    else:
        assert count(tmp_path) == (done, 0, 4)
        for start in open_:
            journal.end(end(start))
        journal.close()
        poll(lambda: not segments(tmp_path), "the compactor to finish")
        assert count(tmp_path) == (done + 4, 0, 0)
    process.kill()
    process.wait()
    assert store.verify(tmp_path).ok


def locked_by_another(path: Path) -> bool:
    try:
        return locked(path)
    except FileNotFoundError:
        return False


def test_kills_at_random(tmp_path: Path) -> None:
    """Ten kills of every kind under load, with a reader checking each snapshot; `make kill` does more."""
    summary = kill.main(kills=10, seed=20261122, root=tmp_path)
    assert summary.ok, summary
    assert sum(summary.kills.values()) == 10
    assert summary.ended > 500
    assert summary.lost > 0
