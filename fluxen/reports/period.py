"""Moments as people write them: `7d`, `2026-11-01`, `today`; spans of them, and the span before one."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from fluxen.errors import QueryError

FORMS: Final = (
    "7d, -7d, 12h, 30m, 2w, 2026-11-01, 2026-11-01T09:30, 2026-11, now, today, yesterday, this-week, last-week, "
    "this-month, last-month, this-year"
)

_AGO = re.compile(r"-?([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DAY: Final = timedelta(hours=25)  # the longest there is, when clocks go back
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+(Z|[+-][0-9]{2}:?[0-9]{2})?)?")


def parse_moment(text: str, now: datetime, zone: tzinfo = UTC) -> datetime:
    """The moment `text` names, in UTC. `1d` is 24 hours before `now`; a day, week (from Monday), month or year is its
    first instant in `zone`, and a time that names no zone is of that one."""
    word = text.strip()
    try:
        if (named := _named(word.lower(), now, zone)) is not None:
            return named.astimezone(UTC)
        if ago := _AGO.fullmatch(word):
            return now.astimezone(UTC) - timedelta(seconds=int(ago.group(1)) * _SECONDS[ago.group(2)])
        if _MONTH.fullmatch(word):
            word += "-01"
        if _ISO.fullmatch(word):
            moment = datetime.fromisoformat(word)
            return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # looks like a moment, but is none (month 13, a million weeks)
    raise QueryError(f"'{text}' is no moment", hint=f"write one of {FORMS}")


def _named(word: str, now: datetime, zone: tzinfo) -> datetime | None:
    """In local time, where a day is a day of the calendar also when it has 23 or 25 hours."""
    if word == "now":
        return now
    day = _midnight(now, zone)
    month = day.replace(day=1)
    monday = day - timedelta(days=day.weekday())
    return {
        "today": day,
        "yesterday": day - timedelta(days=1),
        "this-week": monday,
        "last-week": monday - timedelta(days=7),
        "this-month": month,
        "last-month": (month - timedelta(days=1)).replace(day=1),
        "this-year": day.replace(month=1, day=1),
    }.get(word)


def _midnight(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def parse_span(
    since: str | None, until: str | None, now: datetime, zone: tzinfo = UTC
) -> tuple[datetime | None, datetime | None]:
    """What `--since` and `--until` name. QueryError when they are swapped."""
    start = parse_moment(since, now, zone) if since is not None else None
    end = parse_moment(until, now, zone) if until is not None else None
    if start is not None and end is not None and start > end:
        raise QueryError(
            f"--since {since} ({show_moment(start, zone)}) is after --until {until} ({show_moment(end, zone)})",
            hint="the earlier moment is --since; 2d is earlier than 1d, for both are counted back from now",
        )
    return start, end


def previous_span(since: datetime, until: datetime, zone: tzinfo = UTC) -> tuple[datetime, datetime] | None:
    """The span to compare one with: as far into the month, day or hours before, never reaching into the span itself.

    What begins with a month and is longer than a day is compared with the months before, what begins with a day with
    the days before (by the calendar of `zone`), anything else with as long a time before it. None for an empty span.
    """
    start, end = since.astimezone(zone), until.astimezone(zone)
    length = until - since
    if length <= timedelta(0):
        return None
    try:
        if start != _midnight(start, zone):
            return since - length, since
        if start.day == 1 and length > _DAY:
            last = (end - timedelta(microseconds=1)).astimezone(zone)
            months = (last.year - start.year) * 12 + last.month - start.month + 1
            before, after = _months_back(start, months), _months_back(end, months)
        else:
            days = timedelta(days=-((start.replace(tzinfo=None) - end.replace(tzinfo=None)) // timedelta(days=1)))
            before, after = start - days, end - days  # by the calendar: the clock's hour stays
        return before.astimezone(UTC), min(after.astimezone(UTC), since)
    except (ValueError, OverflowError):  # before the year 1
        return None


def _months_back(moment: datetime, months: int) -> datetime:
    count = moment.year * 12 + moment.month - 1 - months
    year, month = divmod(count, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def show_moment(moment: datetime, zone: tzinfo = UTC) -> str:
    """2026-11-01T09:30:00Z, the form `--json` uses; in other zones 2026-11-01T10:30:00+01:00."""
    return moment.astimezone(zone).isoformat(timespec="auto").replace("+00:00", "Z")
