"""Money, in whole pico-dollars: tokens times price, and None wherever either is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fluxen.analyzer.prices import Price, PriceBook, Rates
from fluxen.analyzer.usage import Reading
from fluxen.providers.answer import Modalities, Usage


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What something costs. `total` pico-dollars, of which `fees` are for calls and requests, not for tokens; both None
    when something that is billed has no known price. `model`: whose price it is, by its name in the book."""

    total: int | None = None
    fees: int | None = None
    model: str | None = None


NOTHING: Final = Cost(0, 0)
UNKNOWN: Final = Cost()


def answer_cost(
    book: PriceBook, provider: str, upstream: str | None, reading: Reading, asked: str | None, ts: int
) -> Cost:
    """What an answer cost at `ts` (µs since the epoch): nothing if it is free; no total if that is not known.

    The model that answered sets the price, else the one that was asked for. A router's `vendor/model` alone says what
    ran: the name that was asked for must not stand in for it.
    """
    if reading.source == "none":
        return NOTHING
    usage = reading.usage
    if usage is None or reading.source not in ("reported", "estimated"):
        return UNKNOWN
    model, tier = reading.model, reading.tier
    price = None
    if model is not None:
        price = book.find_at(provider, model, ts, upstream, tier, asked)
    if price is None and asked is not None and (model is None or "/" not in model):
        price = book.find_at(provider, asked.removeprefix("models/"), ts, upstream, tier)
    if not reading.legs:
        return price_of(price, usage)
    tokens = 0
    for leg in reading.legs:
        own = price if leg.model is None else book.find_at(provider, leg.model, ts, upstream, tier)
        part = None if own is None else _tokens(own, leg.usage)
        if part is None:
            return UNKNOWN if price is None else Cost(model=price.model)
        tokens += part
    return UNKNOWN if price is None else _sum(price, tokens, usage.calls)


def cost_of(
    book: PriceBook, provider: str, upstream: str | None, model: str, usage: Usage, tier: str | None, ts: int
) -> Cost:
    """What this usage of a model costs at `ts` (µs since the epoch), in a tier (None: the standard one)."""
    return price_of(book.find_at(provider, model, ts, upstream, tier), usage)


def cost_pico(price: Price | None, usage: Usage) -> int | None:
    """Tokens and calls times price. None if there is no price for what was used, or the counts contradict each
    other."""
    return price_of(price, usage).total


def price_of(price: Price | None, usage: Usage) -> Cost:
    """The same, with what it is made of."""
    if price is None:
        return UNKNOWN
    if price.flat and usage.modalities is None and usage.calls is None:
        rates = price.rates
        return Cost(
            usage.input * rates.input  # type: ignore[operator]
            + usage.cache_read * rates.cache_read  # type: ignore[operator]
            + usage.cache_write_5m * rates.cache_write_5m  # type: ignore[operator]
            + usage.cache_write_1h * rates.cache_write_1h  # type: ignore[operator]
            + usage.output * rates.output,  # type: ignore[operator]
            0,
            price.model,
        )
    return _sum(price, _tokens(price, usage), usage.calls)


def _sum(price: Price, tokens: int | None, calls: Mapping[str, int] | None) -> Cost:
    share = price.share
    if share is not None and not share[0]:
        return Cost(0, 0, price.model)  # free, whatever it is that was used
    fees = _fees(price, calls)
    if tokens is None or fees is None:
        return Cost(model=price.model)
    if share is None:
        return Cost(tokens + fees, fees, price.model)
    return Cost(_part(tokens + fees, share), _part(fees, share), price.model)


def _part(amount: int, share: tuple[int, int]) -> int:
    """That part of it, to the nearest pico-dollar: once for the sum, so that nothing adds up."""
    numerator, denominator = share
    return (2 * amount * numerator + denominator) // (2 * denominator)


def _fees(price: Price, calls: Mapping[str, int] | None) -> int | None:
    fees = price.fees.get("request", 0)
    for name, count in (calls or {}).items():
        if count:
            fee = price.fees.get(name)
            if fee is None:
                return None
            fees += count * fee
    return fees


def _tokens(price: Price, usage: Usage) -> int | None:
    rates = price.rates
    total_input = usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    for start, above in price.tiers:
        if total_input > start:
            rates = above
    return _by_class(rates, usage)


def _by_class(rates: Rates, usage: Usage) -> int | None:
    """The general case: what has a rate of its own is taken out of the class it is a part of."""
    fresh, read, output = usage.input, usage.cache_read, usage.output
    priced: list[tuple[int, int | None]] = [
        (usage.cache_write_5m, rates.cache_write_5m),
        (usage.cache_write_1h, rates.cache_write_1h),
    ]
    for inputs, cached, outputs, input_rate, cached_rate, output_rate in _kinds(rates, usage.modalities):
        if input_rate is not None:
            fresh -= inputs - cached
            read -= cached
            priced += ((inputs - cached, input_rate), (cached, input_rate if cached_rate is None else cached_rate))
        if output_rate is not None:
            output -= outputs
            priced.append((outputs, output_rate))
    if rates.reasoning is not None:
        output -= usage.reasoning
        priced.append((usage.reasoning, rates.reasoning))
    priced += ((fresh, rates.input), (read, rates.cache_read), (output, rates.output))
    cost = 0
    for tokens, rate in priced:
        if tokens < 0 or (tokens and rate is None):
            return None
        cost += tokens * (rate or 0)
    return cost


_Kind = tuple[int, int, int, int | None, int | None, int | None]


def _kinds(r: Rates, m: Modalities | None) -> tuple[_Kind, ...]:
    """Per kind that is not text: tokens of input, of its cached part and of output, and the rates of the three."""
    if m is None:
        return ()
    return (
        (m.input_audio, m.cache_read_audio, m.output_audio, r.input_audio, r.cache_read_audio, r.output_audio),
        (m.input_image, m.cache_read_image, m.output_image, r.input_image, r.cache_read_image, r.output_image),
        (m.input_video, m.cache_read_video, m.output_video, r.input_video, None, r.output_video),
    )
