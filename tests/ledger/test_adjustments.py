"""New costs of old rows: appended, never lost or doubled, and in the place of the old ones wherever rows are read."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from ledger.kill import COMPACTOR_POINTS
from ledger.samples import DAY, NOON, begin, end, row, rows, settled
from ledger.writers import ENVIRONMENT

from fluxen.errors import LedgerError, QueryError
from fluxen.ledger import manifest as manifests
from fluxen.ledger import schema, store
from fluxen.ledger.adjuster import WORKER, adjusting
from fluxen.ledger.compactor import MERGE_FILES, Compactor, exclusive
from fluxen.ledger.journal import Journal
from fluxen.ledger.manifest import ADJUSTMENTS
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Adjustment, End
from fluxen.ledger.schema import COLUMNS, SCHEMA

PLACE = {column.name: index for index, column in enumerate(COLUMNS)}
POINTS = ("adjustments created", "adjustments written", "adjustments renamed")
_made = itertools.count(NOON + 30 * DAY)


def recorded(folder: Path, number: int, days: int = 1) -> list[End]:
    """So many finished requests, over so many days, in the journal of a writer that has ended."""
    chance = random.Random(number)
    journal = Journal(folder, "node", 0)
    ends = []
    for place in range(number):
        done = end(begin(chance, ts=NOON + place % days * DAY + place), chance)
        assert journal.end(done)
        ends.append(done)
    journal.close()
    return ends


def adjustment(of: End, cost: int | None, fees: int | None = None, made: int | None = None) -> Adjustment:
    return Adjustment(of.id, of.ts, cost, fees, "new prices", next(_made) if made is None else made)


def adjust(folder: Path, adjustments: list[Adjustment], **options: object) -> int:
    with adjusting(folder, "node", **options) as adjuster:  # type: ignore[arg-type]
        for one in adjustments:
            adjuster.add(one)
        return adjuster.publish()


def expected(ends: list[End], adjustments: list[Adjustment]) -> list[tuple[object, ...]]:
    """The rows with the adjustment that was made last."""
    last = {one.id: one for one in sorted(adjustments, key=lambda one: one.made)}
    found = []
    for done in ends:
        values = list(row(done, "node", 0))
        if one := last.get(done.id):
            for name, pico in (("cost_usd", one.cost_pico), ("fees_usd", one.fees_pico)):
                values[PLACE[name]] = None if pico is None else Decimal(pico).scaleb(-12)
            values[PLACE["price_version"]] = one.price_version
        found.append(tuple(values))
    return sorted(found, key=lambda values: str(values[0]))


def listed(folder: Path) -> list[tuple[object, ...]]:
    return Reader(folder).query("SELECT * FROM adjustments ORDER BY made").rows


def test_the_adjustment_made_last_counts_wherever_it_is_written(tmp_path: Path) -> None:
    """In the journal, in fresh files, in merged ones: the same rows; all that were ever made can be read."""
    ends = recorded(tmp_path, 60, days=3)
    late = adjustment(ends[0], 5, made=NOON + 90 * DAY)
    made = [adjustment(done, number * 10**11, number) for number, done in enumerate(ends[:40])]
    made += [adjustment(done, None) for done in ends[20:30]]  # no longer known
    made += [adjustment(done, 1 - 10**18 if number else 10**18 - 1) for number, done in enumerate(ends[30:32])]

    def check() -> None:
        given = [late, *made]
        assert rows(tmp_path) == expected(ends, given)
        assert [(str(name), version) for name, _, _, _, version, _ in listed(tmp_path)] == [
            (one.id, one.price_version) for one in sorted(given, key=lambda one: one.made)
        ]

    assert adjust(tmp_path, [late]) == 1
    assert adjust(tmp_path, made) == len(made)
    check()
    settled(tmp_path).close()
    check()
    made += [adjustment(done, 7) for done in ends[:3]]  # an older one in a file, a newer one in the journal
    adjust(tmp_path, made[-3:])
    check()
    settled(tmp_path).close()
    check()
    store.compact(tmp_path, grace_seconds=0)
    assert {(file.kind, file.day) for file in manifests.load(tmp_path).files} == {
        (kind, f"2026-11-{day}") for kind in ("requests", "adjustments") for day in (22, 23, 24)
    }
    check()
    found = store.verify(tmp_path)
    assert (found.ok, found.rows, found.adjustments) == (True, 60, len(made) + 1)


def test_an_adjustment_reads_as_it_was_made(tmp_path: Path) -> None:
    (done,) = recorded(tmp_path, 1)
    one = Adjustment(done.id, done.ts, 10**18 - 1, 1, 'it\'s "new"', NOON + 1)
    adjust(tmp_path, [one])

    def moment(micros: int) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(microseconds=micros)

    money = (Decimal(10**18 - 1).scaleb(-12), Decimal(1).scaleb(-12))
    whole = [(uuid.UUID(done.id), moment(done.ts), *money, 'it\'s "new"', moment(NOON + 1))]
    assert listed(tmp_path) == whole
    settled(tmp_path).close()
    assert listed(tmp_path) == whole
    answer = Reader(tmp_path).query("SELECT * FROM adjustments")
    assert answer.columns == tuple(column.name for column in schema.ADJUSTMENTS)
    assert answer.types == tuple(column.type for column in schema.ADJUSTMENTS)


def test_without_adjustments_the_view_is_empty_and_nothing_is_joined(tmp_path: Path) -> None:
    def plan(since: datetime | None = None, until: datetime | None = None) -> str:
        reader = Reader(tmp_path)
        return str(reader.query("EXPLAIN SELECT sum(cost_usd) FROM requests", since=since, until=until).rows).lower()

    ends = recorded(tmp_path, 20, days=2)
    settled(tmp_path).close()
    answer = Reader(tmp_path).query("SELECT * FROM adjustments")
    assert (answer.rows, answer.columns[0]) == ([], "id")
    assert "join" not in plan()
    adjust(tmp_path, [adjustment(ends[1], 1)])  # of the second day
    settled(tmp_path).close()
    second = datetime(2026, 11, 23, tzinfo=UTC)
    assert "join" in plan()
    assert "join" in plan(since=second)
    assert "join" not in plan(until=second)
    counted = Reader(tmp_path).query("EXPLAIN SELECT count(*), sum(output_tokens) FROM requests").rows
    assert "join" not in str(counted).lower()  # what asks for no cost pays for no adjustment


def test_a_span_of_time_opens_only_its_own_adjustments(tmp_path: Path) -> None:
    ends = recorded(tmp_path, 4, days=4)
    adjust(tmp_path, [adjustment(done, 9) for done in ends])
    settled(tmp_path).close()
    for file in manifests.load(tmp_path).of(ADJUSTMENTS):
        if file.day != "2026-11-23":
            (tmp_path / "data" / file.name).write_bytes(b"not parquet")
    second = datetime(2026, 11, 23, tzinfo=UTC)
    found = Reader(tmp_path).query(
        "SELECT id::VARCHAR, cost_usd FROM requests", since=second, until=second + timedelta(days=1)
    )
    assert found.rows == [(ends[1].id, Decimal("0.000000000009"))]
    with pytest.raises(LedgerError):
        Reader(tmp_path).query("SELECT sum(cost_usd) FROM requests")


def test_every_way_out_of_the_ledger_has_the_new_costs(tmp_path: Path) -> None:
    ledger, copy = tmp_path / "ledger", tmp_path / "copy"
    ends = recorded(ledger, 30, days=2)
    made = [adjustment(done, 3) for done in ends[:10]]
    adjust(ledger, made[:5])
    settled(ledger).close()
    adjust(ledger, made[5:])
    whole = expected(ends, made)
    store.export(ledger, tmp_path / "x.parquet", "parquet")
    with duckdb.connect() as other:
        assert other.execute(f"SELECT * FROM '{tmp_path}/x.parquet' ORDER BY id").fetchall() == whole
    store.backup(ledger, copy)
    assert rows(copy) == whole
    settled(ledger).close()
    assert rows(ledger) == whole
    with duckdb.connect(str(ledger / "fluxen.duckdb"), read_only=True) as other:
        assert other.execute("SELECT * FROM requests ORDER BY id").fetchall() == whole
        assert other.execute("SELECT count(*) FROM adjustments").fetchall() == [(10,)]
        assert other.execute("SELECT rows FROM ledger_commit").fetchall() == [(30,)]
    assert Reader(ledger).sandboxed("SELECT count(*) FROM adjustments").rows == [(10,)]
    with pytest.raises(QueryError):
        Reader(ledger).sandboxed("SELECT * FROM adjustments_tail_lines; DROP VIEW adjustments")


def test_adjustments_leave_with_the_day_of_their_requests(tmp_path: Path) -> None:
    ends = recorded(tmp_path, 10, days=2)
    adjust(tmp_path, [adjustment(done, 1) for done in ends])
    settled(tmp_path, clock=lambda: NOON + 3 * DAY, retention_days=2).close()
    assert len(rows(tmp_path)) == len(listed(tmp_path)) == 5
    adjust(tmp_path, [adjustment(ends[0], 2)])  # of a day that is gone: nobody's, and gone at the next step
    compactor = settled(tmp_path, clock=lambda: NOON + 3 * DAY, retention_days=2)
    compactor.step()
    compactor.close()
    assert len(listed(tmp_path)) == 5
    assert store.verify(tmp_path).ok


def test_many_small_files_of_a_day_are_merged_apart_from_the_rows(tmp_path: Path) -> None:
    ends = recorded(tmp_path, MERGE_FILES)
    made = []
    compactor = Compactor(tmp_path, grace_seconds=0, clock=lambda: NOON)
    for done in ends:
        made.append(adjustment(done, 1))
        adjust(tmp_path, made[-1:])
        compactor.step()
    compactor.close()
    assert [file.level for file in manifests.load(tmp_path).of(ADJUSTMENTS)] == [1]
    assert rows(tmp_path) == expected(ends, made)


def test_they_are_taken_in_at_once_unless_somebody_else_does_it(tmp_path: Path) -> None:
    ends = recorded(tmp_path, 3)
    adjust(tmp_path, [adjustment(ends[0], 1)])
    with exclusive(tmp_path) as ours:
        assert ours
        store.take_in(tmp_path)
    assert manifests.load(tmp_path).files == []
    store.take_in(tmp_path)
    assert {file.kind: file.rows for file in manifests.load(tmp_path).files} == {"requests": 3, "adjustments": 1}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with adjusting(tmp_path, "node"), pytest.raises(LedgerError, match="under way"), adjusting(tmp_path, "node"):
        pass
    with adjusting(tmp_path, "node") as adjuster:
        assert adjuster.publish() == 0
    assert not list((tmp_path / "journal").iterdir())


def test_what_was_collected_can_be_forgotten(tmp_path: Path) -> None:
    ends = recorded(tmp_path, 2)
    with adjusting(tmp_path, "node") as adjuster:
        adjuster.add(adjustment(ends[0], 1))
        adjuster.clear()
        adjuster.add(adjustment(ends[1], 2))
        assert adjuster.publish() == 1
    assert [str(name) for name, *_ in listed(tmp_path)] == [ends[1].id]


def test_an_older_fluxen_refuses_what_it_would_take_for_damage(tmp_path: Path) -> None:
    """One that knows no adjustments would set their lines aside, and drop their files from the manifest."""
    (done,) = recorded(tmp_path, 1)
    adjust(tmp_path, [adjustment(done, 1)])
    (segment,) = (path for path in (tmp_path / "journal").iterdir() if b'"adjust"' in path.read_bytes())
    assert b'"schema":%d' % SCHEMA in segment.read_bytes()
    settled(tmp_path).close()
    for file in manifests.load(tmp_path).of(ADJUSTMENTS):
        with pytest.raises(LedgerError, match="schema"):
            schema.check(file.schema, file.name, known=1)


def test_lines_are_read_by_the_names_the_header_gives(tmp_path: Path) -> None:
    (done,) = recorded(tmp_path, 1)
    names = ("made", "id", "ts", "cost_pico", "price_version", "from_the_future")
    header = (
        f'{{"fluxen":1,"schema":{SCHEMA},"node":"n","worker":{WORKER},"begin":[],"end":[],'
        f'"adjust":[{",".join(chr(34) + name + chr(34) for name in names)}]}}\n'
    )
    line = f'["a",{NOON},"{done.id}",{done.ts},12,"v",true]\n'
    bad = '["a",1]\n'
    (tmp_path / "journal" / "x-00000000.jnl").write_text(header + line + bad)
    found = Reader(tmp_path).query("SELECT cost_usd, fees_usd, price_version FROM requests").rows
    assert found == [(Decimal("0.000000000012"), None, "v")]
    assert store.verify(tmp_path).quarantined == 1


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_killed_has_adjusted_whole_segments_or_nothing(tmp_path: Path, point: str) -> None:
    ends = recorded(tmp_path, 40)
    made = [adjustment(done, 77) for done in ends]
    code = (
        "import sys, signal; from pathlib import Path; import msgspec\n"
        "from ledger.kill import strike; from ledger.test_adjustments import adjust\n"
        "from fluxen.ledger.record import Adjustment\n"
        "made = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Adjustment])\n"
        "adjust(Path(sys.argv[1]), made, segment_bytes=1000, checkpoint=strike(sys.argv[2] + ':3', signal.SIGKILL))\n"
    )
    import msgspec

    victim = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), point], input=msgspec.json.encode(made), env=ENVIRONMENT
    )
    assert victim.returncode == -signal.SIGKILL
    there = listed(tmp_path)
    assert 0 < len(there) < 40  # some segments are in view, the third is or is not
    known = {str(name) for name, *_ in there}
    assert len(known) == len(there)
    assert rows(tmp_path) == expected(ends, [one for one in made if one.id in known])
    assert adjust(tmp_path, [one for one in made if one.id not in known]) == 40 - len(there)
    settled(tmp_path).close()
    assert rows(tmp_path) == expected(ends, made)
    assert store.verify(tmp_path).ok


@pytest.mark.parametrize("point", COMPACTOR_POINTS)
def test_a_compactor_that_ends_anywhere_neither_loses_nor_doubles_one(tmp_path: Path, point: str) -> None:
    class Killed(BaseException):
        pass

    ends = recorded(tmp_path, 20, days=2)
    made = [adjustment(done, 5) for done in ends]
    adjust(tmp_path, made, segment_bytes=500)

    def checkpoint(here: str) -> None:
        if here == point:
            raise Killed

    victim = Compactor(tmp_path, grace_seconds=0, checkpoint=checkpoint)
    with pytest.raises(Killed):
        victim.step(whole_days=True)
    victim.close()
    for _ in range(2):
        assert rows(tmp_path) == expected(ends, made)
        assert len(listed(tmp_path)) == 20
        store.compact(tmp_path, grace_seconds=0)
    assert store.verify(tmp_path).ok


def test_a_disk_that_takes_no_more_is_said_and_the_rest_can_be_done_later(tmp_path: Path) -> None:
    ends = recorded(tmp_path, 200)
    made = [adjustment(done, 5) for done in ends]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(LedgerError, match="can't be written") as caught:
            adjust(tmp_path, made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert "again" in str(caught.value.hint)
    assert not [name for name in os.listdir(tmp_path / "journal") if name.startswith(".")]
    assert listed(tmp_path) == []
    assert adjust(tmp_path, made) == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_whom_the_ledger_belongs_to(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ends = recorded(ledger, 3)
    os.chown(ledger, 12345, 23456)
    os.chown(ledger / "journal", 12345, 23456)
    adjust(ledger, [adjustment(ends[0], 1)])
    settled(ledger).close()
    adjust(ledger, [adjustment(ends[0], 2)])
    others = {path for path in ledger.rglob("*") if (path.stat().st_uid, path.stat().st_gid) != (12345, 23456)}
    assert {path.name for path in others} == set()
