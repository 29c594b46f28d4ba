"""What is inside the executable: read from PyInstaller's lists of what it packed, file by file.

Every file comes from a distribution of the environment (its RECORD names it), from CPython, from a library that the
base built, or from a package of Debian. One that comes from nowhere ends the build. Compiled code that others have
linked into a wheel leaves no file behind: vendored.toml names it, for one version of each such wheel.
"""

from __future__ import annotations

import ast
import json
import platform
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from release.base import RECORD, Patch, Record
from release.chroot import Chroot

HERE = Path(__file__).parent
LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|copying|notice|authors)[^/]*$")

# As their metadata says it in words, where it has no SPDX expression.
SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-or-later WITH Bootloader-exception",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Debian describes licences in sentences, and names the common ones by a file that all its packages share.
DEBIAN = {
    "gcc-10": ("GPL-3.0-or-later WITH GCC-exception-3.1", ("GPL-3",)),
    "gcc-12": ("GPL-3.0-or-later WITH GCC-exception-3.1", ("GPL-3",)),
    "openssl": ("Apache-2.0", ("Apache-2.0",)),
    "python3.11": ("PSF-2.0", ()),
    "util-linux": ("BSD-3-Clause", ()),  # libuuid
    "libffi": ("MIT", ()),
    "bzip2": ("bzip2-1.0.6", ()),
    "xz-utils": ("0BSD", ()),
    "zlib": ("Zlib", ()),
    "expat": ("MIT", ()),
}
IN_FULL = ("MPL-2.0",)
BUILT = {"openssl": ("OpenSSL", "Apache-2.0"), "python3.11": ("CPython", "PSF-2.0")}


class UnknownPartError(SystemExit):
    """Something is packed of which it isn't known what it is or whose."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    version: str
    licence: str  # an SPDX expression
    texts: tuple[tuple[str, str], ...]  # name of the file, its text
    purl: str | None = None
    within: str | None = None  # the part it is linked into
    source: str = ""  # where its source is, when the licence asks to say it
    patches: tuple[Patch, ...] = field(default=())


def take(work: Path, place: Chroot, packages: Path, record: Record | None) -> list[Part]:
    """Of the lists in `work`, the scratch folder of freeze.py; `packages`: site-packages of its environment."""
    distributions = {path: info for info in packages.glob("*.dist-info") for path in _files(info, packages)}
    found: set[Path] = set()
    others: set[str] = set()
    for source in packed(work):
        here = place.at(source)
        if info := distributions.get(here):
            found.add(info)
        elif not (here.is_relative_to(work.parent) and not here.is_relative_to(packages)):
            others.add(source)
    parts = [part for info in sorted(found) for part in _distribution(info)]
    parts += _system(others, place, record) if record else _machine(others)
    return sorted(parts, key=lambda part: (part.name.lower(), part.version))


def packed(work: Path) -> set[str]:
    """The files that went into it, as PyInstaller saw them."""
    lists = sorted(work.rglob("*.toc"))
    if not {"PYZ-00.toc", "COLLECT-00.toc"} <= {path.name for path in lists}:
        raise UnknownPartError(f"PyInstaller's lists are not in {work}")
    entries = (entry for path in lists if path.name.startswith(("PYZ", "COLLECT", "PKG")) for entry in _walk(path))
    return {source for _, source, _ in entries if source.startswith("/")}


def _walk(path: Path) -> Iterator[tuple[str, str, str]]:
    pending = [ast.literal_eval(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, tuple) and len(node) == 3 and all(isinstance(item, str) for item in node):
            yield node
        elif isinstance(node, list | tuple):
            pending.extend(node)


def _files(info: Path, packages: Path) -> Iterator[Path]:
    for line in (info / "RECORD").read_text().splitlines():
        yield packages / line.rsplit(",", 2)[0].strip('"')


def _distribution(info: Path) -> Iterator[Part]:
    about = HeaderParser().parsestr((info / "METADATA").read_text())
    name, version = str(about["Name"]), str(about["Version"])
    if name == "fluxen":
        return
    texts = tuple(
        (str(path.relative_to(info)), path.read_text())
        for path in sorted(info.rglob("*"))
        if path.is_file() and LICENCE_FILE.search(path.name)
    )
    if not texts:
        raise UnknownPartError(f"{name} {version} comes without the text of its licence")
    licence = _licence(about)
    if licence in IN_FULL:  # the distribution only says where to read it
        texts += ((f"{licence}.txt", (HERE / "licences" / f"{licence}.txt").read_text()),)
    yield Part(name, version, licence, texts, purl=f"pkg:pypi/{_normal(name)}@{version}")
    yield from _linked_in(name, version, info)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _licence(about: Message) -> str:
    if expression := about["License-Expression"]:
        return str(expression)
    classified = [str(line).rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if "License ::" in line]
    names = [SPDX[line] for line in classified if line in SPDX]
    stated = str(about["License"] or "").strip().partition("\n")[0].removesuffix(" License")  # or the whole text
    if not names and (stated in SPDX or stated in SPDX.values()):
        names = [SPDX.get(stated, stated)]
    if not names:
        raise UnknownPartError(f"{about['Name']}: no licence that is known: {classified or stated!r}")
    return " OR ".join(sorted(names))


def _linked_in(name: str, version: str, info: Path) -> Iterator[Part]:
    """What is compiled into a wheel's extension modules."""
    known = tomllib.loads((HERE / "vendored.toml").read_text())
    binaries = [line for line in (info / "RECORD").read_text().splitlines() if ".so," in line]
    if not binaries:
        return
    entry = known.get(_normal(name))
    if entry is None or entry["version"] != version:
        raise UnknownPartError(
            f"{name} {version} holds compiled code; what is linked into it is not known: "
            "see packaging/release/collect.py"
        )
    if texts := entry.get("texts"):
        content = ((texts, (HERE / "licences" / texts).read_text()),)
        listed = [one for path in sorted(info.glob("sboms/*.json")) for one in _components(path)]
        unlicensed = {one["name"]: one for one in listed if "licenses" not in one}  # what isn't Rust
        for part in entry.get("parts", []):
            seen = unlicensed.pop(part["name"], None)
            number, purl = (seen["version"], seen["purl"].split("?")[0]) if seen else (part["version"], None)
            yield Part(part["name"], number, part["licence"], content, purl, within=name)
        if unlicensed:
            raise UnknownPartError(f"{name} {version} holds {', '.join(unlicensed)}: see packaging/release/collect.py")
        for crate in listed:
            if "licenses" in crate:
                licence = " AND ".join(item["expression"] for item in crate["licenses"])
                purl = crate["purl"].split("?")[0]
                yield Part(crate["name"], crate["version"], licence, content, purl=purl, within=name)


