"""Estimates against what providers reported, and on input that no provider would send."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

import pytest
from analyzer.estimating import Groups, Measured, grouped, measure, quantile, table
from analyzer.recorded import Recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import ROOT

from fluxen.analyzer.answers import Answer, read_said
from fluxen.analyzer.estimates import Estimate, estimate, warm
from fluxen.analyzer.families import families, family_of
from fluxen.analyzer.images import Image, image_tokens, measured
from fluxen.analyzer.overheads import UNSEEN
from fluxen.analyzer.texts import read_prompt, read_request
from fluxen.analyzer.tokens import tokenizer

CHAT = "/v1/chat/completions"
O200K = tokenizer("o200k_base").count


@pytest.fixture(scope="module")
def found(recorded: list[Recorded]) -> list[Measured]:
    return list(measure(recorded))


@pytest.fixture(scope="module")
def groups(found: list[Measured]) -> Groups:
    return grouped(found)


def chats(found: list[Measured], kind: str) -> list[Measured]:
    """OpenAI's own, through its own and Azure's doors."""
    return [
        one
        for one in found
        if one.recorded.exchange["provider"] in ("openai", "azure")
        and one.recorded.exchange["endpoint"] == "chat.completions"
        and one.family.startswith("gpt-")
        and one.kind == kind
    ]


def test_openai_chat_text_to_the_token(found: list[Measured]) -> None:
    off = [abs(one.estimate.input - one.input) for one in chats(found, "text")]
    assert len(off) > 100
    assert quantile(off, 0.5) <= 1
    assert quantile(off, 0.95) <= 3


def test_openai_chat_with_tools(found: list[Measured]) -> None:
    off = [abs(one.estimate.input - one.input) / one.input for one in chats(found, "tools")]
    assert len(off) > 100
    assert quantile(off, 0.5) <= 0.02
    assert quantile(off, 0.95) <= 0.2


def test_openai_chat_answers_to_the_token(found: list[Measured]) -> None:
    """Text, of models that don't think: what a stream without usage is billed."""
    off = [
        abs(one.estimate.output - one.output)
        for one in chats(found, "text")
        if one.output and not one.family.startswith("gpt-5")
    ]
    assert len(off) > 80
    assert quantile(off, 0.5) <= 1
    assert quantile(off, 0.95) <= 3


@pytest.mark.parametrize("name", families())
def test_the_stated_band_is_what_is_measured(name: str, groups: Groups) -> None:
    """95 of 100 lie within it; where there is enough to measure, not many more: it is no wider than it has to be."""
    errors = families()[name].errors
    for kind, band in (("text", errors.text), ("tools", errors.tools), ("output", errors.output)):
        found = groups.get((name, kind), ())
        off = [one.tokens_off(kind) - band.tokens - band.share * one.count_of(kind) for one in found]
        if off:
            assert quantile(off, 0.95) <= 0, kind
        if len(off) >= 20 and band.tokens > 0:
            assert quantile(off, 0.95) >= -2 - 0.05 * band.tokens, kind


def test_the_table_of_the_documentation_is_this_one(groups: Groups) -> None:
    page = (ROOT / "docs" / "estimates.md").read_text()
    written = [line for line in page.split("\n") if line.startswith("| ") and line.count("|") == 9]
    assert written[1:] == [line for _, line in table(groups)]


def test_what_is_not_in_the_request_is_said(found: list[Measured]) -> None:
    unseen = [one for one in found if one.kind == "unseen"]
    assert len(unseen) > 100
    assert all(one.estimate.error > 0.1 for one in unseen)


