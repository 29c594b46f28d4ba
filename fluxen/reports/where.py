"""`--where`: a small filter over rows, for reports as SQL and for live views as a test of one row.

    model=gpt-4o*,team!=research,status>=400,cost>0.01,tag:customer=acme|globex,error=

Conditions are joined by commas: all must hold. `=` and `!=` take several values (`a|b`: any of them), and for text
`*` (anything) and `?` (one character). An empty value means "not known": `error=` finds what has no error. What is not
known equals nothing, is larger and smaller than nothing, and differs from everything. `"…"` and a backslash take
the special meaning from characters. Text is compared with its case. Only values come from the user, and they reach a
database as parameters.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from fluxen.errors import QueryError
from fluxen.ledger.schema import COLUMNS
from fluxen.reports.fields import Field, Kind, field

FORM: Final = "write NAME=VALUE, NAME!=VALUE, NAME>=NUMBER, …; a comma between conditions, a|b for either value"

_OPERATORS: Final = ("!=", ">=", "<=", "=", ">", "<")  # the longer ones first
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NUMBER: Final = re.compile(r"\$?([0-9]{1,18}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})(k|M|ms|s)?")
_FACTORS: Final = {"k": 1_000, "M": 1_000_000, "s": 1_000, "ms": 1, None: 1}
_TYPES: Final = {column.name: column.type for column in COLUMNS}
_LONGEST: Final = 4096
_LARGEST: Final = 10**18


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a condition. `what` is text, a Decimal, a bool, or None for "not known"; `glob`: it has wildcards,
    and is a pattern of LIKE with '!' before what is meant literally."""

    what: str | Decimal | bool | None
    glob: bool = False

    def found(self, value: object) -> bool:
        """Whether a row's value (not None) is meant."""
        if isinstance(self.what, Decimal):
            return _number(value) == self.what
        if isinstance(self.what, bool):
            return value is self.what
        if self.what is None:
            return value == ""
        return _pattern(self.what).fullmatch(str(value)) is not None if self.glob else str(value) == self.what


@dataclass(frozen=True, slots=True)
class Condition:
    """`field operator value|value|…`; only `=` and `!=` have several."""

    field: Field
    operator: str
    values: tuple[Value, ...]

    def holds(self, row: Mapping[str, object]) -> bool:
        """For a row of the ledger's columns: money in dollars (Decimal), counts as int, tags as a mapping."""
        value = self.field.value(row)
        if self.operator in _COMPARE:
            return value is not None and _COMPARE[self.operator](_number(value), self.values[0].what)
        any_of = any(one.what is None if value is None else one.found(value) for one in self.values)
        return any_of is (self.operator == "=")

    def sql(self, column: Callable[[str], str], tag: str) -> tuple[str, list[object]]:
        """The condition and its parameters."""
        name = self.field.tag
        expression, given = (self.field.sql(column), []) if name is None else (tag, [name])
        if self.field.columns == ("id",):
            expression = f"CAST({expression} AS VARCHAR)"
        if self.operator in _COMPARE:
            return f"{expression} {self.operator} {self._cast(self.values[0])}", [*given, self.values[0].what]
        parts: list[str] = []
        parameters: list[object] = []
        for one in self.values:
            parameters += given
            if one.what is None:
                empty = self.field.kind is Kind.TEXT
                parts.append(f"coalesce({expression}, '') = ''" if empty else f"{expression} IS NULL")
                continue
            parameters.append(one.what)
            parts.append(f"{expression} {'LIKE' if one.glob else '='} {self._cast(one)}{_ESCAPE if one.glob else ''}")
        any_of = parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"
        return (any_of if self.operator == "=" else f"NOT coalesce({any_of}, false)"), parameters

    def _cast(self, value: Value) -> str:
        """Typed, for PostgreSQL; whole numbers stay whole, so that a Parquet file's statistics can be used."""
        if isinstance(value.what, Decimal):
            whole = value.what == value.what.to_integral_value()
            return f"CAST(? AS {'REAL' if self.field.kind is Kind.REAL else 'BIGINT' if whole else 'DECIMAL(38,12)'})"
        return f"CAST(? AS {'BOOLEAN' if isinstance(value.what, bool) else 'VARCHAR'})"


