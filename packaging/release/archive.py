"""Archives whose bytes depend on nothing but what is in them: sorted, no owners, one time, one way to compress."""

from __future__ import annotations

import io
import platform
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FILTERS = ("--x86", "--lzma2=preset=1") if platform.machine() == "x86_64" else ("--lzma2=preset=1",)


@dataclass(frozen=True, slots=True)
class Entry:
    name: str  # in the archive, without a leading slash
    source: Path | bytes | str  # a file, its content, or where a link leads
    executable: bool = False


def tree(folder: Path, prefix: str) -> list[Entry]:
    """Every file and link below a folder."""
    entries = []
    for path in sorted(folder.rglob("*")):
        name = f"{prefix}/{path.relative_to(folder)}"
        if path.is_symlink():
            entries.append(Entry(name, str(path.readlink())))
        elif path.is_file():
            entries.append(Entry(name, path, bool(path.stat().st_mode & stat.S_IXUSR)))
    return entries


def write_tar_xz(target: Path, entries: Iterable[Entry], when: int) -> None:
    target.write_bytes(tar_xz(entries, when))


def tar_xz(entries: Iterable[Entry], when: int) -> bytes:
    """Two threads whatever the machine has: their number is what decides how xz cuts its input."""
    command = ["xz", "--compress", "--threads=2", "--block-size=8MiB", "--check=crc32", *_FILTERS]
    xz = subprocess.run(command, input=_tar(entries, when), stdout=subprocess.PIPE, check=False)
    if xz.returncode:
        raise SystemExit(f"xz failed with {xz.returncode}")
    return xz.stdout


def _tar(entries: Iterable[Entry], when: int) -> bytes:
    written: set[str] = set()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry in sorted(entries, key=lambda entry: Path(entry.name).parts):
            for parent in reversed(Path(entry.name).parents):
                if str(parent) not in (*written, "."):
                    written.add(str(parent))
                    tar.addfile(_info(f"{parent}", tarfile.DIRTYPE, 0o755, when))
            if isinstance(entry.source, str):
                link = _info(entry.name, tarfile.SYMTYPE, 0o777, when)
                link.linkname = entry.source
                tar.addfile(link)
                continue
            content = entry.source.read_bytes() if isinstance(entry.source, Path) else entry.source
            info = _info(entry.name, tarfile.REGTYPE, 0o755 if entry.executable else 0o644, when)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _info(name: str, kind: bytes, mode: int, when: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.uname, info.gname = kind, mode, when, "root", "root"
    return info


def ar(members: Iterable[tuple[str, bytes]], when: int) -> bytes:
    """The format of a .deb: names ≤ 16 characters, contents padded to two bytes."""
    parts = [b"!<arch>\n"]
    for name, content in members:
        parts.append(f"{name:<16}{when:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)
