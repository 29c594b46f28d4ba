from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.errors import QueryError
from fluxen.reports.period import parse_moment, parse_span, show_moment

NOW = datetime(2026, 3, 1, 13, 45, 10, tzinfo=timezone(timedelta(hours=-5)))  # 18:45:10 UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1d", "2026-02-28T18:45:10Z"),
        ("12h", "2026-03-01T06:45:10Z"),
        ("30m", "2026-03-01T18:15:10Z"),
        ("2w", "2026-02-15T18:45:10Z"),
        ("now", "2026-03-01T18:45:10Z"),
        ("today", "2026-03-01T00:00:00Z"),
        ("yesterday", "2026-02-28T00:00:00Z"),
        ("this-month", "2026-03-01T00:00:00Z"),
        ("last-month", "2026-02-01T00:00:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T09:30", "2026-11-01T09:30:00Z"),
        ("2026-11-01 09:30:01Z", "2026-11-01T09:30:01Z"),
        ("2026-11-01T09:30+02:00", "2026-11-01T07:30:00Z"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert show_moment(parse_moment(text, NOW)) == expected


@pytest.mark.parametrize("text", ["", "1", "d", "1y", "2026-13-01", "2026-02-30", "999999w", "tomorrow", "1d; DROP"])
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


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]*[-+Z0-9:]*", fullmatch=True))
def test_any_text_is_a_moment_or_an_error(text: str) -> None:
    try:
        assert parse_moment(text, NOW).tzinfo is UTC
    except QueryError:
        pass
