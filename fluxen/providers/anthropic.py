"""Anthropic's dialect."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import msgspec

from fluxen.providers.answer import (
    UNREADABLE,
    Billing,
    Count,
    Leg,
    Part,
    Tally,
    Usage,
    bounded,
    called,
    json_object,
    recovered,
    total,
)
from fluxen.providers.paths import Templates

_TEMPLATES: Final = (
    "/messages",
    "/messages/count_tokens",
    "/messages/batches",
    "/messages/batches/{id}",
    "/messages/batches/{id}/cancel",
    "/messages/batches/{id}/results",
    "/complete",
    "/models",
    "/models/{model}",
    "/files",
    "/files/{id}",
    "/files/{id}/content",
    "/skills",
    "/skills/{id}",
    "/skills/{id}/versions",
    "/skills/{id}/versions/{id}",
)
# Its protocol at addresses of somebody's own; on Vertex AI the model is in the path and not in the body.
_DOOR: Final = re.compile(r"(?:^|/v1|/anthropic)(/messages(?:/count_tokens|/batches(?:/[^/]+(?:/[a-z]+)?)?)?)$")
_VERTEX: Final = re.compile(r"/publishers/anthropic/models/([^/:]+):(?:stream)?[rR]awPredict$")

# https://docs.anthropic.com/en/api/errors
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Delta(msgspec.Struct, gc=False):
    stop_reason: str | None = None


class _Object(msgspec.Struct, gc=False):
    """A message or legacy completion, or a stream's message_start (`message`) or message_delta (`delta`)."""

    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    message: _Message | None = None
    delta: _Delta | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: Count | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: Count | None = None


class _Iteration(msgspec.Struct, gc=False):
    type: str | None = None
    model: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: Count | None = None
    web_fetch_requests: Count | None = None


class _Usage(_Iteration, gc=False):
    iterations: list[_Iteration] | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None  # "fast" has a price of its own
    inference_geo: str | None = None  # so has "us"


_OBJECT: Final = msgspec.json.Decoder(_Object)
_USAGE: Final = msgspec.json.Decoder(_Usage)
_BILLING: Final[dict[str, Billing]] = {
    "/v1/messages": "tokens",
    "/v1/complete": "tokens",
    "/v1/messages/batches/{id}/results": "other",
    "/v1/{other}": "other",
}


class Anthropic:
    """Messages and what belongs to it under /v1."""

    name = "anthropic"
    openers = (b"{", b'{"message":{', b'{"delta":{')
    landmarks = (b'"usage"', b'"stop_reason"', b'"model"')

    def __init__(self) -> None:
        self._paths = Templates("/v1", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def door(self, path: str) -> str | None:
        if (found := _VERTEX.search(path)) is not None:
            return "/v1/messages/count_tokens" if found[1] == "count-tokens" else "/v1/messages"
        found = _DOOR.search(path)
        return self._paths.find("/v1" + found[1]) if found is not None else None

    def model_in_path(self, path: str) -> str | None:
        found = _VERTEX.search(path)
        return None if found is None or found[1] == "count-tokens" else unquote(found[1])

    def streams_by_path(self, path: str) -> bool:
        return path.endswith(":streamRawPredict")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message, "code": code}})

    def tells_input_first(self, endpoint: str) -> bool:
        return endpoint == "/v1/messages"

    def billing(self, endpoint: str) -> Billing:
        return _BILLING.get(endpoint, "free")

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, _ = recovered(_OBJECT, data)
        if found is None:
            return None
        if found.message is not None:
            return Part(bounded(found.message.model), None, json_object(found.message.usage), opening=True)
        finish = found.stop_reason or (found.delta.stop_reason if found.delta is not None else None)
        return Part(bounded(found.model), bounded(finish), json_object(found.usage))

    def calls_in(self, _piece: bytes) -> dict[str, int] | None:
        return None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:  # noqa: ARG002 - one rule for all
        """`input_tokens` leaves out what came from the cache and what went into it.

        Neither does the top level include the legs that context compaction and advisor models ran: they are billed
        on top, an advisor at its own model's price.
        """
        damaged = False
        try:
            u: _Usage | None = _USAGE.decode(usage)
        except UNREADABLE:
            u, damaged = recovered(_USAGE, usage)
        if u is None:
            return None
        whole = not damaged and u.input_tokens is not None and u.output_tokens is not None
        main = _classes(u)
        if u.server_tool_use is not None:
            tools = u.server_tool_use
            calls = called(web_search=tools.web_search_requests, web_fetch=tools.web_fetch_requests)
            main = msgspec.structs.replace(main, calls=calls) if calls else main
        tier = _tier(u)
        extra = [i for i in u.iterations if i.type not in (None, "message")] if u.iterations else None
        if not extra:
            return Tally(main, whole, tier=tier)
        legs = (Leg(None, main), *(Leg(bounded(i.model), _classes(i)) for i in extra))
        return Tally(total(leg.usage for leg in legs), whole, legs, tier=tier)


def _tier(u: _Usage) -> str | None:
    """How it was served, as far as that decides the price."""
    word = u.speed if u.speed == "fast" else bounded(u.service_tier)
    if u.inference_geo != "us":
        return word
    return "us" if word in (None, "standard") else f"{word}_us"


def _classes(u: _Iteration) -> Usage:
    write = u.cache_creation_input_tokens or 0
    hour = (u.cache_creation.ephemeral_1h_input_tokens if u.cache_creation is not None else 0) or 0
    if write:
        hour = min(hour, write)
    return Usage(
        u.input_tokens or 0,
        u.cache_read_input_tokens or 0,
        max(write - hour, 0),
        hour,
        u.output_tokens or 0,
        (u.output_tokens_details.thinking_tokens if u.output_tokens_details is not None else 0) or 0,
    )
