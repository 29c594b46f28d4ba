"""How long a key works, as people write it: `24h`, `90d`, `2027-01-31`, `never`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from fluxen.config.values import parse_moment

DAY: Final = timedelta(days=1)
LONGEST: Final = timedelta(days=3660)

_SPAN = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_span(text: str) -> timedelta:
    """`90d`, `24h`, `30m`, `0` → timedelta; ValueError with what to write instead."""
    word = text.strip()
    if word == "0":
        return timedelta(0)
    match = _SPAN.fullmatch(word)
    if match is None:
        raise ValueError("expected a time such as 24h, 90d, 30m, 2w or 0")
    span = timedelta(seconds=int(match.group(1)) * _SECONDS[match.group(2)])
    if span > LONGEST:
        raise ValueError("that is more than ten years")
    return span


def parse_end(text: str, now: datetime) -> datetime | None:
    """`90d` (from now), `2027-01-31` (its midnight, UTC), an ISO 8601 time, `never` (None); ValueError otherwise, also
    for what is past."""
    word = text.strip()
    if word.lower() == "never":
        return None
    if _SPAN.fullmatch(word):
        end = now + parse_span(word)
    else:
        try:
            end = parse_moment(word)
        except ValueError as error:
            raise ValueError(f"{error}; or for how long, such as 90d, or never") from None
    if end <= now:
        raise ValueError("that is not in the future")
    return end.astimezone(UTC)
