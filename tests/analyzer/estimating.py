"""How good estimates are: every recorded exchange whose provider reported its usage, estimated as if it hadn't."""

from __future__ import annotations

import base64
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from analyzer.recorded import Recorded

from fluxen.analyzer.answers import Answer
from fluxen.analyzer.estimates import Estimate, estimate
from fluxen.analyzer.families import families, family_of
from fluxen.analyzer.overheads import UNSEEN
from fluxen.analyzer.texts import Prompt, read_prompt

_PICTURE = re.compile(r"@@B64:(?:png|jpeg|webp|gif):(\d+)x(\d+):[^@]*@@")
LARGE = 200
"""Tokens from which on a count is large enough for its error to be a share of it."""
_NOT_GENERATED = ("embed", "rerank", "count", "input_tokens", "compact")


@dataclass(frozen=True)
class Measured:
    """An exchange: what was reported and what is estimated. `kind`: `text`, `tools` (or a schema), or `unseen` (the
    provider read something that isn't in the request: files, its own tools, an earlier conversation)."""

    recorded: Recorded
    prompt: Prompt
    estimate: Estimate
    input: int
    output: int

    @property
    def family(self) -> str:
        return self.estimate.family

    @property
    def kind(self) -> str:
        prompt = self.prompt
        if self.estimate.input_error == UNSEEN:
            return "unseen"
        return "tools" if prompt.tools or prompt.calls or prompt.schema else "text"

    def error_of(self, kind: str) -> float:
        """As a part of the estimate: that is what a reader of the ledger has."""
        return self.tokens_off(kind) / max(self.count_of(kind), 1)

    def count_of(self, kind: str) -> int:
        """The estimate of that side."""
        return self.estimate.output if kind == "output" else self.estimate.input

    def tokens_off(self, kind: str) -> int:
        return abs(self.count_of(kind) - (self.output if kind == "output" else self.input))


def measure(recorded: Iterable[Recorded]) -> Iterator[Measured]:
    """Distinct exchanges only. Left out: requests of which the recording lacks a part, and those that report nothing
    or, like Anthropic's compaction, more than one model's run."""
    seen = set()
    for one in recorded:
        exchange, expected = one.exchange, one.expected
        if expected["basis"] != "reported" or not exchange["request_body"] or expected["legs"]:
            continue
        tokens = expected["tokens"]
        before = sum(tokens[name] for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))
        model = _model(exchange)
        key = (exchange["req_sha"], model, exchange["provider"], before, tokens["output"])
        body = with_pictures(exchange["request_body"])
        if (
            key in seen
            or "@@B64" in body
            or before <= 0
            or any(word in exchange["endpoint"] for word in _NOT_GENERATED)
        ):
            continue
        seen.add(key)
        prompt = read_prompt(body.encode())
        if prompt is None:
            continue
        found = estimate(one.dialect, one.endpoint, model, body.encode(), answer_of(exchange))
        yield Measured(one, prompt, found, before, tokens["output"])


def answer_of(exchange: dict[str, Any]) -> Answer:
    """The recorded answer as the gateway holds it when all of it was kept."""
    framed = exchange.get("response_eventstream_b64")
    body = base64.b64decode(framed) if framed else (exchange["response_body"] or "").encode()
    return Answer(body, streamed=exchange["streaming"] is not None)


def with_pictures(body: str) -> str:
    """The recordings have only the size of an image: a file that begins as one of that size."""

    def picture(found: re.Match[str]) -> str:
        head = (
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", int(found[1]), int(found[2])) + b"\x08\x02\0\0\0"
        )
        return base64.b64encode(head).decode()

    return _PICTURE.sub(picture, body)


def _model(exchange: dict[str, Any]) -> str:
    named = re.search(r"/models?/([^/:?]+)", unquote(exchange["path"]).replace("v1:0", "v1"))
    answered = exchange["model_response"] or ""
    if family_of(answered, "").name != "other":
        return str(answered)
    return str(named[1] if named else exchange["model_requested"] or "")


def quantile(values: Iterable[float], part: float) -> float:
    """The value that `part` of them don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


Groups = Mapping[tuple[str, str], list[Measured]]


def grouped(found: Iterable[Measured]) -> Groups:
    """By family and kind; `output` is a kind, too."""
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for one in found:
        groups[one.family, one.kind].append(one)
        if one.output:
            groups[one.family, "output"].append(one)
    return groups


def table(groups: Groups) -> Iterator[tuple[tuple[str, str], str]]:
    """Lines of Markdown, with the group that each is about."""
    for name, family in families().items():
        stated = {"text": family.errors.text, "tools": family.errors.tools, "output": family.errors.output}
        for kind in ("text", "tools", "output", "unseen"):
            found = groups.get((name, kind), ())
            if found:
                errors = [one.error_of(kind) for one in found]
                large = [one.error_of(kind) for one in found if one.count_of(kind) >= LARGE]
                middle, most, more = (
                    f"{100 * value:.1f} %" if value == value else "–" for value in _quantiles(errors, large)
                )
                band = stated.get(kind)
                said = f"{band.tokens:g} tokens + {100 * band.share:g} %" if band is not None else f"{100 * UNSEEN:g} %"
                yield (
                    (name, kind),
                    f"| {name} | {kind} | {len(errors)} | {middle} | {most} | {len(large)} | {more} | {said} |",
                )


def _quantiles(errors: list[float], large: list[float]) -> tuple[float, float, float]:
    return quantile(errors, 0.5), quantile(errors, 0.95), quantile(large, 0.95)
