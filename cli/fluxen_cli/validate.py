"""`fluxen validate`: the road `fluxen serve` takes, without the start."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError
from fluxen_cli import output

if TYPE_CHECKING:
    from fluxen.config.load import Loaded

_LINE = re.compile(
    r"(?P<file>.+?):(?P<line>[0-9]+):(?P<column>[0-9]+): (?:(?P<where>\S+): )?(?P<message>.*)", re.DOTALL
)


def command(
    file: Annotated[Path | None, typer.Argument(help="Default: the file `fluxen serve` would use.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
) -> None:
    """Check a configuration. Prints every problem with file:line:column; exit code 3 when there is one."""
    if schema:
        from fluxen.config.schema import shipped

        output.emit(shipped())
        return
    from fluxen.config.load import load_config
    from fluxen.gateway.snapshot import build

    try:
        loaded = load_config(file, os.environ)
        snapshot = build(loaded, os.environ)
    except ConfigError as error:
        if not as_json:
            raise
        problems = error.problems or (error.message,)
        output.emit_json({"ok": False, "problems": [_split(line) for line in problems], "warnings": []})
        raise typer.Exit(error.exit_code) from None
    if loaded.path and not loaded.document.value:
        name = output.visible(str(loaded.path))
        output.note(f"note: {name} is empty (or only comments): that is open mode with the defaults")
    names = [upstream.name for upstream in snapshot.upstreams]
    keys = snapshot.keys
    if as_json:
        answer = {
            "ok": True,
            "file": str(loaded.path) if loaded.path else None,
            "upstreams": names,
            "static_keys": len(loaded.config.api_keys.static) if loaded.config.api_keys else 0,
            "keys": 0 if keys is None else len(keys),
            "open_mode": snapshot.open_mode,
            "problems": [],
            "warnings": [_split(line) for line in snapshot.warnings],
        }
        output.emit_json(answer)
        return
    for warning in snapshot.warnings:
        output.note(f"warning: {output.visible(warning)}")
    said = _summary(loaded, names, None if keys is None else len(keys), len(snapshot.warnings))
    output.emit(f"ok: {said}\n")


def _summary(loaded: Loaded, names: list[str], keys: int | None, warnings: int) -> str:
    said = [
        str(loaded.path) if loaded.path else "no configuration file",
        f"{len(names)} upstream{'s' if len(names) != 1 else ''} ({', '.join(names)})",
        "open mode: no keys" if keys is None else f"{keys} client key{'s' if keys != 1 else ''}",
    ]
    if warnings:
        said.append(f"{warnings} warning{'s' if warnings != 1 else ''}")
    return ", ".join(said)


def _split(line: str) -> dict[str, object]:
    """A problem's line as fields; what has no place in a file is only a message."""
    match = _LINE.fullmatch(line)
    if match is None:
        return {"message": line}
    place = {"line": int(match["line"]), "column": int(match["column"])}
    return {"file": match["file"], **place, "where": match["where"], "message": match["message"]}
