"""What the demo looks like: headings, command lines, a bar for each team. In a pipe the same in plain lines."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from fluxen_cli import output

WIDTH = 78

_BOLD, _DIM, _CYAN, _GREEN, _END = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[0m"
_PLAIN_STEPS = 4
"""Lines about the progress of the traffic, where no bar can be drawn."""


class Screen:
    """Everything the demo prints but the reports, which print as ever."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self.live and not os.environ.get("NO_COLOR")

    def heading(self, text: str) -> None:
        output.emit(f"\n{self._in(_BOLD, text)}\n")

    def text(self, text: str) -> None:
        output.emit(f"{textwrap.fill(text, WIDTH)}\n")

    def lines(self, lines: Sequence[str]) -> None:
        """As they are, indented and not so bright."""
        output.emit("".join(f"  {self._in(_DIM, line)}\n" for line in lines))

    def good(self, text: str) -> None:
        """Something that was checked and is so."""
        filled = textwrap.fill(text, WIDTH, initial_indent="ok  ", subsequent_indent="    ")
        output.emit(f"{self._in(_GREEN, filled[:2])}{filled[2:]}\n")

    def command(self, line: str) -> None:
        """A command line, as one types it."""
        typed = "\n".join(self._in(_CYAN, part) for part in line.split("\n"))
        output.emit(f"\n{self._in(_DIM, '$')} {typed}\n")

    @contextlib.contextmanager
    def progress(self, totals: Mapping[str, int]) -> Iterator[Callable[[str, str], None]]:
        """For as long as it lasts, call what this yields with a team and what it just did."""
        with self._bars(totals) if self.live else self._steps(totals) as advance:
            yield advance

    @contextlib.contextmanager
    def _steps(self, totals: Mapping[str, int]) -> Iterator[Callable[[str, str], None]]:
        whole = sum(totals.values())
        done = [0]

        def advance(_team: str, _what: str) -> None:
            done[0] += 1
            if done[0] * _PLAIN_STEPS // whole > (done[0] - 1) * _PLAIN_STEPS // whole:
                output.emit(f"  {done[0]} of {whole} requests answered\n")

        yield advance

    @contextlib.contextmanager
    def _bars(self, totals: Mapping[str, int]) -> Iterator[Callable[[str, str], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(file=sys.stdout, no_color=not self._colour, highlight=False)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
        )
        with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bars:
            width = max(map(len, totals))
            tasks = {name: bars.add_task(name.ljust(width), total=total, what="") for name, total in totals.items()}

            def advance(team: str, what: str) -> None:
                bars.update(tasks[team], advance=1, what=what)

            yield advance
            for task in tasks.values():
                bars.update(task, what="")

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._colour else text
