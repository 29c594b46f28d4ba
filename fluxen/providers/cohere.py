"""Cohere's own dialect: v1 and v2 of chat, generate, embed, rerank and classify.

Billed are `billed_units`: fewer tokens than the model saw (`tokens`), because what Cohere puts around a prompt is free.
A v1 stream is one JSON object a line, its last one holds the whole answer; a v2 stream is server-sent events.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fluxen.providers.answer import (
    UNREADABLE,
    Billing,
    Count,
    Modalities,
    Part,
    Tally,
    Usage,
    bounded,
    called,
    json_object,
    recovered,
    with_modalities,
)
from fluxen.providers.paths import Templates

_TEMPLATES: Final = (
    "/chat",
    "/generate",
    "/embed",
    "/embed-jobs",
    "/embed-jobs/{id}",
    "/embed-jobs/{id}/cancel",
    "/rerank",
    "/classify",
    "/summarize",
    "/tokenize",
    "/detokenize",
    "/models",
    "/models/{model}",
    "/check-api-key",
    "/datasets",
    "/datasets/{id}",
    "/connectors",
    "/connectors/{id}",
    "/audio/transcriptions",
)
_DOOR: Final = re.compile(r"/v2/(chat|embed|rerank)$")
_TOKENS: Final = ("chat", "generate", "embed", "summarize")
_OTHER: Final = ("rerank", "classify", "embed-jobs", "transcriptions", "{other}")


class _Generation(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    finish_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()  # v2
    meta: msgspec.Raw = msgspec.Raw()  # v1, and what both say beside embeddings and ranks


class _Object(_Response, gc=False):
    """An answer, or an event that carries one: `response` ends a v1 stream, `delta` a v2 stream."""

    response: _Response | None = None
    delta: _Response | None = None
    generations: list[_Generation] | None = None


class _Units(msgspec.Struct, gc=False):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    image_tokens: Count | None = None
    images: Count | None = None
    search_units: Count | None = None
    classifications: Count | None = None


class _Usage(msgspec.Struct, gc=False):
    billed_units: _Units | None = None
    tokens: _Units | None = None


_OBJECT: Final = msgspec.json.Decoder(_Object)
_USAGE: Final = msgspec.json.Decoder(_Usage)


class Cohere:
    """Under /v1 and /v2; its OpenAI-compatible door is under /compatibility/v1."""

    name = "cohere"
    openers = (b"{", b'{"response":{', b'{"delta":{')
    landmarks = (b'"usage"', b'"meta"', b'"finish_reason"')

    def __init__(self) -> None:
        self._paths = {version: Templates(f"/{version}", _TEMPLATES) for version in ("v1", "v2")}

    def endpoint(self, path: str) -> str:
        return (self._paths.get(path[1:3]) or self._paths["v1"]).find(path)

    def door(self, path: str) -> str | None:
        found = _DOOR.search(path)
        return None if found is None else f"/v2/{found[1]}"

    def model_in_path(self, path: str) -> str | None:  # noqa: ARG002 - the body names it
        return None

    def streams_by_path(self, path: str) -> bool:  # noqa: ARG002 - the body says it
        return False

    def error_body(self, status: int, code: str, message: str) -> bytes:  # noqa: ARG002 - the status alone types it
        return msgspec.json.encode({"message": message, "code": code})

    def tells_input_first(self, _endpoint: str) -> bool:
        return False

    def billing(self, endpoint: str) -> Billing:
        what = endpoint.rpartition("/")[2]
        return "tokens" if what in _TOKENS else "other" if what in _OTHER else "free"

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, _ = recovered(_OBJECT, data)
        if found is None:
            return None
        inner = found.response or found.delta or found
        usage = json_object(inner.usage) or json_object(inner.meta)
        if usage is not None and b"billed_units" not in usage and b'"tokens"' not in usage:
            usage = None  # `meta` says which version answered, even where it counts nothing
        finish = inner.finish_reason or found.finish_reason
        for generation in found.generations or ():
            finish = finish or generation.finish_reason
        return Part(None, bounded(finish), usage)

    def calls_in(self, _piece: bytes) -> dict[str, int] | None:
        return None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:  # noqa: ARG002 - one rule for all
        """What is billed; a unit that is not named is not. A rerank is billed by search units, and by no token."""
        damaged = False
        try:
            u: _Usage | None = _USAGE.decode(usage)
        except UNREADABLE:
            u, damaged = recovered(_USAGE, usage)
        if u is None:
            return None
        units = u.billed_units or u.tokens
        if units is None:
            return Tally(Usage(), False)
        calls = called(search_unit=units.search_units, classification=units.classifications)
        image = units.image_tokens or 0
        found = Usage((units.input_tokens or 0) + image, output=units.output_tokens or 0, calls=calls)
        whole = calls is not None or image > 0 or (units.input_tokens, units.output_tokens) != (None, None)
        return Tally(with_modalities(found, Modalities(input_image=image)), whole and not damaged)
