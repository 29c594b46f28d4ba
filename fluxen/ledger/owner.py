"""Whose the ledger's files are: a command of root's must not leave any behind that the service can't read."""

from __future__ import annotations

import os
from pathlib import Path


def hand_over(what: int | Path, folder: Path) -> None:
    """Have what root has just made (a descriptor or a path) belong to the owner of its folder, where the system lets
    us. Nothing happens for anybody else."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        try:
            os.chown(what, owner.st_uid, owner.st_gid)
        except OSError:
            pass  # a container's root, which isn't everybody's
