"""Everything a release consists of, in dist/: python packaging/build.py [--out DIR] [--on-host] [--check-reproducible]

    fluxen, fluxen-folder/                  the executable in its two forms
    fluxen-VERSION-linux-ARCH.tar.xz        … the one file, with licences, completions, manual page
    fluxen-VERSION-linux-ARCH-folder.tar.xz … the folder
    fluxen_VERSION_ARCH.deb                 … the folder as a Debian package, with a service
    fluxen-VERSION….whl, .tar.gz            for pip
    sbom.cdx.json, THIRD-PARTY-LICENSES.txt what is inside, and under which terms
    SHA256SUMS

The executable is made in an old Debian (release/base.py), so that newer ones run it; that takes root and mmdebstrap.
Without them it is made with this Python, for machines like this one, and the last line says what it needs.
The same commit and base give the same bytes: times are the commit's (SOURCE_DATE_EPOCH), orders and owners are fixed.

To be run with the Python of an environment that holds requirements.lock (`make dist` does).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from release import base, inventory, licences, sbom
from release.archive import Entry, tree, write_tar_xz
from release.chroot import Chroot, pip_settings
from release.debian import architecture, package
from release.shells import completions

ROOT = Path(__file__).parent.parent
PACKAGING = ("freeze.py", "fluxen.spec", "hooks", "requirements.lock", "release/manual.py")


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where the program is frozen: a folder of the base, or of this machine."""

    place: Chroot
    folder: Path  # as seen in there
    python: Path

    @property
    def here(self) -> Path:
        return self.place.at(self.folder)

    @property
    def packages(self) -> Path:
        """Where the environment's distributions lie, as seen out here."""
        return next(self.here.glob("env/lib/python3.*/site-packages"))


@dataclass(frozen=True, slots=True)
class Progress:
    begun: float

    def __call__(self, message: str) -> None:
        print(f"[{time.monotonic() - self.begun:4.0f}s] {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--on-host", action="store_true", help="freeze with this machine's Python, without the base")
    parser.add_argument("--check-reproducible", action="store_true", help="do it all twice and compare the bytes")
    chosen = parser.parse_args()
    say = Progress(time.monotonic())
    lacking = ["--on-host"] if chosen.on_host else base.why_not()
    if lacking:
        print(
            f"NOTE: without the Debian 11 base ({', '.join(lacking)}): the result needs this machine's glibc or newer"
        )
    with tempfile.TemporaryDirectory(prefix="fluxen-dist-") as scratch:
        staged = Path(scratch, "1")
        when = epoch()
        build(staged, when, say, on_host=bool(lacking))
        if chosen.check_reproducible:
            again = Path(scratch, "2")
            build(again, when, say, on_host=bool(lacking))
            if differing := differences(staged, again):
                print("NOT reproducible: " + ", ".join(differing), file=sys.stderr)
                return 1
            say("built twice: the same bytes")
        publish(staged, chosen.out)
    for line in (chosen.out / "SHA256SUMS").read_text().splitlines():
        name = line.split()[1]
        print(f"{(chosen.out / name).stat().st_size / 1e6:8.1f} MB  {name}")
    say(f"done: {chosen.out}")
    return 0


def build(out: Path, when: int, say: Progress, *, on_host: bool) -> None:
    out.mkdir()
    env = {"SOURCE_DATE_EPOCH": str(when), "PYTHONDONTWRITEBYTECODE": "1"}
    say("wheel and source archive")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, env=os.environ | env, check=True
    )
    (wheel,) = out.glob("*.whl")
    version = wheel.name.split("-")[1]
    with host(say) if on_host else in_base(say) as workshop:
        pip = pip_settings(os.environ) if on_host else workshop.place.pip_environment()
        furnish(workshop, wheel, env | pip, say)
        say("freezing")
        run(
            workshop,
            "packaging/freeze.py",
            "--out",
            workshop.folder / "out",
            "--work",
            workshop.folder / "work",
            env=env,
        )
        for name in ("fluxen", "fluxen-folder"):
            target = out / name
            source = workshop.here / "out" / name
            shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy(source, target)
        manual = run(workshop, "packaging/release/manual.py", env=env, capture=True).encode()
        say("what is inside")
        record = None if on_host else base.read(workshop.place)
        parts = inventory.take(workshop.here / "work", workshop.place, workshop.packages, record)
    third_party = licences.write(parts)
    (out / "THIRD-PARTY-LICENSES.txt").write_bytes(third_party)
    floor, _ = base.glibc_needed(
        [path for path in out.glob("fluxen*/**/*") if path.is_file() and not path.is_symlink()]
    )
    (out / "sbom.cdx.json").write_text(sbom.write(version, parts, when, floor, record.missed if record else {}))
    say("archives")
    archives(out, version, floor, manual, third_party, when)
    say(f"the executable needs glibc {floor} or newer")
    if record:
        for name, newer in record.missed.items():
            say(f"NOTE: built with {name} {record.built[name]}: {newer} is out, but was not to be had")
    sums(out)


