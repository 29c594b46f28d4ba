"""What `fluxen doctor` looks at on this machine: installation, configuration, port, certificates, files, ledger.

Each check says what it found and, where something is wrong, what to do. None of them changes anything.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from fluxen.config.load import Loaded
from fluxen.config.paths import expand
from fluxen.config.values import Secret, substitute
from fluxen.errors import AddressInUseError, FluxenError
from fluxen.gateway.certificates import Authorities, trust
from fluxen.gateway.snapshot import Snapshot

MOST_BYTES: Final = 64 * 2**20
"""Of Parquet that are read to verify a ledger: about a million rows, two or three seconds."""
_DAYS: Final = 30  # of the ledger that are searched for models without a price
_SHOWN: Final = 5
_LOW, _VERY_LOW = 2**30, 100 * 2**20  # bytes left on the disk of the data folder

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. hint: what to do."""

    check: str
    status: Status
    message: str
    hint: str | None = None


def of_error(check: str, error: FluxenError) -> Finding:
    return Finding(check, "fail", error.message, error.hint)


def installation() -> Finding:
    """What runs here, so that a report of a problem says it."""
    import platform
    import ssl

    from fluxen import __version__
    from fluxen.gateway import unpacked

    form = "an installed package"
    if getattr(sys, "frozen", False):
        form = "the one-file executable" if unpacked.folder() else "the executable in its folder"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    libc = " ".join(platform.libc_ver()).strip()
    python = f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}"
    return Finding("version", "ok", f"Fluxen {__version__}, {form}; {python}; {system}{f', {libc}' if libc else ''}")


def configuration(loaded: Loaded, snapshot: Snapshot) -> Iterator[Finding]:
    where = str(loaded.path) if loaded.path else "no file, so the defaults"
    keys = "open mode" if snapshot.keys is None else _count(len(snapshot.keys), "client key")
    names = ", ".join(upstream.name for upstream in snapshot.upstreams)
    yield Finding("configuration", "ok", f"{where}: {_count(len(snapshot.upstreams), 'upstream')} ({names}), {keys}")
    about_files = set(_key_file_warnings(loaded))
    for warning in snapshot.warnings:
        if warning not in about_files:
            yield Finding("configuration", "warn", warning)


def port(snapshot: Snapshot) -> Finding:
    """Free, or taken by a Fluxen that answers."""
    from fluxen.gateway.bindings import bind
    from fluxen_cli import readiness
    from fluxen_cli.serve import gateway_url

    server = snapshot.config.server
    if not server.port:
        return Finding("port", "ok", f"{server.host}: the system chooses one at each start")
    try:
        for sock in bind(server.host, server.port, 1):
            sock.close()
    except AddressInUseError as error:
        verdict = readiness.ask(
            gateway_url(server.host, server.port, tls=server.tls is not None),
            None if server.tls is None else server.tls.cert_file,
        )
        if verdict.ready:
            return Finding("port", "ok", f"{server.bind_address} is served by a Fluxen that {verdict.message}")
        hint = "stop what runs there, or choose another: server.bind_address, --port"
        return Finding("port", "fail", f"{error.message}, which {verdict.message}", hint)
    except FluxenError as error:
        return Finding("port", "fail", error.message, error.hint or "check server.bind_address")
    return Finding("port", "ok", f"{server.bind_address} is free")


def certificates(authorities: Authorities, env: Mapping[str, str]) -> Finding:
    """Which authorities HTTPS upstreams are checked against."""
    try:
        store = trust(env)
        context = authorities.context(None)
    except FluxenError as error:
        return of_error("certificates", error)
    held = context.cert_store_stats()["x509_ca"]
    where = f"{store.cafile or store.capath} ({store.source})"
    if store.capath is None and not held:
        return Finding("certificates", "fail", f"{where} holds no certificate authority", "name a PEM file of some")
    return Finding("certificates", "ok", f"{where}{f': {held} authorities' if store.capath is None else ''}")


def permissions(loaded: Loaded, env: Mapping[str, str]) -> Iterator[Finding]:
    """Who else can read or change what only the gateway should."""
    found = list(_exposed(loaded, env))
    yield from found
    if not found:
        yield Finding("permissions", "ok", "configuration, keys and data are their owner's alone")


def _exposed(loaded: Loaded, env: Mapping[str, str]) -> Iterator[Finding]:
    if loaded.path is not None:
        mode = stat.S_IMODE(loaded.path.stat().st_mode)
        if mode & 0o002:
            message = f"{loaded.path} can be changed by everybody, who could have your keys sent elsewhere"
            yield Finding("permissions", "fail", message, f"chmod o-w {loaded.path}")
        if mode & 0o004 and (plain := sorted(_plain(loaded))):
            message = f"{loaded.path} can be read by everybody and holds keys as they are: {', '.join(plain)}"
            yield Finding("permissions", "warn", message, f"chmod 600 {loaded.path}, or use ${{NAME}} or file:PATH")
    for file in sorted(_secret_files(loaded, env)):
        if stat.S_IMODE(file.stat().st_mode) & 0o006:
            yield Finding("permissions", "warn", f"{file} holds a key and is open to everybody", f"chmod 600 {file}")
    for warning in _key_file_warnings(loaded):
        yield Finding("permissions", "warn", warning)
    for folder, forbidden in ((loaded.config.data_dir, 0o002), (loaded.config.data_dir / "ledger", 0o006)):
        if folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) & forbidden:
            yield Finding("permissions", "warn", f"{folder} is open to everybody", f"chmod o-rwx {folder}")


