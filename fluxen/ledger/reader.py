"""Reading the ledger, with the server up or down: `requests` (finished and lost) and `in_flight` (still open).

What a request cost is what the last of its `adjustments` says, if it has any. They are joined only where there are some
in the span of time a query is about: without repricing a query costs what it did.

A query runs over a snapshot. DuckDB opens Parquet files only when it runs, so a file may have been merged away by
then: the WHOLE query is run again on a new snapshot, never a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import duckdb

from fluxen.errors import LedgerError, QueryError
from fluxen.ledger import manifest as manifests
from fluxen.ledger import schema
from fluxen.ledger import snapshot as snapshots
from fluxen.ledger.adjusted import adjusted
from fluxen.ledger.engine import Connection, connect, line_file
from fluxen.ledger.journal import no_checkpoint
from fluxen.ledger.manifest import ADJUSTMENTS, DATA, REQUESTS, Kind
from fluxen.ledger.parquet import SHAPES
from fluxen.ledger.schema import (
    BEGIN_FIELDS,
    IN_FLIGHT,
    Column,
    empty,
    from_lines,
    literal,
    parquet_path,
)
from fluxen.ledger.snapshot import Snapshot

Answer = TypeVar("Answer")
Parameters = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Result:
    """A query's answer. `types` are DuckDB's names; `truncated`: there were more rows than asked for."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[object, ...]]
    truncated: bool = False


