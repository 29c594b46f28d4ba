"""Recorded answers that break on the way: what came goes on to the byte, nothing broken looks complete, and the row
says what happened. The faults are the replay upstream's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway.conftest import environment
from gateway.rig import Gateway, until
from traffic.rig import MOUNTS, OURS, Replay, Run, config, drive, expectations, load, through_mounts

EACH = 4  # exchanges of each kind
HASTY = """  openai-hasty: {{target_url: "{url}", api_key: "sk-x", dialect: openai, {limits}}}
  anthropic-hasty: {{target_url: "{url}", api_key: "sk-x", dialect: anthropic, {limits}}}
  gemini-hasty: {{target_url: "{url}", api_key: "sk-x", dialect: gemini, {limits}}}"""
LIMITS = "first_byte_timeout_ms: 2000, idle_timeout_ms: 2000"
HASTY_MOUNTS = (
    "--mount",
    "openai=/openai-hasty",
    "--mount",
    "anthropic=/anthropic-hasty",
    "--mount",
    "google=/gemini-hasty",
)
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")


@dataclass(frozen=True)
class Bench:
    """A gateway before the replay upstream, and a choice of exchanges to send through it."""

    gateway: Gateway
    replay: Replay
    chosen: Path
    """Exchanges of OpenAI, Anthropic and Gemini with reported usage: of each endpoint, streamed and not."""
    streams: Path
    """The streamed ones of them."""
    exchanges: dict[str, dict[str, Any]]
    expected: dict[str, dict[str, Any]]

    def drive(self, folder: Path, *options: str, exchanges: Path | None = None, mounts: tuple[str, ...] = ()) -> Run:
        mounts = mounts or tuple(through_mounts(MOUNTS))
        return drive(folder, self.replay, self.gateway, *mounts, *options, exchanges=exchanges or self.chosen)

    def rows(self, run: Run) -> dict[str, dict[str, Any]]:
        """The rows of a run by exchange id, once all have come. Each answer had a head, so each id is known."""
        assert len(run.ids) == len(run.results)
        first = min(run.ids)
        sql = "SELECT * FROM requests WHERE id >= ?"

        def all_of_them() -> dict[str, dict[str, Any]] | None:
            found = {run.ids.get(str(row["id"])): row for row in self.gateway.query(sql, [first])}
            return {id: row for id, row in found.items() if id} if run.results.keys() <= found.keys() else None

        rows: dict[str, dict[str, Any]] = until(all_of_them, "every request's row")
        return rows


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    recorded = load("dev.jsonl.gz")
    expected = expectations(recorded)
    kinds: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for id, exchange in recorded.items():
        kind = (exchange["provider"], exchange["endpoint"], exchange["streaming"])
        events = exchange["response_body"].count("data:")
        fits = exchange["provider"] in OURS and expected[id]["basis"] == "reported"
        if fits and len(kinds[kind]) < EACH and (exchange["streaming"] is None or events > 4):
            kinds[kind].append(id)
    chosen = {id: recorded[id] for ids in kinds.values() for id in ids}
    streamed = [exchange for exchange in chosen.values() if exchange["streaming"] == "sse"]
    assert len(chosen) >= 30
    assert len(streamed) >= 15
    files = folder / "chosen.jsonl", folder / "streams.jsonl"
    for file, content in zip(files, (chosen.values(), streamed), strict=True):
        file.write_text("".join(json.dumps(exchange) + "\n" for exchange in content))
    replay = Replay(folder, "--slow-seconds", "4", "--hang-seconds", "60")
    try:
        more = HASTY.format(url=replay.url, limits=LIMITS)
        gateway = Gateway(folder / "gateway", config(replay.url, more), environment(folder / "home", {}))
        try:
            yield Bench(gateway, replay, *files, chosen, expected)
        finally:
            gateway.stop()
    finally:
        replay.close()


def once(run: Run, id: str) -> dict[str, Any]:
    """What the upstream wrote down of an exchange: it came there once, nothing was repeated."""
    (entry,) = run.log[id]
    return entry


def counts(row: dict[str, Any]) -> list[int | None]:
    return [row[name] for name in TOKENS]


def wanted(bench: Bench, id: str) -> list[int]:
    return [bench.expected[id]["tokens"][name.removesuffix("_tokens")] for name in TOKENS]


def billed_for_what_is_known(bench: Bench, id: str, row: dict[str, Any]) -> None:
    """The bill of a broken answer: the provider's final count if it had come, else what can be counted of a stream that
    broke off, else unknown. Never 0."""
    hasty = row["upstream"].endswith("-hasty")  # somebody's own server: it has no prices
    if row["usage_source"] == "reported":
        assert counts(row) == wanted(bench, id), id
        assert row["cost_usd"] is None if hasty else row["cost_usd"] > 0, id
    elif row["usage_source"] == "estimated":
        assert bench.exchanges[id]["streaming"] is not None, id
        assert row["usage_error"] > 0, id
        assert row["input_tokens"] + row["cache_read_tokens"] > 0, id
        assert row["cost_usd"] is None if hasty else row["cost_usd"] > 0, id
    else:
        assert row["usage_source"] in ("partial", "unknown"), id
        assert row["cost_usd"] is None, id
        if row["usage_source"] == "unknown":
            assert counts(row) == [None] * len(TOKENS), id


@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_of_providers_are_passed_on(bench: Bench, tmp_path: Path, status: int) -> None:
    """At once, once, with their body: retrying is the client's business."""
    run = bench.drive(tmp_path, "--fault", str(status))
    rows = bench.rows(run)
    assert run.results.keys() == bench.exchanges.keys()
    for id, result in run.results.items():
        entry, row = once(run, id), rows[id]
        assert result["status"] == status
        assert (result["sha256"], result["bytes"]) == (entry["sent_sha256"], entry["sent_bytes"])
        assert (row["status"], row["error"], row["attempts"]) == (status, "upstream_status", 1)
        assert (row["usage_source"], row["cost_usd"]) == ("none", 0)


