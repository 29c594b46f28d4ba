"""The price book against the package it is made from, and our own rules about what is unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from genai_prices import data_snapshot, types
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import ROOT

from fluxen.analyzer.cost import Cost, answer_cost, cost_pico, price_of
from fluxen.analyzer.prices import Price, PriceBook
from fluxen.analyzer.usage import Leg, Modalities, Reading, Usage, read_answer

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TIMES = [
    NOON,
    datetime(2025, 9, 1, 12, tzinfo=UTC),
    datetime(2026, 11, 22, 0, 45, tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=UTC),
]
USAGES = [
    Usage(input=1_000, output=100),
    Usage(input=1_000, cache_read=500, output=100),
    Usage(input=1_000, cache_write_5m=400, cache_write_1h=300, output=100),
    Usage(input=150_000, cache_read=60_000, output=70_000),
    Usage(input=900_000, cache_read=300_000, output=100),
    Usage(
        input=1_000,
        cache_read=500,
        output=300,
        audio=900,
        modalities=Modalities(input_audio=700, cache_read_audio=200, output_audio=200),
    ),
    Usage(input=1_000, output=300, image=300, modalities=Modalities(output_image=300)),
    Usage(input=1_000, output=100, calls={"web_search": 3}),
    Usage(input=1_000, output=100, calls={"file_search": 2, "web_search": 1}),
]
CONTEXTS: dict[str, dict[str, str]] = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
FILE = ROOT / "packaging" / "prices.json"
PROVIDERS = {p.id: p for p in data_snapshot.get_snapshot().providers}


def theirs(usage: Usage) -> types.Usage:
    """Our disjoint classes as the package counts them: every total includes its parts."""
    written = usage.cache_write_5m + usage.cache_write_1h
    m = usage.modalities or Modalities()
    counts = {
        "input_tokens": usage.input + usage.cache_read + written,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "output_tokens": usage.output,
        "input_audio_tokens": m.input_audio,
        "output_audio_tokens": m.output_audio,
        "output_image_tokens": m.output_image,
    }
    counts = {name: count for name, count in counts.items() if count}
    if m.input_audio and usage.cache_read:
        counts["cache_audio_read_tokens"] = m.cache_read_audio
    for ours, name in (("web_search", "web_searches"), ("file_search", "storage_searches")):
        if count := (usage.calls or {}).get(ours):
            counts[name] = count
    return types.Usage(**counts)


def names_of(rule: Any) -> Iterator[str]:
    """Model names that a match rule is about; a regular expression gives none."""
    for attribute, sample in (("equals", "{}"), ("starts_with", "{}-x"), ("ends_with", "x-{}"), ("contains", "x-{}-y")):
        if hasattr(rule, attribute):
            yield sample.format(getattr(rule, attribute))
    for inner in (*getattr(rule, "or_", ()), *getattr(rule, "and_", ())):
        yield from names_of(inner)


def lacks_a_price(model: types.ModelInfo, at: datetime) -> bool:
    price = model.get_prices(at)
    return price.input_mtok is None or price.output_mtok is None


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.shipped()


def test_every_model_of_every_provider_costs_what_the_source_says(book: PriceBook) -> None:
    """All ids and samples of all match rules, at four times, for nine usages. Differences must be explained."""
    rounded = {(provider, model) for provider, model, _, _ in json.loads(FILE.read_bytes())["rounded"]}
    explained: Counter[str] = Counter()
    compared = 0
    for provider in PROVIDERS.values():
        for listed in provider.models:
            for name in dict.fromkeys((listed.id, *names_of(listed.match))):
                model = provider.find_model(name, all_providers=list(PROVIDERS.values()))
                ours = book.find(provider.id, name, NOON)
                assert (model and model.id) == (ours and ours.model), (provider.id, name)
                if model is None or ours is None:
                    explained["a rule that is not met by a sample of it"] += 1
                    continue
                history = not isinstance(model.prices, types.ModelPrice)
                for at in TIMES if history else TIMES[:1]:
                    price = book.find(provider.id, name, at)
                    for usage in USAGES if name == listed.id else USAGES[:2]:
                        compared += 1
                        why = difference(provider, model, at, usage, price, (provider.id, model.id) in rounded)
                        if why:
                            explained[why] += 1
    assert compared > 15_000
    assert explained.keys() == {
        "a rule that is not met by a sample of it",
        "no price for input or output: 0 to the source, unknown to us",
        "no fee for calls of this kind: 0 to the source, unknown to us or published by the provider",
        "rounded to whole pico-dollars per token",
    }
    assert explained["rounded to whole pico-dollars per token"] < 300


def difference(
    provider: types.Provider, model: types.ModelInfo, at: datetime, usage: Usage, price: Price | None, rounded: bool
) -> str | None:
    """Why our cost is not the source's, None if it is; anything unexplained fails."""
    cost = cost_pico(price, usage)
    try:
        wanted = model.calc_price(theirs(usage), provider, genai_request_timestamp=at).total_price * 10**12
    except ValueError:  # counts that contradict the price list's classes
        assert cost is None
        return None
    if cost == wanted:
        return None
    fees = price.fees if price is not None else {}
    listed = model.get_prices(at)
    for name, theirs_name in (("web_search", "web_searches_kcount"), ("file_search", "storage_searches_kcount")):
        if (usage.calls or {}).get(name) and getattr(listed, theirs_name) is None:
            assert cost is None or name in fees
            return "no fee for calls of this kind: 0 to the source, unknown to us or published by the provider"
    if cost is None and lacks_a_price(model, at):
        return "no price for input or output: 0 to the source, unknown to us"
    assert rounded and cost is not None, (provider.id, model.id, at, usage, cost, wanted)
    assert abs(cost - wanted) <= Decimal(
        usage.cache_read + usage.cache_write_5m + usage.cache_write_1h + usage.input + usage.output
    )
    return "rounded to whole pico-dollars per token"


