"""The exchange: one request from its head to its one row. Its methods are the steps, in order.

    open      snapshot → authenticate → route → how the body is read
    body      the body's pieces: held (JSON) or passed on (everything else)
    end       the request is complete: peek → upstream
    committed begin line written → a connection → the request goes upstream
    answer_*  relay, then meter
    counted   only where the answer did not tell what was used: what the counter says
    committed end line written, exactly one → the last of the answer goes out

It does no I/O of its own and never awaits. The listener calls the first three, an upstream connection the answers;
what has to wait is asked of the worker: a line of the ledger (the worker writes those of one turn of the event loop
together, then calls `committed`), a fresh connection (`connected` or `unreachable`), a count (`_counted`). However a
request ends, its one row is written before anybody can see that end.

What is answered when something breaks: before the first byte of an answer, a refusal in the caller's dialect; after
it, the client's connection is broken, so that a truncated answer never looks complete.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fluxen.gateway.admission import Fault
from fluxen.gateway.credentials import Credential
from fluxen.gateway.form import Form
from fluxen.gateway.head import AnswerHead
from fluxen.gateway.meter import Meter, meter_for
from fluxen.gateway.opening import LABEL, Opening
from fluxen.gateway.own import answer_own
from fluxen.gateway.reply import CONTINUE, reply
from fluxen.gateway.silent import SMALL, Silent
from fluxen.gateway.spliced import Splice
from fluxen.gateway.withheld import withheld
from fluxen.ledger.record import Begin, End, new_id

if TYPE_CHECKING:
    from fluxen.gateway.listener import Listener
    from fluxen.gateway.worker import Worker

CLIENT_CLOSED: Final = 499  # as nginx logs it


class Exchange(Silent):
    """One request. Made when its head is complete. length is that of its body, -1 when it comes in chunks."""

    __slots__ = ("_breaks", "_deferred", "_ends_with_close", "_keep", "_last", "_relayed")

    def __init__(self, worker: Worker, client: Listener, opening: Opening, length: int) -> None:
        self._worker = worker
        self._client = client
        self._opening = opening
        self._length = length
        self._id = new_id()
        self._t_open = time.perf_counter()
        self._t_complete = self._t_sent = self._t_answer = 0.0
        self._upstream = None
        self._forward = None
        self._body = []
        self._body_size = self._reserved = self._loose = self._kept = self._rough = 0
        self._begin: Begin | None = None
        self._connection = None
        self._deferred: tuple[int, bytes, str | None, int | None, str] | None = None
        self._meter = None
        self._last: bytes | None = None  # the last of the answer, until its row is written
        self._encoding = None
        self._end: End | None = None
        self._uncounted = None
        self._breaks = False  # the client's connection is to be broken once the row is written
        self._attempts = self._status = self._response_bytes = 0
        self._answering = self._relayed = self._finished = self._ends_with_close = False
        self._form: Form | None = None  # reads a body that is passed on, where it matters what it says
        self._keep = opening.head.keep_alive
        self._upstream_request_id = None
        self._refused: list[Credential] | None = None  # what the provider would not take
        self._splice: Splice | None = None  # asks for a usage that the client does not ask for

    # --- the request

    def open(self) -> None:
        """The head is complete: what it means is known (Opening); refuse, or read the body."""
        opening = self._opening
        if opening.conditional:
            at, worker = self._t_open, self._worker
            opening = self._opening = worker.warden.admit(opening, at, at + worker.wall_offset, self._client.peer)
        fault = opening.fault
        if fault is not None:
            if not opening.known:
                self._worker.count_refused(fault.code, self.client_ip)
            self.refuse(*fault, retry_after=opening.retry_after)
        elif opening.own:
            answer_own(self, opening, self._worker)
        elif self._length and opening.held:
            if self._length < 0 or self._reserve(self._length):
                self._go_ahead()
        elif self._length:
            form = opening.form()
            if isinstance(form, Fault):
                self.refuse(*form)
                return
            self._form = form
            self._go_ahead()
            if form is None:
                self._plan()

    def body(self, chunk: bytes) -> None:
        """A piece of the request's body, chunked framing removed."""
        if self._finished:
            return
        self._body_size += len(chunk)
        if not self._opening.held:
            if self._form is not None:
                self._screen(self._form, chunk)
            else:
                self._pass_on(chunk, last=False)
        elif self._body_size <= self._reserved or self._reserve(self._body_size):
            self._hold(chunk)

    def end(self) -> None:
        """The request is complete."""
        if self._finished:
            return
        self._t_complete = time.perf_counter()
        if self._deferred is not None:
            self._answer(*self._deferred)
        elif self._opening.held or not self._length:
            self._plan()
        elif self._form is not None and (fault := self._form.end()) is not None:
            self.refuse(*fault)
        else:
            self._pass_on(b"", last=True)

    def refuse(
        self, status: int, code: str, message: str, *, error: str | None = None, retry_after: int | None = None
    ) -> None:
        """Answer in place of an upstream. error: the ledger's word for it, `code` if not given."""
        if self._finished:
            return
        if self._relayed:
            self._break(error or code)
        else:
            body = self._opening.dialect.error_body(status, code, message)
            self._answer(status, body, error or code, retry_after)

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """Fluxen's own answer to a request for one of its own endpoints."""
        if not self._finished:
            self._answer(status, body, None, kind=kind)

    @property
    def has_body(self) -> bool:
        return self._length != 0

    def _answer(
        self, status: int, body: bytes, error: str | None, retry_after: int | None = None,
        kind: str = "application/json",
    ) -> None:  # fmt: skip
        client = self._client
        if not self._t_complete and not self._length:
            self._deferred = (status, body, error, retry_after, kind)  # the request ends with its head: not yet
            return
        keep = self._keep and self._t_complete > 0.0 and not self._worker.draining
        answer = reply(
            status, body, request_id=self._id, close=not keep, without_body=self._opening.is_head,
            retry_after=retry_after, kind=kind,
        )  # fmt: skip
        self._status = status
        self._answering = False  # what an upstream's head said never reached the client
        self._response_bytes = len(body)
        if client.transport is not None:
            client.transport.write(answer)
        self._settle(error)
        client.done(keep)

    # --- the steps of opening

    def _go_ahead(self) -> None:
        head, client = self._opening.head, self._client
        if head.expects and not head.http10 and client.transport is not None:
            client.transport.write(CONTINUE)

    def _reserve(self, size: int) -> bool:
        """Make room for a body of `size` bytes; refuses when it is too large or there is none."""
        fault = self._make_room(size)
        if fault is not None:
            self.refuse(*fault, retry_after=1 if fault.status == 503 else None)
        return fault is None

    def record(self) -> Begin | End | None:
        """What is to be written now: the begin of a request that is still wanted, or the end of an answered one."""
        if self._last is not None and self._begin is not None:
            end = self._end
            if end is None:
                end = self._ended(self._begin, None if self._status < 400 else "upstream_status", complete=True)
                if self._uncounted is not None and self._counts(end, complete=True):
                    return None  # the row waits for it, and the last of the answer for the row
                self._let_go_of_body()
            return self._logged(end)
        return None if self._finished else self._begin

    def committed(self, written: bool) -> None:
        """It is written, or can't be: on to the upstream, or out with the last of the answer."""
        last, upstream, client = self._last, self._upstream, self._client
        if last is not None:
            self._last = self._meter = None
            if last and client.transport is not None:
                client.transport.write(last)
            client.done(self._keep)
        elif not written and self._opening.snapshot.config.ledger.on_failure == "refuse":
            self.refuse(503, "ledger_unavailable", "the ledger can't be written, and nothing is served unrecorded")
        elif upstream is not None and not self._finished:
            self._connect(upstream, fresh=False)

    # --- the answer

    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        if status >= 400 or self._refused or self._worker.parking.known:
            if self._goes_on(status):
                return b"", None, False
            if status == 400 and (aside := withheld(self, self._opening, self._upstream, self._connection)) is not None:
                return aside.takes(status, head, until_eof, http10=self._opening.head.http10)
        request = self._opening
        self._t_answer = time.perf_counter()
        self._status = status
        self._answering = True
        if not self._t_complete or self._worker.draining:
            self._keep = False  # the upstream answered before it had the whole request, or this process ends
        decode = False
        if until_eof:
            self._keep = False
            self._ends_with_close = True
        elif request.head.http10 and head.encoded:
            decode = self._ends_with_close = True
        added = f"x-fluxen-id: {self._id}\r\n" if self._keep else f"x-fluxen-id: {self._id}\r\nConnection: close\r\n"
        if self._splice is not None and self._splice.asks:
            added = f"x-fluxen-spliced: 1\r\n{added}"
        meter = None
        if status < 300 and request.is_post:
            meter = self._meter = meter_for(head.content_type, head.content_encoding, head.counts)
        if meter is None:
            self._let_go_of_body()
        elif meter.streamed:
            self._prepare(meter)
        elif self._reserved > SMALL:
            self._hold_on()
        if head.request_id is not None:
            self._upstream_request_id = head.request_id[:LABEL].decode("latin-1")
        out = head.relayed(added.encode("ascii"), decode)
        self._response_bytes = -len(out)  # counted with the first bytes relayed
        return out, self._meter, decode

    def answer_data(self, data: bytes) -> None:
        self._relayed = True
        self._response_bytes += len(data)
        transport = self._client.transport
        if transport is not None:
            transport.write(data)

    def answer_end(self, data: bytes) -> None:
        """The answer is complete. Its end line is written before its last bytes go out: whoever has a whole answer
        has a row that says so."""
        self._connection = None
        self._finished = True
        self._relayed = True
        self._response_bytes += len(data)
        self._last = data
        self._worker.commit(self)

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        self._connection = None
        if self._finished:
            return
        upstream = self._upstream
        if unseen and self._repeatable and upstream is not None:
            self._connect(upstream, fresh=True)  # which nobody can have closed before us: it can't be unseen again
            return
        self._worker.notice(f"broken: {upstream.name if upstream else 'upstream'}", reason)
        if self._relayed:
            self._break("upstream_broke")
        else:
            self.refuse(502, "upstream_broke", f"{reason} before it answered")

    def upstream_timeout(self) -> None:
        if self._relayed:
            self._break("upstream_timeout")
        else:
            self.refuse(504, "upstream_timeout", "the upstream did not answer in time")

    def client_gone(self) -> None:
        """The client left: so does the request."""
        if self._finished:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._meter is not None and self._meter.ended():
                connection.finish_alone()
            else:
                connection.abandon()
        if not self._status:
            self._status = CLIENT_CLOSED
        self._settle("client_closed")

    def shut_down(self) -> None:
        """The process ends and can't wait any longer."""
        self.refuse(503, "shutting_down", "the gateway is shutting down", retry_after=1)

    def failed(self) -> None:
        self._finished = True
        self._let_go_of_body()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._client.abort(self._ends_with_close)

    def _break(self, error: str) -> None:
        self._breaks = True
        self._settle(error)

    # --- the row

    def _settle(self, error: str | None) -> None:
        """The request ends otherwise than by its answer's end: write the row, once, and let go of everything."""
        self._finished = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        opening = self._opening
        if self._begin is not None or opening.known:
            begin = self._begin or self._begun(opening.route.model if opening.route else None, None)
            end = self._ended(begin, error, complete=False)
            if self._uncounted is not None and self._counts(end, complete=False):
                return  # it is not over before that is told
            self._worker.journal.end(self._logged(end))
        self._over()

    def _completed(self, end: End) -> None:
        if self._last is not None:
            self._worker.commit(self)
        else:
            self._worker.journal.end(self._logged(end))
            self._over()

    def _over(self) -> None:
        """The row is written."""
        self._let_go_of_body()
        self._meter = None
        if self._breaks:
            self._client.abort(self._ends_with_close)
