"""Prices of one's own over the book's: which entry counts, from when to when, and to the pico-dollar."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shared import ROOT

from fluxen.analyzer.cost import answer_cost, cost_of, price_of
from fluxen.analyzer.prices import Price, PriceBook
from fluxen.analyzer.usage import Reading, Usage
from fluxen.config.load import load_bytes
from fluxen.config.prices import CALLS, TIERS, PriceEntry
from fluxen.errors import ConfigError
from fluxen.providers import openai

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
USAGE = Usage(input=1_000, cache_read=100, output=10)


def entries(text: str) -> tuple[PriceEntry, ...]:
    """As they stand under `prices:`."""
    return load_bytes(f"prices:\n{text}".encode(), {"HOME": "/"}, None).config.prices


def book(text: str) -> PriceBook:
    return PriceBook.shipped().with_own(entries(text))


def micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**6


def cost(
    found: PriceBook,
    model: str = "gpt-4o",
    *,
    provider: str = "openai",
    upstream: str = "openai",
    tier: str | None = None,
    at: datetime = NOON,
    usage: Usage = USAGE,
) -> int | None:
    return cost_of(found, provider, upstream, model, usage, tier, micros(at)).total


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        entries(text)
    return "\n".join(caught.value.problems)


LISTED = cost(PriceBook.shipped())
assert LISTED is not None


def test_a_server_of_ones_own_costs_what_one_says() -> None:
    own = book("- {models: llama-3*, upstream: gpu, input: 0.2, output: '0.600000', per_request: 0.0001}")
    assert cost(own, "Llama-3.3-70B", provider="", upstream="gpu") == 1_100 * 200_000 + 10 * 600_000 + 10**8
    assert cost(own, "llama-3.3-70b", provider="", upstream="other") is None
    assert cost(own, "qwen", provider="", upstream="gpu") is None
    assert cost(own) == LISTED


def test_token_prices_are_taken_whole() -> None:
    """Beside one's own input price the list's price for cached input would be nobody's."""
    assert cost(book("- {models: gpt-4o, input: 1, output: 2}")) == 1_100 * 10**6 + 10 * 2 * 10**6
    assert cost(book("- {models: gpt-4o, input: 1, output: 2, cache_read: 0}")) == 1_000 * 10**6 + 10 * 2 * 10**6
    assert cost(book("- {models: gpt-4o, input: 1}")) is None  # output was used, and has no price


def test_each_class_has_its_own_price() -> None:
    own = book(
        "- {models: m, input: 1, output: 2, cache_read: 3, cache_write_5m: 4, cache_write_1h: 5, reasoning: 6}\n"
        "- {models: w, input: 1, output: 2, cache_write_5m: 4}"
    )
    usage = Usage(input=1, cache_read=1, cache_write_5m=1, cache_write_1h=1, output=2, reasoning=1)
    assert cost(own, "m", provider="", usage=usage) == (1 + 3 + 4 + 5 + 2 + 6) * 10**6
    assert cost(own, "w", provider="", usage=usage) == (1 + 1 + 4 + 4 + 2 + 2) * 10**6


def test_the_first_entry_that_applies_counts() -> None:
    own = book(
        "- {models: gpt-4o-mini, input: 1, output: 1}\n- {models: [o3, gpt-4o*], input: 2, output: 2}\n"
        "- {models: '*', input: 3, output: 3}"
    )
    assert [cost(own, model, usage=Usage(input=1)) for model in ("gpt-4o-mini", "gpt-4o", "o3", "gpt-5")] == [
        10**6, 2 * 10**6, 2 * 10**6, 3 * 10**6,
    ]  # fmt: skip


def test_prices_fees_and_discount_are_looked_for_apart() -> None:
    own = book(
        "- {models: gpt-4o, discount: 10%}\n- {models: gpt-4o, fees: {web_search: 0.02}}\n"
        "- {models: gpt-4o, input: 1, output: 1, fees: {web_search: 9, file_search: 0.001}, discount: 99%}"
    )
    usage = Usage(input=1_000, calls={"web_search": 1, "file_search": 1})
    found = cost_of(own, "openai", "openai", "gpt-4o", usage, None, micros(NOON))
    assert found.fees == (2 * 10**10 + 10**9) * 9 // 10
    assert found.total == (1_000 * 10**6 + 2 * 10**10 + 10**9) * 9 // 10