def test_every_variant_costs_what_the_source_says(book: PriceBook) -> None:
    """Batch, flex, priority and fast, of every model that has one there, at moments before and after it began."""
    compared: Counter[str] = Counter()
    for provider in PROVIDERS.values():
        for listed in provider.models:
            for tier, context in CONTEXTS.items():
                of_it = [
                    v
                    for v in listed.price_variants or ()
                    if all(context.get(k) == value for k, value in v.when.items())
                ]
                if not of_it or provider.find_model(listed.id) is not listed:
                    continue
                for at in (NOON, datetime(2026, 10, 13, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)):
                    price = book.find(provider.id, listed.id, at, tier)
                    if not any(v.constraint is None or v.constraint.active(at) for v in of_it):
                        # Not yet in force there: no price but one by a rule that the provider publishes
                        assert price is None or provider.id in ("anthropic", "google"), (listed.id, tier, at)
                        continue
                    for usage in USAGES[:5]:
                        wanted = listed.calc_price(
                            theirs(usage), provider, genai_request_timestamp=at, price_context=context
                        ).total_price
                        cost = cost_pico(price, usage)
                        if lacks_a_price(listed, at):
                            assert cost is None
                        else:
                            assert cost == wanted * 10**12, (provider.id, listed.id, tier, at, usage)
                        compared[tier] += 1
    assert compared["batch"] > 1000 and min(compared["flex"], compared["priority"], compared["fast"]) > 200


def test_a_tier_without_a_price_is_not_billed_at_the_standard_one(book: PriceBook) -> None:
    assert book.find("anthropic", "claude-sonnet-4-5", NOON, "priority") is None  # by contract
    assert book.find("openai", "gpt-5", NOON, "scale") is None
    assert book.find("gemini", "gemini-2.5-pro", NOON, "PROVISIONED_THROUGHPUT") is None
    # Found in the list of the provider whose models it resells: its tiers are its own
    assert book.find("azure", "gpt-5", NOON) is not None and book.find("azure", "gpt-5", NOON, "flex") is None


@pytest.mark.parametrize(
    ("provider", "model", "word"),
    [
        *(("openai", "gpt-5", word) for word in ("default", "auto", "", "standard", " Default ")),
        ("anthropic", "claude-sonnet-4-5", "standard"),
        ("gemini", "gemini-2.5-pro", "ON_DEMAND"),
        ("groq", "llama-3.3-70b-versatile", "on_demand"),
        ("groq", "llama-3.3-70b-versatile", "flex"),
        ("openrouter", "google/gemini-2.5-flash", "provisioned"),
    ],
)
def test_words_for_the_standard_tier(book: PriceBook, provider: str, model: str, word: str) -> None:
    assert book.find(provider, model, NOON, word) == book.find(provider, model, NOON) is not None


def test_a_tier_may_be_a_share_of_the_standard_price(book: PriceBook) -> None:
    """Gemini's flex, which the source doesn't have for most models: half, as the provider publishes it."""
    for model in ("gemini-3-flash-preview", "gemini-2.5-pro", "gemini-3.6-flash"):
        full, half = book.find("gemini", model, NOON), book.find("gemini", model, NOON, "ON_DEMAND_FLEX")
        assert full is not None and half is not None
        for usage in USAGES[:5]:
            assert 2 * (cost_pico(half, usage) or 0) == cost_pico(full, usage)


