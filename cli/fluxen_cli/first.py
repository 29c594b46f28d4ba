"""The first request: a line for the shell that works as it is printed, for whoever has just got a client key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fluxen.gateway.routes import Upstream

ANTHROPIC_VERSION = "2023-06-01"
_HELLO = "Say hello"


def upstream_to_try(upstreams: Iterable[Upstream]) -> Upstream | None:
    """The first that Fluxen has a key for and knows a model of; else one that it has a key for; else any."""
    from fluxen.providers.catalogue import load_catalogue

    catalogue = load_catalogue()

    def worth(upstream: Upstream) -> tuple[bool, bool]:
        known = catalogue.get(upstream.provider)
        return bool(upstream.credentials), known is not None and known.try_model is not None

    return max(upstreams, key=worth, default=None)


def curl_line(url: str, key: str, upstream: Upstream) -> str:
    """Ask a small model of it to say hello; the list of models where none is known. url: of the gateway."""
    from fluxen.providers.catalogue import load_catalogue

    known = load_catalogue().get(upstream.provider)
    path, headers, body = _request(upstream, known.try_model if known else None)
    parts = [f"curl {url}{upstream.mount.decode()}{path}", f"-H 'Authorization: Bearer {key}'"]
    parts += [f"-H '{header}'" for header in headers]
    if body is not None:
        parts += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(body)}'"]
    return " ".join(parts)


def _request(upstream: Upstream, model: str | None) -> tuple[str, list[str], dict[str, object] | None]:
    """Path behind the mount, headers, body."""
    dialect = upstream.dialect.name
    headers = [f"anthropic-version: {ANTHROPIC_VERSION}"] if dialect == "anthropic" else []
    version = upstream.version.decode()
    if model is None:
        return f"{version}/models", headers, None
    if dialect == "gemini":
        return f"{version}/models/{model}:generateContent", headers, {"contents": [{"parts": [{"text": _HELLO}]}]}
    message: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": _HELLO}]}
    if dialect == "anthropic":
        return f"{version}/messages", headers, {**message, "max_tokens": 50}
    return f"{version}/chat/completions", headers, message
