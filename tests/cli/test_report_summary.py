"""The figures of `fluxen report` without a name, worked out by hand, and what they are compared with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import End, new_id
from fluxen.reports.summary import summarise
from fluxen_cli.report import summary

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR, DAY = 3_600_000_000, 86_400_000_000


def test_today_beside_yesterday(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path, "n", 0)
    # ago, fresh, read, written for five minutes and an hour, out, dollars
    for ago, fresh, read, short, long, after, dollars in (
        (HOUR, 100, 200, 30, 70, 50, 3), (2 * HOUR, 0, 100, 0, 0, 10, 1),
        (DAY + HOUR, 50, 50, 100, 0, 40, 2),
        (DAY - HOUR, 1, 1, 1, 1, 1, 100),  # yesterday, but later than now
        (40 * DAY, 1, 1, 1, 1, 1, 100),
    ):  # fmt: skip
        end = End(new_id(), int(NOW.timestamp() * 1e6) - ago, model="m", status=200, latency_ms=70)
        end.usage_source, end.cost_pico = "reported", dollars * 10**12
        end.input_tokens, end.cache_read_tokens, end.output_tokens = fresh, read, after
        end.cache_write_5m_tokens, end.cache_write_1h_tokens = short, long
        assert journal.end(end)
    journal.close()
    summary._emit(summarise(Reader(tmp_path), NOW, UTC), UTC)
    lines = capsys.readouterr().out.splitlines()
    told = {name: line.removeprefix(name).split() for line in lines for name in NAMES if line.startswith(f"{name} ")}
    assert {name: cells[:3] for name, cells in told.items()} == {
        "cost $": ["4", "+100.0", "%"],
        "requests": ["2", "+100.0", "%"],
        "input tokens": ["500", "+150.0", "%"],
        "output tokens": ["60", "+50.0", "%"],
        "from cache %": ["60.00", "49.86"],  # 300 of 500, and of this month 351 of 704
    }


NAMES = ("cost $", "requests", "input tokens", "output tokens", "from cache %")
