"""Changes of the configuration under load: see acceptance.py, whose trials these are."""

from __future__ import annotations

from pathlib import Path

from gateway import acceptance
from gateway.acceptance import Site, Summary, run


def holds(summary: Summary) -> None:
    assert not summary.problems, summary
    assert summary.workers == 2, summary
    assert set(summary.statuses) == {"200"}, summary
    assert summary.rows == summary.requests > 0, summary


def test_ten_thousand_requests_during_continuous_reloads(tmp_path: Path) -> None:
    summary = run(acceptance.reloads(Site(tmp_path / "site"), 10_000))
    holds(summary)
    assert summary.requests >= 10_000
    assert summary.generations > 20, summary
    assert summary.straddling > 100, summary  # begun under one snapshot, ended when there was another


def test_a_stream_of_thirty_seconds_through_twenty_reloads(tmp_path: Path) -> None:
    summary = run(acceptance.stream(Site(tmp_path / "site"), 30, 20))
    holds(summary)
    assert summary.generations >= 20, summary


def test_the_address_changes_under_load(tmp_path: Path) -> None:
    holds(run(acceptance.addresses(Site(tmp_path / "site"))))


def test_editors_orchestrators_and_broken_files(tmp_path: Path) -> None:
    summary = run(acceptance.files(Site(tmp_path / "site")))
    holds(summary)
    assert summary.generations == 9, summary
