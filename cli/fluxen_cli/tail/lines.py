"""What a request looks like in one line: columns for eyes on a terminal, plain ones in a pipe, or JSON."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Final

from fluxen.ledger.follow import Began
from fluxen.ledger.history import Ended, columns, ended_at
from fluxen.ledger.record import Begin, End
from fluxen_cli import output

HEADINGS: Final = ("time", "status", "key", "model", "upstream", "input", "cached", "output", "cost", "latency", "")
_LEFT: Final = frozenset({0, 2, 3, 4, 10})
_STATUS, _KEY, _MODEL, _UPSTREAM, _CACHED, _NOTE = 1, 2, 3, 4, 6, 10
_LEAST: Final = (8, 6, 6, 12, 8, 7, 7, 6, 9, 8, 0)
_NARROW: Final = 110
_SHARES: Final = {_MODEL: 2, _KEY: 1, _UPSTREAM: 1}
_RED, _YELLOW, _DIM, _BOLD, _END = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Lines:
    """Prints requests. Columns grow with what is in them, so that most lines stand under each other."""

    def __init__(self, zone: tzinfo, *, as_json: bool = False) -> None:
        self._zone = zone
        self._json = as_json
        self._terminal = sys.stdout.isatty() and not as_json
        self._colour = self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._widths = list(_LEAST)
        self._headed = not self._terminal

    def events(self, events: Sequence[Began | Ended]) -> None:
        """In the order given, with one write."""
        if not events:
            return
        if self._json:
            output.emit("".join(_json(event) for event in events))
            return
        lines = [self._line(event) for event in events]
        if not self._headed:
            self._headed = True
            lines.insert(0, self._in(_BOLD, self._joined(HEADINGS)))
        output.emit("".join(f"{line}\n" for line in lines))

    def _line(self, event: Began | Ended) -> str:
        record = event.record
        if isinstance(record, Begin):
            cells = [self._time(record.ts), "…", *_names(record, record.model_asked), *[""] * 5, "begins"]
            return self._in(_DIM, self._joined(cells))
        status = output.UNKNOWN if record.status is None else str(record.status)
        model = record.model if record.model is not None else record.model_asked
        cells = [self._time(ended_at(record)), status, *_names(record, model), *self._figures(record), _note(record)]
        refused = 400 <= (record.status or 0) < 500
        colour = _YELLOW if refused else _RED if record.error is not None or (record.status or 0) >= 500 else ""
        return self._in(colour, self._joined(cells))

    def _figures(self, end: End) -> list[str]:
        """Tokens in (all of them), of these read from the provider's cache, out; cost; latency."""
        about = "~" if end.usage_source == "estimated" else ""
        parts = (end.input_tokens, end.cache_read_tokens, end.cache_write_5m_tokens, end.cache_write_1h_tokens)
        known = [part for part in parts if part is not None]
        counts = (sum(known) if known else None, end.cache_read_tokens, end.output_tokens)
        tokens = [output.UNKNOWN if count is None else f"{about}{self._count(count)}" for count in counts]
        cost = output.UNKNOWN
        if end.cost_pico is not None:
            dollars = Decimal(end.cost_pico).scaleb(-12)
            exact = f"{dollars.normalize():f}" if dollars else "0"
            cost = f"{about}{output.money(dollars) if self._terminal else exact}"
        latency = output.UNKNOWN if end.latency_ms is None else f"{end.latency_ms / 1000:.3f}s"
        return [*tokens, cost, latency]

    def _count(self, count: int) -> str:
        return f"{count:,}" if self._terminal else str(count)

    def _time(self, at: int) -> str:
        """On a terminal the time of day; in a pipe all of it."""
        moment = datetime.fromtimestamp(at / 1e6, self._zone)
        if self._terminal:
            return f"{moment:%H:%M:%S}"
        text = moment.isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z") if self._zone is UTC else text

    def _joined(self, cells: Sequence[str]) -> str:
        shown = [output.visible(cell) for cell in cells]
        gap, left_out = "  ", -1
        if self._terminal:
            width = shutil.get_terminal_size().columns
            if width < _NARROW:
                gap, left_out = " ", _CACHED
            for place, most in self._most(width, gap, left_out).items():
                if len(shown[place]) > most:
                    shown[place] = f"{shown[place][: most - 1]}…"
        parts = []
        for place, cell in enumerate(shown):
            if place == left_out:
                continue
            self._widths[place] = max(self._widths[place], len(cell)) if place != _NOTE else 0
            padded = cell.ljust if place in _LEFT else cell.rjust
            parts.append(padded(self._widths[place]))
        return gap.join(parts).rstrip()

    def _most(self, width: int, gap: str, left_out: int) -> dict[int, int]:
        """How wide names may be on a terminal of this width; numbers are never cut."""
        others = [
            max(self._widths[place], _LEAST[place]) for place in range(_NOTE) if place not in (*_SHARES, left_out)
        ]
        room = width - sum(others) - len(gap) * (len(others) + len(_SHARES)) - 1
        share = max(room, 0) / sum(_SHARES.values())
        most = {place: max(_LEAST[place], int(parts * share)) for place, parts in _SHARES.items()}
        for place, limit in most.items():
            self._widths[place] = min(self._widths[place], limit)
        return most

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._colour and colour else text


def _names(record: Begin | End, model: str | None) -> list[str]:
    return [output.UNKNOWN if name is None else name for name in (record.key_id, model, record.upstream)]


def _note(end: End) -> str:
    notes = [end.error] if end.error is not None else []
    if end.usage_source == "partial":
        notes.append("partial")
    if (end.attempts or 0) > 1:
        notes.append(f"{end.attempts} attempts")
    if end.cache is not None and end.cache != "miss":
        notes.append(f"cache {end.cache}")
    return ", ".join(notes)


def _json(event: Began | Ended) -> str:
    kind = "begin" if isinstance(event, Began) else "end"
    return output.json_text({"event": kind, **columns(*event)})
