"""What requests would cost with each of several models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxen.analyzer.families import Family
    from fluxen.analyzer.prices import PriceBook
    from fluxen.analyzer.texts import Prompt

_PICO = Decimal(10**12)
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Target:
    """A model, whose it is ('': nobody's that is known), and at which upstream of the configuration ('': at any)."""

    model: str
    provider: str
    upstream: str = ""


@dataclass(slots=True)
class Line:
    """The sums of one target, in tokens and pico-dollars; None where a part is not known. `band`: half the 95 % band
    of `input`. `cached`: the input if all of it is read from the provider's cache. `total`: input and output, `batch`
    the same in the provider's batch tier. `output` is what the requests allow at most, or what was said."""

    target: Target
    family: str
    requests: int = 0
    input: int = 0
    band: float = 0.0
    output: int | None = 0
    input_cost: int | None = 0
    cached_cost: int | None = 0
    output_cost: int | None = 0
    total: int | None = 0
    batch: int | None = 0
    floor: int = 0  # requests of which the provider reads more than is in them

    def dollars(self, name: str) -> Decimal | None:
        value = getattr(self, name)
        return None if value is None else (Decimal(value) / _PICO).normalize()


@dataclass(slots=True)
class Comparison:
    """Counts and prices each request with each target."""

    book: PriceBook
    ts: int
    output_tokens: int | None = None
    lines: dict[Target, Line] = field(default_factory=dict)

    def add(self, prompt: Prompt, targets: Iterable[Target]) -> None:
        from fluxen.analyzer.overheads import incomplete, prompt_tokens
        from fluxen.analyzer.tokens import tokenizer

        # The same text is counted once, however many models are asked for.
        counts = {name: lru_cache(maxsize=None)(tokenizer(name).estimate) for name in ("o200k_base", "cl100k_base")}
        for target in targets:
            family = self._family(target)
            tokens, error = prompt_tokens(family, "", prompt, counts[family.encoding])
            line = self.lines.get(target)
            if line is None:
                line = self.lines[target] = Line(target, family.name)
            line.requests += 1
            line.input += tokens
            line.band += tokens * error
            line.floor += incomplete(family, prompt)
            self._price(line, tokens, prompt.limit if self.output_tokens is None else self.output_tokens)

    def _family(self, target: Target) -> Family:
        from fluxen.analyzer.families import family_of
        from fluxen.providers.catalogue import load_catalogue

        known = load_catalogue().get(target.provider)
        return family_of(target.model, known.dialect if known is not None else "")

    def _price(self, line: Line, before: int, after: int | None) -> None:
        from fluxen.analyzer.cost import price_of
        from fluxen.providers.answer import Usage

        target = line.target
        price = self.book.find_at(target.provider, target.model, self.ts, target.upstream or None)
        batch = self.book.find_at(target.provider, target.model, self.ts, target.upstream or None, BATCH)
        fresh = price_of(price, Usage(input=before)).total
        whole = price_of(price, Usage(input=before, output=after)).total if after is not None else None
        line.output = _sum(line.output, after)
        line.input_cost = _sum(line.input_cost, fresh)
        line.cached_cost = _sum(line.cached_cost, price_of(price, Usage(cache_read=before)).total)
        line.output_cost = _sum(line.output_cost, None if whole is None or fresh is None else whole - fresh)
        line.total = _sum(line.total, whole)
        bundled = price_of(batch, Usage(input=before, output=after)).total if after is not None else None
        line.batch = _sum(line.batch, bundled)


def _sum(known: int | None, more: int | None) -> int | None:
    return None if known is None or more is None else known + more


def targets(
    book: PriceBook, model: str, ts: int, provider: str | None = None, upstream: str | None = None
) -> Sequence[Target]:
    """Whose prices are meant: of the provider or upstream that was named; else of the provider whose model it is by its
    name; else of everybody who has it in his list. None: nobody has."""
    from fluxen.providers.catalogue import load_catalogue, provider_for_model

    if upstream is not None or provider is not None:
        return (Target(model, provider or "", upstream or ""),)
    catalogue = load_catalogue()
    home = provider_for_model(model, catalogue)
    if home is not None and book.find_at(home, model, ts) is not None:
        return (Target(model, home),)
    vendor, _, rest = model.partition("/")
    if vendor in catalogue and _lists(book, catalogue[vendor].price_list, rest):
        return (Target(rest, catalogue[vendor].name),)
    return tuple(Target(model, name) for name in book.file.providers if _lists(book, name, model))


def _lists(book: PriceBook, name: str | None, model: str) -> bool:
    """Whether it stands in that provider's own list."""
    found = book.file.find(name, model) if name in book.file.providers else None
    return found is not None and found[0] is book.file.list_of(name or "")
