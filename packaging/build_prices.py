"""Build the price book from the genai-prices package of the environment: packaging/prices.json, which people can read
and compare, and what is shipped of it, packed: fluxen/analyzer/prices.json.zst.

    python packaging/build_prices.py                  write the file
    python packaging/build_prices.py --check          exit 1 if the file is not what would be written
    python packaging/build_prices.py --output FILE    write it there, for `fluxen cost prices update FILE`

The package is a build-time dependency (pinned by tests/requirements.lock); at run time only the file is read. What
providers publish of tiers and fees and the package does not hold comes from price_variants.yaml beside this script. The
output depends on nothing but the package's version and that file: building twice gives the same bytes.

Prices become whole pico-dollars per token: $1 per million tokens is 10^6 pico-dollars per token. A price that is no
whole number of them is a decimal fraction that went through floating point at its source (0.18000000000000002) or a
repeating one (1/12). It is rounded to the nearest, only if that moves it by less than one part in 10^5, and named in
the file under `rounded`; anything else stops the build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
import zstandard
from genai_prices import data_snapshot, types

TARGET = Path(__file__).with_name("prices.json")
PACKED = Path(__file__).resolve().parent.parent / "fluxen" / "analyzer" / "prices.json.zst"
VARIANTS = Path(__file__).with_name("price_variants.yaml")

# Unit of the source: class of ours.
TOKENS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_audio_read_mtok": "cache_read_audio",
    "cache_image_read_mtok": "cache_read_image",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_video_mtok": "output_video",
}
# Fees per call, kept apart from tokens.
FEES = {
    "requests_kcount": "request",
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
}
# Not by token or call, or a token class no usage object reports: a model that has only these has no price here.
LEFT_OUT = {
    "audio_hours",
    "input_audio_hours",
    "input_mchars",
    "input_text_messages_kcount",
    "input_document_kpages",
    "input_annotated_document_kpages",
    "output_citation_mtok",
}
# What decides a variant of a price: an answer names its tier of service, or a batch is known by its address. A route or
# a kind of search is named by nothing that a row keeps.
TIERS = {"processing": ("batch",), "service_tier": ("flex", "priority", "fast"), "speed": ("fast",)}
VARIANTS_LEFT_OUT = {
    ("service_tier", "default"),
    ("route", "mistral/eu"),
    ("search_type", "fast"),
    ("search_type", "web"),
}


class Book:
    def __init__(self) -> None:
        self.rounded: list[list[str]] = []

        self.published = yaml.safe_load(VARIANTS.read_bytes())

    def build(self) -> dict[str, Any]:
        built = {p.id: self.provider(p) for p in sorted(data_snapshot.get_snapshot().providers, key=lambda p: p.id)}
        if unknown := set(self.published["providers"]) - set(built):
            raise SystemExit(f"{VARIANTS.name}: no such providers: {unknown}")
        return built

    def provider(self, provider: types.Provider) -> dict[str, Any]:
        models = []
        for m in provider.models:
            models.append([m.id, match(m.match), list(self.prices(provider.id, m))])
            if variants := list(self.variants(provider.id, m)):
                models[-1].append(variants)
        more = self.published["providers"].get(provider.id, {})
        built = {"fallback": provider.fallback_model_providers or []}
        if "tiers" in more:
            built["tiers"] = more["tiers"]
        if "shares" in more:
            built["shares"] = [
                [one["tier"], *Fraction(one["factor"]).as_integer_ratio(), any_of(one["models"])]
                for one in more["shares"]
            ]
        if "fees" in more:
            built["fees"] = [
                [one["name"], self.per_call(str(one["per_thousand"])), any_of(one["models"])] for one in more["fees"]
            ]
        return built | {"models": models}

    def variants(self, provider: str, model: types.ModelInfo) -> Iterator[list[Any]]:
        """[tier, when, token prices, fees], in the source's order: of each price the first one that applies counts."""
        for variant in model.price_variants or ():
            ((key, value),) = variant.when.items()
            if (key, value) in VARIANTS_LEFT_OUT:
                if key == "service_tier" and any(v is not None for v in variant.prices.__dict__.values()):
                    raise SystemExit(f"{provider} {model.id}: the default tier has prices of its own")
                continue
            if value not in TIERS.get(key, ()):
                raise SystemExit(f"{provider} {model.id}: unknown variant {variant.when}")
            tokens, fees = self.amounts(provider, model, variant.prices)
            yield [value, when(variant.constraint), tokens, *([fees] if fees else [])]

    def prices(self, provider: str, model: types.ModelInfo) -> Iterator[list[Any]]:
        """[when, token prices, fees], in the source's order: the last one that applies counts, else the first."""
        conditional = model.prices
        if isinstance(conditional, types.ModelPrice):
            conditional = [types.ConditionalPrice(prices=conditional)]
        for c in conditional:
            tokens, fees = self.amounts(provider, model, c.prices)
            if not c.prices.__dict__ and provider == "openrouter" and model.id.endswith(":free"):
                tokens = {"input": 0, "output": 0}  # no price in the source; free by its name and OpenRouter's word
            yield [when(c.constraint), tokens, fees] if fees else [when(c.constraint), tokens]

    def amounts(
        self, provider: str, model: types.ModelInfo, prices: types.ModelPrice
    ) -> tuple[dict[str, Any], dict[str, int]]:
        tokens: dict[str, Any] = {}
        fees: dict[str, int] = {}
        for key, value in sorted(prices.__dict__.items()):
            if value is None or key in LEFT_OUT:
                continue
            if key in FEES:
                fees[FEES[key]] = self.whole(value * 10**9, provider, model.id, key, value)
            elif isinstance(value, types.TieredPrices):
                tokens[TOKENS[key]] = [
                    self.per_token(value.base, provider, model.id, key),
                    *([t.start, self.per_token(t.price, provider, model.id, key)] for t in value.tiers),
                ]
            else:
                tokens[TOKENS[key]] = self.per_token(value, provider, model.id, key)
        return tokens, fees

    def per_call(self, dollars_per_thousand: str) -> int:
        pico = Decimal(dollars_per_thousand) * 10**9
        if pico % 1:
            raise SystemExit(f"{VARIANTS.name}: {dollars_per_thousand} is no whole number of pico-dollars per call")
        return int(pico)

    def per_token(self, dollars_per_million: Decimal, *where: str) -> int:
        return self.whole(dollars_per_million * 10**6, *where, dollars_per_million)

    def whole(self, pico: Decimal, provider: str, model: str, key: str, source: Decimal) -> int:
        rounded = int(pico.to_integral_value())
        if rounded != pico:
            if abs(rounded - pico) > pico / 10**5:
                raise SystemExit(f"{provider} {model} {key}: {source} is no whole number of pico-dollars")
            entry = [provider, model, key, str(source)]
            if entry not in self.rounded:
                self.rounded.append(entry)
        return rounded


