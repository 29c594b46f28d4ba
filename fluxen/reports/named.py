"""The reports there are: each a named query, the columns it shows, and what they are sorted and compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

Row = dict[str, Any]


def percent(part: object, whole: object) -> Decimal | None:
    """A part in per cent, to a hundredth; None of nothing or of what is not known."""
    if part is None or not whole:
        return None
    share = Decimal(str(part)) * 100 / Decimal(str(whole))
    return share.quantize(Decimal("0.01"), ROUND_HALF_EVEN)


def _dollars_each(total: Decimal | None, count: int) -> Decimal | None:
    """Rounded to pico-dollars, the only figure of a report that has to be."""
    if total is None or not count:
        return None
    return (Decimal(total) / count).quantize(Decimal("1e-12"), ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Named:
    """One report. headline: the figure that it is about; trend: the same in SQL, over the rows of a slice of time.

    derived: columns worked out from those the query found. counts: the column that is 0 for a group with nothing to
    show.
    """

    name: str
    by: tuple[str, ...]
    columns: tuple[str, ...]
    headline: str
    trend: str
    derived: Mapping[str, Callable[[Row], object]]
    counts: str = "requests"


_ERROR_RATE: Final[Callable[[Row], object]] = lambda row: percent(row["errors"], row["requests"])  # noqa: E731
_SPENT: Final = "sum(cost_usd)"

COSTS: Final = Named(
    "costs",
    ("model",),
    ("requests", "errors", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "cost_usd",
     "unknown_cost"),
    "cost_usd",
    _SPENT,
    {},
)  # fmt: skip

USAGE: Final = Named(
    "usage",
    ("model",),
    ("requests", "reported", "estimated", "unknown_usage", "input_tokens", "cache_read_tokens",
     "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens", "audio_tokens",
     "image_tokens", "searches", "tool_calls", "total_tokens"),
    "total_tokens",
    "sum(coalesce(prompt_tokens + output_tokens, prompt_tokens, output_tokens))",
    {},
)  # fmt: skip

MODELS: Final = Named(
    "models",
    ("model_asked", "upstream"),
    ("requests", "error_pct", "prompt_tokens", "output_tokens", "cost_usd", "unknown_cost", "usd_per_request",
     "latency_ms_p50", "last_seen"),
    "cost_usd",
    _SPENT,
    {"error_pct": _ERROR_RATE, "usd_per_request": lambda row: _dollars_each(row["cost_of_priced"], row["priced"])},
)  # fmt: skip

KEYS: Final = Named(
    "keys",
    ("key",),
    ("requests", "error_pct", "models", "prompt_tokens", "output_tokens", "cost_usd", "unknown_cost", "first_seen",
     "last_seen"),
    "cost_usd",
    _SPENT,
    {"error_pct": _ERROR_RATE},
)  # fmt: skip

ERRORS: Final = Named(
    "errors",
    ("status", "error", "upstream", "model_asked"),
    ("errors", "requests", "error_pct", "first_seen", "last_seen"),
    "errors",
    "count(*) FILTER (WHERE failed)",
    {"error_pct": _ERROR_RATE},
    counts="errors",
)

MEASURED: Final = ("ttfb_ms", "latency_ms", "overhead_us", "tokens_per_s")
"""What `latency` is about, …"""
PERCENTILES: Final = ("count", "p50", "p90", "p95", "p99", "worst")
"""… and the figures of each."""


def _percentile(measured: str, place: int) -> Callable[[Row], object]:
    """One of a list that the query found; nothing was measured when there is none."""

    def found(row: Row) -> object:
        values = row[measured]
        return None if values is None else _rounded(values[place], measured)

    return found


def _rounded(value: Any, measured: str) -> object:
    """A tenth of a token a second is precise enough."""
    if value is None or measured != "tokens_per_s":
        return value
    return Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_EVEN)


LATENCY: Final = Named(
    "latency",
    ("model",),
    ("requests", *(f"{measured}_{figure}" for measured in MEASURED for figure in PERCENTILES)),
    "latency_ms_p95",
    "percentile_disc(0.95) WITHIN GROUP (ORDER BY CASE WHEN NOT failed THEN latency_ms END)",
    {
        **{
            f"{measured}_{figure}": _percentile(measured, place)
            for measured in MEASURED
            for place, figure in enumerate(PERCENTILES[1:-1])
        },
        "tokens_per_s_worst": lambda row: _rounded(row["tokens_per_s_slowest"], "tokens_per_s"),
    },
)

CACHE: Final = Named(
    "cache",
    ("model",),
    ("requests", "requests_with_reads", "prompt_tokens", "cache_read_tokens", "cache_write_tokens", "read_pct",
     "provider_saved_usd", "unknown_saving", "fluxen_hits", "fluxen_hit_pct", "fluxen_saved_usd"),
    "cache_read_tokens",
    "sum(cache_read_tokens)",
    {
        "read_pct": lambda row: percent(row["cache_read_tokens"] or 0, row["prompt_tokens"]),
        "fluxen_hit_pct": lambda row: percent(row["fluxen_hits"], row["fluxen_asked"]),
        # From prices, where somebody knows them: fluxen.reports.savings.
        "provider_saved_usd": lambda row: row.get("provider_saved_usd"),
        "unknown_saving": lambda row: row.get("unknown_saving"),
    },
)  # fmt: skip

REPORTS: Final[Mapping[str, Named]] = {one.name: one for one in (COSTS, USAGE, MODELS, KEYS, ERRORS, LATENCY, CACHE)}
