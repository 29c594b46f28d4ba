"""Ollama's own dialect, under /api: counts stand beside the answer, and a stream is one JSON object a line."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fluxen.providers.answer import UNREADABLE, Billing, Count, Part, Tally, Usage, bounded, recovered
from fluxen.providers.paths import Templates

_TEMPLATES: Final = (
    "/chat",
    "/generate",
    "/embed",
    "/embeddings",
    "/tags",
    "/show",
    "/ps",
    "/version",
    "/create",
    "/copy",
    "/delete",
    "/pull",
    "/push",
    "/blobs/{digest}",
)
_DOOR: Final = re.compile(r"/api/(chat|generate|embed)$")
_TOKENS: Final = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})
_INPUT_ONLY: Final = ("/api/embed", "/api/embeddings")


class _Object(msgspec.Struct, gc=False):
    """An answer, or a line of one. Only the last one counts."""

    model: str | None = None
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None


_OBJECT: Final = msgspec.json.Decoder(_Object)


class Ollama:
    """Chat, generate and embed under /api; its OpenAI-compatible door is under /v1."""

    name = "ollama"
    openers = (b"{",)
    landmarks = (b'"prompt_eval_count"', b'"eval_count"', b'"done_reason"', b'"model"')

    def __init__(self) -> None:
        self._paths = Templates("/api", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def door(self, path: str) -> str | None:
        found = _DOOR.search(path)
        return None if found is None else f"/api/{found[1]}"

    def model_in_path(self, path: str) -> str | None:  # noqa: ARG002 - the body names it
        return None

    def streams_by_path(self, path: str) -> bool:  # noqa: ARG002 - the body says it
        return False

    def error_body(self, status: int, code: str, message: str) -> bytes:  # noqa: ARG002 - it has no types of errors
        return msgspec.json.encode({"error": message, "code": code})

    def tells_input_first(self, _endpoint: str) -> bool:
        return False

    def billing(self, endpoint: str) -> Billing:
        return "tokens" if endpoint in _TOKENS else "other" if endpoint == "/api/{other}" else "free"

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, damaged = recovered(_OBJECT, data)
            if damaged and found is not None:  # one count of two is not the whole, and no second look tells more
                found.prompt_eval_count = None
        if found is None:
            return None
        counts = {"prompt_eval_count": found.prompt_eval_count, "eval_count": found.eval_count}
        told = {name: count for name, count in counts.items() if count is not None}
        return Part(bounded(found.model), bounded(found.done_reason), msgspec.json.encode(told) if told else None)

    def calls_in(self, _piece: bytes) -> dict[str, int] | None:
        return None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:
        """The prompt's count is left out where the prompt was still in the server's cache: then a side is missing."""
        try:
            found = _OBJECT.decode(usage)
        except UNREADABLE:
            return None
        output = 0 if endpoint in _INPUT_ONLY else found.eval_count
        whole = found.prompt_eval_count is not None and output is not None
        return Tally(Usage(input=found.prompt_eval_count or 0, output=output or 0), whole)
