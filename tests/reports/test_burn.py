"""How long an amount lasts, by the calendar of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from fluxen.errors import QueryError
from fluxen.reports.burn import parse_budget

NOON = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)  # a Wednesday
DOLLAR = 10**12


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("50/hour", "2026-11-25T12:00Z", "2026-11-25T13:00Z"),
        ("50/day", "2026-11-25T00:00Z", "2026-11-26T00:00Z"),
        ("50/week", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("50/month", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
    ],
)
def test_periods(text: str, start: str, end: str) -> None:
    budget = parse_budget(text)
    assert budget.start(NOON) == datetime.fromisoformat(start)
    assert budget.end(NOON) == datetime.fromisoformat(end)


def test_a_day_is_a_day_of_the_calendar() -> None:
    """The clocks of Berlin go back on 2026-10-25: that day has 25 hours."""
    berlin = ZoneInfo("Europe/Berlin")
    budget = parse_budget("1/day", berlin)
    then = datetime(2026, 10, 25, 12, tzinfo=berlin)
    assert budget.end(then).astimezone(UTC) - budget.start(then).astimezone(UTC) == timedelta(hours=25)
    twice = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # both 02:30 there
    hours = parse_budget("1/hour", berlin)
    assert hours.start(twice[0]).astimezone(UTC).hour == 0
    assert [hours.end(one).astimezone(UTC) - one for one in twice] == [timedelta(minutes=30)] * 2
    assert parse_budget("1/month", berlin).end(datetime(2026, 12, 31, 23, 30, tzinfo=UTC)).isoformat() == (
        "2027-02-01T00:00:00+01:00"
    )


def test_what_becomes_of_it() -> None:
    budget = parse_budget("$50/day")
    found = budget.outlook(20 * DOLLAR, DOLLAR / 10, NOON)
    assert (found.left, found.seconds, found.lasts) == (30 * DOLLAR, 18_000.0, False)
    assert budget.outlook(20 * DOLLAR, DOLLAR / 100, NOON).lasts
    nothing = budget.outlook(20 * DOLLAR, 0.0, NOON)
    assert (nothing.seconds, nothing.lasts) == (None, True)
    over = budget.outlook(51 * DOLLAR, 1.0, NOON)
    assert (over.left, over.seconds, over.lasts) == (-DOLLAR, 0.0, False)


@pytest.mark.parametrize("text", ["50/day", "$50.000000000001/day", " 0.5/month "])
def test_amounts_are_exact(text: str) -> None:
    amounts = {"50/day": 50 * DOLLAR, "$50.000000000001/day": 50 * DOLLAR + 1, " 0.5/month ": DOLLAR // 2}
    assert parse_budget(text).amount == amounts[text]


@pytest.mark.parametrize("text", ["50", "50/year", "-1/day", "1e3/day", "/day", "50 EUR/day", "1.0000000000001/day"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(QueryError, match="is no budget"):
        parse_budget(text)
