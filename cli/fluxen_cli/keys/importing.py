"""`fluxen keys import`: client keys from another gateway, or from a list, with the keys their users have."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError, FluxenError
from fluxen_cli import output
from fluxen_cli.keys.place import AsJson, Gateways, Place, obeyed_note
from fluxen_cli.places import ConfigFile, DataDir

if TYPE_CHECKING:
    from fluxen.keys.imported import Imported

_MOST_BYTES = 256 * 2**20
_SHORT = 32
_SHOWN = 20


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines, a JSON array or CSV; - reads stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what is wrong.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Take over client keys, so that nobody has to be given a new one.

    Each has an id, and its key or hash (sha256:… or 64 hexadecimal digits, which other gateways keep, too); and, if it
    has them, created, name, team, project, tags, expires, upstreams, models, routes and networks. In CSV, lists are
    separated by blanks and tags are written a=b. All of them are taken or, when anything is wrong, none; every
    problem is told with its line. Keys that are there already, and the same, are left as they are.
    """
    from fluxen.keys.imported import read_import

    raw = _read(file)
    place = Place(data_dir, config)
    found = read_import(raw, datetime.now(UTC))
    stored = place.store.read()
    found.compare(stored, place.written.keys)
    _check_upstreams(place, found)
    problems = tuple(f"{file}:{line}: {message}" for line, message in sorted(found.problems))
    if problems and as_json:
        lines = [{"line": line, "message": message} for line, message in sorted(found.problems)]
        output.emit_json({"ok": False, "imported": 0, "problems": lines})
        raise typer.Exit(ConfigError.exit_code)
    if problems:
        raise ConfigError(f"{file} has {_many(len(problems), 'problem')}: nothing was imported", problems)
    told: list[dict[str, object]] = []
    if found.entries and not dry_run:
        gateways = Gateways(place.folder)
        with place.store.change() as draft:
            for entry in found.entries:
                draft.add(entry)
        told = gateways.tell()
    _tell_short(found)
    count = len(found.entries)
    if as_json:
        output.emit_json(
            {
                "ok": True,
                "dry_run": dry_run,
                "imported": 0 if dry_run else count,
                "new": count,
                "already_there": found.there,
                "ids": [entry["id"] for entry in found.entries],
                "file": str(place.store.path),
                "problems": [],
                "gateways": told,
            }
        )
        return
    keys = _many(count, "key")
    there = f", {found.there} are there already" if found.there else ""
    if dry_run:
        output.note(f"{keys} would be imported into {place.store.path}{there}; nothing is wrong")
        return
    output.note(f"{keys} imported into {place.store.path}{there}")
    if found.plain:
        output.note(f"{file} holds keys as they are: remove it when you are done")
    if count and (said := obeyed_note(told)):
        output.note(said)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _read(file: str) -> bytes:
    if file == "-":
        raw = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        with Path(file).open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise FluxenError(f"{file} is larger than {_MOST_BYTES} bytes", hint="is it the right file?")
    return raw


def _check_upstreams(place: Place, found: Imported) -> None:
    seen: dict[str, list[str]] = {}
    for line, entry in zip(found.lines, found.entries, strict=True):
        for name in entry.get("upstreams", ()):
            if name not in seen:
                seen[name] = place.check_upstreams([name])
            found.problems += [(line, f"upstreams: {problem}") for problem in seen[name]]


def _tell_short(found: Imported) -> None:
    short = [key_id for key_id, length in found.plain.items() if length < _SHORT]
    if short:
        named = ", ".join(short[:_SHOWN]) + (" …" if len(short) > _SHOWN else "")
        output.note(
            f"warning: short enough to be guessed by whoever sees a hash, and slowed down with a guesser: "
            f"{output.visible(named)}; fluxen keys rotate gives them keys of 256 bits"
        )
