"""What a query sees, whatever goes on meanwhile; and what other people's SQL can't do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from ledger.samples import DAY, NOON, begin, count, end, row, rows, serve, settled
from ledger.test_compactor import line, locked_by_another, write_segment
from ledger.test_journal import poll

from fluxen.errors import LedgerError, QueryError
from fluxen.ledger import manifest as manifests
from fluxen.ledger.compactor import MERGE_FILES, Compactor
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.schema import COLUMNS, IN_FLIGHT, SCHEMA


def test_no_ledger_is_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    answer = Reader(tmp_path / "nothing").query("SELECT * FROM requests")
    assert answer.columns == tuple(column.name for column in COLUMNS)
    assert answer.types == tuple(column.type for column in COLUMNS)
    assert answer.rows == []
    assert Reader(tmp_path).query("SELECT * FROM in_flight").columns == tuple(column.name for column in IN_FLIGHT)
    assert not (tmp_path / "nothing").exists()


def test_every_column_comes_back_exactly(tmp_path: Path) -> None:
    """From the journal, from fresh Parquet files and from merged ones: the same rows, value by value."""
    chance = random.Random(5)
    node, now = 'no"de\\', NOON
    expected: list[tuple[object, ...]] = []

    def check() -> None:
        for mine, theirs in zip(rows(tmp_path), sorted(expected, key=lambda values: str(values[0])), strict=True):
            assert mine == theirs
        types = Reader(tmp_path).query("SELECT * FROM requests LIMIT 0").types
        assert types == tuple(column.type for column in COLUMNS)

    for worker in (0, 1):
        journal = Journal(tmp_path, node, worker)
        for _ in range(250):
            start = begin(chance, ts=NOON + chance.randrange(3 * DAY))
            done = end(start, chance)
            assert journal.begin(start)
            assert journal.end(done)
            expected.append(row(done, node, worker))
        journal.close()
        check()
        settled(tmp_path, clock=lambda: now).close()
        check()
    assert len(manifests.load(tmp_path).files) == 8
    now += 20 * DAY
    settled(tmp_path, clock=lambda: now).close()
    assert len(manifests.load(tmp_path).files) == 4
    check()


def test_in_flight_shows_what_is_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 2)
    start = begin(random.Random(3))
    journal.begin(start)
    answer = Reader(tmp_path).query("SELECT * FROM in_flight")
    assert answer.types == tuple(column.type for column in IN_FLIGHT)
    shown = dict(zip(answer.columns, answer.rows[0], strict=True))
    whole = dict(zip((column.name for column in COLUMNS), row(end(start), "node", 2), strict=True))
    assert shown == {name: whole[name] for name in shown}
    journal.close()


def test_money_sums_exactly(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    for pico in (1, 10**17, 333_333_333_333, 10**17):
        done = end(begin())
        done.cost_pico = pico
        journal.end(done)
    journal.close()
    assert Reader(tmp_path).query("SELECT sum(cost_usd) FROM requests").rows == [(Decimal("200000.333333333334"),)]


def test_since_and_until_bound_the_view_and_the_files_that_are_opened(tmp_path: Path) -> None:
    for day in range(3):
        journal = Journal(tmp_path, "node", 0)
        serve(journal, day + 1, ts=NOON + day * DAY)
        journal.close()
    settled(tmp_path).close()
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 10, ts=NOON + 3 * DAY)
    reader, noon = Reader(tmp_path), datetime(2026, 11, 22, 12, tzinfo=UTC)

    def number(since: datetime | None = None, until: datetime | None = None) -> int:
        return int(str(reader.query("SELECT count(*) FROM requests", since=since, until=until).rows[0][0]))

    day = timedelta(days=1)
    assert number() == 16
    assert number(since=noon + day) == 15
    assert number(until=noon + day) == 1
    assert number(since=noon, until=noon + timedelta(microseconds=1)) == 1
    assert number(since=noon + timedelta(microseconds=1), until=noon + 3 * day) == 5
    assert number(since=(noon + day).astimezone(timezone(timedelta(hours=9)))) == 15
    assert number(since=(noon + day).replace(tzinfo=None)) == 15
    for file in manifests.load(tmp_path).files:
        if file.day != "2026-11-23":
            (tmp_path / "data" / file.name).write_bytes(b"not parquet")
    assert number(since=noon + day, until=noon + 2 * day) == 2
    with pytest.raises(LedgerError, match=r"\.parquet") as caught:
        number()
    assert "\n" not in str(caught.value)  # which file, and not our query
    journal.close()


def test_a_file_that_is_gone_but_should_be_there_is_an_error_not_a_loop(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 1)
    journal.close()
    settled(tmp_path).close()
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    with pytest.raises(LedgerError, match=r"\.parquet .*is missing"):
        Reader(tmp_path).query("SELECT * FROM requests")


LOOKS = ("journal listed", "manifest read", "segment read", "snapshot taken")


def during(look: str, action: Callable[[], None]) -> Callable[[str], None]:
    """A checkpoint that acts the first time it comes to `look`."""
    left = [action]

    def checkpoint(here: str) -> None:
        if here == look and left:
            left.pop()()

    return checkpoint


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("merges", [False, True])
def test_a_compaction_without_grace_while_the_reader_looks(tmp_path: Path, look: str, merges: bool) -> None:
    """All that was listed is consumed and deleted between two looks: nothing is missed, nothing doubled."""
    for _ in range(MERGE_FILES):
        if merges:
            settled(tmp_path).close()
        journal = Journal(tmp_path, "node", 0)
        serve(journal, 10)
        journal.begin(begin())
        journal.close()
    compactor = Compactor(tmp_path, grace_seconds=0)
    reader = Reader(tmp_path, checkpoint=during(look, lambda: compactor.step() and None))
    answer = reader.query("SELECT count(*), count(DISTINCT id), count(error) FROM requests").rows
    assert answer == [(11 * MERGE_FILES, 11 * MERGE_FILES, MERGE_FILES)]
    assert count(tmp_path) == (10 * MERGE_FILES, MERGE_FILES, 0)


@pytest.mark.parametrize("look", LOOKS[:3])
@pytest.mark.parametrize("grace", [None, 0, 3600])
def test_a_rotation_while_the_reader_looks(tmp_path: Path, look: str, grace: int | None) -> None:
    """A request that ends in a newer segment is open or finished in a snapshot: never lost, never both or neither."""
    journal = Journal(tmp_path, "node", 0, segment_seconds=0)
    start = begin()
    journal.begin(start)
    serve(journal, 3)
    compactor = Compactor(tmp_path, grace_seconds=grace or 0)

    def rotate() -> None:
        old = sorted((tmp_path / "journal").iterdir())[-1]
        journal.tick()
        journal.end(end(start))
        poll(lambda: not locked_by_another(old), "the old segment to be sealed")
        if grace is not None:
            compactor.step()

    found = Reader(tmp_path, checkpoint=during(look, rotate)).query(
        "SELECT error, false FROM requests WHERE id = $id UNION ALL SELECT NULL, true FROM in_flight WHERE id = $id",
        {"id": start.id},
    )
    assert found.rows in ([(None, True)], [(None, False)])
    assert count(tmp_path) == (4, 0, 0)
    journal.close()


@pytest.mark.parametrize("look", LOOKS[:3])
def test_a_writer_that_ends_a_request_and_dies_while_the_reader_looks(tmp_path: Path, look: str) -> None:
    journal = Journal(tmp_path, "node", 0)
    start, open_ = begin(), begin()
    journal.begin(start)
    journal.begin(open_)

    def die() -> None:
        journal.end(end(start))
        journal.close()

    found = Reader(tmp_path, checkpoint=during(look, die)).query("SELECT id::VARCHAR, error FROM requests").rows
    assert sorted(found, key=str) == sorted([(start.id, None), (open_.id, "lost")], key=str)


def test_older_schemas_are_read_by_name_and_newer_ones_refused(tmp_path: Path) -> None:
    done = end(begin())
    done.cost_pico, done.model = 7, "m"
    old_fields = ("ts", "id", "model", "cost_pico", "gone_since")
    old = b'["e",%d,"%s","m",7,"x"]' % (done.ts, done.id.encode())
    write_segment(tmp_path, old, b"", schema=SCHEMA - 1, end_fields=old_fields)
    select = "SELECT id::VARCHAR, model, cost_usd, status FROM requests"
    expected = [(done.id, "m", Decimal("0.000000000007"), None)]
    assert Reader(tmp_path).query(select).rows == expected
    settled(tmp_path).close()
    assert Reader(tmp_path).query(select).rows == expected
    write_segment(tmp_path, line(done), b"", schema=SCHEMA + 1)
    for act in (lambda: Reader(tmp_path).query(select), lambda: settled(tmp_path)):
        with pytest.raises(LedgerError, match="schema") as caught:
            act()
        assert "upgrade" in str(caught.value.hint)


def test_an_older_parquet_file_is_read_by_name_and_merged(tmp_path: Path) -> None:
    import duckdb

    for day in (0, 1):
        journal = Journal(tmp_path, "node", 0)
        serve(journal, 3, ts=NOON + day * DAY)
        journal.close()
    settled(tmp_path).close()
    manifest = manifests.load(tmp_path)
    old = manifest.files[0]
    path = tmp_path / "data" / old.name
    duckdb.sql(f"COPY (SELECT id, ts, 'x' AS gone_since FROM read_parquet('{path}')) TO '{path}.new' (FORMAT parquet)")
    os.rename(f"{path}.new", path)
    import msgspec

    manifest.files[0] = msgspec.structs.replace(old, schema=SCHEMA - 1, bytes=path.stat().st_size)
    manifests.commit(tmp_path, manifest)
    select = "SELECT count(*), count(status), count(DISTINCT id) FROM requests"
    assert Reader(tmp_path).query(select).rows == [(6, 3, 6)]
    from fluxen.ledger import store

    store.views(tmp_path)
    with duckdb.connect(str(tmp_path / "fluxen.duckdb"), read_only=True) as catalogue:
        assert catalogue.execute(select).fetchall() == [(6, 3, 6)]
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 1, ts=NOON)
    journal.close()
    store.compact(tmp_path, grace_seconds=0)
    assert {file.schema for file in manifests.load(tmp_path).files} == {SCHEMA}
    assert Reader(tmp_path).query(select).rows == [(7, 4, 7)]
    assert store.verify(tmp_path).ok


def test_a_folder_name_may_hold_what_a_glob_or_sql_would_take_for_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]'c*d" / "ledger"
    journal = Journal(folder, "node", 0)
    serve(journal, 3)
    journal.close()
    assert count(folder) == (3, 0, 0)
    settled(folder).close()
    assert count(folder) == (3, 0, 0)
    assert Reader(folder).sandboxed("SELECT count(*) FROM requests").rows == [(3,)]


# ── the sandbox ──────────────────────────────────────────────────────────────────────────────────────────────────

ESCAPES = (
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_parquet('{data}/*.parquet')",
    "SELECT * FROM '{data}/*.parquet'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{data}/x''')",
    "SELECT getenv('HOME')",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM secret_of_this_test",
    "COPY (SELECT 1) TO '{data}/x.csv'",
    "COPY requests TO '/dev/stdout'",
    "ATTACH '{data}/x.duckdb'",
    "EXPORT DATABASE '{data}/x'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW requests",
    "DELETE FROM tail",
    "USE memory",
    "CHECKPOINT",
    "CONNECT 'x'",
    "BEGIN",
    "PREPARE x AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{data}/x.csv'",
    "SELECT 1 /* ; */; SET threads = 1",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('{data}/../../x.parquet')",
    "SELECT set_config('threads', '1')",
    "WITH x AS (COPY (SELECT 1) TO '{data}/x') SELECT 1",
    "",
    ";",
    "SELEC 1",
    "SELECT no_such_column FROM requests",
    "SELECT CAST('x' AS INTEGER)",
)


@pytest.mark.parametrize("sql", ESCAPES)
def test_the_sandbox_holds(tmp_path: Path, sql: str) -> None:
    secret_of_this_test = [1]
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 2)
    journal.close()
    settled(tmp_path).close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(QueryError):
        Reader(tmp_path).sandboxed(sql.replace("{data}", str(tmp_path / "data")))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert secret_of_this_test


def test_settings_are_locked_and_nothing_else_is_attached(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    names = "('enable_external_access', 'lock_configuration', 'autoload_known_extensions')"
    answer = reader.sandboxed(f"SELECT name, value FROM duckdb_settings() WHERE name IN {names} ORDER BY name")
    assert answer.rows == [
        ("autoload_known_extensions", "false"),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ]
    assert reader.sandboxed("SELECT count(*) FROM duckdb_databases() WHERE path IS NOT NULL").rows == [(0,)]


def test_the_sandbox_reads_the_ledger_and_cuts_long_answers(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 5)
    journal.close()
    settled(tmp_path).close()
    journal = Journal(tmp_path, "node", 1)
    serve(journal, 5)
    journal.begin(begin())
    reader = Reader(tmp_path)
    answer = reader.sandboxed(
        "WITH x AS (SELECT * FROM requests) SELECT count(*), (SELECT count(*) FROM in_flight) FROM x"
    )
    assert answer.rows == [(10, 1)]
    for most, truncated in ((9, True), (10, False), (11, False), (None, False)):
        cut = reader.sandboxed("SELECT worker FROM requests", max_rows=most)
        assert (len(cut.rows), cut.truncated) == (min(10, most or 10), truncated)
    huge = reader.sandboxed("SELECT range FROM range(1000000000000)", max_rows=3)  # streamed: ends at once
    assert (huge.rows, huge.truncated) == ([(0,), (1,), (2,)], True)
    journal.close()
