"""The cost of a request that was recorded before, by another price book: from its row alone.

What was used is never read anew: the counts in the row stand. The provider's own usage object, kept beside them, only
adds what the counts don't tell and a price may depend on: which tokens were audio, what was called how often, which
part ran on another model. Where the two disagree (another version of Fluxen read it, or it was shortened to be kept)
the counts decide, and where those are not enough to know the price nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fluxen.analyzer.cost import NOTHING, UNKNOWN, Cost, answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import Leg, Reading, Usage, reread


class Recorded(msgspec.Struct, gc=False):
    """What a row says, by the names of its columns. `ts`: microseconds since the epoch."""

    ts: int
    dialect: str | None
    endpoint: str | None
    upstream: str | None
    model_asked: str | None
    model: str | None
    service_tier: str | None
    usage_source: str | None
    usage_raw: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_5m_tokens: int | None
    cache_write_1h_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    audio_tokens: int | None
    image_tokens: int | None
    searches: int | None
    tool_calls: int | None


PRICED: Final = ("reported", "estimated")
"""The sources of usage that have a price. What is partial or unknown stays unpriced, whatever tokens cost."""

_COUNTS: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio", "image")


def reprice(book: PriceBook, provider: str, row: Recorded) -> Cost | None:
    """What it cost by this book, at its time; no total: it has no price there. None: the row doesn't tell enough."""
    if row.usage_source == "none":
        return NOTHING
    if row.usage_source not in PRICED:
        return UNKNOWN
    used = _used(row)
    if used is None:
        return None
    usage, legs = used
    reading = Reading(model=row.model, usage=usage, source="reported", legs=legs, tier=row.service_tier)
    return answer_cost(book, provider, row.upstream, reading, row.model_asked, row.ts)


def _used(row: Recorded) -> tuple[Usage, tuple[Leg, ...]] | None:
    raw = row.usage_raw
    tally = reread(row.dialect or "", row.endpoint or "", raw.encode("utf-8", "replace")) if raw else None
    if tally is not None and _calls_agree(row, tally.usage.calls):
        if _agree(row, tally.usage):
            # Of an estimate the provider told one side, and its parts are not what was counted.
            return tally.usage, tally.legs if row.usage_source == "reported" else ()
        if row.usage_source == "estimated":
            counted = {"output": row.output_tokens or 0, "reasoning": row.reasoning_tokens or 0}
            usage = msgspec.structs.replace(tally.usage, **counted)
            if _agree(row, usage):
                return usage, ()
    if row.input_tokens is None and row.output_tokens is None:
        return None
    if row.audio_tokens or row.image_tokens or row.searches or row.tool_calls:
        return None  # in or out, which tool: that the counts don't say
    counts: dict[str, Any] = {name: getattr(row, f"{name}_tokens") or 0 for name in _COUNTS}
    return Usage(**counts), ()


def _agree(row: Recorded, usage: Usage) -> bool:
    for name in _COUNTS:
        told = getattr(row, f"{name}_tokens")
        if told is not None and told != getattr(usage, name):
            return False
    return True


def _calls_agree(row: Recorded, calls: Mapping[str, int] | None) -> bool:
    """Rows of before calls were counted say nothing of them: then the usage object is all there is."""
    if row.searches is None and row.tool_calls is None:
        return True
    searches = sum(count for name, count in (calls or {}).items() if "search" in name)
    others = sum((calls or {}).values()) - searches
    return searches == (row.searches or 0) and others == (row.tool_calls or 0)
