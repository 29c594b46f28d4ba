"""The rules of each dialect and the ways a stream can be framed, cut or broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fluxen.analyzer.usage import HEAD, RAW_LIMIT, TAIL, Reading, Usage, read_answer, read_clipped, read_stream

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GENERATE, STREAM = "/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:streamGenerateContent"


def answer(dialect: str, endpoint: str, body: Any, status: int = 200) -> Reading:
    return read_answer(dialect, endpoint, status, body if isinstance(body, bytes) else json.dumps(body).encode())


def chat(usage: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"finish_reason": "stop"}], "usage": usage, **more}


def stream(body: bytes, dialect: str = "openai", endpoint: str = CHAT, complete: bool = True) -> Reading:
    return read_stream(dialect, endpoint, 200, body[:HEAD], body[HEAD:][-TAIL:], complete)


def events(*objects: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(o).encode() + b"\n\n" for o in objects)


WORD = {"model": "m", "choices": [{"delta": {"content": "word"}, "finish_reason": None}], "usage": None}
STOP = {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None}
LAST = {"model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
DONE = b"data: [DONE]\n\n"
COUNTED = Usage(input=5, output=2)

START = {"type": "message_start", "message": {"model": "c", "usage": {"input_tokens": 9, "output_tokens": 1}}}
DELTA = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "word"}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}}


# ------------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 3}, Usage(input=10, output=3)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 60},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=40, cache_read=60, output=30, reasoning=20),
        ),
        (  # Mistral: a zero beside the number
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "num_cached_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            Usage(input=1, cache_read=8, output=1),
        ),
        (  # DeepSeek
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3},
            Usage(input=3, cache_read=6, output=1),
        ),
        (  # OpenRouter, cache writes of an Anthropic model
            {
                "prompt_tokens": 50,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 30},
            },
            Usage(input=10, cache_read=10, cache_write_5m=30, output=1),
        ),
        (  # OpenRouter, Gemini: the same tokens written and read, both charged
            {
                "prompt_tokens": 50,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 48, "cache_write_tokens": 48},
            },
            Usage(input=2, cache_read=48, cache_write_5m=48, output=1),
        ),
        ({"input_tokens": 7, "output_tokens": 2, "input_tokens_details": None}, Usage(input=7, output=2)),
        ({"prompt_tokens": 12.0, "completion_tokens": 3.0}, Usage(input=12, output=3)),
        ({"prompt_tokens": 12, "total_tokens": 15}, Usage(input=12, output=3)),
    ],
)
def test_openai_and_its_imitators(usage: dict[str, Any], wanted: Usage) -> None:
    reading = answer("openai", CHAT, chat(usage))
    assert (reading.usage, reading.source, reading.finish, reading.model) == (wanted, "reported", "stop", "m")


def test_audio_is_a_part_of_input_and_output() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 30,
        "prompt_tokens_details": {"audio_tokens": 15, "cached_tokens": 0},
        "completion_tokens_details": {"audio_tokens": 25},
    }
    found = answer("openai", CHAT, chat(usage)).usage
    assert found is not None and found.modalities is not None
    assert (found.input, found.output, found.audio, found.image) == (20, 30, 40, 0)
    assert (found.modalities.input_audio, found.modalities.output_audio) == (15, 25)


def test_embeddings_have_input_only() -> None:
    body = {
        "object": "list",
        "model": "e",
        "data": [{"embedding": [0.1]}],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    assert answer("openai", "/v1/embeddings", body).usage == Usage(input=8)
    body["usage"] = {"total_tokens": 8}
    reading = answer("openai", "/v1/embeddings", body)
    assert (reading.usage, reading.source) == (Usage(input=8), "reported")


def test_a_total_alone_is_not_enough_for_a_chat() -> None:
    assert answer("openai", CHAT, chat({"total_tokens": 8})).source == "partial"


def test_stated_cost_is_kept_exactly() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert answer("openai", CHAT, chat({**usage, "cost": 0.00007159})).stated_cost_pico == 71_590_000
    assert answer("openai", CHAT, chat({**usage, "cost": {"total_cost": 0.006}})).stated_cost_pico == 6_000_000_000
    for nonsense in (None, "much", -1, [], {"total_cost": {}}, 1e300):
        reading = answer("openai", CHAT, chat({**usage, "cost": nonsense}))
        assert (reading.stated_cost_pico, reading.source) == (None, "reported")


def test_a_response_says_its_status() -> None:
    usage = {"input_tokens": 3, "output_tokens": 1}
    done = {"model": "m", "status": "incomplete", "output": [{"status": "completed"}], "usage": usage}
    assert answer("openai", RESPONSES, done).finish == "incomplete"
    queued = answer("openai", RESPONSES, {"model": "m", "status": "queued", "usage": None})
    assert (queued.finish, queued.source) == (None, "unknown")
    begun = {"type": "response.in_progress", "response": {"model": "m", "status": "in_progress", "usage": None}}
    left = stream(events(begun), endpoint=RESPONSES, complete=False)
    assert (left.finish, left.source, left.model) == (None, "unknown", "m")


def test_anthropic_classes_are_disjoint_already() -> None:
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
    }
    reading = answer("anthropic", MESSAGES, {"model": "c", "stop_reason": "end_turn", "usage": usage})
    assert reading.usage == Usage(input=3, cache_read=100, cache_write_5m=20, cache_write_1h=30, output=9, reasoning=4)
    assert (reading.model, reading.finish, reading.legs) == ("c", "end_turn", ())


def test_anthropic_legs_outside_the_top_level_are_added() -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 2,
        "iterations": [
            {"type": "message", "input_tokens": 10, "output_tokens": 2},
            {"type": "compaction", "input_tokens": 500, "output_tokens": 20},
            {"type": "advisor_message", "model": "other", "input_tokens": 30, "output_tokens": 3},
        ],
    }
    reading = answer("anthropic", MESSAGES, {"model": "c", "usage": usage})
    assert reading.usage == Usage(input=540, output=25)
    assert [(leg.model, leg.usage.input) for leg in reading.legs] == [(None, 10), (None, 500), ("other", 30)]


def test_gemini_thoughts_and_tool_prompts_come_on_top() -> None:
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "toolUsePromptTokenCount": 7,
        "candidatesTokenCount": 10,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 12}],
    }
    body = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage, "modelVersion": "g"}
    reading = answer("gemini", GENERATE, body)
    assert reading.usage is not None and reading.usage.modalities is not None
    assert (reading.usage.input, reading.usage.cache_read, reading.usage.output) == (67, 40, 15)
    assert (reading.usage.reasoning, reading.usage.audio) == (5, 30)
    assert reading.usage.modalities.cache_read_audio == 12
    assert (reading.model, reading.finish) == ("g", "STOP")


def test_gemini_behind_openais_protocol_leaves_thoughts_out() -> None:
    google = answer(
        "openai",
        "/v1beta/openai/chat/completions",
        chat({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}),
    )
    assert google.usage == Usage(input=10, output=25, reasoning=20)


def test_what_costs_nothing_and_what_nobody_counted() -> None:
    usage = {"input_tokens": 5}
    for dialect, endpoint in [
        ("anthropic", "/v1/messages/count_tokens"),
        ("openai", "/v1/responses/input_tokens"),
        ("openai", "/v1/responses/{id}"),  # an answer that was billed when it was made
        ("openai", "/v1/models"),
        ("gemini", "/v1beta/models/{model}:countTokens"),
    ]:
        assert answer(dialect, endpoint, usage) == Reading(source="none")
    results = b'{"custom_id":"a","result":{"message":{"usage":{"input_tokens":5,"output_tokens":2}}}}\n' * 2
    billed = answer("anthropic", "/v1/messages/batches/{id}/results", results)  # and how much nobody says
    assert (billed.source, billed.usage) == ("unknown", None)
    assert answer("openai", CHAT, {"error": {}}, status=429) == Reading(source="none")
    assert answer("openai", CHAT, chat(None)).source == "unknown"
    assert answer("openai", CHAT, b"").source == "unknown"
    seconds = answer("openai", "/v1/audio/transcriptions", {"usage": {"type": "duration", "seconds": 27}})
    assert (seconds.source, seconds.usage) == ("unknown", None)
    assert seconds.raw is not None  # kept for whoever can read it
    elsewhere = answer("openai", "/v1/{other}", {"usage": {"input_tokens": 50, "output_tokens": 41}})
    assert (elsewhere.source, elsewhere.usage) == ("unknown", None)
    assert answer("openai", "/v1/conversations", {"id": "conv_1"}) == Reading(source="none")
    mistral = {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
    assert answer("openai", "/v1/conversations", mistral).usage == Usage(input=5, output=2)


@pytest.mark.parametrize("broken", [-1, "7", True, 1.5, 2**60, [], 1e300])
def test_a_count_that_is_none_is_never_money(broken: Any) -> None:
    for usage in (
        {"prompt_tokens": broken, "completion_tokens": 2},
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": broken}},
    ):
        reading = answer("openai", CHAT, chat(usage))
        assert reading.source == "partial", usage
        assert reading.model == "m"


def test_the_raw_usage_fits_and_stays_json() -> None:
    many = {"promptTokenCount": 5, "x": "y" * 5000, "details": [{"modality": "TEXT", "tokenCount": 1}] * 300}
    reading = answer("gemini", GENERATE, {"usageMetadata": many})
    assert reading.raw is not None and len(reading.raw) <= RAW_LIMIT
    assert json.loads(reading.raw) == {"promptTokenCount": 5}
    listed = {"promptTokenCount": 5, "x": {"y": 1}, "details": [{"modality": "TEXT", "tokenCount": 1}] * 300}
    reading = answer("gemini", GENERATE, {"usageMetadata": listed})
    assert reading.raw is not None
    assert json.loads(reading.raw) == {"promptTokenCount": 5, "x": {"y": 1}}
    not_text = answer("openai", CHAT, b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"x":"\xff"}}')
    assert not_text.raw is not None
    assert json.loads(not_text.raw.decode("utf-8"))["prompt_tokens"] == 1


# ------------------------------------------------------------------------------------------ framing

FRAMINGS = {
    "plain": events(WORD, STOP, LAST) + DONE,
    "crlf": (events(WORD, STOP, LAST) + DONE).replace(b"\n", b"\r\n"),
    "cr": (events(WORD, STOP, LAST) + DONE).replace(b"\n", b"\r"),
    "no end": events(WORD, STOP, LAST).rstrip(),
    "no space": events(WORD, STOP, LAST).replace(b"data: ", b"data:"),
    "comments": b": ping\n\n" + events(WORD, STOP) + b": ping\n\n" + events(LAST) + b": ping\n\n" + DONE,
    "other fields": (events(WORD, STOP, LAST)).replace(b"data:", b"id: 5\nevent: x\ndata:"),
    "byte order mark": b"\xef\xbb\xbf" + events(WORD, STOP, LAST),
    "no blank lines": events(WORD, STOP, LAST).replace(b"\n\n", b"\n") + DONE,
    "many lines": b"".join(
        b"".join(b"data: " + line + b"\n" for line in json.dumps(o, indent=1).encode().split(b"\n")) + b"\n"
        for o in (WORD, STOP, LAST)
    ),
    "bad event": events(WORD, STOP) + b'data: {"usage": {"prompt_tok\n\n' + events(LAST) + DONE,
    "events after": events(WORD, STOP, LAST) + events(*[{"type": "ping"}] * 5) + DONE,
    "usage with the stop": events(WORD, {**STOP, "usage": LAST["usage"]}) + DONE,
    "groq": events(WORD, {**STOP, "x_groq": {"usage": LAST["usage"]}}) + DONE,
    "no stream": json.dumps(chat(LAST["usage"])).encode(),
    "long": events(*[WORD] * 1000, STOP, LAST) + DONE,
    "long, no blank lines": events(*[WORD] * 1000, STOP, LAST).replace(b"\n\n", b"\n") + DONE,
}


@pytest.mark.parametrize("body", FRAMINGS.values(), ids=FRAMINGS)
def test_any_framing_gives_the_same(body: bytes) -> None:
    reading = stream(body)
    assert (reading.usage, reading.source, reading.model, reading.finish) == (COUNTED, "reported", "m", "stop")


def test_line_separators_inside_strings_end_no_line() -> None:
    text = "a\u2028b\u0085c\x0bd"
    word = {"model": "m", "choices": [{"delta": {"content": text}}]}
    body = b"".join(b"data: " + json.dumps(o, ensure_ascii=False).encode() + b"\n\n" for o in (word, STOP, LAST))
    assert stream(body).usage == COUNTED


FAKE = '{"prompt_tokens":999,"completion_tokens":999}'


def test_usage_that_a_model_wrote_is_text() -> None:
    said = {"model": "m", "choices": [{"delta": {"content": f'"usage":{FAKE}}} \\"usage\\": {FAKE}'}}]}
    assert stream(events(WORD, LAST, said, said) + DONE).usage == COUNTED
    assert stream(events(said) * 300 + DONE).source == "unknown"
    called = {
        "candidates": [{"content": {"parts": [{"functionCall": {"args": {"usageMetadata": {"promptTokenCount": 9}}}}]}}]
    }
    assert stream(events(called), "gemini", STREAM).source == "unknown"


def big_response(inside: str, after: str = "") -> bytes:
    usage = '"usage":{"input_tokens":5,"output_tokens":2}'
    text = json.dumps("x" * 3 * TAIL)
    whole = f'"instructions":{text},"model":"m","tools":{inside},{usage},"metadata":{{{after}}}'
    return f'data: {{"type":"response.completed","response":{{"status":"completed",{whole}}}}}\n\n'.encode()


@pytest.mark.parametrize(
    "inside",
    [
        "[]",
        f'[{{"parameters":{{"properties":{{"usage":{FAKE}}}}}}}]',
        f'[{{"description":"\\"usage\\":{FAKE.replace(chr(34), chr(92) + chr(34))}"}}]',
    ],
)
def test_an_event_larger_than_the_tail(inside: str) -> None:
    after = '"usage":"a lot","note":"\\"usage\\":{\\"input_tokens\\":1}}}"'
    reading = stream(big_response(inside, after), endpoint=RESPONSES)
    assert (reading.usage, reading.source, reading.model) == (COUNTED, "reported", "m")


def test_what_only_the_first_event_still_tells() -> None:
    """The last one is too large to be kept, and what stands before its tools is lost."""
    begun = {"type": "response.created", "response": {"model": "m", "status": "queued", "service_tier": "flex"}}
    usage = '"usage":{"input_tokens":5,"output_tokens":2}'
    whole = f'"model":"m","service_tier":"flex","tools":{json.dumps(["x" * 3 * TAIL])},{usage}'
    last = f'data: {{"type":"response.completed","response":{{"status":"completed",{whole}}}}}\n\n'.encode()
    reading = stream(events(begun) + last, endpoint=RESPONSES)
    assert (reading.usage, reading.model, reading.tier) == (COUNTED, "m", "flex")


def test_an_image_larger_than_the_tail() -> None:
    picture = json.dumps({"parts": [{"inlineData": {"data": "A" * 3 * TAIL}}]})
    usage = '"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":2},"modelVersion":"g"'
    body = f'{{"candidates":[{{"content":{picture},"finishReason":"STOP","index":0}}],{usage}}}'.encode()
    for reading in (
        stream(b"data: " + body + b"\r\n\r\n", "gemini", STREAM),
        stream(b"[" + body + b"]", "gemini", STREAM),
        read_clipped("gemini", GENERATE, 200, body[:HEAD], body[-TAIL:]),
    ):
        assert (reading.usage, reading.source) == (COUNTED, "reported")
        assert (reading.model, reading.finish) == ("g", "STOP")


@pytest.mark.parametrize("details", ['{"cached_tokens":2}', '{"cached_tokens":2,"audio_tokens":0,"text_tokens":3}'])
def test_usage_in_front_of_a_body_too_large_to_hold(details: str) -> None:
    """Never a part of the object: what comes after the details counts, too."""
    usage = f'{{"prompt_tokens":5,"prompt_tokens_details":{details},"completion_tokens":2,"total_tokens":7}}'
    body = f'{{"usage":{usage},"model":"m","choices":[{{"message":"{"x" * 3 * TAIL}"}}]}}'.encode()
    reading = read_clipped("openai", CHAT, 200, body[:HEAD], body[-TAIL:])
    assert (reading.usage, reading.source) == (Usage(input=3, cache_read=2, output=2), "reported")
    assert (reading.raw, reading.model) == (usage.encode(), "m")


# ------------------------------------------------------------------------------------------ broken off


def test_an_unstreamed_body_that_broke_off() -> None:
    body = json.dumps({"model": "m", **chat(LAST["usage"])}).encode()
    whole = read_clipped("openai", CHAT, 200, body, b"")
    assert (whole.usage, whole.source, whole.model, whole.finish) == (COUNTED, "reported", "m", "stop")
    for length in range(len(body) - 1):
        left = read_clipped("openai", CHAT, 200, body[:length], b"")
        assert left.usage in (None, COUNTED)  # never a part of the count
        assert left.model in (None, "m")


def test_a_chat_left_before_its_end() -> None:
    assert stream(events(WORD, WORD), complete=False).source == "unknown"
    assert stream(events(WORD, STOP, LAST), complete=False).source == "reported"  # all was said
    running = {**WORD, "usage": {**LAST["usage"], "cost": 0.5}}  # some imitators count in every event
    left = stream(events(WORD, running), complete=False)
    assert (left.source, left.usage, left.stated_cost_pico) == ("partial", COUNTED, None)
    assert stream(events(WORD)).source == "unknown"  # complete, but nobody counted


def test_a_message_left_before_its_end() -> None:
    left = stream(events(START, DELTA, DELTA), "anthropic", MESSAGES, complete=False)
    assert (left.source, left.usage, left.model) == ("partial", Usage(input=9, output=1), "c")
    whole = stream(events(START, DELTA, END), "anthropic", MESSAGES, complete=False)
    assert (whole.source, whole.usage, whole.finish) == ("reported", Usage(input=9, output=40), "end_turn")
    unsure = {**END, "usage": {"input_tokens": None, "output_tokens": 40}}  # a null takes nothing back
    assert stream(events(START, DELTA, unsure), "anthropic", MESSAGES).usage == Usage(input=9, output=40)
    nothing = stream(b"", "anthropic", MESSAGES, complete=False)
    assert (nothing.source, nothing.usage) == ("unknown", None)


def test_a_byte_order_mark_hides_no_first_event() -> None:
    reading = stream(b"\xef\xbb\xbf" + events(START, DELTA, END), "anthropic", MESSAGES)
    assert (reading.source, reading.usage, reading.model) == ("reported", Usage(input=9, output=40), "c")


def test_a_long_message_keeps_the_count_of_its_start() -> None:
    reading = stream(events(START, *[DELTA] * 2000, END, {"type": "message_stop"}), "anthropic", MESSAGES)
    assert (reading.source, reading.usage, reading.model) == ("reported", Usage(input=9, output=40), "c")
    assert reading.raw is not None
    assert json.loads(reading.raw) == {"input_tokens": 9, "output_tokens": 40}


def test_a_gemini_array_whole_and_cut_off() -> None:
    part = {"candidates": [{"content": {"parts": [{"text": "}"}]}}], "usageMetadata": {"promptTokenCount": 5}}
    last = {
        "candidates": [{"finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2},
        "modelVersion": "g",
    }
    body = b"[" + b"\n,\n".join(json.dumps(o, indent=2).encode() for o in (part, part, last)) + b"\n]\n"
    whole = stream(body, "gemini", STREAM)
    assert (whole.source, whole.usage, whole.finish) == ("reported", COUNTED, "STOP")
    left = stream(body[:-60], "gemini", STREAM, complete=False)
    assert (left.source, left.usage) == ("partial", Usage(input=5))
    assert stream(body[:20], "gemini", STREAM, complete=False).source == "unknown"


def test_a_refused_stream_costs_nothing() -> None:
    body = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
    assert read_stream("anthropic", MESSAGES, 529, body, b"", True) == Reading(source="none")
    assert read_stream("anthropic", MESSAGES, 200, body, b"", True).source == "unknown"
