"""Moments as people write them: `1d`, `2026-11-01`, `today`. All of them are UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from fluxen.errors import QueryError

FORMS = "1d, 12h, 30m, 2w, 2026-11-01, 2026-11-01T09:30, now, today, yesterday, this-month, last-month"

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+(Z|[+-][0-9]{2}:?[0-9]{2})?)?")


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment `text` names, in UTC. `1d` is 24 hours before `now`; a day or month is its first instant."""
    word = text.strip()
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    named = {
        "now": now,
        "today": day,
        "yesterday": day - timedelta(days=1),
        "this-month": month,
        "last-month": (month - timedelta(days=1)).replace(day=1),
    }
    try:
        if word.lower() in named:
            return named[word.lower()].astimezone(UTC)
        if ago := _AGO.fullmatch(word):
            return now.astimezone(UTC) - timedelta(seconds=int(ago.group(1)) * _SECONDS[ago.group(2)])
        if _ISO.fullmatch(word):
            moment = datetime.fromisoformat(word)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass  # looks like a moment, but is none (month 13, a million weeks)
    raise QueryError(f"'{text}' is no moment", hint=f"write one of {FORMS}; all are UTC")


def parse_span(since: str | None, until: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """What `--since` and `--until` name. QueryError when they are swapped."""
    start = parse_moment(since, now) if since is not None else None
    end = parse_moment(until, now) if until is not None else None
    if start is not None and end is not None and start > end:
        raise QueryError(
            f"--since {since} ({show_moment(start)}) is after --until {until} ({show_moment(end)})",
            hint="the earlier moment is --since; 2d is earlier than 1d, for both are counted back from now",
        )
    return start, end


def show_moment(moment: datetime) -> str:
    """2026-11-01T09:30:00Z, the form `--json` uses."""
    return moment.astimezone(UTC).isoformat(timespec="auto").replace("+00:00", "Z")
