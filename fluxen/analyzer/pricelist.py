"""The file of a price book: whose model a name means, and what it cost at a time and in a tier of service.

The file is data (`packaging/prices.json`, written by packaging/build_prices.py; it is shipped packed). Per provider it
holds a list of models in order, each with a rule that says which names mean it, and one or more price lists with the
time they apply to.

* A model is found in its provider's own list, the first rule that matches; else in the lists of the providers whose
  models it resells. A provider the file doesn't know has no prices: a self-hosted model is never billed at the price
  of the service whose name it bears.
* Of several price lists the last one that applies counts: from a date on, or daily between two times (UTC).
* A class without a price of its own has the price of the class it is a part of: cached input that of input, one-hour
  cache writes that of cache writes, reasoning that of output, audio that of text. That is how price lists are meant:
  no discount named, no discount. Input and output themselves stand in for nothing: without a price they are unknown.
* Prices may depend on the size of the whole input: above a threshold another rate holds for every token.
* A tier of service (batch, flex, priority …) has prices of its own, some or all, or a share of the standard ones. What
  the file says nothing of has no price: it is not billed at the standard one. Nor has it one where the model is found
  in another provider's list: how a reseller prices its tiers is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

FORMAT: Final = 2
STANDARD: Final = "standard"
EVER: Final = (-(2**62), 2**62)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400_000_000  # µs
_COMPACT_DATE: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")

Tokens = dict[str, Any]
"""Pico-dollars per token by class: a number, or [number, [input tokens above which, number], …]."""


class Rates(msgspec.Struct, frozen=True, gc=False):
    """Pico-dollars per token of each class; None: unknown (the first five) or the same as text (the others)."""

    input: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    output: int | None = None
    reasoning: int | None = None
    input_audio: int | None = None
    input_image: int | None = None
    input_video: int | None = None
    cache_read_audio: int | None = None
    cache_read_image: int | None = None
    output_audio: int | None = None
    output_image: int | None = None
    output_video: int | None = None


CLASSES: Final = frozenset((*Rates.__struct_fields__, "cache_write")) - {"cache_write_5m"}
"""Names of classes in the file. `cache_write` is any write without a price of its own."""


class Price(msgspec.Struct, frozen=True, gc=False):
    """What a model costs. `model` is its name in the book. `tiers`: (input tokens above which, the rates then), rising.

    `fees` are pico-dollars per call by the fee's name (`request`: of every request). `share`: (numerator, denominator)
    of the sum that is really billed; None: all of it. `own`: whether the price is one of the configuration's.
    `flat`: one rate each for input, output and cache, nothing else to consider; the common case.
    """

    model: str
    rates: Rates
    tiers: tuple[tuple[int, Rates], ...]
    fees: Mapping[str, int]
    flat: bool
    share: tuple[int, int] | None = None
    own: bool = False

    @staticmethod
    def of(
        model: str, tokens: Tokens, fees: Mapping[str, int], share: tuple[int, int] | None = None, own: bool = False
    ) -> Price:
        starts = sorted({step[0] for value in tokens.values() if isinstance(value, list) for step in value[1:]})
        rates = _rates({name: value[0] if isinstance(value, list) else value for name, value in tokens.items()})
        tiers = tuple(
            (start, _rates({name: _above(value, start) for name, value in tokens.items()})) for start in starts
        )
        usual = (rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.output)
        plain = not tiers and None not in usual and rates.reasoning is None
        return Price(model, rates, tiers, fees, plain and "request" not in fees and share is None, share, own)


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What the file says of a model at a time. It holds from `since` until `until`, µs since the epoch; `tokens` None:
    the tier has no price here."""

    model: str
    tokens: Tokens | None
    fees: Mapping[str, int]
    since: int
    until: int