def _components(path: Path) -> list[dict[str, Any]]:
    components: list[dict[str, Any]] = json.loads(path.read_text())["components"]
    return components


def _system(sources: Iterable[str], place: Chroot, record: Record) -> Iterator[Part]:
    """Interpreter and shared libraries of the base."""
    seen: set[str] = set()
    for source in sorted(sources):
        built = _built(source)
        if built and built not in seen:
            seen.add(built)
            name, licence = BUILT[built]
            patches = tuple(patch for patch in record.patches if patch.package == built)
            text = place.at(RECORD).joinpath("licences", built).read_text()
            version = record.built[built]
            purl = f"pkg:deb/debian/{built}@{version.replace('+', '%2B')}?arch=source&distro=bookworm"
            yield Part(name, version, licence, (("LICENSE", text),), purl, patches=patches)
        elif not built:
            yield from _debian(source, place, seen)


def _machine(sources: Iterable[str]) -> Iterator[Part]:
    """Interpreter and shared libraries of this machine. What it can't name is said to be so: not for publication."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    text = stdlib / "LICENSE.txt"
    terms = text.read_text() if text.exists() else sys.copyright
    yield Part("CPython", platform.python_version(), "PSF-2.0", (("LICENSE", terms),))
    seen: set[str] = set()
    for source in sorted(sources):
        if Path(source).is_relative_to(stdlib) or Path(source).name.startswith("libpython"):
            continue
        try:
            yield from _debian(source, Chroot(Path("/")), seen)
        except (UnknownPartError, FileNotFoundError):
            yield Part(Path(source).name, "this machine's", "LicenseRef-unidentified", ())


def _built(source: str) -> str | None:
    if re.search(r"^/usr/local/lib/lib(ssl|crypto)\.so", source):
        return "openssl"
    return "python3.11" if source.startswith(("/usr/local/lib/python3.11/", "/usr/local/lib/libpython3")) else None


def _debian(source: str, place: Chroot, seen: set[str]) -> Iterator[Part]:
    """The package of Debian that a file belongs to; its database knows /lib also where that is /usr/lib."""
    real = "/" + str(place.at(source).resolve().relative_to(place.root.resolve()))
    names = (source, real, source.removeprefix("/usr"), real.removeprefix("/usr"))
    asked = subprocess.run(
        ["dpkg", f"--root={place.root}", "--search", *names], capture_output=True, text=True, check=False
    ).stdout
    if not asked:
        raise UnknownPartError(f"{source} is packed, and belongs to no package")
    package = asked.split(": ")[0].split(", ")[0]
    if package in seen:
        return
    seen.add(package)
    form = "${binary:Package}\t${Version}\t${source:Package}\t${source:Version}"
    shown = subprocess.run(
        ["dpkg-query", f"--admindir={place.at('/var/lib/dpkg')}", "--show", f"--showformat={form}", package],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    name, version, origin, origin_version = shown.split("\t")
    name = name.partition(":")[0]
    if origin not in DEBIAN:
        raise UnknownPartError(f"{source} is packed: the licence of Debian's {origin} is not in release/inventory.py")
    licence, shared = DEBIAN[origin]
    files = [
        place.at(f"/usr/share/doc/{name}/copyright"),
        *(place.at(f"/usr/share/common-licenses/{one}") for one in shared),
    ]
    yield Part(
        name,
        version,
        licence,
        tuple((path.name, path.read_text()) for path in files),
        purl=f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}",
        source=f"Debian source package {origin} {origin_version}",
    )
