"""What a provider adds to the texts of a request: the frame of each message, tools written out, images."""

from __future__ import annotations

import json
from collections.abc import Callable

from fluxen.analyzer.families import Family
from fluxen.analyzer.texts import Prompt

Count = Callable[[str], tuple[int, float]]


def prompt_tokens(family: Family, asked: Prompt, count: Count) -> tuple[int, float]:
    """(input tokens, half the 95 % band as a part of them)."""
    tokens, error = 0.0, family.input_error
    texts = [*asked.texts, *asked.results, *asked.names]
    texts += [text for call in asked.calls for text in call]
    texts += [f"{tool.name}{tool.description}{json.dumps(tool.schema)}" for tool in asked.tools]
    for text in texts:
        counted, sampled = count(text)
        tokens += counted
        error = max(error, sampled)
    tokens = tokens * family.factor + 4 * asked.messages
    if asked.messages:
        tokens += 3
    return round(tokens), error