def test_claude_kept_in_one_country_costs_a_tenth_more(book: PriceBook) -> None:
    body = {"model": "claude-opus-4-8", "stop_reason": "end_turn", "type": "message", "role": "assistant"}
    costs = {}
    for said in ({}, {"inference_geo": "global"}, {"inference_geo": "us"}, {"inference_geo": "us", "speed": "fast"}):
        usage = {"input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 100, "service_tier": "standard"}
        raw = json.dumps(body | {"usage": usage | said}).encode()
        reading = read_answer("anthropic", "/v1/messages", 200, raw)
        costs[tuple(said.values())] = answer_cost(book, "anthropic", None, reading, None, 0).total
    plain = costs[()]
    assert plain is not None and costs["global",] == plain and costs["us",] == plain * 11 // 10
    assert costs["us", "fast"] is None  # nobody publishes what both cost


def test_fees_of_calls_are_told_apart(book: PriceBook) -> None:
    price = book.find("openai", "gpt-5", NOON)
    tokens = cost_pico(price, Usage(input=10))
    assert tokens is not None
    cost = price_of(price, Usage(input=10, calls={"web_search": 2, "file_search": 1}))
    assert (cost.total, cost.fees) == (tokens + cost.fees, 2 * 10**10 + 25 * 10**8)
    assert price_of(price, Usage(input=10, calls={"web_search": 0, "unheard_of": 0})).total == tokens
    assert price_of(price, Usage(input=10, calls={"unheard_of": 1})) == Cost(model="gpt-5")
    fetched = price_of(book.find("anthropic", "claude-sonnet-4-5", NOON), Usage(calls={"web_fetch": 3}))
    assert (fetched.total, fetched.fees) == (0, 0)


@settings(max_examples=150)
@given(st.sampled_from(["deepseek", "google", "anthropic"]), st.data())
def test_history_and_hours_at_any_moment_in_any_order(provider: str, data: st.DataObject) -> None:
    """What is remembered of one lookup must not be told at a time when another price holds."""
    book = PriceBook.shipped()
    models = [m for m in PROVIDERS[provider].models if not isinstance(m.prices, types.ModelPrice)]
    model = data.draw(st.sampled_from(models), label="model")
    usage = Usage(input=1_000, cache_read=10, output=100)
    minutes = st.integers(0, 4 * 365 * 24 * 60)
    for after in data.draw(st.lists(minutes, min_size=1, max_size=6), label="minutes after 2024"):
        at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=after)
        found = PROVIDERS[provider].find_model(model.id)
        assert found is not None
        wanted = found.calc_price(theirs(usage), PROVIDERS[provider], genai_request_timestamp=at).total_price
        cost = cost_pico(book.find(provider, model.id, at), usage)
        assert cost == wanted * 10**12 or (cost is None and lacks_a_price(found, at))


def test_the_shipped_file_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, ROOT / "packaging" / "build_prices.py", "--check"], capture_output=True)
    assert done.returncode == 0, f"run packaging/build_prices.py\n{done.stderr.decode()}"


def test_the_file_names_its_source_and_what_was_rounded(book: PriceBook) -> None:
    head = json.loads(FILE.read_bytes())
    assert "genai-prices" in head["source"] and head["licence"].startswith("MIT")
    assert book.version == head["version"]
    assert {provider for provider, *_ in head["rounded"]} == {"openrouter", "huggingface_together"}
    assert all(
        (isinstance(price, str) and "000" in price) or "333" in price or "666" in price or "999" in price
        for *_, price in head["rounded"]
    )
    assert FILE.stat().st_size < 400_000


# ------------------------------------------------------------------------------------------ unknown is unknown


def test_our_names_of_providers(book: PriceBook) -> None:
    for ours, source in (("gemini", "google"), ("google", "google"), ("xai", "x-ai"), ("moonshot", "moonshotai")):
        model = next(m.id for m in PROVIDERS[source].models if m.get_prices(NOON).input_mtok is not None)
        assert book.find(ours, model, NOON) == book.find(source, model, NOON) is not None


@pytest.mark.parametrize("provider", ["", "my-gpu", "vllm", "ollama", "lmstudio", "huggingface"])
def test_a_model_of_ones_own_has_no_list_price(book: PriceBook, provider: str) -> None:
    assert book.find(provider, "gpt-4o", NOON) is None
    assert book.find(provider, "llama-3.3-70b", NOON) is None
    assert cost_pico(None, Usage(input=1)) is None


def test_an_unknown_model_has_no_price(book: PriceBook) -> None:
    assert book.find("openai", "gpt-4o", NOON) is not None
    for name in ("", "no-such-model", "x" * 10_000, "\0", "-20250231"):
        assert book.find("openai", name, NOON) is None


