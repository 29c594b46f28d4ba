"""Writes vendored.toml and licences/: what others have compiled into the wheels of the lock, with its terms.

    python packaging/release/collect.py

To be run when `make dist` says that the version of such a wheel is unknown. Fetches source archives with pip and crates
with cargo, and reads what is in them; texts that no archive holds come from /usr/share/doc of a Debian with PACKAGES.
The result is read, corrected where a library has come or gone, and committed: `make dist` needs none of this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE.parent / "requirements.lock"
PACKAGES = ("libffi8", "libicu72", "libyaml-0-2")
CRATES = ("cryptography", "pydantic-core")  # written in Rust: their wheels list what is in them
UNLISTED = ("tiktoken",)  # written in Rust, without a list: the names of source files in the binary tell
DUCKDB = "external/duckdb/third_party"
NOT_LINUX = ("r-efi", "wasi", "wit-bindgen-rt")  # in the lists of crates, not in what is built for Linux


@dataclass(frozen=True, slots=True)
class Library:
    name: str
    licence: str
    text: str  # a file of the source archive; with a leading slash: of this machine
    version: str = ""  # the header that says it
    parts: tuple[str, ...] = ()  # the macros in it


def duckdb(name: str, licence: str, text: str = "") -> Library:
    return Library(name, licence, text or f"{DUCKDB}/{name}/LICENSE")


LINKED: dict[str, tuple[Library, ...]] = {
    "brotli": (),  # the wheel is the library, under the same licence
    "cffi": (Library("libffi", "MIT", "/usr/share/doc/libffi8/copyright"),),
    "cryptography": (Library("openssl", "Apache-2.0", "LICENSE.APACHE"),),  # the wheel says which version
    "msgspec": (),
    "pydantic-core": (),
    "httptools": (
        Library(
            "llhttp", "MIT", "vendor/llhttp/LICENSE", "vendor/llhttp/include/llhttp.h",
            ("LLHTTP_VERSION_MAJOR", "LLHTTP_VERSION_MINOR", "LLHTTP_VERSION_PATCH"),
        ),
        Library("http-parser", "MIT", "vendor/http-parser/LICENSE-MIT", "vendor/http-parser/http_parser.h",
                ("HTTP_PARSER_VERSION_MAJOR", "HTTP_PARSER_VERSION_MINOR", "HTTP_PARSER_VERSION_PATCH")),
    ),
    "pyyaml": (Library("libyaml", "MIT", "/usr/share/doc/libyaml-0-2/copyright"),),
    "regex": (),
    "tiktoken": (),
    "uvloop": (
        Library("libuv", "MIT AND ISC AND BSD-3-Clause", "vendor/libuv/LICENSE*", "vendor/libuv/include/uv/version.h",
                ("UV_VERSION_MAJOR", "UV_VERSION_MINOR", "UV_VERSION_PATCH")),
    ),
    "zstandard": (
        Library("zstd", "BSD-3-Clause", "zstd/LICENSE", "zstd/zstd.h",
                ("ZSTD_VERSION_MAJOR", "ZSTD_VERSION_MINOR", "ZSTD_VERSION_RELEASE")),
    ),
    "duckdb": (
        duckdb("alp", "MIT", "external/duckdb/src/include/duckdb/storage/compression/alp/algorithm/LICENSE"),
        duckdb("brotli", "MIT"),
        duckdb("concurrentqueue", "BSD-2-Clause"),
        duckdb("fast_float", "MIT"),
        duckdb("fastpforlib", "Apache-2.0"),
        duckdb("fmt", "MIT"),
        duckdb("fsst", "MIT"),
        duckdb("httplib", "MIT"),
        duckdb("hyperloglog", "MIT"),
        duckdb("icu", "Unicode-3.0", "/usr/share/doc/libicu72/copyright"),
        duckdb("jaro_winkler", "MIT"),
        duckdb("jemalloc", "BSD-2-Clause"),
        duckdb("lz4", "BSD-2-Clause"),
        duckdb("mbedtls", "Apache-2.0"),
        duckdb("miniz", "MIT"),
        duckdb("parquet", "Apache-2.0"),
        duckdb("pcg", "MIT"),
        duckdb("pdqsort", "Zlib"),
        duckdb("re2", "BSD-3-Clause"),
        duckdb("ska_sort", "BSL-1.0"),
        duckdb("skiplist", "MIT"),
        duckdb("snappy", "BSD-3-Clause"),
        duckdb("tdigest", "Apache-2.0", f"{DUCKDB}/tdigest/*"),
        duckdb("thrift", "Apache-2.0", f"{DUCKDB}/thrift/thrift/LICENSE"),
        duckdb("utf8proc", "MIT AND Unicode-3.0"),
        duckdb("vergesort", "MIT"),
        duckdb("yyjson", "MIT"),
        duckdb("zstd", "BSD-3-Clause"),
    ),
}  # fmt: skip


def main() -> None:
    locked = dict(re.findall(r"^([a-z0-9_-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    entries = []
    for name, libraries in sorted(LINKED.items()):
        version = locked[name]
        entries.append(f'[{name}]\nversion = "{version}"\n')
        if not libraries and name not in (*CRATES, *UNLISTED):
            continue
        entries[-1] += f'texts = "{name}.txt"\n'
        with tempfile.TemporaryDirectory() as scratch:
            source = fetch(name, version, Path(scratch))
            if name in UNLISTED:
                entries[-1] += "".join(embedded(name, version, source))
            texts = list(crates(source)) if name in (*CRATES, *UNLISTED) else []
            for library in libraries:
                texts += [(f"{library.name}: {path.name}", read(path)) for path in files(library, source)]
                said = version_of(library, source) or f"as of {name} {version}"
                entries[-1] += f"[[{name}.parts]]\n"
                entries[-1] += f'name = "{library.name}"\nversion = "{said}"\nlicence = "{library.licence}"\n'
        (HERE / "licences" / f"{name}.txt").write_text("\n".join(f"--- {title}\n\n{text}\n" for title, text in texts))
        print(f"{name} {version}: {len(texts)} texts", file=sys.stderr)
    head = "# Written by collect.py: what is linked into the wheels that hold compiled code.\n\n"
    (HERE / "vendored.toml").write_text(head + "\n".join(entries))


def fetch(name: str, version: str, folder: Path) -> Path:
    """The unpacked source archive."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(folder)]
    subprocess.run([*pip, f"{name}=={version}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def files(library: Library, source: Path) -> list[Path]:
    if library.text.startswith("/"):
        return [Path(library.text)]
    found = [path for path in sorted(source.glob(library.text)) if re.match(r"LICEN|COPYING|NOTICE", path.name)]
    if not found:
        raise SystemExit(f"{library.name}: no {library.text} in {source.name}")
    return found


def version_of(library: Library, source: Path) -> str:
    if not library.version:
        return ""
    text = next(source.glob(library.version)).read_text()
    numbers = [re.search(rf"define\s+{macro}\s+(\d+)", text) for macro in library.parts]
    return ".".join(found[1] for found in numbers if found)


def embedded(name: str, version: str, source: Path) -> Iterator[str]:
    """The crates in the wheel's binary as parts; `source` becomes a project that depends on exactly these."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", name]
    subprocess.run([*pip, "--dest", str(source), f"{name}=={version}"], check=True)
    (wheel,) = source.glob("*.whl")
    found: set[tuple[str, str]] = set()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith(".so"):
                paths = re.findall(
                    rb"/registry/src/[^/]+/([a-z0-9_-]+?)-([0-9]+\.[0-9][0-9A-Za-z.+-]*)/", archive.read(member)
                )
                found |= {(crate.decode(), number.decode()) for crate, number in paths}
    project = '[package]\nname = "parts"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
    project += "".join(
        f'{crate} = {{ version = "={number}", default-features = false }}\n' for crate, number in sorted(found)
    )
    (source / "Cargo.toml").write_text(project)
    (source / "src" / "lib.rs").write_text("")
    subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=source, check=True)
    listed = subprocess.run(["cargo", "metadata", "--format-version=1"], cwd=source, check=True, capture_output=True)
    licences = {(one["name"], one["version"]): one["license"] for one in json.loads(listed.stdout)["packages"]}
    for crate, number in sorted(found):
        licence = licences[crate, number].replace("/", " OR ")
        yield f'[[{name}.parts]]\nname = "{crate}"\nversion = "{number}"\nlicence = "{licence}"\n'


def crates(source: Path) -> Iterator[tuple[str, str]]:
    """Every text once, under the names of the crates that have it."""
    target = source / "crates"
    subprocess.run(
        ["cargo", "vendor", "--quiet", "--locked", str(target)], cwd=source, check=True, stdout=subprocess.DEVNULL
    )
    holders: dict[str, list[str]] = {}
    for crate in sorted(target.iterdir()):
        found = [
            path
            for path in sorted(crate.iterdir())
            if re.match(r"(?i)licen|copying|unlicen|copyright|notice", path.name)
        ]
        if not found and crate.name not in NOT_LINUX:
            raise SystemExit(f"{crate.name}: no licence in it")
        for path in found:
            if path.is_file():
                holders.setdefault(read(path), []).append(crate.name)
    for text, names in holders.items():
        yield ", ".join(dict.fromkeys(names)), text


def read(path: Path) -> str:
    return "\n".join(line.rstrip() for line in path.read_text(errors="replace").splitlines()).strip("\n")


if __name__ == "__main__":
    main()
