"""Who takes an exchange's place at its connection for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxen.gateway.head import AnswerHead
from fluxen.gateway.meter import Meter
from fluxen.gateway.upstream import AnswerSink

if TYPE_CHECKING:
    from fluxen.gateway.dispatch import Dispatch


class StandIn(AnswerSink):
    """Hands everything on. Those who derive from it say what they don't."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Dispatch) -> None:
        self._exchange = exchange

    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        return self._exchange.answer_head(status, head, until_eof)

    def answer_data(self, data: bytes) -> None:
        self._exchange.answer_data(data)

    def answer_end(self, data: bytes) -> None:
        self._exchange.answer_end(data)

    def upstream_lost(self, reason: str, unseen: bool) -> None:
        self._exchange.upstream_lost(reason, unseen)

    def upstream_timeout(self) -> None:
        self._exchange.upstream_timeout()

    def upstream_writable(self, writable: bool) -> None:
        self._exchange.upstream_writable(writable)
