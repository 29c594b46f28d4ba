"""Labels as they are written on the command line: what goes into rows, and finds them again."""

from __future__ import annotations

from collections.abc import Sequence

import typer

_LONGEST = 256


def parse_tags(written: Sequence[str]) -> dict[str, str]:
    """`a=b,c=d`, once or more, as names and values."""
    tags: dict[str, str] = {}
    for pair in (pair for group in written for pair in group.split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise typer.BadParameter(f"'{pair}' is no tag: write NAME=VALUE")
        tags[check_label(name)] = check_label(value)
    return tags


def check_label(text: str) -> str:
    """The text, if it may stand in a row and a header, as the configuration has it."""
    if not (0 < len(text) <= _LONGEST and all("\x20" <= character <= "\x7e" for character in text)):
        raise typer.BadParameter(f"'{text[:40]}': expected 1 to {_LONGEST} printable ASCII characters")
    return text
