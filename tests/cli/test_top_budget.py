"""What `fluxen top` charges to a budget, and when a period turns: over a journal, with a clock that is told."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id
from fluxen.reports.burn import parse_budget
from fluxen_cli.top.source import Source

HOUR = 1_795_348_800
"""2026-11-22 12:00 UTC."""


def serve(journal: Journal, at: float, cost: int | None, source: str = "reported", seconds: int = 0) -> None:
    """A request that arrived at `at` and took so long."""
    start = Begin(new_id(), int(at * 1e6))
    end = End.of(start)
    end.status, end.usage_source, end.cost_pico, end.latency_ms = 200, source, cost, seconds * 1000
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
