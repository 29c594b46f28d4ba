"""Fixtures of the tests of logs and metrics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def run_python(clean_env: dict[str, str]) -> Callable[[str], str]:
    """Run a program to its end; what it wrote to stderr."""

    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], env=clean_env, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stderr

    return run
