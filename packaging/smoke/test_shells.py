"""Completion, by the shells themselves: Tab is pressed in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from shared import require_program

from fluxen import __version__

DIST = Path(os.environ.get("FLUXEN_DIST") or Path(__file__).parents[2] / "dist").absolute()
PATIENCE = 60.0
PROMPT = "ready> "


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder form with its completions: it starts sooner."""
    folder = tmp_path_factory.mktemp("release")
    (archive,) = DIST.glob(f"fluxen-{__version__}-linux-*-folder.tar.xz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="tar")
    (made,) = folder.iterdir()
    return made


def environment(unpacked: Path, home: Path) -> dict[str, str]:
    path = f"{unpacked}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8", "PS1": PROMPT}


class Terminal:
    def __init__(self, master: int) -> None:
        self._master = master
        self._said = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self, expected: str) -> None:
        """Until the shell has shown this since the last time."""
        deadline = time.monotonic() + PATIENCE
        while expected.encode() not in self._said:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{expected!r} did not come: {self._said!r}"
            self._said += os.read(self._master, 65536)
        self._said = self._said.partition(expected.encode())[2]


@contextmanager
def shell(command: list[str], env: dict[str, str]) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(command, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        yield Terminal(master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def press_tab(terminal: Terminal) -> None:
    """`fluxen rep`, Tab, and what the line then is: Control-A goes to its start."""
    terminal.wait(PROMPT)
    terminal.type("fluxen rep\t")
    terminal.type("\x01echo @\r")
    terminal.wait("@fluxen report")
    terminal.wait(PROMPT)
    terminal.type("fluxen ledger ver\t")
    terminal.type("\x01echo @\r")
    terminal.wait("@fluxen ledger verify")


def test_bash(unpacked: Path, tmp_path: Path) -> None:
    bash = require_program("bash")
    with shell([bash, "--norc", "--noprofile", "-i"], environment(unpacked, tmp_path)) as terminal:
        terminal.wait(PROMPT)
        terminal.type(f"source {unpacked}/completions/fluxen.bash\r")
        press_tab(terminal)


def test_zsh(unpacked: Path, tmp_path: Path) -> None:
    """The file lies where zsh looks for it, and is read when Tab is pressed for the first time."""
    zsh = require_program("zsh")
    with shell([zsh, "-f", "-i"], environment(unpacked, tmp_path)) as terminal:
        terminal.wait(PROMPT)
        terminal.type(f"bindkey -e; fpath=({unpacked}/completions $fpath); autoload -U compinit; compinit -u -D\r")
        press_tab(terminal)


def test_fish(unpacked: Path, tmp_path: Path) -> None:
    """fish tells what it would offer."""
    fish = require_program("fish")
    for typed, offered in (("fluxen rep", "report"), ("fluxen ledger ver", "verify")):
        script = f"source {unpacked}/completions/fluxen.fish; complete --do-complete '{typed}'"
        asked = subprocess.run(
            [fish, "--no-config", "-c", script],
            env=environment(unpacked, tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
        assert [line.split("\t")[0] for line in asked.stdout.splitlines()] == [offered], asked.stderr
