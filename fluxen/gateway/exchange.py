"""The exchange: one request from its head to its one row. Its methods are the steps, in order.

    open      snapshot → authenticate → route → how the body is read
    body      the body's pieces: held (JSON) or passed on (everything else)
    end       the request is complete: peek → upstream
    dispatch  begin line → a connection → the request goes upstream
    answer_*  relay, then meter
    settle    exactly one end line

It does no I/O of its own and never awaits. The listener calls the first three, an upstream connection the answers;
what has to wait (a fresh connection) is asked of the worker, which calls `connected` or `unreachable` later. Whatever
happens, `_settle` runs once for a request that got a row, and after it nothing of this exchange touches a socket.

What is answered when something breaks: before the first byte of an answer, a refusal in the caller's dialect; after
it, the client's connection is broken, so that a truncated answer never looks complete.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fluxen.gateway.admission import OPEN, Fault, identify, may_use
from fluxen.gateway.head import (
    CLIENT_REQUEST_ID,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    USER_AGENT,
    AnswerHead,
    RequestHead,
    parse_tags,
)
from fluxen.gateway.meter import Meter
from fluxen.gateway.peek import NOTHING, peek
from fluxen.gateway.reply import CONTINUE, reply
from fluxen.gateway.routes import NoRoute, Route, Upstream, dialect_hint, guess_dialect
from fluxen.gateway.snapshot import ClientKey
from fluxen.gateway.target import split_target
from fluxen.gateway.upstream import UpstreamConnection
from fluxen.ledger.record import Begin, End, new_id
from fluxen.providers.dialect import dialects

if TYPE_CHECKING:
    from fluxen.gateway.listener import Listener
    from fluxen.gateway.worker import Worker

LABEL: Final = 256  # bytes of a client-supplied string in the ledger
CLIENT_CLOSED: Final = 499  # as nginx logs it
_HELD: Final = (b"application/json", b"text/json")
_STREAMED: Final = (b"multipart/", b"application/octet-stream")
_METERED: Final = (b"application/json", b"text/event-stream", b"application/x-ndjson", b"application/stream+json")
_EVENTS: Final = (b"text/event-stream", b"application/x-ndjson", b"application/stream+json")


class Exchange:
    """One request. Made when its head is complete."""

    __slots__ = (
        "_answering",
        "_attempts",
        "_begin",
        "_body",
        "_body_size",
        "_client",
        "_connection",
        "_deferred",
        "_ends_with_close",
        "_finished",
        "_head",
        "_held",
        "_id",
        "_keep",
        "_key",
        "_meter",
        "_path",
        "_query",
        "_reserved",
        "_response_bytes",
        "_route",
        "_status",
        "_t_answer",
        "_t_complete",
        "_t_open",
        "_t_sent",
        "_upstream",
        "_upstream_request_id",
        "_worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, client: Listener, head: RequestHead) -> None:
        self._worker = worker
        self._client = client
        self._head: RequestHead | None = head
        self._id = new_id()
        self._t_open = time.perf_counter()
        self._t_complete = self._t_sent = self._t_answer = 0.0
        self._key: ClientKey | None = None
        self._route: Route | None = None
        self._upstream: Upstream | None = None
        self._path = self._query = b""
        self._body: list[bytes] | None = []
        self._body_size = 0
        self._reserved = 0
        self._held = True
        self._begin: Begin | None = None
        self._connection: UpstreamConnection | None = None
        self._deferred: tuple[int, bytes, str | None, int | None] | None = None
        self._meter: Meter | None = None
        self._attempts = 0
        self._status = 0
        self._response_bytes = 0
        self._answering = self._finished = self._ends_with_close = False
        self._keep = True
        self._upstream_request_id: str | None = None

    # --- the request

    def open(self) -> None:
        """The head is complete: everything that can be decided without the body is decided here."""
        head, worker = self._head, self._worker
        assert head is not None
        snapshot = worker.snapshot
        self._keep = head.keep_alive
        self._path, self._query, key_parameter, key_twice = split_target(head.target)
        if head.fault is not None:
            self._turn_away(Fault(*head.fault))
            return
        if self._path.startswith(b"/-/"):
            self._own_endpoint(head)
            return
        key = identify(snapshot, head, key_parameter, key_twice)
        if isinstance(key, Fault):
            self._turn_away(key)
            return
        self._key = key
        try:
            route = self._route = snapshot.router.find(self._path, dialect_hint(head.noted, head.credential_name))
        except NoRoute as no:
            self.refuse(no.status, no.code, no.message)
            return
        if head.upgrade == b"websocket":
            self.refuse(426, "upgrade_required", "WebSocket is not supported by this gateway; use plain HTTP")
        elif route.upstream is None or self._may_use(route.upstream):
            self._choose_reading(head, route)

    def body(self, chunk: bytes) -> None:
        """A piece of the request's body, chunked framing removed."""
        if self._finished or self._deferred is not None:
            return
        self._body_size += len(chunk)
        if not self._held:
            self._pass_on(chunk, last=False)
            return
        if self._body_size > self._reserved and not self._reserve(self._body_size):
            return
        if self._body is not None:
            self._body.append(chunk)

    def end(self) -> None:
        """The request is complete."""
        head = self._head
        if self._finished or head is None:
            return
        self._keep = head.keep_alive
        self._t_complete = time.perf_counter()
        if self._deferred is not None:
            self._answer(*self._deferred)
        elif self._held:
            self._plan(head)
        else:
            self._pass_on(b"", last=True)

    def refuse(
        self, status: int, code: str, message: str, *, error: str | None = None, retry_after: int | None = None
    ) -> None:
        """Answer in place of an upstream. error: the ledger's word for it, `code` if not given."""
        if self._finished:
            return
        if self._response_bytes:
            self._break(error or code)
            return
        dialect = self._route.dialect if self._route is not None else dialects()[guess_dialect(self._path)]
        self._answer(status, dialect.error_body(status, code, message), error or code, retry_after)

    def _answer(self, status: int, body: bytes, error: str | None, retry_after: int | None = None) -> None:
        head, client = self._head, self._client
        assert head is not None
        if not self._t_complete and self._deferred is None and head.fault is None and _has_no_body(head):
            self._deferred = (status, body, error, retry_after)  # the request ends with its head: wait for its end
            return
        keep = self._keep and self._t_complete > 0.0
        answer = reply(
            status,
            body,
            request_id=self._id,
            close=not keep,
            without_body=head.method == b"HEAD",
            retry_after=retry_after,
        )
        self._status = status
        self._answering = False  # what the upstream's head said never reached the client
        self._response_bytes = len(body)
        if client.transport is not None:
            client.transport.write(answer)
        self._settle(error)
        client.done(keep)

    def _turn_away(self, fault: Fault) -> None:
        """Refuse somebody unknown, or what is no request: counted, not a row."""
        self._worker.count_refused(fault.code)
        self.refuse(*fault)

    # --- the steps of opening

    def _own_endpoint(self, head: RequestHead) -> None:
        """Health and readiness; nothing else of Fluxen's own is on the public port."""
        if self._path not in (b"/-/healthz", b"/-/readyz"):
            self.refuse(404, "not_found", "there is nothing here")
        elif head.method not in (b"GET", b"HEAD"):
            self.refuse(405, "method_not_allowed", "use GET")
        elif self._path == b"/-/readyz" and not self._worker.ready():
            self.refuse(503, "not_ready", "the gateway is not ready")
        else:
            self._answer(200, b'{"status":"ok"}', None)

    def _may_use(self, upstream: Upstream) -> bool:
        """Whether this caller may send this request to this upstream; refuses if not."""
        key, head, route = self._key, self._head, self._route
        assert key is not None and head is not None and route is not None
        self._upstream = upstream
        presented = head.credential is not None or len(self._path) + len(self._query) < len(head.target)
        fault = may_use(self._worker.snapshot, key, route, upstream, presented)
        if fault is not None:
            self.refuse(*fault)
        return fault is None

    def _choose_reading(self, head: RequestHead, route: Route) -> None:
        """Hold the body, or pass it on as it comes."""
        if _has_no_body(head):
            self._admit(head)
            return
        kind = head.noted.get(CONTENT_TYPE, b"").lower()
        self._held = kind.startswith(_HELD) or b"+json" in kind or (route.json_body and not kind.startswith(_STREAMED))
        if not self._held:
            self._admit(head)
            upstream = route.upstream or self._choose_upstream(route.model)
            if upstream is not None:
                self._dispatch(upstream, None)
        elif head.length is None or self._reserve(head.length):
            self._admit(head)

    def _admit(self, head: RequestHead) -> None:
        if head.expects and not _has_no_body(head) and not head.http10 and self._client.transport is not None:
            self._client.transport.write(CONTINUE)

    def _reserve(self, size: int) -> bool:
        """Make room for a body of `size` bytes; refuses when it is too large or there is none."""
        snapshot, worker = self._worker.snapshot, self._worker
        if size > snapshot.max_body:
            self.refuse(413, "request_too_large", f"the request body is larger than {snapshot.max_body} bytes")
            return False
        if worker.body_bytes + size - self._reserved > snapshot.body_memory:
            message = "the gateway holds as many request bodies as it may hold"
            self.refuse(503, "body_memory_full", message, retry_after=1)
            return False
        worker.body_bytes += size - self._reserved
        self._reserved = size
        return True

    # --- to the upstream

    def _plan(self, head: RequestHead) -> None:
        """The whole request is here: look into it and choose the upstream."""
        route = self._route
        assert route is not None
        seen = NOTHING
        model = route.model
        stream: bool | None = True if route.streams else None
        if self._body:
            seen = peek(
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                head.noted.get(CONTENT_ENCODING), self._worker.snapshot.max_body,
            )  # fmt: skip
            if model is None:
                model = seen.model
            if stream is None:
                stream = seen.stream
        upstream = route.upstream
        if upstream is None:
            upstream = self._choose_upstream(model)
            if upstream is None:
                return
        self._dispatch(upstream, model, stream)

    def _choose_upstream(self, model: str | None) -> Upstream | None:
        route = self._route
        assert route is not None
        try:
            upstream = self._worker.snapshot.router.choose(route.dialect, model)
        except NoRoute as no:
            self.refuse(no.status, no.code, no.message)
            return None
        return upstream if self._may_use(upstream) else None

    def _dispatch(self, upstream: Upstream, model: str | None, stream: bool | None = None) -> None:
        """Write the begin line, then send the request or ask for a connection to send it on."""
        worker = self._worker
        self._upstream = upstream
        begin = self._begin = self._begun(model, stream)
        if not worker.journal.begin(begin) and worker.snapshot.config.ledger.on_failure == "refuse":
            self.refuse(
                503, "ledger_unavailable", "the ledger can't be written, and this gateway serves nothing unrecorded"
            )
            return
        self._connect(fresh=False)

    def _begun(self, model: str | None, stream: bool | None) -> Begin:
        head, key, route, upstream = self._head, self._key, self._route, self._upstream
        assert head is not None and key is not None and route is not None
        tags = key.tags
        if head.tags is not None:
            own = parse_tags(head.tags)
            tags = {**own, **(tags or {})} if own is not None else tags
        noted = head.noted
        agent = noted.get(USER_AGENT)
        request_id = noted.get(CLIENT_REQUEST_ID)
        return Begin(
            self._id,
            int((self._t_open + self._worker.wall_offset) * 1e6),
            key.id or None,
            key.team,
            key.project,
            None if tags is None else dict(tags),
            None if request_id is None else request_id[:LABEL].decode("latin-1"),
            None if agent is None else agent[:LABEL].decode("latin-1"),
            route.kind,
            route.endpoint,
            route.dialect.name,
            None if upstream is None else upstream.name,
            None if upstream is None else upstream.credential_name,
            None,
            None if model is None else model[:LABEL],
            stream,
            self._body_size if self._held else None,
            None,
            self._worker.accountant.price_version,
        )

    def _connect(self, fresh: bool) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._attempts += 1
        pool = self._worker.pool(upstream.origin)
        connection = None if fresh else pool.take()
        if connection is not None:
            self.connected(connection)
        else:
            self._worker.connect(self, pool, upstream.connect_seconds)

    def connected(self, connection: UpstreamConnection) -> None:
        """Here is a connection: send what there is of the request."""
        head, upstream, route = self._head, self._upstream, self._route
        if self._finished or head is None or upstream is None or route is None:
            connection.release()
            return
        self._connection = connection
        own = upstream.credential is None and self._key is OPEN
        path = upstream.path(self._path, unified=True) if route.kind == "unified" else route.path
        query = head.target[len(self._path) :] if own else self._query
        lines = head.upstream_head(
            path + query, upstream.host,
            None if upstream.credential is None else (upstream.credential_header, upstream.credential),
            own, self._body_size if self._held else -1,
        )  # fmt: skip
        body = self._body
        if not self._held:
            body, self._body = [_framed(piece, head.chunked) for piece in self._body or ()], None
            if head.chunked and self._t_complete:
                body.append(b"0\r\n\r\n")
        self._t_sent = time.perf_counter()
        connection.start(
            self, [lines, *body] if body else [lines], head.method == b"HEAD", not self._t_complete,
            upstream.first_byte_ticks, upstream.idle_ticks,
        )  # fmt: skip
        if not self._held:
            self._client.resume_reading()
        if not self._client.writable:
            connection.hold()

    def unreachable(self, reason: str, timeout: bool) -> None:
        """No connection could be made."""
        if self._finished:
            return
        upstream = self._upstream
        name = upstream.name if upstream is not None else "upstream"
        self._worker.notice("unreachable", f"{name}: {reason}")
        if timeout:
            self.refuse(504, "upstream_timeout", f"no connection to the upstream {name} in time")
        else:
            self.refuse(502, "upstream_unreachable", f"the upstream {name} can't be reached")

    def _pass_on(self, chunk: bytes, last: bool) -> None:
        """A piece of a body that is not held: at once to the upstream, as fast as it takes them. The last is empty."""
        connection, head, upstream = self._connection, self._head, self._upstream
        if connection is None:
            if self._body is not None and chunk:
                self._body.append(chunk)
            self._client.pause_reading()  # until there is a connection
        elif head is not None and upstream is not None:
            data = _framed(chunk, head.chunked) if chunk or head.chunked else b""
            connection.send(data, upstream.first_byte_ticks, last)

    def upstream_writable(self, writable: bool) -> None:
        if self._held or self._t_complete:
            return
        if writable:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def client_writable(self, writable: bool) -> None:
        if self._connection is not None:
            if writable:
                self._connection.resume()
            else:
                self._connection.hold()

    # --- the answer

    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        request = self._head
        assert request is not None
        self._t_answer = time.perf_counter()
        self._status = status
        self._answering = True
        if not self._t_complete:
            self._keep = False  # the upstream answered before it had the whole request
        decode = False
        if until_eof:
            self._keep = False
            self._ends_with_close = True
        elif request.http10 and head.encoded:
            decode = self._ends_with_close = True
        added = f"x-fluxen-id: {self._id}\r\n" if self._keep else f"x-fluxen-id: {self._id}\r\nConnection: close\r\n"
        self._let_go_of_body()
        if status < 300 and request.method == b"POST":
            kind = head.content_type
            if kind.startswith(_METERED):
                self._meter = Meter(kind.startswith(_EVENTS), head.content_encoding)
        if head.request_id is not None:
            self._upstream_request_id = head.request_id[:LABEL].decode("latin-1")
        request.release()
        return head.relayed(added.encode("ascii"), decode), self._meter, decode

    def answer_data(self, data: bytes) -> None:
        self._response_bytes += len(data)
        transport = self._client.transport
        if transport is not None:
            transport.write(data)

    def answer_end(self, data: bytes) -> None:
        client = self._client
        self._connection = None
        if data:
            self._response_bytes += len(data)
            if client.transport is not None:
                client.transport.write(data)
        keep = self._keep
        self._settle(None if self._status < 400 else "upstream_status", complete=True)
        client.done(keep)

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        self._connection = None
        if self._finished:
            return
        if unseen and self._held and self._attempts == 1 and self._body is not None:
            self._connect(fresh=True)
            return
        upstream = self._upstream
        self._worker.notice("broken", f"{upstream.name if upstream else 'upstream'}: {reason}")
        if self._response_bytes:
            self._break("upstream_broke")
        else:
            self.refuse(502, "upstream_broke", f"{reason} before it answered")

    def upstream_timeout(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if self._response_bytes:
            self._break("upstream_timeout")
        else:
            self.refuse(504, "upstream_timeout", "the upstream did not answer in time")

    def client_gone(self) -> None:
        """The client left: so does the request."""
        if self._finished:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if not self._status:
            self._status = CLIENT_CLOSED
        self._settle("client_closed")

    def shut_down(self) -> None:
        """The process ends and can't wait any longer."""
        self.refuse(503, "shutting_down", "the gateway is shutting down", retry_after=1)

    def _break(self, error: str) -> None:
        client = self._client
        self._settle(error)
        client.abort(self._ends_with_close)

    # --- the row

    def _let_go_of_body(self) -> None:
        if self._reserved:
            self._worker.body_bytes -= self._reserved
            self._reserved = 0
        self._body = None

    def _settle(self, error: str | None, complete: bool = False) -> None:
        """Write the row, once, and let go of everything."""
        self._finished = True
        self._let_go_of_body()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if self._begin is not None or (self._key is not None and self._route is not None):
            begin = self._begin or self._begun(self._route.model if self._route else None, None)
            self._worker.journal.end(self._row(begin, error, complete))
        self._head = None
        self._meter = None

    def _row(self, begin: Begin, error: str | None, complete: bool) -> End:
        now = time.perf_counter()
        end = End.of(begin)
        end.attempts = self._attempts
        end.status = self._status
        end.error = error
        end.latency_ms = round((now - self._t_open) * 1e3)
        if self._t_answer:
            end.ttfb_ms = round((self._t_answer - self._t_open) * 1e3)
        if self._t_sent and self._t_complete and self._t_sent > self._t_complete:
            end.overhead_us = round((self._t_sent - self._t_complete) * 1e6)
        end.request_bytes = self._body_size
        end.response_bytes = self._response_bytes
        end.upstream_request_id = self._upstream_request_id
        head = self._head
        self._worker.accountant.account(
            end, self._upstream, self._meter,
            billable=self._t_sent > 0.0 and head is not None and head.method == b"POST",
            answered=self._answering, complete=complete,
        )  # fmt: skip
        return end


def _has_no_body(head: RequestHead) -> bool:
    return not head.chunked and not head.length


def _framed(piece: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
