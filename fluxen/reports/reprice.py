"""Old rows by the prices of today: what would cost something else than is recorded, and by how much.

One query reads the rows, each is priced at its own time, and where cost or fees come out otherwise an adjustment is
collected. A second run finds the first one's and has nothing left to do. Sums are of whole pico-dollars.

A row that has a cost and would lose it, because no price is known for it now, keeps it: mostly the book or the
configuration lacks something that was there. Only `forget` takes such a cost away.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fluxen.analyzer.cost import UNKNOWN
from fluxen.analyzer.prices import PriceBook
from fluxen.analyzer.reprice import PRICED, Recorded
from fluxen.analyzer.reprice import reprice as price_again
from fluxen.ledger.record import Adjustment
from fluxen.ledger.schema import MOST_PICO
from fluxen.providers.catalogue import load_catalogue, provider_of_upstream

if TYPE_CHECKING:
    import duckdb

    from fluxen.ledger.adjuster import Adjuster
    from fluxen.ledger.reader import Reader
    from fluxen.reports.where import Where

AT_ONCE = 5000
"""Rows fetched, and shown as progress, at a time."""

_PICO = "(({column} * 1000000000000)::BIGINT)"
_COLUMNS: tuple[str, ...] = (
    "id::VARCHAR",
    "coalesce(model, model_asked)",
    _PICO.format(column="cost_usd"),
    _PICO.format(column="fees_usd"),
    "epoch_us(ts)",
    *Recorded.__struct_fields__[1:],
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows: arrived in [since, until), of models and upstreams by glob (`*`, `?`), such as `where` has them;
    unpriced: without a cost."""

    since: datetime | None = None
    until: datetime | None = None
    models: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    where: Where | None = None
    unpriced: bool = False

    def condition(self) -> tuple[str, list[object]]:
        sources = ", ".join(f"'{source}'" for source in PRICED)
        parts, parameters = [f"usage_source IN ({sources})"], list[object]()
        if self.where is not None:
            condition, parameters = self.where.sql()
            parts.append(condition)
        for expression, globs in (("coalesce(model, model_asked)", self.models), ("upstream", self.upstreams)):
            if globs:
                parts.append("(" + " OR ".join([f"{expression} LIKE ? ESCAPE '!'"] * len(globs)) + ")")
                parameters += map(_like, globs)
        if self.unpriced:
            parts.append("cost_usd IS NULL")
        return " AND ".join(parts), parameters


@dataclass(slots=True)
class Line:
    """One model. before and after: pico-dollars of all its rows whose cost is known; unpriced: how many have none."""

    model: str | None
    requests: int = 0
    adjusted: int = 0
    before: int = 0
    after: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0
    kept: int = 0
    """Rows that keep their cost although they have no price now."""
    untold: int = 0
    """Rows that tell too little to be priced again; they stay as they are."""

    def add(self, other: Line) -> None:
        for name in self.__slots__[1:]:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Repricing:
    """What a run found. lines: by model, the largest change first."""

    version: str
    lines: list[Line] = field(default_factory=list)

    @property
    def total(self) -> Line:
        total = Line(None)
        for line in self.lines:
            total.add(line)
        return total


def reprice(
    reader: Reader,
    book: PriceBook,
    providers: Callable[[str | None], str],
    selection: Selection,
    *,
    adjuster: Adjuster | None = None,
    forget: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Repricing:
    """Price the selected rows again. providers: the provider behind an upstream's name ("": nobody that has list
    prices). adjuster: is given what to adjust, to be published by the caller; None: nothing is to be changed.
    progress: rows looked at, and all there are."""
    condition, parameters = selection.condition()

    def ask(connection: duckdb.DuckDBPyConnection) -> Repricing:
        if adjuster is not None:
            adjuster.clear()  # a file vanished under the last attempt, and it begins anew
        last = connection.execute("SELECT epoch_us(max(made)) FROM adjustments").fetchone()
        made = max(time.time_ns() // 1000, last[0] + 1 if last and last[0] is not None else 0)
        number = connection.execute(f"SELECT count(*) FROM requests WHERE {condition}", parameters).fetchone()
        whole = int(number[0]) if number else 0
        run = _Run(book, providers, adjuster, forget, made)
        cursor = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM requests WHERE {condition}", parameters)
        done = 0
        while rows := cursor.fetchmany(AT_ONCE):
            run.look_at(rows)
            done += len(rows)
            if progress is not None:
                progress(done, max(done, whole))
        return run.result()

    return reader.run(ask, since=selection.since, until=selection.until)


class _Run:
    """One pass over the rows."""

    def __init__(
        self,
        book: PriceBook,
        providers: Callable[[str | None], str],
        adjuster: Adjuster | None,
        forget: bool,
        made: int,
    ) -> None:
        self._book = book
        self._providers = providers
        self._adjuster = adjuster
        self._forget = forget
        self._made = made
        self._lines: dict[str | None, Line] = {}

    def look_at(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for name, model, cost, fees, *told in rows:
            line = self._lines.get(model)
            if line is None:
                line = self._lines[model] = Line(model)
            row = Recorded(*told)
            found = price_again(self._book, self._providers(row.upstream), row)
            if found is not None and found.total is not None and found.total > MOST_PICO:
                found = UNKNOWN  # nor has the row a cost: it could not be written
            line.requests += 1
            after = cost
            if found is None:
                line.untold += 1
            elif found.total is None and cost is not None and not self._forget:
                line.kept += 1
            elif found.total != cost or (found.fees or 0) != (fees or 0):
                after = found.total
                line.adjusted += 1
                if self._adjuster is not None:
                    self._adjuster.add(
                        Adjustment(name, row.ts, found.total, found.fees, self._book.version, self._made)
                    )
            line.before += cost or 0
            line.after += after or 0
            line.unpriced_before += cost is None
            line.unpriced_after += after is None

    def result(self) -> Repricing:
        def order(line: Line) -> tuple[int, int, str]:
            return -abs(line.after - line.before), -line.adjusted, line.model or ""

        return Repricing(self._book.version, sorted(self._lines.values(), key=order))


def providers_of(upstreams: Mapping[str, tuple[str | None, str | None]]) -> Callable[[str | None], str]:
    """The provider behind an upstream's name. upstreams: target_url and dialect of those that the configuration has; of
    another one the name tells, if it is a provider's."""
    catalogue = load_catalogue()

    @functools.cache
    def provider(upstream: str | None) -> str:
        if upstream is None:
            return ""
        target_url, dialect = upstreams.get(upstream, (None, None))
        found = provider_of_upstream(upstream, target_url, catalogue, dialect)
        return found.name if found is not None else ""

    return provider


def _like(glob: str) -> str:
    """A glob as LIKE has it: every database knows that."""
    text = "".join(f"!{char}" if char in "!%_" else char for char in glob)
    return text.replace("*", "%").replace("?", "_")
