"""The rows of all recorded exchanges, priced again from the ledger alone: each costs what it cost."""

from __future__ import annotations

from traffic.conftest import Journey

from fluxen.analyzer.prices import PriceBook
from fluxen.ledger.reader import Reader
from fluxen.reports.reprice import Selection, providers_of, reprice

BY_PATH = {"huggingface"}
"""Routers that have a price list for each path: a row does not say which path it was, and keeps its cost."""


def test_by_the_same_prices_nothing_is_to_be_adjusted(journey: Journey) -> None:
    reader, book, providers = Reader(journey.gateway.ledger), PriceBook.shipped(), providers_of({})
    upstreams = {str(row["upstream"]) for row in journey.rows.values()}
    total = 0
    for upstream in sorted(upstreams):
        found = reprice(reader, book, providers, Selection(upstreams=(upstream,)), forget=upstream not in BY_PATH).total
        assert (found.adjusted, found.untold) == (0, 0), upstream
        assert (found.before, found.unpriced_before) == (found.after, found.unpriced_after), upstream
        assert found.kept == 0 or upstream in BY_PATH, upstream
        total += found.requests
    priced = sum(row["usage_source"] in ("reported", "estimated") for row in journey.rows.values())
    assert total == priced > 3000
