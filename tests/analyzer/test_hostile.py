"""Whatever bytes an upstream sends: no exception, valid output, bounded work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from analyzer.frames import chunk, event, message
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import HEAD, RAW_LIMIT, TAIL, Reading, read_answer, read_clipped, read_stream

NOW = 1_795_348_800_000_000
PLACES = [
    ("openai", "/v1/chat/completions"),
    ("openai", "/v1/responses"),
    ("openai", "/v1/embeddings"),
    ("openai", "/v1/{other}"),
    ("anthropic", "/v1/messages"),
    ("gemini", "/v1beta/models/{model}:generateContent"),
    ("gemini", "/v1beta/interactions"),
    ("openai", "/v1beta/openai/chat/completions"),
    ("openai", "/v1/images/generations"),
    ("openai", "/v1/conversations"),
    ("openai", "/v1/rerank"),
    ("bedrock", "/model/{model}/converse"),
    ("bedrock", "/model/{model}/invoke-with-response-stream"),
    ("cohere", "/v2/chat"),
    ("cohere", "/v1/rerank"),
    ("ollama", "/api/chat"),
    ("ollama", "/api/embed"),
]
KEYS = [
    *("usage", "usageMetadata", "model", "modelVersion", "choices", "finish_reason", "status", "response", "x_groq"),
    *("type", "message", "delta", "stop_reason", "candidates", "finishReason", "interaction", "prompt_tokens"),
    *("completion_tokens", "input_tokens", "output_tokens", "prompt_tokens_details", "cached_tokens", "cost"),
    *("iterations", "cache_creation", "promptTokenCount", "promptTokensDetails", "modality", "tokenCount"),
    *(
        "inputTokens",
        "outputTokens",
        "inputTextTokenCount",
        "results",
        "tokenCount",
        "metadata",
        "messageStop",
        "bytes",
    ),
    *(
        "amazon-bedrock-invocationMetrics",
        "inputTokenCount",
        "generation_token_count",
        "prompt_token_count",
        "embedding",
    ),
    *("meta", "billed_units", "tokens", "search_units", "prompt_eval_count", "eval_count", "done_reason", "output"),
    *(
        "server_tool_use",
        "web_search_requests",
        "billed_calls",
        "cost_in_usd_ticks",
        "reasoning_tokens",
        "total_tokens",
    ),
    *("groundingMetadata", "webSearchQueries", "service_tier", "serviceTier", "trafficType", "tool_usage", "action"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
FRAGMENTS = st.sampled_from(
    [
        b'"usage":',
        b'"usageMetadata":{',
        b'"model":"',
        b"\\",
        b'"',
        b"{",
        b"}",
        b"]",
        b"[",
        b"\n\n",
        b"\r\n",
        b"data: ",
        b"1",
    ]
)


def check(reading: Reading) -> None:
    assert reading.source in ("reported", "partial", "unknown", "none")
    assert (reading.usage is None) == (reading.source in ("unknown", "none"))
    for text in (reading.model, reading.finish):
        assert text is None or 0 < len(text.encode("utf-8", "replace")) <= 256
    if reading.raw is not None:
        assert len(reading.raw) <= RAW_LIMIT
        assert isinstance(json.loads(reading.raw.decode("utf-8")), dict)
    if reading.usage is not None:
        counts = (reading.usage.input, reading.usage.cache_read, reading.usage.cache_write_5m, reading.usage.output)
        assert all(0 <= n < 2**53 for n in counts)
    cost = answer_cost(PriceBook.shipped(), "openai", None, reading, "gpt-4o", NOW).total
    assert cost is None or cost >= 0
    assert reading.stated_cost_pico is None or reading.stated_cost_pico >= 0


def read_all(place: tuple[str, str], body: bytes, complete: bool = True) -> None:
    check(read_answer(*place, 200, body))
    check(read_clipped(*place, 200, body[:HEAD], body[-TAIL:]))
    check(read_stream(*place, 200, body[:HEAD], body[HEAD:][-TAIL:], complete))


@settings(max_examples=300)
@given(st.sampled_from(PLACES), st.binary(max_size=300), st.booleans())
def test_bytes(place: tuple[str, str], body: bytes, complete: bool) -> None:
    read_all(place, body, complete)


@settings(max_examples=300)
@given(st.sampled_from(PLACES), st.lists(FRAGMENTS | st.binary(max_size=4), max_size=60).map(b"".join), st.booleans())
def test_pieces_of_json_and_framing(place: tuple[str, str], body: bytes, complete: bool) -> None:
    read_all(place, body, complete)
    read_all(place, b"data: " + body, complete)
    read_all(place, b"x" * (HEAD + TAIL) + body, complete)


@settings(max_examples=200)
@given(st.sampled_from(PLACES), st.lists(OBJECTS, min_size=1, max_size=4), st.booleans())
def test_json_of_any_shape_under_the_names_we_look_for(
    place: tuple[str, str], objects: list[dict[str, Any]], complete: bool
) -> None:
    texts = [json.dumps(o).encode() for o in objects]
    read_all(place, texts[0], complete)
    read_all(place, b"".join(b"data: " + text + b"\n\n" for text in texts), complete)
    read_all(place, b"[" + b",".join(texts) + b"]", complete)
    read_all(place, b"\n".join(texts), complete)
    read_all(place, b"".join(chunk(o) if i % 2 else event("x", o) for i, o in enumerate(objects)), complete)
    check(read_answer(*place, 200, texts[0], texts[-1]))


BOMBS = {
    "arrays": b"[" * 200_000,
    "objects": b'{"usage":' * 100_000,
    "choices": b'{"choices":' + b"[" * 200_000,
    "usage": b'{"usage":{"x":' + b"[" * 2000 + b"]" * 2000 + b"}}",
    "data": b"data: " + b'{"response":' * 50_000,
    "deep but closed": b'{"usage":' * 5000 + b"{}" + b"}" * 5000,
    "keys": b'"usage":{' * 20_000,
    "quotes": b'"usage"\\"model"' * 10_000,
    "newlines": b"\n" * 100_000,
    "carriage returns": b"\r" * 100_000,
    "data lines": b"data:\n" * 20_000,
    "events": b"data: {}\n\n" * 20_000,
    "long number": b'{"usage":{"prompt_tokens":' + b"9" * 20_000 + b"}}",
    "long name": b'{"model":"' + b"\xf0\x9f\x98\x80" * 20_000 + b'","usage":{"prompt_tokens":1,"completion_tokens":1}}',
    "lines": b"{}\n" * 30_000,
    "brackets": b"{\n" * 30_000,
    "message names": message("x", b"{}") + b"\0" * 140 + b"\x0b:event-type\x07" * 3000,
    "messages": message("x", b"{}") * 5000,
    "messages in messages": message("x", message("x", message("x", b"{}") * 200)) * 3,
    "half a surrogate": b'{"model":"\\ud800","usage":{"prompt_tokens":1,"completion_tokens":1}}',
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("place", PLACES, ids=[" ".join(p) for p in PLACES])
def test_bombs(place: tuple[str, str], bomb: bytes) -> None:
    read_all(place, bomb)
    read_all(place, bomb, complete=False)
