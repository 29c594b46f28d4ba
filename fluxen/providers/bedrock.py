"""Amazon Bedrock's dialect: the model is in the path, `/model/{model}/converse`.

Converse has one usage object for all models. What `invoke` answers is the model's own: Anthropic's, Nova's, Titan's,
Llama's, OpenAI's; where such a body counts nothing, headers of the answer do (`COUNTS`). A stream is Amazon's binary
event stream; an invoked model's events are base64 inside of it, and the last one carries metrics of Bedrock's own.
"""

from __future__ import annotations

import binascii
import re
from typing import Final
from urllib.parse import unquote

import msgspec

from fluxen.providers.answer import (
    UNREADABLE,
    Billing,
    Count,
    Part,
    Tally,
    Usage,
    bounded,
    called,
    json_object,
    recovered,
)
from fluxen.providers.paths import Templates

COUNTS: Final = {
    b"x-amzn-bedrock-input-token-count": b"inputTokens",
    b"x-amzn-bedrock-output-token-count": b"outputTokens",
    b"x-amzn-bedrock-cache-read-input-token-count": b"cacheReadInputTokens",
    b"x-amzn-bedrock-cache-write-input-token-count": b"cacheWriteInputTokens",
}
"""Headers of an answer, and what Converse calls the same in its usage object."""

_TEMPLATES: Final = (
    "/model/{model}/converse",
    "/model/{model}/converse-stream",
    "/model/{model}/invoke",
    "/model/{model}/invoke-with-response-stream",
    "/model/{model}/invoke-with-bidirectional-stream",
    "/model/{model}/count-tokens",
    "/async-invoke",
    "/async-invoke/{id}",
    "/guardrail/{id}/version/{version}/apply",
    "/foundation-models",
    "/foundation-models/{model}",
    "/inference-profiles",
    "/inference-profiles/{id}",
)
_DOOR: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|invoke-with-response-stream|count-tokens)$")
_TOKENS: Final = frozenset(template for template in _TEMPLATES[:4])
_OTHER: Final = frozenset({*_TEMPLATES[4:5], "/async-invoke", "/guardrail/{id}/version/{version}/apply", "/{other}"})
# https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
_TYPES: Final = {
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}


class _Result(msgspec.Struct, gc=False):
    tokenCount: Count | None = None
    completionReason: str | None = None


class _Inner(msgspec.Struct, gc=False):
    """What holds a usage object or a reason to stop: a message that starts, a delta, a stop, the metadata."""

    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    stop_reason: str | None = None
    stopReason: str | None = None
    finish_reason: str | None = None


class _Tier(msgspec.Struct, gc=False):
    type: str | None = None


class _Object(_Inner, gc=False):
    """A Converse answer or its event; what a model answered to `invoke`; an event of that, perhaps still in base64."""

    encoded: str | None = msgspec.field(default=None, name="bytes")
    message: msgspec.Raw = msgspec.Raw()
    delta: msgspec.Raw = msgspec.Raw()
    messageStop: _Inner | None = None
    metadata: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    outputs: msgspec.Raw = msgspec.Raw()
    generations: msgspec.Raw = msgspec.Raw()
    results: list[_Result] | None = None
    completionReason: str | None = None
    serviceTier: _Tier | None = None
    inputTextTokenCount: Count | None = None
    totalOutputTextTokenCount: Count | None = None
    prompt_token_count: Count | None = None
    generation_token_count: Count | None = None
    embedding: msgspec.Raw = msgspec.Raw()
    embeddings: msgspec.Raw = msgspec.Raw()
    guardrail: str | None = msgspec.field(default=None, name="amazon-bedrock-guardrailAction")
    metrics: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="amazon-bedrock-invocationMetrics")


class _Written(msgspec.Struct, gc=False):
    inputTokens: Count | None = None
    ttl: str | None = None


class _Creation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: Count | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    thinking_tokens: Count | None = None


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: Count | None = None


class _Usage(msgspec.Struct, gc=False):
    """The spellings of Converse and Nova, of the metrics, of Titan, Llama, Anthropic, and of OpenAI."""

    inputTokens: Count | None = None
    outputTokens: Count | None = None
    cacheReadInputTokens: Count | None = None
    cacheWriteInputTokens: Count | None = None
    cacheReadInputTokenCount: Count | None = None
    cacheWriteInputTokenCount: Count | None = None
    cacheDetails: list[_Written] | None = None
    inputTokenCount: Count | None = None
    outputTokenCount: Count | None = None
    inputTextTokenCount: Count | None = None
    totalOutputTextTokenCount: Count | None = None
    prompt_token_count: Count | None = None
    generation_token_count: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _Creation | None = None
    output_tokens_details: _Details | None = None
    server_tool_use: _ServerTools | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


_OBJECT: Final = msgspec.json.Decoder(_Object)
_INNER: Final = msgspec.json.Decoder(_Inner)
_FIRST: Final = msgspec.json.Decoder(list[_Inner])
_USAGE: Final = msgspec.json.Decoder(_Usage)


