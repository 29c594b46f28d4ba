"""How many tokens a request is: its texts, and what the provider adds to them.

OpenAI's additions are known to a token or two (signatures.py); those of the others are fitted (families.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from fluxen.analyzer.answers import Said
from fluxen.analyzer.families import Family, exact, reasons
from fluxen.analyzer.images import image_tokens
from fluxen.analyzer.signatures import signatures
from fluxen.analyzer.texts import Call, Prompt

Count = Callable[[str], tuple[int, float]]

UNSEEN: Final = 10.0  # half the band where the provider reads what is not in the request: the count is a floor
_UNSEEN_FILE: Final = 1000  # tokens of a document, a recording or a film of unknown length
_BYTES_OF_FILE: Final = 100  # bytes of one per token, beyond that
_SEARCHES: Final = re.compile(r"compound|sonar|:online|search-preview|deep-research")  # models that look things up
_CALL: Final = 7  # tokens of OpenAI's around a call's name and arguments
_CALLS: Final = 12, 8  # where there are several: once, and around each
_CHANNEL: Final = 4  # around a text of a model that thinks first


class _Counted:
    """A sum of counts that remembers the largest error of a sample."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self.error = 0.0

    def __call__(self, text: str) -> int:
        tokens, error = self._count(text)
        self.error = max(self.error, error)
        return tokens


def prompt_tokens(family: Family, endpoint: str, asked: Prompt, count: Count) -> tuple[int, float]:
    """(input tokens, half the 95 % band as a part of them)."""
    counted = _Counted(count)
    plain = endpoint.endswith(("/embeddings", "/completions")) and not endpoint.endswith("/chat/completions")
    if plain or not asked.known or "embed" in f"{endpoint}{asked.model}".lower():
        tokens = sum(map(counted, asked.texts)) * family.factor
    elif exact(family):
        tokens = _openai(family, endpoint, asked, counted)
    else:
        tokens = _fitted(family, asked, counted)
    tokens += sum(image_tokens(family.images, image)[0] for image in asked.images)
    tokens += sum(_UNSEEN_FILE + size // _BYTES_OF_FILE for size in asked.media)
    errors = family.errors
    band = errors.tools if asked.tools or asked.schema or asked.calls else errors.text
    error = band.part(tokens)
    if incomplete(family, asked):
        error = UNSEEN
    return round(tokens), max(error, counted.error)


def incomplete(family: Family, asked: Prompt) -> bool:
    """Whether the count is a floor: the provider reads more, or an image whose size nobody can tell."""
    return unseen(asked) or not all(image_tokens(family.images, image)[1] for image in asked.images)


def unseen(asked: Prompt) -> bool:
    """Whether the provider reads more than what is in the request, or something whose tokens nobody can tell."""
    searches = asked.model is not None and _SEARCHES.search(asked.model) is not None
    return bool(asked.hosted or asked.elsewhere or asked.media or not asked.known or searches)


def _openai(family: Family, endpoint: str, asked: Prompt, count: _Counted) -> float:
    """Each message has a frame of 4 tokens and the answer's beginning 3; a model that reasons has one less."""
    thinks = reasons(family)
    responses = "/responses" in endpoint
    tokens = sum(map(count, asked.texts)) + 4 * asked.messages + (2 if thinks else 3)
    tokens += sum(1 + count(name) for name in asked.names)
    tokens += sum(count(f"functions.{use.name}") + count(use.text) for use in (*asked.calls, *asked.results))
    uses = (len(asked.calls) + len(asked.results)) / 2
    if thinks:
        tokens += round(uses * (13 if responses else 13.5))
        tokens += max(asked.sealed - 900, 0) * 18 // 100  # thoughts that only OpenAI can read
    else:
        tokens += round(uses * (10 if responses else 7)) + 15 * asked.parallel
    if asked.tools:
        arguments = sum(bool(tool.schema.get("properties")) for tool in asked.tools)
        tokens += count(signatures(asked.tools))
        if responses:
            tokens += (8 if thinks else 3) - (arguments - 1) // 2
        elif thinks:
            tokens += 91 - len(asked.tools)
        else:
            many = sum("\n" in tool.description for tool in asked.tools)
            tokens += 9 + (family.encoding == "cl100k_base") - arguments - many - 3 * bool(asked.system)
    if asked.schema is not None:
        tokens += count(json.dumps(_without_additional(asked.schema), separators=(",", ":"))) + 2
    return tokens


def answer_tokens(
    family: Family, endpoint: str, asked: Prompt | None, said: Said, count: Count
) -> tuple[int, int, float]:
    """(output tokens, of them reasoning, half the 95 % band as a part of them)."""
    counted = _Counted(count)
    text, reasoning, used = (sum(map(counted, said.of(kind))) for kind in ("text", "reasoning", "call"))
    calls = said.calls
    if not exact(family):
        tokens = family.said * text + family.factor * (reasoning + used) + family.used * calls
        tokens += family.end if tokens else 0
        band = max(family.errors.output.part(tokens), counted.error)
        return round(tokens), round(family.factor * reasoning), band
    tokens = text + reasoning + used
    if calls and asked is not None and asked.forced:
        tokens += 1 - sum(map(counted, said.names))  # what it had to call is not said again
    elif calls:
        tokens += _CALL if calls == 1 else _CALLS[0] + _CALLS[1] * calls
    if text and reasons(family):
        tokens += _CHANNEL
    elif text and "/responses" in endpoint:
        tokens += 1
    if text and asked is not None and asked.tools:
        tokens += 1
    return tokens, reasoning, max(family.errors.output.part(tokens), counted.error)


def _without_additional(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_additional(value) for key, value in schema.items() if key != "additionalProperties"}
    return [_without_additional(value) for value in schema] if isinstance(schema, list) else schema


def _fitted(family: Family, asked: Prompt, count: _Counted) -> float:
    uses: list[Call] = [*asked.calls, *asked.results]
    said = [*asked.texts, *asked.names, *(use.text for use in uses), *(call.name for call in asked.calls)]
    if asked.pending:
        said += asked.thoughts
    tokens = family.factor * sum(map(count, said)) + family.base + family.message * asked.messages
    tokens += family.call * (len(asked.calls) + len(asked.results)) / 2
    if asked.tools:
        written = (f"{tool.name} {tool.description} {json.dumps(tool.schema)}" for tool in asked.tools)
        tokens += family.tools + family.tool * sum(map(count, written))
    if asked.schema is not None:
        tokens += family.schemas + family.schema * count(json.dumps(asked.schema))
    return tokens + family.thinks * asked.thinks
