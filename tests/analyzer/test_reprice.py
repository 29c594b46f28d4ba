"""A cost computed from a row alone is the cost that the answer itself had."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec
import pytest
from analyzer.recorded import Recorded as Exchange

from fluxen.analyzer.cost import NOTHING, UNKNOWN, answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.reprice import Recorded, reprice
from fluxen.analyzer.usage import Reading, Usage, read_answer

NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1e6)
COUNTS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio", "image")
BOOK = PriceBook.shipped()


def row(reading: Reading, **others: object) -> Recorded:
    """The row that the gateway writes of it."""
    usage = reading.usage or Usage()
    calls = usage.calls or {}
    searches = sum(count for name, count in calls.items() if "search" in name)
    counts = {f"{name}_tokens": None if reading.usage is None else getattr(usage, name) for name in COUNTS}
    fields: dict[str, object] = {
        "ts": NOON,
        "dialect": "openai",
        "endpoint": "/v1/chat/completions",
        "upstream": "openai",
        "model_asked": None,
        "model": reading.model,
        "service_tier": reading.tier,
        "usage_source": reading.source,
        "usage_raw": None if reading.raw is None else reading.raw.decode(),
        **counts,
        "searches": searches,
        "tool_calls": sum(calls.values()) - searches,
    }
    return Recorded(**{**fields, **others})  # type: ignore[arg-type]


def test_each_recorded_answer_is_priced_again_from_its_row(recorded: list[Exchange]) -> None:
    compared: Counter[str] = Counter()
    for one in recorded:
        reading = one.read()
        asked = one.exchange["model_requested"]
        # The list price of whoever it is: what counts here is that both roads end at the same sum.
        provider = one.expected["price_provider"] or one.provider
        first = answer_cost(BOOK, provider, None, reading, asked, NOON)
        again = reprice(
            BOOK, provider, row(reading, dialect=one.dialect, endpoint=one.endpoint, upstream=None, model_asked=asked)
        )
        assert again == first, one.id
        compared[reading.source, first.total is not None] += 1
    assert compared["reported", True] > 1500
    assert compared["none", True] > 20
    assert compared["unknown", False] > 50


def answered(**usage: object) -> Reading:
    body = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010, **usage}
    whole = msgspec.json.encode({"model": "gpt-4o-2024-08-06", "choices": [], "usage": body})
    return read_answer("openai", "/v1/chat/completions", 200, whole)


def test_counts_of_the_row_decide_where_the_usage_object_says_otherwise() -> None:
    reading = answered()
    told = reprice(BOOK, "openai", row(reading))
    assert told is not None
    assert told.total == 1000 * 2_500_000 + 10 * 10_000_000
    other = reprice(BOOK, "openai", row(reading, input_tokens=500, cache_read_tokens=500))
    assert other is not None
    assert other.total == 500 * 2_500_000 + 500 * 1_250_000 + 10 * 10_000_000
    assert reprice(BOOK, "openai", row(reading, usage_raw=None)) == told
    assert reprice(BOOK, "openai", row(reading, usage_raw="not JSON")) == told
    assert reprice(BOOK, "openai", row(reading, dialect="spoken by nobody")) == told


def test_what_the_counts_do_not_tell_is_not_made_up() -> None:
    """In or out, which tool: that is in the usage object only; without it nobody knows the price."""
    for told in ({"audio_tokens": 5}, {"image_tokens": 5}, {"searches": 1}, {"tool_calls": 1}):
        assert reprice(BOOK, "openai", row(answered(), usage_raw=None, **told)) is None
        assert reprice(BOOK, "openai", row(answered(), **told)) is None
    nothing = dict.fromkeys((f"{name}_tokens" for name in COUNTS), None)
    assert reprice(BOOK, "openai", row(answered(), usage_raw=None, **nothing)) is None


def test_an_estimate_is_priced_by_its_counts() -> None:
    """Its provider may have told the input before the stream broke off; the output was counted."""
    opening = '{"input_tokens":300,"cache_read_input_tokens":700,"output_tokens":1}'
    reading = Reading(model="claude-sonnet-4-5", usage=Usage(input=300, cache_read=700, output=50), source="estimated")
    estimate = {"dialect": "anthropic", "endpoint": "/v1/messages"}
    expected = 300 * 3_000_000 + 700 * 300_000 + 50 * 15_000_000
    for raw in (opening, None):
        found = reprice(BOOK, "anthropic", row(reading, usage_raw=raw, **estimate))
        assert found is not None
        assert found.total == expected


@pytest.mark.parametrize(("source", "cost"), [("none", NOTHING), ("unknown", UNKNOWN), ("partial", UNKNOWN)])
def test_what_has_no_known_usage_has_no_cost_whatever_the_prices_are(source: str, cost: object) -> None:
    assert reprice(BOOK, "openai", row(answered(), usage_source=source)) == cost


def test_a_row_of_before_calls_were_counted_gets_its_fees() -> None:
    raw = '{"input_tokens":10,"output_tokens":5,"server_tool_use":{"web_search_requests":2}}'
    reading = Reading(model="claude-sonnet-4-5", usage=Usage(input=10, output=5), source="reported", raw=raw.encode())
    old = row(reading, dialect="anthropic", endpoint="/v1/messages", searches=None, tool_calls=None)
    found = reprice(BOOK, "anthropic", old)
    assert found is not None
    assert (found.total, found.fees) == (10 * 3_000_000 + 5 * 15_000_000 + 2 * 10**10, 2 * 10**10)


def test_nobodys_model_has_no_price() -> None:
    found = reprice(BOOK, "", row(answered()))
    assert found is not None
    assert found.total is None
