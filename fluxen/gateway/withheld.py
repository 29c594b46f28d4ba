"""An answer that is held back until its body says whether the provider refuses the key.

Gemini answers a wrong key with 400, like a wrong request, and only the body tells the two apart. It is a few hundred
bytes; more is no such refusal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fluxen.gateway.meter import Meter
from fluxen.providers.gemini import refuses_key

if TYPE_CHECKING:
    from fluxen.gateway.exchange import Exchange
    from fluxen.gateway.head import AnswerHead
    from fluxen.gateway.opening import Opening
    from fluxen.gateway.routes import Upstream
    from fluxen.gateway.upstream import UpstreamConnection


def withheld(
    exchange: Exchange, opening: Opening, upstream: Upstream | None, connection: UpstreamConnection | None
) -> Withheld | None:
    """What is to wait for the body of a 400, if that may be a refusal of the key and there are others."""
    if upstream is None or upstream.dialect.name != "gemini" or len(upstream.credentials) < 2:
        return None
    if connection is None or connection.exchange is not exchange or opening.is_head or opening.head.http10:
        return None  # it has waited already, or there is nothing to wait for
    return Withheld(exchange, connection)


class Withheld:
    """Takes the exchange's place at the connection."""

    MOST: Final = 16 * 1024  # bytes

    def __init__(self, exchange: Exchange, connection: UpstreamConnection) -> None:
        self._exchange = exchange
        self._connection = connection
        self._head: AnswerHead | None = None
        self._until_eof = False
        self._meter: Meter | None = None
        self._body: list[bytes] = []
        self._size = 0

    def takes(self, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        """From here on the answer is ours. Returns what is relayed of its head for now, and what its body is shown."""
        self._connection.exchange = self
        self._head, self._until_eof = head, until_eof
        self._meter = Meter(False, head.content_encoding)
        return b"", self._meter, False

    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        return self._exchange.answer_head(status, head, until_eof)

    def answer_data(self, data: bytes) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > self.MOST:
            whole = self._whole()
            self._connection.exchange = self._exchange
            self._exchange.answer_data(whole)

    def answer_end(self, data: bytes) -> None:
        meter = self._meter if self._size + len(data) <= self.MOST else None
        said = b"" if meter is None else meter.head()
        if not (refuses_key(said) and self._exchange.key_refused()):
            self._exchange.answer_end(self._whole() + data)

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        self._exchange.upstream_lost(reason, unseen)

    def upstream_timeout(self) -> None:
        self._exchange.upstream_timeout()

    def upstream_writable(self, writable: bool) -> None:
        self._exchange.upstream_writable(writable)

    def _whole(self) -> bytes:
        """What the client is sent, as far as it is here."""
        assert self._head is not None
        head, _, _ = self._exchange.answer_head(400, self._head, self._until_eof)
        return head + b"".join(self._body)
