"""What one run cost, from the rows with its tag: for a person and for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxen.config.paths import ledger_folder
from fluxen_cli import output

if TYPE_CHECKING:
    from fluxen.reports.costs import CostReport

_TOKENS = {
    "input_tokens": "input",
    "cache_read_tokens": "cache read",
    "cache_write_tokens": "cache write",
    "output_tokens": "output",
}


@dataclass(frozen=True, slots=True)
class Bill:
    """The costs of a run by model, and its errors by status and word."""

    run: str
    models: CostReport
    errors: CostReport

    @property
    def totals(self) -> dict[str, Any]:
        from fluxen.reports.costs import MEASURES

        return dict(zip(MEASURES, self.models.totals, strict=True))

    def fields(self, seconds: float) -> dict[str, object]:
        """Of the JSON."""
        return {
            "run": self.run,
            "seconds": round(seconds, 3),
            "rows": _rows(self.models),
            "totals": self.totals,
            "errors": self._failed(),
            "lost": self.models.lost,
            "in_flight": self.models.in_flight,
        }

    def text(self, seconds: float, options: str = "") -> str:
        """For a person. options: what `fluxen report` needs to find the same ledger."""
        totals = self.totals
        if not totals["requests"] and not self.models.in_flight:
            return (
                f"fluxen: no request came through the gateway in {seconds:.1f} s\n"
                "hint: a program that sets its base URL itself, or reads another variable, goes past it"
            )
        lines = [
            f"fluxen: {_many(totals['requests'], 'request')} in {seconds:.1f} s cost "
            f"{_dollars(totals['cost_usd'], totals['unknown_cost'])}",
            "",
            *self._table(totals),
            "",
        ]
        if failed := self._failed():
            words = ", ".join(f"{row['requests']} × {output.visible(_error(row))}" for row in failed)
            lines.append(f"  Errors: {words}")
        if self.models.lost:
            lines.append(f"  {_many(self.models.lost, 'request')} whose outcome is lost: the gateway was killed")
        if self.models.in_flight:
            lines.append(f"  {_many(self.models.in_flight, 'request')} still in flight, not counted")
        if totals["unknown_cost"]:
            lines.append("  Unknown is not $0: there is no list price for the model, or no usage in the answer.")
        lines.append(f"  Again: fluxen report costs --tag run={self.run}{options}")
        return "\n".join(lines)

    def _table(self, totals: dict[str, Any]) -> list[str]:
        rows = _rows(self.models)
        tokens = [name for name in _TOKENS if totals[name] or name in ("input_tokens", "output_tokens")]
        cells = [["model", "requests", *(_TOKENS[name] for name in tokens), "cost"]]
        for row in rows:
            cost = _dollars(row["cost_usd"], row["unknown_cost"])
            counts = [_count(row[name]) for name in ("requests", *tokens)]
            cells.append([output.visible(str(row["model"] or output.UNKNOWN)), *counts, cost])
        widths = [max(len(line[index]) for line in cells) for index in range(len(cells[0]))]
        return [
            "  ".join(["", line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in _pairs(line, widths))])
            for line in cells
        ]

    def _failed(self) -> list[dict[str, Any]]:
        return [row for row in _rows(self.errors) if row["errors"]]


def draw_up(data_dir: Path, run: str, begun: float) -> Bill:
    """The bill of a run that began at this time (seconds since 1970)."""
    from fluxen.ledger.reader import Reader
    from fluxen.reports.costs import costs

    reader = Reader(ledger_folder(data_dir))
    since, tags = datetime.fromtimestamp(int(begun), UTC), {"run": run}
    return Bill(
        run,
        costs(reader, since=since, by=("model",), tags=tags),
        costs(reader, since=since, by=("status", "error"), tags=tags),
    )


def _rows(report: CostReport) -> list[dict[str, Any]]:
    return [dict(zip(report.columns, row, strict=True)) for row in report.rows]


def _pairs(line: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    return list(zip(line[1:], widths[1:], strict=True))


def _dollars(known: Decimal | None, unknown: int) -> str:
    """What is known, and how many requests are not part of it."""
    if known is None:
        return "unknown"
    return f"${output.money(known)}" + (f" + {unknown} unknown" if unknown else "")


def _error(row: dict[str, Any]) -> str:
    words = [str(word) for word in (row["status"], row["error"]) if word is not None]
    return " ".join(words)


def _count(value: int | None) -> str:
    return output.UNKNOWN if value is None else f"{value:,}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
