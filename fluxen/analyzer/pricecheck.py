"""What is wrong with the file of a price book, all of it at once.

A gateway opens the book piece by piece, long after it was put in force: whatever could be wrong then is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any, Final, TypeVar

import msgspec

from fluxen.analyzer.pricelist import CLASSES, FORMAT, STANDARD, DefaultFee, File, Model, Provider, Share, matches

_LARGEST: Final = 10**13  # pico-dollars: $10 per token or call; more is a mistake in the unit
_MOST: Final = 50
_VERSION: Final = re.compile(r"[\x21-\x7e]{1,100}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_DEEPEST: Final = 16

Shape = TypeVar("Shape")


def problems(raw: bytes) -> list[str]:
    """Lines that say where and what, at most _MOST; none: the file can be used."""
    found = _problems(raw)
    lines = [line for line, _ in zip(found, range(_MOST), strict=False)]
    return lines if len(lines) < _MOST else [*lines, "… and perhaps more"]


def _problems(raw: bytes) -> Iterator[str]:
    try:
        file = msgspec.json.decode(raw, type=File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield f"not a price book: {error}"
        return
    if file.format != FORMAT:
        yield f"format: {file.format} is not known, this version of Fluxen reads {FORMAT}"
        return
    if not _VERSION.fullmatch(file.version):
        yield "version: expected 1 to 100 printable ASCII characters without spaces"
    yield from _tiers("tiers", file.tiers)
    if not file.providers:
        yield "providers: there are none"
    for name, section in file.providers.items():
        provider, why = _decoded(section, Provider)
        if provider is None:
            yield f"providers.{name}: {why}"
            continue
        for other in provider.fallback:
            if other not in file.providers:
                yield f"providers.{name}.fallback: there is no provider {other}"
        yield from _provider(f"providers.{name}", provider)


def _decoded(raw: msgspec.Raw, shape: type[Shape]) -> tuple[Shape | None, str]:
    try:
        return msgspec.json.decode(raw, type=shape), ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, str(error)


def _provider(where: str, provider: Provider) -> Iterator[str]:
    yield from _tiers(f"{where}.tiers", provider.tiers)
    for share in provider.shares:
        yield from _share(f"{where}.shares[{share.tier}]", share)
    for fee in provider.fees:
        yield from _default(f"{where}.fees[{fee.name}]", fee)
    for index, section in enumerate(provider.models):
        model, error = _decoded(section, Model)
        if model is None:
            yield f"{where}.models[{index}]: {error}"
            continue
        at = f"{where}.models[{index}] ({model.id})"
        yield from _model(at, model)
        for share in provider.shares:
            if any(_share("", share)) or not matches(share.match, model.id.lower()):
                continue
            if any(_remainder(entry, share) for entry in model.prices):
                yield f"{at}: {share.numerator}/{share.denominator} of its price is no whole number of pico-dollars"


def _remainder(entry: list[Any], share: Share) -> bool:
    tokens = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
    amounts = [amount for value in tokens.values() for amount in _amounts(value)]
    return any(amount * share.numerator % share.denominator for amount in amounts)


def _amounts(value: Any) -> list[int]:
    """The prices in what should be a rate, as far as they can be made out."""
    base, *steps = value if isinstance(value, list) and value else [value]
    prices = [base, *(step[-1] for step in steps if isinstance(step, list) and step)]
    return [price for price in prices if isinstance(price, int)]


def _tiers(where: str, tiers: dict[str, str]) -> Iterator[str]:
    for word, tier in tiers.items():
        if word != word.strip().lower() or not _NAME.fullmatch(tier):
            yield f"{where}.{word}: expected a word in lower case and the tier it means"


def _share(where: str, share: Share) -> Iterator[str]:
    if not _NAME.fullmatch(share.tier) or share.tier == STANDARD:
        yield f"{where}: expected a tier other than the standard one"
    if share.numerator < 0 or share.denominator <= 0:
        yield f"{where}: expected a fraction"
    yield from _rule(where, share.match)


def _default(where: str, fee: DefaultFee) -> Iterator[str]:
    yield from _fees(where, {fee.name: fee.amount})
    yield from _rule(where, fee.match)


def _model(where: str, model: Model) -> Iterator[str]:
    yield from _rule(where, model.match)
    if not model.prices:
        yield f"{where}: has no price list"
    for entry in model.prices:
        yield from _entry(where, entry)
    for variant in model.variants:
        if not variant or not isinstance(variant[0], str) or not _NAME.fullmatch(variant[0]) or variant[0] == STANDARD:
            yield f"{where}: a variant begins with the tier it is of"
        else:
            yield from _entry(f"{where} {variant[0]}", variant[1:])


def _entry(where: str, entry: list[Any]) -> Iterator[str]:
    if len(entry) not in (2, 3):
        yield f"{where}: expected [when, tokens] or [when, tokens, fees]"
        return
    when, tokens, *fees = entry
    if not _when(when):
        yield f"{where}: expected null, a date such as 2026-01-31, or two times such as 00:30, not {when!r}"
    if not isinstance(tokens, dict):
        yield f"{where}: expected an object of token prices"
        return
    for name, value in tokens.items():
        if name not in CLASSES:
            yield f"{where}: {name} is no class of tokens"
        elif not _rate(value):
            yield f"{where}: {name}: expected whole pico-dollars per token, or them and rising steps, not {value!r}"
    for said in fees:
        yield from _fees(where, said)


def _when(when: Any) -> bool:
    if when is None:
        return True
    if isinstance(when, str):
        try:
            date.fromisoformat(when)
        except ValueError:
            return False
        return True
    return isinstance(when, list) and len(when) == 2 and all(isinstance(t, str) and _TIME.fullmatch(t) for t in when)


def _amount(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _rate(value: Any) -> bool:
    if not isinstance(value, list):
        return _amount(value)
    if not value or not _amount(value[0]):
        return False
    steps = value[1:]
    if not all(isinstance(step, list) and len(step) == 2 and all(map(_amount, step)) for step in steps):
        return False
    starts = [step[0] for step in steps]
    return starts == sorted(set(starts))


def _fees(where: str, fees: Any) -> Iterator[str]:
    if not isinstance(fees, dict):
        yield f"{where}: expected an object of fees"
        return
    for name, value in fees.items():
        if not _NAME.fullmatch(name) or not _amount(value):
            yield f"{where}: fee {name}: expected a name in lower case and whole pico-dollars per call, not {value!r}"


def _rule(where: str, rule: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(rule, str):
        if not rule or rule != rule.lower():
            yield f"{where}: names are matched in lower case, not as {rule!r}"
        return
    if not isinstance(rule, list) or len(rule) < 2 or not isinstance(rule[0], str) or depth > _DEEPEST:
        yield f"{where}: expected a rule for names"
        return
    kind, *parts = rule
    if kind in ("|", "&"):
        for part in parts:
            yield from _rule(where, part, depth + 1)
        return
    if kind not in ("^", "$", "~", "r") or len(parts) != 1 or not isinstance(parts[0], str):
        yield f"{where}: {kind!r} is no kind of rule for names"
    elif kind == "r":
        try:
            re.compile(parts[0])
        except re.error as error:
            yield f"{where}: regular expression {parts[0]!r}: {error}"
