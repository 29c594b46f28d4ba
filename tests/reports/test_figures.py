"""Figures of reports that the sample's ledger can't tell apart, worked out by hand beside the rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Begin, End, new_id
from fluxen.reports.keys import KeyUse, key_use
from fluxen.reports.report import Question, ask

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)


def micros(minutes: int) -> int:
    return int((T0 + timedelta(minutes=minutes)).timestamp()) * 1_000_000


def write(folder: Path, *rows: dict[str, object]) -> Reader:
    """Requests, a minute after each other."""
    journal = Journal(folder, "n", 0)
    for minute, row in enumerate(rows):
        end = End(id=new_id(), ts=micros(minute), status=200, model="m", model_asked="m", usage_source="reported")
        for name, value in row.items():
            setattr(end, name, value)
        assert journal.end(end)
    journal.close()
    return Reader(folder)


def totals(reader: Reader, name: str) -> dict[str, object]:
    report = ask(reader, name, Question())
    return dict(zip(report.measures, report.totals, strict=True))


def test_what_a_failure_cost_is_spent_but_no_price_of_a_request(tmp_path: Path) -> None:
    found = totals(
        write(
            tmp_path,
            {"cost_pico": 10**12},
            {"cost_pico": 2 * 10**12},
            {"cost_pico": 6 * 10**12, "error": "client_gone"},
            {"error": "upstream_status", "status": 502, "usage_source": "none", "cost_pico": 0},
        ),
        "models",
    )
    assert (found["cost_usd"], found["usd_per_request"]) == (Decimal(9), Decimal("1.5"))


def test_an_answer_that_came_at_once_says_nothing_of_speed(tmp_path: Path) -> None:
    """A stream whose first byte was almost its last would make thousands of tokens a second."""
    found = totals(
        write(
            tmp_path,
            {"stream": True, "latency_ms": 149, "ttfb_ms": 100, "output_tokens": 49},
            {"stream": True, "latency_ms": 150, "ttfb_ms": 100, "output_tokens": 5},
            {"stream": False, "latency_ms": 49, "ttfb_ms": 49, "output_tokens": 49},
            {"latency_ms": 50, "ttfb_ms": 50, "output_tokens": 10},
        ),
        "latency",
    )
    assert (found["tokens_per_s_count"], found["tokens_per_s_p50"], found["tokens_per_s_worst"]) == (2, 100, 100)
    assert found["latency_ms_count"] == 4


def test_a_row_that_does_not_say_where_its_usage_is_from_is_unknown(tmp_path: Path) -> None:
    sources = (None, "partial", "unknown", "none", "reported", "estimated")
    found = totals(write(tmp_path, *({"usage_source": source} for source in sources)), "usage")
    assert (found["reported"], found["estimated"], found["unknown_usage"]) == (1, 1, 3)


def test_nothing_known_is_no_sum_in_reports_that_are_not_of_money_either(tmp_path: Path) -> None:
    reader = write(tmp_path, {"usage_source": "unknown"}, {"cost_pico": 0})
    for name in ("costs", "latency", "usage", "errors"):
        report = ask(reader, name, Question())
        assert report.notes[0] == "$? + 1 request of unknown usage: m (1)", name
        assert report.unknown.fields()["known_usd"] is None


def test_the_use_of_keys(tmp_path: Path) -> None:
    """A cost that is not known is not 0; what is open counts as use, and what was before only as that."""
    reader = write(
        tmp_path,
        {"key_id": "old", "cost_pico": 10**12},
        {"key_id": "a", "cost_pico": 5},
        {"key_id": "a"},
        {"key_id": "dark"},
        {"key_id": "dark", "cost_pico": 0},
        {"key_id": "free", "cost_pico": 0},
        {"key_id": "refused", "usage_source": "none", "status": 403},
        {"cost_pico": 7},
    )
    journal = Journal(tmp_path, "n", 1)
    assert journal.begin(Begin(id=new_id(), ts=micros(30), key_id="old"))
    assert key_use(reader, T0 + timedelta(minutes=1)) == {
        "old": KeyUse(T0 + timedelta(minutes=30), 0, 0, Decimal(0)),
        "a": KeyUse(T0 + timedelta(minutes=2), 2, 1, Decimal("0.000000000005")),
        "dark": KeyUse(T0 + timedelta(minutes=4), 2, 1, None),
        "free": KeyUse(T0 + timedelta(minutes=5), 1, 0, Decimal(0)),
        "refused": KeyUse(T0 + timedelta(minutes=6), 1, 0, Decimal(0)),
    }
    journal.close()
