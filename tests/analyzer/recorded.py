"""A recorded exchange and what its bill should say, read as the gateway would read it."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fluxen.analyzer.usage import HEAD, TAIL, Reading, read_answer, read_stream
from fluxen.gateway.head import AnswerHead
from fluxen.providers.catalogue import load_catalogue
from fluxen.providers.dialect import Dialect, dialects, spoken_at


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
        """Our name of it where the catalogue knows it, as it knows an upstream of that name."""
        known = load_catalogue().get(self.exchange["provider"])
        return known.name if known is not None else self.exchange["provider"]

    @cached_property
    def spoken(self) -> tuple[Dialect, str]:
        """(dialect, endpoint) of its path, below an upstream that bears the recorded name."""
        known = load_catalogue().get(self.exchange["provider"])
        usual = dialects()["openai" if known is None else known.dialect]
        return spoken_at(urlsplit(self.exchange["path"]).path, usual, () if known is None else known.also)

    @property
    def dialect(self) -> str:
        return self.spoken[0].name

    @property
    def endpoint(self) -> str:
        return self.spoken[1]

    @cached_property
    def body(self) -> bytes:
        events = self.exchange.get("response_eventstream_b64")
        return base64.b64decode(events) if events else (self.exchange["response_body"] or "").encode()

    @property
    def counts(self) -> bytes | None:
        """What its head tells of the usage."""
        headers = self.exchange.get("response_headers") or {}
        return AnswerHead("\r\n".join(["HTTP/1.1 200 OK", *(f"{n}: {v}" for n, v in headers.items())]).encode()).counts

    @property
    def streamed(self) -> bool:
        return self.exchange["streaming"] is not None

    @property
    def source(self) -> str:
        """The `usage_source` that the expected file's basis means, before anything is estimated."""
        meant = {"estimated": "unknown", "unmetered": "unknown", "error": "none", "count_only": "none"}
        return meant.get(self.expected["basis"], self.expected["basis"])

    def read(self, head: int = HEAD) -> Reading:
        status, body = self.exchange["status"], self.body
        if self.exchange["streaming"] in (None, "json-array"):
            return read_answer(self.dialect, self.endpoint, status, body, self.counts)
        return read_stream(self.dialect, self.endpoint, status, body[:head], body[head:][-TAIL:], True)


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
