"""Named queries: SQL in files of their own (queries/NAME.sql), and what is put into them.

The SQL is what DuckDB and PostgreSQL both understand. Substituted are only texts of ours: the rows ({rows}, rows.sql),
dimensions, conditions, grouping; every value of a user is a parameter (`?`). Where databases differ is said by a
`Database`: how a tag is read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Protocol

from fluxen.reports.dimensions import OUTCOMES, Grouping
from fluxen.reports.where import Where

if TYPE_CHECKING:
    from fluxen.ledger.engine import Connection

Row = dict[str, Any]
TOTAL: Final = "is_total"


class Database(Protocol):
    """Where the table `requests` is."""

    tag: str
    """The expression of a tag whose name is a parameter."""

    def rows(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        """Run a query; `?` marks parameters. Times come without a zone, and are UTC."""


class DuckDb:
    """The embedded ledger, through one of its reader's connections: all queries see one snapshot."""

    tag = "tags[?]"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        cursor = self._connection.execute(sql, list(parameters))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Scope:
    """The requests a query is about: those of [since, until) that a filter lets through, in groups."""

    since: datetime | None
    until: datetime | None
    where: Where
    by: Grouping
    more: Mapping[str, str] = field(default_factory=dict)
    """What else is put into the text, by its name there."""


def run(database: Database, name: str, scope: Scope, before: Sequence[object] = ()) -> list[Row]:
    """Run queries/NAME.sql. before: parameters that stand before those of the rows."""
    condition, bounds = _bounds(scope.since, scope.until)
    filtered, values = scope.where.sql(tag=database.tag)
    labels = [f"d{index}" for index in range(len(scope.by.names))]
    rows = _text("rows").format(
        dimensions="".join(f"{sql} AS {label}, " for sql, label in zip(scope.by.expressions, labels, strict=True)),
        condition=" AND ".join([*condition, filtered]),
    )
    total = f"GROUPING({labels[0]})" if labels else "1"
    places = [label for label, one in zip(labels, scope.by.names, strict=True) if one not in OUTCOMES]
    substitutions = {
        "rows": rows,
        "groups": "".join(f"{label}, " for label in labels) + f"{total} AS {TOTAL},",
        "sets": f"GROUPING SETS (({', '.join(labels)}), ())" if labels else "()",
        "places": ", ".join([total, *places]),
        **scope.more,
    }
    return database.rows(_text(name).format(**substitutions), [*before, *scope.by.parameters, *bounds, *values])


def run_flat(
    database: Database, name: str, scope: Scope, keys: Sequence[str], before: Sequence[object] = ()
) -> list[Row]:
    """The same for a query that groups by columns of its own (`keys`) as well, and has no total."""
    labels = [f"d{index}" for index in range(len(scope.by.names))]
    more = {
        **scope.more,
        "groups": "".join(f"{label}, " for label in labels),
        "every": ", ".join(str(index + 1) for index in range(len(labels) + len(keys))),
    }
    return run(database, name, Scope(scope.since, scope.until, scope.where, scope.by, more), before)


def in_flight(database: Database, scope: Scope, known: frozenset[str]) -> int:
    """How many requests are open. known: the columns they have."""
    condition, bounds = _bounds(scope.since, scope.until)
    filtered, values = scope.where.sql(known, tag=database.tag)
    sql = _text("in_flight").format(condition=" AND ".join([*condition, filtered]))
    return int(database.rows(sql, [*bounds, *values])[0]["requests"])


def moment(at: datetime) -> datetime:
    """As a parameter: the column is a timestamp without a zone that means UTC."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _bounds(since: datetime | None, until: datetime | None) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    parameters: list[object] = []
    for bound, sign in ((since, ">="), (until, "<")):
        if bound is not None:
            conditions.append(f"ts {sign} CAST(? AS TIMESTAMP)")
            parameters.append(moment(bound))
    return conditions, parameters


@functools.cache
def _text(name: str) -> str:
    """The query without its comments, which name what is put in."""
    text = resources.files("fluxen.reports").joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
