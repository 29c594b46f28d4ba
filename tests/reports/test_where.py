"""The filter means the same as SQL over a ledger and as a test of one row; nothing a user writes becomes SQL text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxen.errors import QueryError
from fluxen.ledger.engine import connect
from fluxen.ledger.schema import COLUMNS
from fluxen.reports.fields import FIELDS
from fluxen.reports.where import Where, parse_where, tagged

ROWS: list[dict[str, object]] = [
    {"id": "01900000-0000-7000-8000-000000000001", "model_asked": "gpt-4o", "model": "gpt-4o-2024-08-06",
     "team": "search", "status": 200, "cost_usd": Decimal("0.0125"), "input_tokens": 900, "output_tokens": 100,
     "stream": True, "latency_ms": 2500, "tags": {"customer": "acme", "a,b|c": "100%"}, "usage_error": 0.25},
    {"id": "01900000-0000-7000-8000-000000000002", "model_asked": "gpt-4o-mini", "team": "research", "status": 429,
     "error": "upstream", "cost_usd": Decimal(0), "latency_ms": 40, "stream": False, "tags": {"customer": "o'neil"}},
    {"id": "01900000-0000-7000-8000-000000000003", "model_asked": "claude%_!", "status": 500, "error": "",
     "cost_usd": None, "input_tokens": 12_000, "cache_read_tokens": 1, "tags": None},
    {"id": "01900000-0000-7000-8000-000000000004", "model_asked": "Claude\nX", "team": "x", "cost_usd": Decimal("0.01"),
     "searches": 2, "tags": {}},
]  # fmt: skip


class Table:
    """The rows in DuckDB, in the ledger's own types."""

    def __init__(self) -> None:
        self._connection = connect(threads=1)
        shape = ", ".join(f"{column.name} {column.type}" for column in COLUMNS)
        self._connection.execute(f"CREATE TABLE requests ({shape})")
        for row in ROWS:
            marks = ", ".join("?" for _ in row)
            self._connection.execute(f"INSERT INTO requests ({', '.join(row)}) VALUES ({marks})", list(row.values()))

    def found(self, where: Where) -> list[int]:
        condition, parameters = where.sql()
        ids = self._connection.execute(f"SELECT id::VARCHAR FROM requests WHERE {condition} ORDER BY 1", parameters)
        return [int(str(id)[-1]) for (id,) in ids.fetchall()]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.close()


def matching(where: Where) -> list[int]:
    return [number for number, row in enumerate(ROWS, start=1) if where.matches(row)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", [1, 2, 3, 4]),
        (" , ", [1, 2, 3, 4]),
        ("model=gpt-4o*", [1, 2]),
        ("model=gpt-4o", []),  # the model that answered, if one did
        ("model_asked=gpt-4o", [1]),
        ("model=gpt-4o-????-08-06", [1]),
        ("model=claude%_!", [3]),  # nothing that LIKE knows
        ("model=claude*!", [3]),
        ("model=*!*", [3]),
        ("model=Claude*", [4]),  # also over the end of a line
        ("model=gpt-4o-mini|Claude*", [2, 4]),
        ("model!=gpt-4o-mini|Claude*", [1, 3]),
        ('model="gpt-4o*"', []),
        (r"model=gpt-4o\*", []),
        ("team!=research", [1, 3, 4]),  # what has no team is not of the team
        ("team=", [3]),
        ("team!=", [1, 2, 4]),
        ("team=|research", [2, 3]),
        ("error=", [1, 3, 4]),
        ("error!=", [2]),
        ("status>=400", [2, 3]),
        ("status = 200 | 429", [1, 2]),
        ("status!=200", [2, 3, 4]),
        ("status=", [4]),
        ("status<200.5", [1]),
        ("cost>0.01", [1]),
        ("cost>=0.01", [1, 4]),
        ("cost=0.01", [4]),
        ("cost<$0.010000000001", [2, 4]),
        ("cost<1,cost!=0", [1, 4]),
        ("cost=", [3]),
        ("cost!=", [1, 2, 4]),
        ("latency>2s", [1]),
        ("latency<=40ms", [2]),
        ("latency>40", [1]),
        ("tokens>12k", [3]),
        ("tokens=1k", [1]),
        ("tokens=0", [2, 4]),
        ("searches>1", [4]),
        ("stream=true", [1]),
        ("stream=No", [2]),
        ("stream!=true", [2, 3, 4]),
        ("usage_error>=0.25", [1]),
        ("tag:customer=acme", [1]),
        ("tag:customer=o'neil", [2]),
        ("tag:customer=a*|o*", [1, 2]),
        ("tag:customer!=acme", [2, 3, 4]),
        ("tag:customer=", [3, 4]),
        (r"tag:a\,b\|c=100%", [1]),
        ('"tag:a,b|c"="100%"', [1]),
        ("id=01900000-0000-7000-8000-000000000003", [3]),
        ("key=", [1, 2, 3, 4]),
        ("team=x' OR 'a'='a", []),
    ],
)
def test_sql_and_rows_agree(table: Table, text: str, rows: list[int]) -> None:
    where = parse_where(text)
    assert table.found(where) == rows
    assert matching(where) == rows


