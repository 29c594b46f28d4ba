"""Which entries decide what is found at a path, and when a file counts as changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gateway.rig import until

from fluxen.gateway.watch import Watcher, signature, way


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def test_a_plain_file(folder: Path) -> None:
    assert way(folder / "a") == [(str(folder), "a")]


def test_links_on_the_way(folder: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    (folder / "..1").mkdir()
    (folder / "..1" / "file").write_text("1")
    (folder / "..data").symlink_to("..1")
    (folder / "file").symlink_to("..data/file")
    assert way(folder / "file") == [(str(folder), "file"), (str(folder), "..data"), (str(folder / "..1"), "file")]
    (folder / "far").symlink_to(folder / "file")
    assert way(folder / "x" / ".." / "far") == [(str(folder), "far"), *way(folder / "file")]


def test_a_loop_ends(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert (str(folder), "a") in way(folder / "a")
    assert signature(folder / "a") == ()


def test_a_folder_that_is_not_there(folder: Path) -> None:
    assert way(folder / "none" / "file") == [(str(folder / "none"), "file")]


def test_the_smallest_change_shows(folder: Path) -> None:
    file = folder / "file"
    assert signature(file) == ()
    file.write_text("1")
    before = signature(file)
    os.utime(file, ns=(0, file.stat().st_mtime_ns))  # as old and as long as before
    assert signature(file) != before
    other = folder / "other"
    other.write_text("1")
    before = signature(file)
    other.rename(file)
    assert signature(file) != before


def test_events_come_for_what_matters_only(folder: Path) -> None:
    told: list[str] = []
    watcher = Watcher(told.append)
    (folder / "conf").mkdir()
    file = folder / "conf" / "file"
    file.write_text("1")
    assert watcher.follow([str(file)]) is True
    assert watcher.follow([str(file)]) is False
    watcher.drain()
    (folder / "conf" / "unrelated").write_text("x")
    file.read_text()
    file.write_text("2")
    until(watcher.drain, "an event")
    assert watcher.changed()
    assert not watcher.changed()
    (folder / "conf").rename(folder / "before")
    (folder / "conf").mkdir()
    assert watcher.changed()
    file.write_text("3")
    assert watcher.changed()
    watcher.drain()
    file.write_text("4")
    until(watcher.drain, "an event of the new folder")
    assert told == []


NO_EVENTS = """
import resource, sys
from pathlib import Path
from fluxen.gateway.watch import Watcher

file = Path(sys.argv[1])
told = []
watcher = Watcher(told.append)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (6, hard))  # inotify takes a descriptor
watcher.follow([str(file)])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for text in ("2", "3 "):
    file.write_text(text)
    assert watcher.changed()
    assert not watcher.changed()
[line] = told
print(line, flush=True)
import os; os._exit(0)
"""


def test_without_events_looking_has_to_do(folder: Path) -> None:
    (folder / "file").write_text("1")
    done = subprocess.run(
        [sys.executable, "-c", NO_EVENTS, str(folder / "file")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no events of changed files: ")
    assert done.stdout.endswith("they are looked at every 0.5 s\n")
