"""What the demo's provider says, in the forms of the three protocols. Bytes and numbers only."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fluxen_cli.demo.cast import Model

Json = dict[str, Any]

SENTENCE = (
    "The gateway forwards every byte as it came and writes down what each request cost so that the bill holds no "
    "surprise and nobody has to guess which team spent what on which model"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: what it says, and what it used. fresh, read and written make up the input."""

    words: tuple[str, ...]
    fresh: int
    read: int
    written: int
    output: int
    reasoning: int

    @property
    def input(self) -> int:
        return self.fresh + self.read + self.written


def turn(model: Model, dice: random.Random) -> Turn:
    """An answer of a typical size, more or less."""
    whole, output = (max(1, int(mean * dice.lognormvariate(0, 0.5))) for mean in model.tokens)
    cached = int(whole * model.cached) if dice.random() < 0.8 else 0
    written = int(whole * model.cached) if not cached and model.dialect == "messages" else 0
    words = tuple(dice.choices(SENTENCE.split(), k=dice.randint(8, 16)))
    return Turn(words, whole - cached - written, cached, written, output, int(output * model.reasoning))


def error(dialect: str, status: int) -> Json:
    """A refusal as this protocol has it."""
    text = "slow down, please" if status == 429 else "something broke"
    if dialect == "messages":
        kind = "rate_limit_error" if status == 429 else "api_error"
        return {"type": "error", "error": {"type": kind, "message": text}}
    if dialect == "gemini":
        word = "RESOURCE_EXHAUSTED" if status == 429 else "INTERNAL"
        return {"error": {"code": status, "message": text, "status": word}}
    return {"error": {"message": text, "type": "server_error", "param": None, "code": None}}


def whole(dialect: str, model: str, said: Turn) -> Json:
    """An answer in one piece."""
    text = " ".join(said.words)
    match dialect:
        case "chat":
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return {"id": "chatcmpl-demo", "object": "chat.completion", "created": 1, "model": model,
                    "choices": [choice], "usage": _chat_usage(said)}  # fmt: skip
        case "responses":
            return _response(model, said, "completed", text)
        case "messages":
            return {"id": "msg_demo", "type": "message", "role": "assistant", "model": model,
                    "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
                    "usage": _message_usage(said, said.output)}  # fmt: skip
        case _:
            return _gemini_part(model, text, said)


def events(dialect: str, model: str, said: Turn, with_usage: bool) -> Iterator[bytes]:
    """The same as a stream: one server-sent event after the other. with_usage: chat streams tell it when asked to."""
    match dialect:
        case "chat":
            base = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 1, "model": model}
            for word in said.words:
                choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
                yield _event(None, {**base, "choices": [choice]})
            yield _event(None, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if with_usage:
                yield _event(None, {**base, "choices": [], "usage": _chat_usage(said)})
            yield b"data: [DONE]\n\n"
        case "responses":
            yield _event("response.created", {"response": _response(model, said, "in_progress", "")})
            for word in said.words:
                at = {"item_id": "msg_demo", "output_index": 0, "content_index": 0}
                yield _event("response.output_text.delta", {**at, "delta": f"{word} "})
            done = _response(model, said, "completed", " ".join(said.words))
            yield _event("response.completed", {"response": done})
        case "messages":
            start: Json = {"id": "msg_demo", "type": "message", "role": "assistant", "model": model, "content": [],
                     "stop_reason": None, "stop_sequence": None, "usage": _message_usage(said, 1)}  # fmt: skip
            yield _event("message_start", {"message": start})
            yield _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
            for word in said.words:
                delta = {"type": "text_delta", "text": f"{word} "}
                yield _event("content_block_delta", {"index": 0, "delta": delta})
            yield _event("content_block_stop", {"index": 0})
            stop = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}}
            yield _event("message_delta", {**stop, "usage": {"output_tokens": said.output}})
            yield _event("message_stop", {})
        case _:
            for word in said.words[:-1]:
                yield _event(None, _gemini_part(model, f"{word} ", None))
            yield _event(None, _gemini_part(model, said.words[-1], said))


def _event(name: str | None, content: Json) -> bytes:
    if name is None:
        return b"data: " + json.dumps(content).encode() + b"\n\n"
    return f"event: {name}\ndata: {json.dumps({'type': name, **content})}\n\n".encode()


def _chat_usage(said: Turn) -> Json:
    return {"prompt_tokens": said.input, "completion_tokens": said.output, "total_tokens": said.input + said.output,
            "prompt_tokens_details": {"cached_tokens": said.read},
            "completion_tokens_details": {"reasoning_tokens": said.reasoning}}  # fmt: skip


def _response(model: str, said: Turn, status: str, text: str) -> Json:
    done = status == "completed"
    usage = {"input_tokens": said.input, "output_tokens": said.output, "total_tokens": said.input + said.output,
             "input_tokens_details": {"cached_tokens": said.read},
             "output_tokens_details": {"reasoning_tokens": said.reasoning}}  # fmt: skip
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_demo", "type": "message", "status": status, "role": "assistant", "content": [part]}
    return {"id": "resp_demo", "object": "response", "created_at": 1, "status": status, "model": model,
            "output": [item] if done else [], "usage": usage if done else None}  # fmt: skip


def _message_usage(said: Turn, output: int) -> Json:
    return {"input_tokens": said.fresh, "cache_read_input_tokens": said.read,
            "cache_creation_input_tokens": said.written, "output_tokens": output}  # fmt: skip


def _gemini_part(model: str, text: str, last: Turn | None) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    part: Json = {"candidates": [candidate], "modelVersion": model, "responseId": "demo"}
    if last is not None:
        candidate["finishReason"] = "STOP"
        part["usageMetadata"] = {
            "promptTokenCount": last.input, "cachedContentTokenCount": last.read,
            "candidatesTokenCount": last.output - last.reasoning, "thoughtsTokenCount": last.reasoning,
            "totalTokenCount": last.input + last.output,
        }  # fmt: skip
    return part