def archives(out: Path, version: str, floor: str, manual: bytes, third_party: bytes, when: int) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    shells = completions(out / "fluxen-folder" / "fluxen")
    extras = [
        Entry("LICENSE", licence),
        Entry("THIRD-PARTY-LICENSES.txt", third_party),
        Entry("fluxen.1", manual),
        *(Entry(f"completions/{name}", text) for name, (_, text) in shells.items()),
    ]
    for name, program in (
        (f"fluxen-{version}-linux-{platform.machine()}", [Entry("fluxen", out / "fluxen", executable=True)]),
        (f"fluxen-{version}-linux-{platform.machine()}-folder", tree(out / "fluxen-folder", ".")),
    ):
        below = [Entry(str(Path(name, entry.name)), entry.source, entry.executable) for entry in [*program, *extras]]
        write_tar_xz(out / f"{name}.tar.xz", below, when)
    shared = dict(shells.values()) | {"man/man1/fluxen.1.gz": gzip.compress(manual, mtime=0)}
    example = ROOT / "fluxen.example.yaml"
    deb = package(version, floor, out / "fluxen-folder", example, shared, licence, third_party, when)
    (out / f"fluxen_{version}_{architecture()}.deb").write_bytes(deb)


def epoch() -> int:
    """The time that everything carries: the commit's, else that of the newest file that is packed."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return int(asked) if asked else int((ROOT / "pyproject.toml").stat().st_mtime)


@contextmanager
def in_base(say: Progress) -> Iterator[Workshop]:
    say("base: Debian 11 with OpenSSL 3 and CPython 3.11 (minutes, when it isn't there)")
    place = base.ensure(say)
    record = base.read(place)
    fixed = {cve for patch in record.patches for cve in patch.fixes}
    say(f"base: {', '.join(' '.join(item) for item in record.built.items())}; {len(fixed)} CVEs patched by name")
    with base.workshop(place) as folder:
        place.run("python3.11", "-m", "venv", "--without-pip", folder / "env")
        yield Workshop(place, folder, folder / "env/bin/python")


@contextmanager
def host(say: Progress) -> Iterator[Workshop]:
    with tempfile.TemporaryDirectory(prefix="fluxen-build-") as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        say(f"environment of {platform.python_implementation()} {platform.python_version()}, this machine's")
        yield Workshop(Chroot(Path("/")), folder, folder / "env/bin/python")


def furnish(workshop: Workshop, wheel: Path, env: dict[str, str], say: Progress) -> None:
    """The environment to freeze: exactly what the lock says, and the wheel."""
    for name in PACKAGING:
        target = workshop.here / "packaging" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / "packaging" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    shutil.copy(wheel, workshop.here)
    say("environment")
    bundled = "import ensurepip, pathlib; print(*pathlib.Path(ensurepip.__file__).parent.glob('_bundled/pip-*'))"
    pip = run(workshop, "-c", bundled, env={}, capture=True)
    install = (f"{pip.strip()}/pip", "install", "--quiet", "--no-compile", "--no-warn-script-location")
    run(workshop, *install, "--require-hashes", "-r", workshop.folder / "packaging/requirements.lock", env=env)
    run(workshop, *install, "--no-deps", "--no-index", workshop.folder / wheel.name, env=env)


def run(workshop: Workshop, *arguments: str | Path, env: dict[str, str], capture: bool = False) -> str:
    """The environment's Python, in the workshop's folder."""
    return workshop.place.run(workshop.python, *arguments, env=env, capture=capture, cwd=str(workshop.folder))


def sums(out: Path) -> None:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(out.iterdir())
        if path.is_file() and path.name != "fluxen"
    ]
    (out / "SHA256SUMS").write_text("".join(lines))


def differences(first: Path, second: Path) -> list[str]:
    def digests(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    one, two = digests(first), digests(second)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def publish(staged: Path, out: Path) -> None:
    """Move it all to its place; files of the same names there are replaced, those of an earlier release removed."""
    out.mkdir(parents=True, exist_ok=True)
    earlier = out / "SHA256SUMS"
    names = [line.split()[1] for line in earlier.read_text().splitlines()] if earlier.exists() else []
    for name in (*names, *(path.name for path in staged.iterdir())):
        target = out / Path(name).name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    for path in sorted(staged.iterdir()):
        shutil.move(path, out / path.name)


if __name__ == "__main__":
    sys.exit(main())
