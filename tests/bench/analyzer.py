"""CPU microseconds of reading usage and pricing it: python tests/bench/analyzer.py [--json]

Process time, the best of several runs on made-up answers of realistic shape; nothing is asserted here.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import itertools
import json
import struct
import time
from collections.abc import Callable

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import HEAD, TAIL, read_answer, read_stream
from fluxen.gateway.sieve import Sieve
from fluxen.providers.catalogue import load_catalogue, provider_for_model
from fluxen.providers.dialect import dialects

NOW = 1_795_348_800_000_000  # 2026-11-22T12:00Z in µs

CONVERSE, INVOKE = "/model/{model}/converse-stream", "/model/{model}/invoke-with-response-stream"
GENERATE = "/v1beta/models/{model}:streamGenerateContent"

CHAT = json.dumps(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 90, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 19,
            "completion_tokens": 110,
            "total_tokens": 129,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
    }
).encode()

MESSAGE = json.dumps(
    {
        "model": "claude-sonnet-4-5-20250929",
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "word " * 110}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 418,
            "cache_read_input_tokens": 21013,
            "cache_creation": {"ephemeral_5m_input_tokens": 418, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 120,
            "service_tier": "standard",
        },
    }
).encode()


def chat_stream(size: int, usage: bool) -> bytes:
    def event(choices: str, tail: str) -> str:
        return (
            'data: {"id":"chatcmpl-B9","object":"chat.completion.chunk","created":1741569952,'
            f'"model":"gpt-4.1-2025-04-14","service_tier":"default","system_fingerprint":"fp_1","choices":{choices},"usage":{tail}}}\n\n'
        )

    word = event('[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]', "null")
    stop = event('[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]', "null")
    last = event("[]", '{"prompt_tokens":9,"completion_tokens":80,"total_tokens":89}') if usage else ""
    return (word * (size // len(word)) + stop + last + "data: [DONE]\n\n").encode()


def message_stream(size: int) -> bytes:
    start = (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_01",'
        '"model":"claude-sonnet-4-5-20250929","usage":{"input_tokens":20,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":1}}}\n\n'
    )
    word = (
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":" word"}}\n\n'
    )
    end = (
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        '"usage":{"input_tokens":20,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":80}}\n\n'
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    return (start + word * (size // len(word)) + end).encode()


def responses_stream(size: int) -> bytes:
    usage = '{"input_tokens":9,"input_tokens_details":{"cached_tokens":0},"output_tokens":8,"total_tokens":17}'
    whole = f'"model":"gpt-4.1-2025-04-14","instructions":"{"x" * size}","usage"'
    start = f'data: {{"type":"response.created","response":{{"status":"in_progress",{whole}:null}}}}\n\n'
    end = f'data: {{"type":"response.completed","response":{{"status":"completed",{whole}:{usage},"user":null}}}}\n\n'
    return (start + end).encode()


def frame(event: str, payload: dict[str, object]) -> bytes:
    """A message of Amazon's event stream."""
    headers = ((b":event-type", event.encode()), (b":content-type", b"application/json"), (b":message-type", b"event"))
    block = b"".join(bytes([len(n)]) + n + b"\x07" + struct.pack(">H", len(v)) + v for n, v in headers)
    body = json.dumps(payload, separators=(",", ":")).encode()
    prelude = struct.pack(">II", 16 + len(block) + len(body), len(block))
    whole = prelude + struct.pack(">I", binascii.crc32(prelude)) + block + body
    return whole + struct.pack(">I", binascii.crc32(whole))


def converse_stream(size: int, usage: bool) -> bytes:
    word = frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": " word"}, "p": "abcdefghijklmn"})
    stop = frame("messageStop", {"stopReason": "end_turn", "p": "abc"})
    counts = {"inputTokens": 433, "outputTokens": 16, "totalTokens": 449, "cacheReadInputTokens": 0}
    last = frame("metadata", {"metrics": {"latencyMs": 820}, "usage": counts}) if usage else b""
    return word * (size // len(word)) + stop + last


def invoke_stream(size: int) -> bytes:
    def chunk(event: dict[str, object]) -> bytes:
        return frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcdef"})

    counts = {"input_tokens": 20, "output_tokens": 1}
    start = chunk({"type": "message_start", "message": {"model": "claude-x", "usage": counts}})
    word = chunk({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " word"}})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    end = chunk({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 80}})
    metrics = {"inputTokenCount": 20, "outputTokenCount": 80, "invocationLatency": 3042, "firstByteLatency": 791}
    return (
        start
        + word * (size // len(word))
        + end
        + chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})
    )


