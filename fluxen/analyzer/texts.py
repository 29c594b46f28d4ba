"""What of a request a model reads: its texts, tools, images, taken out of any provider's JSON.

The shape of the JSON says what it is, not the path it was sent to: the protocols differ in the names of a few fields,
and a request to an imitator, or one that lies in a file, is read like one to the original. What has no known shape is
read as all the strings that are in it. Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fluxen.analyzer.declared import Tool, limit_of, schema_of, tools_of
from fluxen.analyzer.images import Image, image_part

_DEPTH: Final = 64
_INSTRUCTIONS: Final = ("system", "systemInstruction", "system_instruction", "instructions", "preamble")
_TOP: Final = ("prompt", "message", "inputText", "inputs", "texts", "content", "text", "query", "documents", "suffix")
_REQUEST: Final = {"messages", "contents", "input", "prompt", "chat_history", "inputText", "inputs", "message"}
_IN_MESSAGE: Final = ("parts", "content", "message", "refusal")
_IN_PART: Final = ("text", "content", "parts", "output", "json", "refusal")
_THINKING: Final = ("thinking", "redacted_thinking")
_ELSEWHERE: Final = (
    "previous_response_id", "previous_interaction_id", "conversation", "conversation_id", "mcp_servers", "container",
    "context_management", "cachedContent", "cached_content", "web_search_options", "web_search", "connectors",
    "plugins", "preset",
)  # fmt: skip
_CALLS: Final = ("functionCall", "function_call", "toolUse")
_RESULTS: Final = ("functionResponse", "function_response", "toolResult")
_FILES: Final = (
    "inlineData", "inline_data", "fileData", "file_data", "input_audio", "file", "video", "audio", "source", "document",
)  # fmt: skip


class Call(msgspec.Struct, frozen=True, gc=False):
    """An earlier call of a tool, with its arguments as JSON text, or what the tool answered."""

    name: str
    text: str


class Prompt(msgspec.Struct):
    """`texts` are what was said in `messages` messages, `system` of which are instructions; `names` those of speakers.
    `calls` and `results` are earlier uses of tools, `parallel` of the messages had more than one call. `schema` is the
    one an answer has to follow, `limit` the most tokens it may have. `media` are the sizes in bytes of what is neither
    text nor an image (0: only a reference to it), `hosted` is how many of the provider's own tools may be used.
    `thoughts` are a model's own of earlier turns, which most providers leave out, `sealed` is the size of those that
    only the provider can read. `pending`: the last that was said is a tool's answer, so that the model goes on with its
    turn; `forced`: it has to call a certain tool. `elsewhere`: the request refers to a context that the provider holds.
    `known` is False when the shape is not: then `texts` are all strings there are."""

    model: str | None = None
    texts: list[str] = []
    messages: int = 0
    system: int = 0
    names: list[str] = []
    calls: list[Call] = []
    parallel: int = 0
    results: list[Call] = []
    tools: list[Tool] = []
    schema: dict[str, Any] | None = None
    images: list[Image] = []
    media: list[int] = []
    hosted: int = 0
    limit: int | None = None
    thoughts: list[str] = []
    sealed: int = 0
    thinks: bool = False
    pending: bool = False
    forced: bool = False
    elsewhere: bool = False
    known: bool = True


def read_prompt(body: bytes) -> Prompt | None:
    """None if the body is no JSON object, or one that is nested too deep."""
    asked = decoded(body)
    return _read(asked) if isinstance(asked, dict) else None


def _read(asked: dict[str, Any]) -> Prompt | None:
    try:
        return _Reader(asked).prompt
    except RecursionError:
        return None


def read_request(body: bytes) -> Prompt | None:
    """A request's body, or a line of a batch that has one; None if it doesn't look like either."""
    asked = decoded(body) if body.lstrip()[:1] == b"{" else None
    if isinstance(asked, dict) and isinstance(asked.get("body"), dict):
        asked = asked["body"]
    elif isinstance(asked, dict) and isinstance(asked.get("params"), dict):  # Anthropic's batches
        asked = asked["params"]
    if not isinstance(asked, dict) or not _REQUEST & asked.keys():
        return None
    return _read(asked)


def as_prompt(text: str) -> Prompt:
    """A text as the one message of a request."""
    return Prompt(texts=[text], messages=1)


def decoded(body: bytes) -> Any:
    """JSON as values; None where it is none. A bad byte becomes U+FFFD."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


