"""Writing Parquet: one file per UTC day and commit, sorted by time, and never changed afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fluxen.errors import LedgerError
from fluxen.ledger import schema
from fluxen.ledger.engine import Connection, line_file
from fluxen.ledger.journal import no_checkpoint, sync_folder
from fluxen.ledger.manifest import ADJUSTMENTS, DATA, REQUESTS, DataFile, Kind
from fluxen.ledger.owner import hand_over
from fluxen.ledger.schema import SCHEMA, Column, Migration, from_lines, from_parquet, literal

FRESH_LEVEL, MERGED_LEVEL = 3, 9
"""zstd levels: of files that are merged soon, and of merged ones (a tenth smaller for 2 µs more a row)."""
_FIRST_MERGED = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of file: its columns, the fields of the journal lines it is made of, and a letter of its name."""

    columns: Sequence[Column]
    fields: Sequence[str]
    migrations: Sequence[Migration]
    letter: str

    def source(self, files: Sequence[tuple[str, int]]) -> str:
        """A SELECT over files of this kind (absolute path, schema version)."""
        return from_parquet(files, self.migrations, self.columns)


SHAPES: Mapping[Kind, Shape] = MappingProxyType(
    {
        REQUESTS: Shape(schema.COLUMNS, schema.END_FIELDS, schema.MIGRATIONS, "L"),
        ADJUSTMENTS: Shape(schema.ADJUSTMENTS, schema.ADJUSTMENT_FIELDS, (), "A"),
    }
)


class ParquetWriter:
    """Writes files of one commit: `<day>-L<level>-<generation>.parquet`, synced, not yet part of the ledger.

    Those of adjustments have an A in the place of the L; their day is that of the requests they adjust.
    """

    def __init__(
        self, folder: Path, connection: Connection, now: int, checkpoint: Callable[[str], None] = no_checkpoint
    ) -> None:
        self.folder = folder / DATA
        self._connection = connection
        self._now = now
        self._checkpoint = checkpoint

    def rows(self, lines: Iterable[bytes], generation: int, kind: Kind = REQUESTS) -> list[DataFile]:
        """Files of level 0 that hold these rows (JSON arrays `[node, worker, …fields]`)."""
        shape = SHAPES[kind]
        with line_file(lines) as path:
            select = from_lines(f"({schema.lines(path)})", shape.columns, shape.fields)
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE rows AS {select}")
        files = self.table("rows", generation, kind=kind)
        self._connection.execute("DROP TABLE rows")
        return files

    def table(self, table: str, generation: int, level: int = 0, kind: Kind = REQUESTS) -> list[DataFile]:
        """Files that hold the rows of a DuckDB table with the columns of that kind, one per day."""
        days = self._connection.execute(
            "SELECT ts::DATE::VARCHAR, count(*), epoch_us(min(ts)), epoch_us(max(ts)) "
            f"FROM {table} GROUP BY 1 ORDER BY 1"
        ).fetchall()
        files = []
        for day, rows, low, high in days:
            select = f"SELECT * FROM {table} WHERE ts::DATE = {literal(day)}::DATE"
            files.append(self._write(select, generation, kind, (day, level, rows, low, high)))
        sync_folder(self.folder)
        return files

    def merge(self, files: Sequence[DataFile], generation: int) -> DataFile:
        """One file that holds the rows of all of these, which are of one day and kind."""
        kind = files[0].kind
        source = SHAPES[kind].source([(str(self.folder / file.name), file.schema) for file in files])
        merged = self._write(
            source,
            generation,
            kind,
            (
                files[0].day,
                max(file.level for file in files) + 1,
                sum(file.rows for file in files),
                min(file.min for file in files),
                max(file.max for file in files),
            ),
        )
        sync_folder(self.folder)
        return merged

    def _write(self, select: str, generation: int, kind: Kind, about: tuple[str, int, int, int, int]) -> DataFile:
        day, level, rows, low, high = about
        name = f"{day}-{SHAPES[kind].letter}{level}-{generation:08d}.parquet"
        path = self.folder / name
        strength = MERGED_LEVEL if level >= _FIRST_MERGED else FRESH_LEVEL
        answer = self._connection.execute(
            f"COPY ({select} ORDER BY ts, id) TO {literal(str(path))} "
            f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {strength})"
        ).fetchone()
        if answer != (rows,):
            raise LedgerError(f"{name} holds {answer} rows, not {rows}", hint="fluxen ledger verify")
        self._checkpoint("parquet written")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            hand_over(descriptor, self.folder)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        self._checkpoint("parquet synced")
        return DataFile(name, day, level, rows, low, high, size, SCHEMA, self._now, kind)
