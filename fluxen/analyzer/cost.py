"""Money, in whole pico-dollars: tokens times price, and None wherever either is unknown."""

from __future__ import annotations

from fluxen.analyzer.prices import Price, PriceBook, Rates
from fluxen.analyzer.usage import Reading
from fluxen.providers.answer import Modalities, Usage


def answer_cost(book: PriceBook, provider: str, reading: Reading, asked: str | None, ts: int) -> int | None:
    """What an answer cost at `ts` (µs since the epoch); 0 for one that is free, None for one whose cost is not known.

    The model that answered sets the price, else the one that was asked for. A router's `vendor/model` alone says what
    ran: the name that was asked for must not stand in for it.
    """
    if reading.source == "none":
        return 0
    if reading.source != "reported" or reading.usage is None:
        return None
    price = None
    if reading.model is not None:
        price = book.find_at(provider, reading.model, ts)
    if price is None and asked is not None and (reading.model is None or "/" not in reading.model):
        price = book.find_at(provider, asked.removeprefix("models/"), ts)
    if not reading.legs:
        return cost_pico(price, reading.usage)
    cost = 0
    for leg in reading.legs:
        own = price if leg.model is None else book.find_at(provider, leg.model, ts)
        part = cost_pico(own, leg.usage)
        if part is None:
            return None
        cost += part
    return cost


def cost_pico(price: Price | None, usage: Usage) -> int | None:
    """Tokens times price. None if there is no price for a class that was used, or the counts contradict each other."""
    if price is None:
        return None
    rates = price.rates
    if price.flat and usage.modalities is None:
        return (
            usage.input * rates.input  # type: ignore[operator]
            + usage.cache_read * rates.cache_read  # type: ignore[operator]
            + usage.cache_write_5m * rates.cache_write_5m  # type: ignore[operator]
            + usage.cache_write_1h * rates.cache_write_1h  # type: ignore[operator]
            + usage.output * rates.output  # type: ignore[operator]
        )
    total_input = usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    for start, above in price.tiers:
        if total_input > start:
            rates = above
    return _by_class(rates, usage, price.fees.get("request", 0))


def _by_class(rates: Rates, usage: Usage, cost: int) -> int | None:
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