class _Reader:
    """Walks one request."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.prompt = found = Prompt()
        self._named: dict[str, str] = {}  # tools by the ids of their calls
        model = asked.get("model", asked.get("modelId"))
        found.model = model if isinstance(model, str) else None
        for key in _INSTRUCTIONS:
            if asked.get(key):
                found.system += 1
                found.messages += key == "instructions"  # a message of its own
                self._content(asked[key])
        for key in ("messages", "contents", "chat_history"):
            self._messages(asked.get(key))
        self._input(asked.get("input"))
        for key in _TOP:
            value = asked.get(key)
            if isinstance(value, str | list) or (key == "content" and isinstance(value, dict)):
                if key in ("prompt", "message"):
                    found.messages += 1
                self._content(value)
        for request in _dicts(asked.get("requests")):
            self._content(request.get("content"))
        for result in _dicts(asked.get("tool_results")):  # Cohere v1
            call = result.get("call")
            name = call.get("name") if isinstance(call, dict) else None
            found.results.append(Call(str(name or ""), as_text(result.get("outputs"))))
        if not (found.texts or found.messages or found.images or found.media or found.results):
            found.known = False
            found.texts = list(_strings(asked))
        own, found.hosted = tools_of(asked)
        found.tools += own
        found.elsewhere = any(asked.get(key) for key in _ELSEWHERE) or isinstance(asked.get("prompt"), dict)
        choice = asked.get("tool_choice")
        found.forced = isinstance(choice, dict) and choice.get("type") == "function"
        found.thinks = _thinks(asked)
        found.schema, found.limit = schema_of(asked), limit_of(asked)

    def _messages(self, messages: Any) -> None:
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict):
                self._message(message)
            elif isinstance(message, str):
                self.prompt.messages += 1
                self.prompt.texts.append(message)

    def _message(self, message: dict[str, Any]) -> None:
        found = self.prompt
        role, name = message.get("role"), message.get("name")
        answers = None
        if role in ("tool", "function"):
            called = message.get("tool_call_id")
            answers = self._named.get(called) if isinstance(called, str) else None
            answers = answers or (name if isinstance(name, str) else "")
        else:
            found.messages += 1
            found.system += role in ("system", "developer")
            if isinstance(name, str):
                found.names.append(name)
        before = len(found.calls)
        found.pending = answers is not None
        if answers is not None:
            content = message.get("content")
            pieces = _dicts(content)
            text = "".join(str(part.get("text") or "") for part in pieces) if pieces else as_text(content)
            found.results.append(Call(answers, text))
        else:
            for key in _IN_MESSAGE:
                self._content(message.get(key))
            self._thought(message.get("reasoning_content"))
        for call in _dicts(message.get("tool_calls")):
            function = call.get("function")
            self._call(function if isinstance(function, dict) else call, call.get("id"))
        if isinstance(message.get("function_call"), dict):
            self._call(message["function_call"], None)
        for result in _dicts(message.get("tool_results")):
            found.results.append(Call("", as_text(result)))
        found.parallel += len(found.calls) - before > 1

    def _input(self, value: Any) -> None:
        """Of the Responses API, or what is to be embedded."""
        found = self.prompt
        items = _dicts(value)
        if not items:
            found.messages += isinstance(value, str)
            self._content(value)
            return
        calls = 0
        for item in items:
            kind = str(item.get("type") or "")
            if kind.endswith("_call"):
                self._call(item, item.get("call_id"))
                calls += 1
                continue
            found.parallel += calls > 1
            calls = 0
            found.pending = kind.endswith("_output")
            if found.pending:
                self._result(item, item.get("output"), item.get("call_id"))
            elif kind == "reasoning":
                self._seal(item.get("encrypted_content"))
            elif "tools" in item:
                found.tools += tools_of(item)[0]
            elif "content" in item:
                self._message(item)
            else:
                self._part(item, 0)

    def _content(self, value: Any, depth: int = 0) -> None:
        """Text, a part, or a list of either."""
        if isinstance(value, str):
            self._text(value)
        elif isinstance(value, dict):
            self._part(value, depth)
        elif isinstance(value, list) and depth < _DEPTH:
            if value and all(isinstance(item, int) for item in value):  # tokens already: " a" is one
                self.prompt.texts.append(" a" * len(value))
                return
            for item in value:
                self._content(item, depth + 1)

    def _part(self, part: dict[str, Any], depth: int) -> None:
        if depth >= _DEPTH:
            return
        for key in ("thoughtSignature", "thought_signature"):
            self._seal(part.get(key))
        image = image_part(part)
        size = _file(part) if image is None else None
        if image is not None:
            self.prompt.images.append(image)
        elif size is not None:
            self.prompt.media.append(size)
        elif part.get("type") in _THINKING or part.get("thought") is True:
            self._thought(part.get("thinking", part.get("data", part.get("text"))))
        elif "reasoningContent" in part:
            inner = part["reasoningContent"]
            text = inner.get("reasoningText") if isinstance(inner, dict) else None
            self._thought(text.get("text") if isinstance(text, dict) else None)
        elif not self._use(part):
            said = False
            for key in _IN_PART:
                value = part.get(key)
                if key == "json" and value is not None:
                    self.prompt.texts.append(as_text(value))
                elif value:
                    self._content(value, depth + 1)
                said = said or value is not None
            if not said and part.get("type") in (None, "document"):
                self.prompt.texts += list(_strings(part))

    def _use(self, part: dict[str, Any]) -> bool:
        """A call of a tool or its answer, as a part of a message."""
        for key in _CALLS:
            if isinstance(part.get(key), dict):
                self._call(part[key], part[key].get("toolUseId", part[key].get("id")))
                return True
        if part.get("type") in ("tool_use", "server_tool_use", "function_call"):
            self._call(part, part.get("id"))
            return True
        for key in _RESULTS:
            if isinstance(part.get(key), dict):
                inner = part[key]
                self._result(inner, inner.get("content", inner.get("response")), inner.get("toolUseId"))
                return True
        if str(part.get("type") or "").endswith("tool_result"):
            self._result(part, part.get("content"), part.get("tool_use_id"))
            return True
        return False

    def _result(self, part: dict[str, Any], content: Any, called: Any) -> None:
        name = part.get("name") or (self._named.get(called) if isinstance(called, str) else None)
        texts: list[str] = []
        for piece in [*_dicts(content), *_dicts(part.get("parts"))]:
            image = image_part(piece)
            if image is not None:
                self.prompt.images.append(image)
            elif _file(piece) is not None:
                self.prompt.media.append(_file(piece) or 0)
            else:
                texts.append(as_text(piece.get("text", piece.get("json", piece))))
        self.prompt.pending = True
        self.prompt.results.append(Call(str(name or ""), "".join(texts) if texts else as_text(content)))

    def _thought(self, text: Any) -> None:
        if isinstance(text, str) and text:
            self.prompt.thoughts.append(text)

    def _seal(self, sealed: Any) -> None:
        if isinstance(sealed, str):
            self.prompt.sealed += len(sealed)

    def _text(self, text: str) -> None:
        if text.startswith("data:") and ";base64," in text[:100]:
            self.prompt.media.append(len(text) * 3 // 4)
        elif text:
            self.prompt.texts.append(text)

    def _call(self, call: dict[str, Any], identity: Any) -> None:
        arguments = next((call[key] for key in ("arguments", "args", "input", "parameters") if key in call), None)
        name = str(call.get("name") or "")
        if isinstance(identity, str):
            self._named[identity] = name
        self.prompt.calls.append(Call(name, as_text(arguments)))


def _thinks(asked: dict[str, Any]) -> bool:
    """Whether a Claude is asked to, by Anthropic's, OpenRouter's or Bedrock's field."""
    more = asked.get("additionalModelRequestFields")
    for place in (asked, more if isinstance(more, dict) else {}):
        for key in ("thinking", "reasoning", "reasoning_config"):
            asks = place.get(key)
            if isinstance(asks, dict) and asks.get("type", "enabled") == "enabled" and asks.get("enabled", True):
                return True
    return False


def _file(part: dict[str, Any]) -> int | None:
    """Bytes of a part that is no text: audio, video, a document; 0 for a reference to one."""
    if part.get("type") in ("input_file", "input_audio", "file", "document_url", "video_url", "audio_url"):
        return _longest(part)
    for key in _FILES:
        inner = part.get(key)
        if isinstance(inner, dict):
            if inner.get("type") in ("text", "content"):  # a document that is text
                return None
            return _longest(inner)
    return None


def _longest(value: Any) -> int:
    """Bytes of the longest base64 in it."""
    texts = [text for text in _strings(value) if len(text) > 256 and "://" not in text[:16]]
    return max(map(len, texts), default=0) * 3 // 4


def as_text(value: Any) -> str:
    """As it is written into a prompt: a string as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < _DEPTH:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for item in inner:
            yield from _strings(item, depth + 1)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
