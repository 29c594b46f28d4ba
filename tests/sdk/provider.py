"""A provider that speaks the three protocols over real sockets, well enough for the official SDKs, and remembers what
it was asked.

By hand, to run other clients against a gateway: `python tests/sdk/provider.py PORT` prints a line per request.

The model's name asks for trouble: `fail-429` is answered with that status and Retry-After, `fail-429-once` only the
first time. A stream of `hold-end` says its last word, and then nothing until its client has left. Everything else is
answered with WORDS and the same usage.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

WORDS = ("Hello", ", ", "wörld", " 🌍")
TEXT = "".join(WORDS)
INPUT, CACHED, OUTPUT, REASONING = 31, 10, 7, 3
"""Tokens of every answer: INPUT without the CACHED ones; REASONING is a part of OUTPUT."""

MESSAGES = {401: "bad key", 404: "no such model", 429: "slow down", 500: "broken", 503: "overloaded"}
ANTHROPIC_ERRORS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
GEMINI_ERRORS = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}

Json = dict[str, Any]
Event = tuple[str | None, Json | str]
"""Name (None: OpenAI's chat and Gemini have none) and data of a server-sent event."""


@dataclass(frozen=True)
class Seen:
    """A request as it came. Large bodies are kept as their digest only."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    size: int
    sha256: str
    json: Json | None

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


class Failure(Exception):
    """The model's name asked for it."""

    def __init__(self, status: int, soon: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.soon = soon
        """Whether it is worth trying again in a few milliseconds."""


class Provider:
    """Serves from its own threads until it is closed."""

    def __init__(self, port: int = 0, say: Callable[[Seen], object] | None = None) -> None:
        self.seen: list[Seen] = []
        self.failed: set[str] = set()
        self.say = say
        provider = self

        class Bound(Handler):
            owner = provider

        self.faults: list[BaseException] = []
        """What went wrong in its threads."""
        self._server = Server(port, Bound, self.faults)
        self.port: int = self._server.server_address[1]
        self.thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    """With room for clients that come all at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, handler: type[Handler], faults: list[BaseException]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._faults = faults

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may leave; anything else is a fault."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self._faults.append(error)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: Provider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the requests are in `seen`."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def _handle(self) -> None:
        digest, size, kept = hashlib.sha256(), 0, b""
        for piece in self._body():
            digest.update(piece)
            size += len(piece)
            kept = kept + piece if size <= 8 << 20 else b""
        if self.headers.get("Content-Encoding") == "gzip":
            kept = gzip.decompress(kept)
        content: Json | None = None
        if self.headers.get("Content-Type", "").startswith("application/json") and kept:
            content = json.loads(kept)
        seen = Seen(self.command, self.path, list(self.headers.items()), size, digest.hexdigest(), content)
        self.owner.seen.append(seen)
        if self.owner.say is not None:
            self.owner.say(seen)
        try:
            answer = self._answer(seen)
        except Failure as failure:
            self._fail(seen, failure.status, failure.soon)
        else:
            if isinstance(answer, dict):
                self._send(200, answer)
            else:
                self._stream(answer, hold=(content or {}).get("model") == "hold-end")

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            assert piece, "the request broke off"
            left -= len(piece)
            yield piece

    def _answer(self, seen: Seen) -> Json | Iterable[Event]:
        path, content = seen.path, seen.json or {}
        gemini = re.search(r"/(v1|v1beta)/models/([^/:]+):([A-Za-z]+)$", path)
        model = unquote(gemini[2]) if gemini else str(content.get("model", ""))
        if (failure := re.match(r"fail-(\d+)(-once)?$", model)) and not (failure[2] and model in self.owner.failed):
            self.owner.failed.add(model)
            raise Failure(int(failure[1]), soon=failure[2] is not None)
        stream = content.get("stream") is True
        if gemini:
            return gemini_answer(model, gemini[3], content)
        match path:
            case "/v1/chat/completions":
                return chat_events(content) if stream else chat(model)
            case "/v1/responses":
                return response_events(content) if stream else response(model)
            case "/v1/embeddings":
                return embeddings(content)
            case "/v1/messages":
                return message_events(model) if stream else message(model)
            case "/v1/messages/count_tokens":
                return {"input_tokens": INPUT}
            case "/v1/files" if seen.method == "POST":
                return {"id": "file-1", "object": "file", "bytes": seen.size, "created_at": 1, "filename": "f",
                        "purpose": "batch", "status": "processed"}  # fmt: skip
            case "/v1/files/file-1" if seen.method == "DELETE":
                return {"id": "file-1", "object": "file", "deleted": True}
            case "/v1/models" if seen.header("anthropic-version"):
                entry = {"type": "model", "id": "claude-x", "display_name": "X", "created_at": "2026-01-01T00:00:00Z"}
                return {"data": [entry], "has_more": False, "first_id": "claude-x", "last_id": "claude-x"}
            case "/v1beta/models":
                return {"models": [{"name": "models/gemini-x", "displayName": "X"}]}
            case "/v1/models":
                return {"object": "list", "data": [openai_model("gpt-x")]}
            case "/v1/models/gpt-x":
                return openai_model("gpt-x")
        raise Failure(404)

    def _fail(self, seen: Seen, status: int, soon: bool) -> None:
        text = MESSAGES.get(status, "failed")
        if "/models/" in seen.path:
            body: Json = {"error": {"code": status, "message": text, "status": GEMINI_ERRORS.get(status, "INTERNAL")}}
        elif "/messages" in seen.path:
            kind = ANTHROPIC_ERRORS.get(status, "api_error")
            body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_f"}
        else:
            body = {"error": {"message": text, "type": "some_error", "param": None, "code": f"code_{status}"}}
        wait = {"retry-after-ms": "10"} if soon else {"Retry-After": "1"} if status == 429 else {}
        self._send(status, body, wait)

    def _send(self, status: int, content: Json, more: dict[str, str] | None = None) -> None:
        body = json.dumps(content, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "x-request-id": "req_of_provider", **(more or {})}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, events: Iterable[Event], hold: bool) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        for name, content in events:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            event = f"event: {name}\n" if name else ""
            data = f"{event}data: {text}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()
        if hold:
            self.close_connection = True
            assert not self.rfile.read(1), "more than one request"
        else:
            self.wfile.write(b"0\r\n\r\n")


# --- OpenAI


def openai_model(id: str) -> Json:
    return {"id": id, "object": "model", "created": 1, "owned_by": "me"}


CHAT_USAGE = {
    "prompt_tokens": INPUT + CACHED, "completion_tokens": OUTPUT, "total_tokens": INPUT + CACHED + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": REASONING},
}  # fmt: skip
RESPONSE_USAGE = {
    "input_tokens": INPUT + CACHED, "output_tokens": OUTPUT, "total_tokens": INPUT + CACHED + OUTPUT,
    "input_tokens_details": {"cached_tokens": CACHED}, "output_tokens_details": {"reasoning_tokens": REASONING},
}  # fmt: skip


def chat(model: str) -> Json:
    answer = {"role": "assistant", "content": TEXT, "refusal": None}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "message": answer, "finish_reason": "stop", "logprobs": None}],
            "usage": CHAT_USAGE}  # fmt: skip


def chat_events(content: Json) -> Iterator[Event]:
    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": content["model"],
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip

    yield None, chunk({"role": "assistant", "content": ""})
    for word in WORDS:
        yield None, chunk({"content": word})
    yield None, chunk({}, "stop")
    if (content.get("stream_options") or {}).get("include_usage"):
        yield None, {**chunk({}), "choices": [], "usage": CHAT_USAGE}
    yield None, "[DONE]"


def response(model: str, status: str = "completed") -> Json:
    done = status == "completed"
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model, "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "output": [response_item("completed")] if done else [],
            "usage": RESPONSE_USAGE if done else None}  # fmt: skip


def response_item(status: str) -> Json:
    content = [{"type": "output_text", "text": TEXT, "annotations": []}] if status == "completed" else []
    return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content}


def response_events(content: Json) -> Iterator[Event]:
    model = content["model"]
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events: list[tuple[str, Json]] = [
        ("response.created", {"response": response(model, "in_progress")}),
        ("response.in_progress", {"response": response(model, "in_progress")}),
        ("response.output_item.added", {"output_index": 0, "item": response_item("in_progress")}),
        ("response.content_part.added", {**at, "part": part}),
        *(("response.output_text.delta", {**at, "delta": word, "logprobs": []}) for word in WORDS),
        ("response.output_text.done", {**at, "text": TEXT, "logprobs": []}),
        ("response.content_part.done", {**at, "part": {**part, "text": TEXT}}),
        ("response.output_item.done", {"output_index": 0, "item": response_item("completed")}),
        ("response.completed", {"response": response(model)}),
    ]
    for number, (name, event) in enumerate(events):
        yield name, {"type": name, "sequence_number": number, **event}


def embeddings(content: Json) -> Json:
    numbers: Any = [0.5, -0.25, 1.0]
    if content.get("encoding_format") == "base64":
        numbers = base64.b64encode(struct.pack("<3f", *numbers)).decode()
    return {"object": "list", "model": content["model"], "usage": {"prompt_tokens": INPUT, "total_tokens": INPUT},
            "data": [{"object": "embedding", "index": 0, "embedding": numbers}]}  # fmt: skip


# --- Anthropic


def message(model: str) -> Json:
    usage = {"input_tokens": INPUT, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED,
             "output_tokens": OUTPUT, "service_tier": "standard"}  # fmt: skip
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
            "stop_sequence": None, "content": [{"type": "text", "text": TEXT}], "usage": usage}  # fmt: skip


def message_events(model: str) -> Iterator[Event]:
    start = {**message(model), "content": [], "stop_reason": None}
    start["usage"] = {**start["usage"], "output_tokens": 1}
    yield "message_start", {"type": "message_start", "message": start}
    text = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": text}
    yield "ping", {"type": "ping"}
    for word in WORDS:
        delta = {"type": "text_delta", "text": word}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": OUTPUT}}
    yield "message_stop", {"type": "message_stop"}


# --- Gemini


def gemini_answer(model: str, method: str, content: Json) -> Json | Iterator[Event]:
    match method:
        case "generateContent":
            return gemini_part(model, TEXT, last=True)
        case "streamGenerateContent":
            return ((None, gemini_part(model, word, last=word is WORDS[-1])) for word in WORDS)
        case "countTokens":
            return {"totalTokens": INPUT}
        case "embedContent":
            return {"embedding": {"values": [0.5, -0.25]}}
        case "batchEmbedContents":
            return {"embeddings": [{"values": [0.5, -0.25]} for _ in content["requests"]]}
    raise Failure(404)


def gemini_part(model: str, text: str, last: bool) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    usage = {"promptTokenCount": INPUT + CACHED, "cachedContentTokenCount": CACHED,
             "totalTokenCount": INPUT + CACHED + OUTPUT}  # fmt: skip
    if last:
        candidate["finishReason"] = "STOP"
        usage |= {"candidatesTokenCount": OUTPUT - REASONING, "thoughtsTokenCount": REASONING}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "r1"}


if __name__ == "__main__":

    def say(seen: Seen) -> None:
        names = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
        credentials = [f"{name}: {value}" for name, value in seen.headers if name.lower() in names]
        print(seen.method, seen.target, f"{seen.size} B", seen.header("user-agent"), *credentials, flush=True)

    Provider(int(sys.argv[1]), say).thread.join()
