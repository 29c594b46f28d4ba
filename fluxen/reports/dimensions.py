"""What a report is grouped by: columns, tags, and pieces of time as the clock of a time zone cuts them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from fluxen.errors import QueryError
from fluxen.reports.zone import shift_sql

TIMES: Final = ("hour", "day", "week", "month")
"""Of an hour the moment counts (so that the hour that comes twice in autumn is two), of the others the local date."""

OUTCOMES: Final = ("status", "error", "finish")
"""Dimensions that say how a request ended, not where it went."""

DIMENSIONS: Final[dict[str, str]] = {
    **{name: f"date_trunc('{name}', ts)" for name in TIMES},
    "model": "coalesce(model, model_asked)",
    "model_asked": "model_asked",
    "upstream": "upstream",
    "credential": "credential",
    "key": "key_id",
    "team": "team",
    "project": "project",
    "route": "route",
    "endpoint": "endpoint",
    "dialect": "dialect",
    "stream": "stream",
    "status": "status",
    "error": "error",
    "finish": "finish",
    "cache": "cache",
    "rule": "rule",
    "tier": "service_tier",
    "source": "usage_source",
    "user_agent": "user_agent",
    "node": "node",
    "price_version": "price_version",
}
"""What `--by` takes, and the expression behind it (in UTC); besides these `tag:NAME`."""

_FORMS: Final = {"day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}


@dataclass(frozen=True, slots=True)
class Grouping:
    """Dimensions with their expressions, and the parameters of these."""

    names: tuple[str, ...]
    expressions: tuple[str, ...]
    parameters: tuple[object, ...]
    zone: tzinfo

    @property
    def timed(self) -> bool:
        return not set(TIMES).isdisjoint(self.names)

    @property
    def by_time(self) -> bool:
        """Whether it is a course of time: then it stands in order."""
        return bool(self.names) and self.names[0] in TIMES

    def labels(self) -> Callable[[Sequence[object]], tuple[object, ...]]:
        """Turns what the query found into what is shown: times become text."""
        places = [(index, name) for index, name in enumerate(self.names) if name in TIMES]

        @functools.cache
        def text(moment: datetime, name: str) -> str:
            if name != "hour":
                return moment.strftime(_FORMS[name])
            local = moment.replace(tzinfo=UTC).astimezone(self.zone)
            return local.isoformat(timespec="minutes").replace("+00:00", "Z")

        def shown(cells: Sequence[object]) -> tuple[object, ...]:
            found = list(cells)
            for index, name in places:
                moment = found[index]  # never NULL: every request has a time
                assert isinstance(moment, datetime)
                found[index] = text(moment, name)
            return tuple(found)

        return shown


def parse_by(text: str) -> tuple[str, ...]:
    """`model,day,tag:customer` → the dimensions; an unknown one is an error that lists what there is."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        _check(name)
    return names


def grouping(
    names: Sequence[str],
    tag: str = "tags[?]",
    zone: tzinfo = UTC,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Grouping:
    """By these dimensions, in a time zone. tag: how a tag is read. until: needed for other zones than UTC."""
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        _check(name)
    expressions = tuple(_expression(name, tag, zone, since, until) for name in unique)
    parameters = tuple(name.removeprefix("tag:") for name in unique if name.startswith("tag:"))
    return Grouping(unique, expressions, parameters, zone)


def _expression(name: str, tag: str, zone: tzinfo, since: datetime | None, until: datetime | None) -> str:
    if name.startswith("tag:"):
        return tag
    if name not in TIMES or zone is UTC or until is None:
        return DIMENSIONS[name]
    if name == "hour":  # a zone half an hour off begins its hours at half past
        shift = shift_sql("ts", zone, since, until, within=3600)
        return f"date_trunc('hour', ts + {shift}) - {shift}" if shift else DIMENSIONS[name]
    shift = shift_sql("ts", zone, since, until)
    return f"date_trunc('{name}', ts + {shift})" if shift else DIMENSIONS[name]


def _check(name: str) -> None:
    if name in DIMENSIONS or (name.startswith("tag:") and len(name) > 4):
        return
    near = difflib.get_close_matches(name, DIMENSIONS, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise QueryError(f"can't group by '{name}'", hint=f"{meant}group by {', '.join(DIMENSIONS)} or tag:NAME")