# ------------------------------------------------------------------------------------------ requests

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMED = {"name": "get_weather", "description": "The weather."}
FUNCTION = {**NAMED, "parameters": SCHEMA}
SAID = ["You are brief.", "What is the weather in Paris?"]
REQUESTS: dict[str, dict[str, Any]] = {
    "openai chat": {
        "messages": [
            {"role": "system", "content": SAID[0]},
            {"role": "user", "content": [{"type": "text", "text": SAID[1]}]},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "max_completion_tokens": 99,
    },
    "openai responses": {
        "instructions": SAID[0],
        "input": SAID[1],
        "tools": [{"type": "function", **FUNCTION}],
        "max_output_tokens": 99,
    },
    "anthropic": {
        "system": [{"type": "text", "text": SAID[0]}],
        "messages": [{"role": "user", "content": SAID[1]}],
        "tools": [{**NAMED, "input_schema": SCHEMA}],
        "max_tokens": 99,
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": SAID[0]}]},
        "contents": [{"role": "user", "parts": [{"text": SAID[1]}]}],
        "tools": [{"functionDeclarations": [FUNCTION]}],
        "generationConfig": {"maxOutputTokens": 99},
    },
    "bedrock": {
        "system": [{"text": SAID[0]}],
        "messages": [{"role": "user", "content": [{"text": SAID[1]}]}],
        "toolConfig": {"tools": [{"toolSpec": {**NAMED, "inputSchema": {"json": SCHEMA}}}]},
        "inferenceConfig": {"maxTokens": 99},
    },
    "cohere v1": {
        "preamble": SAID[0],
        "message": SAID[1],
        "tools": [{**NAMED, "parameter_definitions": SCHEMA}],
        "max_tokens": 99,
    },
    "ollama": {
        "messages": [{"role": "system", "content": SAID[0]}, {"role": "user", "content": SAID[1]}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "options": {"num_predict": 99},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_read_in_every_dialect(name: str) -> None:
    found = read_prompt(json.dumps(REQUESTS[name]).encode())
    assert found is not None
    assert found.known
    assert sorted(found.texts) == sorted(SAID)
    assert [(tool.name, tool.description, tool.schema) for tool in found.tools] == [(*NAMED.values(), SCHEMA)]
    assert (found.limit, found.hosted, found.images, found.media) == (99, 0, [], [])


USES: dict[str, list[dict[str, Any]]] = {
    "openai chat": [
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"at": 1}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "seen"},
    ],
    "anthropic": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {"at": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "seen"}]},
    ],
    "bedrock": [
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "look", "input": {"at": 1}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "seen"}]}}]},
    ],
}


@pytest.mark.parametrize("name", USES)
def test_earlier_calls_and_their_answers(name: str) -> None:
    found = read_prompt(json.dumps({"messages": USES[name]}).encode())
    assert found is not None
    assert [(call.name, call.text) for call in found.calls] == [("look", '{"at": 1}')]
    assert [(result.name, result.text) for result in found.results] == [("look", "seen")]
    assert (found.pending, found.texts) == (True, [])


def test_calls_of_the_responses_api() -> None:
    items = [
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "seen"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
    ]
    found = read_prompt(json.dumps({"input": items}).encode())
    assert found is not None
    assert (len(found.calls), found.parallel, found.texts, found.pending) == (2, 1, ["And?"], False)


def test_what_is_no_text_widens_the_band() -> None:
    plain = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    sure = of(plain)
    assert sure.error < 0.9
    for more in (
        {"tools": [{"type": "web_search"}]},
        {"previous_response_id": "resp_1"},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA" * 400}}]}]},
    ):
        assert of({**plain, **more}).error == UNSEEN


def of(request: dict[str, Any], dialect: str = "openai", endpoint: str = CHAT) -> Estimate:
    return estimate(dialect, endpoint, None, json.dumps(request).encode(), None)


def test_a_request_of_which_only_the_length_is_known() -> None:
    found = estimate("openai", CHAT, "gpt-4o", 40_000, None)
    assert 5_000 < found.input < 20_000
    assert found.error >= 0.5
    assert estimate("openai", CHAT, "gpt-4o", None, None).input == 0


def test_tokens_instead_of_texts() -> None:
    """Embeddings and completions take them, too."""
    assert of({"model": "text-embedding-3-small", "input": [[1, 2, 3], [4, 5]]}, endpoint="/v1/embeddings").input == 5
    assert of({"model": "davinci-002", "prompt": [1] * 7}, endpoint="/v1/completions").input == 7


def test_a_file_is_a_request_only_if_it_looks_like_one() -> None:
    assert read_request(b'{"messages": [{"role": "user", "content": "hi"}]}') is not None
    batch = read_request(b'{"custom_id": "1", "body": {"model": "m", "input": "hi"}}')
    assert batch is not None
    assert (batch.model, batch.texts) == ("m", ["hi"])
    for text in (b"", b"Say {hello}", b'{"name": "a document"}', b'["messages"]', b'{"messages": ', b"\xff{"):
        assert read_request(text) is None