def match(clause: Any) -> Any:
    """A text means equality; ["^", …] starts with, ["$", …] ends, ["~", …] contains, ["r", …] regex, | or, & and."""
    if isinstance(clause, types.ClauseEquals):
        return clause.equals.lower()
    if isinstance(clause, types.ClauseStartsWith):
        return ["^", clause.starts_with.lower()]
    if isinstance(clause, types.ClauseEndsWith):
        return ["$", clause.ends_with.lower()]
    if isinstance(clause, types.ClauseContains):
        return ["~", clause.contains.lower()]
    if isinstance(clause, types.ClauseRegex):
        return ["r", clause.regex]
    if isinstance(clause, types.ClauseOr):
        return ["|", *map(match, clause.or_)]
    if isinstance(clause, types.ClauseAnd):
        return ["&", *map(match, clause.and_)]
    raise SystemExit(f"unknown clause {clause!r}")


def any_of(rules: list[Any]) -> Any:
    return ["|", *rules]


def when(constraint: Any) -> Any:
    """null: always; a date: from then on, UTC; [from, to]: daily between these times, UTC."""
    if constraint is None:
        return None
    if isinstance(constraint, types.StartDateConstraint):
        return constraint.start_date.isoformat()
    if isinstance(constraint, types.TimeOfDateConstraint):
        times = (constraint.start_time, constraint.end_time)
        if any(t.second or t.microsecond or t.utcoffset() not in (None, timedelta(0)) for t in times):
            raise SystemExit(f"{constraint!r} is not in whole minutes of UTC")
        return [t.strftime("%H:%M") for t in times]
    raise SystemExit(f"unknown constraint {constraint!r}")


def shipped() -> bytes:
    """The file's bytes: one line per model, so that a new version is a readable diff."""
    book = Book()
    providers = book.build()
    lines = ",\n".join(
        f"{dump(name)}:{dump({k: v for k, v in p.items() if k != 'models'})[:-1]},{dump('models')}:[\n"
        + ",\n".join(dump(model) for model in p["models"])
        + "\n]}"
        for name, p in providers.items()
    )
    version = metadata.version("genai-prices")
    tiers = book.published["tiers"]
    digest = hashlib.sha256((dump(tiers) + lines).encode()).hexdigest()[:8]
    head = {
        "format": 2,
        "version": f"genai-prices-{version}+{digest}",
        "source": f"genai-prices {version}, https://github.com/pydantic/genai-prices",
        "licence": "MIT, Copyright (c) Pydantic Services Inc. 2025 to present; text in docs/usage-and-prices.md",
        "unit": "whole pico-dollars (USD 1e-12) per token; fees per call",
        "rounded": book.rounded,
        "tiers": tiers,
    }
    return f'{dump(head)[:-1]},\n"providers":{{\n{lines}\n}}}}\n'.encode()


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments.add_argument("--output", type=Path, default=TARGET, help="another file than the shipped one")
    wanted = arguments.parse_args()
    new = shipped()
    if wanted.check:
        return 0 if wanted.output.read_bytes() == new == zstandard.decompress(PACKED.read_bytes()) else 1
    wanted.output.write_bytes(new)
    if wanted.output == TARGET:
        PACKED.write_bytes(zstandard.compress(new, 19))
    print(f"{wanted.output}: {len(new)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
