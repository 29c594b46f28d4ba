"""Every named query, over a fixed ledger: as DuckDB answers it, and as PostgreSQL does.

The answers are in golden/. `python tests/reports/test_golden.py` writes them anew; read what it changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from reports.postgres import Postgres, postgres
from reports.sample import ROWS, write

from fluxen.analyzer.prices import PriceBook
from fluxen.config.prices import PriceEntry
from fluxen.ledger.reader import Reader
from fluxen.reports.dimensions import DIMENSIONS
from fluxen.reports.named import REPORTS
from fluxen.reports.report import Question, Report, answer, ask
from fluxen.reports.savings import Savings
from fluxen.reports.summary import summarise, summary
from fluxen.reports.where import Where, parse_where
from fluxen.reports.zone import find_zone

GOLDEN = Path(__file__).with_name("golden")
BERLIN = find_zone("Europe/Berlin")
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 2, 20, tzinfo=UTC)

CASES: dict[str, tuple[str, Question]] = {
    **{name: (name, Question(now=NOW)) for name in REPORTS},
    "costs_hour_berlin": ("costs", Question(("hour",), zone=BERLIN, until=datetime(2026, 10, 26, tzinfo=UTC), now=NOW)),
    "costs_day_berlin": ("costs", Question(("day", "key"), zone=BERLIN, now=NOW)),
    "costs_day_kolkata": ("costs", Question(("hour",), zone=find_zone("Asia/Kolkata"), now=NOW)),
    "costs_tag": ("costs", Question(("tag:customer",), where=parse_where("model=gpt-*,tag:customer!="), now=NOW)),
    "costs_compared": ("costs", Question(("key", "team"), NOVEMBER, compare=True, now=NOW, sort="change_pct", limit=2)),
    "costs_yesterday": ("costs", Question(("model",), NOVEMBER + timedelta(days=1), compare=True, now=NOW)),
    "costs_courses": ("costs", Question(("upstream",), NOVEMBER, NOW, now=NOW, slices=4)),
    "costs_of_all": ("costs", Question((), now=NOW)),
    "usage_month": ("usage", Question(("month", "source"), now=NOW)),
    "usage_week": ("usage", Question(("week",), zone=BERLIN, now=NOW)),
    "models_courses": ("models", Question(("model", "tier"), now=NOW, slices=3, sort="model:desc")),
    "keys_filtered": ("keys", Question(where=parse_where("key=a|b,tokens>0,stream=true"), now=NOW, sort="key")),
    "errors_team": ("errors", Question(("team",), NOVEMBER, compare=True, now=NOW, slices=2)),
    "errors_outcome": ("errors", Question(("status", "error"), where=parse_where("status>=400"), now=NOW)),
    "latency_of_all": ("latency", Question((), now=NOW, where=parse_where("latency>=2s"))),
    "latency_courses": ("latency", Question(("stream",), now=NOW, slices=2, limit=1)),
    "cache_day": ("cache", Question(("day", "upstream"), NOVEMBER, compare=True, now=NOW)),
    "nothing": ("costs", Question(("model",), datetime(2030, 1, 1, tzinfo=UTC), compare=True, now=NOW, slices=3)),
}  # fmt: skip


def savings() -> Savings:
    """gpt: cached input at a tenth; claude: with prices for both kinds of writing, twice as much above 900 tokens."""
    entries = [
        PriceEntry.model_validate({"models": "gpt-*", "input": "2", "cache_read": "0.2", "output": "8"}),
        PriceEntry.model_validate(
            {"models": "claude-*", "input": "3", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6",
             "output": "15"}
        ),
    ]  # fmt: skip
    return Savings(PriceBook.shipped().with_own(entries), lambda upstream: upstream or "")


def told(report: Report) -> dict[str, object]:
    """All of a report, as JSON has it."""
    previous = report.previous
    whole = {
        "columns": report.columns,
        "rows": report.rows,
        "totals": report.totals,
        "more": report.more,
        "notes": report.notes,
        "unknown": report.unknown.fields(),
        "in_flight": report.in_flight,
        "trends": report.trends,
        "previous": previous and (previous.since, previous.until, previous.totals),
    }
    text = json.dumps(whole, default=_json)
    found: dict[str, object] = json.loads(text)
    return found


def _json(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    assert isinstance(value, datetime)
    return value.replace(tzinfo=value.tzinfo or UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from write(tmp_path_factory.mktemp("golden") / "ledger")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        server.fill()
        yield server


def golden(case: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((GOLDEN / f"{case}.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_duckdb(ledger: Path, case: str) -> None:
    name, question = CASES[case]
    assert told(ask(Reader(ledger), name, question, savings() if name == "cache" else None)) == golden(case)


@pytest.mark.parametrize("case", CASES)
def test_postgres(server: Postgres, case: str) -> None:
    name, question = CASES[case]
    assert told(answer(server, REPORTS[name], question, savings() if name == "cache" else None)) == golden(case)


def test_every_dimension_and_kind_of_filter(ledger: Path, server: Postgres) -> None:
    """Each as the embedded ledger has it, and as the rows themselves say."""
    for name in (*DIMENSIONS, "tag:customer"):
        question = Question((name,), zone=BERLIN, now=NOW)
        assert told(ask(Reader(ledger), "costs", question)) == told(answer(server, REPORTS["costs"], question)), name
    for text, count in (
        ("model=gpt-?", 7), ("model!=gpt*|llama-3", 3), ("team=", 3), ("error!=,status<500", 5), ("cost>=0.125", 5),
        ("cost=", 9), ("tokens>1k", 4), ("latency<=100ms", 6), ("stream=false", 1), ("tag:customer=o'*", 1),
        ("tag:customer!=acme", 15), ("usage_error>0.05", 1), ("searches=2", 1), ('model="gpt-?"', 0),
    ):  # fmt: skip
        where = parse_where(text)
        question = Question((), where=where, now=NOW)
        here, there = ask(Reader(ledger), "costs", question), answer(server, REPORTS["costs"], question)
        assert told(here) == told(there), text
        assert (here.requests, text) == (sum(map(where.matches, ROWS)), text)
        assert (here.requests, text) == (count, text)


def test_the_summary_is_the_same_too(ledger: Path, server: Postgres) -> None:
    here = summarise(Reader(ledger), NOW, BERLIN)
    there = summary(server, NOW, BERLIN, Where())
    for one, other in zip(here.periods, there.periods, strict=True):
        assert told(one.costs) == told(other.costs)
        assert told(one.latency) == told(other.latency)
    assert told(here.models) == told(there.models)
    assert told(here.keys) == told(there.keys)
    assert told(here.errors) == told(there.errors)
    today, month = here.periods
    assert (today.costs.requests, month.costs.requests) == (11, 13)
    assert month.costs.previous is not None
    assert month.costs.previous.totals[0] == 0  # October until the 2nd


def test_every_report_and_every_query_has_a_case() -> None:
    assert {name for name, _ in CASES.values()} == set(REPORTS)
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == sorted(CASES)


def test_sums_by_hand() -> None:
    """The golden files were read, not only written: what a person adds up."""
    costs = golden("costs")
    known = sum((row["cost_usd"] for row in ROWS if row["cost_usd"] is not None), Decimal(0))
    totals = dict(zip(REPORTS["costs"].columns, costs["totals"], strict=True))  # type: ignore[call-overload]
    assert totals["cost_usd"] == str(known) == "4.415000000003"
    assert totals["requests"] == len(ROWS)
    assert costs["notes"] == [
        "$4.415000000003 + 2 requests unpriced: llama-3 (2)",
        "+ 2 requests of unknown usage: gpt (1), gpt-1 (1)",
        "+ 1 request whose outcome is lost: the process was killed",
        "5 requests of unknown cost: at most $0.75 (4 without a bound)",
        "$0.04 of it is estimated, in 1 request ±5 %",
        "1 request in flight, not counted yet",
    ]
    hours = [row[0] for row in golden("costs_hour_berlin")["rows"]]  # type: ignore[attr-defined]
    assert hours == [
        "2026-10-25T00:00+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00",
    ]  # fmt: skip
    # 700 × (2 - 0.2) millionths, and 195 × 2.7 - 200 × 0.75 - 600 × 3
    cache = golden("cache")
    saved = {row[0]: row[7] for row in cache["rows"]}  # type: ignore[attr-defined]
    assert saved["gpt-1"] == "0.00126"
    assert saved["claude-2"] == "-0.0014235"


if __name__ == "__main__":
    import tempfile

    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in write(Path(folder) / "ledger"):
            for case, (name, question) in CASES.items():
                found = told(ask(Reader(path), name, question, savings() if name == "cache" else None))
                (GOLDEN / f"{case}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
