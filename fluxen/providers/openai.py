"""OpenAI's dialect, and that of everybody who imitates it."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
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
    "/messages",  # several imitators serve Anthropic's protocol at the same address
    "/messages/count_tokens",
)

# Gemini's OpenAI-compatible door, as its dialect names the endpoints.
GEMINI_CHAT: Final = "/v1beta/openai/chat/completions"
GEMINI_EMBEDDINGS: Final = "/v1beta/openai/embeddings"

_EMBEDS: Final = ("/v1/embeddings", GEMINI_EMBEDDINGS)
_TOKENS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/embeddings",
        GEMINI_CHAT,
        GEMINI_EMBEDDINGS,
    }
)
# Costs money, but not by tokens that we read yet; an address we don't know may.
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
        "/v1/rerank",
        "/v1/{other}",
    }
)

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    model: str | None = None
    status: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Groq(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw()


class _Object(msgspec.Struct, gc=False):
    """A chat completion or its chunk, a completion, an embedding, a response, or an event that carries one."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    status: str | None = None
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
    cost: msgspec.Raw = msgspec.Raw()  # OpenRouter: dollars; Perplexity: an object with total_cost


class _Cost(msgspec.Struct, gc=False):
    total_cost: msgspec.Raw = msgspec.Raw()


_OBJECT: Final = msgspec.json.Decoder(_Object)
_USAGE: Final = msgspec.json.Decoder(_Usage)
_COST: Final = msgspec.json.Decoder(_Cost)
_RUNNING: Final = ("queued", "in_progress")
_NO_INPUT: Final = _InputDetails()
_NO_OUTPUT: Final = _OutputDetails()


class OpenAI:
    """Chat completions, responses, completions, embeddings and the rest under /v1."""

    name = "openai"
    openers = (b'{"response":{', b"{", b'{"choices":[{', b'{"x_groq":{')
    landmarks = (b'"usage"', b'"finish_reason"', b'"status"', b'"model"')

    def __init__(self) -> None:
        self._paths = Templates("/v1", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def model_in_path(self, path: str) -> str | None:  # noqa: ARG002 - the body names it
        return None

    def streams_by_path(self, path: str) -> bool:  # noqa: ARG002 - the body says it
        return False

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def tells_input_first(self, _endpoint: str) -> bool:
        return False

    def billing(self, endpoint: str) -> Billing:
        return "tokens" if endpoint in _TOKENS else "other" if endpoint in _OTHER else "free"

    def part(self, data: bytes) -> Part | None:
        try:
            found: _Object | None = _OBJECT.decode(data)
        except UNREADABLE:
            found, _ = recovered(_OBJECT, data)
        if found is None:
            return None
        status, model, raw = found.status, found.model, found.usage
        if found.response is not None:
            status, model, raw = found.response.status, found.response.model, found.response.usage
        usage = json_object(raw)
        if usage is None and found.x_groq is not None:
            usage = json_object(found.x_groq.usage)
        finish = None if status in _RUNNING else status
        for choice in found.choices or ():
            finish = choice.finish_reason or finish
        return Part(bounded(model), bounded(finish), usage)

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
        if before is None and endpoint in _EMBEDS and u.total_tokens is not None:
            before, whole = u.total_tokens, not damaged
        before = before or 0
        if after is None:
            whole = whole and u.total_tokens is not None
            after = max((u.total_tokens or 0) - before, 0)
        ins = u.prompt_tokens_details or u.input_tokens_details or u.prompt_token_details or _NO_INPUT
        outs = u.completion_tokens_details or u.output_tokens_details or u.completion_token_details or _NO_OUTPUT
        # A nested 0 doesn't overrule a number elsewhere: Mistral sends both.
        read = ins.cached_tokens or u.num_cached_tokens or u.cached_tokens or u.prompt_cache_hit_tokens or 0
        write = ins.cache_write_tokens or 0
        fresh = before - read - write
        if fresh < 0:  # OpenRouter counts Gemini's tokens both as written and as read, and charges both
            fresh = before - max(read, write)
        reasoning = outs.reasoning_tokens or 0
        if endpoint == GEMINI_CHAT and u.total_tokens is not None:
            thoughts = u.total_tokens - before - after  # Gemini leaves them out of completion_tokens, not of the total
            if thoughts > 0:
                after += thoughts
                reasoning = max(reasoning, thoughts)
        if fresh < 0:
            fresh, whole = 0, False
        tally = Tally(Usage(fresh, read, write, 0, after, reasoning), whole)
        if ins.audio_tokens or ins.image_tokens or ins.video_tokens or outs.audio_tokens or outs.image_tokens:
            modalities = Modalities(
                input_audio=ins.audio_tokens or 0,
                input_image=ins.image_tokens or 0,
                input_video=ins.video_tokens or 0,
                output_audio=outs.audio_tokens or 0,
                output_image=outs.image_tokens or 0,
            )
            tally.usage = with_modalities(tally.usage, modalities)
        if len(u.cost):
            tally.stated_cost_pico = _stated(u.cost)
        return tally


def _stated(cost: msgspec.Raw) -> int | None:
    """Dollars, as a number or an object that has a total, in whole pico-dollars."""
    try:
        if json_object(cost) is not None:
            cost = _COST.decode(cost).total_cost
        dollars = Decimal(bytes(cost).decode("ascii", "replace"))
    except (InvalidOperation, *UNREADABLE):
        return None
    return round(dollars * 10**12) if 0 <= dollars < 10**6 else None
