"""What an operator does: verify, export, back up and restore, move; beside a running server."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from ledger.samples import DAY, NOON, begin, count, end, rows, serve, settled

from fluxen.errors import LedgerError, NoDataError
from fluxen.ledger import catalogue, store
from fluxen.ledger import manifest as manifests
from fluxen.ledger.compactor import Compactor, exclusive
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.schema import COLUMNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two days in Parquet, a little in a living journal, one request in flight and one lost."""
    chance = random.Random(1)
    folder = tmp_path / "ledger"
    journal = Journal(folder, "node", 0)
    for number in range(40):
        start = begin(chance, ts=NOON + number % 2 * DAY + number)
        journal.begin(start)
        journal.end(end(start, chance))
    journal.begin(begin(ts=NOON))
    journal.close()
    settled(folder).close()
    return folder


@pytest.fixture
def journal(folder: Path) -> Journal:
    journal = Journal(folder, "node", 1)
    serve(journal, 5, ts=NOON + 2 * DAY)
    journal.begin(begin())
    return journal


# ── verify ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_verify_counts_what_is_there(folder: Path, journal: Journal) -> None:
    found = store.verify(folder)
    assert found == store.Verification([], files=2, rows=46, in_flight=1, segments=1, lost=1)
    journal.close()


def parquet(folder: Path) -> Path:
    return sorted((folder / "data").iterdir())[0]


def spoil_bytes(folder: Path) -> None:
    content = bytearray(parquet(folder).read_bytes())
    content[100:2000] = os.urandom(1900)
    parquet(folder).chmod(0o640)
    parquet(folder).write_bytes(content)


def cut(folder: Path) -> None:
    os.truncate(parquet(folder), parquet(folder).stat().st_size - 1)


def exchange(folder: Path) -> None:
    first, second = sorted((folder / "data").iterdir())
    shutil.copyfile(second, first)


def double(folder: Path) -> None:
    manifest = manifests.load(folder)
    shutil.copyfile(folder / "data" / manifest.files[0].name, folder / "data" / "again.parquet")
    import msgspec

    manifest.files.append(msgspec.structs.replace(manifest.files[0], name="again.parquet"))
    manifests.commit(folder, manifest)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (spoil_bytes, "can't be read"),
        (cut, "can't be read"),
        (exchange, "the manifest says"),
        (lambda folder: parquet(folder).unlink(), "can't be read"),
        (double, "is there 2 times"),
    ],
)
def test_verify_finds(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    assert store.verify(folder).ok
    damage(folder)
    found = store.verify(folder)
    assert not found.ok
    assert said in " ".join(found.problems)


def test_a_manifest_that_is_no_manifest_or_a_newer_one_says_so(folder: Path) -> None:
    path = folder / "MANIFEST.json"
    good = path.read_text()
    path.write_text(good[:-5])
    with pytest.raises(LedgerError, match="can't be read"):
        store.verify(folder)
    path.write_text(good.replace('"fluxen":1', '"fluxen":2'))
    with pytest.raises(LedgerError, match="format 2") as caught:
        Reader(folder).query("SELECT 1")
    assert "upgrade" in str(caught.value.hint)


@pytest.mark.parametrize("act", [store.verify, store.compact, store.views])
def test_where_there_is_no_ledger_none_is_made(tmp_path: Path, act: Callable[[Path], object]) -> None:
    with pytest.raises(NoDataError):
        act(tmp_path)
    assert not list(tmp_path.iterdir())


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_exports_hold_the_rows(folder: Path, journal: Journal, tmp_path: Path) -> None:
    names = [column.name for column in COLUMNS]
    for kind in ("parquet", "csv", "jsonl"):
        assert store.export(folder, tmp_path / f"x.{kind}", kind) == 46
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger", "x.csv", "x.jsonl", "x.parquet"]
    with duckdb.connect() as other:
        assert other.execute(f"SELECT * FROM '{tmp_path}/x.parquet' ORDER BY id").fetchall() == rows(folder)
    with (tmp_path / "x.csv").open(newline="") as file:
        (head, *table) = csv.reader(file)
    assert head == names
    assert len(table) == 46
    lines = [json.loads(text) for text in (tmp_path / "x.jsonl").read_bytes().splitlines()]
    whole = {str(row[0]): dict(zip(names, row, strict=True)) for row in rows(folder)}
    for entry in (*lines, *(dict(zip(head, row, strict=True)) for row in table)):
        tags = entry["tags"] if isinstance(entry["tags"], dict) else json.loads(entry["tags"] or "null")
        assert tags == whole[entry["id"]]["tags"]
        assert (entry["key_id"] or "") == (whole[entry["id"]]["key_id"] or "")
    journal.close()


def test_an_export_of_a_span(folder: Path, tmp_path: Path) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert store.export(folder, tmp_path / "x.csv", "csv", since=noon) == 20
    assert store.export(folder, tmp_path / "x.csv", "csv", until=noon) == 21


def test_an_export_that_fails_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("old")
    spoil_bytes(folder)
    with pytest.raises(LedgerError):
        store.export(folder, tmp_path / "x.csv", "csv")
    assert (tmp_path / "x.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger", "x.csv"]


def test_an_export_that_can_not_be_written_names_the_file_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "none" / "x.csv", tmp_path / "file" / "x.csv", tmp_path):
        with pytest.raises(LedgerError) as caught:
            store.export(folder, target, "csv")
        assert caught.value.message.startswith(f"can't write {target}: ")
        assert ".partial" not in caught.value.message
        assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ledger"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_an_export_to_a_full_disk(folder: Path) -> None:
    with pytest.raises(LedgerError, match=r"can't write /dev/full: .*No space left on device"):
        store.export(folder, Path("/dev/full"), "csv")