def test_a_discount_is_off_the_list_price_of_that_upstream() -> None:
    own = book("- {models: '*', upstream: [openai, 'azure-*'], discount: 0.15}")
    assert cost(own) == round(Fraction(LISTED or 0) * Fraction(85, 100))
    assert cost(own, upstream="azure-eu") == cost(own)
    assert cost(own, upstream="other") == LISTED
    assert cost(own, "unheard-of") is None  # off an unknown price is unknown


@given(st.decimals(0, 1, places=4), st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_discount_is_exact_but_for_half_a_pico_dollar(discount: object, tokens: int, calls: int) -> None:
    own = PriceBook.shipped().with_own([PriceEntry.model_validate({"models": "gpt-4o", "discount": str(discount)})])
    usage = Usage(input=tokens, calls={"web_search": calls})
    full = cost(PriceBook.shipped(), usage=usage)
    part = cost(own, usage=usage)
    assert full is not None and part is not None
    assert abs(part - full * (1 - Fraction(str(discount)))) <= Fraction(1, 2)


def test_the_part_that_is_billed_is_rounded_once_and_to_the_nearest() -> None:
    for share, tokens, wanted in (((1, 2), 3, 2), ((1, 3), 4, 1), ((1, 3), 5, 2), ((2, 3), 1, 1)):
        price = Price.of("m", {"input": 1, "output": 1}, {}, share)
        assert price_of(price, Usage(input=tokens)).total == wanted
    # Two halves of a pico-dollar are one, not two.
    half = Price.of("m", {"input": 1}, {"web_search": 1}, (1, 2))
    assert price_of(half, Usage(1, calls={"web_search": 1})).total == 1


def test_free_is_free_whatever_is_called() -> None:
    own = book("- {models: '*:free', free: true}\n- {models: '*', discount: 10%}")
    usage = Usage(input=5, output=5, calls={"unheard_of": 3})
    assert price_of(own.find_at("", "x:free", 0), usage).total == 0
    assert price_of(own.find_at("", "x", 0), usage).total is None


def test_times_are_half_open_and_in_any_order() -> None:
    own = book(
        "- {models: gpt-4o, since: '2026-02-01', until: '2026-03-01T12:00:00Z', input: 1, output: 1}\n"
        "- {models: gpt-4o, since: '2026-03-01', discount: 50%}"
    )
    one = Usage(input=2)
    listed = 2 * 2_500_000
    moments = {
        datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC): listed,
        datetime(2026, 2, 1, tzinfo=UTC): 2 * 10**6,
        datetime(2026, 3, 1, tzinfo=UTC): 10**6,
        datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC): 10**6,
        datetime(2026, 3, 1, 12, tzinfo=UTC): listed // 2,
    }
    for order in (sorted(moments), sorted(moments, reverse=True)):
        for at in order:
            assert cost(own, usage=one, at=at) == moments[at], at


def test_a_tier_has_prices_of_its_own() -> None:
    own = book(
        "- {models: gpt-5, input: 1, output: 1}\n- {models: gpt-5, tier: flex, input: 0.5, output: 0.5}\n"
        "- {models: my-model, input: 1, output: 1}"
    )
    one = Usage(input=2)
    assert cost(own, "gpt-5", usage=one) == cost(own, "gpt-5", usage=one, tier="default") == 2 * 10**6
    assert cost(own, "gpt-5", usage=one, tier="flex") == 10**6
    priority = cost(own, "gpt-5", usage=one, tier="priority")
    assert priority == cost(PriceBook.shipped(), "gpt-5", usage=one, tier="priority") != 2 * 10**6
    assert cost(own, "my-model", provider="", usage=one, tier="whatever") == 2 * 10**6  # nobody lists another price


def test_an_entry_means_a_model_by_any_of_its_names() -> None:
    own = book("- {models: gpt-4o, discount: 100%}\n- {models: our-alias, input: 1, output: 1}")
    for model, asked, wanted in (
        ("gpt-4o-2024-08-06", "gpt-4o", 0),
        ("gpt-4o-2024-08-06", None, 0),  # its name in the book
        ("gpt-4.1-2025-04-14", "our-alias", 10**6),
        ("unheard-of", "our-alias", 10**6),
        (None, "our-alias", 10**6),
    ):
        reading = Reading(model=model, usage=Usage(input=1), source="reported")
        assert answer_cost(own, "openai", "openai", reading, asked, micros(NOON)).total == wanted, (model, asked)


