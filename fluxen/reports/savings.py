"""What reading from providers' caches saved: what the same tokens would have cost afresh, at the prices of their time.

The extra price of writing into a cache is deducted, so a saving may be negative. Prices are those of text; of an input
with cached audio or images only a provider's bill knows better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fluxen.reports.query import TOTAL, Database, Row, Scope, run_flat

if TYPE_CHECKING:
    from fluxen.analyzer.prices import Price, PriceBook, Rates

SAVED: Final = "provider_saved_usd"
UNKNOWN: Final = "unknown_saving"
_KEYS: Final = ("upstream", "model", "model_asked", "service_tier", "hour", "size")
_PICO: Final = Decimal("1e-12")


class Savings:
    """Puts provider_saved_usd beside each group: the sum of what is known, None when nothing is; and unknown_saving,
    the requests whose prices are not known. providers: who bills an upstream."""

    def __init__(self, book: PriceBook, providers: Callable[[str], str]) -> None:
        self._book = book
        self._providers = providers

    def __call__(self, database: Database, scope: Scope, rows: Sequence[Row]) -> None:
        found = _cached(database, scope, ())
        thresholds = sorted({start for row in found for start, _ in _tiers(self._price(row))})
        if thresholds:  # only now is known at which sizes of input prices change
            found = _cached(database, scope, thresholds)
        width = len(scope.by.names)
        sums: dict[tuple[Any, ...], list[int | None]] = {}
        for row in found:
            saved = self._saved(row, thresholds)
            groups = [tuple(row[f"d{index}"] for index in range(width))] if width else []
            for key in (*groups, ()):
                known = sums.setdefault(key, [None, 0])
                if saved is None:
                    known[1] = (known[1] or 0) + row["requests"]
                else:
                    known[0] = (known[0] or 0) + saved
        for row in rows:
            key = () if row[TOTAL] else tuple(row[f"d{index}"] for index in range(width))
            pico, lacking = sums.get(key, [0, 0])
            row[SAVED] = None if pico is None else pico * _PICO
            row[UNKNOWN] = lacking

    def _price(self, row: Row) -> Price | None:
        provider = self._providers(row["upstream"] or "")
        ts = int(row["hour"].replace(tzinfo=UTC).timestamp()) * 1_000_000
        model, asked, tier = row["model"], row["model_asked"], row["service_tier"]
        price = None
        if model is not None:
            price = self._book.find_at(provider, model, ts, row["upstream"], tier, asked)
        if price is None and asked is not None and (model is None or "/" not in model):
            price = self._book.find_at(provider, asked.removeprefix("models/"), ts, row["upstream"], tier)
        return price

    def _saved(self, row: Row, thresholds: Sequence[int]) -> int | None:
        """Pico-dollars; None where a price is not known."""
        price = self._price(row)
        if price is None:
            return None
        rates = price.rates
        above = thresholds[row["size"] - 1] if row["size"] else None
        for start, tier in price.tiers:
            if above is not None and start <= above:
                rates = tier
        saved = _difference(rates, row)
        if saved is None or price.share is None:
            return saved
        numerator, denominator = price.share
        return saved * numerator // denominator


def _cached(database: Database, scope: Scope, thresholds: Iterable[int]) -> list[Row]:
    sizes = " + ".join(f"CASE WHEN prompt_tokens > {start} THEN 1 ELSE 0 END" for start in thresholds) or "0"
    more: Mapping[str, str] = {**scope.more, "sizes": sizes}
    return run_flat(database, "cache_savings", replace(scope, more=more), _KEYS)


def _tiers(price: Price | None) -> Sequence[tuple[int, Rates]]:
    return () if price is None else price.tiers


def _difference(rates: Rates, row: Row) -> int | None:
    fresh = rates.input
    if fresh is None:
        return None
    saved = 0
    for tokens, rate in (
        (row["cache_read_tokens"], rates.cache_read),
        (row["cache_write_5m_tokens"], rates.cache_write_5m),
        (row["cache_write_1h_tokens"], rates.cache_write_1h),
    ):
        if tokens:
            if rate is None:
                return None
            saved += int(tokens) * (fresh - rate)
    return saved
