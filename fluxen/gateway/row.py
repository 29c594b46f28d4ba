"""What the ledger is told of a request: a begin before it is sent on, one end however it went.

The exchange is a Row: it notes what happens where it happens, and nothing is copied on the way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from fluxen.gateway.opening import LABEL, Forward, Opening
from fluxen.ledger.record import Begin, End

if TYPE_CHECKING:
    from fluxen.analyzer.usage import Reading
    from fluxen.gateway.listener import Listener
    from fluxen.gateway.meter import Meter
    from fluxen.gateway.routes import Upstream
    from fluxen.gateway.worker import Worker


class RequestLog(Protocol):
    """Where a line for each row goes."""

    def add(self, end: End, opening: Opening, client_ip: str) -> None: ...


class Row:
    """The facts of one request. Times are of perf_counter, 0 for what did not happen."""

    __slots__ = (
        "_answering", "_attempts", "_body_size", "_client", "_forward", "_id", "_meter", "_opening",
        "_response_bytes", "_status", "_t_answer", "_t_complete", "_t_open", "_t_sent", "_uncounted", "_upstream",
        "_upstream_request_id", "_worker",
    )  # fmt: skip

    _answering: bool
    """The head of the upstream's answer came, and it is for the client."""
    _attempts: int
    _body_size: int
    _client: Listener
    _forward: Forward | None
    """How the request was sent on, the last time."""
    _id: str
    _meter: Meter | None
    _opening: Opening
    _response_bytes: int
    _status: int
    _t_answer: float
    _t_complete: float
    """When the client had sent all of the request."""
    _t_open: float
    _t_sent: float
    """When it was first sent on."""
    _uncounted: Reading | None
    """What the answer told, if that was not all: the rest may be counted."""
    _upstream: Upstream | None
    _upstream_request_id: str | None
    _worker: Worker

    @property
    def peer(self) -> str:
        """Who is connected, perhaps a proxy."""
        return self._client.peer

    @property
    def client_ip(self) -> str:
        """Who is at the other end."""
        return self._opening.caller(self._client.peer)

    def _begun(self, model: str | None, stream: bool | None) -> Begin:
        opening, upstream, forward = self._opening, self._upstream, self._forward
        credential = None if forward is None else forward.credential
        key, route = opening.key, opening.route
        assert key is not None and route is not None
        return Begin(
            self._id, int((self._t_open + self._worker.wall_offset) * 1e6), opening.key_id, key.team, key.project,
            opening.tags, opening.client_request_id, opening.user_agent, route.kind, route.endpoint, route.dialect.name,
            None if upstream is None else upstream.name, None if credential is None else credential.name, None,
            None if model is None else model[:LABEL], stream, self._body_size if self._t_complete else None, None,
            self._worker.price_version,
        )  # fmt: skip

    def _ended(self, begin: Begin, error: str | None, complete: bool) -> End:
        """The row, but for what is to be counted. complete: the answer's end came."""
        now = time.perf_counter()
        end = End.of(begin)
        if self._attempts > 1 and self._forward is not None and self._forward.credential is not None:
            end.credential = self._forward.credential.name  # the begin names the one that was tried first
        end.attempts = self._attempts
        end.status = self._status
        end.error = error
        end.latency_ms = round((now - self._t_open) * 1e3)
        if self._t_answer:
            end.ttfb_ms = round((self._t_answer - self._t_open) * 1e3)
        if self._t_sent and self._t_complete and self._t_sent > self._t_complete:
            end.overhead_us = round((self._t_sent - self._t_complete) * 1e6)
        end.request_bytes = self._body_size
        end.response_bytes = max(0, self._response_bytes)
        end.upstream_request_id = self._upstream_request_id
        worker, opening = self._worker, self._opening
        worker.answered[self._status // 100] += 1
        reading = worker.accountant.account(
            end, self._upstream, self._meter, billable=self._t_sent > 0.0 and opening.is_post,
            answered=self._answering, complete=complete,
        )  # fmt: skip
        if error == "client_closed" and self._answering and self._meter is not None and self._meter.streamed:
            reported = end.usage_source == "reported" and end.finish is not None
            if reported or self._meter.ended():
                end.error = None  # it had the whole answer, and left before the end of the framing
        self._uncounted = reading if reading.source == "unknown" or reading.source == "partial" else None
        return end

    def _logged(self, end: End) -> End:
        """The row, with which all is done."""
        if self._worker.request_log is not None:
            self._worker.request_log.add(end, self._opening, self.client_ip)
        return end