def test_the_version_tells_which_prices_were_used() -> None:
    shipped = PriceBook.shipped().version
    one = book("- {models: gpt-4o, input: 2.5, output: 10}").version
    assert one.startswith(f"{shipped}+own.") and len(one) < 60
    assert one == book("- {models: [gpt-4o], output: '10.000', input: '2.50'}").version
    assert one != book("- {models: gpt-4o, input: 2.5, output: 10.1}").version
    assert PriceBook.shipped().with_own(()).version == shipped
    # Whatever it is that makes another price.
    said = ["input: 2", "input: 2, upstream: u", "input: 2, since: '2026-01-01'", "input: 2, until: '2026-01-01'",
            "input: 2, tier: flex", "input: 2, output: 1", "input: 2, per_request: 1",
            "input: 2, fees: {web_search: 1}", "input: 2, discount: 5%", "input: 2, discount: 6%",
            "free: true", "input: 0, output: 0"]  # fmt: skip
    assert len({book(f"- {{models: m, {entry}}}").version for entry in said}) == len(said)


# ------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize(
    ("written", "pico"),
    [("2.5", 2_500_000), ("'2.5'", 2_500_000), ("0.1", 100_000), ("0.075", 75_000), ("1e-3", 1_000), ("3", 3_000_000),
     ("0.000001", 1), ("'0.000001'", 1), ("123456.789012", 123_456_789_012)],
)  # fmt: skip
def test_amounts_are_what_is_written(written: str, pico: int) -> None:
    assert cost(book(f"- {{models: m, input: {written}, output: 0}}"), "m", provider="", usage=Usage(input=1)) == pico


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{models: m, input: 0.0000001, output: 1}", "prices[0].input: is finer than a pico-dollar"),
        ("{models: m, input: 0.12345678901234567, output: 1}", "put it in quotes"),
        ("{models: m, input: '2.0000000000000000000000000000000001', output: 1}", "finer than a pico-dollar"),
        ("{models: m, input: '1e-1000040', output: 1}", "at most 40 digits"),
        ("{models: m, input: '1e1000040', output: 1}", "at most 40 digits"),
        ("{models: m, input: 1, discount: '33.33333333333333333333333333%'}", "more than 12 digits"),
        ("{models: m, discount: '15.0000000000000000000000000000000000001%'}", "more than 12 digits"),
        ("{models: m, input: -1, output: 1}", "prices[0].input: expected dollars per million tokens"),
        ("{models: m, input: .inf, output: 1}", "prices[0].input: expected dollars per million tokens"),
        ("{models: m, input: NaN, output: 1}", "prices[0].input: expected dollars per million tokens"),
        ("{models: m, input: true, output: 1}", "prices[0].input: expected dollars per million tokens"),
        ("{models: m, input: $5, output: 1}", "prices[0].input: expected dollars per million tokens"),
        ("{models: m, input: 10000000, output: 1}", "from 0 to 1,000,000"),
        ("{models: m, cache_read: 1}", "input or output is missing"),
        ("{models: m}", "says nothing"),
        ("{models: [], input: 1}", "prices[0].models: expected at least one"),
        ("{models: m, free: true, discount: 5%}", "take out the prices, or free"),
        ("{models: m, discount: 120%}", "prices[0].discount: expected a part from 0 to 1"),
        ("{models: m, discount: 15}", "prices[0].discount: expected a part from 0 to 1"),
        ("{models: m, input: 1, since: '2026-02-01', until: '2026-02-01'}", "over before it begins"),
        ("{models: m, fees: {Web-Search: 1}}", "prices[0].fees.Web-Search"),
        ("{models: m, input: 1, ouput: 2}", "did you mean 'output'?"),
        ("{input: 1}", "prices[0].models: is required"),
    ],
)
def test_what_can_not_be_meant_is_said(entry: str, said: str) -> None:
    assert said in problems(f"- {entry}")


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("- {models: '*', discount: 5%}\n- {models: gpt-4o, discount: 50%}", True),
        ("- {models: gpt-4o, discount: 50%}\n- {models: '*', discount: 5%}", False),
        ("- {models: '*', discount: 5%}\n- {models: gpt-4o, input: 1, output: 1}", False),
        ("- {models: [a, b], input: 1}\n- {models: b, upstream: u, since: '2026-01-01', input: 2}", True),
        ("- {models: [a, b], input: 1, upstream: u}\n- {models: b, input: 2}", False),
        ("- {models: a, input: 1, until: '2026-01-01'}\n- {models: a, input: 2}", False),
        ("- {models: a, input: 1}\n- {models: a, tier: flex, input: 2}", False),
        ("- {models: a, input: 1}\n- {models: a, input: 2, per_request: 1}", False),
        ("- {models: a, free: true}\n- {models: a, input: 2, per_request: 1, discount: 5%}", True),
    ],
)
def test_an_entry_that_never_counts_is_warned_of(text: str, warned: bool) -> None:
    warnings = load_bytes(f"prices:\n{text}".encode(), {"HOME": "/"}, None).warnings
    assert [("prices[1]: never counts" in line) for line in warnings] == [True] * warned


