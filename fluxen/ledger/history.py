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
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fluxen.errors import FluxenError, LedgerError
from fluxen.ledger.record import Begin, End
from fluxen.ledger.schema import COLUMNS, END_FIELDS, IN_FLIGHT, MONEY

if TYPE_CHECKING:
    from fluxen.ledger.engine import Connection

Send = Callable[[object], None]

BATCH = 2_000
"""Rows that come through the pipe at once."""

ENDED = "epoch_us(ts) + coalesce(latency_ms, 0)::BIGINT * 1000"
"""When a request ended, microseconds, as `ended_at` has it; for a lost one, of which that is not known, its arrival."""

DAY, HOUR = 86_400_000_000, 3_600_000_000  # microseconds
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


def columns(node: str, worker: int, record: Begin | End) -> dict[str, object]:
    """A record by the ledger's columns, as a query gives it: money in dollars, `ts` a time (UTC) without a zone."""
    found: dict[str, object] = {"node": node, "worker": worker}
    for name, field, is_money in _IN_FLIGHT if isinstance(record, Begin) else _FINISHED:
        value = getattr(record, field)
        found[name] = Decimal(value).scaleb(-12) if is_money and value is not None else value
    found["ts"] = _EPOCH + timedelta(microseconds=record.ts)
    return {name: found[name] for name in (_NAMES_IN_FLIGHT if isinstance(record, Begin) else _NAMES)}


def ended_since(since: int, also: Collection[str] = ()) -> tuple[str, list[object]]:
    """A condition and its parameters: ended at `since` (microseconds) or later, or is of the ids in `also`. These
    should name what was open then and arrived more than a day before: older arrivals are not looked at else."""
    oldest = min([since - DAY, *(_made(name) - HOUR for name in also)])
    return (
        f"(ts >= make_timestamp(?) AND ({ENDED} >= ? OR list_contains(?::VARCHAR[], id::VARCHAR)))",
        [max(0, oldest), since, list(also)],
    )


def _made(name: str) -> int:
    """When a UUIDv7 was made, microseconds: about when its request arrived. Of what is none, which only a damaged line
    can name: never."""
    try:
        return int(name[:8] + name[9:13], 16) * 1000
    except ValueError:
        return 1 << 62


def rows(
    folder: Path,
    condition: str = "true",
    parameters: Sequence[object] = (),
    *,
    last: int | None = None,
    first: Sequence[tuple[str, Sequence[object]]] = (),
) -> Iterator[Any]:
    """Finished requests of which `condition` holds, in the order they ended: batches, lists of Ended. last: only so
    many of them, those that arrived last. Before them come the rows of each query in `first`, of the same state."""

    def work(send: Send) -> None:
        def ask(connection: Connection) -> None:
            before = [connection.execute(sql, list(given)).fetchall() for sql, given in first]
            newest = "" if last is None else f"ORDER BY ts DESC, id DESC LIMIT {int(last)}"
            names = ", ".join(column.name for column in COLUMNS)
            # A table of its own: from here on no file is read that may vanish, and nothing is sent twice.
            sql = f"CREATE TEMP TABLE picked AS SELECT {names} FROM requests WHERE {condition} {newest}"
            connection.execute(sql, list(parameters))
            for found in before:
                send(found)
            cursor = connection.execute(f"SELECT {_SELECTED} FROM picked ORDER BY {ENDED}, id")
            while batch := cursor.fetchmany(BATCH):
                send([_ended(row) for row in batch])

        _reader(folder).run(ask)

    return aside(work)


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


_EPOCH = datetime(1970, 1, 1)  # without a zone, as the column is: UTC
_NAMES = tuple(column.name for column in COLUMNS)
_NAMES_IN_FLIGHT = tuple(column.name for column in IN_FLIGHT)
_FINISHED, _IN_FLIGHT = (
    [(one.name, one.field, one.type == MONEY) for one in all_of if one.name not in ("ts", "node", "worker")]
    for all_of in (COLUMNS, IN_FLIGHT)
)
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
