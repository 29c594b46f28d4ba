"""How every command prints: data on stdout, notes on stderr; a table for eyes on a terminal, plain columns in a pipe.

Names in a ledger come from clients. On their way to a terminal their control characters become visible escapes, so
that no model name can move a cursor or set a title.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal, TextIO

from fluxen.errors import ConfigError, FluxenError

SCHEMA_VERSION = 1
"""Of every `--json` answer. It grows when a field changes its meaning or goes; fields may be added."""

UNKNOWN = "–"

WRAP = 40
"""Text wider than this is folded in a terminal's table; numbers never are."""

UNBOUNDED = 100_000

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[+#-](?= )")
_SMALLEST = Decimal("0.000001")

Rows = Sequence[Sequence[object]]

Drawn = Sequence[tuple[str, Sequence[str]]]
"""Columns of characters that draw something (heading, a cell a row): shown on a terminal that has room for them."""


class Figure(str):
    """A number that is written already; tables align it like one."""

    __slots__ = ()


def emit(text: str) -> None:
    """Write data. When whoever reads it has seen enough (`| head`), the command is done: that is no error."""
    if not _write(sys.stdout, text):
        raise SystemExit(0)


def say(text: str) -> None:
    """Write what is for people, on stdout; nobody reading it stops nothing."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Write what is not data, on stderr."""
    _write(sys.stderr, f"{text}\n")


def ask(question: str, default: str = "", *, hidden: bool = False) -> str:
    """A line from the terminal; `default` for an empty one. The question goes to stderr: what is on stdout is what was
    asked for. hidden: what is typed is not shown. Raises EOFError when the terminal is closed."""
    shown = f"{question} [{default}]: " if default else f"{question}: "
    if hidden:
        from getpass import getpass

        return getpass(shown, sys.stderr).strip() or default
    _write(sys.stderr, shown)
    return input().strip() or default


def fail(error: FluxenError) -> None:
    """`error: …`, the problems of a configuration line by line, `hint: …`. Never a traceback.

    A message of several lines (DuckDB shows the place in the query) keeps them, indented: what a ledger holds may be
    quoted in one, and must not look like a line of ours.
    """
    first, *more = [visible(line) for line in error.message.split("\n") if line.strip()] or [""]
    lines = [f"error: {first}", *(f"  {line}" for line in more)]
    if isinstance(error, ConfigError):
        lines += [visible(problem) for problem in error.problems]
    if error.hint:
        lines.append(f"hint: {visible(error.hint)}")
    note("\n".join(lines))


def _write(stream: TextIO, text: str) -> bool:
    """False when the other end is closed. Raises OSError for anything else (`> /dev/full`)."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # what is still buffered leads there: no second error at exit
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            return False
        raise
    return True


def visible(text: str) -> str:
    """Control characters and direction overrides as escapes."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def emit_json(answer: Mapping[str, object]) -> None:
    """One JSON object. Money is text (a double loses pico-dollars), times end in Z, what is unknown is null."""
    emit(json_text(answer))


def json_text(answer: Mapping[str, object]) -> str:
    """The same object as a line of text, for a file."""
    whole = {"schema_version": SCHEMA_VERSION, **answer}
    return json.dumps(whole, default=_json, ensure_ascii=False, allow_nan=False) + "\n"


def emit_csv(columns: Sequence[str], rows: Rows) -> None:
    """RFC 4180 with a header; what is unknown is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv(value) for value in row] for row in rows)
    emit(buffer.getvalue())


def emit_markdown(columns: Sequence[str], rows: Rows, totals: Sequence[object] | None = None) -> None:
    """A table of GitHub's Markdown, every number in full; `totals` are its last row, in bold."""
    body = [*rows, *([totals] if totals is not None else [])]
    right = [_numeric(row[index] for row in body) for index in range(len(columns))]
    lines = [[markdown(name) for name in columns], ["---:" if number else "---" for number in right]]
    lines += [[markdown(_plain(value)) for value in row] for row in rows]
    if totals is not None:
        lines.append([f"**{cell}**" if cell else "" for cell in (markdown(_plain(value)) for value in totals)])
    emit("".join(f"| {' | '.join(line)} |\n" for line in lines))


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: a client's model name must not become a link, a heading or a cell."""
    return _MARKDOWN.sub(r"\\\g<0>", visible(text)).replace("&", "&amp;").replace("<", "&lt;")


def emit_table(
    columns: Sequence[str],
    rows: Rows,
    totals: Sequence[object] | None = None,
    *,
    exact: bool = False,
    drawn: Drawn = (),
) -> None:
    """`totals`, if any, follow the rows, column by column. A pipe gets every number in full; a terminal gets digits
    in groups and dollars with six decimals, unless `exact`, and what is drawn as far as there is room."""
    if sys.stdout.isatty():
        _rich_table(columns, rows, totals, _plain if exact else _grouped, drawn)
        return
    body = [*rows, totals] if totals is not None else list(rows)
    cells = [list(columns)] + [[_plain(value) for value in row] for row in body]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    right = [_numeric(row[index] for row in body) for index in range(len(columns))]
    for row in cells:
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        )
        emit("  ".join(padded).rstrip() + "\n")


