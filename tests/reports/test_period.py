from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.errors import QueryError
from fluxen.reports.period import parse_moment, parse_span, previous_span, show_moment
from fluxen.reports.zone import find_zone

NOW = datetime(2026, 3, 1, 13, 45, 10, tzinfo=timezone(timedelta(hours=-5)))  # 18:45:10 UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1d", "2026-02-28T18:45:10Z"),
        ("-1d", "2026-02-28T18:45:10Z"),
        ("12h", "2026-03-01T06:45:10Z"),
        ("30m", "2026-03-01T18:15:10Z"),
        ("2w", "2026-02-15T18:45:10Z"),
        ("now", "2026-03-01T18:45:10Z"),
        ("today", "2026-03-01T00:00:00Z"),
        ("yesterday", "2026-02-28T00:00:00Z"),
        ("this-month", "2026-03-01T00:00:00Z"),
        ("last-month", "2026-02-01T00:00:00Z"),
        ("this-week", "2026-02-23T00:00:00Z"),  # the 1st of March is a Sunday
        ("last-week", "2026-02-16T00:00:00Z"),
        ("This-Year", "2026-01-01T00:00:00Z"),
        ("2026-11", "2026-11-01T00:00:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T09:30", "2026-11-01T09:30:00Z"),
        ("2026-11-01 09:30:01Z", "2026-11-01T09:30:01Z"),
        ("2026-11-01T09:30+02:00", "2026-11-01T07:30:00Z"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert show_moment(parse_moment(text, NOW)) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "d", "1y", "2026-13-01", "2026-02-30", "999999w", "tomorrow", "1d; DROP", "--1d", "2026-13"]
)
def test_no_moment(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_moment(text, NOW)
    assert "yesterday" in (caught.value.hint or "")


def test_a_span_goes_forward() -> None:
    assert parse_span(None, None, NOW) == (None, None)
    assert parse_span("1d", None, NOW) == (parse_moment("1d", NOW), None)
    assert parse_span(None, "1d", NOW) == (None, parse_moment("1d", NOW))
    assert parse_span("2d", "1d", NOW) == (parse_moment("2d", NOW), parse_moment("1d", NOW))
    today = parse_moment("today", NOW)
    assert parse_span("today", "today", NOW) == (today, today)  # on the 1st: --since this-month --until today
    for since, until in (("1d", "2d"), ("now", "2026-01-01")):
        with pytest.raises(QueryError, match=f"--since {since} .* is after --until {until} "):
            parse_span(since, until, NOW)


BERLIN = find_zone("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("today", "2026-10-24T22:00:00Z"),
        ("yesterday", "2026-10-23T22:00:00Z"),
        ("this-month", "2026-09-30T22:00:00Z"),
        ("this-week", "2026-10-18T22:00:00Z"),
        ("this-year", "2025-12-31T23:00:00Z"),
        ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),  # the first of two
        ("2026-10-25T02:30+01:00", "2026-10-25T01:30:00Z"),
        ("2026-10-26", "2026-10-25T23:00:00Z"),
        ("2026-03-29T02:30", "2026-03-29T01:30:00Z"),  # an hour that isn't there: the clock has just gone on
        ("1d", "2026-10-24T11:00:00Z"),  # 24 hours, whatever clocks do
    ],
)
def test_days_begin_where_the_zone_says(text: str, expected: str) -> None:
    """Noon of the day on which Berlin's clocks go back."""
    assert show_moment(parse_moment(text, datetime(2026, 10, 25, 11, tzinfo=UTC), BERLIN)) == expected


@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        ("2026-11-20", "2026-11-20T15:00", "2026-11-19 2026-11-19T15:00"),  # today
        ("2026-11-19", "2026-11-20", "2026-11-18 2026-11-19"),
        ("2026-11-01", "2026-11-23T10:00", "2026-10-01 2026-10-23T10:00"),  # this month
        ("2026-10", "2026-11", "2026-09 2026-10"),
        ("2026-11-01", "2026-11-02", "2026-10-31 2026-11-01"),  # a day, though a month begins with it
        ("2026-03-01", "2026-03-31T12:00", "2026-02-01 2026-02-28T12:00"),
        ("2026-01-01", "2026-04-01", "2025-10-01 2026-01-01"),
        ("2026-11-13", "2026-11-20T15:00", "2026-11-05 2026-11-12T15:00"),  # eight days begun
        ("2026-11-13T15:00", "2026-11-20T15:00", "2026-11-06T15:00 2026-11-13T15:00"),  # 7d
        ("2026-11-20T14:00", "2026-11-20T15:30", "2026-11-20T12:30 2026-11-20T14:00"),
        ("2026-10-25", "2026-10-26", "2026-10-24 2026-10-25"),  # 25 hours in Berlin, and 24 before
        ("2026-10-26", "2026-10-26T12:00", "2026-10-25 2026-10-25T12:00"),
    ],
)
def test_the_time_before_is_as_far_into_it(since: str, until: str, before: str) -> None:
    def moment(text: str) -> datetime:
        return parse_moment(text, NOW, BERLIN)

    expected = tuple(map(moment, before.split()))
    assert previous_span(moment(since), moment(until), BERLIN) == expected
    assert expected[1] <= moment(since)


def test_nothing_has_no_time_before() -> None:
    day = parse_moment("2026-11-01", NOW)
    assert previous_span(day, day) is None
    assert previous_span(day, day - timedelta(1)) is None
    first = datetime(1, 1, 1, tzinfo=UTC)
    assert previous_span(first, first + timedelta(days=40)) is None


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]*[-+Z0-9:]*", fullmatch=True))
def test_any_text_is_a_moment_or_an_error(text: str) -> None:
    try:
        assert parse_moment(text, NOW).tzinfo is UTC
    except QueryError:
        pass
