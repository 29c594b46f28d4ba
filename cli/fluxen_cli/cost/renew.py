"""`fluxen cost prices update`: another price book, for a gateway that need not be upgraded for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError, FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, data_folder

if TYPE_CHECKING:
    from fluxen.analyzer.prices import PriceBook


def command(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The new price book; '-' reads it from stdin.")
    ] = None,
    revert: Annotated[
        bool, typer.Option("--revert", help="Go back to the price book that came with this version.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Put another price book in force: for requests from now on, in every gateway that serves from the data folder.

    The file is one that packaging/build_prices.py writes. It is checked as a whole, kept in the data folder, and taken
    up within a second. An older one than that in force is refused. Costs of requests before stay as they are:
    `fluxen cost reprice` computes them anew.
    """
    if (file is None) != revert:
        raise typer.BadParameter("name a file, or --revert")
    folder = data_folder(data_dir, config)
    from fluxen.analyzer.prices import FILE
    from fluxen.keys.private import locked, write_whole
    from fluxen_cli.keys.place import Gateways, obeyed_note

    raw = None if file is None else _read(file)
    path = folder / FILE
    gateways = Gateways(folder)
    with locked(path, "the price book is kept"):
        before = _in_force(folder, lenient=revert)
        after = _accepted(raw, before, str(file))
        changed = before is None or after.version != before.version or (raw is None and path.exists())
        if changed and raw is None:
            path.unlink(missing_ok=True)
        elif changed and raw is not None:
            write_whole(path, raw)
    told = gateways.tell() if changed else []
    counts = None if before is None else _differences(before, after)
    if as_json:
        said = {"file": str(path), "version": after.version, "before": None if before is None else before.version}
        output.emit_json({**said, "changed": changed, "models": counts, "gateways": told})
        return
    if not changed:
        output.note(f"price book {after.version} is in force already")
        return
    if counts is None:
        output.note(f"{path} could not be read and is gone: price book {after.version} of this version is used again")
    else:
        output.note(f"price book {after.version}: {', '.join(f'{n} models {what}' for what, n in counts.items())}")
    if note := obeyed_note(told):
        output.note(note)


def _read(file: Path) -> bytes:
    from fluxen.analyzer import pricecheck
    from fluxen.analyzer.prices import MAX_BYTES
    from fluxen.config.paths import read_file

    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if str(file) == "-" else read_file(file, MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_BYTES} bytes")
    if problems := pricecheck.problems(raw):
        raise ConfigError(f"{file} is no price book that can be used", tuple(problems), "nothing was changed")
    return raw


def _in_force(folder: Path, *, lenient: bool) -> PriceBook | None:
    """The list prices in force now. lenient: None instead of an error when the file there can't be used."""
    from fluxen.analyzer.prices import load_book

    try:
        return load_book(folder)
    except ConfigError:
        if lenient:
            return None
        raise


def _accepted(raw: bytes | None, before: PriceBook | None, name: str) -> PriceBook:
    """The book of these bytes, if it may take the place of the one in force; None: the shipped one."""
    from fluxen.analyzer.prices import PriceBook, book_of, older, outdated

    if raw is None:
        return PriceBook.shipped()
    hint = "fluxen cost prices update --revert goes back to the one that came with this version"
    if (version := outdated(raw)) is not None:
        raise FluxenError(f"{name} is {version}, older than the book of this version", hint="nothing was changed")
    after = book_of(raw)
    if before is not None and older(after.version, before.version):
        raise FluxenError(f"{name} is {after.version}, older than {before.version}, which is in force", hint=hint)
    if before is not None and after.version == before.version and not after.file.same_as(before.file):
        raise FluxenError(
            f"{name} says otherwise than the book in force, under the same version {after.version}",
            hint="rows name the version that priced them: give the file another one",
        )
    return after


def _differences(before: PriceBook, after: PriceBook) -> dict[str, int]:
    old, new = before.file.models(), after.file.models()
    return {
        "new": len(new.keys() - old.keys()),
        "changed": sum(1 for name in new.keys() & old.keys() if new[name] != old[name]),
        "gone": len(old.keys() - new.keys()),
    }
