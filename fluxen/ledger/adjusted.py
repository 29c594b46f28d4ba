"""What a request costs now: the cost in its row, or that of the adjustment made last.

Rows are never rewritten. A repricing appends adjustments (`adjuster`), and every view of `requests` puts them in the
place of what the row says of cost, fees and the price book. What was used stays as it was recorded.
"""

from __future__ import annotations

from fluxen.ledger.schema import ADJUSTMENTS, COLUMNS

REPLACED: tuple[str, ...] = tuple(column.name for column in ADJUSTMENTS if column.name not in ("id", "ts", "made"))
"""The columns of `requests` that an adjustment says anew."""


def adjusted(requests: str, adjustments: str) -> str:
    """A SELECT of all columns of `requests` over two SELECTs: rows as they were written, and adjustments.

    The newest is found by an aggregate of DuckDB's that takes a NULL for an answer. Grouped by id there is one a
    request at most, and DuckDB knows it: a query that asks for no cost does not join at all.
    """
    newest = ", ".join(f"arg_max_null({name}, made) AS {name}" for name in REPLACED)
    names = ", ".join(
        f"CASE WHEN a.id IS NULL THEN r.{column.name} ELSE a.{column.name} END AS {column.name}"
        if column.name in REPLACED
        else f"r.{column.name}"
        for column in COLUMNS
    )
    return (
        f"SELECT {names} FROM ({requests}) AS r "
        f"LEFT JOIN (SELECT id, {newest} FROM ({adjustments}) GROUP BY id) AS a ON r.id = a.id"
    )
