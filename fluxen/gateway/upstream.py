"""A connection to an upstream, and the framing of its answers by llhttp.

The bytes of an answer are relayed as they came, chunked framing and all; the parser only tells where the answer
begins and ends, and hands a decoded copy to the meter. Every byte is fed to the parser before it is relayed, so what
llhttp refuses never reaches a client.

A pooled connection may have been closed by the upstream just as the next request was written to it. Such a request
is sent once more on a fresh connection when no byte of an answer came and the kernel says that none of its bytes was
acknowledged: the upstream can't have seen it.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

import httptools

from fluxen.gateway.head import MAX_HEAD, AnswerHead
from fluxen.gateway.meter import Meter
from fluxen.gateway.timers import ticks

if TYPE_CHECKING:
    from fluxen.gateway.pool import Pool

WRITE_BUFFER: Final = 256 * 1024  # bytes of an upload that wait in the transport before the client is held back
JOINED: Final = 64 * 1024  # bytes of a request up to which one copy is cheaper than a vectored write

_BEGINNING: Final = b"HTTP/1."
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")  # llhttp would refuse it, but would not be asked before the head is whole
_BYTES_ACKED: Final = struct.Struct("=120xQ")  # struct tcp_info of Linux: tcpi_bytes_acked, since 4.1


class AnswerSink(Protocol):
    """What a connection reports to, in this order. The exchange."""

    __slots__ = ()

    @abstractmethod
    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        """The head for the client, the meter of the body, and whether the client is sent the decoded body."""

    @abstractmethod
    def answer_data(self, data: bytes) -> None: ...

    @abstractmethod
    def answer_end(self, data: bytes) -> None: ...

    @abstractmethod
    def upstream_lost(self, reason: str, unseen: bool) -> None:
        """The connection broke before the answer's end; `unseen`: the upstream can't have seen the request."""

    @abstractmethod
    def upstream_timeout(self) -> None: ...

    @abstractmethod
    def upstream_writable(self, writable: bool) -> None:
        """The upstream takes bytes again, or not, of an upload in progress."""


class Remainder:
    """What an answer's last bytes are reported to when its client has left at its last word: to nobody. Only the
    connection waits for them, so as to be used again (openai-python leaves at every stream's `[DONE]`)."""

    MOST: Final = 1024  # bytes; more is no remainder
    TICKS: Final = ticks(1.0)

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self._left = self.MOST

    def answer_head(self, _status: int, _head: AnswerHead, _until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        return b"", None, False

    def answer_data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._connection.abandon()

    def answer_end(self, data: bytes) -> None:
        pass

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        pass

    def upstream_timeout(self) -> None:
        self._connection.abandon()

    def upstream_writable(self, writable: bool) -> None:
        pass


class UpstreamConnection(asyncio.Protocol):
    """One connection. It belongs to the pool while idle and to one exchange while in use."""

    __slots__ = (
        "_acked_before",
        "_complete",
        "_decoded",
        "_first_byte",
        "_head",
        "_idle_after",
        "_keep",
        "_meter",
        "_no_body",
        "_over",
        "_parser",
        "_pool",
        "_reused",
        "_sending",
        "_sent",
        "_status",
        "_until_eof",
        "due",
        "exchange",
        "got_byte",
        "slot",
        "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.exchange: AnswerSink | None = None
        self.due = self.slot = 0
        self.got_byte = False
        self._head: bytes | None = None  # the answer's head as far as it has come; None behind it
        self._decoded: list[bytes] | None = None
        self._meter: Meter | None = None
        self._complete = True
        self._keep = False
        self._over = False
        self._no_body = False
        self._until_eof = False
        self._reused = False
        self._sending = False
        self._status = 0
        self._idle_after = self._first_byte = 0
        self._sent = 0
        self._acked_before = 0

    # --- the exchange's side

    def start(
        self, exchange: AnswerSink, parts: list[bytes], no_body: bool, more: bool, first_byte: int, idle: int
    ) -> None:
        """Send a request; what it begets is reported to `exchange`.

        no_body: the request is a HEAD. more: its body goes on with `send`. first_byte and idle are the limits of
        silence in ticks.
        """
        assert self.transport is not None
        self.exchange = exchange
        self.got_byte = False
        self._head = b""
        self._decoded = None
        self._meter = None
        self._complete = self._over = self._until_eof = False
        self._no_body = no_body
        self._sending = more
        self._status = 0
        self._idle_after = idle
        self._first_byte = first_byte
        if self._reused and self._pool.tls is not None:
            self._acked_before = self._acked()
        else:
            self._acked_before = self._sent + 1  # the handshake counts as one byte
        self._pool.wheel.arm(self, first_byte)
        size = sum(map(len, parts))
        self._sent += size
        if size <= JOINED:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)

    def send(self, data: bytes, first_byte: int, last: bool) -> None:
        """More of a request body that is streamed."""
        self._sending = not last
        if self.transport is not None and data:
            self._sent += len(data)
            if self._head is not None:  # the answer has not begun: its time runs from the last byte of the request
                self._pool.wheel.arm(self, first_byte)
            self.transport.write(data)

    def hold(self) -> None:
        """The client does not keep up: read no more for now. The upstream is not to blame for the silence."""
        if self.transport is not None and not self.transport.is_closing():
            self.due = 0
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._pool.wheel.arm(self, self._idle_after if self._head is None else self._first_byte)
            self.transport.resume_reading()

    def release(self) -> None:
        """A fresh connection that nobody needs any more: keep it for the next."""
        self._reused = True  # by then it may be stale
        self._pool.put(self)

    def finish_alone(self) -> None:
        """The client left when all was said: take what is still to come, at once or not at all."""
        self.exchange = Remainder(self)
        self._meter = None
        self._idle_after = Remainder.TICKS
        self.resume()

    def abandon(self) -> None:
        """The exchange is over, the answer is not: close at once, so that the provider stops."""
        self.exchange = self._meter = None
        self.due = 0
        if self.transport is not None:
            self.transport.abort()

    # --- the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has no subclass
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER)
        self._pool.connections.add(self)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_writable(True)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes that nobody asked for: out of step, never to be used again
            self._discard()
            return
        self.got_byte = True
        if self._head is not None:
            whole = self._take_head(self._head + data if self._head else data)
            if whole is None:
                return
            data = whole
            exchange = self.exchange  # another, if nobody wants this answer
            if exchange is None:
                return
            if not self._complete:
                self._pool.wheel.arm(self, self._idle_after)  # may be nearer than the wait for the head was
        else:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                self._break("the upstream's answer is malformed")
                return
            if self._decoded is not None:
                data = b"".join(self._decoded)
                self._decoded.clear()
        if not self._complete:
            self.due = self._pool.wheel.now + self._idle_after
            exchange.answer_data(data)
        elif self._over:
            self._break("the upstream sent more than its answer")
        else:
            self._finish(exchange, data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._head is not None:
            self._read_early_answer()
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        self.due = 0
        if exchange is not None:
            if self._until_eof and exc is None and not self._complete:
                self._complete = True
                exchange.answer_end(b"")
            else:
                exchange.upstream_lost("the upstream closed the connection", self._unseen())
        self.transport = None
        self._meter = None

    def timed_out(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.upstream_timeout()
        elif self.transport is not None:
            self._discard()

    # --- llhttp's side: three calls an answer, one a chunk

    def on_message_begin(self) -> None:
        if self._complete:
            self._over = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._meter is not None:
            self._meter.add(body)
        if self._decoded is not None:
            self._decoded.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

    # --- the steps of an answer

    def _take_head(self, data: bytes) -> bytes | None:
        """Find the answer's head in `data`; what is to be relayed of it, or None: more is needed, or all is over."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                if len(data) > MAX_HEAD:
                    self._break("the upstream's headers are too large")
                elif not data.startswith(_BEGINNING[: len(data)]) or _BARE_LF.search(data):
                    self._break("the upstream does not speak HTTP/1")
                else:
                    self._head = data
                return None
            end += 4
            if data[9:10] != b"1":
                break
            # An interim answer (100 Continue, 103 Early Hints) is between the upstream and us.
            try:
                self._parser.feed_data(data[:end])
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._break("the upstream's answer is malformed")
                return None
            if self._status == 101:
                self._break("the upstream switched protocols unasked")
                return None
            self._status = 0
            data = data[end:]
        self._head = None
        rest = data[end:]
        exchange = self.exchange
        assert exchange is not None
        # The head alone first: it decides what becomes of the body's bytes.
        try:
            self._parser.feed_data(data[:end])
            status = self._status
            if not status:
                self._break("the upstream's answer is malformed")
                return None
            head = AnswerHead(data[: end - 4])
            self._until_eof = not (head.framed or self._no_body or status == 204 or status == 304)
            out, self._meter, decode = exchange.answer_head(status, head, self._until_eof)
            if decode:
                self._decoded = []
            if self._no_body:  # llhttp can't know that this was a HEAD: its parser has had its day
                self._keep = not self._complete and not rest and self._parser.should_keep_alive()
                self._parser = httptools.HttpResponseParser(self)
                self._complete, self._over = True, bool(rest)
                return out
            if rest:
                self._parser.feed_data(rest)
        except httptools.HttpParserError:
            self._break("the upstream's answer is malformed")
            return None
        if self._decoded is not None:
            rest = b"".join(self._decoded)
            self._decoded.clear()
        return out + rest

    def _finish(self, exchange: AnswerSink, data: bytes) -> None:
        self.exchange = self._meter = None
        if self._keep and not self._sending and self.transport is not None and not self.transport.is_closing():
            self._reused = True
            self._pool.put(self)
        else:
            self._discard()
        exchange.answer_end(data)

    def _break(self, reason: str) -> None:
        exchange, self.exchange = self.exchange, None
        self._discard()
        if exchange is not None:
            exchange.upstream_lost(reason, False)

    def _read_early_answer(self) -> None:
        """An upstream that refuses an upload answers and resets the connection. If that is seen by writing, its answer
        still lies unread in the kernel."""
        if self._pool.tls is not None or self.transport is None:
            return
        for _ in range(16):
            try:
                data = os.read(self.transport.get_extra_info("socket").fileno(), 65536)
            except (OSError, ValueError):
                return
            if not data or self.exchange is None:
                return
            self.data_received(data)

    def _discard(self) -> None:
        self.due = 0
        if self.transport is not None:
            self.transport.abort()

    def _unseen(self) -> bool:
        return self._reused and not self.got_byte and self._acked() == self._acked_before

    def _acked(self) -> int:
        """Bytes that the upstream's kernel has acknowledged on this connection, -1 where that can't be told."""
        if self.transport is None or sys.platform != "linux":
            return -1
        pseudo = self.transport.get_extra_info("socket")
        try:
            with socket.socket(fileno=os.dup(pseudo.fileno())) as sock:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        except (OSError, ValueError, AttributeError):
            return -1
        return int(_BYTES_ACKED.unpack(info)[0]) if len(info) == _BYTES_ACKED.size else -1
