"""A request on its way to an upstream: which one, with which credential, over which connection; and once more, where
the first try was not one.
"""

from __future__ import annotations

import time
from abc import abstractmethod

from fluxen.gateway.admission import Fault
from fluxen.gateway.credentials import Credential
from fluxen.gateway.form import Form
from fluxen.gateway.intake import Intake
from fluxen.gateway.peek import Peek, peek
from fluxen.gateway.routes import NoRoute, Upstream
from fluxen.gateway.spliced import Splice, splice_of
from fluxen.gateway.upstream import AnswerSink, UpstreamConnection
from fluxen.ledger.record import Begin, End


class Dispatch(Intake, AnswerSink):
    """How one request is sent on."""

    __slots__ = ("_begin", "_finished", "_form", "_refused", "_splice")

    _begin: Begin | None
    """What the ledger is told before the request is sent."""
    _finished: bool
    """Its end is settled: nothing more happens."""
    _form: Form | None
    """Reads a body that is passed on, where it matters what it says."""
    _refused: list[Credential] | None
    """What the provider would not take."""
    _splice: Splice | None
    """Asks for the usage of a stream whose client does not."""

    @abstractmethod
    def refuse(
        self, status: int, code: str, message: str, *, error: str | None = None, retry_after: int | None = None
    ) -> None:
        """Answer in place of an upstream."""

    @abstractmethod
    def record(self) -> Begin | End | None:
        """What is to be written of it now."""

    @abstractmethod
    def failed(self) -> None:
        """A bug met it: nobody is to wait for it any longer."""

    @abstractmethod
    def committed(self, written: bool) -> None:
        """It is written, or can't be."""

    def _screen(self, form: Form, chunk: bytes) -> None:
        """A piece of a form: nothing of it is sent on until it is clear that it may, and no piece that spoils that."""
        fault = form.feed(chunk)
        if fault is not None:
            self.refuse(*fault)
        elif form.model is None:
            self._hold(chunk)
        else:
            if self._upstream is None:
                self._plan(Peek(form.model, form.stream))
            ready = form.released(chunk)
            if ready and not self._finished:
                self._pass_on(ready, last=False)

    def _plan(self, seen: Peek | None = None) -> None:
        """Look into the body as far as it is here, choose the upstream, and go. seen: what it says, if known."""
        opening = self._opening
        route = opening.route
        if route is None:
            return  # one of our own endpoints, which answers when it can
        model = route.model
        stream: bool | None = True if route.streams else None
        body = self._body
        whole = b""
        if body and opening.held:
            whole = body[0] if len(body) == 1 else b"".join(body)
        if seen is None and opening.strict is not None:
            judged = opening.judge(whole)
            if isinstance(judged, Fault):
                self.refuse(*judged)
                return
            seen = judged
        elif whole:
            seen = peek(whole, opening.content_encoding, opening.snapshot.max_body)
        if seen is not None:
            model = model or seen.model
            if stream is None:
                stream = seen.stream
        upstream = route.upstream
        if upstream is None:
            try:
                upstream = opening.snapshot.router.choose(route.home, model)
            except NoRoute as no:
                self.refuse(no.status, no.code, no.message)
                return
        self._upstream = upstream
        parking = self._worker.parking
        if parking.known and len(upstream.credentials) > 1:
            now = self._t_complete or self._t_open
            forward = opening.forward_with(upstream, parking.choose(upstream, now, self._repeatable))
        else:
            forward = opening.forward(upstream)
        if isinstance(forward, Fault):
            self.refuse(*forward)
            return
        self._forward = forward
        if stream and opening.askable:
            self._splice = splice_of(opening, upstream, whole, self._worker.unasked)
        self._begin = self._begun(model, stream)
        self._worker.commit(self)

    def _connect(self, upstream: Upstream, fresh: bool) -> None:
        self._attempts += 1
        pool = self._worker.pool(upstream.origin)
        connection = None if fresh else pool.take()
        if connection is not None:
            self.connected(connection)
        else:
            self._worker.connect(self, pool, upstream.connect_seconds)

    def connected(self, connection: UpstreamConnection) -> None:
        """Here is a connection: send what there is of the request."""
        upstream, forward = self._upstream, self._forward
        if self._finished or upstream is None or forward is None:
            connection.release()
            return
        self._connection = connection
        opening, body, splice = self._opening, self._body, self._splice
        length = self._length if self._length >= 0 else self._body_size
        sink: AnswerSink = self
        if splice is not None and body is not None:
            sink, forward, body, length = splice.sent(self, connection, forward, body, length)
        head = forward.before if forward.after is None else b"%b%d%b" % (forward.before, length, forward.after)
        if not opening.held and body is not None and self._length:
            body, self._body = [self._framed(piece) for piece in body], None
            if self._length < 0 and self._t_complete:
                body.append(b"0\r\n\r\n")
        if not self._t_sent:
            self._t_sent = time.perf_counter()
        connection.start(
            sink, [head, *body] if body else [head], opening.is_head, not self._t_complete,
            upstream.first_byte_ticks, upstream.idle_ticks,
        )  # fmt: skip
        if not opening.held:
            self._client.resume_reading()
        if not self._client.writable:
            connection.hold()

    def _goes_on(self, status: int) -> bool:
        """Whether the provider refused the credential, and the request goes on with another."""
        upstream, forward, worker = self._upstream, self._forward, self._worker
        if upstream is None or forward is None or forward.credential is None:
            return False
        if self._refused is None:
            self._refused = []
        now = time.perf_counter()
        another = worker.parking.heard(
            upstream, forward.credential, status, self._refused, self._t_open, now, now + worker.wall_offset
        )
        if another is None or not self._repeatable:
            return False
        onward = self._opening.forward_with(upstream, another)
        if isinstance(onward, Fault):
            return False
        self._forward = onward
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish_alone()
        self._connect(upstream, fresh=False)
        return True

    def key_refused(self) -> bool:
        """The body of an answer that has ended says so. Whether the request goes on with another."""
        self._connection = None
        return self._goes_on(401)

    def repeat(self) -> bool:
        """An answer that has ended is not for the client. Whether the request is sent once more."""
        upstream = self._upstream
        if self._finished or upstream is None or not self._repeatable:
            return False
        self._connection = None
        self._connect(upstream, fresh=False)
        return True

    def unreachable(self, reason: str, timeout: bool) -> None:
        """No connection could be made."""
        if self._finished:
            return
        upstream = self._upstream
        name = upstream.name if upstream is not None else "upstream"
        self._worker.notice(f"unreachable: {name}", reason)
        if timeout:
            self.refuse(504, "upstream_timeout", f"no connection to the upstream {name} in time")
        else:
            self.refuse(502, "upstream_unreachable", f"the upstream {name} can't be reached")
