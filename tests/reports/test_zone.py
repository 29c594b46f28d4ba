"""Time zones: their names, when their clocks change, and what a query makes of it."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxen.errors import QueryError
from fluxen.ledger.engine import connect
from fluxen.reports.dimensions import grouping
from fluxen.reports.zone import VARIABLE, changes, chosen_zone, find_zone, zone_name


def test_names() -> None:
    assert find_zone("utc") is UTC
    assert zone_name(find_zone("Z")) == "UTC"
    assert zone_name(find_zone("America/New_York")) == "America/New_York"
    for name, near in (("Europe/Berln", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("1", "names are like")):
        with pytest.raises(QueryError) as caught:
            find_zone(name)
        assert near in (caught.value.hint or "")
    for name in ("../../etc/passwd", "/etc/localtime", "", "Europe", "a\0b", "Europe/../Europe/Berlin"):
        with pytest.raises(QueryError):
            find_zone(name)


def test_a_system_without_zones_has_those_that_come_along(tmp_path: Path) -> None:
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([tmp_path])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        zone = find_zone("Asia/Kolkata")
        assert zone.utcoffset(datetime(2026, 1, 1)) == timedelta(hours=5, minutes=30)
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()


def test_an_option_comes_before_the_environment_and_the_machines_zone_does_not_count() -> None:
    env = {VARIABLE: "Asia/Tokyo", "TZ": "Europe/Berlin"}
    assert zone_name(chosen_zone("Europe/Paris", env)) == "Europe/Paris"
    assert zone_name(chosen_zone(None, env)) == "Asia/Tokyo"
    assert chosen_zone(None, {"TZ": "Europe/Berlin"}) is UTC


def test_when_clocks_change() -> None:
    low, high = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert changes(find_zone("Europe/Berlin"), low, high) == [
        (datetime(2026, 3, 29, 1, tzinfo=UTC), 3600),
        (datetime(2026, 10, 25, 1, tzinfo=UTC), 7200),
        (high, 3600),
    ]
    assert changes(UTC, low, high) == [(high, 0)]


@settings(max_examples=30)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]),
    st.lists(st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)), min_size=1, max_size=20),
)
def test_a_query_cuts_time_as_the_zone_does(name: str, moments: list[datetime]) -> None:
    """Days, weeks and months are those of the local date; an hour is one of the local clock, and no two."""
    zone = find_zone(name)
    low, high = datetime(2025, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
    by = grouping(("hour", "day", "week", "month"), zone=zone, since=low, until=high)
    connection = connect(threads=1)
    for moment in moments:
        found = connection.execute(
            f"SELECT {', '.join(by.expressions)} FROM (SELECT CAST(? AS TIMESTAMP) AS ts) AS one", [moment]
        ).fetchone()
        assert found is not None
        local = moment.replace(tzinfo=UTC).astimezone(zone)
        hour, day, week, month = by.labels()(found)
        if name != "Australia/Lord_Howe":  # its clock changes by half an hour, within one
            assert hour == local.replace(minute=0).isoformat(timespec="minutes")
        assert str(hour)[:13] in {local.isoformat()[:13], (local - timedelta(minutes=30)).isoformat()[:13]}
        assert (day, month) == (f"{local:%Y-%m-%d}", f"{local:%Y-%m}")
        assert week == f"{local - timedelta(days=local.weekday()):%Y-%m-%d}"
    connection.close()
