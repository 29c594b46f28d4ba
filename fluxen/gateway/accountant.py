"""From an answer's copy to the row: usage, model and cost. The one place where the data plane meets the analyzer."""

from __future__ import annotations

import msgspec

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import (
    Reading,
    Usage,
    billing,
    read_answer,
    read_clipped,
    read_stream,
    tells_input_first,
)
from fluxen.gateway.meter import Meter
from fluxen.gateway.questions import Counted
from fluxen.gateway.routes import Upstream
from fluxen.ledger.record import Begin, End

_NOTHING = Reading()


class Accountant:
    """Fills in what a request used and what it cost. What nobody can know stays None."""

    def __init__(self, book: PriceBook | None = None) -> None:
        self._book = PriceBook.shipped() if book is None else book

    def use(self, book: PriceBook) -> None:
        """Other prices, from the next row on."""
        self._book = book

    @property
    def price_version(self) -> str:
        return self._book.version

    def account(
        self,
        end: End,
        upstream: Upstream | None,
        meter: Meter | None,
        *,
        billable: bool,
        answered: bool,
        complete: bool,
    ) -> Reading:
        """Complete a row by what the answer says, and return that. billable: a request that a provider bills has been
        sent; answered: the head of the answer came; complete: so did its end."""
        reading = _NOTHING
        if billable and not (answered and (end.status or 0) >= 300):
            reading = _read(end, meter, complete)
        end.usage_source = reading.source
        end.finish = reading.finish
        end.model = reading.model
        if reading.raw is not None:
            end.usage_raw = reading.raw.decode("utf-8", "replace")
        end.stated_cost_pico = reading.stated_cost_pico
        end.stated_cost_source = reading.stated_source
        end.service_tier = reading.tier
        usage = reading.usage
        if usage is not None:
            _fill(end, usage)
        self._price(end, upstream, reading)
        return reading

    def estimated(self, end: End, upstream: Upstream | None, reading: Reading, counted: Counted) -> None:
        """Complete a row by what was counted of an answer that told nothing, or that broke off before it told all.
        reading: what it did tell; its input stands, and so does an output that is more than what could be seen."""
        usage, error = reading.usage or Usage(), counted.error
        if counted.output > usage.output:
            reasoning = max(usage.reasoning, counted.reasoning)
            usage = msgspec.structs.replace(usage, output=counted.output, reasoning=reasoning)
        if told_input(usage):
            told = usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
            error = counted.output_error * usage.output / (told + usage.output)
        else:
            usage = msgspec.structs.replace(usage, input=counted.input)
        _fill(end, usage)
        end.usage_source = "estimated"
        end.usage_error = error
        self._price(end, upstream, msgspec.structs.replace(reading, usage=usage, source="estimated", legs=()))

    @staticmethod
    def countable(end: End, reading: Reading, *, whole: bool) -> bool:
        """Whether a row that the answer did not complete can be completed by counting. whole: nothing of it is
        missing, so that a count of one side is all that its provider tells."""
        if billing(end.dialect or "", end.endpoint or "") != "tokens":
            return False
        return reading.source == "unknown" or (reading.source == "partial" and not whole and not reading.legs)

    @staticmethod
    def input_told_first(begin: Begin) -> bool:
        """Whether a stream tells the count of its input so soon that the request need not be kept for it."""
        return tells_input_first(begin.dialect or "", begin.endpoint or "")

    def _price(self, end: End, upstream: Upstream | None, reading: Reading) -> None:
        name, provider = ("", "") if upstream is None else (upstream.name, upstream.provider)
        cost = answer_cost(self._book, provider, name, reading, end.model_asked, end.ts)
        end.cost_pico = cost.total
        end.fees_pico = cost.fees
        end.price_version = self._book.version


def told_input(usage: Usage | None) -> bool:
    """Whether a provider said how much the input was."""
    return usage is not None and bool(usage.input or usage.cache_read or usage.cache_write_5m or usage.cache_write_1h)


def _fill(end: End, usage: Usage) -> None:
    end.input_tokens = usage.input
    end.cache_read_tokens = usage.cache_read
    end.cache_write_5m_tokens = usage.cache_write_5m
    end.cache_write_1h_tokens = usage.cache_write_1h
    end.output_tokens = usage.output
    end.reasoning_tokens = usage.reasoning
    end.audio_tokens = usage.audio
    end.image_tokens = usage.image
    if usage.calls is not None:
        end.searches = sum(count for name, count in usage.calls.items() if "search" in name)
        end.tool_calls = sum(usage.calls.values()) - end.searches


def _read(end: End, meter: Meter | None, complete: bool) -> Reading:
    dialect, endpoint = end.dialect or "openai", end.endpoint or ""
    if meter is None or meter.failed:
        return read_answer(dialect, endpoint, 200, b"", None if meter is None else meter.counts)
    if meter.streamed:
        return read_stream(dialect, endpoint, 200, *meter.ends(), complete)
    if meter.clipped or not complete:
        return read_clipped(dialect, endpoint, 200, meter.head(), meter.tail(), meter.counts)
    return read_answer(dialect, endpoint, 200, meter.head(), meter.counts)
