"""What is told apart from tokens of text: calls, tiers, stated costs, other units; and how providers differ in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fluxen.analyzer.usage import HEAD, TAIL, Modalities, Reading, Usage, read_answer, read_clipped, read_stream
from fluxen.providers.answer import CALLS
from fluxen.providers.dialect import dialects

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
GENERATE = "/v1beta/models/{model}:generateContent"
INTERACTIONS = "/v1beta/interactions"
INVOKE = "/model/{model}/invoke"


def answer(dialect: str, endpoint: str, body: Any, counts: bytes | None = None) -> Reading:
    return read_answer(dialect, endpoint, 200, json.dumps(body).encode(), counts)


def usage(dialect: str, endpoint: str, body: Any) -> Usage:
    reading = answer(dialect, endpoint, body)
    assert reading.source == "reported" and reading.usage is not None
    return reading.usage


# ------------------------------------------------------------------------------------------ OpenAI and imitators


def test_reasoning_inside_and_on_top() -> None:
    """xAI counts it beside the completion, and the total says so; everybody else inside."""
    details = {"completion_tokens_details": {"reasoning_tokens": 98}}
    xai = {"prompt_tokens": 119, "completion_tokens": 9, "total_tokens": 226, **details}
    assert usage("openai", CHAT, {"usage": xai}) == Usage(input=119, output=107, reasoning=98)
    inside = {"prompt_tokens": 119, "completion_tokens": 107, "total_tokens": 226, **details}
    assert usage("openai", CHAT, {"usage": inside}) == Usage(input=119, output=107, reasoning=98)
    # A total that is larger for a reason nobody gave changes nothing.
    odd = {"prompt_tokens": 119, "completion_tokens": 107, "total_tokens": 300, **details}
    assert usage("openai", CHAT, {"usage": odd}) == Usage(input=119, output=107, reasoning=98)


def test_perplexity_counts_beside_the_completion() -> None:
    sent = {
        **{"prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196, "citation_tokens": 20016},
        **{"num_search_queries": 18, "reasoning_tokens": 73997, "cost": {"total_cost": 0.5123}},
    }
    reading = answer("openai", CHAT, {"usage": sent})
    assert reading.usage == Usage(input=33 + 20016, output=7163 + 73997, reasoning=73997, calls={"web_search": 18})
    assert (reading.stated_cost_pico, reading.stated_source) == (512_300_000_000, "usage.cost.total_cost")


def test_xai_states_its_cost_in_ticks() -> None:
    sent = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost_in_usd_ticks": 37_756_000}
    tools = {"server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1, "mcp_calls": 5}}
    reading = answer("openai", CHAT, {"usage": {**sent, **tools}})
    assert (reading.stated_cost_pico, reading.stated_source) == (3_775_600_000, "usage.cost_in_usd_ticks")
    assert reading.usage is not None and reading.usage.calls == {"web_search": 2, "x_search": 1}


def test_pictures_and_sound() -> None:
    image = {"input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}, "output_tokens": 4160}
    assert usage("openai", "/v1/images/edits", {"data": [], "usage": image}) == Usage(
        input=50, output=4160, image=4200, modalities=Modalities(input_image=40, output_image=4160)
    )
    film = {"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"video_tokens": 40}}
    assert usage("openai", CHAT, {"usage": film}).modalities == Modalities(input_video=40)
    spoken = {
        **{"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 0, "audio_tokens": 14}},
        **{"output_tokens": 45, "total_tokens": 59},
    }
    assert usage("openai", "/v1/audio/transcriptions", {"text": "", "usage": spoken}) == Usage(
        input=14, output=45, audio=14, modalities=Modalities(input_audio=14)
    )
    assert answer("openai", "/v1/images/generations", {"created": 1, "data": [{"url": "x"}]}).source == "unknown"
    assert usage("openai", "/v1/rerank", {"results": [], "usage": {"total_tokens": 57}}) == Usage(input=57)


def response(output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        **{"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": output, **more},
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
    }


OUTPUT = [
    {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
    {"type": "web_search_call", "action": {"type": "open_page", "url": "x"}},
    {"type": "web_search_call"},
    {"type": "file_search_call", "queries": []},
    {"type": "image_generation_call", "result": "aGk="},
    {"type": "function_call", "name": "f"},
    {"type": "message", "content": [{"type": "output_text", "text": '"type":"web_search_call"'}]},
]
CALLED = {"web_search": 2, "file_search": 1, "image_generation": 1}


def test_calls_in_the_output_of_a_response() -> None:
    reading = answer("openai", RESPONSES, response(OUTPUT))
    assert reading.usage == Usage(input=5, output=2, calls=CALLED)
    # What the row keeps says so, too, and can be read again.
    assert reading.raw is not None and json.loads(reading.raw)[CALLS] == CALLED
    again = dialects()["openai"].tally(RESPONSES, reading.raw)
    assert again is not None and again.usage == reading.usage
    told = response(OUTPUT, tool_usage={"web_search": {"num_requests": 7}})
    assert usage("openai", RESPONSES, told).calls == {**CALLED, "web_search": 7}
    none = response(OUTPUT[5:], tool_usage={"web_search": {"num_requests": 0}})
    assert usage("openai", RESPONSES, none).calls is None
    free = response(OUTPUT, tool_usage={"web_search": {"num_requests": 0}})  # what is told counts, not what is seen
    assert "web_search" not in (usage("openai", RESPONSES, free).calls or {})


def test_calls_of_a_streamed_response() -> None:
    events = [
        {"type": "response.created", "response": {"model": "m", "status": "in_progress", "service_tier": "auto"}},
        {"type": "response.output_item.done", "item": OUTPUT[0]},
        {"type": "response.completed", "response": response(OUTPUT, service_tier="priority")},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    reading = read_stream("openai", RESPONSES, 200, body[:HEAD], body[HEAD:][-TAIL:], True)
    assert (reading.usage, reading.tier) == (Usage(input=5, output=2, calls=CALLED), "priority")


def test_calls_of_a_body_too_large_to_hold() -> None:
    """A picture in base64 makes it so; what comes before it is still there."""
    large = [*OUTPUT[:1], {"type": "image_generation_call", "result": "A" * 100_000}]
    body = json.dumps(response(large), separators=(",", ":")).encode()
    reading = read_clipped("openai", RESPONSES, 200, body[:60_000], body[-TAIL:])
    assert reading.usage == Usage(input=5, output=2, calls={"web_search": 1, "image_generation": 1})


def test_tiers_of_service() -> None:
    counted = {"prompt_tokens": 1, "completion_tokens": 2}
    assert answer("openai", CHAT, {"service_tier": "flex", "usage": counted}).tier == "flex"
    assert answer("openai", CHAT, {"service_tier": "", "usage": counted}).tier is None
    message = {"input_tokens": 1, "output_tokens": 2, "service_tier": "batch"}
    assert answer("anthropic", "/v1/messages", {"usage": message}).tier == "batch"
    for said, tier in (("ON_DEMAND_FLEX", "ON_DEMAND_FLEX"), (2, "PROVISIONED_THROUGHPUT"), (9, None)):
        counts = {"promptTokenCount": 1, "trafficType": said}
        assert answer("gemini", GENERATE, {"usageMetadata": counts}).tier == tier
    tier = {"serviceTier": {"type": "priority"}, "usage": {"inputTokens": 1, "outputTokens": 2}}
    assert answer("bedrock", "/model/{model}/converse", tier).tier == "priority"


# ------------------------------------------------------------------------------------------ Anthropic, Gemini


def test_anthropics_tools() -> None:
    tools = {"web_search_requests": 3, "web_fetch_requests": 1}
    sent = {"input_tokens": 5, "output_tokens": 2, "server_tool_use": tools}
    assert usage("anthropic", "/v1/messages", {"usage": sent}).calls == {"web_search": 3, "web_fetch": 1}
    legs = [{"type": "message", "input_tokens": 5}, {"type": "compaction", "input_tokens": 9, "output_tokens": 1}]
    both = usage("anthropic", "/v1/messages", {"usage": {**sent, "iterations": legs}})
    assert both == Usage(input=14, output=3, calls={"web_search": 3, "web_fetch": 1})
    # A leg that does not say what it is was not run on top.
    nameless = {"iterations": [{"input_tokens": 5, "output_tokens": 2}]}
    assert usage("anthropic", "/v1/messages", {"usage": {**sent, **nameless}}).input == 5


def test_an_hour_in_the_cache_is_a_part_of_what_was_written() -> None:
    """Never more than the whole, nor less than nothing for five minutes."""
    for written, hour, wanted in ((50, 50, (0, 50)), (50, 80, (0, 50)), (50, 0, (50, 0)), (0, 30, (0, 30))):
        sent = {"input_tokens": 5, "output_tokens": 2, "cache_creation_input_tokens": written,
                "cache_creation": {"ephemeral_1h_input_tokens": hour}}  # fmt: skip
        for dialect, endpoint in (("anthropic", "/v1/messages"), ("bedrock", INVOKE)):
            found = usage(dialect, endpoint, {"usage": sent})
            assert (found.cache_write_5m, found.cache_write_1h) == wanted, dialect
    converse = {"inputTokens": 5, "outputTokens": 2, "cacheWriteInputTokens": 50,
                "cacheDetails": [{"inputTokens": 80, "ttl": "1h"}]}  # fmt: skip
    assert usage("bedrock", "/model/{model}/converse", {"usage": converse}).cache_write_1h == 50


@pytest.mark.parametrize(
    ("model", "queries", "calls"),
    [
        ("gemini-2.5-pro", ["a", "b"], {"web_search": 1}),
        ("gemini-3-flash-preview", ["", "a", "b"], {"web_search": 2}),
        ("gemini-3-flash-preview", [""], None),
        ("gemini-3-flash-preview", [], None),
    ],
)
def test_what_grounds_an_answer_of_gemini(model: str, queries: list[str], calls: dict[str, int] | None) -> None:
    grounding = {"webSearchQueries": queries, "groundingChunks": [{"web": {}}]}
    grounded = {"finishReason": "STOP", "groundingMetadata": grounding}
    body = {"candidates": [grounded], "usageMetadata": {"promptTokenCount": 4}, "modelVersion": model}
    assert usage("gemini", GENERATE, body).calls == calls


def test_maps_ground_an_answer_too() -> None:
    grounded = {"groundingMetadata": {"groundingChunks": [{"maps": {"uri": "x"}}, {"maps": {"uri": "y"}}]}}
    body = {"candidates": [grounded], "usageMetadata": {"promptTokenCount": 4}, "modelVersion": "gemini-2.5-pro"}
    assert usage("gemini", GENERATE, body).calls == {"maps_search": 1}


def test_an_interaction_counts_as_gemini_does() -> None:
    counts = {"total_input_tokens": 100, "total_output_tokens": 10, "total_cached_tokens": 40,
              "total_thought_tokens": 5, "total_tool_use_tokens": 7}  # fmt: skip
    found = usage("gemini", INTERACTIONS, {"model": "g", "status": "completed", "usage": counts})
    assert found == Usage(input=67, cache_read=40, output=15, reasoning=5)


def test_more_in_the_cache_than_was_sent_is_no_count_to_be_billed() -> None:
    for endpoint, body in (
        (GENERATE, {"usageMetadata": {"promptTokenCount": 5, "cachedContentTokenCount": 9}}),
        (INTERACTIONS, {"usage": {"total_input_tokens": 5, "total_cached_tokens": 9, "total_output_tokens": 1}}),
    ):
        assert answer("gemini", endpoint, body).source == "partial"


@pytest.mark.parametrize(("number", "name"), [(2, "image"), (3, "video"), (4, "audio")])
def test_modalities_by_their_number(number: int, name: str) -> None:
    details = [{"modality": 1, "tokenCount": 1}, {"modality": number, "tokenCount": 4}]
    counts = {"promptTokenCount": 5, "promptTokensDetails": details}
    assert usage("gemini", GENERATE, {"usageMetadata": counts}).modalities == Modalities(**{f"input_{name}": 4})


def test_a_blocked_prompt_used_nothing_if_nothing_was_counted() -> None:
    blocked = {"promptFeedback": {"blockReason": "MODEL_ARMOR"}, "usageMetadata": {"trafficType": "ON_DEMAND"}}
    reading = answer("gemini", GENERATE, blocked)
    assert (reading.usage, reading.finish, reading.source) == (Usage(), "MODEL_ARMOR", "reported")
    assert answer("gemini", GENERATE, {"usageMetadata": {"trafficType": "ON_DEMAND"}}).source == "partial"


# ------------------------------------------------------------------------------------------ Bedrock, Cohere, Ollama


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"usage": {"input_tokens": 5, "output_tokens": 2}, "model": "claude", "stop_reason": "x"}, Usage(5, output=2)),
        ({"usage": {"inputTokens": 5, "outputTokens": 2, "cacheReadInputTokenCount": 9}}, Usage(5, 9, output=2)),
        ({"inputTextTokenCount": 5, "results": [{"tokenCount": 2}, {"tokenCount": 1}]}, Usage(5, output=3)),
        ({"prompt_token_count": 5, "generation_token_count": 2}, Usage(5, output=2)),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}},
         Usage(1, 4, output=2)),
        ({"embedding": [0.5], "inputTextTokenCount": 5}, Usage(5)),
    ],
    ids=["anthropic", "nova", "titan", "llama", "openai", "titan embeddings"],
)  # fmt: skip
def test_what_an_invoked_model_says(body: dict[str, Any], wanted: Usage) -> None:
    assert usage("bedrock", INVOKE, body) == wanted


def test_headers_count_what_the_body_does_not() -> None:
    counts = b'{"inputTokens":5,"outputTokens":7}'
    silent = answer("bedrock", INVOKE, {"outputs": [{"text": "x", "stop_reason": "length"}]}, counts)
    assert (silent.usage, silent.source, silent.finish) == (Usage(5, output=7), "reported", "length")
    half = answer("bedrock", INVOKE, {"usage": {"inputTokens": 5}}, counts)
    assert (half.usage, half.source) == (Usage(5, output=7), "reported")
    embedded = answer("bedrock", INVOKE, {"embeddings": [[0.5]]}, b'{"inputTokens":5}')
    assert (embedded.usage, embedded.source) == (Usage(5), "reported")
    own = answer("bedrock", INVOKE, {"usage": {"input_tokens": 6, "output_tokens": 8}}, counts)
    assert own.usage == Usage(6, output=8)
    assert answer("bedrock", INVOKE, {"embeddings": [[0.5]]}).source == "unknown"
    assert answer("bedrock", INVOKE, {"outputs": []}, b'{"outputTokens":7}').source == "partial"


def test_cohere_bills_its_own_units() -> None:
    billed, seen = {"input_tokens": 7, "output_tokens": 5}, {"input_tokens": 69, "output_tokens": 6}
    units = {"billed_units": billed, "tokens": seen}
    assert usage("cohere", "/v2/chat", {"finish_reason": "COMPLETE", "usage": units}) == Usage(7, output=5)
    assert usage("cohere", "/v1/chat", {"text": "", "meta": units}) == Usage(7, output=5)
    rerank = {"results": [], "meta": {"billed_units": {"search_units": 2}}}
    assert usage("cohere", "/v2/rerank", rerank) == Usage(calls={"search_unit": 2})
    classified = {"classifications": [], "meta": {"billed_units": {"classifications": 3}}}
    assert usage("cohere", "/v1/classify", classified) == Usage(calls={"classification": 3})
    image = {"embeddings": {}, "meta": {"billed_units": {"input_tokens": 3, "image_tokens": 90}}}
    assert usage("cohere", "/v2/embed", image) == Usage(93, image=90, modalities=Modalities(input_image=90))
    assert answer("cohere", "/v1/chat", {"text": "", "meta": {"api_version": {"version": "1"}}}).source == "unknown"
    assert answer("cohere", "/v1/tokenize", {"tokens": [1]}).source == "none"


def test_a_last_line_larger_than_the_tail() -> None:
    """A v1 stream of Cohere's ends with the whole answer, and what it was given."""
    history = [{"role": "USER", "message": 'say "meta": ' * 2000}]
    end = {"event_type": "stream-end", "response": {"chat_history": history, "finish_reason": "COMPLETE",
           "meta": {"billed_units": {"input_tokens": 7, "output_tokens": 5}}}, "finish_reason": "COMPLETE"}  # fmt: skip
    lines = [{"event_type": "text-generation", "text": "word"}] * 300 + [end]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    assert len(body) > HEAD + 2 * TAIL
    reading = read_stream("cohere", "/v1/chat", 200, body[:HEAD], body[HEAD:][-TAIL:], True)
    assert (reading.usage, reading.finish, reading.source) == (Usage(7, output=5), "COMPLETE", "reported")