# ------------------------------------------------------------------------------------------ answers

WORDS = [f"word{number} " for number in range(4000)]


def sse(*events: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end


def frame(event: dict[str, Any]) -> bytes:
    payload = json.dumps(event).encode()
    header = struct.pack(">B11sBH5s", 11, b":event-type", 7, 5, b"chunk")
    prelude = struct.pack(">II", 16 + len(header) + len(payload), len(header))
    body = prelude + struct.pack(">I", binascii.crc32(prelude)) + header + payload
    return body + struct.pack(">I", binascii.crc32(body))


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


HELLO = ("Hello", " there")
TOGETHER = {"type": "message", "content": [{"text": "Hello there"}]}
DELTAS = [{"type": "content_block_delta", "index": 0, "delta": {"text": text}} for text in HELLO]
CANDIDATES = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in HELLO]
COHERE = [{"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}} for text in HELLO]
STREAMS: dict[str, bytes] = {
    "openai chat": sse(chunk("Hello"), chunk(" there"), chunk("")),
    "crlf and comments": sse(chunk("Hello"), chunk(" there")).replace(b"\n", b"\r\n") + b": ping\r\n\r\n",
    "openai completions": sse({"choices": [{"text": "Hello"}]}, {"choices": [{"text": " there"}]}),
    "responses": sse(
        {"type": "response.created", "response": {"instructions": "no output"}},
        {"type": "response.output_text.delta", "item_id": "1", "delta": "Hello"},
        {"type": "response.output_text.delta", "item_id": "1", "delta": " there"},
        {"type": "response.output_text.done", "item_id": "1", "text": "Hello there"},
        {"type": "response.completed", "response": {"output": [TOGETHER]}},
    ),
    "anthropic": sse({"type": "message_start", "message": {"content": []}}, *DELTAS, end=b""),
    "gemini": sse(*CANDIDATES, end=b""),
    "gemini array": json.dumps(CANDIDATES).encode(),
    "ollama": b"".join(json.dumps({"message": {"content": text}}).encode() + b"\n" for text in HELLO),
    "ollama generate": b"".join(json.dumps({"response": text}).encode() + b"\n" for text in HELLO),
    "cohere v2": sse(*COHERE),
    "bedrock converse": b"".join(frame({"contentBlockIndex": 0, "delta": {"text": text}}) for text in HELLO),
    "bedrock invoke": b"".join(
        frame({"bytes": base64.b64encode(json.dumps(delta).encode()).decode()}) for delta in DELTAS
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_in_every_framing(name: str) -> None:
    said = read_said(Answer(STREAMS[name], streamed=True))
    assert (said.of("text"), said.readable) == (["Hello there"], True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_may_end_anywhere(name: str) -> None:
    """The client left: what was relayed until then counts, and nothing that was not."""
    whole = STREAMS[name]
    for end in range(len(whole)):
        text = "".join(read_said(Answer(whole[:end], streamed=True)).of("text"))
        assert "Hello there".startswith(text)
    for end in range(0, len(whole), 7):  # the same kept as head and tail
        assert read_said(Answer(whole[:end], whole[end:], len(whole), True)).of("text") == ["Hello there"]


def test_a_gap_is_filled_in_proportion() -> None:
    whole = sse(*(chunk(word) for word in WORDS))
    exact = estimate("openai", CHAT, "gpt-4o", None, Answer(whole, streamed=True))
    assert exact.output == O200K("".join(WORDS))
    kept = estimate("openai", CHAT, "gpt-4o", None, Answer(whole[:8192], whole[-16384:], len(whole), True))
    assert abs(kept.output - exact.output) <= kept.output_error * kept.output
    assert kept.output_error > exact.output_error


def test_a_gap_in_binary_frames() -> None:
    whole = b"".join(frame({"contentBlockIndex": 0, "delta": {"text": word}}) for word in WORDS)
    exact = estimate("bedrock", "/model/{model}/converse-stream", "nova", None, Answer(whole, streamed=True))
    answer = Answer(whole[:8192], whole[-16384:], len(whole), True)
    kept = estimate("bedrock", "/model/{model}/converse-stream", "nova", None, answer)
    assert len(read_said(answer).of("text")[0].split()) > 150
    assert abs(kept.output - exact.output) <= 0.1 * kept.output


def test_a_call_of_a_tool_is_counted() -> None:
    first = {"index": 0, "id": "1", "function": {"name": "get_weather", "arguments": ""}}
    call = [first, *({"index": 0, "function": {"arguments": part}} for part in ('{"ci', 'ty": "Paris"}'))]
    events = ({"choices": [{"index": 0, "delta": {"tool_calls": [one]}}]} for one in call)
    said = read_said(Answer(sse(*events), streamed=True))
    assert said.of("call") == ["get_weather", '{"city": "Paris"}']
    assert (said.names, said.calls) == (["get_weather"], 1)


def test_reasoning_is_a_part_of_the_output() -> None:
    events = ({"choices": [{"delta": {"reasoning_content": "Let me think."}}]}, chunk("Yes."))
    found = estimate("openai", CHAT, "deepseek-chat", None, Answer(sse(*events), streamed=True))
    assert 0 < found.reasoning < found.output


def test_an_unstreamed_answer_that_is_cut_off() -> None:
    whole = json.dumps({"choices": [{"message": {"content": "".join(WORDS)}}]}).encode()
    exact = estimate("openai", CHAT, "gpt-4o", None, Answer(whole)).output
    cut = estimate("openai", CHAT, "gpt-4o", None, Answer(whole[:9000], b"", len(whole)))
    assert exact == O200K("".join(WORDS))
    assert abs(cut.output - exact) <= cut.output_error * cut.output


@pytest.mark.parametrize("body", [b"\x00\x01\x02", b"<html>", b"data: nothing\n\n", b"[DONE]"])
def test_an_answer_that_says_nothing_is_not_estimated(body: bytes) -> None:
    for streamed in (True, False):
        with pytest.raises(ValueError, match="nothing can be read"):
            estimate("openai", CHAT, "gpt-4o", b"{}", Answer(body, streamed=streamed))


# ------------------------------------------------------------------------------------------ images, families


@pytest.mark.parametrize(
    ("rule", "width", "height", "detail", "tokens"),
    [
        # OpenAI's own examples: 1024 × 1024 in high detail is 765, 2048 × 4096 is 1105, low detail is 85.
        ("gpt-4o", 1024, 1024, "high", 765),
        ("gpt-4o", 2048, 4096, "high", 1105),
        ("gpt-4o", 4096, 8192, "low", 85),
        ("patches 1.62", 1024, 1024, None, round(1024 * 1.62)),
        ("claude", 200, 200, None, 54),
        ("claude", 1000, 1000, None, 1334),
        ("gemini tiles", 300, 300, None, 258),
        ("258", 3000, 2000, None, 258),
        ("rows 28", 400, 301, None, 176),
    ],
)
def test_images_cost_what_providers_publish(
    rule: str, width: int, height: int, detail: str | None, tokens: int
) -> None:
    assert image_tokens(rule, Image(width, height, detail)) == (tokens, True)


def test_sizes_of_images() -> None:
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
    gif = b"GIF89a" + struct.pack("<HH", 640, 480)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 480, 640)
    webp = b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
    assert [measured(data) for data in (png, gif, jpeg, webp)] == [(640, 480)] * 4
    for data in (png, gif, jpeg, webp):
        for end in range(len(data) - 1):
            measured(data[:end])  # never raises


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o, gpt-4.1"),
        ("openai/gpt-4o-mini", "gpt-4o, gpt-4.1"),
        ("gpt-4-0613", "gpt-3.5, gpt-4"),
        ("gpt-4.1-nano", "gpt-4o, gpt-4.1"),
        ("ft:gpt-3.5-turbo-0125:acme::abc", "gpt-3.5, gpt-4"),
        ("gpt-5.4-mini-2026-03-17", "gpt-5, o-series"),
        ("o3-mini", "gpt-5, o-series"),
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("claude-3-5-sonnet-20240620", "claude to 4.0"),
        ("claude-sonnet-4-20250514", "claude to 4.0"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude 4.1 to 4.6"),
        ("claude-opus-4-8", "claude from 4.7"),
        ("anthropic/claude-sonnet-5", "claude from 4.7"),
        ("gemini-2.5-pro", "gemini to 2.5"),
        ("models/gemini-3-flash-preview", "gemini from 3"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "llama"),
        ("my-own-model", "other"),
    ],
)
def test_families_by_name(model: str, family: str) -> None:
    assert family_of(model, "openai").name == family


def test_an_unknown_name_is_of_its_dialects_family() -> None:
    assert family_of(None, "anthropic").name.startswith("claude")
    assert family_of("x", "gemini").name.startswith("gemini")


# ------------------------------------------------------------------------------------------ hostile

KINDS = (
    "text function_call function_call_output tool_use tool_result image input_image file thinking reasoning message "
    "response.output_text.delta response.output_item.added response.completed content_block_start content_block_delta "
    "text-generation content-delta tool json_schema object array string user assistant system"
)
scalars = st.one_of(
    st.sampled_from(KINDS.split()), st.none(), st.booleans(), st.integers(-9, 2**70), st.floats(), st.text(max_size=20)
)
names = st.sampled_from(
    ["messages", "content", "role", "parts", "text", "tools", "function", "parameters", "properties",
     "image_url", "type", "input", "tool_calls", "arguments", "name", "functionCall", "toolUse", "source",
     "data", "model", "system", "items", "choices", "delta", "output", "candidates", "message", "usage",
     "$ref", "$defs", "anyOf", "enum", "max_tokens", "index",
     "item_id", "contentBlockIndex", "call_id", "tool_call_id", "tool_use_id", "required", "default", "summary", "item",
     "response", "tool_results", "functionDeclarations", "toolConfig", "response_format", "schema", "bytes"]
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(
    request=st.dictionaries(names, documents, max_size=5),
    answer=documents,
    model=st.sampled_from(["gpt-4o", "claude-3", "x"]),
)
def test_any_json_is_estimated(request: dict[str, Any], answer: Any, model: str) -> None:
    body = json.dumps(request).encode()
    event = json.dumps(answer).encode()
    for relayed in (Answer(event), Answer(b"data: " + event + b"\n\n", streamed=True), Answer(event, b"", 10**9, True)):
        try:
            found = estimate("openai", CHAT, model, body, relayed)
        except ValueError as error:
            assert str(error) == "nothing can be read in the answer"
            continue
        assert min(found.input, found.output, found.reasoning, found.error) >= 0


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), head=st.binary(max_size=200), tail=st.binary(max_size=50), streamed=st.booleans())
def test_any_bytes_are_estimated(body: bytes, head: bytes, tail: bytes, streamed: bool) -> None:
    try:
        found = estimate("openai", CHAT, None, body, Answer(head, tail, len(head) + len(tail) + 5, streamed))
    except ValueError as error:
        assert str(error) == "nothing can be read in the answer"
    else:
        assert min(found.input, found.output) >= 0


def test_deep_wide_and_endless_json() -> None:
    """Nested beyond any parser's limit; schemas that refer to themselves, many times over; thousands of events."""
    deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert estimate("openai", CHAT, "gpt-4o", deep, None).input >= 0
    for depth in (200, 500, 900, 5000):
        inner = b'{"properties": {"a": ' * depth + b"1" + b"}}" * depth
        for body in (b'{"tools": [{"name": "f", "parameters": %s}]}', b'{"messages": [{"content": [{"json": %s}]}]}'):
            assert estimate("openai", CHAT, "gpt-4o", body % inner, None).input > 0
        read_said(Answer(b'{"output": [%s]}' % inner))
    quotes = b'{"choices": [{"message": {"content": "' + b'\\"' * 200_000
    assert estimate("openai", CHAT, "gpt-4o", None, Answer(quotes, b"", len(quotes))).output > 1000
    node = {"type": "object", "properties": {f"p{n}": {"$ref": "#/$defs/n"} for n in range(60)}}
    tool = {
        "name": "f",
        "parameters": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": node}},
    }
    assert of({"model": "gpt-4o", "messages": [], "tools": [{"type": "function", "function": tool}]}).input < 10**6
    many = sse(*(chunk("a") for _ in range(20_000)))
    assert estimate("openai", CHAT, "gpt-4o", None, Answer(many, streamed=True)).output > 1000
    broken = b'{"content": "a' + b"\\" * 200_000
    assert read_said(Answer(broken, b"", 300_000)).covered == len(broken)


def test_warm_is_for_any_model() -> None:
    warm("openai", "gpt-4o")
    warm("anthropic", None)
