"""The line of a request in the log, made of its row: a JSON object, or columns on a terminal.

Every text that a client or a provider wrote goes by the log's gate (masked, no control characters, bounded). The same
ones come again and again, so the gate remembers them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fluxen.gateway.opening import Opening
from fluxen.ledger.record import End
from fluxen.telemetry.lines import DIM, GREEN, PLAIN, RED, YELLOW
from fluxen.telemetry.log import Log
from fluxen.telemetry.masking import shown_target

REMEMBERED: Final = 1024
_PICO: Final = 1_000_000_000_000
_encode = msgspec.json.Encoder().encode


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """What is not known is left out. Names are those of the ledger's columns, where it has them."""

    ts: str
    level: str
    process: str
    event: str
    id: str
    client_ip: str | None = None
    method: str | None = None
    url: str | None = None
    key_id: str | None = None
    team: str | None = None
    project: str | None = None
    route: str | None = None
    upstream: str | None = None
    credential: str | None = None
    status: int | None = None
    error: str | None = None
    duration_ms: int | None = None
    ttfb_ms: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    model: str | None = None
    stream: bool | None = None
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: msgspec.Raw | None = None
    attempts: int | None = None


class RequestLog:
    """Writes a line for each row. Made anew when the log's settings or the secrets change."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._targets: dict[bytes, str] = {}

    def add(self, end: End, opening: Opening, client_ip: str) -> None:
        """Have the line of a finished request written at the end of this turn of the event loop."""
        log = self._log
        clean = log.clean
        target = opening.head.target
        url = self._targets.get(target)
        if url is None:
            url = self._shown(target)
        model = end.model or end.model_asked
        method = opening.head.method.decode("latin-1")
        if log.console:
            log.put(self._columns(end, method, url, None if model is None else clean(model)))
            return
        writes = (end.cache_write_5m_tokens or 0) + (end.cache_write_1h_tokens or 0)
        line = Line(
            log.now(), "info", log.process, "request", end.id, client_ip, method, url,
            None if end.key_id is None else clean(end.key_id), None if end.team is None else clean(end.team),
            None if end.project is None else clean(end.project), end.route, end.upstream, end.credential, end.status,
            end.error, end.latency_ms, end.ttfb_ms, end.request_bytes, end.response_bytes,
            None if model is None else clean(model), end.stream, end.input_tokens, end.cache_read_tokens or None,
            writes or None, end.output_tokens, None if end.cost_pico is None else msgspec.Raw(_dollars(end.cost_pico)),
            end.attempts,
        )  # fmt: skip
        log.put(_encode(line) + b"\n")

    def _shown(self, target: bytes) -> str:
        if len(self._targets) >= REMEMBERED:
            self._targets.clear()
        url = self._targets[target] = self._log.clean(shown_target(target))
        return url

    def _columns(self, end: End, method: str, url: str, model: str | None) -> bytes:
        """`14:05:09 200 POST  1.24s    1,523→204   $0.000351  /openai/v1/chat/completions  gpt-4o  my-key`"""
        log = self._log
        status = end.status or 0
        tint = RED if status >= 500 or status == 0 else YELLOW if status >= 400 else GREEN
        told, dim, plain = (tint, DIM, PLAIN) if log.colour else ("", "", "")
        read = (end.input_tokens or 0) + (end.cache_read_tokens or 0)
        read += (end.cache_write_5m_tokens or 0) + (end.cache_write_1h_tokens or 0)
        tokens = "" if end.input_tokens is None else f"{read:,}→{end.output_tokens or 0:,}"
        cost = (
            "" if end.cost_pico is None else f"${end.cost_pico / _PICO:,.6f}" if end.cost_pico else "$0" * bool(tokens)
        )
        rest = [url, model, None if end.key_id is None else log.clean(end.key_id)]
        shown = "  ".join(text for text in rest if text)
        error = f"  {told}{end.error}{plain}" if end.error else ""
        times = f"  {dim}{end.attempts} attempts{plain}" if (end.attempts or 0) > 1 else ""
        return (
            f"{dim}{log.now()}{plain} {told}{status or '---'}{plain} {method:<4} {_duration(end.latency_ms or 0):>6} "
            f"{tokens:>12} {cost:>11}  {shown}{error}{times}\n"
        ).encode("utf-8", "replace")


def _dollars(pico: int) -> bytes:
    """An exact JSON number."""
    whole, fraction = divmod(pico, _PICO)
    return (b"%d.%012d" % (whole, fraction)).rstrip(b"0") if fraction else b"%d" % whole


def _duration(ms: int) -> str:
    if ms < 1000:
        return f"{ms}ms"
    return f"{ms / 1000:.2f}s" if ms < 100_000 else f"{ms // 60_000}m{ms // 1000 % 60:02d}s"
