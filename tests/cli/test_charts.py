from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen_cli.charts import bar, sparkline


def test_a_course() -> None:
    assert sparkline([0, 1, 2, 4, 8, None, Decimal("0.001")]) == " ▁▂▄█ ▁"
    assert sparkline([None, None]) == "  "
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("value", "largest", "drawn"),
    [
        (8, 8, "████"),
        (4, 8, "██"),
        (5, 8, "██▌"),
        (Decimal("0.0001"), 8, "▏"),
        (0, 8, ""),
        (None, 8, ""),
        (1, None, ""),
    ],
)
def test_a_bar(value: int | Decimal | None, largest: int | None, drawn: str) -> None:
    assert bar(value, largest, 4) == drawn


@given(st.lists(st.none() | st.decimals(-(10**9), 10**9), max_size=30))
def test_any_figures_can_be_drawn(values: list[Decimal | None]) -> None:
    """A character a value, a blank for what is nothing or unknown; what is most is highest."""
    drawn = sparkline(values)
    assert len(drawn) == len(values)
    largest = max((value for value in values if value is not None), default=None)
    for character, value in zip(drawn, values, strict=True):
        assert (character == " ") is (not value)
        assert len(bar(value, largest, 16)) <= 16
        if value and value == largest and value > 0:
            assert character == "█"
            assert bar(value, largest, 16) == "█" * 16
