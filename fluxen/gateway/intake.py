"""A request's body on its way in: held until it is whole, within the memory there is, or passed on piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fluxen.gateway.admission import Fault
from fluxen.gateway.row import Row

if TYPE_CHECKING:
    from fluxen.gateway.upstream import UpstreamConnection

PIECES: Final = 512  # of a held body, until they are joined


class Intake(Row):
    """The body of one request, and where it goes."""

    __slots__ = ("_body", "_connection", "_kept", "_length", "_loose", "_reserved")

    _body: list[bytes] | None
    """Its pieces as far as they are here; None when nobody needs them any more."""
    _connection: UpstreamConnection | None
    _kept: int
    """Bytes of silent.KEPT that are this one's."""
    _length: int
    """-1 when it comes in chunks."""
    _loose: int
    """Pieces since the last were joined."""
    _reserved: int
    """Bytes of the memory for bodies that are this one's."""

    def _hold(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body.append(chunk)
            self._loose += 1
            if self._loose == PIECES:  # each is an object: chunks of two bytes would take thirty times their length
                self._body[-PIECES:] = [b"".join(self._body[-PIECES:])]
                self._loose = 0

    def _make_room(self, size: int) -> Fault | None:
        """Reserve memory for a body of `size` bytes, or say why there is none."""
        worker, snapshot = self._worker, self._opening.snapshot
        if size > snapshot.max_body:
            return Fault(413, "request_too_large", f"the request body is larger than {snapshot.max_body} bytes")
        if worker.body_bytes + size - self._reserved > snapshot.body_memory:
            return Fault(503, "body_memory_full", "the gateway holds as many bodies as it may")
        worker.body_bytes += size - self._reserved
        self._reserved = size
        return None

    def _let_go_of_body(self) -> None:
        if self._reserved:
            self._worker.body_bytes -= self._reserved
            self._reserved = 0
            if self._kept:
                self._worker.kept_bytes -= self._kept
                self._kept = 0
        self._body = None

    @property
    def _repeatable(self) -> bool:
        """Whether the request can be sent once more: it is here as a whole, and nothing of an answer was passed on."""
        return self._body is not None and (self._opening.held or not self._length)

    def _pass_on(self, chunk: bytes, last: bool) -> None:
        """A piece of a body that is not held: at once to the upstream, as fast as it takes them. The last is empty."""
        connection, upstream = self._connection, self._upstream
        if connection is None:
            if self._body is not None and chunk:
                self._body.append(chunk)
            if not last:
                self._client.pause_reading()  # until there is a connection
        elif upstream is not None:
            connection.send(self._framed(chunk), upstream.first_byte_ticks, last)

    def _framed(self, piece: bytes) -> bytes:
        """A piece of a passed-on body as it goes upstream; the empty piece ends a chunked body."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._length < 0 else piece

    def upstream_writable(self, writable: bool) -> None:
        if self._opening.held or self._t_complete:
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
