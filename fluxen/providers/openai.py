"""OpenAI's dialect, and that of everybody who imitates it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import unquote

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
    "/chat/completions",
    "/chat/completions/{id}",
    "/chat/completions/{id}/messages",
    "/completions",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
    "/responses/{id}",
    "/responses/{id}/cancel",
    "/responses/{id}/input_items",
    "/conversations",
    "/conversations/{id}",
    "/conversations/{id}/items",
    "/conversations/{id}/items/{id}",
    "/embeddings",
    "/models",
    "/models/{model}",
    "/models/{vendor}/{model}",
    "/moderations",
    "/files",
    "/files/{id}",
    "/files/{id}/content",
    "/uploads",
    "/uploads/{id}/parts",
    "/uploads/{id}/complete",
    "/uploads/{id}/cancel",
    "/batches",
    "/batches/{id}",
    "/batches/{id}/cancel",
    "/images/generations",
    "/images/edits",
    "/images/variations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/videos",
    "/videos/{id}",
    "/videos/{id}/content",
    "/videos/{id}/remix",
    "/realtime",
    "/realtime/client_secrets",
    "/realtime/sessions",
    "/vector_stores",
    "/vector_stores/{id}",
    "/vector_stores/{id}/files",
    "/vector_stores/{id}/files/{id}",
    "/vector_stores/{id}/search",
    "/fine_tuning/jobs",
    "/fine_tuning/jobs/{id}",
    "/fine_tuning/jobs/{id}/cancel",
    "/fine_tuning/jobs/{id}/events",
    "/rerank",
    "/chat",  # Writer
    "/fim/completions",  # Mistral, as the next two
    "/agents/completions",
    "/ocr",
)

# The same under addresses of somebody's own: Gemini's and Vertex AI's door, Azure's deployments, gateways.
_DOOR: Final = re.compile(
    r"(/v1beta/openai|/endpoints/openapi)?/(chat/completions|completions|responses(?:/compact|/input_tokens)?|embeddings"
    r"|moderations|images/(?:generations|edits|variations)|audio/(?:speech|transcriptions|translations))$"
)
_VERTEX: Final = re.compile(r"/publishers/(?!google/|anthropic/)[^/]+/models/([^/:]+):(?:stream)?[rR]awPredict$")
_DEPLOYMENT: Final = re.compile(r"(?:^|/openai)/deployments/([^/]+)/")

# Google's OpenAI-compatible doors: their counts have a rule of their own.
GEMINI_CHAT: Final = "/v1beta/openai/chat/completions"
GEMINI_EMBEDDINGS: Final = "/v1beta/openai/embeddings"
_GOOGLES: Final = {"chat/completions": GEMINI_CHAT, "embeddings": GEMINI_EMBEDDINGS}
STREAM_OPTIONS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Endpoints whose streams tell their usage only when asked: `"stream_options":{"include_usage":true}`."""

_RERANK: Final = "/v1/rerank"
_INPUT_ONLY: Final = ("/v1/embeddings", GEMINI_EMBEDDINGS, _RERANK)
_TOKENS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat",
        "/v1/completions",
        "/v1/fim/completions",
        "/v1/agents/completions",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/embeddings",
        GEMINI_CHAT,
        GEMINI_EMBEDDINGS,
    }
)
# Costs money, by tokens only for some models; an address we don't know may.
_OTHER: Final = frozenset(
    {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/videos",
        "/v1/videos/{id}/remix",
        "/v1/ocr",
        _RERANK,
        "/v1/{other}",
    }
)
_STATED: Final = ("/v1/conversations", "/v1/conversations/{id}")  # OpenAI's are free, Mistral's generate

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Action(msgspec.Struct, gc=False):
    type: str | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    action: msgspec.Raw = msgspec.Raw()


class _Searches(msgspec.Struct, gc=False):
    num_requests: Count | None = None


class _ToolUsage(msgspec.Struct, gc=False):
    web_search: _Searches | None = None


class _Response(msgspec.Struct, gc=False):
    model: str | None = None
    status: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None
    output: list[_Item] | None = None
    tool_usage: _ToolUsage | None = None


