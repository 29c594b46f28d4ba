"""Amazon's event stream: found from its end, whatever was not kept, and never mistaken for what it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from analyzer.frames import chunk, event, message
from hypothesis import given
from hypothesis import strategies as st

from fluxen.analyzer import eventstream
from fluxen.analyzer.usage import HEAD, TAIL, Reading, Usage, read_stream

CONVERSE = "/model/{model}/converse-stream"
INVOKE = "/model/{model}/invoke-with-response-stream"
PAYLOADS = st.lists(st.binary(max_size=400).map(lambda data: b"{" + data + b"}"), min_size=1, max_size=12)


def read(endpoint: str, body: bytes, complete: bool = True) -> Reading:
    return read_stream("bedrock", endpoint, 200, body[:HEAD], body[HEAD:][-TAIL:], complete)


@pytest.mark.parametrize("encoded", ["a", "=", "é", "e30", "W10=", ""], ids=repr)
def test_an_invoked_models_event_that_is_none(encoded: str) -> None:
    """Not base64, or of what is no object: it says nothing, and the others are still read."""
    bad = event("chunk", {"bytes": encoded})
    end = chunk({"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 130}})
    assert read(INVOKE, bad).source == "unknown"
    reading = read(INVOKE, b"".join([chunk(START), bad, end, bad]))
    assert (reading.usage, reading.source) == (Usage(input=702, cache_read=5, output=130), "reported")


@given(PAYLOADS, st.booleans())
def test_the_same_from_both_ends(payloads: list[bytes], last: bool) -> None:
    stream = b"".join(message("chunk", payload, last=last) for payload in payloads)
    assert eventstream.begins(stream)
    assert list(eventstream.forwards(stream)) == payloads
    assert list(eventstream.backwards(stream)) == payloads[::-1]


@given(PAYLOADS, st.integers(0, 5000), st.integers(0, 600))
def test_cut_anywhere(payloads: list[bytes], start: int, end: int) -> None:
    """Of a piece, the messages that are whole; then at most the rest of the one it begins within."""
    messages = [message("chunk", payload) for payload in payloads]
    stream = b"".join(messages)
    start, stop = min(start, len(stream)), max(len(stream) - end, 0)
    found = list(eventstream.backwards(stream[start:stop]))
    whole, at = [], 0
    for payload, sent in zip(payloads, messages, strict=True):
        if start <= at and at + len(sent) <= stop:
            whole.append(payload)
        at += len(sent)
    assert found[: len(whole)] == whole[::-1]
    assert len(found) - len(whole) <= 1


@given(st.binary(max_size=2000))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    list(eventstream.forwards(data))
    list(eventstream.backwards(data))
    list(eventstream.backwards(data + event("metadata", {"usage": {}}) + data))


def test_a_message_whose_sum_is_wrong_is_not_believed() -> None:
    good = event("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}})
    assert read(CONVERSE, good).usage == Usage(input=1, output=2)
    for at in range(len(good)):
        damaged = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert read(CONVERSE, damaged).source == "unknown", at


def test_what_a_model_writes_is_no_message() -> None:
    """A payload that holds a whole message, framing and all: JSON has to escape it, but who knows."""
    inner = event("metadata", {"usage": {"inputTokens": 999, "outputTokens": 999}})
    stream = message("contentBlockDelta", b'{"delta":"' + inner + b'"}')
    assert read(CONVERSE, stream).source == "unknown"
    real = event("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}})
    assert read(CONVERSE, stream + real).usage == Usage(input=1, output=2)


USAGE = {"inputTokens": 433, "outputTokens": 16, "cacheReadInputTokens": 2752, "cacheWriteInputTokens": 90}
CONVERSED = [
    event("messageStart", {"role": "assistant"}),
    *(event("contentBlockDelta", {"delta": {"text": "word " * 40}, "contentBlockIndex": 0}) for _ in range(300)),
    event("messageStop", {"stopReason": "tool_use"}),
]


@pytest.mark.parametrize("size", [10, 40_000], ids=["small", "larger than the tail"])
def test_the_last_event_whatever_its_size(size: int) -> None:
    """A trace of guardrails, with usage of its own, can be larger than what is kept."""
    trace = {"guardrail": {"inputAssessment": {"x": {"usage": {"inputTokens": 7}, "text": "y" * size}}}}
    details = [{"inputTokens": 60, "ttl": "1h"}, {"inputTokens": 30, "ttl": "5m"}]
    metadata = event("metadata", {"trace": trace, "usage": {**USAGE, "cacheDetails": details}, "metrics": {}})
    reading = read(CONVERSE, b"".join([*CONVERSED, metadata]))
    assert reading.usage == Usage(433, 2752, 30, 60, 16)
    assert reading.source == "reported"
    assert reading.finish == ("tool_use" if size == 10 else None)


def test_a_stream_that_broke_off_before_its_usage() -> None:
    assert read(CONVERSE, b"".join(CONVERSED), complete=False) == Reading(finish="tool_use", source="unknown")
    whole = b"".join([*CONVERSED, event("metadata", {"usage": USAGE})])
    assert read(CONVERSE, whole[:-9], complete=False).source == "unknown"


START = {
    "type": "message_start",
    "message": {"model": "claude-x", "usage": {"input_tokens": 702, "cache_read_input_tokens": 5, "output_tokens": 1}},
}
METRICS = {"inputTokenCount": 702, "outputTokenCount": 98, "invocationLatency": 3042, "cacheReadInputTokenCount": 5}


@pytest.mark.parametrize("words", [3, 2000])
def test_an_invoked_models_own_count_is_the_one(words: int) -> None:
    """Bedrock's metrics left out what was not text."""
    text = [chunk({"type": "content_block_delta", "delta": {"text": "word"}}) for _ in range(words)]
    end = chunk({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 130}})
    stop = chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS})
    reading = read(INVOKE, b"".join([chunk(START), *text, end, stop]))
    assert (reading.model, reading.finish, reading.source) == ("claude-x", "tool_use", "reported")
    assert reading.usage == Usage(input=702, cache_read=5, output=130)
    broken = read(INVOKE, b"".join([chunk(START), *text]), complete=False)
    assert (broken.usage, broken.source) == (Usage(input=702, cache_read=5, output=1), "partial")


