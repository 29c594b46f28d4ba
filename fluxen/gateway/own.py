"""Fluxen's own endpoints, below `/-/`: what the gateway says of itself. No client key opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxen.gateway.exchange import Exchange
    from fluxen.gateway.opening import Opening
    from fluxen.gateway.worker import Worker


def answer_own(exchange: Exchange, opening: Opening, worker: Worker) -> None:
    """Answer a request for one of them, now or later. On the public port: health and readiness, nothing else."""
    if opening.path not in (b"/-/healthz", b"/-/readyz"):
        exchange.refuse(404, "not_found", "there is nothing here")
    elif opening.head.method not in (b"GET", b"HEAD"):
        exchange.refuse(405, "method_not_allowed", "use GET")
    elif opening.path == b"/-/readyz" and not worker.ready():
        exchange.refuse(503, "not_ready", "the gateway is not ready")
    else:
        exchange.answer(200, b'{"status":"ok"}')