# ── backup ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_backup_is_a_ledger(folder: Path, journal: Journal, tmp_path: Path) -> None:
    before = rows(folder)
    store.backup(folder, tmp_path / "backup")
    serve(journal, 3)
    journal.close()
    store.compact(folder, grace_seconds=0)
    shutil.rmtree(folder)
    assert count(tmp_path / "backup") == (45, 2, 0)  # what was in flight when it was taken is lost in it
    restored = tmp_path / "restored"
    shutil.copytree(tmp_path / "backup", restored)
    assert [row for row in rows(restored) if row in before] == before
    store.compact(restored, grace_seconds=0)
    assert count(restored) == (45, 2, 0)
    assert store.verify(restored).ok
    shutil.rmtree(tmp_path / "backup")
    with duckdb.connect(str(store.views(restored)), read_only=True) as other:
        assert other.execute("SELECT count(*) FROM requests").fetchone() == (47,)


def test_a_backup_shares_the_files_that_never_change(folder: Path, tmp_path: Path) -> None:
    store.backup(folder, tmp_path / "backup")
    for path in (folder / "data").iterdir():
        assert path.samefile(tmp_path / "backup" / "data" / path.name)


def test_a_backup_replaces_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="exists already"):
        store.backup(folder, tmp_path)


def test_backups_under_load_hold_whatever_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    journal = Journal(folder, "node", 0, segment_bytes=4000)
    compactor = Compactor(folder, grace_seconds=0)
    stop, acknowledged = threading.Event(), list[str]()

    def work() -> None:
        while not stop.is_set():
            acknowledged.extend(done.id for done in serve(journal, 10))
            if len(acknowledged) % 50 == 0:
                compactor.step()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(5):
            known = set(acknowledged)
            store.backup(folder, tmp_path / f"backup-{number}")
            found = [str(row[0]) for row in rows(tmp_path / f"backup-{number}")]
            assert len(found) == len(set(found))
            assert known <= set(found)
    finally:
        stop.set()
        worker.join()
        journal.close()
    assert {str(row[0]) for row in rows(folder)} == set(acknowledged)


def test_nothing_is_copied_or_rebuilt_while_a_step_goes_on(folder: Path, tmp_path: Path) -> None:
    with exclusive(folder) as ours:
        assert ours
        with pytest.raises(LedgerError, match="step"):
            store.backup(folder, tmp_path / "backup", wait=0.05)
        with pytest.raises(LedgerError, match="step"):
            store.views(folder, wait=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


# ── fluxen.duckdb ────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_tools_open_the_views_read_only_while_they_are_replaced(folder: Path) -> None:
    path = folder / catalogue.NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    old = duckdb.connect(str(path), read_only=True)
    assert old.execute("SELECT count(*) FROM requests").fetchone() == (41,)
    journal = Journal(folder, "node", 1)
    serve(journal, 7, ts=NOON)
    journal.close()
    Compactor(folder).step()  # with a grace: what the old views name stays
    assert old.execute("SELECT count(*) FROM requests").fetchone() == (41,)
    old.close()
    with duckdb.connect(str(path), read_only=True) as new:
        assert new.execute("SELECT count(*) FROM requests").fetchone() == (48,)
        committed, generation, number = new.execute("FROM ledger_commit").fetchone() or ()
        manifest = manifests.load(folder)
        assert (generation, number) == (manifest.generation, 48)
        assert committed.replace(tzinfo=UTC).timestamp() == pytest.approx(manifest.committed / 1e6)
        columns = new.execute("SELECT column_name, column_type FROM (DESCRIBE requests)").fetchall()
    assert columns == [(column.name, column.type) for column in COLUMNS]
    assert not list(folder.glob("*.wal"))


def test_views_are_read_by_older_engines_and_removed_of_a_stale_log(folder: Path) -> None:
    """The format is in the header, behind the magic bytes: 65 is what DuckDB 1.2 wrote and all later ones read."""
    path = folder / catalogue.NAME
    header = path.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") == 65
    (folder / f"{catalogue.NAME}.wal").write_bytes(b"of another tool")
    store.views(folder)
    assert not list(folder.glob("*.wal"))


def test_an_empty_ledger_has_views_too(tmp_path: Path) -> None:
    settled(tmp_path).close()
    with duckdb.connect(str(tmp_path / catalogue.NAME), read_only=True) as other:
        assert other.execute("SELECT count(*), sum(cost_usd) FROM requests").fetchone() == (0, None)


def test_after_moving_the_folder_the_views_are_built_anew(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    with (
        duckdb.connect(str(moved / catalogue.NAME), read_only=True) as other,
        pytest.raises(duckdb.Error),
    ):
        other.execute("SELECT count(*) FROM requests")
    with duckdb.connect(str(store.views(moved)), read_only=True) as other:
        assert other.execute("SELECT count(*) FROM requests").fetchone() == (41,)
