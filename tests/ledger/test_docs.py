"""docs/ledger.md names every column as the code does."""

from __future__ import annotations

from pathlib import Path

from shared import ROOT

from fluxen.ledger.record import Begin, End
from fluxen.ledger.schema import ADJUSTMENT_FIELDS, ADJUSTMENTS, COLUMNS, IN_FLIGHT

PAGE = Path(ROOT) / "docs" / "ledger.md"
OPEN, CLOSE = "<!-- columns -->", "<!-- /columns -->"
OPEN_SMALL, CLOSE_SMALL = "<!-- adjustments -->", "<!-- /adjustments -->"


def table() -> str:
    """What stands between the marks. To write it: python -c 'import ledger.test_docs as t; t.write()' in tests/."""
    known = {column.name for column in IN_FLIGHT}
    lines = ["| column | type | in flight | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        seen = "yes" if column.name in known else ""
        lines.append(f"| `{column.name}` | {column.type} | {seen} | {column.description} |")
    return "\n".join(lines)


def small_table() -> str:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{column.name}` | {column.type} | {column.description} |" for column in ADJUSTMENTS]
    return "\n".join(lines)


def write() -> None:
    for opening, closing, made in ((OPEN, CLOSE, table), (OPEN_SMALL, CLOSE_SMALL, small_table)):
        head, _, rest = PAGE.read_text().partition(opening)
        PAGE.write_text(f"{head}{opening}\n{made()}\n{closing}{rest.partition(closing)[2]}")


def test_the_page_has_every_column() -> None:
    assert PAGE.read_text().partition(OPEN)[2].partition(CLOSE)[0].strip() == table()
    assert PAGE.read_text().partition(OPEN_SMALL)[2].partition(CLOSE_SMALL)[0].strip() == small_table()


def test_the_journal_can_fill_every_column() -> None:
    fields = {*End.__struct_fields__, "node", "worker"}
    assert {column.field for column in COLUMNS} == fields
    assert tuple(column.field for column in ADJUSTMENTS) == ADJUSTMENT_FIELDS
    assert set(Begin.__struct_fields__) <= fields
