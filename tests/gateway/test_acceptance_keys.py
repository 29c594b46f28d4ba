"""Changes of keys under load: see acceptance.py, whose trials these are. How long a change takes is told by
`python tests/gateway/acceptance.py`, which a test can't promise of every machine."""

from __future__ import annotations

from pathlib import Path

from gateway import acceptance
from gateway.acceptance import Site, run


def test_a_revoked_key_is_refused_in_every_worker(tmp_path: Path) -> None:
    summary = run(acceptance.revocation(Site(tmp_path / "site")))
    assert not summary.problems, summary
    assert set(summary.statuses) == {"200"}, summary
    assert summary.workers == 2, summary


def test_rotation_of_client_keys_refuses_nobody(tmp_path: Path) -> None:
    summary = run(acceptance.rotation(Site(tmp_path / "site")))
    assert not summary.problems, summary
    assert set(summary.statuses) == {"200"}, summary
    assert summary.workers == 2, summary


def test_rotation_of_a_provider_key_refuses_nobody(tmp_path: Path) -> None:
    summary = run(acceptance.provider(Site(tmp_path / "site")))
    assert not summary.problems, summary
    assert set(summary.statuses) == {"200"}, summary
    assert summary.workers == 2, summary
