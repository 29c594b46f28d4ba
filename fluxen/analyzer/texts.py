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

from fluxen.analyzer.images import Image, data_image

_DEPTH: Final = 64
_MESSAGE_PARTS: Final = ("parts", "content")
_TOP: Final = ("prompt", "message", "inputText", "inputs", "texts", "content", "text", "query", "documents", "suffix")
_INSIDE: Final = (
    "text", "content", "parts", "thinking", "output", "json", "reasoningText", "reasoningContent", "refusal",
)  # fmt: skip
_BINARY: Final = 512  # characters of a string in which no blank stands after which it may be base64


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A function that the model may call. `schema` is the JSON schema of its parameters."""

    name: str
    description: str
    schema: Any


class Prompt(msgspec.Struct):
    """`texts` are what was said, `system` of them the instructions' own count of messages; `calls` are (name,
    arguments as JSON text) of earlier tool calls and `results` the answers to them. `schema` is the one an answer has
    to follow. `media` counts bytes of what is neither text nor an image; `hosted` the provider's own tools.
    `known` is False when only the strings of an unknown shape are here."""

    model: str | None = None
    texts: list[str] = []
    messages: int = 0
    system: int = 0
    names: list[str] = []
    calls: list[tuple[str, str]] = []
    results: list[str] = []
    tools: list[Tool] = []
    schema: Any = None
    images: list[Image] = []
    media: int = 0
    hosted: int = 0
    known: bool = True
    limit: int | None = None


def read_prompt(body: bytes) -> Prompt | None:
    """None if the body is no JSON object."""
    asked = decoded(body)
    if not isinstance(asked, dict):
        return None
    return _Reader(asked).prompt


def decoded(body: bytes) -> Any:
    """JSON as values; None where it is none. A half of a surrogate pair or a bad byte becomes U+FFFD."""
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
        model = asked.get("model")
        found.model = model if isinstance(model, str) else None
        found.limit = _limit(asked)
        for key in ("system", "systemInstruction", "system_instruction", "instructions", "preamble"):
            if asked.get(key):
                found.system += 1
                self._content(asked[key])
        for key in ("messages", "contents", "chat_history"):
            self._messages(asked.get(key))
        if "input" in asked:
            self._input(asked["input"])
        for key in (
            "prompt",
            "message",
            "inputText",
            "inputs",
            "texts",
            "content",
            "text",
            "query",
            "documents",
            "suffix",
        ):
            value = asked.get(key)
            if isinstance(value, str | list) or (key == "content" and isinstance(value, dict)):
                self._content(value)
        requests = asked.get("requests")
        if isinstance(requests, list):
            for request in requests:
                if isinstance(request, dict):
                    self._content(request.get("content"))
        self._tools(asked.get("tools"))
        configured = asked.get("toolConfig")
        if isinstance(configured, dict):
            self._tools(configured.get("tools"))
        found.schema = _schema(asked)
        if not found.texts and not found.messages and not found.images and not found.media:
            found.known = False
            found.texts = list(_strings(asked))

    def _messages(self, messages: Any) -> None:
        if not isinstance(messages, list):
            return
        for message in messages:
            if isinstance(message, dict):
                self.prompt.messages += 1
                self._message(message)
            elif isinstance(message, str):
                self.prompt.messages += 1
                self.prompt.texts.append(message)

    def _message(self, message: dict[str, Any]) -> None:
        name = message.get("name")
        if isinstance(name, str) and message.get("role") not in ("tool", "function"):
            self.prompt.names.append(name)
        result = message.get("role") in ("tool", "function")
        for key in (*_MESSAGE_PARTS, "message", "reasoning_content", "refusal"):
            if key in message:
                self._content(message[key], result=result)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                function = call.get("function")
                self._call(function if isinstance(function, dict) else call)
        if isinstance(message.get("function_call"), dict):
            self._call(message["function_call"])
        results = message.get("tool_results")
        if isinstance(results, list):
            self.prompt.results += [_text(value) for value in results]

    def _input(self, value: Any) -> None:
        """Of the Responses API, or what is to be embedded."""
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for item in value:
                if not isinstance(item, dict):
                    continue
                kind = item.get("type")
                self.prompt.messages += 1
                if kind in ("function_call", "custom_tool_call", "mcp_call"):
                    self._call(item)
                elif isinstance(kind, str) and kind.endswith("_output"):
                    self._content(item.get("output"), result=True)
                elif kind == "reasoning":
                    self._content(item.get("summary"))
                elif "content" in item:
                    self._message(item)
                else:
                    self._part(item, False, 0)
        else:
            self._content(value)

    def _content(self, value: Any, *, result: bool = False, depth: int = 0) -> None:
        """Text, a part, or a list of either."""
        if isinstance(value, str):
            self._text(value, result)
        elif isinstance(value, list):
            if value and all(isinstance(item, int) for item in value):  # tokens already
                self.prompt.texts.append(" a" * len(value))
                return
            for item in value:
                if depth < _DEPTH:
                    self._content(item, result=result, depth=depth + 1)
        elif isinstance(value, dict):
            self._part(value, result, depth)

    def _part(self, part: dict[str, Any], result: bool, depth: int) -> None:
        if depth >= _DEPTH:
            return
        image = _image(part)
        if image is not None:
            self.prompt.images.append(image)
            return
        size = _media(part)
        if size is not None:
            self.prompt.media += size
            return
        for key in ("functionCall", "function_call", "toolUse"):
            if isinstance(part.get(key), dict):
                self._call(part[key])
                return
        if part.get("type") in ("tool_use", "server_tool_use", "tool-call"):
            self._call(part)
            return
        for key in ("functionResponse", "function_response", "toolResult"):
            if isinstance(part.get(key), dict):
                inner = part[key]
                answer = inner.get("content", inner.get("response"))
                if isinstance(answer, list):
                    self._content(answer, result=True, depth=depth + 1)
                else:
                    self.prompt.results.append(_text(answer))
                return
        result = result or part.get("type") in ("tool_result", "function_call_output")
        said = False
        for key in (
            "text",
            "content",
            "parts",
            "thinking",
            "output",
            "json",
            "reasoningText",
            "reasoningContent",
            "refusal",
        ):
            value = part.get(key)
            if isinstance(value, str):
                self._text(value, result)
                said = True
            elif isinstance(value, list | dict) and value:
                if key == "json":
                    self.prompt.results.append(_text(value))
                else:
                    self._content(value, result=result, depth=depth + 1)
                said = True
        if not said and part.get("type") in (None, "document", "json"):
            self.prompt.texts += list(_strings(part))

    def _text(self, text: str, result: bool) -> None:
        if len(text) > _BINARY and not any(blank in text[:_BINARY] for blank in " \n\t{") and text[:5] == "data:":
            self.prompt.media += len(text) * 3 // 4
            return
        (self.prompt.results if result else self.prompt.texts).append(text)

    def _call(self, call: dict[str, Any]) -> None:
        arguments = call.get("arguments", call.get("args", call.get("input", call.get("parameters"))))
        self.prompt.calls.append((str(call.get("name") or ""), _text(arguments)))

    def _tools(self, tools: Any) -> None:
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict):
                continue
            declared = tool.get("functionDeclarations", tool.get("function_declarations"))
            if isinstance(declared, list):
                for one in declared:
                    self._tool(one)
                continue
            for key in ("function", "toolSpec"):
                if isinstance(tool.get(key), dict):
                    tool = tool[key]
            if "name" in tool and (tool.get("type") in (None, "function", "custom") or "input_schema" in tool):
                self._tool(tool)
            elif tool.keys() - {"cachePoint"}:
                self.prompt.hosted += 1

    def _tool(self, tool: Any) -> None:
        if not isinstance(tool, dict):
            return
        schema = None
        for key in ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameter_definitions"):
            schema = schema or tool.get(key)
        if isinstance(schema, dict) and isinstance(schema.get("json"), dict):
            schema = schema["json"]
        self.prompt.tools.append(Tool(str(tool.get("name") or ""), str(tool.get("description") or ""), schema))


def _limit(asked: dict[str, Any]) -> int | None:
    """The most tokens that the answer may have."""
    places: list[Any] = [asked]
    places += [asked.get(key) for key in ("generationConfig", "generation_config", "inferenceConfig", "options")]
    places += [asked.get("textGenerationConfig")]
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens", "maxTokens")
    for place in places:
        if isinstance(place, dict):
            for name in (*names, "num_predict", "maxTokenCount", "max_gen_len", "max_tokens_to_sample"):
                value = place.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None


def _schema(asked: dict[str, Any]) -> Any:
    for place in (
        asked.get("response_format"),
        asked.get("text"),
        asked.get("output_config"),
        asked.get("output_format"),
    ):
        if isinstance(place, dict):
            inner = place.get("format", place)
            if isinstance(inner, dict):
                named = inner.get("json_schema")
                found = (named.get("schema") if isinstance(named, dict) else None) or inner.get("schema")
                if isinstance(found, dict):
                    return found
    configured = asked.get("generationConfig", asked.get("generation_config"))
    if isinstance(configured, dict):
        for key in ("responseSchema", "responseJsonSchema", "response_schema"):
            if isinstance(configured.get(key), dict):
                return configured[key]
    shape = asked.get("format")
    return shape if isinstance(shape, dict) else None


def _image(part: dict[str, Any]) -> Image | None:
    kind = part.get("type")
    linked = part.get("image_url")
    if linked is not None:
        url = linked.get("url") if isinstance(linked, dict) else linked
        detail = linked.get("detail") if isinstance(linked, dict) else part.get("detail")
        return data_image(url if isinstance(url, str) else "", detail if isinstance(detail, str) else None)
    if kind == "input_image":
        return data_image("", None)
    if kind == "image":
        source = part.get("source")
        data = source.get("data") if isinstance(source, dict) else None
        return data_image(data if isinstance(data, str) else "", None)
    image = part.get("image")
    if isinstance(image, dict) and isinstance(image.get("source"), dict):
        data = image["source"].get("bytes")
        return data_image(data if isinstance(data, str) else "", None)
    inline = part.get("inlineData", part.get("inline_data"))
    if isinstance(inline, dict):
        mime = inline.get("mimeType", inline.get("mime_type"))
        if isinstance(mime, str) and mime.startswith("image/"):
            data = inline.get("data")
            return data_image(data if isinstance(data, str) else "", None)
    return None


def _media(part: dict[str, Any]) -> int | None:
    """Bytes of a part that is no text: audio, video, a document, or a reference to one (0: nobody knows)."""
    names = ("inlineData", "inline_data", "fileData", "file_data", "input_audio", "file", "video", "audio", "source")
    for key in (*names, "document"):
        inner = part.get(key)
        if isinstance(inner, dict):
            if inner.get("type") == "text" and isinstance(inner.get("data"), str):
                return None
            return max((len(text) for text in _strings(inner)), default=0) * 3 // 4
    if part.get("type") in ("input_file", "input_audio", "file"):
        return max((len(text) for text in _strings(part)), default=0) * 3 // 4
    return None


def _text(value: Any) -> str:
    """As the provider would write it into a prompt: a string as it is, anything else as compact JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < _DEPTH:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for item in inner:
            yield from _strings(item, depth + 1)
