"""TLS between a client's connection and its listener: bytes of records below, bytes of HTTP above.

The listener is told of the connection when it is accepted, not when the handshake is over, so that what has not said
who it is counts among `max_connections`, too, and is let go of after HANDSHAKE_SECONDS. To the listener this is a
transport like the kernel's: also one whose sending side can be closed alone, so that a refusal reaches a client that is
still sending (the event loop's own TLS has neither).

What one read brings is handed on as one piece, as without TLS. Buffers are those of OpenSSL, and small: ciphertext goes
through them in slices, so that a connection that has once carried much does not hold it for ever.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

from fluxen.gateway.timers import ticks

if TYPE_CHECKING:
    from fluxen.gateway.listener import Listener
    from fluxen.gateway.worker import Worker

HANDSHAKE_SECONDS: Final = 10.0
SLICE: Final = 32 * 1024  # bytes that a buffer of OpenSSL is asked to hold; a record has up to 16 KB
_HANDSHAKE_TICKS: Final = ticks(HANDSHAKE_SECONDS)
_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 44\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS: call it by https://\r\n"
)


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """One connection: a protocol to the transport below, a transport to the listener above."""

    __slots__ = (
        "_above", "_below", "_closing", "_incoming", "_object", "_outgoing", "_shaken", "_worker", "due", "slot",
    )  # fmt: skip

    def __init__(self, worker: Worker, context: ssl.SSLContext, above: Listener) -> None:
        self._worker = worker
        self._above = above
        self._below: asyncio.Transport | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = self._closing = False
        self.due = self.slot = 0

    # --- below

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has no subclass
        self._below = transport
        self._worker.wheel.arm(self, _HANDSHAKE_TICKS)
        self._above.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._below = None
        self._closing = True
        self.due = 0
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def eof_received(self) -> bool:
        if self._shaken:
            self._above.eof_received()
        return False

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._above.data_received(data)  # what still comes is dropped there, in time
        elif len(data) <= SLICE:
            self._incoming.write(data)
            self._take([])
        else:
            pieces: list[bytes] = []
            view = memoryview(data)
            for at in range(0, len(data), SLICE):
                self._incoming.write(view[at : at + SLICE])
                if at + SLICE < len(data) and not self._decrypt(pieces):
                    return
            self._take(pieces)

    def _take(self, pieces: list[bytes]) -> None:
        """Hand on what has come, behind `pieces` that are decrypted already."""
        if self._decrypt(pieces) and pieces:
            self._above.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _decrypt(self, pieces: list[bytes]) -> bool:
        """Read the records that are complete. False when the connection ends here."""
        read, incoming = self._object.read, self._incoming
        try:
            if not self._shaken:
                self._object.do_handshake()
                self._shaken = True
                self.due = 0
            while True:
                data = read(SLICE)
                if not data:
                    return self._goodbye_came(pieces)
                pieces.append(data)
                if not incoming.pending and not self._object.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return self._goodbye_came(pieces)
        except ssl.SSLError as error:
            self._failed(error)
            return False
        if self._outgoing.pending:
            self._flush()
        return True

    def _goodbye_came(self, pieces: list[bytes]) -> bool:
        """The client closes its side: what it said before counts, then it has left."""
        if pieces:
            self._above.data_received(b"".join(pieces))
        if not self._closing:
            self._above.eof_received()
            self.close()
        return False

    def _failed(self, error: ssl.SSLError) -> None:
        """It does not speak TLS, or none that we speak, or not as it should."""
        below = self._below
        if below is None:
            return
        if not self._shaken:
            reason = (error.reason or "unknown").replace("_", " ").lower()
            self._worker.count_refused("tls_handshake_failed", self._above.peer)
            self._worker.log.notice("tls", about=reason, reason=f"no handshake: {reason}", client_ip=self._above.peer)
        self._closing = True
        if error.reason == "HTTP_REQUEST":
            below.write(_PLAIN)
        elif self._outgoing.pending:
            below.write(self._outgoing.read())  # the alert that says why
        below.close()

    def timed_out(self) -> None:
        """No handshake in time."""
        if self._below is not None:
            self._below.abort()

    # --- above

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or self._below is None:
            return
        if not self._shaken:  # a refusal for lack of room: a handshake to deliver it would take what there isn't
            self._below.abort()
            return
        try:
            if len(data) <= SLICE:
                if data:
                    self._object.write(data)
            else:
                view = memoryview(data)
                for at in range(0, len(view), SLICE):
                    self._object.write(view[at : at + SLICE])
                    self._flush()
        except ssl.SSLError as error:
            self._failed(error)
            return
        if self._outgoing.pending:
            self._flush()

    def _flush(self) -> None:
        if self._below is not None:
            self._below.write(self._outgoing.read())

    def close(self) -> None:
        if not self._closing:
            self._say_goodbye()
            if self._below is not None:
                self._below.close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing:
            self._say_goodbye()
            if self._below is not None:
                self._below.write_eof()

    def _say_goodbye(self) -> None:
        """close_notify: without it, what was sent last could have been cut off."""
        self._closing = True
        if self._shaken:
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # the other side's goodbye is not waited for
            if self._outgoing.pending:
                self._flush()

    def abort(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._below is None or self._below.is_closing()

    def pause_reading(self) -> None:
        if self._below is not None:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._below is not None:
            self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        return 0 if self._below is None else self._below.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._object
        return default if self._below is None else self._below.get_extra_info(name, default)