_ESCAPE: Final = " ESCAPE '!'"


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions that must all hold; false when there is none. `text` is how they were written."""

    conditions: tuple[Condition, ...] = ()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __and__(self, other: Where) -> Where:
        return Where(self.conditions + other.conditions, ",".join(text for text in (self.text, other.text) if text))

    def matches(self, row: Mapping[str, object]) -> bool:
        """Whether a row of the ledger's columns is meant: money in dollars (Decimal), tags a mapping. What the row
        lacks is not known."""
        return all(condition.holds(row) for condition in self.conditions)

    def sql(self, known: Container[str] | None = None, *, tag: str = "tags[?]") -> tuple[str, list[object]]:
        """A SQL condition (`true` without any) and its parameters, in order. known: the columns there are, when it is
        not all of `requests`; others are NULL. tag: how a tag is read, in another database."""

        def column(name: str) -> str:
            return name if known is None or name in known else f"CAST(NULL AS {_TYPES[name]})"

        parts: list[str] = []
        parameters: list[object] = []
        for condition in self.conditions:
            part, given = condition.sql(column, tag)
            parts.append(part)
            parameters += given
        return " AND ".join(parts) or "true", parameters


def parse_where(text: str | Iterable[str]) -> Where:
    """A filter as it is written on the command line, once or more. QueryError says what is wrong with it."""
    written = [text] if isinstance(text, str) else list(text)
    conditions: list[Condition] = []
    for one in written:
        if len(one) > _LONGEST:
            raise QueryError("the filter is too long", hint=f"at most {_LONGEST} characters")
        conditions += [_condition(part) for part in _split(_marked(one), ",") if _plain(part).strip()]
    return Where(tuple(conditions), ",".join(one.strip() for one in written if one.strip()))


def tagged(tags: Mapping[str, str]) -> Where:
    """Rows that have all of these tags, whatever characters are in them."""
    pairs = [(field(f"tag:{name}"), value) for name, value in tags.items()]
    return Where(tuple(Condition(one, "=", (Value(value),)) for one, value in pairs))


_Marked = Sequence[tuple[str, bool]]
"""Characters, and whether each is meant literally."""


def _marked(text: str) -> _Marked:
    marked: list[tuple[str, bool]] = []
    quoted = escaped = False
    for character in text:
        if escaped:
            marked.append((character, True))
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        else:
            marked.append((character, quoted))
    if quoted or escaped:
        raise QueryError(f"'{text}' ends within {'quotes' if quoted else 'an escape'}", hint=FORM)
    return marked


def _split(marked: _Marked, separator: str) -> list[_Marked]:
    parts: list[list[tuple[str, bool]]] = [[]]
    for one in marked:
        if one == (separator, False):
            parts.append([])
        else:
            parts[-1].append(one)
    return list(parts)


def _plain(marked: _Marked) -> str:
    return "".join(character for character, _ in marked)


def _condition(marked: _Marked) -> Condition:
    for place, (character, literal) in enumerate(marked):
        if literal or character not in "!<>=":
            continue
        following = marked[place + 1 : place + 2]
        sign = next(sign for sign in (*_OPERATORS, "!") if (character + _plain(following)).startswith(sign))
        if sign == "!":
            break
        return _checked(field(_plain(marked[:place]).strip()), sign, marked[place + len(sign) :])
    raise QueryError(f"'{_plain(marked)}' is no condition", hint=FORM)


def _checked(of: Field, sign: str, written: _Marked) -> Condition:
    parts = _split(written, "|") if sign in ("=", "!=") else [written]
    values = tuple(_value(of, _trimmed(part)) for part in parts)
    if sign in _COMPARE and (of.kind in (Kind.TEXT, Kind.BOOLEAN) or values[0].what is None):
        raise QueryError(f"'{of.name}{sign}{_plain(written)}': {sign} needs a number", hint=FORM)
    return Condition(of, sign, values)


def _trimmed(marked: _Marked) -> _Marked:
    start, end = 0, len(marked)
    while start < end and marked[start] == (" ", False):
        start += 1
    while end > start and marked[end - 1] == (" ", False):
        end -= 1
    return marked[start:end]


def _value(of: Field, marked: _Marked) -> Value:
    text = _plain(marked)
    if not text:
        return Value(None)
    if of.kind is Kind.TEXT:
        if any(not literal and character in "*?" for character, literal in marked):
            return Value("".join(_like(*one) for one in marked), glob=True)
        return Value(text)
    if of.kind is Kind.BOOLEAN:
        if text.lower() not in _BOOLEANS:
            raise QueryError(f"'{of.name}' is true or false, not '{text}'", hint=FORM)
        return Value(_BOOLEANS[text.lower()])
    found = _NUMBER.fullmatch(text)
    timed = of.columns[0].endswith("_ms")
    if found is None or (found[2] is not None and (found[2] in ("ms", "s")) is not timed):
        units = "; 500ms and 2s are times" if timed else "; 10k and 2M are thousands and millions"
        raise QueryError(f"'{of.name}' is a number, not '{text}'", hint=f"digits, at most 12 after the point{units}")
    number = Decimal(found[1]) * _FACTORS[found[2]]
    if number >= _LARGEST:
        raise QueryError(f"'{of.name}': {text} is too large", hint=f"less than {_LARGEST:,}")
    return Value(number)


def _like(character: str, literal: bool) -> str:
    if not literal and character in "*?":
        return "%" if character == "*" else "_"
    return f"!{character}" if character and character in "!%_" else character


def _pattern(like: str) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression (which Python keeps)."""
    parts: list[str] = []
    characters = iter(like)
    for character in characters:
        if character == "!":
            parts.append(re.escape(next(characters)))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    return re.compile("".join(parts), re.DOTALL)


def _number(value: object) -> Decimal:
    """A row's number; one that can't be compared (NaN) is not in any ledger."""
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
