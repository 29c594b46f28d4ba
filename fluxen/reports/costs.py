"""What was spent: requests, tokens and exact dollars by any of the columns people ask for.

Money is summed as DECIMAL(38,12): whole pico-dollars, so the sum of the groups IS the total, on every run. A request
whose cost is unknown is counted, never added as 0; a group in which nothing is known to have cost anything while
something is unknown has no cost (NULL), because "$0" would be a claim. A refused request or an error costs nothing:
its usage source is `none`, and that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from fluxen.reports.named import COSTS
from fluxen.reports.report import Question, Report, ask
from fluxen.reports.where import Where, tagged

if TYPE_CHECKING:
    from fluxen.ledger.reader import Reader

MEASURES = COSTS.columns

CostReport = Report


def costs(
    reader: Reader,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: Sequence[str] = ("model",),
    tags: Mapping[str, str] | None = None,
    where: Where | None = None,
    limit: int | None = None,
) -> CostReport:
    """Sum the requests that arrived in [since, until), and have all of `tags`, by the given dimensions."""
    condition = tagged(tags or {}) & (where or Where())
    return ask(reader, "costs", Question(tuple(by), since, until, condition, limit=limit))
