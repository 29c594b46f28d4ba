"""What the whole ledger knows of requests that ended, asked in a process aside.

For programs that follow the journal and run for long: DuckDB, which costs 45 MB and stays loaded, is loaded in a forked
child that ends with the answer. A program that follows has no threads, so it may fork.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fluxen.errors import FluxenError, LedgerError
from fluxen.ledger.record import End
from fluxen.ledger.schema import COLUMNS, END_FIELDS, MONEY

if TYPE_CHECKING:
    from fluxen.ledger.engine import Connection

Send = Callable[[object], None]

BATCH = 2_000
"""Rows that come through the pipe at once."""

ENDED = "epoch_us(ts) + coalesce(latency_ms, 0)::BIGINT * 1000"
"""When a request ended, microseconds, as `ended_at` has it; for a lost one, of which that is not known, its arrival."""

_PICO = 10**12
_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH,
)  # fmt: skip


class Ended(NamedTuple):
    """A request that ended: its row, node and worker apart."""

    node: str
    worker: int
    record: End


def ended_at(end: End) -> int:
    """When a request ended, microseconds; for a lost one, of which that is not known, its arrival."""
    return end.ts + (end.latency_ms or 0) * 1000


def ended_since(folder: Path, since: int, also: Collection[str] = ()) -> Iterator[Ended]:
    """Requests that ended at `since` (microseconds) or later, and those of the ids in `also` that have ended."""
    names = list(also)
    condition = f"{ENDED} >= ? OR list_contains(?::VARCHAR[], id::VARCHAR)"
    return rows(folder, condition, [since, names])


def rows(
    folder: Path,
    condition: str = "true",
    parameters: Sequence[object] = (),
    *,
    since: datetime | None = None,
    last: int | None = None,
) -> Iterator[Ended]:
    """Finished requests of which `condition` holds, in the order they ended; of them the `last` that arrived."""

    def work(send: Send) -> None:
        def ask(connection: Connection) -> None:
            newest = "" if last is None else f"ORDER BY ts DESC, id DESC LIMIT {int(last)}"
            names = ", ".join(column.name for column in COLUMNS)
            # A table of its own: from here on no file is read that may vanish, and nothing is sent twice.
            sql = f"CREATE TEMP TABLE picked AS SELECT {names} FROM requests WHERE {condition} {newest}"
            connection.execute(sql, list(parameters))
            cursor = connection.execute(f"SELECT {_SELECTED} FROM picked ORDER BY {ENDED}, id")
            while batch := cursor.fetchmany(BATCH):
                send([_ended(row) for row in batch])

        _reader(folder).run(ask, since=since)

    for batch in aside(work):
        yield from batch


def answers(folder: Path, *queries: tuple[str, Sequence[object]], since: datetime | None = None) -> Iterator[list[Any]]:
    """The rows of several queries over one and the same state of the ledger, query by query."""

    def work(send: Send) -> None:
        def ask(connection: Connection) -> list[list[Any]]:
            return [connection.execute(sql, list(parameters)).fetchall() for sql, parameters in queries]

        for found in _reader(folder).run(ask, since=since):
            send(found)

    return aside(work)


def aside(work: Callable[[Send], None]) -> Iterator[Any]:
    """What `work` sends from a process of its own, in order. Its FluxenError or OSError is raised here."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _serve(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            while True:
                try:
                    error, item = pickle.load(pipe)  # our own child wrote it
                except (EOFError, pickle.UnpicklingError):
                    raise LedgerError("the process that asked the ledger was killed", hint="is memory short?") from None
                if error is not None:
                    raise error
                if item is None:
                    return
                yield item
    finally:  # also when nobody wants the rest
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(work: Callable[[Send], None], writing: int) -> NoReturn:
    """The child's life. Ctrl-C and a reader that is gone end it without a word."""
    code = 1
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        with os.fdopen(writing, "wb") as pipe:

            def send(item: object, error: Exception | None = None) -> None:
                pickle.dump((error, item), pipe)

            try:
                work(send)
                send(None)
            except (FluxenError, OSError) as error:
                send(None, error)
        code = 0
    finally:
        if code:  # a bug: its traceback is for whoever can mend it
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def _reader(folder: Path) -> Any:
    from fluxen.ledger.reader import Reader  # DuckDB comes with it

    return Reader(folder)


_BY_FIELD = {column.field: column for column in COLUMNS}
_SELECTED = "node, worker, " + ", ".join(
    "id::VARCHAR" if name == "id" else "epoch_us(ts)" if name == "ts" else _BY_FIELD[name].name for name in END_FIELDS
)
_MONEY = frozenset(place for place, name in enumerate(END_FIELDS) if _BY_FIELD[name].type == MONEY)


def _ended(row: Sequence[Any]) -> Ended:
    node, worker, *values = row
    for place in _MONEY:
        if isinstance(value := values[place], Decimal):
            values[place] = int(value * _PICO)
    return Ended(node, worker, End(*values))
