"""From an answer's copy to the row: who pays for what, and what stays unknown."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fluxen.analyzer.usage import Reading
from fluxen.config.load import load_bytes
from fluxen.gateway.accountant import Accountant, told_input
from fluxen.gateway.meter import Meter
from fluxen.gateway.questions import Counted
from fluxen.gateway.routes import Upstream
from fluxen.gateway.snapshot import build
from fluxen.ledger.record import End
from fluxen.providers.answer import Leg, Usage

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
NOON = 1_795_348_800_000_000  # 22 November 2026
SENT = {"prompt_tokens": 5, "completion_tokens": 2}
TOLD = {"model": "gpt-4o", "usage": SENT}
COUNTED = Counted(30, 20, 6, 0.3, 0.4)


@functools.cache
def upstreams() -> dict[str, Upstream]:
    config = b"upstreams: {openai: , anthropic: , gemini: , own: {target_url: 'http://127.0.0.1:1', dialect: openai}}\n"
    return {one.name: one for one in build(load_bytes(config, {}, Path("/nowhere/fluxen.yaml")), {}).upstreams}


def row(status: int | None = 200, dialect: str = "openai", endpoint: str = CHAT, asked: str = "gpt-4o") -> End:
    return End("x", NOON, dialect=dialect, endpoint=endpoint, status=status, model_asked=asked)


def metered(*objects: Any, streamed: bool = False) -> Meter:
    meter = Meter(streamed, None)
    for one in objects:
        meter.add(b"data: %b\n\n" % json.dumps(one).encode() if streamed else json.dumps(one).encode())
    return meter


def accounted(
    end: End,
    meter: Meter | None,
    *,
    at: str = "openai",
    billable: bool = True,
    answered: bool = True,
    complete: bool = True,
) -> Reading:
    said = {"billable": billable, "answered": answered, "complete": complete}
    return Accountant().account(end, upstreams()[at], meter, **said)


@pytest.mark.parametrize(
    ("status", "billable", "answered", "source", "cost"),
    [
        (429, True, True, "none", 0),  # refused: nothing was generated
        (301, True, True, "none", 0),
        (500, True, True, "none", 0),
        (502, True, False, "unknown", None),  # ours: it may have been generated, and billed
        (504, True, False, "unknown", None),
        (None, True, False, "unknown", None),
        (503, False, False, "none", 0),  # never sent
        (200, False, False, "none", 0),
        (200, True, True, "unknown", None),
    ],
)
def test_whether_it_cost_something(
    status: int | None, billable: bool, answered: bool, source: str, cost: int | None
) -> None:
    end = row(status)
    accounted(end, None, billable=billable, answered=answered, complete=answered)
    assert (end.usage_source, end.cost_pico, end.fees_pico) == (source, cost, cost)
    assert (end.input_tokens, end.output_tokens) == (None, None), "what is not known is not zero"


def test_a_refusal_that_counts_costs_nothing_all_the_same() -> None:
    end = row(429)
    accounted(end, metered(TOLD))
    assert (end.usage_source, end.cost_pico, end.input_tokens) == ("none", 0, None)


def test_each_class_has_its_column() -> None:
    sent = {"input_tokens": 3, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50, "output_tokens": 9,
            "cache_creation": {"ephemeral_1h_input_tokens": 30}, "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            "service_tier": "batch"}  # fmt: skip
    end = row(dialect="anthropic", endpoint=MESSAGES, asked="claude-sonnet-4-5")
    accounted(end, metered({"model": "claude-sonnet-4-5", "stop_reason": "x", "usage": sent}), at="anthropic")
    assert (end.input_tokens, end.cache_read_tokens, end.output_tokens, end.reasoning_tokens) == (3, 100, 9, 4)
    assert (end.cache_write_5m_tokens, end.cache_write_1h_tokens) == (20, 30)
    assert (end.searches, end.tool_calls, end.service_tier, end.finish) == (2, 1, "batch", "x")
    assert json.loads(end.usage_raw or "") == sent
    searched = row()
    called = {"web_search_calls": 1, "x_search_calls": 2, "file_search_calls": 4, "code_interpreter_calls": 8}
    accounted(searched, metered({"usage": {**SENT, "server_side_tool_usage_details": called}}))
    assert (searched.searches, searched.tool_calls) == (7, 8)
    assert (searched.audio_tokens, searched.image_tokens) == (0, 0)
    plain = row()
    accounted(plain, metered(TOLD))
    assert (plain.searches, plain.tool_calls, plain.usage_error) == (None, None, None)


def test_a_copy_that_could_not_be_made_tells_nothing() -> None:
    for body in (json.dumps(TOLD).encode(), gzip.compress(json.dumps(TOLD).encode()) + b"what is this?"):
        meter = Meter(False, b"gzip")
        meter.add(body)
        end = row()
        accounted(end, meter)
        assert (end.usage_source, end.cost_pico, end.input_tokens) == ("unknown", None, None)


def test_what_a_broken_answer_had_said_by_then_counts() -> None:
    meter = Meter(False, None)
    meter.add(json.dumps(TOLD).encode()[:-1])
    end = row()
    accounted(end, meter, complete=False)
    assert (end.usage_source, end.input_tokens, end.output_tokens) == ("reported", 5, 2)


# ------------------------------------------------------------------------------------------ what may be counted

WORD = {"model": "gpt-4o", "choices": [{"delta": {"content": "word"}}]}


@pytest.mark.parametrize(
    ("source", "endpoint", "legs", "whole", "countable"),
    [
        ("unknown", CHAT, (), True, True),
        ("unknown", CHAT, (), False, True),
        ("unknown", "/v1/audio/speech", (), True, False),  # not billed by tokens
        ("unknown", "/v1/{other}", (), True, False),
        ("none", CHAT, (), True, False),
        ("reported", CHAT, (), True, False),
        ("reported", CHAT, (), False, False),
        ("partial", CHAT, (), True, False),  # all its provider says
        ("partial", CHAT, (), False, True),
        ("partial", CHAT, (Leg(None, Usage(5)), Leg("m", Usage(7))), False, False),  # nobody knows which leg went on
    ],
)
def test_what_may_be_counted(source: Any, endpoint: str, legs: tuple[Leg, ...], whole: bool, countable: bool) -> None:
    usage = Usage(5) if source in ("partial", "reported") else None
    reading = Reading(source=source, usage=usage, legs=legs)
    assert Accountant.countable(row(endpoint=endpoint), reading, whole=whole) is countable


@pytest.mark.parametrize("part", ["input", "cache_read", "cache_write_5m", "cache_write_1h"])
def test_input_is_told_in_whichever_class(part: str) -> None:
    assert told_input(Usage(**{part: 1}))
    assert not told_input(Usage(output=9))
    assert not told_input(None)


def estimated(end: End, reading: Reading, counted: Counted = COUNTED, at: str = "openai") -> None:
    Accountant().estimated(end, upstreams()[at], reading, counted)


def test_what_was_counted_fills_the_row_and_says_so() -> None:
    end = row()
    reading = accounted(end, metered(WORD, streamed=True), complete=False)
    assert (end.usage_source, end.cost_pico) == ("unknown", None)
    estimated(end, reading)
    assert (end.usage_source, end.usage_error) == ("estimated", 0.3)
    assert (end.input_tokens, end.output_tokens, end.reasoning_tokens) == (30, 20, 6)
    assert end.cost_pico == 30 * 2_500_000 + 20 * 10_000_000
    mine = row()
    estimated(mine, reading, at="own")
    assert (mine.output_tokens, mine.usage_source, mine.cost_pico) == (20, "estimated", None)


def test_what_the_provider_told_of_the_input_stands() -> None:
    """And then only the output is a guess."""
    told = Usage(input=25, cache_read=1000, cache_write_5m=50, cache_write_1h=25, output=1, reasoning=7)
    reading = Reading(model="claude-sonnet-4-5", usage=told, source="partial", tier="standard")
    end = row(dialect="anthropic", endpoint=MESSAGES)
    estimated(end, reading, at="anthropic")
    assert (end.input_tokens, end.cache_read_tokens) == (25, 1000)
    assert (end.cache_write_5m_tokens, end.cache_write_1h_tokens) == (50, 25)
    assert (end.output_tokens, end.reasoning_tokens) == (20, 7)
    assert end.usage_error == pytest.approx(0.4 * 20 / (1100 + 20))
    assert end.cost_pico is not None and end.cost_pico > 0
    cached = row(dialect="anthropic", endpoint=MESSAGES)
    estimated(cached, Reading(usage=Usage(cache_read=1000), source="partial"), at="anthropic")
    assert (cached.input_tokens, cached.cache_read_tokens, cached.output_tokens) == (0, 1000, 20)


def test_an_output_that_was_told_is_not_made_less() -> None:
    """What could be seen of it is a part: thoughts, for one, are not sent."""
    end = row()
    told = Usage(input=5, output=500, reasoning=480)
    estimated(end, Reading(model="gpt-4o", usage=told, source="partial"))
    assert (end.input_tokens, end.output_tokens, end.reasoning_tokens) == (5, 500, 480)


def test_an_output_without_its_input_is_counted_whole() -> None:
    end = row()
    estimated(end, Reading(model="gpt-4o", usage=Usage(output=3), source="partial"))
    assert (end.input_tokens, end.output_tokens, end.usage_error) == (30, 20, 0.3)
    more = row()
    told = Usage(output=500, reasoning=480, calls={"web_search": 2})
    estimated(more, Reading(model="gpt-4o", usage=told, source="partial"))
    assert (more.input_tokens, more.output_tokens, more.reasoning_tokens) == (30, 500, 480)
    assert (more.searches, more.fees_pico) == (2, 2 * 10**10)
