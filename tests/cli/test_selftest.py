"""`fluxen self-test`, here of an installation; packaging/smoke has the executable run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def self_test(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fluxen_cli", "self-test", *arguments]
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}
    return subprocess.run(command, env=clean, cwd=folder, capture_output=True, text=True, timeout=120)


def test_everything_is_there(tmp_path: Path) -> None:
    done = self_test(tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] and not told["frozen"]
    assert {"modules", "data", "duckdb", "tls", "uvloop"} <= {check["name"] for check in told["checks"]}


def test_what_is_missing_is_named_and_the_rest_tried(tmp_path: Path) -> None:
    done = self_test(tmp_path, SSL_CERT_FILE=str(tmp_path / "no.pem"))
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert failed[0].split()[1] == "tls"
    assert "no.pem" in failed[0]
    *checks, last = done.stdout.splitlines()
    assert last.endswith(f": 1 of {len(checks)} failed")


def test_it_is_no_command_for_people(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fluxen_cli", "--help"]
    assert "self-test" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
