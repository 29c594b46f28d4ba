"""Journal records with every field filled, and the rows they must become."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from fluxen.ledger.compactor import Compactor
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Begin, End, new_id
from fluxen.ledger.schema import COLUMNS, MONEY

DAY = 86_400_000_000
NOON = 1_795_348_800_000_000
"""2026-11-22 12:00 UTC, microseconds."""

WORDS = (
    "",
    "a",
    "it's",
    'say "hi"',
    "back\\slash",
    "new\nline",
    "tab\t",
    "nul\x00",
    "\u2028",
    "日本語",
    "\U0001f600",
    "[*]?",
)


def begin(chance: random.Random | None = None, ts: int | None = None, number: int | None = None) -> Begin:
    """A begin; without `chance` only the fields that must be there."""
    now = time.time_ns() // 1000 if ts is None else ts
    if chance is None:
        return Begin(new_id(), now, request_bytes=number)
    word = lambda: chance.choice((None, *WORDS))  # noqa: E731
    return Begin(
        id=new_id(),
        ts=now,
        key_id=word(),
        team=word(),
        project=word(),
        tags=chance.choice((None, {}, {"a": "b"}, {str(word()): str(word()) for _ in range(3)})),
        client_request_id=word(),
        user_agent=word(),
        route=word(),
        endpoint=word(),
        dialect=word(),
        upstream=word(),
        credential=word(),
        rule=word(),
        model_asked=word(),
        stream=chance.choice((None, True, False)),
        request_bytes=number if number is not None else chance.randrange(1 << 40),
        bound_pico=chance.choice((None, 0, 1, 10**18 - 1)),
        price_version=word(),
    )


def end(start: Begin, chance: random.Random | None = None) -> End:
    """The end of a request."""
    done = End.of(start)
    done.status, done.usage_source = 200, "reported"
    if chance is None:
        return done
    for name in (
        "model",
        "error",
        "finish",
        "cache",
        "usage_raw",
        "upstream_request_id",
        "service_tier",
        "stated_cost_source",
    ):
        setattr(done, name, chance.choice((None, *WORDS)))
    for name in END_NUMBERS:
        setattr(done, name, chance.choice((None, 0, chance.randrange(1 << 31))))
    done.attempts = chance.choice((None, 1, 2))
    done.searches, done.tool_calls = (chance.choice((None, 0, 3)) for _ in range(2))
    done.usage_error = chance.choice((None, 0.0, 0.125))
    for name in ("cost_pico", "stated_cost_pico", "saved_pico", "fees_pico"):
        setattr(done, name, chance.choice((None, 0, 1, -1, 10**18 - 1, chance.randrange(10**12))))
    return done


END_NUMBERS = tuple(
    name for name in End.__struct_fields__ if name.endswith(("_tokens", "_ms", "_us")) or name == "response_bytes"
)


def row(done: End, node: str, worker: int) -> tuple[object, ...]:
    """What the row of `done` must read as, column by column."""
    values: list[object] = []
    for column in COLUMNS:
        if column.name in ("node", "worker"):
            values.append(node if column.name == "node" else worker)
            continue
        value = getattr(done, column.field)
        if column.name == "id":
            value = uuid.UUID(value)
        elif column.name == "ts":
            value = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(microseconds=value)
        elif column.type == MONEY and value is not None:
            value = Decimal(value).scaleb(-12)
        values.append(value)
    return tuple(values)


def rows(folder: Path) -> list[tuple[object, ...]]:
    return Reader(folder).query("SELECT * FROM requests ORDER BY id").rows


def count(folder: Path) -> tuple[int, int, int]:
    """Finished, lost and open requests."""
    answer = Reader(folder).query(
        "SELECT count(*) FILTER (error IS DISTINCT FROM 'lost'), count(*) FILTER (error = 'lost'), "
        "(SELECT count(*) FROM in_flight) FROM requests"
    )
    finished, lost, open_ = answer.rows[0]
    return int(str(finished)), int(str(lost)), int(str(open_))


def serve(journal: Journal, number: int, ts: int | None = None) -> list[End]:
    """So many requests, begun and ended."""
    done = []
    for place in range(number):
        start = begin(ts=ts, number=place)
        assert journal.begin(start)
        done.append(end(start))
        assert journal.end(done[-1])
    return done


def settled(folder: Path, **options: object) -> Compactor:
    """A compactor that never waits and has taken in everything sealed."""
    compactor = Compactor(folder, **{"grace_seconds": 0, **options})  # type: ignore[arg-type]
    while compactor.step().more:
        pass
    return compactor
