"""Every recorded exchange, by mounts and by unified routes: the same bytes for both sides, one row, the right bill."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from analyzer.recorded import Recorded
from gateway.rig import KEY
from shared import require_shared
from traffic.conftest import Journey
from traffic.rig import CREDENTIALS, ELSEWHERE, MOUNTS, OURS, Mount, Run, fluxen, mount_of

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.providers.catalogue import load_catalogue, provider_of_upstream

CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
BY_UPSTREAM = {mount.upstream: mount for mount in (*MOUNTS.values(), ELSEWHERE)}
SOURCES = {
    "reported": {"reported"},
    "partial": {"partial", "estimated"},  # a side was told, the other one counted
    "estimated": {"estimated", "unknown"},
    "unmetered": {"unknown", "reported"},  # reranks are read, pictures of old models can't be
    "error": {"none"},
    "count_only": {"none"},
}
"""What the ledger may call a basis."""


def total(counted: str) -> str:
    return f"{counted}_tokens"


def tokens(row: dict[str, Any]) -> dict[str, int | None]:
    return {name: row[total(name)] for name in CLASSES}


def wanted_tokens(expected: dict[str, Any]) -> dict[str, int]:
    return {name: expected["tokens"][name] for name in CLASSES}


def test_all_were_sent(journey: Journey) -> None:
    assert journey.mounts.results.keys() == journey.recorded.keys()
    assert len(journey.mounts.results) == journey.mounts.summary["sent"] == 2171
    ours = {id for id, exchange in journey.recorded.items() if exchange["provider"] in OURS}
    assert journey.unified.results.keys() == ours
    assert len(ours) == journey.unified.summary["sent"] == 1302


def test_answers_are_the_recorded_ones(journey: Journey) -> None:
    for run in journey.runs:
        wrong = [
            (id, result["status"], result["error"])
            for id, result in run.results.items()
            if result["error"] is not None or not (result["body_ok"] and result["status_ok"] and result["type_ok"])
        ]
        assert not wrong, f"{len(wrong)} differ: {wrong[:5]}"
        sent = run.summary["sent"]
        assert (
            run.summary["byte_identical_bodies"]
            == run.summary["same_status"]
            == run.summary["same_content_type"]
            == sent
        )


def test_requests_arrive_as_they_were_sent(journey: Journey) -> None:
    """Once; body, path, order, case and number of headers. Nothing added, and only Host and the credential changed."""
    for run in journey.runs:
        assert run.log.keys() == run.results.keys()
        for id, result in run.results.items():
            (got,) = run.log[id]
            exchange = journey.recorded[id]
            mount = mount_of(exchange["provider"])
            if run is journey.unified:
                mount = BY_UPSTREAM[journey.rows[result["gateway_id"]]["upstream"]]
            assert got["path"] == upstream_path(exchange), id
            assert (got["method"], got["http"], got["body_complete"]) == ("POST", "1.1", True)
            assert got["body_sha256"] == result["request_sha256"], id
            length = len(exchange["request_body"].encode())
            sent = [
                ["Host", f"127.0.0.1:{port_of(journey)}"],
                *result["request_headers"],
                ["Content-Length", str(length)],
            ]
            assert got["headers"] == [rewritten(header, mount) for header in sent], id


def upstream_path(exchange: dict[str, Any]) -> str:
    """The recorded path; a recorded provider that needs no version segment gets the one its catalogue entry names."""
    path = exchange["path"]
    if exchange["provider"] == "deepseek" and not path.startswith("/beta"):
        return "/v1" + path
    return path


def rewritten(header: list[str], mount: Mount) -> list[str]:
    name = header[0]
    if name.lower() not in CREDENTIALS:
        return header
    return [name if name.lower() == mount.header else mount.header, mount.credential]


def port_of(journey: Journey) -> int:
    config = (journey.gateway.folder / "fluxen.yaml").read_text()
    return int(config.partition("http://127.0.0.1:")[2].partition('"')[0])


def test_no_credential_is_in_the_ledger(journey: Journey) -> None:
    """Nowhere in its folder: journal, Parquet, views."""
    kept = journey.gateway.journal()
    assert kept
    assert KEY.encode() not in kept
    for mount in BY_UPSTREAM.values():
        assert mount.key.encode() not in kept


def test_each_has_one_row_that_says_what_it_was(journey: Journey) -> None:
    assert len(journey.rows) == len(journey.mounts.results) + len(journey.unified.results)
    for run, kind in zip(journey.runs, ("mount", "unified"), strict=True):
        assert len(run.ids) == len(run.results)
        for row_id, id in run.ids.items():
            row, exchange, result = journey.rows[row_id], journey.recorded[id], run.results[id]
            assert row["route"] == kind
            assert row["key_id"] == "replay"
            assert row["user_agent"] == "replay-drive/1"
            assert row["attempts"] == 1
            assert row["status"] == exchange["status"]
            assert row["error"] == ("upstream_status" if exchange["status"] >= 400 else None)
            assert row["request_bytes"] == len(exchange["request_body"].encode())
            chunks = run.log[id][0]["sent_chunks"] if exchange["streaming"] is not None else None
            framing = row["response_bytes"] - result["bytes"]
            assert framing == 0 if chunks is None else 5 * chunks <= framing - 5 <= 10 * chunks, id
            if kind == "mount":
                assert row["upstream"] == mount_of(exchange["provider"]).upstream
            if exchange["model_requested"] is not None and exchange["provider"] in OURS:
                assert row["model_asked"].removeprefix("models/") == exchange["model_requested"], id
            assert row["ttfb_ms"] <= row["latency_ms"]


def test_tokens_are_those_expected(journey: Journey) -> None:
    """Every class of every exchange, whoever the provider; an unknown count is NULL, never 0."""
    checked: Counter[str] = Counter()
    for run in journey.runs:
        for row_id, id in run.ids.items():
            row, expected = journey.rows[row_id], journey.expected[id]
            basis = expected["basis"]
            assert row["usage_source"] in SOURCES[basis], (id, row["usage_source"])
            if basis == "reported":
                assert tokens(row) == wanted_tokens(expected), id
                assert json.loads(row["usage_raw"]), id
            elif row["usage_source"] in ("none", "unknown"):
                assert set(tokens(row).values()) == {None}, id
            assert (row["usage_error"] is not None) == (row["usage_source"] == "estimated"), id
            checked[basis] += 1
    unified = 723 + 228 + 246
    assert checked["reported"] == 1972 + unified
    assert checked["error"] == 48 + 16
    assert checked["estimated"] == 127 + 79


def test_dialect_and_endpoint_are_those_of_the_path(journey: Journey) -> None:
    """Whatever the upstream of that name mostly speaks; and no endpoint is unknown."""
    for row_id, id in journey.mounts.ids.items():
        row, exchange = journey.rows[row_id], journey.recorded[id]
        recorded = Recorded(exchange, journey.expected[id])
        assert (row["dialect"], row["endpoint"]) == (recorded.dialect, recorded.endpoint), id
        assert "{other}" not in row["endpoint"], id


def test_a_cost_is_the_calculators_at_the_rows_own_time(journey: Journey) -> None:
    book, catalogue = PriceBook.shipped(), load_catalogue()
    costs: Counter[str] = Counter()
    for run in journey.runs:
        for row_id, id in run.ids.items():
            row, exchange, expected = journey.rows[row_id], journey.recorded[id], journey.expected[id]
            assert row["price_version"] == book.version
            source = row["usage_source"]
            if source == "none":
                assert row["cost_usd"] == 0, id
            elif source != "reported":
                assert row["cost_usd"] is None or source == "estimated", id
            else:
                recorded = Recorded(exchange, expected)
                known = provider_of_upstream(row["upstream"], None, catalogue)
                name = known.name if known else ""
                for path, listed in known.price_lists if known else ():
                    name = listed if exchange["path"].startswith(path + "/") else name
                asked = row["model_asked"]  # which may be an ARN, that the recordings' index took for a name
                pico = answer_cost(book, name, row["upstream"], recorded.read(), asked, micros(row["ts"])).total
                assert row["cost_usd"] == (None if pico is None else Decimal(pico).scaleb(-12)), id
                costs[expected["provider"]] += pico is not None
    assert costs["openai"] >= 2 * 700
    assert costs["anthropic"] == 2 * 228
    assert costs["google"] == 2 * 246
    assert costs["google-vertex"] > 100
    assert costs["bedrock"] > 240
    assert costs["cohere"] > 30
    assert costs["huggingface"] == 7


def micros(ts: datetime) -> int:
    return (ts.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_the_report_adds_up_while_it_serves_and_after(journey: Journey) -> None:
    """`fluxen report costs` against sums of the expected file, and the costs of the rows."""
    assert journey.while_serving == journey.after_stopping
    report = json.loads(journey.after_stopping)
    by_group = {(row["route"], row["upstream"]): row for row in report["rows"]}
    for provider in OURS:
        group = by_group["mount", mount_of(provider).upstream]
        expected = [row for row in journey.expected.values() if row["provider"] == provider]
        rows = [
            row for row in journey.rows.values() if row["route"] == "mount" and row["upstream"] == group["upstream"]
        ]
        assert group["requests"] == len(expected) == len(rows)
        assert group["errors"] == sum(row["status"] >= 400 for row in expected)
        for name in ("input", "cache_read", "output"):
            assert group[total(name)] == sum(row[total(name)] or 0 for row in rows), (provider, name)
            reported = sum(row["tokens"][name] for row in expected if row["basis"] == "reported")
            assert reported == sum(row[total(name)] for row in rows if row["usage_source"] == "reported")
        writes = sum(
            row["tokens"]["cache_write_5m"] + row["tokens"]["cache_write_1h"] for row in expected if row["tokens"]
        )
        assert group["cache_write_tokens"] == writes
        assert Decimal(group["cost_usd"]) == sum(row["cost_usd"] for row in rows if row["cost_usd"] is not None) > 0
        assert group["unknown_cost"] == sum(row["cost_usd"] is None for row in rows)
    assert report["totals"]["requests"] == len(journey.rows)
    assert (report["lost"], report["in_flight"]) == (0, 0)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_export_stands_comparison(journey: Journey, tmp_path: Path, kind: str) -> None:
    """The comparison that came with the recordings, over `fluxen ledger export`. Costs depend on the day: not here."""
    exported, expected = tmp_path / f"ledger.{kind}", tmp_path / "expected.jsonl"
    fluxen(journey.gateway, "ledger", "export", str(exported))
    with gzip.open(require_shared("traffic", "expected_dev.jsonl.gz"), "rb") as file:
        expected.write_bytes(file.read())
    for run in journey.runs:
        groups = compare(run, exported, expected)
        checked = 0
        for name, cells in groups.items():
            for column, cell in cells.items():
                assert cell["right"] == cell["of"], (name, column, cell)
            checked += cells["found"]["of"]
        assert checked >= len(run.results) - 1  # the id of one is spelt differently in the two files


def compare(run: Run, ledger: Path, expected: Path) -> dict[str, dict[str, dict[str, int]]]:
    done = subprocess.run(
        [
            sys.executable, str(require_shared("traffic", "compare.py")), "--expected", str(expected),
            "--ledger", str(ledger), "--mapping", str(Path(__file__).with_name("mapping.json")),
            "--results", str(run.file), "--json",
        ],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    groups: dict[str, dict[str, dict[str, int]]] = json.loads(done.stdout)["groups"]
    return groups
