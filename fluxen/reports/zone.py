"""Time zones by their IANA names: when a day begins there, also across changes of the clock.

A report cuts time in SQL. The changes of the clock within its time are worked out here and written into the query, so
that every database cuts alike and none needs to know time zones.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import resources
from typing import Final

from fluxen.errors import QueryError

VARIABLE: Final = "FLUXEN_TIMEZONE"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*")
_OLDEST: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Nothing in a ledger is older; if it were, the clock of that day would count."""


def find_zone(name: str) -> tzinfo:
    """The time zone of that name, `UTC` or `Europe/Berlin`. QueryError with the nearest name when there is none."""
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    if _NAME.fullmatch(name) and (zone := _bundled(name)) is not None:
        return zone
    known = zoneinfo.available_timezones()
    if not known:
        raise QueryError(f"the time zone '{name}' can't be looked up", hint="install tzdata, or use UTC")
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    meant = f"did you mean {lower[near[0]]}?" if near else "names are like Europe/Berlin, America/New_York and UTC"
    raise QueryError(f"there is no time zone '{name}'", hint=meant)


def chosen_zone(option: str | None, env: Mapping[str, str]) -> tzinfo:
    """What the option says, else FLUXEN_TIMEZONE, else UTC. The machine's own zone does not count: the same command
    must give the same days on every machine."""
    return find_zone(option or env.get(VARIABLE) or "UTC")


def zone_name(zone: tzinfo) -> str:
    return "UTC" if zone is UTC else str(zone)


def _bundled(name: str) -> tzinfo | None:
    """pytz brings the zones along, for systems that have none."""
    try:
        with resources.files("pytz").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError):
        return None


def changes(zone: tzinfo, low: datetime | None, high: datetime) -> list[tuple[datetime, int]]:
    """The seconds to add to UTC within [low, high): (until when, seconds), in order; the last holds from then on."""
    moment = max(low or _OLDEST, _OLDEST)
    found: list[tuple[datetime, int]] = []
    offset = _offset(zone, moment)
    while moment < high:
        following = moment + timedelta(days=1)
        if (new := _offset(zone, following)) != offset:
            found.append((_change(zone, moment, following), offset))
            offset = new
        moment = following
    return [*found, (high, offset)]


def shift_sql(column: str, zone: tzinfo, low: datetime | None, high: datetime, within: int | None = None) -> str | None:
    """The interval to add to the column, a timestamp in UTC, for the time on the wall; None: nothing.

    within: only what the wall's clock differs within so many seconds (3600: the minutes).
    """
    steps = [(until, seconds % within if within else seconds) for until, seconds in changes(zone, low, high)]
    last = steps[-1][1]
    if all(seconds == last for _, seconds in steps):
        return f"INTERVAL '{last} seconds'" if last else None
    cases = " ".join(
        f"WHEN {column} < TIMESTAMP '{until.astimezone(UTC):%Y-%m-%d %H:%M:%S}' THEN INTERVAL '{seconds} seconds'"
        for until, seconds in steps[:-1]
    )
    return f"CASE {cases} ELSE INTERVAL '{last} seconds' END"


def _offset(zone: tzinfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _change(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """The second in (low, high] from which on the offset is another."""
    before = _offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)
