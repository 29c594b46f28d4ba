"""The listener: one client connection, its HTTP/1.1 framing by llhttp, and its requests one after the other.

Everything the wire can bring is taken here, plain and odd alike: `Expect`, HTTP/1.0, `Upgrade`, pipelining. llhttp
(strict) judges the framing; what it accepts and another parser might read differently is refused by RequestHead.

Requests are answered in order. While one is being answered the bytes behind it wait unparsed (bounded), and the
connection is still read, because only so is it seen that the client left. llhttp is fed a head, then its body, and
nothing beyond. (A head it has accepted before, byte for byte but for the length, needs no second judgement.) Only the
end of a chunked body is known to nobody else, so what comes in one read with it is not answered: the connection is
closed after that request, and the client sends the next one again (RFC 9112, 9.3.2).

A refusal that comes before the request's body has been read ends the connection gently: the answer is written, our
side is closed, and what the client still sends is read and dropped for a moment. Closing at once would reset the
connection and could destroy the answer on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from typing import TYPE_CHECKING, ClassVar, Final

import httptools

from fluxen.gateway.admission import Fault
from fluxen.gateway.exchange import Exchange
from fluxen.gateway.head import MAX_HEAD
from fluxen.gateway.opening import Opening
from fluxen.gateway.timers import ticks

if TYPE_CHECKING:
    from fluxen.gateway.worker import Worker

STALL_TICKS: Final = ticks(300.0)  # a client that takes no byte of its answer
LINGER_TICKS: Final = ticks(2.0)  # silence of a client that was refused and is still sending
LINGER_MOST: Final = ticks(30.0)  # … and how long it may go on: many look for an answer only when they have sent it all
SUSPICIOUS: Final = (400, 431, 501)
"""How a head is answered that two parsers could read in two ways, and that no honest client sends."""
WAITING_BYTES: Final = 64 * 1024  # pipelined bytes kept unparsed

_RESET: Final = struct.pack("ii", 1, 0)  # linger on, for 0 s
_UPGRADE_LINES: Final = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)


class Listener(asyncio.Protocol):
    """One client connection. `exchange` is the request being read or answered."""

    __slots__ = (
        "_accepted",
        "_behind",
        "_body_left",
        "_body_open",
        "_closing",
        "_linger_until",
        "_parser",
        "_partial",
        "_reading",
        "_waiting",
        "_waiting_bytes",
        "due",
        "exchange",
        "peer",
        "slot",
        "transport",
        "worker",
        "writable",
    )

    admin: ClassVar = False

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.peer = ""  # address of who is connected
        self.writable = True
        self.due = self.slot = 0
        self._parser = httptools.HttpRequestParser(self)
        self._accepted = False  # llhttp has seen a whole head
        self._partial = b""  # a head of which the end has not come
        self._body_open = False  # the current request is not complete
        self._body_left = 0  # bytes of its body to come; -1: chunked
        self._waiting: list[bytes] | None = None  # what came behind the current request
        self._waiting_bytes = 0
        self._reading = True
        self._behind = False  # something came behind a chunked request, where it can't be kept: close after that one
        self._closing = False
        self._linger_until = 0  # tick

    # --- the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has no subclass
        self.transport = transport
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer = peer[0]
        if self.worker.admit(self):
            self.worker.wheel.arm(self, self.worker.snapshot.patience.keep_alive)
        else:
            self._refuse(503, "gateway_full", "the gateway has as many connections as it may have")

    def connection_lost(self, _exc: Exception | None) -> None:
        self.worker.dismiss(self)
        self.transport = None
        self.due = 0
        self._closing = True
        self._waiting = None
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
        if self._closing:
            self.worker.wheel.arm(self, LINGER_TICKS)
        elif self.exchange is None:
            self.worker.wheel.arm(self, self.worker.snapshot.patience.keep_alive)
        else:
            self.due = 0
            self.exchange.client_writable(True)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._linger()
        elif self.exchange is None:
            if self._waiting is not None:
                self._wait(data)  # its turn is behind what already waits
            elif self._partial or not self._take_known(data):
                self._read_head(data)
        elif self._body_open:
            self._read_body(data)
        else:
            self._wait(data)

    def timed_out(self) -> None:
        if self.transport is None:
            return
        if not self.writable:
            self._reset(self.transport)
        elif self._closing:
            self.transport.abort()
        elif self.exchange is not None:
            if self._body_open:
                self.exchange.refuse(408, "request_timeout", "the request's body did not come in time")
        elif self._partial:
            self._refuse(408, "request_timeout", "the request's head did not come in time", self._partial)
        else:
            self.transport.abort()

    # --- reading

    def _take_known(self, data: bytes) -> bool:
        """A whole request whose head is known: nothing is left for llhttp to judge. False if it is anything else."""
        end = data.find(b"\r\n\r\n")
        known = self.worker.openings.recall(data[:end]) if end > 0 else None
        if known is None or len(data) != end + 4 + known[1]:
            return False
        opening, length = known
        self._body_open = True
        self._body_left = length
        exchange = self.exchange = Exchange(self.worker, self, opening, length)
        exchange.open()
        if length and self.exchange is exchange:
            exchange.body(data[end + 4 :])
        if self.exchange is exchange:
            self._end()
        return True

    def _read_head(self, data: bytes) -> None:
        """Bytes of a head, and perhaps what is behind it. llhttp is fed the head, and not a byte more."""
        if self._partial:
            seen = len(self._partial)
            whole = self._partial + data
        else:
            seen = 0
            whole = data.lstrip(b"\r\n")  # empty lines before a request are allowed
        end = whole.find(b"\r\n\r\n", max(0, seen - 3))
        size = end + 4 if end >= 0 else len(whole)
        if size > MAX_HEAD:
            self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD} bytes", whole)
            self.worker.suspicious(f"a head larger than {MAX_HEAD} bytes", self.peer)
            return
        self._accepted = False
        self._body_left = 0
        upgrade = False
        try:
            self._parser.feed_data(whole[seen:size] if seen or size < len(whole) else whole)
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError as error:
            self._refuse(400, "invalid_request", f"malformed HTTP: {error}", whole)
            self.worker.suspicious(f"malformed head: {error}", self.peer)
            return
        if end < 0:
            if whole and not seen:
                self.worker.wheel.arm(self, self.worker.snapshot.patience.head)
            self._partial = whole
            return
        self._partial = b""
        if not self._accepted:
            self._refuse(400, "invalid_request", "malformed HTTP")
            return
        opening, length = self._find(whole[:end])
        if opening.fault is not None and opening.fault.status in SUSPICIOUS:
            self.worker.suspicious(opening.fault.message, opening.caller(self.peer))
        if upgrade:
            head = opening.head
            self._parser = httptools.HttpRequestParser(self)
            if head.fault is None and b"websocket" not in (head.upgrade or b""):
                # The offer of another protocol is turned down by going on in this one (RFC 9110, 7.8).
                self._read_head(_UPGRADE_LINES.sub(b"", whole[:size]) + whole[size:])
                return
            head.keep_alive = False
        self._open(opening, -1 if opening.head.chunked else length or 0)
        rest = whole[size:]
        if self.exchange is None or not self._body_open:
            if rest and not self._closing:
                self._wait(rest)
        elif rest:
            self._read_body(rest)
        else:
            self.worker.wheel.arm(self, self.worker.snapshot.patience.body)

    def _find(self, raw: bytes) -> tuple[Opening, int | None]:
        return self.worker.openings.find(raw)

    def _read_body(self, data: bytes) -> None:
        left = self._body_left
        behind = b""
        if 0 <= left < len(data):
            data, behind = data[:left], data[left:]
        if left > 0:
            self._body_left -= len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.worker.suspicious(f"malformed body: {error}", self.peer)
            if self.exchange is not None and self._body_open:
                self.exchange.refuse(400, "invalid_request", f"malformed HTTP: {error}")
                return
            self._behind = True
        if self._behind and self.exchange is None:  # answered already: `done` came before what is behind was seen
            if self.transport is not None and not self._closing:
                self._close_gently(self.transport)
        elif behind and not self._closing:
            self._wait(behind)
        elif self._body_open and self._reading and self.exchange is not None:
            self.worker.wheel.arm(self, self.worker.snapshot.patience.body)

    def _wait(self, data: bytes) -> None:
        """Keep what came behind the request being answered; reading goes on, so as to see the client leave."""
        if self._waiting is None:
            self._waiting, self._waiting_bytes = [], 0
            if self.exchange is None:
                self.worker.loop.call_soon(self._go_on)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > WAITING_BYTES:
            self.pause_reading()

    def pause_reading(self) -> None:
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            if self.writable:  # if not, it is timed for taking nothing
                self.due = 0
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            if self._body_open:
                self.worker.wheel.arm(self, self.worker.snapshot.patience.body)
            self.transport.resume_reading()

    # --- llhttp's side

    def on_message_begin(self) -> None:
        if self._body_left < 0:
            self._behind = True

    def on_headers_complete(self) -> None:
        self._accepted = True

    def on_body(self, body: bytes) -> None:
        if self.exchange is not None and self._body_open:
            self.exchange.body(body)

    def on_message_complete(self) -> None:
        if self.exchange is not None and self._body_open:
            self._end()

    # --- requests

    def _open(self, opening: Opening, length: int) -> None:
        """A request begins; one without a body is complete with its head."""
        self._body_open = True
        self._body_left = length
        exchange = self.exchange = Exchange(self.worker, self, opening, length)
        exchange.open()
        if not length and self.exchange is exchange:
            self._end()

    def _end(self) -> None:
        self._body_open = False
        self.due = 0
        assert self.exchange is not None
        self.exchange.end()

    def _refuse(self, status: int, code: str, message: str, seen: bytes = b"") -> None:
        """Refuse what never became a request. seen: its bytes; the first line tells whose protocol to answer in."""
        self._partial = b""
        self._open(self.worker.openings.refused(seen, Fault(status, code, message)), -1)

    def done(self, keep_alive: bool) -> None:
        """The exchange's answer is written. On to the next request, or close."""
        self.exchange = None
        transport = self.transport
        if transport is None:
            return
        if self._body_open or self._behind:
            self._close_gently(transport)
        elif not keep_alive or self.worker.draining:
            self._closing = True
            self.worker.wheel.arm(self, STALL_TICKS)  # the transport waits for ever for a client that takes nothing
            transport.close()
        else:
            self.worker.wheel.arm(self, self.worker.snapshot.patience.keep_alive if self.writable else STALL_TICKS)
            if self._waiting is None:
                self.resume_reading()
            else:
                self.worker.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what came behind the last request."""
        if self._closing or self.exchange is not None or self._waiting is None:
            return
        data = b"".join(self._waiting)
        self._waiting = None
        self.resume_reading()
        self._read_head(data)

    def _close_gently(self, transport: asyncio.Transport) -> None:
        self._closing = True
        self.resume_reading()
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
            self._linger_until = self.worker.wheel.now + LINGER_MOST
            self.worker.wheel.arm(self, LINGER_TICKS if self.writable else STALL_TICKS)
        else:
            transport.close()

    def _linger(self) -> None:
        """What still comes behind a refusal is dropped."""
        if self.transport is None or not self._linger_until:
            return
        if self.worker.wheel.now > self._linger_until:
            self.transport.abort()
        elif self.writable:
            self.worker.wheel.arm(self, LINGER_TICKS)

    def abort(self, ends_with_close: bool) -> None:
        """Break the connection: the answer on it must not look complete. ends_with_close: its end would be the
        connection's, so only a reset tells the difference."""
        self.exchange = None
        self._closing = True
        if self.transport is None:
            return
        if ends_with_close:
            self._reset(self.transport)
        else:
            self.transport.abort()

    def _reset(self, transport: asyncio.Transport) -> None:
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

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


class AdminListener(Listener):
    """One connection to the address of Fluxen's own endpoints."""

    __slots__ = ()
    admin = True

    def _take_known(self, _data: bytes) -> bool:
        return False

    def _find(self, raw: bytes) -> tuple[Opening, int | None]:
        return self.worker.openings.own(raw)
