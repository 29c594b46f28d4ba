"""What each client key was used for: when last, how often, and what it cost in a time.

Money is summed as `fluxen.reports.costs` does: exact, and a cost that is not known is counted, never added as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from fluxen.ledger.reader import Reader

_UNKNOWN = "cost_usd IS NULL AND usage_source IS DISTINCT FROM 'none'"
_QUERY = f"""
WITH recent AS (
    SELECT key_id, count(*) AS requests, count(*) FILTER ({_UNKNOWN}) AS unknown, coalesce(sum(cost_usd), 0) AS cost
    FROM requests WHERE key_id IS NOT NULL AND ts >= ? GROUP BY key_id
), used AS (
    SELECT key_id, max(ts) AS last_use
    FROM (SELECT key_id, ts FROM requests UNION ALL SELECT key_id, ts FROM in_flight)
    WHERE key_id IS NOT NULL GROUP BY key_id
)
SELECT key_id, last_use, coalesce(requests, 0), coalesce(unknown, 0),
    CASE WHEN unknown > 0 AND cost = 0 THEN NULL ELSE coalesce(cost, 0) END
FROM used LEFT JOIN recent USING (key_id)
"""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """last_use: when its last request arrived, also one that is still open. The rest is of finished requests since
    the moment asked for; cost_usd: None when nothing of it is known."""

    last_use: datetime
    requests: int
    unknown_cost: int
    cost_usd: Decimal | None


def key_use(reader: Reader, since: datetime) -> dict[str, KeyUse]:
    """By key id. Keys that never called are not in it."""
    rows = reader.query(_QUERY, [since.astimezone(UTC).replace(tzinfo=None)]).rows
    return {
        cast("str", key_id): KeyUse(
            cast("datetime", last_use).replace(tzinfo=UTC),
            cast("int", requests),
            cast("int", unknown),
            cast("Decimal | None", cost),
        )
        for key_id, last_use, requests, unknown, cost in rows
    }
