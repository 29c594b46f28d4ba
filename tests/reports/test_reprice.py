"""Repricing over a ledger: what is found, and that a file that vanishes on the way changes nothing of it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from ledger.test_reader import during

from fluxen.analyzer.prices import PriceBook
from fluxen.config.prices import PriceEntry
from fluxen.ledger import store
from fluxen.ledger.adjuster import adjusting
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Adjustment, End, new_id
from fluxen.reports.reprice import Line, Selection, providers_of, reprice

NOON = 1_795_348_800_000_000
"""2026-11-22 12:00 UTC, microseconds."""
TEN = PriceBook.shipped().with_own((PriceEntry.model_validate({"models": ["m*"], "input": 10, "output": 10}),))


def record(folder: Path, number: int, first: int = 0) -> None:
    journal = Journal(folder, "node", 0)
    for place in range(first, first + number):
        end = End(new_id(), NOON + place, dialect="openai", endpoint="/v1/chat/completions", upstream="openai")
        end.usage_source, end.model, end.input_tokens, end.output_tokens = "reported", f"m{place % 3}", 2, 1
        assert journal.end(end)
    journal.close()


def run(reader: Reader, book: PriceBook = TEN) -> tuple[Line, int]:
    with adjusting(reader.folder, "node") as adjuster:
        found = reprice(reader, book, providers_of({}), Selection(), adjuster=adjuster)
        assert adjuster.count == found.total.adjusted
        assert adjuster.publish() == found.total.adjusted
    return found.total, len(found.lines)


@pytest.mark.parametrize("look", ["journal listed", "manifest read", "segment read", "snapshot taken"])
def test_a_compaction_on_the_way_makes_it_begin_again(tmp_path: Path, look: str) -> None:
    for part in range(3):
        record(tmp_path, 10, 10 * part)
        store.take_in(tmp_path)

    def compact() -> None:
        store.compact(tmp_path, grace_seconds=0)

    total, models = run(Reader(tmp_path, checkpoint=during(look, compact)))
    assert (total.requests, total.adjusted, models) == (30, 30, 3)
    assert (total.before, total.after) == (0, 30 * 3 * 10_000_000)
    answer = Reader(tmp_path).query("SELECT count(*), count(DISTINCT id), sum(cost_usd) FROM adjustments").rows
    assert [str(value) for value in answer[0]] == ["30", "30", "0.000900000000"]
    assert run(Reader(tmp_path))[0].adjusted == 0


def test_prices_may_change_to_and_fro(tmp_path: Path) -> None:
    """Each run counts, also when the clock has been set back since the last one."""
    record(tmp_path, 6)
    free = PriceBook.shipped().with_own((PriceEntry.model_validate({"models": ["m*"], "free": True}),))
    for turn, (book, cost) in enumerate([(TEN, 180_000_000), (free, 0), (TEN, 180_000_000), (free, 0)]):
        total, _ = run(Reader(tmp_path), book)
        assert (total.adjusted, total.after) == (6, cost)
        if turn == 1:
            store.compact(tmp_path)
        if turn == 2:  # one that was made in the far future: whatever comes is later still
            late = Reader(tmp_path).query("SELECT id::VARCHAR, epoch_us(ts) FROM requests LIMIT 1").rows[0]
            with adjusting(tmp_path, "node") as adjuster:
                adjuster.add(Adjustment(str(late[0]), int(str(late[1])), 5, 0, "v", NOON * 3))
                adjuster.publish()
    assert Reader(tmp_path).query("SELECT sum(cost_usd) = 0 FROM requests").rows == [(True,)]


def test_fees_that_are_others_are_adjusted_though_the_cost_is_the_same(tmp_path: Path) -> None:
    """What of a cost is by the call is told apart everywhere, so it must not stay what it was."""
    record(tmp_path, 2)
    assert run(Reader(tmp_path))[0].after == 2 * 30_000_000
    half = {"models": ["m*"], "input": 5, "output": 5, "per_request": "0.000015"}
    book = PriceBook.shipped().with_own((PriceEntry.model_validate(half),))
    total, _ = run(Reader(tmp_path), book)
    assert (total.adjusted, total.before, total.after) == (2, 60_000_000, 60_000_000)
    answer = Reader(tmp_path).query("SELECT sum(cost_usd), sum(fees_usd) FROM requests").rows[0]
    assert [str(value) for value in answer] == ["0.000060000000", "0.000030000000"]
    assert run(Reader(tmp_path), book)[0].adjusted == 0


def test_what_was_found_before_a_file_vanished_is_not_adjusted_twice(tmp_path: Path) -> None:
    for part in range(3):
        record(tmp_path, 10, 10 * part)
        store.take_in(tmp_path)
    looks: list[int] = []

    def progress(done: int, _: int) -> None:
        looks.append(done)
        if len(looks) == 1:  # rows have been read, and the file of the next ones is not there any more
            store.compact(tmp_path, grace_seconds=0)
            raise duckdb.IOException("No files found")

    with adjusting(tmp_path, "node") as adjuster:
        found = reprice(Reader(tmp_path), TEN, providers_of({}), Selection(), adjuster=adjuster, progress=progress)
        assert (adjuster.count, found.total.adjusted) == (30, 30)
        assert (adjuster.publish(), adjuster.publish()) == (30, 0)
    assert looks == [30, 30]
    answer = Reader(tmp_path).query("SELECT count(*), count(DISTINCT id) FROM adjustments").rows
    assert answer == [(30, 30)]


def test_a_cost_that_no_row_can_hold_is_unknown(tmp_path: Path) -> None:
    """A server that counts in trillions is not billed by what it says, neither the first time nor again."""
    journal = Journal(tmp_path, "node", 0)
    end = End(new_id(), NOON, dialect="openai", endpoint="/v1/chat/completions", upstream="openai")
    end.usage_source, end.model, end.input_tokens, end.output_tokens = "reported", "m", 10**13, 1
    end.cost_pico = 10**20
    assert journal.end(end)
    journal.close()
    for _ in range(2):
        total, _ = run(Reader(tmp_path))
        assert (total.adjusted, total.unpriced_before, total.unpriced_after, total.after) == (0, 1, 1, 0)


def test_providers() -> None:
    of = providers_of(
        {"mine": ("https://api.openai.com", None), "openai": (None, "anthropic"), "own": ("http://10.0.0.1", None)}
    )
    assert [of(name) for name in ("mine", "openai", "own", "anthropic", "nobody", None)] == [
        "openai", "", "", "anthropic", "", "",
    ]  # fmt: skip
