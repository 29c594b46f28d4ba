"""The files of a release: what is in them, that they agree, and what they say about themselves.

Of `dist`, or of FLUXEN_DIST=FOLDER.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from shared import ROOT, require_program

from fluxen import __version__

DIST = Path(os.environ.get("FLUXEN_DIST") or ROOT / "dist").absolute()
FLOOR = (2, 31)
"""glibc of Debian 11."""

NAME = f"fluxen-{__version__}-linux-{platform.machine()}"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
FORMS = {"one file": f"{NAME}.tar.xz", "folder": f"{NAME}-folder.tar.xz"}
DEB = f"fluxen_{__version__}_{ARCHITECTURE}.deb"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def sums() -> dict[str, str]:
    lines = (DIST / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


@pytest.fixture(scope="module")
def bom() -> Any:
    return json.loads((DIST / "sbom.cdx.json").read_text())


@pytest.fixture(scope="module")
def binaries() -> list[Path]:
    files = [path for path in (DIST / "fluxen-folder").rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes().startswith(b"\x7fELF")]


def unpack(form: str, folder: Path) -> Path:
    subprocess.run(["tar", "-xJf", DIST / FORMS[form], "-C", folder], check=True)
    (made,) = folder.iterdir()
    return made


def test_sums_are_those_of_every_file(sums: dict[str, str]) -> None:
    assert {*FORMS.values(), DEB, "sbom.cdx.json", "THIRD-PARTY-LICENSES.txt"} <= set(sums)
    assert [name for name in sums if name.endswith(".whl")]
    for name, digest in sums.items():
        assert hashlib.sha256((DIST / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_holds_what_runs_and_what_describes_it(form: str, tmp_path: Path) -> None:
    made = unpack(form, tmp_path)
    beside = {"LICENSE", "THIRD-PARTY-LICENSES.txt", "completions", "fluxen", "fluxen.1"}
    assert {path.name for path in made.iterdir()} - {"_internal"} == beside
    assert (made / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {path.name for path in (made / "completions").iterdir()} == {"_fluxen", "fluxen.bash", "fluxen.fish"}
    said = subprocess.run([made / "fluxen", "--version"], env={}, cwd="/", capture_output=True, text=True, check=True)
    assert said.stdout == f"fluxen {__version__}\n"


@pytest.mark.parametrize("form", FORMS)
def test_archives_are_small_and_say_nothing_of_who_made_them(form: str) -> None:
    with tarfile.open(DIST / FORMS[form]) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(
        (member.name for member in members), key=lambda n: Path(n).parts
    )
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "root", "root")}
    assert len({member.mtime for member in members}) == 1
    assert {member.mode for member in members} <= {0o755, 0o644, 0o777}
    assert (DIST / FORMS[form]).stat().st_size <= 45 * MEGABYTE
    assert sum(member.size for member in members) <= 115 * MEGABYTE


def test_no_binary_asks_for_a_newer_glibc(binaries: list[Path], bom: Any) -> None:
    """The base's glibc; a program that was made without the base says what it needs."""
    objdump = require_program("objdump")
    needed = {(0,)}
    for path in binaries:
        listed = subprocess.run([objdump, "-T", path], capture_output=True, text=True, check=True).stdout
        needed |= {tuple(map(int, version.split("."))) for version in re.findall(r"\bGLIBC_([0-9.]+)", listed)}
    stated = {item["name"]: item["value"] for item in bom["metadata"]["properties"]}["fluxen:needs-glibc"]
    assert ".".join(map(str, max(needed))) == stated
    if os.environ.get("FLUXEN_REQUIRE_ALL") == "1":
        assert max(needed) <= FLOOR


def test_the_bill_of_materials_is_valid() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str((DIST / "sbom.cdx.json").read_text())
    assert found is None, found


def test_the_bill_of_materials_names_everything(bom: Any, binaries: list[Path]) -> None:
    """Every library of the system that lies in the folder, and what Fluxen's distribution asks for, in turn."""
    named = {component["name"].lower().replace("_", "-") for component in bom["components"]}
    assert {"cpython", "openssl", "pyinstaller"} <= named
    assert required("fluxen") - DOWNLOADING <= named
    assert not named & DOWNLOADING, "what is not in it is not named"
    for path in binaries:
        if not (library := re.match(r"lib([a-z+_]+)[-.0-9]*\.so", path.name)):
            continue
        stem = {"crypto": "openssl", "ssl": "openssl", "python": "cpython", "z": "zlib"}.get(
            library[1], f"lib{library[1]}"
        )
        assert [name for name in named if name.startswith(stem.replace("_", "-"))], path.name
    assert all(component["licenses"] for component in bom["components"])
    cves = {
        fixed["id"]
        for component in bom["components"]
        for patch in component.get("pedigree", {}).get("patches", [])
        for fixed in patch.get("resolves", [])
    }
    assert not cves or "CVE-2023-24329" in cves  # from the base: one that CPython 3.11.2 is known for


DOWNLOADING = {"requests", "urllib3", "charset-normalizer"}
"""What tiktoken needs to download ranks only, and is left out (fluxen.spec)."""


def required(distribution: str) -> set[str]:
    """Names of all that a distribution needs everywhere, whatever the system and the extras."""
    found: set[str] = set()
    pending = [distribution]
    while pending:
        for line in importlib.metadata.requires(pending.pop()) or ():
            wanted = re.match(r"[A-Za-z0-9._-]+", line)
            assert wanted, line
            name = wanted[0].lower().replace("_", "-")
            if ";" not in line and name not in found:
                found.add(name)
                pending.append(name)
    return found


def test_the_terms_of_everything_are_there_in_full(bom: Any) -> None:
    text = (DIST / "THIRD-PARTY-LICENSES.txt").read_text()
    assert "UNKNOWN" not in text
    for component in bom["components"]:
        assert f"{component['name']} {component['version']}: {component['licenses'][0]['expression']}" in text
    for sentence in (
        "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2",
        "Bootloader Exception",
        "GCC RUNTIME LIBRARY EXCEPTION",
        "Mozilla Public License Version 2.0",
        "libuv project contributors",
        "Mbed TLS",
    ):
        assert sentence.lower() in text.lower(), sentence


def test_the_manual_page_is_clean_and_complete(tmp_path: Path) -> None:
    made = unpack("one file", tmp_path)
    groff = require_program("groff")
    done = subprocess.run(
        [groff, "-ww", "-man", "-Kutf8", "-Tutf8", "-P-cbou", made / "fluxen.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    listed = subprocess.run([made / "fluxen", "--help"], env={}, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  ([a-z]+)  ", listed.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        assert f"fluxen {command}" in done.stdout
    for name in environment_variables():
        assert name in done.stdout, name


def environment_variables() -> set[str]:
    """Those of Fluxen's own that its code asks for."""
    code = [path.read_text() for folder in ("fluxen", "cli") for path in (ROOT / folder).rglob("*.py")]
    return {name for text in code for name in re.findall(r"\"(FLUXEN_[A-Z_]+)\"", text)}


def test_the_package_says_what_it_needs() -> None:
    require_program("dpkg-deb")
    shown = subprocess.run(["dpkg-deb", "--field", DIST / DEB], capture_output=True, text=True, check=True).stdout
    fields = dict(re.findall(r"^([A-Z][A-Za-z-]+): (.*)$", shown, re.MULTILINE))
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("fluxen", __version__, ARCHITECTURE)
    assert re.fullmatch(r"libc6 \(>= 2\.\d+\), adduser", fields["Depends"])
    assert (DIST / DEB).stat().st_size <= 45 * MEGABYTE
