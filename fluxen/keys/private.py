"""Files that are nobody else's business: written whole or not at all, and for their owner only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxen.errors import FluxenError

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = True, keep: bool = False) -> None:
    """Whoever opens `path` finds the old file or the new one, also after a kill or a power failure.

    It belongs to the folder's owner, so that what root creates for a service can be read by it. replace: False raises
    FileExistsError when there is one already. keep: mode and owner of a file that is replaced stay. Raises OSError.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # of somebody killed who had our number
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _give_to_owner(descriptor, path.parent)
            if keep and path.is_file():
                _make_alike(descriptor, path.stat())
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            fresh.rename(path)
        else:
            _rename_new(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, holds: str) -> Iterator[None]:
    """One writer of this file at a time; what a killed one left behind goes. holds: what the file keeps, for the hint.
    Raises FluxenError, also for any OSError of the block."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open_lock(path.with_name(f"{path.name}.lock"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in path.parent.glob(f".{path.name}.*"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)
    except OSError as error:
        raise FluxenError(
            f"can't write {path}: {error.strerror or error}",
            hint=f"{holds} there: check data_dir, who owns it, and that its disk has room",
        ) from error


def open_lock(path: Path) -> int:
    """An empty file to lock, made if there is none, for the folder's owner. Whatever lies there already stays as it is,
    and a link is not followed: root must not be led to a file of somebody else's. Raises OSError."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            try:
                return os.open(path, flags)
            except FileNotFoundError:
                continue  # gone in between
        _give_to_owner(made, path.parent)
        return made


def _give_to_owner(descriptor: int, folder: Path) -> None:
    """Have a file that root has just made belong to the owner of its folder, where the system lets us."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except OSError:
            pass  # a container's root, which isn't everybody's


def _make_alike(descriptor: int, other: os.stat_result) -> None:
    """Mode and owner of another file, as far as we may."""
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, other.st_uid, other.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(other.st_mode))


def _rename_new(fresh: Path, path: Path) -> None:
    """As rename, but never over a file: a link can't replace one. Where there are no links, look and rename."""
    try:
        os.link(fresh, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        fresh.rename(path)