@pytest.mark.parametrize("words", [3, 2000])
def test_a_stream_of_lines(words: int) -> None:
    lines = [{"model": "llama3", "response": "word", "done": False}] * words
    last = {"model": "llama3", "done": True, "done_reason": "stop", "prompt_eval_count": 17, "eval_count": 63}
    body = b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, last])
    reading = read_stream("ollama", "/api/chat", 200, body[:HEAD], body[HEAD:][-TAIL:], True)
    assert (reading.usage, reading.model, reading.finish) == (Usage(17, output=63), "llama3", "stop")
    cut = body[: -len(json.dumps(last)) - 1]
    assert read_stream("ollama", "/api/chat", 200, cut[:HEAD], cut[HEAD:][-TAIL:], False).source == "unknown"


def test_ollama_leaves_out_a_prompt_that_was_in_its_cache() -> None:
    reading = answer("ollama", "/api/generate", {"model": "m", "done_reason": "stop", "eval_count": 38})
    assert (reading.usage, reading.source) == (Usage(output=38), "partial")
    assert usage("ollama", "/api/embed", {"embeddings": [[0.5]], "prompt_eval_count": 8}) == Usage(8)
    assert answer("ollama", "/api/embeddings", {"embedding": [0.5]}).source == "unknown"
    damaged = {"model": "m", "embeddings": [[0.5]], "prompt_eval_count": 8, "eval_count": -1}
    assert answer("ollama", "/api/embed", damaged).source == "unknown"


def test_pretty_json_is_no_stream_of_lines() -> None:
    body = json.dumps({"model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}, indent=2)
    assert read_stream("openai", CHAT, 200, body.encode(), b"", True).usage == Usage(1, output=2)