@pytest.mark.parametrize("fault", ["cut", "reset-mid", "bad-chunk"])
def test_what_breaks_off_breaks_off_for_the_client(bench: Bench, tmp_path: Path, fault: str) -> None:
    run = bench.drive(tmp_path, "--fault", fault)
    rows = bench.rows(run)
    assert run.results.keys() == bench.exchanges.keys()
    for id, result in run.results.items():
        entry, row = once(run, id), rows[id]
        assert result["error"], f"{id} looks complete"
        assert result["status"] == row["status"] == bench.exchanges[id]["status"]
        assert (row["error"], row["attempts"]) == ("upstream_broke", 1)
        assert 0 < result["bytes"] == entry["sent_bytes"] < len(bench.exchanges[id]["response_body"].encode())
        assert result["sha256"] == entry["sent_sha256"], id
        billed_for_what_is_known(bench, id, row)


def test_a_reset_before_the_answer_is_an_error_of_ours(bench: Bench, tmp_path: Path) -> None:
    """The request has reached the upstream, which may have worked on it: not sent again, and its cost is not known."""
    run = bench.drive(tmp_path, "--fault", "reset")
    rows = bench.rows(run)
    for id, result in run.results.items():
        once(run, id)
        row = rows[id]
        assert (result["status"], result["error"]) == (502, "status 502")
        assert (row["status"], row["error"], row["attempts"]) == (502, "upstream_broke", 1)
        assert (row["usage_source"], row["cost_usd"]) == ("unknown", None)


def test_silence_in_an_answer_ends_it(bench: Bench, tmp_path: Path) -> None:
    """Head and some bytes, then nothing: after idle_timeout_ms both sides are told."""
    run = bench.drive(tmp_path, "--fault", "hang", "--concurrency", "100", mounts=HASTY_MOUNTS)
    rows = bench.rows(run)
    assert run.results.keys() == bench.exchanges.keys()
    log = run.log
    for id, result in run.results.items():
        row = rows[id]
        assert result["error"], f"{id} looks complete"
        assert 0 < result["bytes"] == once(run, id)["sent_bytes"] < len(bench.exchanges[id]["response_body"].encode())
        assert result["sha256"] == log[id][0]["sent_sha256"] or log[id][0]["sent_sha256"] is None
        assert (row["error"], row["attempts"]) == ("upstream_timeout", 1)
        billed_for_what_is_known(bench, id, row)
    left(bench, run.results.keys())


def test_an_upstream_that_does_not_begin_is_given_up(bench: Bench, tmp_path: Path) -> None:
    run = bench.drive(tmp_path, "--fault", "slow-head", "--concurrency", "100", mounts=HASTY_MOUNTS)
    rows = bench.rows(run)
    for id, result in run.results.items():
        once(run, id)
        row = rows[id]
        assert (result["status"], result["error"]) == (504, "status 504")
        assert (row["status"], row["error"], row["attempts"]) == (504, "upstream_timeout", 1)
        assert (row["usage_source"], row["cost_usd"]) == ("unknown", None)
    left(bench, run.results.keys())


def test_an_upstream_that_takes_its_time_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    run = bench.drive(tmp_path, "--fault", "slow-head", "--concurrency", "100", "-n", "12")
    rows = bench.rows(run)
    for id, result in run.results.items():
        row = rows[id]
        assert (result["error"], result["body_ok"]) == (None, True)
        assert (row["error"], counts(row)) == (None, wanted(bench, id))
        assert row["ttfb_ms"] >= 4000


def test_an_event_nobody_can_read_goes_on_and_hides_nothing(bench: Bench, tmp_path: Path) -> None:
    run = bench.drive(tmp_path, "--fault", "bad-event", exchanges=bench.streams)
    rows = bench.rows(run)
    assert len(run.results) >= 15
    for id, result in run.results.items():
        entry, row = once(run, id), rows[id]
        assert (result["status"], result["error"]) == (200, None)
        assert result["sha256"] == entry["sent_sha256"]
        assert result["bytes"] > len(bench.exchanges[id]["response_body"].encode())
        assert (row["error"], row["usage_source"]) == (None, "reported"), id
        assert counts(row) == wanted(bench, id), id


def test_a_client_that_leaves_takes_the_upstreams_request_with_it(bench: Bench, tmp_path: Path) -> None:
    run = bench.drive(tmp_path, "--fault", "hang", "--cut-after", "1", "--concurrency", "100")
    rows = bench.rows(run)
    assert run.results.keys() == bench.exchanges.keys()
    left(bench, run.results.keys())
    for id, row in rows.items():
        assert (row["status"], row["error"], row["attempts"]) == (200, "client_closed", 1)
        billed_for_what_is_known(bench, id, row)


def left(bench: Bench, ids: Any) -> None:
    """The upstream sees that its client has gone, for each of these."""

    def all_seen() -> bool:
        log = bench.replay.log()
        return all(entry["client_cut"] for id in ids for entry in log[id])

    until(all_seen, "the upstream to see that the gateway left")
