"""The writer: rotation, what is carried over, torn lines, and a disk that is full and then is not."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger.samples import begin, count, end, rows, serve, settled
from ledger.writers import ENVIRONMENT
from shared import missing

from fluxen.errors import LedgerError
from fluxen.ledger import store
from fluxen.ledger.journal import Journal, parse_name, segment_name
from fluxen.ledger.segment import parse


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.jnl"))


def locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def poll(done: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.005)


@pytest.mark.parametrize("name", [".a-00000001.jnl", "a-1.tmp", "00000001.jnl", "a-x.jnl", "MANIFEST.json"])
def test_only_segments_in_view_are_segments(name: str) -> None:
    assert parse_name(name) is None


def test_a_segment_name_says_stream_and_number() -> None:
    assert parse_name(segment_name("0123-abc", 7)) == ("0123-abc", 7)


def test_lines_are_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 3)
    start = begin()
    assert journal.begin(start)
    (path,) = segments(tmp_path)
    assert parse(path.read_bytes(), path.name).begins.keys() == {start.id}
    assert journal.end(end(start))
    read = parse(path.read_bytes(), path.name)
    assert (len(read.ends), read.begins, read.bad) == (1, {}, [])
    assert locked(path)
    journal.close()
    assert not locked(path)


def test_rotation_carries_open_requests_and_unlocks_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0, segment_bytes=4096)
    open_ = [begin() for _ in range(3)]
    for start in open_:
        journal.begin(start)
    serve(journal, 200)
    paths = segments(tmp_path)
    assert len(paths) >= 5
    for path in paths:  # and perhaps the one request in whose middle it was rotated
        begun = parse(path.read_bytes(), path.name).begins.keys()
        assert {start.id for start in open_} <= begun
        assert len(begun) <= len(open_) + 1
    poll(lambda: not any(map(locked, paths[:-1])), "old segments to be sealed")
    assert locked(paths[-1])
    for start in open_:
        journal.end(end(start))
    assert parse(paths[-1].read_bytes(), "").begins == {}
    journal.close()


def test_an_idle_journal_does_not_rotate(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0, segment_seconds=0)
    journal.begin(begin())
    journal.tick()
    assert len(segments(tmp_path)) == 2
    for _ in range(3):  # nothing but the carried begin is in the new one
        journal.tick()
    assert len(segments(tmp_path)) == 2
    journal.close()


def test_rotation_waits_while_copying_costs_more_than_it_seals(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0, segment_bytes=2000, segment_seconds=3600)
    for number in range(400):
        assert journal.begin(begin(number=number))
    written = sum(path.stat().st_size for path in segments(tmp_path))
    lines = sum(map(len, journal.open_requests.values()))
    assert written < 4 * lines  # were all open ones copied every 2000 bytes, it would be dozens of times as much
    journal.close()


def test_syncing_is_not_the_callers_time(tmp_path: Path) -> None:
    """The calling thread never syncs: what does is named, and it is not us."""
    journal = Journal(tmp_path, "node", 0, segment_bytes=1000)
    assert "fluxen-journal" not in {thread.name for thread in threading.enumerate()}  # lazily
    serve(journal, 20)
    assert "fluxen-journal" in {thread.name for thread in threading.enumerate()}
    journal.close()
    assert "fluxen-journal" not in {thread.name for thread in threading.enumerate()}


def test_text_that_is_no_utf8_is_written_all_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    start = begin()
    start.user_agent = "curl/\udce4"
    assert journal.begin(start)
    assert journal.end(end(start))
    journal.close()
    assert count(tmp_path) == (1, 0, 0)


def test_a_folder_that_may_not_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    with pytest.raises(LedgerError, match="can't be written"):
        Journal(tmp_path / "ledger", "node", 0)


# ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "umount2") or libc.mount(b"none", bytes(disk), b"tmpfs", 0, b"size=1m"):
        missing("needs to mount a tmpfs (root on Linux)")
    yield disk
    assert libc.umount2(bytes(disk), 2) == 0  # MNT_DETACH


def fill(folder: Path) -> Path:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return path
    return path


def test_disk_full_serves_counts_and_recovers_by_itself(small_disk: Path) -> None:
    folder = small_disk / "ledger"
    journal = Journal(folder, "node", 0, segment_bytes=16_384)
    before = [end(begin()) for _ in range(20)]
    assert all(journal.end(done) for done in before)
    both_refused, end_refused = [], []
    open_ = [begin() for _ in range(3)]
    for start in open_:
        assert journal.begin(start)

    ballast = fill(small_disk)
    while journal.end(done := end(begin())):  # to the last byte of the last page
        before.append(done)
    assert journal.lost == 1
    while journal.begin(start := begin()):  # a begin is shorter than an end
        open_.append(start)
    assert not journal.end(end(start))
    both_refused.append(start)
    for _ in range(50):
        start = begin()
        assert not journal.begin(start)
        assert not journal.end(end(start))
        both_refused.append(start)
    for start in open_:
        assert not journal.end(end(start))
        end_refused.append(start)
    journal.tick()
    assert journal.lost == 1 + 2 * len(both_refused) + len(end_refused)
    assert journal.error
    assert {str(row[0]) for row in rows(folder)} == {done.id for done in before}  # nothing torn is read

    ballast.unlink()
    after = [end(begin()) for _ in range(5)]
    assert all(journal.end(done) for done in after)
    journal.tick()
    journal.close()
    assert count(folder) == (len(before) + len(after), len(end_refused), 0)
    assert {str(row[0]) for row in rows(folder)} == {done.id for done in (*before, *after, *open_)}
    found = store.verify(folder)
    assert (found.missing, found.lost, found.quarantined, found.ok) == (1 + len(both_refused), len(open_), 0, True)


def test_disk_full_at_rotation_stays_on_the_old_segment(small_disk: Path) -> None:
    folder = small_disk / "ledger"
    journal = Journal(folder, "node", 0, segment_seconds=0)
    done = serve(journal, 3)
    ballast = fill(small_disk)
    journal.tick()  # due, and impossible
    assert len(segments(folder)) == 1
    assert not list((folder / "journal").glob(".*"))
    ballast.unlink()
    done += serve(journal, 2)
    journal.tick()
    assert len(segments(folder)) == 2
    done += serve(journal, 1)
    journal.close()
    assert {str(row[0]) for row in rows(folder)} == {each.id for each in done}


def test_a_compactor_on_a_full_disk_commits_nothing_and_goes_on_later(small_disk: Path) -> None:
    folder = small_disk / "ledger"
    journal = Journal(folder, "node", 0)
    settled(folder).close()
    done = serve(journal, 50)
    journal.close()
    ballast = fill(small_disk)
    import duckdb

    with pytest.raises((OSError, duckdb.Error)):
        settled(folder)
    assert {str(row[0]) for row in rows(folder)} == {each.id for each in done}
    ballast.unlink()
    settled(folder).close()
    assert {str(row[0]) for row in rows(folder)} == {each.id for each in done}
    assert not segments(folder)


def test_a_journal_that_starts_on_a_full_disk_begins_when_there_is_room(small_disk: Path) -> None:
    ballast = fill(small_disk)
    journal = Journal(small_disk / "ledger", "node", 0)
    assert not journal.begin(begin())
    ballast.unlink()
    journal.tick()
    serve(journal, 1)
    journal.close()
    assert count(small_disk / "ledger") == (1, 0, 0)


def test_a_line_cut_short_by_a_limit_is_cut_off(tmp_path: Path) -> None:
    """RLIMIT_FSIZE ends the file in the middle of a line: a short write first, EFBIG afterwards."""
    program = """
import resource, signal, sys
from pathlib import Path
from ledger.samples import begin, end
from fluxen.ledger.journal import Journal
journal = Journal(Path(sys.argv[1]), "node", 0)
(path,) = (Path(sys.argv[1]) / "journal").glob("*.jnl")
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10_000, resource.RLIM_INFINITY))
written = [done.id for done in (end(begin()) for _ in range(200)) if journal.end(done)]
assert 0 < len(written) < 200 and journal.lost == 200 - len(written)
assert path.read_bytes().endswith(b"\\n")
print(len(written))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert count(tmp_path)[0] == int(answer.stdout)
