"""Prices of one's own: the `prices` section of the configuration, applied to what the price book says.

An entry speaks of up to three things: what tokens cost, what calls cost (each by its name), and a discount. For each of
them the first entry counts that applies and speaks of it, in the order of the file; what none speaks of stays as the
book has it. Token prices are taken whole: beside one's own input price the book's cache price would be nobody's.

An entry applies when its patterns meet the model (the name that answered, its name in the book, or the name that was
asked for; case does not count), and the upstream, and the time. Without a `tier`, its token prices are those of the
standard tier; for a model without a list price they hold in every tier, since there nothing else could be meant.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import msgspec

from fluxen.analyzer.pricelist import EPOCH, EVER, STANDARD, Price, Terms, Tokens

if TYPE_CHECKING:
    from fluxen.config.prices import PriceEntry

_PICO: Final = 10**12  # pico-dollars in a dollar

_FREE: Final = (0, 1)
_FREE_TOKENS: Final[Tokens] = {"input": 0, "output": 0}
_RENAMED: Final = {"cache_write_5m": "cache_write"}


class _Entry(msgspec.Struct, frozen=True, gc=False):
    models: re.Pattern[str]
    upstreams: re.Pattern[str] | None
    since: int
    until: int
    tier: str | None
    tokens: Tokens
    fees: dict[str, int]
    share: tuple[int, int] | None
    free: bool


class Own(msgspec.Struct, frozen=True, gc=False):
    """A price with the configuration's entries applied; it holds from `since` until `until`, µs since the epoch."""

    price: Price | None
    since: int
    until: int


class OwnPrices:
    """The entries, compiled. The same `digest`, the same prices."""

    __slots__ = ("_entries", "digest")

    def __init__(self, entries: Iterable[PriceEntry]) -> None:
        self._entries = [_compiled(entry) for entry in entries]
        said = [
            (e.models.pattern, e.upstreams and e.upstreams.pattern, e.since, e.until, e.tier, sorted(e.tokens.items()),
             sorted(e.fees.items()), e.share, e.free)
            for e in self._entries
        ]  # fmt: skip
        self.digest = hashlib.sha256(repr(said).encode()).hexdigest()[:8]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def tiers(self, names: Iterable[str], upstream: str | None) -> list[str]:
        """Those that entries for a model of these names speak of, at any time."""
        spelt = [name.lower() for name in names]
        found = (entry.tier for entry in self._entries if entry.tier is not None and _meets(entry, spelt, upstream))
        return list(dict.fromkeys(found))

    def apply(self, terms: Terms | None, names: Collection[str], upstream: str | None, tier: str, ts: int) -> Own:
        """The price of a model that has these names, the first of which is shown. terms: what the book says of it."""
        since, until = EVER if terms is None else (terms.since, terms.until)
        tokens: Tokens | None = None
        fees: dict[str, int] = {}
        share: tuple[int, int] | None = None
        own = free = False
        spelt = [name.lower() for name in (*names, *([terms.model] if terms is not None else []))]
        for entry in self._entries:
            if not _meets(entry, spelt, upstream):
                continue
            if entry.tier is not None and entry.tier != tier:
                continue
            for edge in (entry.since, entry.until):
                since, until = (max(since, edge), until) if edge <= ts else (since, min(until, edge))
            if not entry.since <= ts < entry.until:
                continue
            meant = entry.tier is not None or tier == STANDARD or terms is None or entry.free
            if tokens is None and entry.tokens and meant:
                tokens, own, free = entry.tokens, True, entry.free
            if entry.fees:
                fees, own = {**entry.fees, **fees}, True
            if entry.share is not None and share is None:
                share, own = entry.share, True
        if not own:
            price = None if terms is None or terms.tokens is None else Price.of(terms.model, terms.tokens, terms.fees)
            return Own(price, since, until)
        if tokens is None and terms is not None:
            tokens = terms.tokens
        if tokens is None:
            return Own(None, since, until)
        listed = terms.fees if terms is not None else {}
        name = next(iter(names)) if terms is None else terms.model
        price = Price.of(name, dict(tokens), {**listed, **fees}, _FREE if free else share, own=True)
        return Own(price, since, until)


def _meets(entry: _Entry, names: Iterable[str], upstream: str | None) -> bool:
    """names: in lower case."""
    if entry.upstreams is not None and (upstream is None or not entry.upstreams.match(upstream.lower())):
        return False
    return any(entry.models.match(name) for name in names)


def _compiled(entry: PriceEntry) -> _Entry:
    fees = {name: int(amount * _PICO) for name, amount in entry.fees.items()}
    if entry.per_request is not None:
        fees["request"] = int(entry.per_request * _PICO)
    return _Entry(
        models=_pattern(entry.models),
        upstreams=None if entry.upstream is None else _pattern(entry.upstream),
        since=EVER[0] if entry.since is None else _microseconds(entry.since),
        until=EVER[1] if entry.until is None else _microseconds(entry.until),
        tier=entry.tier,
        tokens=_FREE_TOKENS
        if entry.free
        else {_RENAMED.get(n, n): _per_token(rate) for n, rate in entry.rates.items()},
        fees=fees,
        share=None if entry.discount is None else _remaining(entry.discount),
        free=entry.free,
    )


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob.lower()) for glob in globs))


def _per_token(dollars_per_million: Decimal) -> int:
    return int(dollars_per_million * _PICO / 10**6)


def _remaining(discount: Decimal) -> tuple[int, int] | None:
    """What is left to pay; None: everything."""
    left = 1 - Fraction(discount)
    return None if left == 1 else (left.numerator, left.denominator)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