@pytest.mark.parametrize(
    ("events", "usage", "finish"),
    [
        (
            [{"messageStart": {}}, {"messageStop": {"stopReason": "end_turn"}}, {"metadata": {"usage": USAGE}, "m": 1}],
            Usage(433, 2752, 90, 0, 16),
            "end_turn",
        ),
        (
            [{"outputText": "a", "inputTextTokenCount": 28},
             {"outputText": "b", "totalOutputTextTokenCount": 188, "completionReason": "FINISH",
              "amazon-bedrock-invocationMetrics": {"inputTokenCount": 28, "outputTokenCount": 188}}],
            Usage(input=28, output=188),
            "FINISH",
        ),
        (
            [{"generation": "a", "prompt_token_count": 11, "generation_token_count": 1},
             {"generation": "", "prompt_token_count": None, "generation_token_count": 9, "stop_reason": "stop",
              "amazon-bedrock-invocationMetrics": {"inputTokenCount": 11, "outputTokenCount": 9}}],
            Usage(input=11, output=9),
            "stop",
        ),
        (
            [{"outputs": [{"text": "a", "stop_reason": None}]},
             {"outputs": [{"text": "", "stop_reason": "length"}],
              "amazon-bedrock-invocationMetrics": {"inputTokenCount": 6, "outputTokenCount": 10}}],
            Usage(input=6, output=10),
            "length",
        ),
    ],
    ids=["nova", "titan", "llama", "mistral"],
)  # fmt: skip
def test_what_other_models_say(events: list[dict[str, Any]], usage: Usage, finish: str) -> None:
    reading = read(INVOKE, b"".join(map(chunk, events)))
    assert (reading.usage, reading.finish, reading.source) == (usage, finish, "reported")
    assert reading.raw is not None and isinstance(json.loads(reading.raw), dict)
