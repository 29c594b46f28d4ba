"""`fluxen sql`: one SELECT over the live ledger."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, ledger_folder

TERMINAL_ROWS = 1000


def command(
    query: Annotated[
        str, typer.Argument(help="One SELECT (DuckDB's SQL) over `requests` and `in_flight`; - reads stdin.")
    ],
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most this many rows, 0: all. Default: 1000 on a terminal, else all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON; decimals as text, exact.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Ask the ledger anything, by one SELECT.

    It can read nothing else and change nothing. The views are requests (finished and lost), in_flight (still open) and
    adjustments (what repricing found); docs/ledger.md names their columns. Times are UTC.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    folder = ledger_folder(data_dir, config)

    from fluxen.ledger.reader import Reader

    if query == "-":
        query = sys.stdin.read()
    default = TERMINAL_ROWS if sys.stdout.isatty() and not (as_json or as_csv) else None
    rows = default if limit is None else limit or None
    found = Reader(folder).sandboxed(query, max_rows=rows)
    if as_json:
        columns = [{"name": name, "type": kind} for name, kind in zip(found.columns, found.types, strict=True)]
        output.emit_json({"columns": columns, "rows": output.jsonable(found.rows), "truncated": found.truncated})
    elif as_csv:
        output.emit_csv(found.columns, found.rows)
    else:
        output.emit_table(found.columns, found.rows, exact=True)
    if found.truncated:
        output.note(f"only the first {rows} rows; --limit 0 shows all")
