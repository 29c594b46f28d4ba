"""docs/ledger.md names every column as the code does."""

from __future__ import annotations

from pathlib import Path

from shared import ROOT

from fluxen.ledger.record import Begin, End
from fluxen.ledger.schema import COLUMNS, IN_FLIGHT

PAGE = Path(ROOT) / "docs" / "ledger.md"
OPEN, CLOSE = "<!-- columns -->", "<!-- /columns -->"


def table() -> str:
    """What stands between the marks. To write it: python -c 'import ledger.test_docs as t; t.write()' in tests/."""
    known = {column.name for column in IN_FLIGHT}
    lines = ["| column | type | in flight | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        seen = "yes" if column.name in known else ""
        lines.append(f"| `{column.name}` | {column.type} | {seen} | {column.description} |")
    return "\n".join(lines)


def write() -> None:
    head, _, rest = PAGE.read_text().partition(OPEN)
    PAGE.write_text(f"{head}{OPEN}\n{table()}\n{CLOSE}{rest.partition(CLOSE)[2]}")


def test_the_page_has_every_column() -> None:
    assert PAGE.read_text().partition(OPEN)[2].partition(CLOSE)[0].strip() == table()


def test_the_journal_can_fill_every_column() -> None:
    fields = {*End.__struct_fields__, "node", "worker"}
    assert {column.field for column in COLUMNS} == fields
    assert set(Begin.__struct_fields__) <= fields
