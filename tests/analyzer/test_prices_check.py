"""The file of a price book: what is wrong with it is found before it is used, and all of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import ROOT

from fluxen.analyzer import pricecheck
from fluxen.analyzer.prices import FILE, PriceBook, book_of, installed, load_book, older, outdated
from fluxen.errors import ConfigError

SHIPPED = (ROOT / "packaging" / "prices.json").read_bytes()
SMALL: dict[str, Any] = {
    "format": 2,
    "version": "mine-1+0",
    "source": "by hand",
    "tiers": {"on_demand": "standard"},
    "providers": {
        "openai": {
            "fallback": [],
            "tiers": {"cheap": "flex"},
            "shares": [["flex", 1, 2, ["^", "gpt-"]]],
            "fees": [["web_search", 10, "gpt-1"]],
            "models": [["gpt-1", ["|", "gpt-1", ["r", "^gpt-1-"]], [[None, {"input": 4, "output": [8, [1000, 16]]}]]]],
        }
    },
}


def small(change: Callable[[dict[str, Any]], object]) -> bytes:
    copy = json.loads(json.dumps(SMALL))
    change(copy)
    return json.dumps(copy).encode()


def provider(file: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = file["providers"]["openai"]
    return found


def model(file: dict[str, Any]) -> list[Any]:
    found: list[Any] = provider(file)["models"][0]
    return found


def version_of(version: str) -> bytes:
    return SHIPPED.replace(PriceBook.shipped().version.encode(), version.encode(), 1)


def test_the_shipped_book_and_a_small_one_are_in_order() -> None:
    assert pricecheck.problems(SHIPPED) == []
    assert pricecheck.problems(json.dumps(SMALL).encode()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(format=1), "format: 1 is not known"),
        (lambda f: f.update(version=""), "version: expected"),
        (lambda f: f.update(version="a b"), "version: expected"),
        (lambda f: f.pop("tiers"), "missing required field `tiers`"),
        (lambda f: f.update(providers={}), "providers: there are none"),
        (lambda f: f["tiers"].update({"Auto": "standard"}), "tiers.Auto: expected a word in lower case"),
        (lambda f: provider(f).update(fallback=["gone"]), "there is no provider gone"),
        (lambda f: provider(f).update(unheard=1), "unknown field `unheard`"),
        (lambda f: provider(f)["shares"].append(["standard", 1, 2, "a"]), "expected a tier other than the standard"),
        (lambda f: provider(f)["shares"].append(["slow", 1, 0, "a"]), "expected a fraction"),
        (lambda f: provider(f)["shares"].append(["slow", 1, 3, "gpt-1"]), "no whole number of pico-dollars"),
        (lambda f: provider(f)["fees"].append(["Search", 1, "a"]), "fee Search"),
        (lambda f: model(f).__setitem__(1, ["?", "x"]), "'?' is no kind of rule"),
        (lambda f: model(f).__setitem__(1, ["r", "("]), "regular expression '('"),
        (lambda f: model(f).__setitem__(1, "GPT-1"), "matched in lower case"),
        (lambda f: model(f).__setitem__(1, 7), "expected a rule for names"),
        (lambda f: model(f).__setitem__(2, []), "has no price list"),
        (lambda f: model(f)[2].append(["2026-13-01", {}]), "expected null, a date"),
        (lambda f: model(f)[2].append([["00:30", "24:00"], {}]), "expected null, a date"),
        (lambda f: model(f)[2].append([None]), "expected [when, tokens]"),
        (lambda f: model(f)[2].append([None, {"inputs": 1}]), "inputs is no class of tokens"),
        (lambda f: model(f)[2].append([None, {"input": 1.5}]), "input: expected whole pico-dollars"),
        (lambda f: model(f)[2].append([None, {"input": -1}]), "input: expected whole pico-dollars"),
        (lambda f: model(f)[2].append([None, {"input": True}]), "input: expected whole pico-dollars"),
        (lambda f: model(f)[2].append([None, {"input": 10**14}]), "input: expected whole pico-dollars"),
        (lambda f: model(f)[2].append([None, {"input": [1, [9, 1], [9, 2]]}]), "rising steps"),
        (lambda f: model(f)[2].append([None, {"input": []}]), "rising steps"),
        (lambda f: model(f)[2].append([None, {}, {"web_search": "1"}]), "fee web_search"),
        (lambda f: model(f).append([["standard", None, {}]]), "begins with the tier"),
        (lambda f: model(f).append([["flex", None, {"x": 1}]]), "x is no class of tokens"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: Callable[[dict[str, Any]], object], said: str) -> None:
    found = pricecheck.problems(small(change))
    assert any(said in line for line in found), found


def test_everything_that_is_wrong_is_said_at_once() -> None:
    def change(file: dict[str, Any]) -> None:
        file["version"] = ""
        model(file)[2] += [[None, {"a": 2, "input": "x"}], [7, {}]]

    assert len(pricecheck.problems(small(change))) == 4
    many = small(lambda f: model(f).__setitem__(2, [[None, {str(i): 2}] for i in range(1000)]))
    assert len(pricecheck.problems(many)) == 51


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"format":2}', b"[" * 100_000])
def test_what_is_no_price_book_is_no_crash(raw: bytes) -> None:
    (line,) = pricecheck.problems(raw)
    assert line.startswith("not a price book: ")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.data())
def test_what_passes_can_be_used_whatever_it_is(data: st.DataObject) -> None:
    """Any value in any place: either it is told, or every lookup in the book gives a price or none."""
    copy = json.loads(json.dumps(SMALL))
    at: Any = copy
    while isinstance(at, dict | list) and at:
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            at[key] = data.draw(_JSON)
            break
        at = at[key]
    raw = json.dumps(copy).encode()
    if pricecheck.problems(raw):
        return
    book = PriceBook(raw, {})
    for name in ("gpt-1", "gpt-1-x", "", "other"):
        for tier in (None, "flex", "cheap", "on_demand"):
            for ts in (0, 1_790_000_000_000_000):
                book.find_at("openai", name, ts, None, tier)


def test_one_byte_that_is_another_is_told_or_does_no_harm() -> None:
    """As a disk or an editor would do it, in the middle of the shipped file."""
    dice = random.Random(5)
    for _ in range(12):
        raw = bytearray(SHIPPED)
        raw[dice.randrange(len(raw))] = dice.randrange(32, 127)
        if not pricecheck.problems(bytes(raw)):
            book = PriceBook(bytes(raw), {})
            assert book.find_at("openai", "gpt-4o", 1_790_000_000_000_000) is not None


# ------------------------------------------------------------------------------------------ in the data folder


def test_a_newer_book_in_the_data_folder_is_used(tmp_path: Path) -> None:
    assert load_book(tmp_path) is PriceBook.shipped()
    assert load_book(None) is PriceBook.shipped()
    (tmp_path / FILE).write_bytes(version_of("genai-prices-99.0.1+abc"))
    assert load_book(tmp_path).version == "genai-prices-99.0.1+abc"
    assert load_book(tmp_path).find_at("gemini", "gemini-2.5-pro", 0) is not None  # by our names of providers


def test_an_older_one_stands_back(tmp_path: Path) -> None:
    """A version of Fluxen that knows newer prices must not be held back by a file that was newer once."""
    raw = version_of("genai-prices-0.0.9+abc")
    assert outdated(raw) == "genai-prices-0.0.9+abc"
    assert book_of(raw) is PriceBook.shipped()
    assert outdated(version_of("genai-prices-99.0+abc")) is None
    assert outdated(version_of("mine-1+abc")) is None  # nobody can tell


@pytest.mark.parametrize(
    ("version", "than", "before"),
    [("a-1.2+x", "a-1.10+y", True), ("a-1.10+x", "a-1.2+x", False), ("a-1.2+x", "a-1.2+y", False),
     ("a-1.2+x", "b-2+x", False), ("free text", "a-1+x", False), ("a-1+x", "a-1.0.1+x", True)],
)  # fmt: skip
def test_versions_in_order(version: str, than: str, before: bool) -> None:
    assert older(version, than) is before


def test_one_that_can_not_be_used_is_an_error_with_all_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(small(lambda f: model(f)[2].append([None, {"inputs": 2}])))
    with pytest.raises(ConfigError) as caught:
        installed(tmp_path)
    assert caught.value.problems == ("providers.openai.models[0] (gpt-1): inputs is no class of tokens",)
    assert caught.value.hint is not None and "--revert" in caught.value.hint
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError):
        installed(tmp_path)


def test_the_file_is_read_as_msgspec_reads_it() -> None:
    """Opened piece by piece or at once, it is the same book."""
    whole = msgspec.json.decode(SHIPPED)
    file = PriceBook.shipped().file
    assert set(file.providers) == set(whole["providers"])
    for name in file.providers:
        assert [m.id for m in file.list_of(name)] == [m[0] for m in whole["providers"][name]["models"]]
