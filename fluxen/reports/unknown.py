"""What a sum of costs does not say: requests without a price, without usage, lost ones, and what is estimated.

"$41.20" alone would be a claim about all requests; with 312 of them unpriced it is one about the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

_NAMED: Final = 5  # models that a note names; the others are counted

Models = tuple[tuple[str | None, int], ...]
"""Models and how many requests of each, most first; None: no model is known."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Of one report's requests. known_usd: the sum of what is known, estimates included; None when nothing is known
    to have cost anything while something is unknown. error_usd: half the 95 % band of the estimated part, as if all
    its errors went the same way."""

    known_usd: Decimal | None
    unpriced: Models = ()  # usage is known, a price is not
    unmeasured: Models = ()  # usage is not known
    lost: int = 0
    bound_usd: Decimal | None = None  # the most they can have cost, as far as that is bounded
    unbounded: int = 0
    estimated: Models = ()
    estimated_usd: Decimal = Decimal(0)
    error_usd: Decimal = Decimal(0)

    @property
    def requests(self) -> int:
        """How many have no known cost."""
        return _count(self.unpriced) + _count(self.unmeasured) + self.lost

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for a person, the first with the sum: what it lacks, what of it is estimated."""
        lacking: list[str] = []
        if self.unpriced:
            lacking.append(f"{many(_count(self.unpriced), 'request')} unpriced: {_named(self.unpriced)}")
        if self.unmeasured:
            lacking.append(f"{many(_count(self.unmeasured), 'request')} of unknown usage: {_named(self.unmeasured)}")
        if self.lost:
            lacking.append(f"{many(self.lost, 'request')} whose outcome is lost: the process was killed")
        lines = [f"+ {line}" for line in lacking]
        if lines:
            lines[0] = f"${'?' if self.known_usd is None else _plain(self.known_usd)} {lines[0]}"
        if self.bound_usd is not None:
            unbounded = f" ({self.unbounded:,} without a bound)" if self.unbounded else ""
            lines.append(
                f"{many(self.requests, 'request')} of unknown cost: at most ${_plain(self.bound_usd)}{unbounded}"
            )
        if self.estimated:
            share = self.error_usd * 100 / self.estimated_usd if self.estimated_usd else Decimal(0)
            band = f" ±{share.quantize(Decimal(1), ROUND_HALF_EVEN)} %" if self.estimated_usd else ""
            count = many(_count(self.estimated), "request")
            lines.append(f"${_plain(self.estimated_usd)} of it is estimated, in {count}{band}")
        return tuple(lines)

    def fields(self) -> dict[str, object]:
        """Of a JSON answer."""
        return {
            "known_usd": self.known_usd,
            "unpriced": {"requests": _count(self.unpriced), "models": _listed(self.unpriced)},
            "unmeasured": {"requests": _count(self.unmeasured), "models": _listed(self.unmeasured)},
            "lost": self.lost,
            "estimated": {
                "requests": _count(self.estimated),
                "cost_usd": self.estimated_usd,
                "error_usd": self.error_usd,
                "models": _listed(self.estimated),
            },
        }


def from_rows(rows: Sequence[dict[str, Any]], known: Decimal | None) -> Unknown:
    """What queries/unknown.sql found, and the sum of what is known."""
    models = {why: _models(rows, why) for why in ("unpriced", "unmeasured", "estimated")}
    nameless = [row for row in rows if row["why"] != "estimated"]
    bounds = [row["bound_usd"] for row in nameless if row["bound_usd"] is not None]
    estimated = [row for row in rows if row["why"] == "estimated"]
    error = sum((row["error_usd"] for row in estimated if row["error_usd"] is not None), Decimal(0))
    return Unknown(
        known_usd=None if nameless and not known else known,
        **models,
        lost=sum(row["requests"] for row in rows if row["why"] == "lost"),
        bound_usd=sum(bounds, Decimal(0)) if bounds else None,
        unbounded=sum(row["unbounded"] for row in nameless),
        estimated_usd=sum((row["cost_usd"] for row in estimated), Decimal(0)),
        error_usd=error.quantize(Decimal("1e-12"), ROUND_HALF_EVEN),
    )


def _models(rows: Sequence[dict[str, Any]], why: str) -> Models:
    found = [(row["model"], row["requests"]) for row in rows if row["why"] == why]
    return tuple(sorted(found, key=lambda one: (-one[1], one[0] is None, one[0] or "")))


def many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _count(models: Models) -> int:
    return sum(count for _, count in models)


def _listed(models: Models) -> list[dict[str, object]]:
    return [{"model": model, "requests": count} for model, count in models]


def _named(models: Models) -> str:
    named = ", ".join(f"{model or 'no model named'} ({count:,})" for model, count in models[:_NAMED])
    others = models[_NAMED:]
    return f"{named} and {many(len(others), 'other model')} ({_count(others):,})" if others else named


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}" if value else "0"
