"""What a model generated, taken out of an answer or of as much of it as was relayed.

Like texts.py this goes by the shape of the JSON. A stream is read event by event, in whatever framing: SSE, lines of
JSON, a JSON array, AWS event stream. Nothing here raises, whatever the bytes; an event that is cut off is left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fluxen.analyzer.texts import decoded

_BROKEN: Final = re.compile(
    rb'"(?:text|content|arguments|partial_json|thinking|reasoning_content|delta|response)"\s*:\s*"((?:[^"\\]|\\.)*+\\?)',
    re.DOTALL,
)
_DEPTH: Final = 32


class Answer(msgspec.Struct, gc=False):
    """An answer's body as far as it was kept, content coding removed: its first bytes and, after a gap, its last.

    `total` is the bytes of all that was relayed, 0 where `head` + `tail` are that. `streamed`: events, not one JSON
    object.
    """

    head: bytes
    tail: bytes = b""
    total: int = 0
    streamed: bool = False

    @property
    def gap(self) -> int:
        """Bytes that were relayed and not kept."""
        return max(self.total - len(self.head) - len(self.tail), 0)


class Said(msgspec.Struct):
    """`texts` by kind (`text`, `reasoning`, `call`: a tool's name or arguments) and place (a choice, a content block).
    `covered` is how many bytes of the answer they were read from, `readable` whether anything there had a meaning."""

    texts: dict[tuple[str, Any], list[str]] = {}
    finals: dict[tuple[str, Any], list[str]] = {}
    covered: int = 0
    readable: bool = False

    def add(self, kind: str, place: Any, text: Any) -> None:
        if isinstance(text, str) and text:
            self.texts.setdefault((kind, _key(place)), []).append(text)

    def add_final(self, kind: str, place: Any, text: Any) -> None:
        """Said again as a whole at the end of a stream that also sends it piece by piece."""
        if isinstance(text, str) and text:
            self.finals.setdefault((kind, _key(place)), []).append(text)

    def of(self, kind: str) -> list[str]:
        """The texts of a kind, each whole."""
        return ["".join(pieces) for (k, _), pieces in self._all() if k == kind]

    @property
    def names(self) -> list[str]:
        """Of the tools that were called."""
        return ["".join(pieces) for (kind, place), pieces in self._all() if kind == "call" and place[-1] == "name"]

    @property
    def calls(self) -> int:
        return len(self.names)

    def _all(self) -> Iterator[tuple[tuple[str, Any], list[str]]]:
        return iter((self.texts or self.finals).items())


def _key(place: Any) -> Any:
    """What stands there may be any JSON."""
    try:
        hash(place)
    except TypeError:
        return repr(place)
    return place


def read_said(answer: Answer) -> Said:
    """What was generated, of the pieces that are there."""
    said = Said()
    if not answer.streamed or (answer.head[:64].lstrip()[:1] == b"{" and b"\n{" not in answer.head[:65536]):
        whole = answer.head + answer.tail
        body = decoded(whole) if not answer.gap else None
        if isinstance(body, dict):
            _body(body, said)
            said.covered, said.readable = len(whole), True
            return said
        if not answer.streamed:
            for piece in (answer.head, answer.tail):
                _broken(piece, said)
            said.covered, said.readable = len(whole), bool(said.texts)
            return said
    pieces = [answer.head, answer.tail] if answer.gap else [answer.head + answer.tail]
    for number, piece in enumerate(pieces):
        for event, size in _events(piece, begins=number == 0):
            said.covered += size
            if isinstance(event, dict):
                said.readable = True
                _event(event, said)
    return said


# ------------------------------------------------------------------------------------------ framing


def _events(piece: bytes, begins: bool) -> Iterator[tuple[Any, int]]:
    """(JSON value, bytes it took on the wire) of each whole event."""
    start = _framed(piece, begins)
    if start is not None:
        yield from _frames(piece, start)
        return
    if piece[:64].lstrip()[:1] == b"[":
        yield from _elements(piece)
        return
    lines = piece.split(b"\n")
    if not begins and len(lines) > 1:
        lines = lines[1:]  # the rest of a line that was not kept
    for line in lines:
        text = line.strip()
        data = text[5:].strip() if text.startswith(b"data:") else text if text[:1] == b"{" else b""
        yield (_quick(data) if data[:1] in b"{" and data else None), len(line) + 1


def _quick(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _elements(piece: bytes) -> Iterator[tuple[Any, int]]:
    """Of a JSON array that may be cut off."""
    text = piece.decode("utf-8", "replace")
    decoder, at = json.JSONDecoder(), text.find("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value, len(text[at:end].encode())
        at = end


def _framed(piece: bytes, begins: bool) -> int | None:
    """Where AWS event stream frames begin: 4 bytes of length, 4 of the headers' length, their checksum."""
    if begins or piece[:5] in (b"data:", b"event"):
        return 0 if _frame_at(piece, 0) else None
    found = piece.find(b"\0\0")
    while 0 <= found < len(piece) - 16:
        if _frame_at(piece, found):
            return found
        found = piece.find(b"\0\0", found + 1)
    return None


def _frame_at(piece: bytes, at: int) -> bool:
    if len(piece) < at + 16 or piece[at] != 0:
        return False
    return zlib.crc32(piece[at : at + 8]) == int.from_bytes(piece[at + 8 : at + 12], "big")


def _frames(piece: bytes, at: int) -> Iterator[tuple[Any, int]]:
    while at + 16 <= len(piece):
        size = int.from_bytes(piece[at : at + 4], "big")
        headers = int.from_bytes(piece[at + 4 : at + 8], "big")
        if size < headers + 16 or at + size > len(piece):
            return
        event = _quick(piece[at + 12 + headers : at + size - 4])
        if isinstance(event, dict) and isinstance(event.get("bytes"), str):  # invoke: base64 of the model's own event
            try:
                event = _quick(base64.b64decode(event["bytes"]))
            except (binascii.Error, ValueError):
                event = None
        yield event, size
        at += size


def _broken(piece: bytes, said: Said) -> None:
    """The strings under the names that models' texts have, of JSON that is cut off."""
    for number, found in enumerate(_BROKEN.finditer(piece)):
        text = found[1]
        written = _quick(b'"%s"' % text)
        for end in range(1, 12) if found.end() == len(piece) else ():  # half an escape, or half a character
            written = written or _quick(b'"%s"' % text[:-end])
        said.add("text", number, written)


# ------------------------------------------------------------------------------------------ shapes


def _body(body: dict[str, Any], said: Said) -> None:
    """A whole answer."""
    _event(body, said)


def _event(event: dict[str, Any], said: Said) -> None:
    kind = event.get("type") or event.get("event_type")
    if isinstance(kind, str) and _typed(kind, event, said):
        return
    for number, choice in enumerate(_dicts(event.get("choices"))):
        _choice(choice, choice.get("index", number), said)
    for number, candidate in enumerate(_dicts(event.get("candidates"))):
        place = candidate.get("index", number)
        _blocks(candidate.get("content"), place, said)
    message = event.get("message")
    if isinstance(message, dict):  # Ollama, Cohere v2
        _choice({"message": message}, 0, said)
    output = event.get("output")
    if isinstance(output, dict) and isinstance(output.get("message"), dict):  # converse
        _blocks(output["message"].get("content"), 0, said)
    elif isinstance(output, list):
        _items(output, said.add, 0)
    started, delta = event.get("start"), event.get("delta")
    place = event.get("contentBlockIndex", event.get("index", 0))
    for part in (started, delta):
        if isinstance(part, dict):
            _block(part, place, said)
    for block in ("contentBlockDelta", "contentBlockStart"):
        inner = event.get(block)
        if isinstance(inner, dict):
            for part in (inner.get("delta"), inner.get("start")):
                if isinstance(part, dict):
                    _block(part, inner.get("contentBlockIndex", 0), said)
    if isinstance(event.get("content"), list):
        _blocks(event["content"], 0, said)
    for key in ("text", "response", "completion", "generation", "outputText"):
        if not isinstance(event.get("response"), dict) or key != "response":
            said.add("text", 0, event.get(key))
    said.add("reasoning", 0, event.get("thinking"))
    for key in ("results", "outputs", "generations"):
        for number, one in enumerate(_dicts(event.get(key))):
            said.add("text", number, one.get("outputText") or one.get("text"))
    for call in _dicts(event.get("tool_calls")):
        _call(call, 0, said)


def _typed(kind: str, event: dict[str, Any], said: Said) -> bool:
    """Events that say what they are. False: the shape decides."""
    if kind.startswith("response."):
        place = (event.get("item_id"), event.get("content_index"), event.get("summary_index"))
        if kind.endswith(".delta"):
            part = "reasoning" if "reasoning" in kind else "call" if "arguments" in kind or "input" in kind else "text"
            said.add(part, (place, "arguments"), event.get("delta"))
        elif kind == "response.output_item.added":
            item = event.get("item")
            if isinstance(item, dict) and "call" in str(item.get("type")):
                said.add("call", (item.get("id"), "name"), item.get("name"))
        elif kind in ("response.completed", "response.incomplete"):
            whole = event.get("response")
            if isinstance(whole, dict):
                _items(whole.get("output"), said.add_final, 0)
        return True
    if kind == "content_block_start":
        block = event.get("content_block")
        if isinstance(block, dict):
            _block(block, event.get("index"), said)
        return True
    if kind == "content_block_delta":
        if isinstance(event.get("delta"), dict):
            _block(event["delta"], event.get("index"), said)
        return True
    if kind == "message_start":
        return True
    if kind in ("text-generation", "stream-end"):  # Cohere v1
        if kind == "text-generation":
            said.add("text", 0, event.get("text"))
        return True
    if kind.startswith(("content-", "tool-")):  # Cohere v2
        delta = event.get("delta")
        message = delta.get("message") if isinstance(delta, dict) else None
        if isinstance(message, dict):
            _choice({"message": message}, event.get("index", 0), said)
        return True
    return False


def _choice(choice: dict[str, Any], place: Any, said: Said) -> None:
    said.add("text", place, choice.get("text"))
    for key in ("delta", "message"):
        message = choice.get(key)
        if not isinstance(message, dict):
            continue
        for name, kind in (("content", "text"), ("reasoning_content", "reasoning"), ("refusal", "text")):
            value = message.get(name)
            if isinstance(value, str):
                said.add(kind, place, value)
            elif isinstance(value, list | dict):
                _blocks(value, place, said)
        for name in ("reasoning", "thinking", "tool_plan"):
            said.add("reasoning", place, message.get(name))
        calls = message.get("tool_calls")
        for number, call in enumerate(_dicts([calls] if isinstance(calls, dict) else calls)):
            _call(call, (place, call.get("index", number)), said)
        if isinstance(message.get("function_call"), dict):
            _call(message["function_call"], (place, "function"), said)


def _call(call: dict[str, Any], place: Any, said: Said) -> None:
    function = call.get("function") if isinstance(call.get("function"), dict) else call
    if isinstance(function, dict):
        said.add("call", (place, "name"), function.get("name"))
        arguments = function.get("arguments", function.get("parameters"))
        said.add("call", (place, "arguments"), arguments if isinstance(arguments, str) else _json(arguments))


def _blocks(value: Any, place: Any, said: Said, depth: int = 0) -> None:
    if isinstance(value, str):
        said.add("text", place, value)
    elif isinstance(value, dict) and depth < _DEPTH:
        if isinstance(value.get("parts"), list):
            _blocks(value["parts"], place, said, depth + 1)
        else:
            _block(value, place, said)
    elif isinstance(value, list):
        for number, block in enumerate(_dicts(value)):
            _block(block, (place, number), said)


def _block(block: dict[str, Any], place: Any, said: Said) -> None:
    """A content block or a piece of one, of Anthropic, Bedrock, Gemini, Mistral."""
    thought = block.get("thought") is True or block.get("type") == "thinking"
    said.add("reasoning" if thought else "text", place, block.get("text"))
    thinking = block.get("thinking")
    if isinstance(thinking, str):
        said.add("reasoning", place, thinking)
    elif isinstance(thinking, list):
        for part in _dicts(thinking):
            said.add("reasoning", place, part.get("text"))
    reasoning = block.get("reasoningContent")
    if isinstance(reasoning, dict):
        inner = reasoning.get("reasoningText", reasoning)
        said.add("reasoning", place, inner.get("text") if isinstance(inner, dict) else None)
    said.add("call", (place, "arguments"), block.get("partial_json"))
    for key in ("functionCall", "toolUse"):
        inner = block.get(key)
        if isinstance(inner, dict):
            said.add("call", (place, "name"), inner.get("name"))
            arguments = inner.get("args", inner.get("input"))
            said.add("call", (place, "arguments"), arguments if isinstance(arguments, str) else _json(arguments))
    if block.get("type") in ("tool_use", "server_tool_use"):
        said.add("call", (place, "name"), block.get("name"))
        said.add("call", (place, "arguments"), _json(block.get("input")))
    for key in ("executableCode", "executable_code"):
        code = block.get(key)
        if isinstance(code, dict):
            said.add("text", place, code.get("code"))


def _items(items: Any, add: Any, place: Any) -> None:
    """The output items of the Responses API."""
    for number, item in enumerate(_dicts(items)):
        kind = str(item.get("type"))
        if "call" in kind and not kind.endswith("_output"):
            add("call", (place, number, "name"), item.get("name"))
            arguments = item.get("arguments", item.get("input"))
            add("call", (place, number, "arguments"), arguments if isinstance(arguments, str) else _json(arguments))
            continue
        for key in ("content", "summary"):
            for index, part in enumerate(_dicts(item.get(key))):
                reasoning = kind == "reasoning"
                text = part.get("text") or part.get("refusal")
                add("reasoning" if reasoning else "text", (place, number, key, index), text)


def _json(value: Any) -> str | None:
    """Arguments as a model writes them; an empty object at the start of a streamed call is none yet."""
    return json.dumps(value, ensure_ascii=False) if value else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
