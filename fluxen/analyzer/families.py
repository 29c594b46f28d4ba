"""Families of models that count alike, and what each adds to the texts of a request.

OpenAI's own count exactly as its published tokenizer does. Nobody else publishes one that we could ship: their tokens
are what o200k_base counts times a factor, with overheads, all fitted to recorded requests whose usage the provider
reported (`python tests/bench/estimates.py` prints how well; docs/estimates.md has the table). The errors are what was
measured there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fluxen.analyzer.ranks import Encoding


class Band(msgspec.Struct, frozen=True, gc=False):
    """Half the 95 % band of a count: so many tokens, which small requests are made of, and a share of the count."""

    tokens: float
    share: float

    def part(self, count: float) -> float:
        """As a part of this count."""
        return self.tokens / max(count, 1) + self.share


class Errors(msgspec.Struct, frozen=True, gc=False):
    """Of a request of plain text, of one with tools or a schema, and of an answer."""

    text: Band
    tools: Band
    output: Band


class Family(msgspec.Struct, frozen=True, gc=False):
    """Tokens are `factor` times what `encoding` counts. A request adds `base`, `message` per message, `call` per
    earlier use of a tool; tools add `tools` once and `tool` times the tokens of their JSON; a schema likewise. `thinks`
    is added when the model is asked to. An answer is `said` times its text, `used` for each call of a tool in it, and
    `end`. `images` is the rule that says what one costs (fluxen/analyzer/images.py)."""

    name: str
    errors: Errors
    encoding: Encoding = "o200k_base"
    factor: float = 1.0
    base: float = 0.0
    message: float = 0.0
    call: float = 0.0
    tools: float = 0.0
    tool: float = 1.0
    schemas: float = 0.0
    schema: float = 1.0
    thinks: float = 0.0
    said: float = 1.0
    used: float = 0.0
    end: float = 0.0
    images: str = "unknown"


_OTHER: Final = "other"

# What `python tests/bench/estimates.py` measures: (tokens, share) of text, of tools, of output.
_MEASURED: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "gpt-3.5, gpt-4": ((1, 0.02), (1, 0.02), (3, 0.02)),
    "gpt-4o, gpt-4.1": ((1, 0.01), (11, 0.17), (3, 0.06)),
    "gpt-5, o-series": ((0, 0.02), (0, 0.64), (1177, 1)),
    "gpt-oss": ((0, 0.2), (20, 0.2), (0, 0.2)),
    "claude to 4.0": ((27, 0.05), (0, 0.35), (9, 0.38)),
    "claude 4.1 to 4.6": ((13, 0.31), (64, 0.19), (1, 0.26)),
    "claude from 4.7": ((36, 0.2), (20, 0.2), (0, 0.23)),
    "gemini to 2.5": ((684, 0.2), (32, 1), (1028, 1)),
    "gemini from 3": ((20, 0.2), (42, 0.53), (1316, 0.2)),
    "llama": ((27, 0.2), (521, 0.2), (77, 0.2)),
    "mistral": ((7, 0.2), (43, 0.2), (4, 0.2)),
    "nova": ((17, 0.2), (117, 1), (85, 0.2)),
    "titan": ((16, 0.2), (30, 0.3), (20, 0.2)),
    "cohere": ((2, 0.09), (20, 0.2), (28, 0.2)),
    "qwen": ((20, 0.2), (20, 0.2), (20, 0.2)),
    "deepseek": ((546, 0.2), (263, 0.2), (21, 0.2)),
    "glm": ((325, 0.2), (28, 0.2), (1, 0.2)),
    "kimi": ((30, 0.3), (20, 0.2), (20, 0.2)),
    "palmyra": ((20, 0.2), (49, 0.2), (213, 0.2)),
    "other": ((33, 0.2), (51, 0.2), (1509, 0.2)),
}


def _family(name: str, **added: Any) -> Family:
    return Family(name, Errors(*(Band(*band) for band in _MEASURED[name])), **added)


_FAMILIES: Final = (
    _family("gpt-3.5, gpt-4", encoding="cl100k_base", images="gpt-4o"),
    _family("gpt-4o, gpt-4.1", images="gpt-4o"),
    _family("gpt-5, o-series", images="gpt-5"),
    _family("gpt-oss", base=62, message=5, tools=63, schemas=60, used=11, end=10),
    _family(
        "claude to 4.0", factor=1.11, base=3, message=4, call=60, tools=300, tool=1.1,
        schemas=130, thinks=28, said=1.16, used=45, end=2, images="claude",
    ),
    _family(
        "claude 4.1 to 4.6", factor=1.145, base=3, message=3, call=52, tools=510, tool=1.14,
        schemas=130, thinks=28, said=1.12, used=33, end=3, images="claude",
    ),
    _family(
        "claude from 4.7", factor=1.41, base=2, message=3, call=65, tools=300, tool=1.8,
        schemas=150, thinks=28, said=1.4, used=32, end=3, images="claude",
    ),
    _family("gemini to 2.5", tools=12, tool=0.6, schema=0.0, said=1.03, images="258"),
    _family("gemini from 3", call=66, tools=10, tool=0.8, schema=0.0, images="1090"),
    _family("llama", base=12, message=5, call=15, tools=110, said=1.03, used=15, end=1),
    _family("mistral", factor=1.22, message=2, tools=16, tool=1.35, said=1.08, used=2, end=1,
        images="rows 28",
    ),
    _family("nova", factor=1.1, call=17, tools=350, tool=1.16, used=11, end=2),
    _family("titan", factor=1.11, message=2, said=1.05, end=1),
    _family("cohere", factor=1.06, tools=50, tool=0.2, said=1.08, used=17),
    _family("qwen", base=4, message=5, tools=240, used=15, end=1),
    _family("deepseek", message=4, call=40, tools=280, tool=1.2, said=1.03, used=18, end=1),
    _family("glm", base=3, message=3, call=15, tools=110, used=5, end=1),
    _family("kimi", base=3, message=6, call=25, tools=20, used=9),
    _family("palmyra", base=32, tools=100, used=21),
    _family(_OTHER, factor=1.05, base=3, message=4, call=20, tools=100, used=15, end=1),
)  # fmt: skip

# The first that a name (in lower case) meets.
_NAMES: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"gpt-oss", "gpt-oss"),
        (r"gpt-3\.5|gpt-35|gpt-4(?:$|-(?!o))|text-embedding|ada-002|davinci-002|babbage-002", "gpt-3.5, gpt-4"),
        (r"gpt-[5-9]|(?:^|[/.])o\d(?:-|$)|codex", "gpt-5, o-series"),
        (r"gpt-|chatgpt", "gpt-4o, gpt-4.1"),
        (r"claude.*(?:4[-.][789](?!\d)|(?:opus|sonnet|haiku|fable)-(?:[5-9]|\d\d)(?!\d))", "claude from 4.7"),
        (r"claude.*4[-.][1-6](?!\d)", "claude 4.1 to 4.6"),
        (r"claude", "claude to 4.0"),
        (r"gemini-(?:[3-9]|\d\d)", "gemini from 3"),
        (r"gemini|gemma", "gemini to 2.5"),
        (r"llama", "llama"),
        (r"mistral|mixtral|magistral|ministral|codestral|pixtral|devstral|voxtral", "mistral"),
        (r"nova", "nova"),
        (r"titan", "titan"),
        (r"command|c4ai|aya|cohere", "cohere"),
        (r"qwen|qwq", "qwen"),
        (r"deepseek", "deepseek"),
        (r"glm", "glm"),
        (r"kimi|moonshot", "kimi"),
        (r"palmyra", "palmyra"),
    )
)
# Models that count images otherwise than their family; OpenAI's multipliers as they are billed (its page has others).
_IMAGES: Final = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"gpt-4o-mini", "gpt-4o-mini"),
        (r"gpt-4\.1-nano", "patches 2.46"),
        (r"gpt-4\.1-mini", "patches 1.62"),
        (r"o4-mini|codex-mini", "patches 1.72"),
        (r"gpt-5-nano", "patches 1.5"),
        (r"gpt-5-mini|gpt-5\.[2-9]", "patches 1.2"),
        (r"(?:^|[/.])o[13](?:-|$)", "o-series"),
        (r"gemini-(?:1|2\.0)", "gemini tiles"),
        (r"pixtral", "rows 16"),
    )
)
_BY_DIALECT: Final = {"anthropic": "claude 4.1 to 4.6", "gemini": "gemini from 3", "cohere": "cohere"}


def exact(family: Family) -> bool:
    """Whether it is OpenAI's own, whose tokenizer is published."""
    return family.images.startswith(("gpt-", "patches ", "o-series"))


def reasons(family: Family) -> bool:
    """Whether it is of those of OpenAI's that think before they answer, and don't show what."""
    return family.name.startswith("gpt-5")


def families() -> Mapping[str, Family]:
    """All of them by name."""
    return MappingProxyType({family.name: family for family in _FAMILIES})


@functools.lru_cache(maxsize=1024)
def family_of(model: str | None, dialect: str) -> Family:
    """By the model's name, whatever stands before it; a name that says nothing: by the dialect's own family."""
    name = (model or "").lower()
    found = next((family for pattern, family in _NAMES if pattern.search(name)), None)
    family = families()[found or _BY_DIALECT.get(dialect, _OTHER)]
    images = next((rule for pattern, rule in _IMAGES if pattern.search(name)), None)
    return family if images is None else msgspec.structs.replace(family, images=images)
