"""Fluxen's own endpoints, below `/-/`: what the gateway says of itself. No client key opens them.

Clients' address has health and readiness, a word each. Everything else is for who may administer: on an address of its
own, or on the clients' with `admin.key`. Without a key that is a program on this machine, and nothing that a web page
in its browser, or a proxy on it, could send in its name.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fluxen.gateway.address import source_of
from fluxen.gateway.admission import LONGEST_KEY, Fault, carried, trespass
from fluxen.gateway.head import CONTENT_TYPE, FETCH_SITE, ORIGIN
from fluxen.gateway.listening import shared
from fluxen.gateway.opening import GUESSABLE
from fluxen.gateway.throttle import REFILL

if TYPE_CHECKING:
    from fluxen.gateway.exchange import Exchange
    from fluxen.gateway.opening import Opening
    from fluxen.gateway.worker import Worker

ANSWER_SECONDS: Final = 30.0  # that the supervisor may take; a reload reads files, which may lie on a slow disk
_FORMS: Final = (b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain")
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNKNOWN = Fault(401, "invalid_admin_key", "the admin key is missing or wrong; client keys don't open this")
_SLOWLY = Fault(429, "too_many_failures", "too many attempts with wrong keys came from this address")
_NOT_LOCAL: Final = {
    "host": Fault(403, "host_not_allowed", "without admin.key only this machine is answered, by the name localhost"),
    "browser": Fault(403, "browser_not_allowed", "without admin.key no web page is answered"),
    "proxy": Fault(403, "proxy_not_allowed", "without admin.key nothing is answered that a proxy hands on"),
}
_PEER = Fault(403, "address_not_allowed", "without admin.key only this machine is answered")
_CROSS_SITE = Fault(403, "cross_site", "another site's page may not do this")
_FORM = Fault(415, "unsupported_media_type", "a web form can't do this: send no body")
_BODY = Fault(400, "invalid_request", "send no body")
_NOTHING = Fault(404, "not_found", "there is nothing here")

Later = Callable[[Any], None]


def answer_own(exchange: Exchange, opening: Opening, worker: Worker) -> None:
    """Answer a request for one of them, now or later."""
    path, method = opening.path, opening.head.method
    may_ask = opening.admin or shared(opening.snapshot.config)
    if path in (b"/-/healthz", b"/-/readyz"):
        if method not in (b"GET", b"HEAD"):
            _refuse(exchange, Fault(405, "method_not_allowed", "use GET"))
        elif path == b"/-/readyz" and not worker.ready():
            exchange.refuse(503, "not_ready", "the gateway is not ready")
        elif path == b"/-/readyz" and opening.admin and stranger(exchange, opening, worker) is None:
            exchange.answer(200, _json({"status": "ok", "config": "rejected" if worker.rejected else "current"}))
        else:
            exchange.answer(200, b'{"status":"ok"}')
        return
    fault = stranger(exchange, opening, worker) if may_ask else _NOTHING
    if fault is not None:
        worker.count_refused(fault.code, exchange.client_ip)
        _refuse(exchange, fault)
        return
    wanted, answer = _ENDPOINTS.get(path, (b"GET", None))
    if answer is None:
        _refuse(exchange, _NOTHING)
    elif method != wanted and not (wanted == b"GET" and method == b"HEAD"):
        _refuse(exchange, Fault(405, "method_not_allowed", f"use {wanted.decode()}"))
    elif wanted == b"POST" and (unwanted := _unwanted(exchange, opening)) is not None:
        _refuse(exchange, unwanted)
    else:
        answer(exchange, worker)


def stranger(exchange: Exchange, opening: Opening, worker: Worker) -> Fault | None:
    """Why who asks is not answered. A wrong key is one of the attempts that its source has, whatever it was for."""
    head, admin = opening.head, opening.snapshot.config.admin
    if admin is None:  # taken away by a reload, on a connection that is still open
        return _NOTHING
    if admin.key is not None:
        token = carried(head, None)[:LONGEST_KEY]
        key = admin.key.reveal().encode()
        right = hmac.compare_digest(hashlib.sha256(token).digest(), hashlib.sha256(key).digest())
        source, now = source_of(exchange.client_ip), time.perf_counter()
        throttle = worker.warden.throttle
        if throttle.wait(source, now) > 0.0 and (not right or len(key) < GUESSABLE):
            return _SLOWLY
        if right:
            return None
        if token:
            throttle.failed(source, now)
        return _UNKNOWN
    if not _loopback(exchange.peer):
        return _PEER
    return _NOT_LOCAL.get(trespass(head) or "")


def _refuse(exchange: Exchange, fault: Fault) -> None:
    exchange.refuse(*fault, retry_after=math.ceil(REFILL) if fault is _SLOWLY else None)


def _unwanted(exchange: Exchange, opening: Opening) -> Fault | None:
    """Why a request that changes something is not carried out: a web page could have sent it."""
    noted, host = opening.head.noted, opening.head.host or b""
    if noted.get(FETCH_SITE, b"none") not in (b"none", b"same-origin"):
        return _CROSS_SITE
    origin = noted.get(ORIGIN)
    if origin is not None and origin.partition(b"://")[2] != host:
        return _CROSS_SITE
    if noted.get(CONTENT_TYPE, b"").lower().startswith(_FORMS):
        return _FORM
    return _BODY if exchange.has_body else None


def _loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _metrics(exchange: Exchange, worker: Worker) -> None:
    worker.publish()
    exchange.answer(200, worker.metrics.text().encode(), _TEXT)


def _config(exchange: Exchange, worker: Worker) -> None:
    _ask(exchange, worker, "state", lambda state: exchange.answer(200, _json(state)))


def _reload(exchange: Exchange, worker: Worker) -> None:
    """200: what is on disk is in force. 422: it can't be, and what was in force stays."""

    def told(outcome: Any) -> None:
        exchange.answer(200 if outcome["ok"] else 422, _json(outcome))

    _ask(exchange, worker, "reload", told)


def _ask(exchange: Exchange, worker: Worker, question: str, then: Later) -> None:
    """Have the supervisor answer, in time."""
    late = worker.loop.call_later(
        ANSWER_SECONDS, exchange.refuse, 504, "no_answer", "the supervising process does not answer"
    )

    def told(answer: Any) -> None:
        late.cancel()
        then(answer)

    worker.follower.ask(question, told)


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


_ENDPOINTS: Final[dict[bytes, tuple[bytes, Callable[[Exchange, Worker], None]]]] = {
    b"/-/metrics": (b"GET", _metrics),
    b"/-/config": (b"GET", _config),
    b"/-/reload": (b"POST", _reload),
}