class _Groq(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw()


class _Object(_Response, gc=False):
    """A chat completion or its chunk, a completion, an embedding, a response, or an event that carries one."""

    choices: list[_Choice] | None = None
    response: _Response | None = None
    x_groq: _Groq | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    video_tokens: Count | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: Count | None = None  # OpenRouter
    web_search_calls: Count | None = None  # xAI, as the others
    x_search_calls: Count | None = None
    code_interpreter_calls: Count | None = None
    file_search_calls: Count | None = None
    document_search_calls: Count | None = None


class _Usage(msgspec.Struct, gc=False):
    """OpenAI's two usage objects, and the fields in which its imitators say the same."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    num_cached_tokens: Count | None = None  # Mistral
    cached_tokens: Count | None = None  # Together
    prompt_cache_hit_tokens: Count | None = None  # DeepSeek
    prompt_token_details: _InputDetails | None = None  # Writer
    completion_token_details: _OutputDetails | None = None
    input_token_details: _InputDetails | None = None  # transcriptions
    reasoning_tokens: Count | None = None  # Perplexity: beside the completion; what its citations cost in input
    citation_tokens: Count | None = None
    num_search_queries: Count | None = None
    server_tool_use_details: _ServerTools | None = None
    server_side_tool_usage_details: _ServerTools | None = None
    billed_calls: dict[str, Count] | None = None  # ours, see answer.with_calls
    cost: msgspec.Raw = msgspec.Raw()  # OpenRouter: dollars; Perplexity: an object with total_cost
    cost_in_usd_ticks: Count | None = None  # xAI


class _Cost(msgspec.Struct, gc=False):
    total_cost: msgspec.Raw = msgspec.Raw()


_OBJECT: Final = msgspec.json.Decoder(_Object)
_USAGE: Final = msgspec.json.Decoder(_Usage)
_COST: Final = msgspec.json.Decoder(_Cost)
_ACTION: Final = msgspec.json.Decoder(_Action)
_RUNNING: Final = ("queued", "in_progress")
_PICO_PER_TICK: Final = 100  # https://docs.x.ai/developers/cost-tracking: 10^10 ticks are a dollar
_CALLS: Final = {  # items of a response's output that are billed by the call
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}
_NO_INPUT: Final = _InputDetails()
_NO_OUTPUT: Final = _OutputDetails()
_NO_TOOLS: Final = _ServerTools()


_ITEM: Final = re.compile(rb'"type": ?"(%b)"' % "|".join(_CALLS).encode())


class OpenAI:
    """Chat completions, responses, completions, embeddings and the rest under /v1."""

    name = "openai"
    openers = (b'{"response":{', b"{", b'{"choices":[{', b'{"x_groq":{')
    landmarks = (b'"usage"', b'"service_tier"', b'"finish_reason"', b'"status"', b'"model"')

    def __init__(self) -> None:
        self._paths = Templates("/v1", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def door(self, path: str) -> str | None:
        found = _DOOR.search(path)
        if found is None:
            return "/v1/chat/completions" if _VERTEX.search(path) else None
        return (_GOOGLES.get(found[2]) if found[1] else None) or f"/v1/{found[2]}"

    def model_in_path(self, path: str) -> str | None:
        """Azure's deployments, and Vertex AI's models of other publishers; elsewhere the body names it."""
        found = _DEPLOYMENT.search(path) or _VERTEX.search(path)
        return unquote(found[1]) if found is not None else None

    def streams_by_path(self, path: str) -> bool:
        return path.endswith(":streamRawPredict")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def tells_input_first(self, _endpoint: str) -> bool:
        return False

    def billing(self, endpoint: str) -> Billing:
        if endpoint in _TOKENS:
            return "tokens"
        return "other" if endpoint in _OTHER else "stated" if endpoint in _STATED else "free"

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, _ = recovered(_OBJECT, data)
        if found is None:
            return None
        inner = found if found.response is None else found.response
        usage = json_object(inner.usage)
        if usage is None and found.x_groq is not None:
            usage = json_object(found.x_groq.usage)
        finish = None if inner.status in _RUNNING else inner.status
        for choice in found.choices or ():
            finish = choice.finish_reason or finish
        calls = _calls(inner) if inner.output else None
        return Part(bounded(inner.model), bounded(finish), usage, False, bounded(inner.service_tier), calls)

    def calls_in(self, piece: bytes) -> dict[str, int] | None:
        """A quote inside of a string is escaped: nothing that a model wrote looks like an item."""
        calls: dict[str, int] = {}
        for found in _ITEM.finditer(piece):
            name = _CALLS[found[1].decode()]
            calls[name] = calls.get(name, 0) + 1
        return calls or None

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:
        """The input total includes cached and written tokens: both come off. Reasoning is inside output."""
        damaged = False
        try:
            u: _Usage | None = _USAGE.decode(usage)
        except UNREADABLE:
            u, damaged = recovered(_USAGE, usage)
        if u is None:
            return None
        before = u.prompt_tokens if u.prompt_tokens is not None else u.input_tokens
        after = u.completion_tokens if u.completion_tokens is not None else u.output_tokens
        whole = not damaged and before is not None
        if before is None and endpoint in _INPUT_ONLY and u.total_tokens is not None:
            before, whole = u.total_tokens, not damaged
        before = before or 0
        if after is None:
            whole = whole and u.total_tokens is not None
            after = max((u.total_tokens or 0) - before, 0)
        ins = (
            u.prompt_tokens_details
            or u.input_tokens_details
            or u.prompt_token_details
            or u.input_token_details
            or _NO_INPUT
        )
        outs = u.completion_tokens_details or u.output_tokens_details or u.completion_token_details or _NO_OUTPUT
        # A nested 0 doesn't overrule a number elsewhere: Mistral sends both.
        read = ins.cached_tokens or u.num_cached_tokens or u.cached_tokens or u.prompt_cache_hit_tokens or 0
        write = ins.cache_write_tokens or 0
        fresh = before - read - write
        if fresh < 0:  # OpenRouter counts Gemini's tokens both as written and as read, and charges both
            fresh = before - max(read, write)
        reasoning = outs.reasoning_tokens or 0
        if u.total_tokens is not None and u.total_tokens > before + after:
            apart = u.total_tokens - before - after
            # Gemini leaves its thoughts out of completion_tokens, not out of the total; so does xAI, which names them.
            if endpoint == GEMINI_CHAT or apart == reasoning:
                after += apart
                reasoning = max(reasoning, apart)
        if u.reasoning_tokens and not reasoning:
            reasoning = u.reasoning_tokens
            if u.num_search_queries is not None:  # Perplexity's are on top, and of a size that can't be inside
                after += reasoning
        fresh += u.citation_tokens or 0
        if fresh < 0:
            fresh, whole = 0, False
        if u.cost_in_usd_ticks is not None:
            stated: tuple[int | None, str | None] = u.cost_in_usd_ticks * _PICO_PER_TICK, "usage.cost_in_usd_ticks"
        else:
            stated = _stated(u.cost) if len(u.cost) else (None, None)
        tools = u.billed_calls or u.num_search_queries or u.server_tool_use_details or u.server_side_tool_usage_details
        usage_ = Usage(fresh, read, write, 0, after, reasoning, calls=_tools(u) if tools else None)
        image = outs.image_tokens
        if image is None and endpoint.startswith("/v1/images/"):
            image = after
        if ins.audio_tokens or ins.image_tokens or ins.video_tokens or outs.audio_tokens or image:
            usage_ = with_modalities(
                usage_,
                Modalities(
                    input_audio=ins.audio_tokens or 0,
                    input_image=ins.image_tokens or 0,
                    input_video=ins.video_tokens or 0,
                    output_audio=outs.audio_tokens or 0,
                    output_image=image or 0,
                ),
            )
        return Tally(usage_, whole, (), *stated)


def _calls(response: _Response) -> dict[str, int] | None:
    """What a response did that is billed by the call. A web search that opens a page is free."""
    calls: dict[str, int] = {}
    for item in response.output or ():
        name = _CALLS.get(item.type or "")
        if name is None or (name == "web_search" and _action(item.action) not in (None, "search")):
            continue
        calls[name] = calls.get(name, 0) + 1
    told = response.tool_usage.web_search if response.tool_usage is not None else None
    if told is not None and told.num_requests is not None:
        calls["web_search"] = told.num_requests
    return called(**calls)


def _action(raw: msgspec.Raw) -> str | None:
    try:
        return _ACTION.decode(raw).type if len(raw) else None
    except UNREADABLE:
        return None


def _tools(u: _Usage) -> Mapping[str, int] | None:
    """The calls that a usage object counts."""
    tools = u.server_tool_use_details or u.server_side_tool_usage_details or _NO_TOOLS
    return u.billed_calls or called(
        web_search=u.num_search_queries or tools.web_search_requests or tools.web_search_calls,
        x_search=tools.x_search_calls,
        file_search=tools.file_search_calls,
        document_search=tools.document_search_calls,
        code_interpreter=tools.code_interpreter_calls,
    )


def _stated(cost: msgspec.Raw) -> tuple[int | None, str | None]:
    """Dollars, as a number or an object that has a total, in whole pico-dollars; and which field said so."""
    source = "usage.cost"
    try:
        if json_object(cost) is not None:
            cost, source = _COST.decode(cost).total_cost, "usage.cost.total_cost"
        dollars = Decimal(bytes(cost).decode("ascii", "replace"))
    except (InvalidOperation, *UNREADABLE):
        return None, None
    return (round(dollars * 10**12), source) if 0 <= dollars < 10**6 else (None, None)