class Bedrock:
    """The runtime's API. It has no version segment."""

    name = "bedrock"
    openers = (b"{", b'{"delta":{', b'{"message":{', b'{"metadata":{', b'{"messageStop":{')
    landmarks = (
        b'"usage"', b'"amazon-bedrock-invocationMetrics"', b'"inputTextTokenCount"', b'"prompt_token_count"',
        b'"stopReason"', b'"stop_reason"', b'"completionReason"', b'"model"',
    )  # fmt: skip

    def __init__(self) -> None:
        self._paths = Templates("", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def door(self, path: str) -> str | None:
        found = _DOOR.search(path)
        return None if found is None else f"/model/{{model}}/{found[2]}"

    def model_in_path(self, path: str) -> str | None:
        found = _DOOR.search(path)
        return None if found is None else unquote(found[1])

    def streams_by_path(self, path: str) -> bool:
        return path.endswith(("/converse-stream", "/invoke-with-response-stream"))

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _TYPES.get(status) or ("InternalServerException" if status >= 500 else "ValidationException")
        return msgspec.json.encode({"__type": kind, "message": message, "code": code})

    def tells_input_first(self, _endpoint: str) -> bool:
        return False

    def billing(self, endpoint: str) -> Billing:
        return "tokens" if endpoint in _TOKENS else "other" if endpoint in _OTHER else "free"

    def part(self, data: bytes) -> Part | None:
        found = _decoded(data)
        if found is not None and found.encoded is not None:
            try:
                found = _decoded(binascii.a2b_base64(found.encoded))
            except ValueError:
                return None
        if found is None:
            return None
        tier = bounded(found.serviceTier.type) if found.serviceTier is not None else None
        message = _inner(found.message)
        if message is not None and json_object(message.usage) is not None:  # Anthropic's message_start
            return Part(bounded(message.model), None, json_object(message.usage), opening=True)
        others = (_inner(found.delta), found.messageStop, _inner(found.metadata), _first(found.choices))
        finish = found.stop_reason or found.stopReason or found.finish_reason or found.completionReason
        usage = json_object(found.usage)
        for other in (*others, _first(found.outputs), _first(found.generations)):
            if other is not None:
                finish = finish or other.stop_reason or other.stopReason or other.finish_reason
                usage = usage or json_object(other.usage)
        for result in found.results or ():
            finish = finish or result.completionReason
        if found.guardrail == "INTERVENED":
            finish = finish or "guardrail_intervened"  # Converse's word for it
        usage = usage or _beside(found)
        if usage is not None:
            return Part(bounded(found.model), bounded(finish), usage, tier=tier)
        metrics = json_object(found.metrics)
        return Part(bounded(found.model), bounded(finish), metrics, tier=tier, spare=metrics is not None)

    def calls_in(self, _piece: bytes) -> dict[str, int] | None:
        return None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:  # noqa: ARG002 - told by its spelling
        """Input leaves out what was cached, except in OpenAI's spelling."""
        damaged = False
        try:
            u: _Usage | None = _USAGE.decode(usage)
        except UNREADABLE:
            u, damaged = recovered(_USAGE, usage)
        if u is None:
            return None
        read = _either(u.cacheReadInputTokens, u.cacheReadInputTokenCount, u.cache_read_input_tokens) or 0
        write = _either(u.cacheWriteInputTokens, u.cacheWriteInputTokenCount, u.cache_creation_input_tokens) or 0
        hour = sum(w.inputTokens or 0 for w in u.cacheDetails or () if w.ttl == "1h")
        if u.cache_creation is not None:
            hour = hour or u.cache_creation.ephemeral_1h_input_tokens or 0
        before = _either(u.inputTokens, u.inputTokenCount, u.inputTextTokenCount, u.prompt_token_count, u.input_tokens)
        after = _either(
            u.totalOutputTextTokenCount, u.generation_token_count, u.outputTokens, u.outputTokenCount, u.output_tokens
        )
        if before is None and u.prompt_tokens is not None:
            before, after = u.prompt_tokens, _either(after, u.completion_tokens)
            read = (u.prompt_tokens_details.cached_tokens if u.prompt_tokens_details is not None else 0) or 0
            before = max(before - read, 0)
        if before is None and not after and not read:
            return None  # nothing was counted
        details = u.output_tokens_details or u.completion_tokens_details
        reasoning = (details.reasoning_tokens or details.thinking_tokens or 0) if details is not None else 0
        hour = min(hour, write) if write else hour
        tools = u.server_tool_use
        calls = called(web_search=tools.web_search_requests) if tools is not None else None
        found = Usage(before or 0, read, max(write - hour, 0), hour, after or 0, reasoning, calls=calls)
        return Tally(found, not damaged and before is not None and after is not None)


def _decoded(data: bytes) -> _Object | None:
    try:
        return _OBJECT.decode(data)
    except UNREADABLE:
        return recovered(_OBJECT, data)[0]


def _inner(raw: msgspec.Raw) -> _Inner | None:
    if json_object(raw) is None:
        return None
    try:
        return _INNER.decode(raw)
    except UNREADABLE:
        return None


def _first(raw: msgspec.Raw) -> _Inner | None:
    if not len(raw):
        return None
    try:
        listed = _FIRST.decode(raw)
    except UNREADABLE:
        return None
    return listed[0] if listed else None


def _beside(found: _Object) -> bytes | None:
    """Counts that stand beside the answer and not in a usage object, as one. An embedding has no output to count."""
    output = found.totalOutputTextTokenCount
    for result in found.results or ():
        if result.tokenCount is not None:
            output = (output or 0) + result.tokenCount
    counts = {
        "inputTextTokenCount": found.inputTextTokenCount,
        "totalOutputTextTokenCount": output,
        "prompt_token_count": found.prompt_token_count,
        "generation_token_count": found.generation_token_count,
        "outputTokens": 0 if len(found.embedding) or len(found.embeddings) else None,
    }
    told = {name: count for name, count in counts.items() if count is not None}
    if not told:
        return None
    usage = msgspec.json.encode(told)
    metrics = json_object(found.metrics)
    if metrics is not None and found.inputTextTokenCount is None and found.prompt_token_count is None:
        return b"%b,%b" % (usage[:-1], metrics[1:])  # the input was told with the first piece of a stream
    return usage


def _either(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)
