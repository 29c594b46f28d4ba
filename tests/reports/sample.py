"""A fixed ledger for reports: two days in October, around the night in which Berlin's clocks go back, and two in
November. Small enough to work figures out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id

Row = dict[str, Any]
"""Columns of the ledger that are known; money in dollars."""


def at(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute)  # UTC without saying so, as the column has it


def _answered(ts: datetime, model: str, cost: str | None, **more: Any) -> Row:
    """An answered, streamed request of 2 s, 0.5 s of them until the first byte."""
    row: Row = {
        "ts": ts, "node": "n", "worker": 0, "route": "mount", "dialect": "openai", "upstream": "openai", "attempts": 1,
        "endpoint": "/v1/chat/completions", "model_asked": model.rpartition("-")[0], "model": model, "status": 200,
        "stream": True, "usage_source": "reported", "cost_usd": None if cost is None else Decimal(cost),
        "latency_ms": 2000, "ttfb_ms": 500, "overhead_us": 200, "price_version": "p1",
    }  # fmt: skip
    return {**row, **more}


def _failed(ts: datetime, model: str, status: int | None, error: str, **more: Any) -> Row:
    row = _answered(ts, f"{model}-", None, status=status, error=error, usage_source="none", latency_ms=20, ttfb_ms=20)
    return {**row, "model": None, **more}


ROWS: tuple[Row, ...] = (
    # 24 October 2026, 22:30 UTC: in Berlin it is the 25th already
    _answered(at(24, 22, 30, 10), "gpt-1", "0.25", key_id="a", team="x", input_tokens=1000, output_tokens=100),
    # the hour that comes twice in Berlin: 02:30 +02:00 and 02:30 +01:00
    _answered(at(25, 0, 30, 10), "gpt-1", "0.5", key_id="a", team="x", input_tokens=2000, output_tokens=300),
    _answered(at(25, 1, 30, 10), "gpt-1", "0.125", key_id="b", team="y", input_tokens=100, output_tokens=30),
    _failed(at(25, 2, 0, 10), "gpt", 429, "upstream_status", key_id="b", team="y"),
    # November: costs of every kind
    _answered(at(1, 12), "gpt-1", "1.000000000001", key_id="a", team="x", input_tokens=300, cache_read_tokens=700,
              output_tokens=150, reasoning_tokens=50, tags={"customer": "acme"}, searches=2, latency_ms=3500),
    _answered(at(1, 12, 30), "gpt-1", "0.000000000002", key_id="a", team="x", input_tokens=10, output_tokens=3,
              tags={"customer": "o'neil"}, stream=False, latency_ms=100, ttfb_ms=100, audio_tokens=4, image_tokens=1),
    _answered(at(2, 9), "claude-2", "2.5", key_id="b", team="y", dialect="anthropic", upstream="anthropic",
              endpoint="/v1/messages", input_tokens=5, cache_read_tokens=195, cache_write_5m_tokens=200,
              cache_write_1h_tokens=600, output_tokens=500, tags={"customer": "acme"}, overhead_us=900),
    # unknown: without a price, without usage (with a bound), lost
    _answered(at(2, 10), "llama-3", None, key_id="c", upstream="vllm", input_tokens=7, output_tokens=9,
              price_version=None),
    _answered(at(2, 10, 1), "llama-3", None, key_id="c", upstream="vllm", input_tokens=1, output_tokens=1,
              usage_source="estimated", usage_error=0.1),
    _answered(at(2, 11), "gpt-1", None, key_id="a", team="x", usage_source="unknown", bound_usd=Decimal("0.75")),
    _failed(at(2, 11, 30), "gpt", None, "lost", key_id="a", team="x", usage_source="unknown", stream=None,
            latency_ms=None, ttfb_ms=None, overhead_us=None),
    # estimated, and priced
    _answered(at(2, 12), "gpt-1", "0.04", key_id="b", team="y", usage_source="estimated", usage_error=0.05,
              input_tokens=40, output_tokens=12),
    # free, and known to be
    _answered(at(2, 13), "tiny-0", "0", upstream="ollama", input_tokens=3, output_tokens=4, saved_usd=Decimal("0.5"),
              cache="hit", service_tier="flex", tool_calls=1),
    _failed(at(2, 14), "gpt", 429, "upstream_status", key_id="b", team="y"),
    _failed(at(2, 15), "gpt", 429, "upstream_status", key_id="a", team="x"),
    _failed(at(2, 16), "claude", 401, "unauthorised", key_id="b", upstream="anthropic", team="y"),
    _failed(at(2, 17), "gpt", 200, "client_gone", key_id="a", team="x", usage_source="partial"),
)  # fmt: skip

OPEN: tuple[Row, ...] = (
    {"ts": at(2, 18), "node": "n", "worker": 0, "key_id": "a", "team": "x", "model_asked": "gpt", "upstream": "openai",
     "route": "mount", "endpoint": "/v1/chat/completions", "dialect": "openai", "tags": {"customer": "acme"}},
)  # fmt: skip


def write(folder: Path) -> Iterator[Path]:
    """The ledger as the gateway would have written it; it stays open while it is used, for what is in flight."""
    journal = Journal(folder, "n", 0)
    for row in ROWS:
        end = End(id=new_id(), ts=_micros(row["ts"]))
        for name, value in row.items():
            if name.endswith("_usd"):
                setattr(end, name.removesuffix("usd") + "pico", None if value is None else int(value * 10**12))
            elif name not in ("ts", "node", "worker"):
                setattr(end, name, value)
        assert journal.end(end)
    for row in OPEN:
        begin = Begin(id=new_id(), ts=_micros(row["ts"]))
        for name in set(row) - {"ts", "node", "worker"}:
            setattr(begin, name, row[name])
        assert journal.begin(begin)
    yield folder
    journal.close()


def _micros(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp()) * 1_000_000
