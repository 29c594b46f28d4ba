"""Ten kills of a serving gateway's processes: see kill.py, whose longer run is `make kill`."""

from __future__ import annotations

from pathlib import Path

from gateway import kill


def test_ten_kills(tmp_path: Path) -> None:
    summary = kill.main(10, 20261122, tmp_path)
    assert not summary.problems
    assert (summary.missing, summary.doubled) == (0, 0)
    assert sum(summary.kills.values()) == 10
    assert summary.kills.keys() == {"worker", "counter", "compactor", "supervisor"}
    assert summary.ok, summary