def _key_file_warnings(loaded: Loaded) -> tuple[str, ...]:
    from fluxen.keys.store import KeyStore

    stored = KeyStore(loaded.config.data_dir).read()
    return stored.warnings if stored else ()


def _secrets(loaded: Loaded) -> Iterator[tuple[str, Secret]]:
    config = loaded.config
    for name, upstream in config.upstreams.by_name.items():
        if upstream.api_key is not None:
            yield f"upstreams.{name}.api_key", upstream.api_key
        for index, credential in enumerate(upstream.credentials or ()):
            yield f"upstreams.{name}.credentials[{index}].api_key", credential.api_key
    if config.api_keys is not None:
        for index, static in enumerate(config.api_keys.static):
            if static.key is not None:
                yield f"api_keys.static[{index}].key", static.key
        for index, jwt in enumerate(config.api_keys.jwt):
            if jwt.key is not None:
                yield f"api_keys.jwt[{index}].key", jwt.key
    if config.admin is not None and config.admin.key is not None:
        yield "admin.key", config.admin.key


def _plain(loaded: Loaded) -> Iterator[str]:
    return (where for where, secret in _secrets(loaded) if secret.reference is None)


def _secret_files(loaded: Loaded, env: Mapping[str, str]) -> set[Path]:
    folder = loaded.path.parent if loaded.path else Path()
    references = (secret.reference or "" for _, secret in _secrets(loaded))
    return {
        folder / expand(substitute(reference, env)[5:]) for reference in references if reference.startswith("file:")
    }


def data_folder(folder: Path) -> Finding:
    """Whether rows can be written, and how many more."""
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not there.is_dir():
        return Finding("data folder", "fail", f"{there} is no folder", "check data_dir")
    if not os.access(there, os.W_OK | os.X_OK):
        hint = "check data_dir and who owns it, or run as the user that serves"
        return Finding("data folder", "fail", f"{there} can't be written to by this user", hint)
    free = shutil.disk_usage(there).free
    message = f"{folder}{'' if there == folder else ' (not there yet)'}, {_size(free)} free on its disk"
    if free < _LOW:
        hint = "ledger.retention_days limits how long rows are kept"
        return Finding("data folder", "fail" if free < _VERY_LOW else "warn", message, hint)
    return Finding("data folder", "ok", message)


def ledger(folder: Path) -> Iterator[Finding]:
    """Integrity, by the code of `fluxen ledger verify`, and models whose cost is not known."""
    try:
        if not folder.is_dir():
            yield Finding("ledger", "ok", f"none yet in {folder.parent}")
            return
        yield from _integrity(folder)
        yield _prices(folder)
    except FluxenError as error:
        yield of_error("ledger", error)
    except OSError as error:
        hint = "run as the user that serves, or check who owns the data folder"
        yield Finding("ledger", "fail", f"{error.filename or folder} can't be read: {error.strerror}", hint)


def _integrity(folder: Path) -> Iterator[Finding]:
    from fluxen.ledger import manifest, store

    size = sum(file.bytes for file in manifest.load(folder).files)
    if size > MOST_BYTES:
        message = f"{_size(size)} in {folder}: more than is read here"
        yield Finding("ledger", "ok", message, "fluxen ledger verify reads all of it")
        return
    found = store.verify(folder)
    for problem in found.problems[:_SHOWN]:
        yield Finding("ledger", "fail", problem, "fluxen ledger verify; restore the files from a backup")
    if found.missing:
        message = f"{_count(found.missing, 'request')} could not be written (disk full?) and are in no report"
        yield Finding("ledger", "warn", message)
    if found.quarantined:
        yield Finding("ledger", "warn", f"{_count(found.quarantined, 'damaged line')} of the journal set aside")
    if found.ok:
        yield Finding("ledger", "ok", f"{_count(found.rows, 'row')} in {folder} read and found whole")


def _prices(folder: Path) -> Finding:
    from fluxen.analyzer.prices import load_book
    from fluxen.ledger.reader import Reader

    since = datetime.now(UTC) - timedelta(days=_DAYS)
    rows = (
        Reader(folder)
        .query(
            "SELECT upstream, coalesce(model, model_asked), count(*) AS requests FROM requests "
            "WHERE cost_usd IS NULL AND usage_source IN ('reported', 'estimated') "
            "GROUP BY ALL ORDER BY requests DESC, 1, 2",
            since=since,
        )
        .rows
    )
    book = f"price book {load_book(folder.parent).version}"
    if not rows:
        return Finding("prices", "ok", f"every model used in the last {_DAYS} days has a price ({book})")
    shown = ", ".join(f"{model} at {upstream} ({requests})" for upstream, model, requests in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    hint = (
        "their cost is shown as unknown, never as $0; say what they cost under prices: in the configuration, or put a "
        "newer price book in force with fluxen cost prices update; fluxen cost reprice then prices these requests, too"
    )
    return Finding("prices", "warn", f"no price for {shown}{more}; requests in the last {_DAYS} days, {book}", hint)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / 10**9:.1f} GB" if size >= 10**9 else f"{size / 10**6:.0f} MB"
