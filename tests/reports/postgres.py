"""A PostgreSQL of one's own, on a socket of its own, with the sample's rows: what reports must be portable to.

No driver is needed: queries go through psql, and answers come back as JSON, which keeps decimals exact.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from reports.sample import OPEN, ROWS, Row
from shared import missing

from fluxen.ledger.schema import COLUMNS, IN_FLIGHT, Column

_TYPES = {"MAP(VARCHAR, VARCHAR)": "JSONB", "FLOAT": "REAL"}
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+")


class Postgres:
    """A `Database` of fluxen.reports.query."""

    tag = "(tags ->> ?)"

    def __init__(self, programs: Path, sockets: Path) -> None:
        self._psql = [programs / "psql", "-XqtA", "-v", "ON_ERROR_STOP=1", "-h", sockets, "-U", "fluxen", "postgres"]

    def run(self, text: str) -> str:
        done = subprocess.run(self._psql, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout

    def rows(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        numbers = iter(range(1, len(parameters) + 1))
        numbered = re.sub(r"\?", lambda _: f"${next(numbers)}", sql)
        assert next(numbers, None) is None, "a parameter for every mark"
        values = ", ".join(literal(value) for value in parameters)
        execute = f"EXECUTE q({values})" if parameters else "EXECUTE q"
        said = self.run(f"PREPARE q AS SELECT row_to_json(one) FROM ({numbered}) AS one;\n{execute};\n")
        return [json.loads(line, parse_float=Decimal, object_hook=_typed) for line in said.splitlines()]

    def fill(self) -> None:
        for table, columns, rows in (("requests", COLUMNS, ROWS), ("in_flight", IN_FLIGHT, OPEN)):
            shape = ", ".join(f"{column.name} {_TYPES.get(column.type, column.type)}" for column in columns)
            self.run(f"CREATE TABLE {table} ({shape});\n" + "".join(_insert(table, columns, row) for row in rows))


def _insert(table: str, columns: Sequence[Column], row: Row) -> str:
    names = [column.name for column in columns if column.name in row]
    values = ", ".join(literal(row[name]) for name in names)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values});\n"


def literal(value: object) -> str:
    """Any value as text of which PostgreSQL finds the type by where it stands."""
    if value is None:
        return "NULL"
    if isinstance(value, dict):
        value = json.dumps(value)
    return "'" + str(value).replace("'", "''") + "'"


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no type for: times, and decimals that are whole."""
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: object) -> object:
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return datetime.fromisoformat(value)
    return Decimal(value) if isinstance(value, int) and name.endswith("_usd") else value


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs, empty. Skips (in CI: fails) where PostgreSQL is not installed."""
    programs = _programs()
    # root may not run it: then the user that the package made does
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="flx-pg-"))  # short: the name of a socket has 107 bytes
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c TimeZone=Asia/Tokyo"
        for command in (
            [programs / "initdb", "-D", data, "-U", "fluxen", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            [programs / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log", "-o", settings, "start"],
        ):
            subprocess.run(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, check=True, timeout=120)
        try:
            yield Postgres(programs, folder)
        finally:
            stop = [programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"]
            subprocess.run(stop, user=user, cwd=folder, stdout=subprocess.DEVNULL, check=True, timeout=60)
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Where initdb is: Debian keeps it off the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        missing("needs PostgreSQL (apt-get install postgresql)")
    return installed[-1].parent
