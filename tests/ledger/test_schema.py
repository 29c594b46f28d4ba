"""Columns, and the road from an older schema to this one."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from fluxen.errors import LedgerError
from fluxen.ledger.schema import (
    COLUMNS,
    MIGRATIONS,
    SCHEMA,
    Migration,
    check,
    empty,
    from_parquet,
    literal,
    parquet_path,
    upgrade,
)


def renamed(row: dict[str, object]) -> dict[str, object]:
    return {"key" if name == "who" else name: value for name, value in row.items()}


def marked(row: dict[str, object]) -> dict[str, object]:
    return {"key_id" if name == "key" else name: f"{value}!" for name, value in row.items()}


RENAMED = Migration(SCHEMA - 1, renamed, "* RENAME (who AS key)")
AGAIN = Migration(SCHEMA, marked, "* EXCLUDE (key), key || '!' AS key_id")


def test_migrations_are_one_for_each_version_up_to_this_one() -> None:
    assert [migration.version for migration in MIGRATIONS] == sorted({migration.version for migration in MIGRATIONS})
    assert all(migration.version <= SCHEMA for migration in MIGRATIONS)


@pytest.mark.parametrize(
    ("version", "row"), [(SCHEMA - 2, {"who": "a"}), (SCHEMA - 1, {"key": "a"}), (SCHEMA, {"key_id": "a!"})]
)
def test_a_row_and_a_file_take_the_same_road(tmp_path: Path, version: int, row: dict[str, object]) -> None:
    ((name, value),) = row.items()
    with duckdb.connect() as connection:
        path = str(tmp_path / "old.parquet")
        connection.execute(f"COPY (SELECT {literal(str(value))} AS {name}) TO {literal(path)} (FORMAT parquet)")
        select = from_parquet([(path, version)], (RENAMED, AGAIN)) if version < SCHEMA else None
        if select:
            assert connection.execute(f"SELECT key_id, status FROM ({select})").fetchall() == [("a!", None)]
    assert upgrade(row, version, (RENAMED, AGAIN)) == {"key_id": "a!"}


def test_a_newer_schema_is_refused_with_a_hint() -> None:
    check(SCHEMA, "file")
    with pytest.raises(LedgerError, match=f"file has ledger schema {SCHEMA + 1}") as caught:
        check(SCHEMA + 1, "file")
    assert "upgrade" in str(caught.value.hint)


def test_an_empty_table_has_every_name_and_type() -> None:
    with duckdb.connect() as connection:
        described = connection.execute(f"DESCRIBE {empty()}").fetchall()
    assert [(name, kind) for name, kind, *_ in described] == [(column.name, column.type) for column in COLUMNS]


def test_money_is_pico_dollars_in_the_journal() -> None:
    money = {column.name: column.field for column in COLUMNS if column.name.endswith("_usd")}
    assert set(money.values()) == {"cost_pico", "stated_cost_pico", "bound_pico", "saved_pico", "fees_pico"}


def test_quoting() -> None:
    assert literal("it's") == "'it''s'"
    assert parquet_path("/a[1]/*/b?") == "'/a[[]1]/[*]/b[?]'"
