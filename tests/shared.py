"""What tests need that is not in the repository: recorded traffic, the expected bills, programs of the system.

On a user's machine a test that lacks it is skipped with the reason. Where `FLUXEN_REQUIRE_ALL=1` (set by `.ci/run`)
it fails instead: a skipped proof is no proof.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

Fluxen = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `fluxen`: run the command with these arguments to its end."""

ROOT = Path(__file__).resolve().parent.parent


def _shared() -> Path | None:
    named = os.environ.get("FLUXEN_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    return folder.resolve() if (folder / "traffic").is_dir() else None


SHARED = _shared()
"""The folder of recorded traffic: `$FLUXEN_SHARED`, else `shared` beside the repository; None when it isn't there."""


def require_shared(*parts: str) -> Path:
    """A file or folder of the shared data, e.g. `require_shared('traffic', 'expected_dev.jsonl.gz')`."""
    path = SHARED.joinpath(*parts) if SHARED else None
    if path is None or not path.exists():
        missing(f"needs recorded traffic ({'/'.join(parts)} beside the repository, or FLUXEN_SHARED)")
    return path


def require_program(name: str) -> str:
    """The path of a program of the system, e.g. nginx."""
    found = shutil.which(name)
    if found is None:
        missing(f"needs the program {name}")
    return found


def missing(reason: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("FLUXEN_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and FLUXEN_REQUIRE_ALL=1 allows no skip")
    pytest.skip(reason)
