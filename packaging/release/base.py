"""The base: a Debian 11 with OpenSSL 3 and CPython 3.11 of its own, which base/recipe.sh builds there; cached.

The cache is one folder per recipe under $XDG_CACHE_HOME/fluxen; it is made anew after a month, because what it holds
gets security updates. FLUXEN_DEBIAN_MIRROR names another mirror than mmdebstrap's own choice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from release.chroot import Chroot, missing_tools

RECIPE = Path(__file__).parent.parent / "base"
SUITE = "bullseye"
SOURCES = "bookworm"
PACKAGES = (
    "binutils", "ca-certificates", "dpkg-dev", "gcc", "libbz2-dev", "libc6-dev", "libexpat1-dev", "libffi-dev",
    "liblzma-dev", "make", "patch", "perl", "pkg-config", "xz-utils", "zlib1g-dev",
)  # fmt: skip
BUILD = Path("/build")
RECORD = "/usr/local/share/fluxen-base"
MONTH = 30 * 86400
TOOLS = ("mmdebstrap", "chroot", "objdump", "xz")


@dataclass(frozen=True, slots=True)
class Patch:
    package: str
    name: str
    fixes: tuple[str, ...]  # CVE numbers


@dataclass(frozen=True, slots=True)
class Record:
    """What the recipe says that it built."""

    built: dict[str, str]  # source package → version
    missed: dict[str, str]  # … → a newer version that its index names, but nobody served
    patches: tuple[Patch, ...]


def why_not() -> list[str]:
    return missing_tools(TOOLS)


def ensure(say: Callable[[str], None]) -> Chroot:
    """The cached base; made when it isn't there or is older than a month, by one build at a time."""
    folder = cache_folder() / f"base-{SUITE}-{platform.machine()}-{recipe_hash()}"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made"
    with _locked(folder / "lock"):
        if not made.exists() or time.time() - made.stat().st_mtime > MONTH:
            made.unlink(missing_ok=True)
            shutil.rmtree(folder / "root", ignore_errors=True)
            _make(Chroot(folder / "root"), say)
            made.touch()
    say(f"base: {folder}")
    return Chroot(folder / "root")


def _make(base: Chroot, say: Callable[[str], None]) -> None:
    mirror = filter(None, [os.environ.get("FLUXEN_DEBIAN_MIRROR")])
    include = f"--include={','.join(PACKAGES)}"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, str(base.root), *mirror], check=True)
    say(f"Debian 11 is unpacked in {base.root}")
    base.copy_network()
    shutil.copytree(RECIPE, base.at("/recipe"))
    base.run("bash", "/recipe/recipe.sh", SOURCES)
    for path in (str(BUILD), "/var/lib/apt/lists", "/etc/apt/sources.list.d/source.list"):
        target = base.at(path)
        shutil.rmtree(target) if target.is_dir() else target.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(base: Chroot) -> Record:
    def lines(name: str) -> list[tuple[str, str]]:
        path = base.at(RECORD) / name
        text = path.read_text() if path.exists() else ""
        return [(package, rest) for package, _, rest in (line.partition(" ") for line in text.splitlines())]

    patches = []
    for package, rest in lines("patches"):
        name, _, fixes = rest.partition(" ")
        patches.append(Patch(package, name, tuple(filter(None, fixes.split(",")))))
    missed = dict(reversed(lines("missed")))  # of several the newest, which comes first
    return Record(dict(lines("built")), missed, tuple(patches))


def recipe_hash() -> str:
    digest = hashlib.sha256(repr((SUITE, SOURCES, PACKAGES)).encode())
    for path in sorted(RECIPE.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fluxen"


@contextmanager
def workshop(base: Chroot) -> Iterator[Path]:
    """An empty /build in the base, for one build at a time; its path in there."""
    with _locked(base.root.parent / "lock"):
        shutil.rmtree(base.at(BUILD), ignore_errors=True)
        base.at(BUILD).mkdir()
        base.copy_network()
        yield BUILD


_NEEDED = re.compile(r"\bGLIBC_(\d+(?:\.\d+)+)\b")


def glibc_needed(paths: list[Path]) -> tuple[str, Path | None]:
    """The newest glibc any of these ELF files asks for, and a file that does."""
    floor: tuple[int, ...] = ()
    which: Path | None = None
    for path in paths:
        if not _is_program_or_library(path):
            continue
        listed = subprocess.run(["objdump", "-T", str(path)], capture_output=True, text=True, check=True).stdout
        for version in _NEEDED.findall(listed):
            if (number := tuple(map(int, version.split(".")))) > floor:
                floor, which = number, path
    return ".".join(map(str, floor)), which


def _is_program_or_library(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(18)
    return head[:4] == b"\x7fELF" and head[16] in (2, 3)  # ET_EXEC, ET_DYN
