"""What the price book in force says of a model, as rows for people and for programs."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from fluxen.analyzer.pricelist import EPOCH, EVER, STANDARD, Model, Price, Rates
from fluxen.analyzer.prices import PriceBook

_PER_MILLION = Decimal(10**6)
_PICO = Decimal(10**12)
_USUAL = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Quote:
    """A price in force. upstream: '' for any. listed_by: in whose list the model was found; None: in nobody's.
    price None: the tier has none."""

    provider: str
    upstream: str
    listed_by: str | None
    tier: str
    price: Price
    since: datetime | None
    until: datetime | None

    def as_json(self) -> dict[str, object]:
        price = self.price
        return {
            "provider": self.provider or None,
            "upstream": self.upstream or None,
            "listed_by": self.listed_by,
            "model": price.model,
            "tier": self.tier,
            "own": price.own,
            "since": self.since,
            "until": self.until,
            "usd_per_million_tokens": _named(price.rates),
            "above_input_tokens": [{"tokens": above, **_named(rates)} for above, rates in price.tiers],
            "usd_per_call": {name: Decimal(fee) / _PICO for name, fee in sorted(price.fees.items())},
            "billed_share": None if price.share is None else Decimal(price.share[0]) / Decimal(price.share[1]),
        }

    def lines(self) -> Iterator[list[object]]:
        price = self.price
        tier = self.tier + (" (own)" if price.own else "")
        since = self.since.date().isoformat() if self.since is not None else None
        listed = f" (as {self.listed_by})" if self.listed_by not in (None, self.provider) else ""
        start: list[object] = [price.model, (self.provider or "–") + listed, self.upstream]
        yield [*start, tier, *_usual(price.rates), since, self._more(price.rates)]
        for above, rates in price.tiers:
            size = f"> {above:,} in"
            yield [*start, size, *_usual(rates), since, self._more(rates, fees=False)]

    def _more(self, rates: Rates, *, fees: bool = True) -> str:
        said = []
        for name, value in _named(rates).items():
            if name not in _USUAL and value is not None:
                said.append(f"{name} {value:f}")
        if fees:
            said += [
                f"{name} {(Decimal(fee) / _PICO).normalize():f} a call" for name, fee in sorted(self.price.fees.items())
            ]
            if self.price.share is not None:
                said.append(f"billed {100 * Decimal(self.price.share[0]) / Decimal(self.price.share[1]):g} %")
        return ", ".join(said)


def _named(rates: Rates) -> dict[str, Decimal | None]:
    """Dollars per million tokens by class: the usual classes, and those that have a rate of their own."""
    found: dict[str, Decimal | None] = {}
    for name in Rates.__struct_fields__:
        value = getattr(rates, name)
        if name in _USUAL or value is not None:
            found[name] = None if value is None else (Decimal(value) / _PER_MILLION).normalize()
    return found


def _usual(rates: Rates) -> list[Decimal | None]:
    named = _named(rates)
    return [named[name] for name in _USUAL]


def quotes(
    book: PriceBook,
    model: str,
    at: datetime,
    upstreams: Mapping[str, str],
    provider: str | None = None,
    upstream: str | None = None,
) -> list[Quote]:
    """Every price that is known of a model, or of all whose names meet a pattern.

    upstreams: the configuration's, with the provider of each: shown where a price of one's own holds, or all when only
    one is asked for. provider, upstream: only of these."""
    ts = (at - EPOCH) // timedelta(microseconds=1)
    found: list[Quote] = []
    if upstream is None:
        wanted = [book.list_name(provider)] if provider is not None else list(book.file.providers)
        for name in wanted:
            if name is not None:
                found += _listed(book, name, model, ts)
    if provider is None:
        for name, whose in upstreams.items():
            for one in _at(book, whose, name, model, ts):
                if one.price.own or upstream is not None:
                    found.append(one)
    return sorted(found, key=lambda one: (bool(one.upstream), one.listed_by != one.provider))  # who makes it first


def _listed(book: PriceBook, provider: str, model: str, ts: int) -> Iterator[Quote]:
    for name, listed_by in _names(book, provider, model):
        yield from _tiers(book, provider, "", name, ts, listed_by)


def _at(book: PriceBook, provider: str, upstream: str, model: str, ts: int) -> Iterator[Quote]:
    """At an upstream, where a model need be in nobody's list to have a price."""
    listed = book.list_name(provider) if provider else None
    names = list(_names(book, listed, model)) if listed is not None else []
    if not names and not _GLOB & set(model):
        names = [(model, None)]
    for name, listed_by in names:
        yield from _tiers(book, provider, upstream, name, ts, listed_by)


def _names(book: PriceBook, provider: str, model: str) -> Iterator[tuple[str, str | None]]:
    """The models meant, and in whose list each stands."""
    if provider not in book.file.providers:
        return
    if _GLOB & set(model):
        for listed in book.file.list_of(provider):
            if fnmatch.fnmatchcase(listed.id.lower(), model.lower()):
                yield listed.id, provider
        return
    found = book.file.find(provider, model)
    if found is not None:
        yield model, next(name for name in book.file.providers if book.file.list_of(name) is found[0])


def _tiers(
    book: PriceBook, provider: str, upstream: str, model: str, ts: int, listed_by: str | None
) -> Iterator[Quote]:
    tiers = [STANDARD]
    listed: Model | None = None
    if listed_by is not None and (found := book.file.find(listed_by, model)) is not None:
        one, listed = found
        tiers += one.tiers_of(listed)
    names = [model] if listed is None else [model, listed.id]
    tiers += [tier for tier in book.own_tiers(names, upstream or None) if tier not in tiers]
    for tier in tiers:
        word = None if tier == STANDARD else tier
        price, since, until = book.span_at(provider, model, ts, upstream or None, word)
        if price is None:
            continue
        yield Quote(provider, upstream, listed_by, tier, price, _time(since), _time(until))


def _time(ts: int) -> datetime | None:
    return None if ts in EVER else EPOCH + timedelta(microseconds=ts)


def overview(book: PriceBook, provider: str | None) -> list[tuple[str, int]]:
    """The providers of the book, and how many models each has."""
    wanted = None if provider is None else book.list_name(provider)
    names = [name for name in book.file.providers if provider is None or name == wanted]
    return [(name, sum(1 for _ in book.file.list_of(name))) for name in names]


def nearest(book: PriceBook, model: str, provider: str | None, count: int) -> list[str]:
    """Names in the book that look like it."""
    wanted = None if provider is None else book.list_name(provider)
    names = [name for name in book.file.providers if provider is None or name == wanted]
    ids = {listed.id.lower(): listed.id for name in names for listed in book.file.list_of(name)}
    return [ids[close] for close in difflib.get_close_matches(model.lower(), list(ids), n=count, cutoff=0.5)]
