"""`<data_dir>/gateways/<pid>.json`: what a running gateway says of itself to commands on the same machine.

Only the supervisor writes it, whole. Beside it lies a file that the supervisor holds a lock on for as long as it lives
(a lock that its children do not inherit), so what a killed one left behind is known as such, and goes at the next
start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from fluxen.keys.private import open_lock, write_whole

FOLDER: Final = "gateways"


class Parked(msgspec.Struct, frozen=True):
    """A provider's key that the provider refused. until: seconds since 1970, when it is tried again."""

    worker: int
    upstream: str
    credential: str
    status: int
    until: float


class State(msgspec.Struct):
    """Times are seconds since 1970. No secret is in here: running holds references as they are written and, of what
    stands in the file itself, fingerprints by `salt`."""

    pid: int
    node: str
    version: str
    started: float
    config: str | None = None
    """Path of its configuration; None: it runs without one."""
    address: str = ""
    admin: str | None = None
    tls: bool = False
    workers: int = 1
    generation: int = 1
    loaded: float = 0.0
    """When what is in force was taken up."""
    attempted: float = 0.0
    attempts: int = 0
    """How often what was asked for has been looked at: tells a new outcome from the one before."""
    milliseconds: int = 0
    """How long the last reload took until every worker had it."""
    applied: int = 0
    """Workers that have this generation."""
    rejected: bool = False
    """What is on disk can't be used; problems say why."""
    problems: list[str] = []
    warnings: list[str] = []
    needs_restart: list[str] = []
    """Settings of the file that wait for a restart."""
    options: list[str] = []
    """Settings that the command line or the environment gave instead of the file."""
    salt: str = ""
    running: dict[str, Any] = {}
    parked: list[Parked] = []


class StateFile:
    """The state of this process, on disk. Whatever goes wrong with it stops no gateway: `error` says what."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._lock: int | None = None
        self._path: Path | None = None
        self.error: str | None = None

    def write(self, state: State) -> None:
        try:
            if self._path is None:
                self._begin()
            assert self._path is not None
            write_whole(self._path, as_json(state))
            self.error = None
        except OSError as error:
            self.error = f"{self._folder}: {error.strerror or error}"

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for _ in _left_behind(self._folder):
            pass
        for attempt in range(100):  # in another container, somebody else has our PID
            name = f"{os.getpid()}-{attempt}" if attempt else str(os.getpid())
            lock = open_lock(self._folder / f"{name}.lock")
            if _lock(lock):
                self._lock, self._path = lock, self._folder / f"{name}.json"
                return
            os.close(lock)

    def forget(self) -> None:
        """In a forked child: it is the parent's. (Its lock is not inherited.)"""
        if self._lock is not None:
            os.close(self._lock)

    def remove(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._path.with_suffix(".lock").unlink(missing_ok=True)


def as_json(state: State) -> bytes:
    """Whatever is in it: a file's name need not be UTF-8, and JSON can escape half a character. `?` stands for such."""
    return json.dumps(msgspec.to_builtins(state), ensure_ascii=False).encode("utf-8", "replace")


def running(data_dir: Path) -> list[State]:
    """The gateways of this data folder that live on this machine, the eldest first. Raises PermissionError when the
    folder is somebody else's."""
    found = []
    for path in sorted((data_dir / FOLDER).glob("*.json")):
        try:
            holder = _holder(path.with_suffix(".lock"))
            if holder is None:
                continue
            state = msgspec.json.decode(path.read_bytes(), type=State)
        except FileNotFoundError:
            continue
        except msgspec.DecodeError:
            continue  # of another version
        if state.node == node() and state.pid == holder:
            found.append(state)
    return sorted(found, key=lambda state: state.started)


def node() -> str:
    return socket.gethostname()[:64]


def _holder(lock: Path) -> int | None:
    """The PID of who holds the lock, by the system's word; None when nobody does, 0 for somebody in another container.

    What a file says is no proof: it is the service's to write, and a command of root's signals that process."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if sys.platform == "darwin":
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("qqihh", 0, 0, 0, fcntl.F_WRLCK, 0))
            _, _, pid, kind, _ = struct.unpack("qqihh", answer)
        else:
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            kind, _, _, _, pid = struct.unpack("hhqqi4x", answer)
        return None if kind == fcntl.F_UNLCK else int(pid)
    finally:
        os.close(descriptor)


def _alive(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _left_behind(folder: Path) -> Iterator[Path]:
    """Remove the files of gateways that are no more."""
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError):
            if not _alive(lock):
                lock.with_suffix(".json").unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
                yield lock


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