def ollama_stream(size: int) -> bytes:
    word = '{"model":"llama3","created_at":"2024-05-24T20:57:43.35235Z","response":" word","done":false}\n'
    last = '{"model":"llama3","response":"","done":true,"done_reason":"stop","prompt_eval_count":17,"eval_count":63}\n'
    return (word * (size // len(word)) + last).encode()


def gemini_stream(size: int) -> bytes:
    counts = '{"promptTokenCount": 8,"candidatesTokenCount": 7,"totalTokenCount": 15}'
    word = (
        'data: {"candidates": [{"content": {"parts": [{"text": " word"}],"role": "model"},"index": 0}],'
        f'"usageMetadata": {counts},"modelVersion": "gemini-2.5-flash"}}\r\n\r\n'
    )
    last = word.replace('"index": 0', '"finishReason": "STOP","index": 0')
    return (word * (size // len(word)) + last).encode()


def streamed(dialect: str, endpoint: str, body: bytes, complete: bool = True) -> Callable[[], object]:
    head, tail = body[:HEAD], body[HEAD:][-TAIL:]
    return lambda: read_stream(dialect, endpoint, 200, head, tail, complete)


def cases() -> dict[str, Callable[[], object]]:
    book, catalogue, openai = PriceBook.shipped(), load_catalogue(), dialects()["openai"]
    chat = "/v1/chat/completions"
    reading = read_answer("openai", chat, 200, CHAT)
    return {
        "endpoint template": lambda: openai.endpoint(chat),
        "provider of a model": lambda: provider_for_model("gpt-4.1-mini", catalogue),
        f"chat answer, {len(CHAT)} B: read": lambda: read_answer("openai", chat, 200, CHAT),
        "chat answer: cost": lambda: answer_cost(book, "openai", None, reading, "gpt-4.1", NOW),
        f"chat answer, {len(CHAT)} B: read + cost": lambda: answer_cost(
            book, "openai", None, read_answer("openai", chat, 200, CHAT), "gpt-4.1", NOW
        ),
        f"message, {len(MESSAGE)} B: read + cost": lambda: answer_cost(
            book, "anthropic", None, read_answer("anthropic", "/v1/messages", 200, MESSAGE), None, NOW
        ),
        "chat stream 16 KB, usage": streamed("openai", chat, chat_stream(16_000, True)),
        "chat stream 16 KB, no usage, usage:null in each event": streamed("openai", chat, chat_stream(16_000, False)),
        "chat stream 100 KB, usage": streamed("openai", chat, chat_stream(100_000, True)),
        "message stream 16 KB": streamed("anthropic", "/v1/messages", message_stream(16_000)),
        "message stream 100 KB": streamed("anthropic", "/v1/messages", message_stream(100_000)),
        "gemini stream 16 KB": streamed("gemini", GENERATE, gemini_stream(16_000)),
        "converse stream 16 KB": streamed("bedrock", CONVERSE, converse_stream(16_000, True)),
        "converse stream 16 KB, no usage": streamed("bedrock", CONVERSE, converse_stream(16_000, False), False),
        "converse stream 100 KB": streamed("bedrock", CONVERSE, converse_stream(100_000, True)),
        "invoke stream 16 KB": streamed("bedrock", INVOKE, invoke_stream(16_000)),
        "invoke stream 100 KB": streamed("bedrock", INVOKE, invoke_stream(100_000)),
        "stream of lines 16 KB": streamed("ollama", "/api/generate", ollama_stream(16_000)),
        "responses stream, events of 40 KB": streamed("openai", "/v1/responses", responses_stream(40_000)),
        "sieve, reads of 64 KB": sieved(chat_stream(640_000, False)),
    }


def sieved(stream: bytes) -> Callable[[], object]:
    """One read, of those of a stream that comes faster than it is relayed: events are cut wherever a read ends."""
    sieve = Sieve()
    reads = itertools.cycle(stream[at : at + 65536] for at in range(0, len(stream) - 65536, 65536))
    return lambda: sieve.feed(next(reads))


def cpu_us(call: Callable[[], object], rounds: int = 7, seconds: float = 0.02) -> float:
    call()
    start = time.process_time()
    call()
    number = max(1, int(seconds / max(time.process_time() - start, 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(number):
            call()
        best = min(best, (time.process_time() - start) / number)
    return best * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true")
    measured = {name: round(cpu_us(call), 2) for name, call in cases().items()}
    if arguments.parse_args().json:
        print(json.dumps(measured, indent=1))
        return
    for name, us in measured.items():
        print(f"{us:9.2f} µs  {name}")


if __name__ == "__main__":
    main()
