"""Google's Gemini dialect: the model and the method are in the path, `/v1beta/models/{model}:generateContent`.

Vertex AI speaks it, too, below `/v1/projects/…/locations/…/publishers/google`; what its other publishers' models speak
is their own (`…/publishers/anthropic/models/{model}:rawPredict`).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import msgspec

from fluxen.providers.answer import (
    CALLS,
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

_VERSIONS: Final = ("v1", "v1alpha", "v1beta")
_METHODS: Final = frozenset(
    {
        "generateContent",
        "streamGenerateContent",
        "countTokens",
        "embedContent",
        "batchEmbedContents",
        "asyncBatchEmbedContent",
        "batchGenerateContent",
        "predict",
        "predictLongRunning",
        "generateAnswer",
        "transferOwnership",
    }
)
_KEY_REFUSED: Final = (b"API_KEY_INVALID", b"API key not valid")  # with 400, where others say 401
_FREE: Final = ("countTokens", "transferOwnership")
_COLLECTIONS: Final = ("models", "tunedModels")
_TEMPLATES: Final = (
    "/models",
    "/models/{model}",
    "/models/{model}/operations",
    "/models/{model}/operations/{id}",
    "/tunedModels",
    "/tunedModels/{model}",
    "/tunedModels/{model}/operations/{id}",
    "/files",
    "/files/{id}",
    "/cachedContents",
    "/cachedContents/{id}",
    "/batches",
    "/batches/{id}",
    "/operations/{id}",
    "/interactions",
    "/interactions/{id}",
    "/interactions/{id}/cancel",
    "/openai/models",
    "/openai/models/{model}",
)

_DOOR: Final = re.compile(r"/(?:models|tunedModels)/([^/:]+):([A-Za-z]+)$")
_VERTEX: Final = re.compile(r"/publishers/([a-z0-9-]+)/models/([^/:]+):([A-Za-z]+)$")

# google.rpc.Code names by HTTP status, https://cloud.google.com/apis/design/errors
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class _Chunk(msgspec.Struct, gc=False):
    maps: msgspec.Raw = msgspec.Raw()


class _Grounding(msgspec.Struct, gc=False, rename="camel"):
    web_search_queries: list[str] | None = None
    grounding_chunks: list[_Chunk] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    finish_reason: str | int | None = None
    grounding_metadata: _Grounding | None = None


class _Interaction(msgspec.Struct, gc=False):
    model: str | None = None
    status: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | int | None = None


class _Object(_Interaction, gc=False):
    """What generateContent answers or streams, an interaction, or an event that carries one."""

    candidates: list[_Candidate] | None = None
    usage_metadata: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="usageMetadata")
    model_version: str | None = msgspec.field(default=None, name="modelVersion")
    feedback: _Feedback | None = msgspec.field(default=None, name="promptFeedback")
    interaction: _Interaction | None = None


class _Modality(msgspec.Struct, gc=False):
    modality: str | int | None = None
    tokens: Count | None = msgspec.field(default=None, name="tokenCount")


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    prompt_tokens_details: list[_Modality] | None = None
    prompt_token_details: list[_Modality] | None = None  # embedContent's spelling
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None
    service_tier: str | None = None
    traffic_type: str | int | None = None  # Vertex AI's word for it
    billed_calls: dict[str, Count] | None = msgspec.field(default=None, name=CALLS)


class _InteractionUsage(msgspec.Struct, gc=False):
    total_input_tokens: Count | None = None
    total_output_tokens: Count | None = None
    total_cached_tokens: Count | None = None
    total_thought_tokens: Count | None = None
    total_tool_use_tokens: Count | None = None


_OBJECT: Final = msgspec.json.Decoder(_Object)
_USAGE: Final = msgspec.json.Decoder(_Usage)
_INTERACTION_USAGE: Final = msgspec.json.Decoder(_InteractionUsage)
_TRAFFIC: Final = {1: "ON_DEMAND", 2: "PROVISIONED_THROUGHPUT"}
_KINDS: Final = {"AUDIO": 0, "IMAGE": 1, "VIDEO": 2, 4: 0, 2: 1, 3: 2}  # some answers carry the enum's number
_GENERATES: Final = ("generateContent", "streamGenerateContent", "generateAnswer")
_EMBEDS: Final = ("embedContent", "batchEmbedContents")


class Gemini:
    """Under /v1 and /v1beta; a path without a version is taken for /v1beta, as the SDKs default to it."""

    name = "gemini"
    openers = (b"{", b'{"candidates":[{', b'{"interaction":{')
    landmarks = (b'"usageMetadata"', b'"finishReason"', b'"modelVersion"', b'"usage"', b'"status"', b'"model"')

    def __init__(self) -> None:
        self._paths = {version: Templates(f"/{version}", _TEMPLATES) for version in _VERSIONS}
        self._methods = {
            f"{before}/{collection}": {
                method: f"{version}/{collection}/{{model}}:{method}" for method in (*_METHODS, "{method}")
            }
            for collection in _COLLECTIONS
            for before, version in (("", "/v1beta"), *((f"/{v}", f"/{v}") for v in _VERSIONS))
        }

    def endpoint(self, path: str) -> str:
        before, colon, method = path.rpartition(":")
        if colon:
            parent, _, model = before.rpartition("/")
            templates = self._methods.get(parent)
            if templates is not None and model:
                return templates.get(method) or templates["{method}"]
            if (found := self.door(path)) is not None:
                return found
        path = path.removeprefix("/upload")
        version = path[1:].partition("/")[0]
        templates_of = self._paths.get(version)
        return (templates_of or self._paths["v1beta"]).find(path)

    def door(self, path: str) -> str | None:
        """Also where Vertex AI has it. A method that is not Google's own is another publisher's business."""
        if (found := _VERTEX.search(path)) is not None:
            method = found[3] if found[3] in _METHODS else "{method}"
            return f"/v1/publishers/{{publisher}}/models/{{model}}:{method}" if found[1] == "google" else None
        found = _DOOR.search(path)
        return None if found is None or found[2] not in _METHODS else f"/v1beta/models/{{model}}:{found[2]}"

    def model_in_path(self, path: str) -> str | None:
        before, colon, _ = path.rpartition(":")
        parent, _, model = (before if colon else path).rpartition("/")
        if parent not in self._methods or not model:
            found = _DOOR.search(path)
            return None if found is None else unquote(found[1])
        return unquote(model)

    def streams_by_path(self, path: str) -> bool:
        return path.endswith(":streamGenerateContent")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        name = _STATUS.get(status) or ("INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper(), "domain": "fluxen"}]
        return msgspec.json.encode({"error": {"code": status, "message": message, "status": name, "details": details}})

    def tells_input_first(self, endpoint: str) -> bool:
        return endpoint.rpartition(":")[2] in _GENERATES

    def billing(self, endpoint: str) -> Billing:
        _, colon, method = endpoint.rpartition(":")
        if colon:
            return "tokens" if method in _GENERATES or method in _EMBEDS else "free" if method in _FREE else "other"
        if endpoint.endswith("/interactions"):
            return "tokens"
        return "other" if endpoint.endswith("/{other}") else "free"

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, _ = recovered(_OBJECT, data)
        if found is None:
            return None
        usage = json_object(found.usage_metadata)
        if usage is not None or found.candidates is not None or found.model_version is not None:
            finish: str | None = None
            calls: dict[str, int] | None = None
            for candidate in found.candidates or ():
                finish = str(candidate.finish_reason) if candidate.finish_reason else finish
                if candidate.grounding_metadata is not None:
                    calls = _grounded(candidate.grounding_metadata, found.model_version or "") or calls
            if found.feedback is not None and found.feedback.block_reason:
                finish = finish or str(found.feedback.block_reason)
                if usage is not None and b'"promptTokenCount"' not in usage:
                    usage = b'{"promptTokenCount":0,' + usage[1:]  # blocked before any model saw it
            return Part(bounded(found.model_version), bounded(finish), usage, calls=calls)
        inner = found.interaction if found.interaction is not None else found
        finish = None if inner.status == "in_progress" else inner.status
        return Part(bounded(inner.model), bounded(finish), json_object(inner.usage), tier=bounded(inner.service_tier))

    def calls_in(self, _piece: bytes) -> dict[str, int] | None:
        return None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:
        """The prompt count includes cached tokens but no tool-use prompts; thoughts come on top of candidates."""
        if endpoint.endswith("/interactions"):
            return _interaction(usage)
        damaged = False
        try:
            u: _Usage | None = _USAGE.decode(usage)
        except UNREADABLE:
            u, damaged = recovered(_USAGE, usage)
        if u is None:
            return None
        whole = not damaged and u.prompt_token_count is not None  # a blocked answer has no candidates: a true zero
        read, thoughts = u.cached_content_token_count or 0, u.thoughts_token_count or 0
        fresh = (u.prompt_token_count or 0) - read
        if fresh < 0:
            fresh, whole = 0, False
        fresh += u.tool_use_prompt_token_count or 0
        found = Usage(fresh, read, 0, 0, (u.candidates_token_count or 0) + thoughts, thoughts)
        details = u.prompt_tokens_details or u.prompt_token_details
        if details or u.cache_tokens_details or u.candidates_tokens_details:
            found = with_modalities(
                found,
                Modalities(
                    *_by_kind(details), *_by_kind(u.cache_tokens_details), *_by_kind(u.candidates_tokens_details)
                ),
            )
        if u.billed_calls:
            found = msgspec.structs.replace(found, calls=u.billed_calls)
        traffic = _TRAFFIC.get(u.traffic_type) if isinstance(u.traffic_type, int) else u.traffic_type
        return Tally(found, whole, tier=bounded(u.service_tier or traffic))


def refuses_key(body: bytes) -> bool:
    """Whether an answer with status 400 says that the API key is wrong."""
    return any(word in body for word in _KEY_REFUSED)


def _grounded(grounding: _Grounding, model: str) -> dict[str, int] | None:
    """Searches that are billed: up to Gemini 2.5 the grounded request, since Gemini 3 each query that says something.

    https://ai.google.dev/gemini-api/docs/pricing, "Grounding with Google Search".
    """
    queries = sum(map(bool, grounding.web_search_queries or ()))
    maps = any(len(chunk.maps) for chunk in grounding.grounding_chunks or ())
    if queries > 1 and model.startswith(("gemini-1", "gemini-2")):
        queries = 1
    return called(web_search=queries, maps_search=int(maps))


def _by_kind(details: list[_Modality] | None) -> tuple[int, int, int]:
    counts = [0, 0, 0]
    for item in details or ():
        kind = _KINDS.get(item.modality) if item.modality is not None else None
        if kind is not None:
            counts[kind] += item.tokens or 0
    return counts[0], counts[1], counts[2]


def _interaction(usage: bytes) -> Tally | None:
    damaged = False
    try:
        u: _InteractionUsage | None = _INTERACTION_USAGE.decode(usage)
    except UNREADABLE:
        u, damaged = recovered(_INTERACTION_USAGE, usage)
    if u is None:
        return None
    read, thoughts = u.total_cached_tokens or 0, u.total_thought_tokens or 0
    fresh = (u.total_input_tokens or 0) - read
    whole = not damaged and fresh >= 0 and u.total_input_tokens is not None and u.total_output_tokens is not None
    fresh = max(fresh, 0) + (u.total_tool_use_tokens or 0)
    return Tally(Usage(fresh, read, 0, 0, (u.total_output_tokens or 0) + thoughts, thoughts), whole)
