"""The listener: one client connection, its HTTP/1.1 framing by llhttp, and its requests one after the other.

Everything the wire can bring is taken here, plain and odd alike: `Expect`, HTTP/1.0, `Upgrade`, pipelining. llhttp
(strict) judges the framing; what it accepts and another parser might read differently is refused by RequestHead.

Requests are answered in order. While one is being answered the bytes behind it wait unparsed (bounded), and the
connection is still read, because only so is it seen that the client left.

A refusal that comes before the request's body has been read ends the connection gently: the answer is written, our
side is closed, and what the client still sends is read and dropped for a moment. Closing at once would reset the
connection and could destroy the answer on its way.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Final

import httptools

from fluxen.gateway.exchange import Exchange
from fluxen.gateway.head import FORWARD, MAX_HEAD, RequestHead
from fluxen.gateway.timers import ticks

if TYPE_CHECKING:
    from fluxen.gateway.worker import Worker

HEAD_TICKS: Final = ticks(10.0)  # from the first byte of a head to its last (slowloris)
BODY_TICKS: Final = ticks(60.0)  # silence within a request body
KEEP_TICKS: Final = ticks(75.0)  # an idle kept-alive connection
STALL_TICKS: Final = ticks(300.0)  # a client that takes no byte of its answer
LINGER_TICKS: Final = ticks(2.0)
LINGER_BYTES: Final = 16 * 1024 * 1024
WAITING_BYTES: Final = 64 * 1024  # pipelined bytes kept unparsed

_UPGRADE_LINES = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)


class Incoming:
    """A pipelined request that came in one read with the one before it."""

    __slots__ = ("chunks", "complete", "head")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.chunks: list[bytes] = []
        self.complete = False


class Listener(asyncio.Protocol):
    """One client connection. `exchange` is the request being read or answered."""

    __slots__ = (
        "_body_open",
        "_broken",
        "_closing",
        "_head",
        "_in_head",
        "_kinds",
        "_lingered",
        "_parser",
        "_partial",
        "_queue",
        "_reading",
        "_waiting",
        "due",
        "exchange",
        "slot",
        "transport",
        "worker",
        "writable",
    )  # fmt: skip

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.writable = True
        self.due = self.slot = 0
        self._kinds = worker.header_kinds
        self._parser = httptools.HttpRequestParser(self)
        self._head = RequestHead()
        self._in_head = True
        self._partial = b""  # the head as it came, when it came in pieces
        self._body_open = False  # the current request's body is not complete
        self._queue: deque[Incoming] | None = None
        self._waiting: list[bytes] | None = None
        self._reading = True
        self._broken = False  # garbage behind a good request: answer that one, then close
        self._closing = False
        self._lingered = -1

    # --- the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has no subclass
        self.transport = transport
        if not self.worker.admit(self):
            self._head.fault = (503, "gateway_full", "the gateway has as many connections as it may have")
            self._head.keep_alive = False
            self._open()
            return
        self.worker.wheel.arm(self, KEEP_TICKS)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.worker.dismiss(self)
        self.transport = None
        self.due = 0
        self._closing = True
        self._queue = self._waiting = None
        if self.exchange is not None:
            self.exchange.client_gone()
            self.exchange = None

    def eof_received(self) -> bool:
        return False  # a client that closes its side has left (as nginx sees it)

    def pause_writing(self) -> None:
        self.writable = False
        self.worker.wheel.arm(self, STALL_TICKS)
        if self.exchange is not None:
            self.exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        self.due = 0
        if self.exchange is not None:
            self.exchange.client_writable(True)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._linger(data)
        elif self.exchange is not None and not self._body_open:
            self._wait(data)
        else:
            self._feed(data)

    def timed_out(self) -> None:
        if self.transport is None:
            return
        if self._closing or not self.writable:
            self.transport.abort()
        elif self.exchange is not None:
            if self._body_open:
                self.exchange.refuse(408, "request_timeout", "the request's body did not come in time")
        elif self._partial:
            self._refuse(408, "request_timeout", "the request's head did not come in time")
        else:
            self.transport.close()

    # --- reading

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data, upgrade.args[0])
            return
        except httptools.HttpParserError as error:
            self._malformed(error)
            return
        if self._in_head:
            if self.exchange is None and not self._closing:
                self._keep_partial(data)
        elif self._partial:
            self._partial = b""
        if self._body_open and self._reading:
            self.worker.wheel.arm(self, BODY_TICKS)

    def _keep_partial(self, data: bytes) -> None:
        """A head that comes in pieces has a time and a size."""
        if not self._partial:
            self.worker.wheel.arm(self, HEAD_TICKS)
        self._partial += data
        if len(self._partial) > MAX_HEAD:
            self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD} bytes")

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self._closing:
            return
        if self.exchange is None:
            self._refuse(400, "invalid_request", f"malformed HTTP: {error}")
        elif self._body_open:
            self.exchange.refuse(400, "invalid_request", f"malformed HTTP: {error}")
        else:
            self._broken = True

    def _ignore_upgrade(self, data: bytes, offset: int) -> None:
        """The offer of another protocol is turned down by going on in this one (RFC 9110, 7.8)."""
        if self._closing or self.exchange is not None:
            self._broken = True
            return
        whole = self._partial + data
        offset += len(self._partial)
        self._partial = b""
        self._parser = httptools.HttpRequestParser(self)
        self._feed(_UPGRADE_LINES.sub(b"", whole[:offset]) + whole[offset:])

    def _wait(self, data: bytes) -> None:
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(data)
        if sum(map(len, self._waiting)) > WAITING_BYTES:
            self.pause_reading()

    def pause_reading(self) -> None:
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.due = 0
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            if self._body_open:
                self.worker.wheel.arm(self, BODY_TICKS)
            self.transport.resume_reading()

    # --- llhttp's side

    def on_message_begin(self) -> None:
        self._head = RequestHead()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # trailers are dropped
        head = self._head
        kind = self._kinds[name]
        if kind == FORWARD:
            head.lines += (name, b": ", value, b"\r\n")
        else:
            head.special(kind, name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser, head = self._parser, self._head
        head.finish(parser.get_method(), parser.get_http_version(), True)
        if self._closing:
            return
        if self.exchange is not None:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(Incoming(head))
        elif not parser.should_upgrade() or head.fault is not None or head.upgrade == b"websocket":
            self._open()

    def on_body(self, body: bytes) -> None:
        if self._queue:
            self._queue[-1].chunks.append(body)
        elif self.exchange is not None and self._body_open:
            self.exchange.body(body)

    def on_message_complete(self) -> None:
        keep_alive = self._parser.should_keep_alive()
        if self._queue:
            self._queue[-1].complete = True
            self._queue[-1].head.keep_alive &= keep_alive
        elif self.exchange is not None and self._body_open:
            self._head.keep_alive &= keep_alive
            self._end()

    # --- requests

    def _open(self) -> None:
        self._body_open = True
        self.exchange = Exchange(self.worker, self, self._head)
        self.exchange.open()

    def _end(self) -> None:
        self._body_open = False
        self.due = 0
        assert self.exchange is not None
        self.exchange.end()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Refuse what never became a request."""
        self._head.fault = (status, code, message)
        self._head.keep_alive = False
        self._open()

    def done(self, keep_alive: bool) -> None:
        """The exchange's answer is written. On to the next request, or close."""
        self.exchange = None
        transport = self.transport
        if transport is None:
            return
        if self._body_open:
            self._close_gently()
        elif not keep_alive or (self._broken and not self._queue) or self.worker.draining:
            self._closing = True
            transport.close()
        elif self._queue:
            self.worker.loop.call_soon(self._next)
        else:
            self._again()

    def _next(self) -> None:
        """Take up a request that was read ahead."""
        if self._closing or not self._queue or self.exchange is not None:
            return
        incoming = self._queue.popleft()
        self._head, self._body_open = incoming.head, True
        self.exchange = exchange = Exchange(self.worker, self, incoming.head)
        exchange.open()
        for chunk in incoming.chunks:
            if self.exchange is exchange:
                exchange.body(chunk)
        if self.exchange is not exchange:
            return
        if incoming.complete:
            self._end()
        elif self._waiting:
            self._feed_waiting()

    def _again(self) -> None:
        self.worker.wheel.arm(self, KEEP_TICKS)
        if self._waiting:
            self.worker.loop.call_soon(self._feed_waiting)
        else:
            self.resume_reading()

    def _feed_waiting(self) -> None:
        if self._closing or not self._waiting or (self.exchange is not None and not self._body_open):
            return
        data = b"".join(self._waiting)
        self._waiting = None
        self.resume_reading()
        self._feed(data)

    def _close_gently(self) -> None:
        transport = self.transport
        assert transport is not None
        self._closing = True
        self._lingered = 0
        self.resume_reading()
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
            self.worker.wheel.arm(self, LINGER_TICKS)
        else:
            transport.close()

    def _linger(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES and self.transport is not None:
            self.transport.abort()

    def abort(self) -> None:
        """Break the connection: the answer on it must not look complete."""
        self.exchange = None
        self._closing = True
        if self.transport is not None:
            self.transport.abort()

    def cut_short(self) -> None:
        """Draining took too long."""
        if self.exchange is not None:
            self.exchange.shut_down()
        elif self.transport is not None:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Draining: nothing is being answered here."""
        if self.exchange is None and self.transport is not None and not self._closing:
            self._closing = True
            self.transport.close()
