"""Nothing gets into a release unnamed: the inventory of what is packed ends the build instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[1]
TAKE = """
import sys
from pathlib import Path
from release import base, inventory
from release.chroot import Chroot
work, packages = Path(sys.argv[1]), Path(sys.argv[2])
record = base.Record({"openssl": "3", "python3.11": "3.11"}, {}, ())
for part in inventory.take(work, Chroot(Path("/")), packages, record):
    print(part.name, part.version, part.licence)
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An environment with one distribution, which has a licence and one module."""
    info = tmp_path / "env" / "some-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: some\nVersion: 1.0\nLicense-Expression: MIT\n")
    (info / "LICENSE").write_text("Do what you want.\n")
    (info / "RECORD").write_text("some.py,,\nsome-1.0.dist-info/METADATA,,\n")
    return info.parent


def take(tmp_path: Path, packages: Path, *packed: str) -> subprocess.CompletedProcess[str]:
    work = tmp_path / "work" / "build"
    work.mkdir(parents=True)
    entries = [(Path(name).name, name, "BINARY") for name in packed]
    (work / "PYZ-00.toc").write_text(repr(("out", [("some", str(packages / "some.py"), "PYMODULE")])))
    (work / "COLLECT-00.toc").write_text(repr(([], entries)))
    command = [sys.executable, "-c", TAKE, str(work.parent), str(packages)]
    env = {"PYTHONPATH": str(PACKAGING), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_distribution_is_found_by_the_file_that_is_packed(tmp_path: Path, packages: Path) -> None:
    done = take(tmp_path, packages)
    assert (done.returncode, done.stdout) == (0, "some 1.0 MIT\n"), done.stderr


def test_a_file_that_belongs_to_nobody(tmp_path: Path, packages: Path) -> None:
    done = take(tmp_path, packages, "/srv/libmystery.so.1")
    assert done.returncode == 1
    assert "/srv/libmystery.so.1 is packed, and belongs to no package" in done.stderr


def test_a_distribution_without_the_text_of_its_licence(tmp_path: Path, packages: Path) -> None:
    (packages / "some-1.0.dist-info" / "LICENSE").unlink()
    assert "some 1.0 comes without the text of its licence" in take(tmp_path, packages).stderr


def test_a_licence_that_is_not_known(tmp_path: Path, packages: Path) -> None:
    info = packages / "some-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1.0\nLicense: UNKNOWN\n")
    assert "some: no licence that is known" in take(tmp_path, packages).stderr


def test_compiled_code_of_which_nobody_has_looked_what_is_in_it(tmp_path: Path, packages: Path) -> None:
    with (packages / "some-1.0.dist-info" / "RECORD").open("a") as record:
        record.write("some.cpython-311-x86_64-linux-gnu.so,,\n")
    assert "some 1.0 holds compiled code" in take(tmp_path, packages).stderr
