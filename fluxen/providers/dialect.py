"""A dialect: one protocol that providers speak. Adding one is one file beside this one and one line below."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from fluxen.providers.answer import Billing, Part, Tally
from fluxen.providers.anthropic import Anthropic
from fluxen.providers.bedrock import Bedrock
from fluxen.providers.cohere import Cohere
from fluxen.providers.gemini import Gemini
from fluxen.providers.ollama import Ollama
from fluxen.providers.openai import OpenAI
from fluxen.providers.paths import OTHER


class Dialect(Protocol):
    """What the gateway and the analyzer need to know of a protocol. Stateless; shared by all requests.

    Every `path` is the API path without the mount prefix and without a query, as it stands on the wire.
    """

    @property
    def name(self) -> str: ...

    def endpoint(self, path: str) -> str:
        """The path's template, one of a bounded set: no ids, no model names."""

    def door(self, path: str) -> str | None:
        """The template of an address that nobody else's protocol has, wherever below an API it stands: whoever serves
        it speaks this one. None for any other path."""

    def model_in_path(self, path: str) -> str | None:
        """The model that the path names, percent-decoded; None where the body names it."""

    def streams_by_path(self, path: str) -> bool:
        """Whether the path alone asks for a streamed answer."""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """A refusal of our own as JSON in the shape this dialect's SDKs parse. `code` is ours, in snake_case."""

    # What the analyzer reads an answer with. `openers` are the beginnings of the objects in which usage, model and stop
    # reason stand; `landmarks` are their keys as bytes, usage first: with both, the last piece of a JSON text whose
    # beginning was not kept can be read (fluxen/analyzer/fragment.py).

    @property
    def openers(self) -> tuple[bytes, ...]: ...

    @property
    def landmarks(self) -> tuple[bytes, ...]: ...

    def tells_input_first(self, endpoint: str) -> bool:
        """Whether a stream that breaks off has told the input's count by then: in its first event, or in each."""

    def billing(self, endpoint: str) -> Billing:
        """How the endpoint is billed, see Billing."""

    def part(self, data: bytes) -> Part | None:
        """What one JSON object, a whole body or a stream's event, says. None if it is no JSON object. Never raises."""

    def calls_in(self, piece: bytes) -> dict[str, int] | None:
        """What was billed by the call, as far as the first bytes of a body too large to hold tell; see Part.calls."""

    def tally(self, endpoint: str, usage: bytes) -> Tally | None:
        """A usage object in disjoint token classes. None if it is no JSON object. Never raises."""


@functools.cache
def dialects() -> Mapping[str, Dialect]:
    """Every dialect by its name."""
    known: tuple[Dialect, ...] = (OpenAI(), Anthropic(), Gemini(), Bedrock(), Cohere(), Ollama())
    return MappingProxyType({dialect.name: dialect for dialect in known})


def spoken_at(path: str, usual: Dialect, also: Iterable[str] = ()) -> tuple[Dialect, str]:
    """(dialect, endpoint) of a path below a server that speaks `usual`, and `also` others at addresses of their own."""
    endpoint = usual.endpoint(path)
    if not endpoint.endswith(OTHER):
        return usual, endpoint
    known = dialects()
    for name in also:
        other = known[name].endpoint(path)
        if not other.endswith(OTHER):
            return known[name], other
    for dialect in known.values():
        door = dialect.door(path)
        if door is not None:
            return dialect, door
    return usual, endpoint
