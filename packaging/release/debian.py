"""The Debian package: the folder form in /usr/lib/fluxen, a service of its own user, nothing to compile or download."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from release.archive import Entry, ar, tar_xz, tree

DEB = Path(__file__).parent.parent / "deb"
UNIT = Path(__file__).parent.parent / "fluxen.service"
SCRIPTS = ("postinst", "postrm", "prerm")
CONFIGURATION = "etc/fluxen/fluxen.yaml"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_CONTROL = """\
Package: fluxen
Version: {version}
Architecture: {architecture}
Maintainer: The Fluxen authors <fluxen@packages.invalid>
Installed-Size: {kilobytes}
Depends: libc6 (>= {glibc}), adduser
Section: net
Priority: optional
Description: self-hosted AI gateway that records what every request cost
 Fluxen stands between your programs and OpenAI, Anthropic, Gemini and other
 providers. It forwards bytes untouched, writes one row for every request into a
 ledger of files, and reports what was spent by whom on which model.
"""


def architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def package(
    version: str,
    glibc: str,
    folder: Path,
    example: Path,
    extras: dict[str, bytes],
    licence: bytes,
    third_party: bytes,
    when: int,
) -> bytes:
    """`example` becomes the configuration file. `extras`: place below usr/share → content."""
    entries = [
        *tree(folder, "usr/lib/fluxen"),
        Entry("usr/bin/fluxen", "../lib/fluxen/fluxen"),
        Entry("usr/lib/systemd/system/fluxen.service", UNIT),
        Entry(CONFIGURATION, example),
        Entry("usr/share/doc/fluxen/copyright", _copyright(licence, third_party)),
        *(Entry(f"usr/share/{name}", content) for name, content in extras.items()),
    ]
    sizes = [_size(entry) for entry in entries]
    control = _CONTROL.format(
        version=version, architecture=architecture(), kilobytes=sum(-(-size // 1024) for size in sizes), glibc=glibc
    )
    about = [
        Entry("./control", control.encode()),
        Entry("./md5sums", _sums(entries)),
        Entry("./conffiles", f"/{CONFIGURATION}\n".encode()),
        *(Entry(f"./{name}", DEB / name, executable=True) for name in SCRIPTS),
    ]
    data = [Entry(f"./{entry.name}", entry.source, entry.executable) for entry in entries]
    return ar(
        (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", tar_xz(about, when)),
            ("data.tar.xz", tar_xz(data, when)),
        ),
        when,
    )


def _size(entry: Entry) -> int:
    if isinstance(entry.source, Path):
        return entry.source.stat().st_size
    return len(entry.source)


def _sums(entries: list[Entry]) -> bytes:
    """What `dpkg --verify` compares with."""
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        if isinstance(entry.source, str) or entry.name == CONFIGURATION:
            continue
        content = entry.source.read_bytes() if isinstance(entry.source, Path) else entry.source
        lines.append(f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}  {entry.name}\n")
    return "".join(lines).encode()


def _copyright(licence: bytes, third_party: bytes) -> bytes:
    return b"Fluxen is under the Apache License 2.0:\n\n" + licence + b"\n\n" + third_party
