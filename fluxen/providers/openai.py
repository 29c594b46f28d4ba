"""OpenAI's dialect, and that of everybody who imitates it."""

from __future__ import annotations

from typing import Final

import msgspec

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

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAI:
    """Chat completions, responses, completions, embeddings and the rest under /v1."""

    name = "openai"

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
