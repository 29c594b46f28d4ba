"""The calculator against an independent calculation over all recorded traffic, whoever the provider: the same tokens
must cost the same, to the pico-dollar. How the tokens are read is for test_recorded.py."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from analyzer.differences import EXPLAINED, ROUNDED, UNPRICED, agrees, why
from analyzer.recorded import Recorded

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import Leg, Modalities, Reading, Usage

NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * 10**6
SOURCES = {"reported": "reported", "partial": "partial", "error": "none", "count_only": "none"}


def usage_of(tokens: dict[str, int]) -> Usage:
    """The classes of the expected file as ours."""
    plain = {name: count for name, count in tokens.items() if name in Usage.__struct_fields__}
    modal = {name: count for name, count in tokens.items() if name in Modalities.__struct_fields__ and count}
    return Usage(**plain, modalities=Modalities(**modal) if modal else None)


def reading_of(recorded: Recorded) -> Reading:
    expected: dict[str, Any] = recorded.expected
    tokens = expected["tokens"]
    return Reading(
        model=expected["model_response"],
        usage=usage_of(tokens) if tokens else None,
        source=SOURCES.get(expected["basis"], "unknown"),  # type: ignore[arg-type]
        legs=tuple(Leg(leg["model"], usage_of(leg["tokens"])) for leg in expected["legs"]),
    )


def test_the_same_tokens_cost_the_same(recorded: list[Recorded]) -> None:
    book = PriceBook.shipped()
    differs: dict[str, int | None] = {}
    priced: Counter[str] = Counter()
    for r in recorded:
        provider = r.expected["price_provider"] or ""
        cost = answer_cost(book, provider, None, reading_of(r), r.exchange["model_requested"], NOON)
        if not agrees(cost.total, r.expected):
            differs[r.id] = cost.total
        elif cost.total:
            priced[r.exchange["provider"]] += 1
    assert {id: why(id) for id in differs} == {
        id: reason for id in differs if (reason := why(id)) in (ROUNDED, UNPRICED)
    }, differs
    assert len(differs) == 3
    assert priced.total() > 1_700 and len(priced) >= 15


def test_what_was_rounded_is_off_by_less_than_a_billionth_of_a_dollar(recorded: list[Recorded]) -> None:
    (found,) = (r for r in recorded if why(r.id) == ROUNDED)
    cost = answer_cost(
        PriceBook.shipped(), "openrouter", None, reading_of(found), found.exchange["model_requested"], NOON
    )
    assert cost.total is not None
    assert abs(cost.total - Decimal(found.expected["cost_usd"]) * 10**12) < 1_000


def test_the_list_of_differences_names_what_is_recorded(recorded: list[Recorded]) -> None:
    """Each entry means one exchange, and none that would agree anyway."""
    for end in EXPLAINED:
        assert sum(1 for r in recorded if r.id.endswith(end)) == 1, end