def test_several_are_joined(table: Table) -> None:
    where = parse_where(["model=gpt-*", "status>=400"])
    assert table.found(where) == matching(where) == [2]
    assert (where & tagged({"customer": "acme"})).conditions[:2] == where.conditions
    assert table.found(tagged({"customer": "acme", "a,b|c": "100%"})) == [1]
    assert table.found(tagged({"customer": "a*"})) == []
    assert where.text == "model=gpt-*,status>=400"
    assert bool(where)
    assert not parse_where("")


def test_where_a_column_is_lacking_it_is_not_known(table: Table) -> None:
    """`in_flight` has no status: an open request is in no report of errors."""
    connection = connect(threads=1)
    connection.execute("CREATE TABLE open (model_asked VARCHAR, tags MAP(VARCHAR, VARCHAR))")
    connection.execute("INSERT INTO open VALUES ('gpt-4o', MAP {'customer': 'acme'})")
    for text, count in (
        ("model=gpt-4o", 1), ("status>=400", 0), ("error=", 1), ("cost=", 1), ("tokens=0", 1), ("tag:customer=acme", 1),
    ):  # fmt: skip
        condition, parameters = parse_where(text).sql({"model_asked", "tags"})
        found = connection.execute(f"SELECT count(*) FROM open WHERE {condition}", parameters).fetchone()
        assert found == (count,), text
    connection.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model", "'model' is no condition"),
        ("model!gpt", "no condition"),
        ("modle=x", "there is no 'modle'"),
        ("ts=x", "'ts' is no filter"),
        ("tag:=x", "there is no 'tag:'"),
        ("team>a", "> needs a number"),
        ("stream>1", "> needs a number"),
        ("cost>", "> needs a number"),
        ("cost>1|2", "'cost' is a number, not '1|2'"),
        ("cost=a", "'cost' is a number, not 'a'"),
        ("cost=1e9", "not '1e9'"),
        ("cost=0.0000000000001", "not '0.0000000000001'"),
        ("cost=1s", "not '1s'"),
        ("latency=1k", "not '1k'"),
        ("tokens>999999999999999999k", "too large"),
        ("stream=maybe", "true or false, not 'maybe'"),
        ('team="x', "ends within quotes"),
        ("team=x\\", "ends within an escape"),
        ("team=" + "x" * 5000, "too long"),
        ("1=1; DROP TABLE requests", "there is no '1'"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_where(text)
    assert says in caught.value.message
    assert caught.value.hint


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(QueryError) as caught:
        parse_where("modle=x")
    assert "did you mean 'model'?" in (caught.value.hint or "")


_WORDS = st.text(alphabet="abX*?%_!'\"\\|,=<> .0129\n", max_size=12)
_CONDITIONS = st.builds(
    "{}{}{}".format,
    st.sampled_from([*sorted(FIELDS), "tag:customer", "tag:a"]),
    st.sampled_from(["=", "!=", ">", "<", ">=", "<="]),
    _WORDS,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_CONDITIONS | _WORDS, max_size=3))
def test_any_filter_means_the_same_twice_or_is_an_error(table: Table, written: list[str]) -> None:
    try:
        where = parse_where(written)
    except QueryError:
        return
    assert table.found(where) == matching(where)


def test_a_row_may_lack_everything() -> None:
    empty: Mapping[str, object] = {}
    assert parse_where("error=,cost!=1,tag:a!=x,model!=y,tokens=0").matches(empty)
    assert not parse_where("cost<1").matches(empty)


def test_it_needs_no_database(tmp_path: Path) -> None:
    """Live views start quickly: nothing here imports DuckDB."""
    import subprocess
    import sys

    script = "import sys, fluxen.reports.where; assert 'duckdb' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
