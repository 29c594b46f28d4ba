"""What keeps a gateway from starting is said once, and nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def serve(data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0"],
        env={**os.environ, "FLUXEN_DATA_DIR": str(data)},
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("file", ["data", "data/ledger", "data/ledger/journal"])
def test_a_file_where_the_ledger_should_be(tmp_path: Path, file: str) -> None:
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("something else")
    ended = serve(tmp_path / "data")
    assert ended.returncode == 1
    assert str(place) in ended.stderr
    assert "hint: check data_dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "serves on" not in ended.stdout + ended.stderr
    assert place.read_text() == "something else"
