"""`fluxen ledger`: what an operator does with the files. Every command works with the server up or down."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


class Format(StrEnum):
    """Of an export."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


def build() -> typer.Typer:
    app = typer.Typer(
        help="Verify, compact, export and back up the ledger.", no_args_is_help=True, rich_markup_mode=None
    )
    for function in (verify, compact, export, backup, views):
        app.command(function.__name__)(function)
    return app


def verify(as_json: AsJson = False, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Read everything there is and compare it with the manifest. Exit code 1 when something is wrong."""
    folder = ledger_folder(data_dir, config)
    from fluxen.ledger import store

    found = store.verify(folder)
    counts = {
        "rows": found.rows,
        "in_flight": found.in_flight,
        "lost": found.lost,
        "missing": found.missing,
        "adjustments": found.adjustments,
        "files": found.files,
        "segments": found.segments,
        "quarantined": found.quarantined,
    }
    if as_json:
        output.emit_json({"ok": found.ok, "folder": str(folder), **counts, "problems": found.problems})
    else:
        for problem in found.problems:
            output.emit(f"problem: {output.visible(problem)}\n")
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        output.emit(f"{'ok' if found.ok else 'damaged'}: {folder}: {said}\n")
    if found.missing:
        output.note(f"{found.missing} requests could not be written (disk full?) and are in no report")
    if not found.ok:
        raise typer.Exit(1)


def compact(as_json: AsJson = False, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Take sealed journal segments into Parquet now and merge each day into one file. Deletes no rows."""
    folder = ledger_folder(data_dir, config)
    from fluxen.ledger import store

    done = store.compact(folder)
    if as_json:
        output.emit_json({"segments": done.segments, "rows": done.rows, "files": done.files})
    else:
        output.emit(f"took in {done.segments} segments with {done.rows} rows; {done.files} files\n")


def export(
    target: Annotated[Path, typer.Argument(help="File to write; /dev/stdout for a pipe (not for parquet).")],
    kind: Annotated[Format | None, typer.Option("--format", help="Default: the ending of the file's name.")] = None,
    since: Annotated[str | None, typer.Option(help="Rows from this moment on; written as for `report costs`.")] = None,
    until: Annotated[str | None, typer.Option(help="Rows before this moment.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Write the rows of `requests` to one file: parquet, csv or jsonl."""
    from datetime import UTC, datetime

    from fluxen.reports.period import parse_span

    if kind is None:
        ending = target.suffix.removeprefix(".").lower()
        if ending not in {form.value for form in Format}:
            raise typer.BadParameter("--format is needed: the file's name ends in none of .parquet, .csv and .jsonl")
        kind = Format(ending)
    start, end = parse_span(since, until, datetime.now(UTC))
    folder = ledger_folder(data_dir, config)
    from fluxen.ledger import store

    rows = store.export(folder, target, kind.value, since=start, until=end)
    output.note(f"{rows} rows written to {target}")


def backup(
    target: Annotated[Path, typer.Argument(help="Folder to create.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Copy the ledger consistently while it is written. To restore, put the copy in place and run `ledger views`."""
    folder = ledger_folder(data_dir, config)
    from fluxen.ledger import store

    output.note(f"{store.backup(folder, target)} files copied to {target}")


def views(data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Build fluxen.duckdb anew, after the folder was moved or restored. Prints its path."""
    folder = ledger_folder(data_dir, config)
    from fluxen.ledger import store

    output.emit(f"{store.views(folder)}\n")