def _rich_table(
    columns: Sequence[str],
    rows: Rows,
    totals: Sequence[object] | None,
    show: Callable[[object], str],
    drawn: Drawn = (),
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Widths are ours: on a narrow terminal rich would cut numbers, and too wide is better than a digit less.
    cells = [[show(value) for value in row] for row in rows]
    foot = [show(value) for value in totals] if totals is not None else [""] * len(columns)
    headings = [visible(name if show is _plain else name.replace("_", " ")) for name in columns]  # so that they wrap
    numeric = [
        _numeric(row[index] for row in [*rows, *([totals] if totals is not None else [])])
        for index in range(len(columns))
    ]
    widths = []
    for index, heading in enumerate(headings):
        longest = max(len(row[index]) for row in [*cells, foot])
        widths.append(max(longest if numeric[index] else min(longest, WRAP), *map(len, heading.split(" "))))
    left, right = _padding(widths)
    table = Table(box=box.SIMPLE_HEAD, show_footer=totals is not None, pad_edge=False, padding=(0, right, 0, left))
    for index, heading in enumerate(headings):
        justify: Literal["right", "left"] = "right" if numeric[index] else "left"
        table.add_column(Text(heading), Text(foot[index]), justify=justify, overflow="fold", width=widths[index])
    pictures = _fitting(drawn, widths, left + right)
    for heading, _ in pictures:
        table.add_column(Text(visible(heading.replace("_", " "))), no_wrap=True)
    for index, row in enumerate(cells):
        table.add_row(*map(Text, row), *(Text(picture[index], style="cyan") for _, picture in pictures))
    buffer = io.StringIO()
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    Console(file=buffer, width=UNBOUNDED, force_terminal=colour, no_color=not colour).print(table)
    emit(buffer.getvalue())


def _fitting(drawn: Drawn, widths: Sequence[int], padding: int) -> Drawn:
    """As many of them, from the first, as there is room for beside columns of these widths."""
    room = shutil.get_terminal_size().columns - sum(width + padding + 1 for width in widths) - 1
    fitting: list[tuple[str, Sequence[str]]] = []
    for heading, picture in drawn:
        room -= max(len(heading), *map(len, picture)) + padding + 1
        if room < 0:
            break
        fitting.append((heading, picture))
    return fitting


def _padding(widths: Sequence[int]) -> tuple[int, int]:
    """Spaces to the left and the right of each cell, beside the one between two columns: as many as there is room."""
    room = shutil.get_terminal_size().columns - sum(widths) - len(widths) - 1  # rich has one at either edge
    gaps = len(widths) - 1
    return (1, 1) if room >= 2 * gaps else (0, 1) if room >= gaps else (0, 0)


def _numeric(values: Iterable[object]) -> bool:
    """Whether a column holds numbers only (and something)."""
    known = [value for value in values if value is not None and value != ""]
    return bool(known) and all(
        isinstance(value, int | float | Decimal | Figure) and value is not True for value in known
    )


def money(value: Decimal) -> str:
    """Dollars for eyes: six decimals; less than half a millionth is not shown as nothing."""
    if value and abs(value) < _SMALLEST / 2:
        return f"<{_SMALLEST}" if value > 0 else f">-{_SMALLEST}"
    return f"{value:,.6f}"


def _plain(value: object) -> str:
    if value is None:
        return UNKNOWN
    return visible(_text(value))


def _grouped(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return money(value)
    return _plain(value)


def _csv(value: object) -> str:
    return "" if value is None else _text(value)


def _text(value: object) -> str:
    """A value in full, as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_json, ensure_ascii=False)
    if isinstance(value, Decimal | datetime | date | bytes):
        return str(_json(value))
    return str(value)


def _json(value: object) -> object:
    """What JSON has no form for. A time without a zone is UTC: every time in the ledger is."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def jsonable(value: object) -> object:
    """NaN and the infinities have no JSON: they are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def open_streams() -> None:
    """stdout and stderr, whatever the shell made of them: a closed one leads nowhere, and one that can't show '–'
    shows '?'."""
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
