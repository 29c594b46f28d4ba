"""What rows can be grouped by and filtered on: the ledger's columns, and shorter names for some of them.

A field is one column, or several of which the first known one counts or whose sum does. The same field is an
expression in SQL and a value of a row in Python, so that a filter means the same in a report and in a live view.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fluxen.errors import QueryError
from fluxen.ledger.schema import COLUMNS

TAG: Final = "tag:"


class Kind(StrEnum):
    """What a field is compared as."""

    TEXT = "text"
    NUMBER = "number"
    REAL = "real"  # a number that is no exact one
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Field:
    """A name in `--by` or `--where`. `added`: the sum of the columns; else the first of them that is known."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    added: bool = False

    @property
    def tag(self) -> str | None:
        """The tag it means, if it is one."""
        return self.name.removeprefix(TAG) if self.name.startswith(TAG) else None

    def sql(self, column: Callable[[str], str] = str) -> str:
        """Its expression; `column` says how a column is written (where one is lacking: as NULL)."""
        names = [column(name) for name in self.columns]
        if self.added:
            return "(" + " + ".join(f"coalesce({name}, 0)" for name in names) + ")"
        return names[0] if len(names) == 1 else f"coalesce({', '.join(names)})"

    def value(self, row: Mapping[str, object]) -> object:
        """Its value in a row of the ledger's columns; None: unknown."""
        if self.tag is not None:
            tags = row.get("tags")
            return tags.get(self.tag) if isinstance(tags, Mapping) else None
        values = [row.get(name) for name in self.columns]
        if self.added:
            return sum(value for value in values if isinstance(value, int))
        return next((value for value in values if value is not None), None)


_KINDS: Final = {"VARCHAR": Kind.TEXT, "UUID": Kind.TEXT, "BOOLEAN": Kind.BOOLEAN, "FLOAT": Kind.REAL}
_NOT_FIELDS: Final = ("ts", "tags")  # --since and --until; tag:NAME
_SHORT: Final = {
    "key": "key_id",
    "source": "usage_source",
    "cost": "cost_usd",
    "input": "input_tokens",
    "output": "output_tokens",
    "latency": "latency_ms",
    "ttfb": "ttfb_ms",
    "tier": "service_tier",
}
_TOKENS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
)  # fmt: skip


def _fields() -> dict[str, Field]:
    own = {
        column.name: Field(column.name, _KINDS.get(column.type, Kind.NUMBER), (column.name,))
        for column in COLUMNS
        if column.name not in _NOT_FIELDS
    }
    short = {name: Field(name, own[column].kind, (column,)) for name, column in _SHORT.items()}
    # A refused request has no answer that names a model: then it is the one that was asked for.
    model = Field("model", Kind.TEXT, ("model", "model_asked"))
    return {**short, **own, "model": model, "tokens": Field("tokens", Kind.NUMBER, _TOKENS, added=True)}


FIELDS: Final[Mapping[str, Field]] = _fields()
"""By name; besides these there is `tag:NAME`."""


def field(name: str) -> Field:
    """The field of that name. QueryError with the nearest name when there is none."""
    if name.startswith(TAG) and len(name) > len(TAG):
        return Field(name, Kind.TEXT, ("tags",))
    if name in FIELDS:
        return FIELDS[name]
    if name == "ts":
        raise QueryError("'ts' is no filter", hint="--since and --until choose the time")
    near = difflib.get_close_matches(name, FIELDS, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise QueryError(f"there is no '{name}'", hint=f"{meant}there are {', '.join(sorted(FIELDS))} and tag:NAME")