def test_a_class_without_a_price_makes_the_cost_unknown(book: PriceBook) -> None:
    embedding = book.find("openai", "text-embedding-3-small", NOON)
    assert cost_pico(embedding, Usage(input=1000)) == 1000 * 20_000
    assert cost_pico(embedding, Usage(input=1000, output=1)) is None


def test_counts_that_contradict_each_other_have_no_cost(book: PriceBook) -> None:
    price = book.find("openai", "gpt-realtime", NOON)
    assert price is not None and price.rates.input_audio is not None
    assert cost_pico(price, Usage(input=5, modalities=Modalities(input_audio=9))) is None


def test_reasoning_has_its_own_price_where_it_has_one(book: PriceBook) -> None:
    price = book.find("perplexity", "sonar-deep-research", NOON)
    assert price is not None and price.rates.reasoning is not None and price.rates.output is not None
    cost = cost_pico(price, Usage(output=10, reasoning=4))
    assert cost == 6 * price.rates.output + 4 * price.rates.reasoning


def test_a_fee_per_request_is_part_of_the_cost(book: PriceBook) -> None:
    price = book.find("perplexity", "sonar", NOON)
    assert price is not None and price.fees["request"] > 0
    assert cost_pico(price, Usage()) == price.fees["request"]


def test_a_larger_input_may_cost_more_for_every_token(book: PriceBook) -> None:
    price = book.find("gemini", "gemini-2.5-pro", NOON)
    assert price is not None
    ((start, above),) = price.tiers
    assert above.output is not None and price.rates.output is not None and price.rates.cache_read is not None
    at, over = Usage(cache_read=start, output=1), Usage(cache_read=start + 1, output=1)
    assert cost_pico(price, at) == start * price.rates.cache_read + price.rates.output
    assert cost_pico(price, over) == (start + 1) * (above.cache_read or 0) + above.output
    # Whatever class it is of.
    steps = Price.of("m", {"input": [1, [10, 2]], "output": [3, [10, 5]]}, {})
    for part in ("input", "cache_read", "cache_write_5m", "cache_write_1h"):
        assert cost_pico(steps, Usage(**{part: 10}, output=1)) == 10 + 3, part
        assert cost_pico(steps, Usage(**{part: 11}, output=1)) == 22 + 5, part


def test_the_cost_of_an_answer(book: PriceBook) -> None:
    now = int(NOON.timestamp() * 1e6)
    usage = Usage(input=1000, output=100)

    def cost(provider: str, model: str | None, asked: str | None, **more: Any) -> int | None:
        reading = Reading(model=model, **{"source": "reported", "usage": usage, **more})
        return answer_cost(book, provider, None, reading, asked, now).total

    gpt = cost_pico(book.find("openai", "gpt-4o", NOON), usage)
    assert gpt is not None and gpt > 0
    assert cost("openai", "gpt-4o-2024-08-06", "anything") == gpt
    assert cost("openai", None, "gpt-4o") == gpt
    assert cost("openai", "not-in-the-book", "gpt-4o") == gpt
    assert cost("gemini", None, "models/gemini-2.5-pro") == cost("gemini", "gemini-2.5-pro", None) is not None
    # A router says what ran: the name that was asked for doesn't stand in for it.
    assert cost("openrouter", "vendor/not-in-the-book", "openai/gpt-4o") is None
    assert cost("openai", None, None) is None
    for source in ("partial", "unknown"):
        assert cost("openai", "gpt-4o", None, source=source) is None
    assert cost("openai", "gpt-4o", None, source="estimated") == gpt
    assert cost("openai", "gpt-4o", None, tier="priority") not in (None, gpt)
    assert cost("openai", "gpt-4o", "gpt-4o", tier="unheard-of") is None
    assert cost("openai", "gpt-4o", None, source="none") == 0

    opus, sonnet = "claude-opus-4-8", "claude-sonnet-4-5"
    legs = (Leg(None, usage), Leg(opus, usage))
    each = [cost_pico(book.find("anthropic", model, NOON), usage) for model in (sonnet, opus)]
    assert cost("anthropic", sonnet, None, legs=legs) == sum(c or 0 for c in each)
    assert cost("anthropic", sonnet, None, legs=(*legs, Leg("unheard-of", usage))) is None
    # Calls are the answer's, not a leg's
    searched = msgspec.structs.replace(usage, calls={"web_search": 1})
    assert cost("anthropic", sonnet, None, legs=legs, usage=searched) == sum(c or 0 for c in each) + 10**10


def test_the_memory_of_names_is_bounded() -> None:
    book = PriceBook(FILE.read_bytes(), {})
    for i in range(10_000):
        assert book.find("openai", f"made-up-{i}", NOON) is None
    assert len(book._memo) <= 4096
