"""Recorded answers of real providers: the tokens and the cost that an independent calculation found."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

from analyzer.differences import agrees, why
from analyzer.recorded import Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxen.analyzer.cost import answer_cost
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.usage import HEAD, RAW_LIMIT, TAIL, Usage, read_clipped, read_stream
from fluxen.providers.catalogue import load_catalogue

NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * 10**6
LISTS = {provider.name: provider.price_lists for provider in load_catalogue().values()}
CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
OF_WHICH = ("input_audio", "cache_read_audio", "output_audio", "output_image")

# Answers that the expected file leaves out because no token is billed, or that it has no rule for.
READ_ALL_THE_SAME = {"cohere rerank": "search units", "voyageai rerank": "tokens of queries and documents"}


def tokens(usage: Usage) -> dict[str, int]:
    counts = {name: getattr(usage, name) for name in CLASSES}
    counts.update((name, getattr(usage.modalities, name, 0)) for name in OF_WHICH)
    return counts


def kind(r: Recorded) -> str:
    return f"{r.exchange['provider']} {r.exchange['endpoint']}"


def test_tokens_are_those_that_were_reported(recorded: list[Recorded]) -> None:
    """Of every provider, endpoint and way of streaming; every class."""
    reported: Counter[str] = Counter()
    for r in recorded:
        reading = r.read()
        if kind(r) in READ_ALL_THE_SAME and r.source == "unknown":
            assert reading.source == "reported", r.id
            continue
        assert reading.source == r.source, r.id
        if r.source == "reported":
            assert reading.usage is not None
            assert tokens(reading.usage) == r.expected["tokens"], r.id
            reported[r.exchange["provider"]] += 1
        elif r.source == "none":
            assert reading.usage is None
    assert reported.total() == 1972
    assert len(reported) == 25


def test_every_dialect_was_met_in_each_of_its_ways(recorded: list[Recorded]) -> None:
    met = {(r.dialect, r.exchange["streaming"]) for r in recorded if r.source == "reported"}
    assert met == {
        *(("openai", None), ("openai", "sse"), ("anthropic", None), ("anthropic", "sse"), ("gemini", None)),
        *(("gemini", "sse"), ("bedrock", None), ("bedrock", "aws-eventstream"), ("cohere", None), ("cohere", "sse")),
        *(("cohere", "ndjson"), ("ollama", None), ("ollama", "ndjson")),
    }
    assert {r.id for r in recorded if r.endpoint.endswith("{other}")} == set()


def test_what_is_billed_by_the_call(recorded: list[Recorded]) -> None:
    """Counts of the recorded answers, looked up by hand."""
    found: dict[str, Counter[str]] = {}
    for r in recorded:
        usage = r.read().usage
        if usage is not None and usage.calls is not None:
            found.setdefault(kind(r), Counter()).update(usage.calls)
    assert found == {
        "anthropic messages": {"web_search": 6, "web_fetch": 2},
        "cohere rerank": {"search_unit": 2},
        "google generateContent": {"web_search": 11},
        "openai responses": {"web_search": 26, "file_search": 3, "image_generation": 6, "code_interpreter": 7},
        "openrouter chat.completions": {"web_search": 3},
    }


def test_how_an_answer_was_served(recorded: list[Recorded]) -> None:
    said = Counter((r.exchange["provider"], tier) for r in recorded if (tier := r.read().tier) is not None)
    assert said["openai", "priority"] == 3
    assert said["openai", "flex"] == 1
    assert said["google-vertex", "ON_DEMAND_FLEX"] == 2
    assert said["anthropic", "standard"] > 150
    assert said["groq", "on_demand"] > 30
    assert ("snowflake", "") not in said
    assert not {tier for _, tier in said} & {"auto", "null"} - {"auto"}


def test_a_cost_that_the_provider_states_is_kept(recorded: list[Recorded]) -> None:
    stated = 0
    for r in recorded:
        reading = r.read()
        wanted = r.expected["provider_cost_usd"]
        assert reading.stated_cost_pico == (None if wanted is None else round(Decimal(wanted) * 10**12)), r.id
        assert reading.stated_source == (None if wanted is None else "usage.cost")
        stated += wanted is not None
    assert stated > 30


def test_the_model_is_the_one_that_answered(recorded: list[Recorded]) -> None:
    """The recording's index leaves out those of interactions, and of Bedrock's streams."""
    named = 0
    for r in recorded:
        if r.source == "reported" and r.exchange["model_response"] is not None:
            assert r.read().model == r.exchange["model_response"], r.id
            named += 1
    assert named > 1500


def test_every_finished_answer_says_why_it_stopped(recorded: list[Recorded]) -> None:
    silent: Counter[str] = Counter()
    for r in recorded:
        if r.source == "reported" and r.read().finish is None and "mbed" not in r.endpoint + str(r.exchange["path"]):
            silent[kind(r)] += 1
    assert silent == {
        "openai responses.compact": 5,  # has no reason to stop
        "openai chat.completions": 2,  # cut by hand
        "snowflake chat.completions": 8,  # it sends none
    }


def test_the_raw_usage_is_kept_and_is_json(recorded: list[Recorded]) -> None:
    for r in recorded:
        reading = r.read()
        if reading.source == "reported":
            assert reading.raw is not None
            assert len(reading.raw) <= RAW_LIMIT
            kept = json.loads(reading.raw)
            if r.exchange["streaming"] == "aws-eventstream" and r.exchange["endpoint"] == "invoke":
                continue  # the recording's last one is Bedrock's own, ours the model's
            for found in r.exchange["usage_raw"][-1:]:
                last = {name: value for name, value in found["usage"].items() if value is not None}
                if "usage_breakdown" not in found["path"] and "guardrail" not in found["path"]:
                    assert {name: kept[name] for name in last} == last, r.id


def test_cost_to_the_pico_dollar(recorded: list[Recorded]) -> None:
    """As read from the answer, with the prices that an upstream of the recorded name has. What is billed by the call
    comes on top of what the expected file has, and one call without a known price leaves the whole unknown."""
    book = PriceBook.shipped()
    differs, fees, unknown = set(), Counter[str](), Counter[str]()
    for r in recorded:
        provider = r.provider
        for path, name in LISTS.get(provider, ()):
            provider = name if r.exchange["path"].startswith(path + "/") else provider
        reading = r.read()
        cost = answer_cost(book, provider, None, reading, r.exchange["model_requested"], NOON)
        if kind(r) in READ_ALL_THE_SAME or agrees(cost.total, r.expected):
            continue
        called = reading.usage.calls if reading.usage is not None else None
        if called and cost.total is None:
            unknown.update(dict.fromkeys(called, 1))
        elif called and cost.fees and agrees((cost.total or 0) - cost.fees, r.expected):
            fees.update(dict.fromkeys(called, 1))
        else:
            assert why(r.id) is not None, (r.id, provider, cost, reading.tier, r.expected["cost_usd"])
            differs.add(r.id)
    assert len(differs) == 9
    assert fees == {"web_search": 20, "file_search": 3}
    assert unknown == {"image_generation": 6, "code_interpreter": 5, "web_search": 3}


def test_any_cut_into_head_and_tail_reads_the_same(recorded: list[Recorded]) -> None:
    """The gateway keeps the first bytes up to HEAD and the last up to TAIL, wherever the chunks happened to end."""
    streams = [r for r in recorded if r.streamed and r.source == "reported"]
    wanted = {r.id: r.read() for r in streams}
    assert len(streams) > 250

    @settings(max_examples=400)
    @given(st.integers(0, len(streams) - 1), st.integers(2048, HEAD))
    def check(which: int, head: int) -> None:
        r = streams[which]
        assert r.read(head) == wanted[r.id]

    check()


def test_an_event_larger_than_the_tail_still_gives_its_usage(recorded: list[Recorded]) -> None:
    """Whatever the size of what comes before the usage in the last event: here its instructions grow past the tail."""
    grown = 0
    for r in recorded:
        marker = b'"instructions":null'
        if not (r.streamed and r.source == "reported" and r.endpoint == "/v1/responses"):
            continue
        # Some recordings have their keys in another order than the provider sends: there the usage is lost.
        if r.body.count(marker) >= 2 and r.body.rfind(b'"usage":{') > r.body.rfind(marker):
            text = b'"instructions":"' + b'say \\"usage\\":{\\"input_tokens\\":7} ' * 1000 + b'"'
            body = r.body.replace(marker, text)
            assert len(body) > HEAD + 2 * TAIL
            reading = read_stream("openai", r.endpoint, 200, body[:HEAD], body[HEAD:][-TAIL:], True)
            plain = r.read()
            assert (reading.usage, reading.source, reading.raw) == (plain.usage, "reported", plain.raw), r.id
            assert reading.model == plain.model
            grown += 1
    assert grown >= 10


def test_a_body_too_large_to_hold_reads_the_same(recorded: list[Recorded]) -> None:
    """Unstreamed bodies cut to their two ends, with the middle missing, as if they had been larger."""
    checked = 0
    for r in recorded:
        if r.streamed or r.source != "reported" or len(r.body) < 4096 or "amazon.titan-embed" in r.exchange["path"]:
            continue  # Titan says with its first bytes that it has no output to count
        body, whole = r.body, r.read()
        reading = read_clipped(r.dialect, r.endpoint, 200, body[: len(body) // 3], body[len(body) // 3 :][-2048:])
        if reading.usage is None:  # recordings with sorted keys can have it in the lost middle: then it is not known
            assert reading.source == "unknown"
            continue
        assert whole.usage is not None
        # Calls are counted where they are still to be seen.
        assert (tokens(reading.usage), reading.source) == (tokens(whole.usage), "reported"), r.id
        assert reading.model in (whole.model, None)
        checked += 1
    assert checked >= 50
