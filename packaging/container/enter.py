"""Run one command as a container engine would, without an engine: `unshare … python3 enter.py DESCRIPTION`.

`unshare --mount --pid --ipc --uts --fork` makes this process the first of new namespaces. It takes the image's files as
its root, read-only but for the mounts that are named, gives up root for good (no new privileges), and becomes the
command: PID 1, as in Docker with `--read-only --cap-drop ALL --security-opt no-new-privileges`. There is no cgroup and
no seccomp filter.

DESCRIPTION is a JSON file: {"root", "mounts": [[from, to, read_only]], "uid", "gid", "env", "command"}.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
PR_SET_NO_NEW_PRIVS = 38
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, flags: int) -> None:
    if _libc.mount(source.encode(), bytes(target), kind.encode(), flags, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def bind(source: str, target: Path, *, read_only: bool) -> None:
    mount(source, target, "", MS_BIND)
    if read_only:
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    root = Path(given["root"])
    mount(str(root), root, "", MS_BIND | MS_REC)
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("dev", root / "dev", "tmpfs", MS_NOSUID | MS_NOEXEC)
    for name in DEVICES:
        (root / "dev" / name).touch()
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    for source, target, read_only in given["mounts"]:
        bind(source, root / target.lstrip("/"), read_only=read_only)
    mount("", root, "", MS_BIND | MS_REMOUNT | MS_RDONLY)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(given["gid"])
    os.setuid(given["uid"])
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    path = given["env"]["PATH"].split(":")
    command = given["command"]
    program = next((f"{folder}/{command[0]}" for folder in path if os.access(f"{folder}/{command[0]}", os.X_OK)), None)
    if program is None:
        raise FileNotFoundError(f"{command[0]} is in none of {path}")
    os.execve(program, command, given["env"])


if __name__ == "__main__":
    main()
