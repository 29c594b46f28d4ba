"""How long an amount lasts: `50/day` and the rate of spending now say when it is spent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from fluxen.errors import QueryError

PERIODS: Final = ("hour", "day", "week", "month")
_FORM: Final = re.compile(r"\$?([0-9]{1,9}(?:\.[0-9]{1,12})?)/(" + "|".join(PERIODS) + ")")
_PICO: Final = 10**12


@dataclass(frozen=True, slots=True)
class Outlook:
    """spent, left: pico-dollars, `left` below 0 when more was spent. seconds: until it is spent at this rate, 0 when
    it is, None when nothing is being spent. lasts: not before the period ends."""

    spent: int
    left: int
    seconds: float | None
    lasts: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount (pico-dollars) for each hour, day, week (from Monday) or month of a time zone's calendar."""

    amount: int
    period: str
    zone: tzinfo = UTC

    def start(self, now: datetime) -> datetime:
        """When the period that `now` is in began."""
        local = now.astimezone(self.zone).replace(minute=0, second=0, microsecond=0)
        if self.period != "hour":
            local = local.replace(hour=0, fold=0)
        if self.period == "week":
            local -= timedelta(days=local.weekday())
        return local.replace(day=1) if self.period == "month" else local

    def end(self, now: datetime) -> datetime:
        """When the next one begins."""
        start = self.start(now)
        if self.period == "hour":
            return (start.astimezone(UTC) + timedelta(hours=1)).astimezone(self.zone)
        if self.period == "month":
            return (start.replace(day=1) + timedelta(days=32)).replace(day=1)
        return start + timedelta(days=7 if self.period == "week" else 1)  # of the calendar: 23 to 25 hours each

    def outlook(self, spent: int, per_minute: float, now: datetime) -> Outlook:
        """What becomes of it: spent so far in this period and spent a minute, both in pico-dollars."""
        left = self.amount - spent
        if left <= 0:
            return Outlook(spent, left, 0.0, lasts=False)
        seconds = left * 60 / per_minute if per_minute > 0 else None
        remaining = (self.end(now).astimezone(UTC) - now).total_seconds()
        return Outlook(spent, left, seconds, lasts=seconds is None or seconds >= remaining)


def parse_budget(text: str, zone: tzinfo = UTC) -> Budget:
    """`50/day`, `$2.50/hour`. QueryError for anything else."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise QueryError(f"'{text}' is no budget", hint=f"write dollars and one of {', '.join(PERIODS)}: 50/day")
    whole, _, part = found[1].partition(".")
    return Budget(int(whole) * _PICO + int(part.ljust(12, "0")), found[2], zone)
