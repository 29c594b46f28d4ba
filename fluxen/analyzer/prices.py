"""The price book: which price a provider's model had at a time.

The book is data (`prices.json`, written by packaging/build_prices.py from genai-prices): per provider a list of models
in order, each with a rule that says which names mean it, and one or more price lists with the time they apply to.

* A model is found in its provider's own list, the first rule that matches; else in the lists of the providers whose
  models it resells. A provider the book doesn't know has no prices: a self-hosted model is never billed at the price
  of the service whose name it bears.
* Of several price lists the last one that applies counts: from a date on, or daily between two times (UTC).
* A class without a price of its own has the price of the class it is a part of: cached input that of input, one-hour
  cache writes that of cache writes, reasoning that of output, audio that of text. That is how price lists are meant:
  no discount named, no discount. Input and output themselves stand in for nothing: without a price they are unknown.
* Prices may depend on the size of the whole input: above a threshold another rate holds for every token.

What is found is remembered until the next moment at which it may change, so a request pays for one dictionary lookup.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from typing import Any, Final

import msgspec

from fluxen.providers.catalogue import load_catalogue

_DAY: Final = 86_400_000_000  # µs
_EVER: Final = (-(2**62), 2**62)
_REMEMBERED: Final = 4096  # names of models that are remembered; beyond, all are forgotten and looked up anew


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


class Price(msgspec.Struct, frozen=True, gc=False):
    """What a model costs. `model` is its name in the book. `tiers`: (input tokens above which, the rates then), rising.

    `fees` are pico-dollars per call: `request`, `web_search`, `storage_search`; only `request` is part of a cost yet.
    `flat`: one rate each for input, output and cache, nothing else to consider; the common case.
    """

    model: str
    rates: Rates
    tiers: tuple[tuple[int, Rates], ...]
    fees: Mapping[str, int]
    flat: bool


class _Model(msgspec.Struct, array_like=True, gc=False):
    id: str
    match: Any
    prices: msgspec.Raw


class _Provider(msgspec.Struct):
    fallback: list[str]
    models: list[_Model]


class _File(msgspec.Struct):
    format: int
    version: str
    providers: dict[str, msgspec.Raw]


class PriceBook:
    """A price book. `version` names its content: the same version, the same prices."""

    __slots__ = ("_memo", "_names", "_opened", "_providers", "version")

    def __init__(self, data: bytes, names: Mapping[str, str | None]) -> None:
        """`names`: our providers' names in the book, None without prices; others are the same in both."""
        file = msgspec.json.decode(data, type=_File)
        if file.format != 1:
            raise ValueError(f"price book format {file.format} is not known")
        self.version = file.version
        self._providers = file.providers
        self._names = names
        self._opened: dict[str, _List] = {}
        self._memo: dict[tuple[str, str], tuple[Price | None, int, int]] = {}

    @staticmethod
    def shipped() -> PriceBook:
        """The book that came with this version of Fluxen; read on first use."""
        return _shipped()

    def find(self, provider: str, model: str, at: datetime) -> Price | None:
        """The price of a provider's model at a time (UTC if it says nothing else); None: unknown."""
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return self.find_at(provider, model, (at - _EPOCH) // timedelta(microseconds=1))

    def find_at(self, provider: str, model: str, ts: int) -> Price | None:
        """The same, with the time in microseconds since the epoch, as the ledger has it."""
        known = self._memo.get((provider, model))
        if known is None or not known[1] <= ts < known[2]:
            known = self._look_up(provider, model, ts)
        return known[0]

    def _look_up(self, provider: str, model: str, ts: int) -> tuple[Price | None, int, int]:
        found = self._model(self._names.get(provider, provider), model.lower())
        known = (None, *_EVER) if found is None else _price_at(found, ts)
        if len(self._memo) >= _REMEMBERED:
            self._memo.clear()
        self._memo[provider, model] = known
        return known

    def _model(self, provider: str | None, model: str) -> _Model | None:
        if provider is None or provider not in self._providers:
            return None
        own = self._list(provider)
        # Routers write a date without dashes where price lists have them: gpt-5.2-20251211.
        for name in dict.fromkeys((model, _COMPACT_DATE.sub(_dashed, model))):
            for one in (own, *(self._list(other) for other in own.fallback)):
                found = one.find(name)
                if found is not None:
                    return found
        return None

    def _list(self, provider: str) -> _List:
        opened = self._opened.get(provider)
        if opened is None:
            opened = self._opened[provider] = _List(msgspec.json.decode(self._providers[provider], type=_Provider))
        return opened


class _List:
    """One provider's models. Most rules are plain names: those are a dictionary, the others are tried in order."""

    __slots__ = ("_named", "_ruled", "fallback", "models")

    def __init__(self, provider: _Provider) -> None:
        self.fallback = provider.fallback
        self.models = provider.models
        self._named: dict[str, int] = {}
        self._ruled: list[int] = []
        for i, model in enumerate(provider.models):
            plain = model.match[1:] if model.match[0] == "|" else [model.match]
            if all(isinstance(rule, str) for rule in plain):
                for rule in plain:
                    self._named.setdefault(rule, i)
            else:
                self._ruled.append(i)

    def find(self, name: str) -> _Model | None:
        """The first model, in the list's order, that the name means."""
        named = self._named.get(name, len(self.models))
        for i in self._ruled:
            if i > named:
                break
            if _matches(self.models[i].match, name):
                return self.models[i]
        return self.models[named] if named < len(self.models) else None


def _matches(rule: Any, name: str) -> bool:
    if isinstance(rule, str):
        return name == rule
    kind = rule[0]
    if kind == "|":
        return any(_matches(r, name) for r in rule[1:])
    if kind == "&":
        return all(_matches(r, name) for r in rule[1:])
    text: str = rule[1]
    if kind == "^":
        return name.startswith(text)
    if kind == "$":
        return name.endswith(text)
    return text in name if kind == "~" else re.search(text, name) is not None


_COMPACT_DATE: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _dashed(found: re.Match[str]) -> str:
    try:
        return f"-{date(int(found[1]), int(found[2]), int(found[3])).isoformat()}"
    except ValueError:  # 31 February
        return found[0]


# ------------------------------------------------------------------------------------------ price lists


def _price_at(model: _Model, ts: int) -> tuple[Price, int, int]:
    """(price, from when it is surely the same, until when)."""
    lists = msgspec.json.decode(model.prices)
    chosen = lists[0]
    since, until = _EVER
    for entry in lists:
        active, edges = _applies(entry[0], ts)
        if active:
            chosen = entry
        for edge in edges:
            if edge <= ts:
                since = max(since, edge)
            else:
                until = min(until, edge)
    return _price(model.id, chosen[1], chosen[2] if len(chosen) > 2 else {}), since, until


def _applies(when: Any, ts: int) -> tuple[bool, tuple[int, ...]]:
    """Whether a price list applies, and the moments around that time at which the answer may turn."""
    if when is None:
        return True, ()
    if isinstance(when, str):
        start = (date.fromisoformat(when) - _EPOCH.date()).days * _DAY
        return ts >= start, (start,)
    midnight = ts - ts % _DAY
    start, end = (midnight + (int(t[:2]) * 60 + int(t[3:])) * 60_000_000 for t in when)
    active = start <= ts < end if start <= end else ts >= start or ts < end
    return active, tuple(edge + day for edge in (start, end) for day in (-_DAY, 0, _DAY))


def _price(model: str, tokens: dict[str, Any], fees: dict[str, int]) -> Price:
    starts = sorted({step[0] for value in tokens.values() if isinstance(value, list) for step in value[1:]})
    rates = _rates({name: value[0] if isinstance(value, list) else value for name, value in tokens.items()})
    tiers = tuple((start, _rates({name: _above(value, start) for name, value in tokens.items()})) for start in starts)
    usual = (rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.output)
    flat = not tiers and None not in usual and rates.reasoning is None and "request" not in fees
    return Price(model, rates, tiers, fees, flat)


def _above(value: Any, start: int) -> int:
    if not isinstance(value, list):
        return int(value)
    return int(next((price for step, price in reversed(value[1:]) if step <= start), value[0]))


def _rates(prices: dict[str, int]) -> Rates:
    fresh = prices.get("input")
    write = prices.pop("cache_write", fresh)
    own: dict[str, int | None] = {"cache_read": fresh, "cache_write_5m": write, "cache_write_1h": write, **prices}
    return Rates(**own)


@functools.cache
def _shipped() -> PriceBook:
    names = {key: provider.price_list for key, provider in load_catalogue().items()}
    return PriceBook(resources.files(__package__).joinpath("prices.json").read_bytes(), names)
