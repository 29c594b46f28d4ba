"""Google's Gemini dialect: the model and the method are in the path, `/v1beta/models/{model}:generateContent`."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

import msgspec

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
    "/openai/chat/completions",  # its OpenAI-compatible door
    "/openai/embeddings",
    "/openai/models",
    "/openai/models/{model}",
)

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


class Gemini:
    """Under /v1 and /v1beta; a path without a version is taken for /v1beta, as the SDKs default to it."""

    name = "gemini"

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
        path = path.removeprefix("/upload")
        version = path[1:].partition("/")[0]
        templates_of = self._paths.get(version)
        return (templates_of or self._paths["v1beta"]).find(path)

    def model_in_path(self, path: str) -> str | None:
        before, colon, _ = path.rpartition(":")
        parent, _, model = (before if colon else path).rpartition("/")
        if parent not in self._methods or not model:
            return None
        return unquote(model)

    def streams_by_path(self, path: str) -> bool:
        return path.endswith(":streamGenerateContent")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        name = _STATUS.get(status) or ("INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper(), "domain": "fluxen"}]
        return msgspec.json.encode({"error": {"code": status, "message": message, "status": name, "details": details}})
