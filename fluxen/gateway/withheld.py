"""An answer that is held back until its body says what the provider refuses.

Gemini answers a wrong key with 400, like a wrong request, and only the body tells the two apart; so it is with a field
that a provider does not know (Spliced). It is a few hundred bytes; more is no such refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fluxen.gateway.meter import Meter
from fluxen.gateway.stand_in import StandIn
from fluxen.providers.gemini import refuses_key

if TYPE_CHECKING:
    from fluxen.gateway.dispatch import Dispatch
    from fluxen.gateway.head import AnswerHead
    from fluxen.gateway.opening import Opening
    from fluxen.gateway.routes import Upstream
    from fluxen.gateway.upstream import UpstreamConnection


def withheld(
    exchange: Dispatch, opening: Opening, upstream: Upstream | None, connection: UpstreamConnection | None
) -> Withheld | None:
    """What is to wait for the body of a 400, if that may be a refusal of the key and there are others."""
    if upstream is None or upstream.dialect.name != "gemini" or len(upstream.credentials) < 2:
        return None
    if connection is None or connection.exchange is not exchange or opening.is_head:
        return None  # it has waited already, or there is nothing to wait for
    return Withheld(exchange, connection, lambda said: refuses_key(said) and exchange.key_refused())


class Withheld(StandIn):
    """Takes the exchange's place at the connection."""

    MOST: Final = 16 * 1024  # bytes

    def __init__(self, exchange: Dispatch, connection: UpstreamConnection, goes_on: Callable[[bytes], bool]) -> None:
        """goes_on: given the whole body, says whether the request goes on elsewhere, and nobody needs this answer."""
        super().__init__(exchange)
        self._connection = connection
        self._goes_on = goes_on
        self._status = 0
        self._head: AnswerHead | None = None
        self._until_eof = False
        self._meter: Meter | None = None
        self._body: list[bytes] = []
        self._size = 0

    def takes(
        self, status: int, head: AnswerHead, until_eof: bool, *, http10: bool
    ) -> tuple[bytes, Meter | None, bool]:
        """From here on the answer is ours. Returns as answer_head: nothing is relayed for now. http10: the client can't
        take its framing."""
        self._connection.exchange = self
        self._status, self._head, self._until_eof = status, head, until_eof
        self._meter = Meter(False, head.content_encoding)
        return b"", self._meter, http10 and head.encoded and not until_eof

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
        if not self._goes_on(said):
            self._exchange.answer_end(self._whole() + data)

    def _whole(self) -> bytes:
        """What the client is sent, as far as it is here."""
        assert self._head is not None
        head, _, _ = self._exchange.answer_head(self._status, self._head, self._until_eof)
        return head + b"".join(self._body)
