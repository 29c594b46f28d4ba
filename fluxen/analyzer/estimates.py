"""How many tokens a request and its answer had, where no provider says so: an estimate, and how good it is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import msgspec

from fluxen.analyzer.answers import Answer, read_said
from fluxen.analyzer.families import Family, family_of
from fluxen.analyzer.overheads import answer_tokens, prompt_tokens
from fluxen.analyzer.ranks import ENCODINGS, packed_ranks
from fluxen.analyzer.texts import Prompt, read_prompt
from fluxen.analyzer.tokens import tokenizer

__all__ = ["Answer", "Estimate", "estimate", "hold", "warm"]

_GAP_ERROR = 0.25  # more, of an answer of which the middle is not known
_ROUGH_INPUT = 0.6  # half the 95 % band of a prompt of which only the length is known
_BYTES_PER_TOKEN = 4  # of a JSON body
_NOT_GENERATED = ("embeddings", "embed", "embedContent", "batchEmbedContents", "rerank", "moderations")


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """`reasoning` is a part of `output`. The errors are half the 95 % band as a part of the count: `error` of input and
    output together (the ledger's `usage_error`), `input_error` and `output_error` of each alone. `family` names the
    row of the table in docs/estimates.md that they come from."""

    input: int
    output: int
    reasoning: int
    error: float
    input_error: float
    output_error: float
    family: str


def estimate(
    dialect: str, endpoint: str, model: str | None, request: bytes | int | None, answer: Answer | None
) -> Estimate:
    """Tokens of a request's body (or of one of which only the length in bytes is known; None: it had none) and of its
    answer (None: nothing was generated). `model` is the one that answered, else the one that was asked for.

    Raises ValueError when nothing of an answer can be read; otherwise never, whatever the bytes. Takes about 1 ms per
    2 KB of text, and 0.15 s more the first time: not for an event loop. A large text is sampled, an answer with a gap
    is extrapolated; both widen the band.
    """
    asked = read_prompt(request) if isinstance(request, bytes) else None
    family = family_of(model or (asked.model if asked is not None else None), dialect)
    count = tokenizer(family.encoding).estimate
    size = len(request) if isinstance(request, bytes) else request or 0
    before, before_error = math.ceil(size / _BYTES_PER_TOKEN), _ROUGH_INPUT if size else 0.0
    if asked is not None:
        with contextlib.suppress(RecursionError):  # JSON that is nested beyond what can be written again
            before, before_error = prompt_tokens(family, endpoint, asked, count)
    after, reasoning, after_error = 0, 0, 0.0
    if answer is not None and not endpoint.endswith(_NOT_GENERATED):
        after, reasoning, after_error = _answered(family, endpoint, asked, answer, count)
    whole = before + after
    error = (before * before_error + after * after_error) / whole if whole else 0.0
    return Estimate(before, after, reasoning, error, before_error, after_error, family.name)


def _answered(
    family: Family, endpoint: str, asked: Prompt | None, answer: Answer, count: Callable[[str], tuple[int, float]]
) -> tuple[int, int, float]:
    """(tokens, of them reasoning, error). Raises ValueError when nothing of the answer can be read."""
    said = read_said(answer)
    if not said.readable and (answer.head or answer.total):
        raise ValueError("nothing can be read in the answer")
    tokens, reasoning, error = answer_tokens(family, endpoint, asked, said, count)
    if answer.gap and said.covered:
        share = answer.total / said.covered
        return round(tokens * share), round(reasoning * share), error + _GAP_ERROR
    return tokens, reasoning, error


def warm(dialect: str, model: str | None) -> None:
    """Read what the first estimate for this model needs: 0.1 s that it then doesn't take."""
    tokenizer(family_of(model, dialect).encoding).count("warm")


def hold() -> None:
    """Import and read into memory all that will ever be needed from the installation: nothing is built yet."""
    import regex  # noqa: F401 - imported for later

    with contextlib.suppress(ImportError):  # one can do without
        import tiktoken  # noqa: F401 - imported for later
    for encoding in ENCODINGS:
        packed_ranks(encoding)