class Reader:
    """Queries over one ledger folder. Each query sees its own snapshot; a folder without a ledger is an empty one."""

    def __init__(
        self, folder: Path, *, threads: int | None = None, checkpoint: Callable[[str], None] = no_checkpoint
    ) -> None:
        self.folder = folder.resolve()
        self._threads = threads
        self._checkpoint = checkpoint

    def query(
        self,
        sql: str,
        params: Parameters = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Result:
        """Run our own SQL. `requests` holds `since <= ts < until`; files outside are not opened."""

        def ask(connection: Connection) -> Result:
            return _fetch(connection.execute(sql, params), None)

        return self.run(ask, since=since, until=until)

    def sandboxed(self, sql: str, *, max_rows: int | None = None) -> Result:
        """Run a user's SQL: exactly one SELECT, which can read this ledger and nothing else and change nothing.

        Raises QueryError for anything else and for what DuckDB says of a bad query. Rows beyond `max_rows` are left.
        """
        statement = _only_select(sql)

        def ask(connection: Connection) -> Result:
            return _fetch(connection.execute(statement), max_rows)

        return self.run(ask, sandbox=True)

    def run(
        self,
        ask: Callable[[Connection], Answer],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        sandbox: bool = False,
    ) -> Answer:
        """Call `ask` with a connection that has the views; again, from the start, when a file vanished meanwhile."""
        for _ in range(snapshots.ATTEMPTS):
            snapshot = snapshots.take(self.folder, self._checkpoint)
            low, high = _micros(since), _micros(until)
            files: dict[Kind, list[tuple[str, int]]] = {REQUESTS: [], ADJUSTMENTS: []}
            for file in sorted(snapshot.manifest.files, key=lambda file: file.min):
                if (low is None or file.max >= low) and (high is None or file.min < high):
                    path = os.path.join(self.folder, DATA, file.name)  # noqa: PTH118 - a thousand times faster
                    files[file.kind].append((path, file.schema))
            paths = [path for kind in files.values() for path, _ in kind]
            self._checkpoint("snapshot taken")
            try:
                with connect(threads=self._threads) as connection:
                    _views(connection, files, snapshot, (low, high))
                    if sandbox:
                        _lock_up(connection, paths)
                    return ask(connection)
            except duckdb.Error as error:
                if self._vanished(paths):
                    continue
                if isinstance(error, (duckdb.IOException, duckdb.InvalidInputException)) and ".parquet" in str(error):
                    said = str(error).partition("\n")[0]  # the query behind it is ours, and tells nobody anything
                    raise LedgerError(f"the ledger can't be read: {said}", hint="fluxen ledger verify") from error
                raise QueryError(str(error)) from error
        raise LedgerError(f"files of {self.folder} keep vanishing", hint="does something else clean up in this folder?")

    def _vanished(self, paths: Iterable[str]) -> bool:
        """Whether a file was replaced meanwhile. LedgerError when it is gone but should be there."""
        gone = {os.path.basename(path) for path in paths if not os.path.exists(path)}  # noqa: PTH110, PTH119
        if gone and (lacking := gone & {file.name for file in manifests.load(self.folder).files}):
            raise LedgerError(
                f"{', '.join(sorted(lacking))} of {self.folder} is missing", hint="restore the ledger from a backup"
            )
        return bool(gone)


def _views(
    connection: Connection,
    files: Mapping[Kind, list[tuple[str, int]]],
    snapshot: Snapshot,
    span: tuple[int | None, int | None],
) -> None:
    within = " AND ".join(
        f"ts {sign} make_timestamp({bound})" for sign, bound in zip((">=", "<"), span, strict=True) if bound is not None
    )

    def source(kind: Kind, lines: list[bytes], tail: str) -> str | None:
        shape = SHAPES[kind]
        parts = [shape.source(files[kind])] if files[kind] else []
        if lines:
            _view(connection, tail, lines, shape.columns, shape.fields)
            parts.append(f"SELECT * FROM {tail}")
        found = " UNION ALL ".join(parts)
        return f"SELECT * FROM ({found}) WHERE {within}" if found and within else found or None

    requests = source(REQUESTS, snapshot.ends + snapshot.lost, "tail")
    adjustments = source(ADJUSTMENTS, snapshot.adjustments, "adjustments_tail")
    costs = adjusted(requests, adjustments) if requests and adjustments else requests
    connection.execute(f"CREATE VIEW requests AS {costs or empty()}")
    connection.execute(f"CREATE VIEW adjustments AS {adjustments or empty(schema.ADJUSTMENTS)}")
    if snapshot.in_flight:
        _view(connection, "in_flight", snapshot.in_flight, IN_FLIGHT, BEGIN_FIELDS)
    else:
        connection.execute(f"CREATE VIEW in_flight AS {empty(IN_FLIGHT)}")


def _view(
    connection: Connection, name: str, lines: list[bytes], columns: Sequence[Column], fields: Sequence[str]
) -> None:
    """A view that turns into values only those columns a query asks for: that is most of the work."""
    with line_file(lines) as path:
        connection.execute(f"CREATE TABLE {name}_lines AS {schema.lines(path)}")
    connection.execute(f"CREATE VIEW {name} AS {from_lines(f'{name}_lines', columns, fields)}")


def _lock_up(connection: Connection, paths: list[str]) -> None:
    # Checked as they are written in the view and, when brackets had to be escaped there, as they are.
    allowed = [name for path in paths for name in (literal(path), parquet_path(path))]
    connection.execute(f"SET allowed_paths = [{', '.join(allowed)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _only_select(sql: str) -> str:
    try:
        selects = [statement.type == duckdb.StatementType.SELECT for statement in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    except ValueError:  # a kind of statement that DuckDB has no Python name for, e.g. CONNECT
        selects = []
    if selects != [True]:
        raise QueryError(
            "exactly one SELECT is allowed", hint="the views are `requests`, `in_flight` and `adjustments`"
        )
    return sql


def _fetch(cursor: Connection, max_rows: int | None) -> Result:
    description = cursor.description or []
    rows = cursor.fetchall() if max_rows is None else cursor.fetchmany(max_rows + 1)
    return Result(
        columns=tuple(str(column[0]) for column in description),
        types=tuple(str(column[1]) for column in description),
        rows=rows[:max_rows],
        truncated=max_rows is not None and len(rows) > max_rows,
    )


def _micros(at: datetime | None) -> int | None:
    """Microseconds since 1970; a naive time is UTC, as `ts` is."""
    if at is None:
        return None
    delta = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
