"""Fixtures for all tests: the `fluxen` command as a process of its own, with an environment and a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from shared import ROOT, Fluxen, require_program

# A shell that starts the suite in the background has it ignore Ctrl-C, and what it starts would ignore it, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a test that fails in CI fails here. Another seed by hand: --hypothesis-seed=N.
settings.register_profile("fluxen", derandomize=True, deadline=None)
settings.load_profile("fluxen")


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing of the developer's in it: no keys, no configuration, an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "NO_PROXY": "*"}


@pytest.fixture
def fluxen(clean_env: dict[str, str], tmp_path: Path) -> Fluxen:
    """Run `fluxen ARGS…` to its end, in an empty folder; stdout and stderr are pipes."""

    def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path = tmp_path, timeout: float = 60) -> object:
        return subprocess.run(
            [sys.executable, "-m", "fluxen_cli", *args],
            env={**clean_env, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run  # type: ignore[return-value]


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put before a command so that it may open only what permissions let it, also when root runs the tests."""
    if os.geteuid() != 0:
        return []
    return [require_program("setpriv"), "--bounding-set=-dac_override,-dac_read_search", "--"]


@pytest.fixture
def root() -> Path:
    return ROOT
