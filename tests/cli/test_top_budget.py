"""What `fluxen top` charges to a budget, and when a period turns: over a journal, with a clock that is told."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id
from fluxen.reports.burn import parse_budget
from fluxen_cli.top.snapshot import as_object, as_text
from fluxen_cli.top.source import Source

HOUR = 1_795_348_800
"""2026-11-22 12:00 UTC."""


def serve(
    journal: Journal, at: float, cost: int | None, source: str = "reported", seconds: float = 0, status: int = 200
) -> None:
    """A request that arrived at `at` and took so long."""
    start = Begin(new_id(), int(at * 1e6), model_asked="m")
    end = End.of(start)
    end.status, end.usage_source, end.cost_pico, end.latency_ms = status, source, cost, int(seconds * 1000)
    assert journal.begin(start)
    assert journal.end(end)


def test_a_period_is_charged_with_what_arrived_in_it(tmp_path: Path) -> None:
    """As every report of it is, before and after the start of the command; what was refused is not unknown."""
    journal = Journal(tmp_path, "n", 0)
    serve(journal, HOUR - 30, 1000, seconds=40)
    serve(journal, HOUR - 20, None, seconds=40)
    serve(journal, HOUR + 10, 1)
    serve(journal, HOUR + 11, None)
    serve(journal, HOUR + 12, None, "none")
    source = Source(tmp_path, UTC, parse_budget("1/hour"), "1m", "model")

    def charged(now: float) -> tuple[int, int]:
        source.poll(now)
        snapshot = source.snapshot(now)
        assert snapshot.outlook is not None
        return snapshot.outlook.spent, snapshot.unknown

    try:
        source.open(HOUR + 20)
        assert charged(HOUR + 20) == (1, 1)
        serve(journal, HOUR - 5, 5000, seconds=26)
        serve(journal, HOUR - 5, None, seconds=26)
        serve(journal, HOUR + 21, 10)
        serve(journal, HOUR + 21, None)
        serve(journal, HOUR + 21, None, "none")
        assert charged(HOUR + 22) == (11, 2)
        assert charged(HOUR + 3599) == (11, 2)
        serve(journal, HOUR + 3599, 100, seconds=2)  # ends when the next hour has begun
        serve(journal, HOUR + 3600, 7)
        assert charged(HOUR + 3601) == (7, 0)
    finally:
        source.close()
        journal.close()


def test_figures_of_a_snapshot(tmp_path: Path) -> None:
    """For eyes and for programs; the least that was spent is not shown as nothing."""
    journal = Journal(tmp_path, "n", 0)
    serve(journal, HOUR + 10, 5, seconds=0.1)
    serve(journal, HOUR + 11, None, seconds=0.3, status=500)
    serve(journal, HOUR + 12, 0, "none", seconds=0.2, status=401)
    serve(journal, HOUR + 13, 0, seconds=0.6)
    source = Source(tmp_path, UTC, parse_budget("1/hour"), "5m", "model")
    try:
        source.open(HOUR + 20)
        snapshot = source.snapshot(HOUR + 20)
    finally:
        source.close()
        journal.close()
    found = as_object(snapshot)
    (row,) = found["rows"]  # type: ignore[misc]
    assert (row["model"], row["requests"], row["errors"], row["unknown_cost"]) == ("m", 4, 2, 1)
    assert (row["mean_latency_ms"], str(row["usd_per_minute"])) == (300, "1E-12")
    budget = found["budget"]
    assert isinstance(budget, dict)
    assert (budget["ends"], budget["unknown_cost"]) == (datetime.fromtimestamp(HOUR + 3600, UTC), 1)
    assert "+ 1 request of unknown cost" in as_text(snapshot)
    (line,) = (line for line in as_text(snapshot).splitlines() if line.startswith("m "))
    assert re.split(" {2,}", line) == [
        "m", "<0.000001", "0.0", "0", "0", "50.0%", "300ms", "4", "<0.000001", "1",
    ]  # fmt: skip