class Model(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """`prices`: [when, tokens, fees?], the last that applies counts, else the first. `variants`: [tier, when, tokens,
    fees?], of each class the first that applies counts; what they leave out costs what it does in the standard tier."""

    id: str
    match: Any
    prices: list[list[Any]]
    variants: list[list[Any]] = []


class Share(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A tier that costs numerator/denominator of the standard tier, in all token classes, for the models matched that
    say nothing of it themselves."""

    tier: str
    numerator: int
    denominator: int
    match: Any


class DefaultFee(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Pico-dollars per call of something, for the models matched that say nothing of it themselves."""

    name: str
    amount: int
    match: Any


class Provider(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`tiers`: its own words for tiers of service, where they mean something else than they usually do."""

    fallback: list[str]
    models: list[msgspec.Raw]
    tiers: dict[str, str] = {}
    shares: list[Share] = []
    fees: list[DefaultFee] = []


class File(msgspec.Struct, gc=False):
    """`tiers`: providers' words for tiers of service, and what we call them; others are their own names."""

    format: int
    version: str
    source: str
    tiers: dict[str, str]
    providers: dict[str, msgspec.Raw]


class PriceFile:
    """A file, opened piece by piece as it is needed. Raises ValueError for one that isn't a price book."""

    __slots__ = ("_lists", "_providers", "_tiers", "source", "version")

    def __init__(self, data: bytes) -> None:
        file = msgspec.json.decode(data, type=File)
        if file.format != FORMAT:
            raise ValueError(f"price book format {file.format} is not known")
        self.version = file.version
        self.source = file.source
        self._tiers = file.tiers
        self._providers = file.providers
        self._lists: dict[str, PriceList] = {}

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._providers)

    def same_as(self, other: PriceFile) -> bool:
        """Whether they say the same."""
        mine, theirs = (
            {name: msgspec.json.decode(raw) for name, raw in one._providers.items()} for one in (self, other)
        )
        return mine == theirs and self._tiers == other._tiers

    def models(self) -> dict[tuple[str, str], list[Model]]:
        """What is said of each model, by provider and id, for comparison."""
        found: dict[tuple[str, str], list[Model]] = {}
        for name in self._providers:
            for model in self.list_of(name):
                found.setdefault((name, model.id), []).append(model)
        return found

    def list_of(self, provider: str) -> PriceList:
        """The models of a provider that the file knows."""
        opened = self._lists.get(provider)
        if opened is None:
            opened = PriceList(msgspec.json.decode(self._providers[provider], type=Provider))
            self._lists[provider] = opened
        return opened

    def tier(self, provider: str | None, word: str | None) -> str:
        """What a provider's word for how it served a request means; STANDARD for none."""
        if word is None:
            return STANDARD
        said = word.strip().lower()
        if provider in self._providers and said in (own := self.list_of(provider).tiers):
            return own[said]
        return self._tiers.get(said, said)

    def find(self, provider: str | None, model: str) -> tuple[PriceList, Model] | None:
        """The model that a provider's name means, and the list it stands in."""
        if provider is None or provider not in self._providers:
            return None
        name = model.lower()
        own = self.list_of(provider)
        # Routers write a date without dashes where price lists have them: gpt-5.2-20251211.
        for spelt in dict.fromkeys((name, _COMPACT_DATE.sub(_dashed, name))):
            for one in (own, *(self.list_of(other) for other in own.fallback)):
                found = one.find(spelt)
                if found is not None:
                    return one, found
        return None

    def terms(self, provider: str | None, model: str, ts: int, tier: str) -> Terms | None:
        """What the file says of a model at a time; None: it doesn't know it."""
        found = self.find(provider, model)
        if found is None:
            return None
        one, listed = found
        assert provider is not None
        return terms_of(one, listed, ts, tier, at_home=one is self.list_of(provider))


class PriceList:
    """One provider's models. Most rules are plain names: those are a dictionary, the others are tried in order."""

    __slots__ = ("_fees", "_named", "_opened", "_raw", "_ruled", "_shares", "fallback", "tiers")

    def __init__(self, provider: Provider) -> None:
        self.fallback = provider.fallback
        self.tiers = provider.tiers
        self._shares = provider.shares
        self._fees = provider.fees
        self._raw = provider.models
        self._opened: dict[int, Model] = {}
        self._named: dict[str, int] = {}
        self._ruled: list[tuple[int, Any]] = []
        for i, raw in enumerate(provider.models):
            rule = msgspec.json.decode(raw, type=_Named).match
            plain = rule[1:] if rule[0] == "|" else [rule]
            if all(isinstance(name, str) for name in plain):
                for name in plain:
                    self._named.setdefault(name, i)
            else:
                self._ruled.append((i, rule))

    def __iter__(self) -> Iterator[Model]:
        return (self._model(i) for i in range(len(self._raw)))

    def _model(self, i: int) -> Model:
        model = self._opened.get(i)
        if model is None:
            model = self._opened[i] = msgspec.json.decode(self._raw[i], type=Model)
        return model

    def find(self, name: str) -> Model | None:
        """The first model, in the list's order, that the name means."""
        found = self._named.get(name, len(self._raw))
        for i, rule in self._ruled:
            if i > found:
                break
            if matches(rule, name):
                found = i
        return self._model(found) if found < len(self._raw) else None

    def share(self, model: Model, tier: str) -> tuple[int, int] | None:
        """What a tier of a model costs as a part of the standard price, where the provider has a rule for it."""
        for share in self._shares:
            if share.tier == tier and matches(share.match, model.id.lower()):
                return share.numerator, share.denominator
        return None

    def fees(self, model: Model) -> dict[str, int]:
        """Fees of calls that hold for the provider's models at large, the first rule for each."""
        found: dict[str, int] = {}
        for fee in self._fees:
            if matches(fee.match, model.id.lower()):
                found.setdefault(fee.name, fee.amount)
        return found

    def tiers_of(self, model: Model) -> list[str]:
        """The tiers beside the standard one that a model has had a price in at some time."""
        names = [entry[0] for entry in model.variants]
        names += [share.tier for share in self._shares if matches(share.match, model.id.lower())]
        return list(dict.fromkeys(names))


class _Named(msgspec.Struct, array_like=True, gc=False):
    id: str
    match: Any


def matches(rule: Any, name: str) -> bool:
    """Whether a name meets a rule: text is equality, ["^" …] begins, ["$" …] ends, ["~" …] contains, ["r" …] is a
    regular expression, ["|" …] any of them, ["&" …] all."""
    if isinstance(rule, str):
        return name == rule
    kind = rule[0]
    if kind == "|":
        return any(matches(r, name) for r in rule[1:])
    if kind == "&":
        return all(matches(r, name) for r in rule[1:])
    text: str = rule[1]
    if kind == "^":
        return name.startswith(text)
    if kind == "$":
        return name.endswith(text)
    return text in name if kind == "~" else re.search(text, name) is not None


def _dashed(found: re.Match[str]) -> str:
    try:
        return f"-{date(int(found[1]), int(found[2]), int(found[3])).isoformat()}"
    except ValueError:  # 31 February
        return found[0]


# ------------------------------------------------------------------------------------------ at a time


def terms_of(one: PriceList, model: Model, ts: int, tier: str, *, at_home: bool = True) -> Terms:
    """What a model costs at a time. at_home: it was asked of the provider in whose list it stands."""
    chosen = model.prices[0]
    window = _Window(ts)
    for entry in model.prices:
        if window.applies(entry[0]):
            chosen = entry
    tokens: Tokens | None = chosen[1]
    fees: Mapping[str, int] = chosen[2] if len(chosen) > 2 else {}
    if tier != STANDARD:
        tokens, fees = _in_tier(one, model, tier, chosen[1], fees, window) if at_home else (None, {})
    if at_home and (defaults := one.fees(model)):
        fees = {**defaults, **fees}
    return Terms(model.id, tokens, fees, window.since, window.until)


def _in_tier(
    one: PriceList, model: Model, tier: str, standard: Tokens, fees: Mapping[str, int], window: _Window
) -> tuple[Tokens | None, Mapping[str, int]]:
    own: Tokens = {}
    own_fees: dict[str, int] = {}
    known = False
    for entry in model.variants:
        if entry[0] == tier and window.applies(entry[1]):
            known = True
            own = {**entry[2], **own}
            own_fees = {**(entry[3] if len(entry) > 3 else {}), **own_fees}
    if known:
        return {**standard, **own}, {**fees, **own_fees}
    share = one.share(model, tier)
    if share is None:
        return None, fees
    return {name: _shared(value, *share) for name, value in standard.items()}, fees


def _shared(value: Any, numerator: int, denominator: int) -> Any:
    """Whoever writes the file sees to it that this leaves no remainder."""
    if isinstance(value, list):
        return [
            _shared(value[0], numerator, denominator),
            *([s, _shared(p, numerator, denominator)] for s, p in value[1:]),
        ]
    return value * numerator // denominator


class _Window:
    """Between which moments around one nothing turns."""

    __slots__ = ("since", "ts", "until")

    def __init__(self, ts: int) -> None:
        self.ts = ts
        self.since, self.until = EVER

    def applies(self, when: Any) -> bool:
        """Whether something applies at the moment, noting when that may turn."""
        if when is None:
            return True
        ts = self.ts
        if isinstance(when, str):
            start = microseconds(date.fromisoformat(when))
            self._edge(start)
            return ts >= start
        midnight = ts - ts % _DAY
        start, end = (midnight + (int(t[:2]) * 60 + int(t[3:])) * 60_000_000 for t in when)
        for edge in (start, end):
            for day in (-_DAY, 0, _DAY):
                self._edge(edge + day)
        return start <= ts < end if start <= end else ts >= start or ts < end

    def _edge(self, edge: int) -> None:
        if edge <= self.ts:
            self.since = max(self.since, edge)
        else:
            self.until = min(self.until, edge)


def microseconds(day: date) -> int:
    """The beginning of a day, UTC, since the epoch."""
    return (day - EPOCH.date()).days * _DAY


def _above(value: Any, start: int) -> int:
    if not isinstance(value, list):
        return int(value)
    return int(next((price for step, price in reversed(value[1:]) if step <= start), value[0]))


def _rates(prices: dict[str, int]) -> Rates:
    fresh = prices.get("input")
    write = prices.pop("cache_write", fresh)
    own: dict[str, int | None] = {"cache_read": fresh, "cache_write_5m": write, "cache_write_1h": write, **prices}
    return Rates(**own)
