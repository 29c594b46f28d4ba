"""The commands of README and docs that need what `make dist` made (blocks marked `sh dist`), in the order of the pages,
in a folder that holds the release as somebody has downloaded it. The one that installs the package is run in fresh
Debians by test_package.py."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from shared import ROOT

DIST = Path(os.environ.get("FLUXEN_DIST") or ROOT / "dist").absolute()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```sh dist\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A folder with the files of a release."""
    folder = tmp_path / "download"
    folder.mkdir()
    for line in (DIST / "SHA256SUMS").read_text().splitlines():
        name = line.split()[1]
        (folder / name).symlink_to(DIST / name)
    return folder


def test_the_commands_of_the_documentation(download: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "tmp").mkdir()
    home.mkdir()
    env = {
        "HOME": str(home),
        "TMPDIR": str(tmp_path / "tmp"),
        "PATH": f"{home}/.local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    blocks = [block for page in PAGES for block in _BLOCK.findall(page.read_text()) if "apt-get" not in block]
    assert len(blocks) >= 2
    installs = [block for block in blocks if "tar -x" in block]  # README tells what for before it tells how
    assert len(installs) == 1
    for text in [*installs, *(block for block in blocks if block not in installs)]:
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=download, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert list((tmp_path / "tmp").iterdir()) == []
