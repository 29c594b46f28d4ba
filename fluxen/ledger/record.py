"""What the data plane says about a request: a begin before dispatch, an end with the outcome.

The order of the fields IS the format of a journal line (a JSON array that starts with the tag); each segment names
them in its header line, so fields may be added at the end and an older segment is still read by name. An end is
self-contained: it is the whole row, so a row needs no begin. A begin without an end is how a killed process shows
what it was doing.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from typing import Annotated

import msgspec

LOST = "lost"
"""`error` of a row whose process ended before its outcome was written."""

_INT64 = 1 << 63

Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Micros = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000_000)]
"""Microseconds since 1970 UTC, below the year 10000: what a TIMESTAMP can hold and a file can be named after."""


class Begin(msgspec.Struct, array_like=True, tag="b", gc=False):
    """What is known of a request before it is dispatched."""

    id: Id
    ts: Micros
    key_id: str | None = None
    team: str | None = None
    project: str | None = None
    tags: dict[str, str] | None = None
    client_request_id: str | None = None
    user_agent: str | None = None
    route: str | None = None
    endpoint: str | None = None
    dialect: str | None = None
    upstream: str | None = None
    credential: str | None = None
    rule: str | None = None
    model_asked: str | None = None
    stream: bool | None = None
    request_bytes: int | None = None
    bound_pico: int | None = None
    price_version: str | None = None


class End(msgspec.Struct, array_like=True, tag="e", gc=False):
    """The whole row of a request but for node and worker, which the segment's header names. Money: pico-dollars."""

    id: Id
    ts: Micros
    key_id: str | None = None
    team: str | None = None
    project: str | None = None
    tags: dict[str, str] | None = None
    client_request_id: str | None = None
    user_agent: str | None = None
    route: str | None = None
    endpoint: str | None = None
    dialect: str | None = None
    upstream: str | None = None
    credential: str | None = None
    rule: str | None = None
    attempts: int | None = None
    model_asked: str | None = None
    model: str | None = None
    stream: bool | None = None
    status: int | None = None
    error: str | None = None
    finish: str | None = None
    cache: str | None = None
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    usage_source: str | None = None
    usage_raw: str | None = None
    cost_pico: int | None = None
    stated_cost_pico: int | None = None
    bound_pico: int | None = None
    saved_pico: int | None = None
    price_version: str | None = None
    latency_ms: int | None = None
    ttfb_ms: int | None = None
    overhead_us: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    upstream_request_id: str | None = None
    usage_error: float | None = None
    searches: int | None = None
    tool_calls: int | None = None
    service_tier: str | None = None
    fees_pico: int | None = None
    stated_cost_source: str | None = None

    @classmethod
    def of(cls, begin: Begin) -> End:
        """The end of `begin` with everything the begin knew; the outcome is set attribute by attribute."""
        return cls(
            begin.id,
            begin.ts,
            begin.key_id,
            begin.team,
            begin.project,
            begin.tags,
            begin.client_request_id,
            begin.user_agent,
            begin.route,
            begin.endpoint,
            begin.dialect,
            begin.upstream,
            begin.credential,
            begin.rule,
            model_asked=begin.model_asked,
            stream=begin.stream,
            bound_pico=begin.bound_pico,
            price_version=begin.price_version,
            request_bytes=begin.request_bytes,
        )

    @classmethod
    def lost(cls, begin: Begin) -> End:
        """The row of a request of which only the begin was written: its usage and cost are unknown, not zero."""
        end = cls.of(begin)
        end.error = LOST
        end.usage_source = "unknown"
        return end


class Loss(msgspec.Struct, array_like=True, tag="x", gc=False):
    """The writer's own confession: since its last one, `requests` requests got no line at all (disk full)."""

    ts: Micros
    requests: Annotated[int, msgspec.Meta(ge=0)]


class Adjustment(msgspec.Struct, array_like=True, tag="a", gc=False):
    """A new cost of a request that has ended: what a repricing found it to be. Its row stays as it was written.

    `ts` is the arrival of that request, so that an adjustment is kept, pruned and dropped with the day of its row.
    Of several the one that was made last counts. A cost of None says that it is not known.
    """

    id: Id
    ts: Micros
    cost_pico: int | None
    fees_pico: int | None
    price_version: str | None
    made: Micros


def scrub(record: Begin | End) -> Begin | End:
    """A copy that can be written as JSON and stored: a lone surrogate becomes `?`, a number beyond 64 bits NULL."""
    clean = {name: _scrubbed(getattr(record, name)) for name in record.__struct_fields__}
    return msgspec.structs.replace(record, **clean)


def _scrubbed(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else None
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    return value


def _ids() -> Callable[[], str]:
    last = 0
    now, bits = time.time_ns, random.getrandbits  # a forked child's `random` is seeded anew: no two workers agree
    pack = struct.Struct(">QQ").pack

    def new_id() -> str:
        """A UUIDv7 (RFC 9562): 48 bits of ms, 12 bits of its fraction (monotonic per process), 62 random bits."""
        nonlocal last
        stamp = now() * 64 // 15625  # ms × 4096
        if stamp <= last:
            stamp = last + 1
        last = stamp
        text = pack((stamp >> 12) << 16 | 0x7000 | stamp & 0xFFF, bits(62) | 1 << 63).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return new_id


new_id = _ids()
