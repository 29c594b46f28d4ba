"""Families of models that count alike."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fluxen.analyzer.ranks import Encoding


class Family(msgspec.Struct, frozen=True, gc=False):
    """Tokens are `factor` times what `encoding` counts. `input_error` and `output_error` are half the 95 % band."""

    name: str
    encoding: Encoding = "o200k_base"
    factor: float = 1.0
    input_error: float = 0.1
    output_error: float = 0.1
    bytes_per_token: float = 4.0


_FAMILIES: Final = {
    "gpt": Family("gpt", input_error=0.02, output_error=0.02),
    "gpt-cl100k": Family("gpt-cl100k", "cl100k_base", input_error=0.02, output_error=0.02),
    "claude": Family("claude", factor=1.2, input_error=0.25, output_error=0.25),
    "gemini": Family("gemini", factor=1.05, input_error=0.25, output_error=0.25),
    "other": Family("other", factor=1.1, input_error=0.4, output_error=0.4),
}
_NAMES: Final = (
    (re.compile(r"gpt-3\.5|gpt-35|gpt-4(?![o.\d])|text-embedding|davinci|babbage|ada-002"), "gpt-cl100k"),
    (re.compile(r"gpt-|chatgpt|(?:^|/)o[134](?:-|$)|codex"), "gpt"),
    (re.compile(r"claude"), "claude"),
    (re.compile(r"gemini|gemma"), "gemini"),
)


def family_of(model: str | None, dialect: str) -> Family:
    """By the model's name, else by the dialect's own family."""
    name = (model or "").lower()
    for pattern, family in _NAMES:
        if pattern.search(name):
            return _FAMILIES[family]
    return _FAMILIES[{"anthropic": "claude", "gemini": "gemini"}.get(dialect, "other")]
