"""Bars and sparklines of characters, for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

_HEIGHTS: Final = "▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

Figure = Decimal | int | float | None


def sparkline(values: Sequence[Figure]) -> str:
    """A character a value, as high as its part of the largest; a space where there is none or none is known.

    What is more than nothing is never shown as nothing: the lowest bar is one.
    """
    known = [float(value) for value in values if value is not None]
    top = max(known, default=0.0)
    return "".join(" " if not value else _HEIGHTS[_eighth(float(value), top) - 1] for value in values)


def bar(value: Figure, largest: Figure, width: int) -> str:
    """A bar of `width` characters for the largest value, in eighths of a character."""
    if not value or not largest or value < 0:
        return ""
    eighths = max(1, min(8 * width, round(float(value) * 8 * width / float(largest))))
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def can_draw() -> bool:
    """Whether stdout is a terminal that shows these characters."""
    if not sys.stdout.isatty():
        return False
    try:
        (_HEIGHTS + _EIGHTHS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _eighth(value: float, top: float) -> int:
    return 1 if top <= 0 or value <= 0 else max(1, min(8, round(value * 8 / top)))
