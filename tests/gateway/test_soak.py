"""One minute of soak.py with a fixed seed; the ten minutes are `make soak`."""

from __future__ import annotations

from pathlib import Path

from gateway import soak


def test_one_minute(tmp_path: Path) -> None:
    summary = soak.main(60, 100, 20261122, tmp_path)
    assert not summary.problems
    assert (summary.missing, summary.doubled) == (0, 0)
    assert summary.rows == summary.requests
    assert summary.kinds.keys() == soak.EXPECTED.keys()
    assert summary.ok, summary
