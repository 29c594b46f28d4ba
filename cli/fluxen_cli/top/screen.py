"""The screen of `fluxen top`: the terminal's other page, its keys, and the way back, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fluxen_cli.top.snapshot import TOTALS, body, headings, notes, title, totals

if TYPE_CHECKING:
    from fluxen_cli.top.source import Snapshot, Source

_KEYS: Final = "m model  k key  u upstream   1 minute  5 minutes  h hour   q quit"
_ABOVE: Final = 9  # lines that are no group: title, windows, headings, rules, keys
_ESCAPE: Final = re.compile("\x1b(\\[[0-9;]*[ -/]*[@-~]|O[ -~]|[ -~])?")
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)
# Left out on a narrow terminal, the first one first: no number is cut, and dollars are not shown as if they were all.
_SPARE: Final = ("in tok/s", "latency", "out tok/s", "errors", "in flight", "req/s", "requests")


def run(source: Source, interval: float, look: float) -> None:
    """Show it until q. Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP SystemExit; the terminal is as before."""
    console = Console(file=sys.stdout, highlight=False)
    with _Terminal(console) as terminal:
        due = 0.0
        while True:
            terminal.pause()
            now = time.monotonic()
            if now >= due or terminal.changed():
                console.update_screen(draw(source.snapshot(time.time()), *console.size))
                due = now + interval
            for pressed in terminal.keys(min(look, max(0.0, due - time.monotonic()))):
                if pressed == "q":
                    return
                if source.key(pressed):
                    due = 0.0
            source.poll(time.time())


def draw(snapshot: Snapshot, width: int, height: int) -> Group:
    """All of a screen of this size."""
    view = snapshot.view
    said = notes(snapshot)
    parts = [Text(title(snapshot), style="bold"), *(Text(note, style="yellow") for note in said)]
    parts = [_cut(part, width) for part in parts]
    room = max(1, height - _ABOVE - len(said))
    most = room - 1 if len(view.lines) > room else room
    return Group(
        *parts,
        _table(TOTALS, totals(snapshot), width, chosen=list(view.totals).index(view.window)),
        _table(headings(view.by, view.window), body(snapshot, most), width),
        _cut(Text(_KEYS, style="dim"), width),
    )


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _table(names: list[str] | tuple[str, ...], rows: list[list[str]], width: int, chosen: int = -1) -> Table:
    shown = list(range(len(names)))
    for spare in _SPARE:
        if spare in names and _width(names, rows, shown) > width:
            shown.remove(names.index(spare))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    over = _width(names, rows, shown) - width
    for place in shown:
        cells = [names[place], *(row[place] for row in rows)]
        longest = max(map(len, cells))
        if place == 0:  # only names are cut
            table.add_column(names[0], no_wrap=True, overflow="ellipsis", width=max(8, longest - max(0, over)))
        else:
            table.add_column(names[place], justify="right", no_wrap=True, width=longest)
    for number, row in enumerate(rows):
        table.add_row(*(Text(row[place]) for place in shown), style="bold" if number == chosen else "")
    return table


def _width(names: list[str] | tuple[str, ...], rows: list[list[str]], shown: list[int]) -> int:
    """As rich lays it out: a space behind each cell, and one between two columns."""
    return sum(max(len(names[place]), *(len(row[place]) for row in rows), 0) + 2 for place in shown) - 1


class _Terminal:
    """The other page, without echo, for as long as the context lasts; Ctrl-Z leaves it and fg comes back to it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stdin = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._stack = contextlib.ExitStack()
        self._size = console.size
        self._again = self._asked = False

    def __enter__(self) -> _Terminal:
        self._enter()
        self._stack.callback(self._leave)
        for number in _ENDS:
            self._stack.enter_context(_handled(number, self._end))
        self._stack.enter_context(_handled(signal.SIGTSTP, self._ask))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def changed(self) -> bool:
        """Whether the size is another, or the page was left meanwhile."""
        before, self._size = (self._size, self._again), self._console.size
        self._again = False
        return before != (self._size, False)

    def keys(self, seconds: float) -> str:
        """What is typed within so many seconds, or until then; arrows and the like are left out."""
        watched = [self._stdin] if self._stdin >= 0 else []
        ready, _, _ = select.select(watched, [], [], seconds)
        if not ready:
            return ""
        data = os.read(self._stdin, 64)
        if not data:  # nobody types here any more
            self._stdin = -1
        return _ESCAPE.sub("", data.decode("ascii", "replace")).lower()

    def _enter(self) -> None:
        if self._stdin >= 0:
            self._before = termios.tcgetattr(self._stdin)
            tty.setcbreak(self._stdin)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        if self._stdin >= 0:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._before)

    def _end(self, number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _ask(self, *_: object) -> None:
        """Ctrl-Z. It may come in the middle of a write, where nothing else can be written: `pause` does the rest."""
        self._asked = True

    def pause(self) -> None:
        """Stand still, with the terminal as it was, if that was asked for."""
        if not self._asked:
            return
        self._asked = False
        number = signal.SIGTSTP
        self._leave()
        with _handled(number, signal.SIG_DFL):
            os.kill(os.getpid(), number)  # stands still here until it is continued
        self._enter()
        self._again = True


@contextlib.contextmanager
def _handled(number: int, handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
