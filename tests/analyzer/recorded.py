"""A recorded exchange and what its bill should say, read as the gateway would read it."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fluxen.analyzer.usage import HEAD, TAIL, Reading, read_answer, read_stream
from fluxen.providers.dialect import dialects

OURS = {"google": "gemini"}  # the recordings' names of providers, where ours differ
DIALECTS = {"anthropic": "anthropic", "google": "gemini", "google-vertex": "gemini"}


@dataclass(frozen=True)
class Recorded:
    """One exchange. `expected` is its row of the expected file."""

    exchange: dict[str, Any]
    expected: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.exchange["id"])

    @property
    def provider(self) -> str:
        return OURS.get(self.exchange["provider"], self.exchange["provider"])

    @property
    def dialect(self) -> str:
        return DIALECTS.get(self.exchange["provider"], "openai")

    @property
    def endpoint(self) -> str:
        path = urlsplit(self.exchange["path"]).path
        if self.dialect == "openai":  # an upstream's target_url carries what stands before the version
            path = re.sub(r"^.*?(/v1/|/(?=chat/completions|responses|embeddings))", r"\1", path)
        return dialects()[self.dialect].endpoint(path)

    @property
    def body(self) -> bytes:
        return (self.exchange["response_body"] or "").encode()

    @property
    def streamed(self) -> bool:
        return self.exchange["streaming"] is not None

    @property
    def source(self) -> str:
        """The `usage_source` that the expected file's basis means."""
        meant = {"estimated": "unknown", "unmetered": "unknown", "error": "none", "count_only": "none"}
        return meant.get(self.expected["basis"], self.expected["basis"])

    def read(self, head: int = HEAD) -> Reading:
        status, body = self.exchange["status"], self.body
        if not self.streamed:
            return read_answer(self.dialect, self.endpoint, status, body)
        return read_stream(self.dialect, self.endpoint, status, body[:head], body[head:][-TAIL:], True)


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
