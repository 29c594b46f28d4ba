"""Anthropic's dialect."""

from __future__ import annotations

from typing import Final

import msgspec

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
    "/chat/completions",  # its OpenAI-compatible door
)

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


class Anthropic:
    """Messages and what belongs to it under /v1."""

    name = "anthropic"

    def __init__(self) -> None:
        self._paths = Templates("/v1", _TEMPLATES)

    def endpoint(self, path: str) -> str:
        return self._paths.find(path)

    def model_in_path(self, path: str) -> str | None:  # noqa: ARG002 - the body names it
        return None

    def streams_by_path(self, path: str) -> bool:  # noqa: ARG002 - the body says it
        return False

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message, "code": code}})