@pytest.mark.parametrize(
    ("upstream", "said"),
    [
        ("gpuu", "prices[0].upstream[0]: meets no upstream of this file (did you mean 'gpu'?)"),
        ("[gpu, 'azure-*']", "prices[0].upstream[1]: meets no upstream of this file: nothing has this price"),
        ("[GPU, 'o*']", None),
    ],
)
def test_a_price_at_no_upstream_is_warned_of(upstream: str, said: str | None) -> None:
    prices = f"prices: [{{models: a, upstream: {upstream}, input: 1}}]\n"
    file = f"upstreams: {{gpu: {{target_url: 'http://127.0.0.1:1'}}, openai: {{}}}}\n{prices}"
    warnings = load_bytes(file.encode(), {"HOME": "/"}, None).warnings
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
    # Without upstreams those that the environment has keys for are there: any may be meant.
    assert load_bytes(prices.encode(), {"HOME": "/"}, None).warnings == ()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("fees: {web_serch: 0.01}", "fees.web_serch: is no call that any provider bills (did you mean 'web_search'?)"),
        ("fees: {web_search: 0.01, teleport: 1}", "fees.teleport: is no call that any provider bills: nothing has"),
        ("fees: {web_search: 0.01, search_unit: 0.002, request: 0.005}", None),
        ("tier: prioritty, input: 1", "tier: is no tier that a provider is known to serve in (did you mean 'priority'"),
        ("tier: default, input: 1", "tier: is no tier that a provider is known to serve in"),
        ("tier: batch_us, discount: 5%", None),
    ],
)  # fmt: skip
def test_names_that_no_usage_has_are_warned_of(entry: str, said: str | None) -> None:
    """They are no error: a server of one's own may say what no provider does."""
    loaded = load_bytes(f"prices:\n- {{models: a, {entry}}}".encode(), {"HOME": "/"}, None)
    assert len(loaded.config.prices) == 1
    assert len(loaded.warnings) == (said is not None)
    assert said is None or f"prices[0].{said}" in loaded.warnings[0]


def test_a_warning_of_a_fee_names_its_place() -> None:
    text = b"prices:\n- models: a\n  fees:\n    web_search: 1\n    web_serch: 2\n"
    (warning,) = load_bytes(text, {"HOME": "/"}, None).warnings
    assert warning.startswith("configuration:5:5: prices[0].fees.web_serch: ")


def test_no_name_of_the_shipped_list_or_of_a_dialect_is_warned_of() -> None:
    """Who adds a dialect that counts other calls, or a list with other tiers, adds their names to what is known."""
    file = PriceBook.shipped().file
    for listed in map(file.list_of, file.providers):
        for model in listed:
            assert {*listed.tiers_of(model)} <= {*TIERS}, model.id
            fees = [entry[2] for entry in model.prices if len(entry) > 2]
            fees += [entry[3] for entry in model.variants if len(entry) > 3]
            assert {*listed.fees(model), *(name for one in fees for name in one)} <= {*CALLS}, model.id
    counted = {"web_search"}
    for module in (ROOT / "fluxen" / "providers").glob("*.py"):
        for arguments in re.findall(r"\bcalled\(([^()]*)", module.read_text()):
            counted.update(re.findall(r"(\w+)=", arguments))
    counted.update(openai._CALLS.values())
    assert len(counted) > 8
    assert counted <= {*CALLS}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(sorted(PriceEntry.model_fields)), _VALUES, max_size=6), st.text(max_size=12))
def test_whatever_is_written_is_taken_or_told(fields: dict[str, object], model: str) -> None:
    """Never a crash, neither when it is read nor when something is priced by it."""
    try:
        entry = PriceEntry.model_validate({"models": ["m*"], **fields})
    except ValidationError:
        return
    own = PriceBook.shipped().with_own([entry])
    for name in (model, "gpt-4o", "m"):
        found = price_of(own.find_at("openai", name, micros(NOON), "u"), USAGE)
        assert found.total is None or found.total >= 0
