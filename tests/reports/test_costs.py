"""`costs` over a ledger that the real journal wrote; the expected figures are worked out by hand beside the rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from fluxen.errors import QueryError
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Begin, End, new_id
from fluxen.reports.costs import MEASURES, CostReport, costs
from fluxen.reports.dimensions import DIMENSIONS, parse_by

T0 = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def row(at: datetime, **fields: object) -> End:
    end = End(id=new_id(), ts=micros(at), usage_source="reported", status=200)
    for name, value in fields.items():
        setattr(end, name, value)
    return end


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    """Nine requests; one more in flight. Costs in pico-dollars."""
    journal = Journal(tmp_path / "ledger", "node", 0)
    one, two = T0, T0 + timedelta(hours=1)  # 23:30 and, the next day, 00:30
    rows = [
        row(one, key_id="a", model_asked="gpt", model="gpt-1", upstream="openai", input_tokens=10, cache_read_tokens=5,
            output_tokens=7, cost_pico=1, tags={"customer": "acme"}),
        row(one, key_id="a", model_asked="gpt", model="gpt-1", upstream="openai", input_tokens=1, output_tokens=1,
            cache_write_5m_tokens=2, cache_write_1h_tokens=3, cost_pico=999_999_999_999, tags={"customer": "o'neil"}),
        row(two, key_id="b", model_asked="claude", model="claude-1", upstream="anthropic", input_tokens=100,
            output_tokens=200, cache_write_1h_tokens=50, cost_pico=2_500_000_000_000, stream=True),
        # unknown: one with a bound, one without; neither may become 0
        row(two, key_id="b", model_asked="claude", upstream="anthropic", usage_source="unknown",
            bound_pico=750_000_000),
        row(two, key_id="b", model_asked="new", model="new", upstream="openai", usage_source="reported",
            input_tokens=3, output_tokens=4),
        # refused and failed: known to cost nothing, whether the row says 0 or nothing
        row(two, key_id="a", model_asked="gpt", upstream="openai", status=401, error="upstream", usage_source="none"),
        row(two, key_id="a", model_asked="gpt", upstream="openai", status=500, usage_source="none", cost_pico=0),
        # a free model: cost 0 is a known cost
        row(two, model_asked="llama", model="llama", upstream="ollama", input_tokens=9, output_tokens=9, cost_pico=0),
    ]  # fmt: skip
    for end in rows:
        assert journal.end(end)
    lost = Begin(id=new_id(), ts=micros(two), model_asked="gpt", upstream="openai")
    assert journal.end(End.lost(lost))
    assert journal.begin(Begin(id=new_id(), ts=micros(two), model_asked="gpt", upstream="openai"))
    yield tmp_path / "ledger"
    journal.close()


def table(report: CostReport) -> dict[object, tuple[object, ...]]:
    return {row[0]: row[1:] for row in report.rows}


def test_by_model(ledger: Path) -> None:
    report = costs(Reader(ledger), by=["model"])
    assert report.columns == ("model", *MEASURES)
    #             requests, errors, input, read, write, output, cost, unknown
    assert report.rows == (
        ("claude-1", 1, 0, 100, None, 50, 200, Decimal("2.5"), 0),
        ("gpt-1", 2, 0, 11, 5, 5, 8, Decimal(1), 0),
        ("llama", 1, 0, 9, None, None, 9, Decimal(0), 0),
        # two refused (known: nothing) and one lost (unknown): no claim of $0
        ("gpt", 3, 3, None, None, None, None, None, 1),
        ("claude", 1, 0, None, None, None, None, None, 1),
        ("new", 1, 0, 3, None, None, 4, None, 1),
    )
    assert report.totals == (9, 3, 123, 5, 55, 221, Decimal("3.5"), 3)
    assert report.unknown.bound_usd == Decimal("0.00075")
    assert (report.unknown.unbounded, report.lost, report.in_flight) == (2, 1, 1)
    assert report.notes == (
        "$3.5 + 1 request unpriced: new (1)",
        "+ 1 request of unknown usage: claude (1)",
        "+ 1 request whose outcome is lost: the process was killed",
        "3 requests of unknown cost: at most $0.00075 (2 without a bound)",
        "1 request in flight, not counted yet",
    )


def test_exact_to_the_pico_dollar(ledger: Path) -> None:
    """1 pico-dollar beside almost a dollar: a float sum over dollars would still pass, so add it 10⁴ times."""
    journal = Journal(ledger, "node", 1)
    for _ in range(10_000):
        journal.end(row(T0, model="exact", cost_pico=1))
    journal.end(row(T0, model="exact", cost_pico=999_999_000_000_000_000))
    report = costs(Reader(ledger), by=["model"])
    journal.close()
    assert table(report)["exact"][6] == Decimal("999999.00000001")


def test_no_dimension_is_one_row(ledger: Path) -> None:
    report = costs(Reader(ledger), by=[])
    assert report.rows == (report.totals,)


def test_window_is_half_open(ledger: Path) -> None:
    reader = Reader(ledger)
    first = costs(reader, until=T0 + timedelta(hours=1))
    assert first.totals[0] == 2
    assert first.in_flight == 0
    second = costs(reader, since=T0 + timedelta(hours=1))
    assert second.totals[0] == 7
    assert second.in_flight == 1
    assert costs(reader, since=T0, until=T0).totals == (0, 0, None, None, None, None, Decimal(0), 0)


def test_empty_ledger(tmp_path: Path) -> None:
    report = costs(Reader(tmp_path / "nothing"))
    assert report.rows == ()
    assert report.notes == ()


def test_by_time_is_in_order(ledger: Path) -> None:
    assert [r[:2] for r in costs(Reader(ledger), by=["day"]).rows] == [("2026-11-20", 2), ("2026-11-21", 7)]
    hours = [r[0] for r in costs(Reader(ledger), by=["hour"]).rows]
    assert hours == ["2026-11-20T23:00Z", "2026-11-21T00:00Z"]
    assert [r[0] for r in costs(Reader(ledger), by=["month"]).rows] == ["2026-11"]


def test_by_several(ledger: Path) -> None:
    rows = costs(Reader(ledger), by=["upstream", "key", "upstream"]).rows
    assert ("openai", "a", 4, 2, 11, 5, 5, 8, Decimal(1), 0) in rows
    assert len(rows) == 5


def test_by_tag_takes_any_name(ledger: Path) -> None:
    found = table(costs(Reader(ledger), by=parse_by("tag:customer")))
    assert found["acme"][0] == 1
    assert found["o'neil"][6] == Decimal("0.999999999999")
    assert found[None][0] == 7
    assert list(table(costs(Reader(ledger), by=["tag:x'] FROM requests --"]))) == [None]


def test_only_what_has_all_of_the_tags(ledger: Path) -> None:
    reader = Reader(ledger)
    found = costs(reader, by=["tag:customer", "key"], tags={"customer": "o'neil"}, since=T0)
    assert [row[:3] for row in found.rows] == [("o'neil", "a", 1)]
    assert found.totals[MEASURES.index("cost_usd")] == Decimal("0.999999999999")
    assert found.in_flight == 0  # the one in flight has no tags
    none = costs(reader, tags={"customer": "acme", "other": "acme"})
    assert (none.rows, none.totals[0]) == ((), 0)


def test_limit_keeps_the_total(ledger: Path) -> None:
    report = costs(Reader(ledger), limit=2)
    assert [r[0] for r in report.rows] == ["claude-1", "gpt-1"]
    assert report.totals == costs(Reader(ledger)).totals
    assert report.notes[-1] == "4 more rows; the total covers all"


@pytest.mark.parametrize("text", ["modle", "tag:", "cost_usd; DROP"])
def test_unknown_dimension(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_by(text)
    assert "model, " in (caught.value.hint or "")


def test_every_dimension_groups(ledger: Path) -> None:
    for name in DIMENSIONS:
        report = costs(Reader(ledger), by=[name])
        assert sum(int(str(r[1])) for r in report.rows) == 9, name
