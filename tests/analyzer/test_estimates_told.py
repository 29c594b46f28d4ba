"""What an estimate says of how good it is, and what of an answer and a request it must not mix up or leave out."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from fluxen.analyzer.answers import Answer, read_said
from fluxen.analyzer.estimates import Estimate, estimate
from fluxen.analyzer.images import measured
from fluxen.analyzer.overheads import UNSEEN
from fluxen.analyzer.texts import read_request
from fluxen.analyzer.tokens import LARGE

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello there, how are you?"}]}


def asked(body: dict[str, Any], model: str = "gpt-4", answer: Answer | None = None) -> Estimate:
    return estimate("openai", CHAT, model, json.dumps(body).encode(), answer)


def said(*contents: str) -> Answer:
    choices = [{"index": index, "message": {"content": content}} for index, content in enumerate(contents)]
    return Answer(json.dumps({"choices": choices}).encode())


def test_the_error_of_the_whole_is_that_of_its_parts() -> None:
    """As a part of the sum: a small answer that is badly known spoils little of a large request."""
    found = asked({"messages": [{"role": "user", "content": "word " * 2000}]}, "my-own-model", said("yes"))
    assert found.output_error > 10 * found.input_error > 0
    parts = found.input * found.input_error + found.output * found.output_error
    assert found.error == pytest.approx(parts / (found.input + found.output))


def test_a_sample_is_no_count_on_either_side() -> None:
    text = "A sentence is as long as it is. " * (LARGE // 32 + 1)
    small = asked(HELLO, answer=said("Hello. " * 4000))
    large = asked({"messages": [{"role": "user", "content": text}]}, answer=said(text))
    assert small.output_error < 0.05 <= min(large.input_error, large.output_error)
    assert abs(large.input - large.output) < 0.01 * large.input


def test_an_embedding_generates_nothing_however_little_of_it_is_there() -> None:
    body = json.dumps({"model": "text-embedding-3-small", "input": "Hello there"}).encode()
    half = Answer(b'{"data":[{"embedding":[0.25,', b"0.5]}]}", 4_000_000)
    found = estimate("openai", "/v1/embeddings", None, body, half)
    assert (found.input, found.output) == (2, 0)


def test_answers_side_by_side_are_kept_apart() -> None:
    events = [{"choices": [{"index": at % 2, "delta": {"content": word}}]} for at, word in enumerate("1a2b3c")]
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    assert read_said(Answer(stream, streamed=True)).of("text") == ["123", "abc"]


def test_an_answer_may_be_cut_off_within_a_character() -> None:
    """Half an escape is no reason to lose what stands before it."""
    text = 'He said: "é\n€ is \U0001f600."\t' * 3
    whole = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    begin = whole.index(b"He said")
    for end in range(begin + 12, len(whole) - 6):
        [read] = read_said(Answer(whole[:end], b"", len(whole))).of("text")
        assert text.startswith(read)
        assert len(json.dumps(read)) - 2 > end - begin - 12


def test_a_line_of_a_batch_is_the_request_in_it() -> None:
    """OpenAI's has it under `body`, Anthropic's under `params`."""
    for key in ("body", "params"):
        line = {"custom_id": "1", key: {"model": "m", **HELLO}}
        found = read_request(json.dumps(line).encode())
        assert found is not None
        assert (found.model, found.messages, len(found.texts)) == ("m", 1, 1)


def test_only_a_claude_that_is_asked_to_thinks() -> None:
    plain = asked(HELLO, "claude-sonnet-4-5").input
    for more, thinks in (
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"reasoning": {"effort": "high"}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"additionalModelRequestFields": {"reasoning_config": {"type": "enabled"}}}, True),
    ):
        assert (asked({**HELLO, **more}, "claude-sonnet-4-5").input > plain) is thinks, more


def test_sizes_of_every_kind_of_webp() -> None:
    lossy = b"VP8 " + bytes(4) + b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 480 | 1 << 14)
    lossless = b"VP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 639 | 479 << 14) + bytes(8)
    for data in (lossy, lossless):
        assert measured(b"RIFF\0\0\0\0WEBP" + data) == (640, 480)


def test_a_file_in_place_of_a_text_is_not_counted_as_one() -> None:
    file = "data:application/pdf;base64," + "JVBERi0xLjcK" * 10_000
    for content in (file, [{"type": "text", "text": file}]):
        found = asked({"messages": [{"role": "user", "content": content}]})
        assert found.input < 5_000
        assert found.error == UNSEEN
