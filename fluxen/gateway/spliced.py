"""A request whose stream Fluxen asks for its usage although the client did not (`stream_usage: exact`).

Towards the client nothing of it shows but a header and, in the events, what providers add to each (`"usage":null`): the
event with the usage is taken out (Sieve), which is why the framing of such an answer is ours. The meter sees it all.

A provider that does not know the field refuses the request. Then, before the client has seen anything, the same is sent
as the client wrote it, once; if that is taken, so are all later ones, until the configuration is read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fluxen.gateway.head import AnswerHead
from fluxen.gateway.meter import Decoder, Meter, decoder_for
from fluxen.gateway.opening import Forward, Opening
from fluxen.gateway.routes import Upstream
from fluxen.gateway.sieve import Sieve
from fluxen.gateway.splice import ASKED, behind, plain, spliced
from fluxen.gateway.stand_in import StandIn
from fluxen.gateway.withheld import Withheld

if TYPE_CHECKING:
    from fluxen.gateway.dispatch import Dispatch
    from fluxen.gateway.upstream import AnswerSink, UpstreamConnection

DECODED_MOST: Final = 16 * 1024 * 1024  # bytes that one read may decode to; nobody was asked for an encoding
_MALFORMED: Final = (400, 422)
"""What a request is answered that has a field nobody knows."""
_NOT_KNOWN: Final = re.compile(
    rb"stream_options|include_usage|(?:unknown|unrecogni[sz]ed|unexpected|unsupported|extra) (?:\w+ )?"
    rb"(?:field|param|argument|input|propert|key)|additional ?propert|extra_forbidden|extra fields",
    re.IGNORECASE,
)
_BODY: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding|content-encoding):[^\r]*", re.IGNORECASE)
"""The headers that say how a body is to be read."""


class Unasked:
    """The upstreams that refused to be asked. Known to one worker, under one configuration."""

    def __init__(self, notice: Callable[[str, str], None]) -> None:
        """notice: tells people: a kind and a text."""
        self.names: set[str] = set()
        self._notice = notice

    def add(self, upstream: str) -> None:
        if upstream not in self.names:
            self.names.add(upstream)
            self._notice(
                f"unspliced: {upstream}",
                "it does not take stream_options: until the next reload, requests go to it as their clients wrote them",
            )


class Splice:
    """How the usage of one request's stream is asked for.

    asks: whether what is sent does so; not any more, when it was refused.
    """

    __slots__ = ("_left", "asks", "http10", "unasked", "upstream")

    def __init__(self, upstream: str, left: int, unasked: Unasked, *, http10: bool) -> None:
        """left: bytes of the body behind the place of what is added."""
        self.asks = True
        self.http10 = http10
        self._left = left
        self.unasked = unasked
        self.upstream = upstream

    def sent(
        self, exchange: Dispatch, connection: UpstreamConnection, forward: Forward, body: list[bytes], length: int
    ) -> tuple[AnswerSink, Forward, list[bytes], int]:
        """What goes out on this connection, with the length of the body, and who is told of the answer."""
        sink = Asked(exchange, connection, self)
        if not self.asks:
            return sink, forward, body, length
        if forward.plain is None:
            before, after = plain(forward.before, forward.after or b"")
            forward.plain = Forward(before, after, forward.credential)
        return sink, forward.plain, spliced(body, self._left), length + len(ASKED)


def splice_of(opening: Opening, upstream: Upstream, body: bytes, unasked: Unasked) -> Splice | None:
    """How a stream that may be asked for its usage (Opening.askable) is asked; None: the request goes on as it is."""
    if not upstream.exact or upstream.name in unasked.names:
        return None
    left = behind(body)
    return None if left is None else Splice(upstream.name, left, unasked, http10=opening.head.http10)


class Asked(StandIn):
    """Hears the head of an answer, and knows who is to hear the rest."""

    __slots__ = ("_connection", "_splice")

    def __init__(self, exchange: Dispatch, connection: UpstreamConnection, splice: Splice) -> None:
        self._exchange = exchange
        self._connection = connection
        self._splice = splice

    def answer_head(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        connection, exchange, splice = self._connection, self._exchange, self._splice
        if not splice.asks:
            if status < 400:
                splice.unasked.add(splice.upstream)
        elif status in _MALFORMED:
            held = Withheld(exchange, connection, self._goes_on)
            return held.takes(status, head, until_eof, http10=splice.http10)
        elif status < 300 and head.content_type.startswith(b"text/event-stream"):
            try:
                decoder = decoder_for(head.content_encoding)
            except ValueError:
                pass  # it can't be read: it goes on as it is
            else:
                return Sifted(exchange, connection, decoder).takes(status, head, until_eof)
        connection.exchange = exchange
        return exchange.answer_head(status, head, until_eof)

    def _goes_on(self, said: bytes) -> bool:
        """The whole body of a refusal: whether the request goes on as its client wrote it."""
        if _NOT_KNOWN.search(said) is None:
            return False
        self._splice.asks = False
        return self._exchange.repeat()


class Sifted(StandIn):
    """Takes the place of both for a stream of which an event is kept back. The exchange hears of bytes for the client,
    in the framing that the client can take."""

    __slots__ = ("_chunked", "_connection", "_decoder", "_head", "_sieve", "_simple")

    def __init__(self, exchange: Dispatch, connection: UpstreamConnection, decoder: Decoder | None) -> None:
        super().__init__(exchange)
        self._connection = connection
        self._decoder = decoder
        self._sieve = Sieve()
        self._head = b""
        self._chunked = False
        self._simple = False
        """From now on there is nothing to do but to take out and to frame."""

    def takes(self, status: int, head: AnswerHead, until_eof: bool) -> tuple[bytes, Meter | None, bool]:
        """From here on the answer is ours. Returns what is relayed for now, the body's meter, and that it is wanted
        without its framing."""
        self._connection.exchange = self
        framed = _Head(head, until_eof)
        self._head, meter, bare = self._exchange.answer_head(status, framed, until_eof)
        self._chunked = not (until_eof or bare)
        return b"", meter, True

    def answer_data(self, data: bytes) -> None:
        if self._simple:
            out = self._sieve.feed(data)
            if out:
                self._exchange.answer_data(b"%x\r\n%b\r\n" % (len(out), out))
            return
        ready = self._ready(data)
        if ready is None:
            self._connection.abandon()
            self._exchange.upstream_lost("the upstream's Content-Encoding can't be undone", False)
        elif ready:
            self._exchange.answer_data(ready)

    def answer_end(self, data: bytes) -> None:
        ready = self._ready(data, last=True)
        if ready is None:
            self._exchange.upstream_lost("the upstream's Content-Encoding can't be undone", False)
        else:
            self._exchange.answer_end(ready + b"0\r\n\r\n" if self._chunked else ready)

    def _ready(self, data: bytes, last: bool = False) -> bytes | None:
        """What the client gets now; None when that can't be told."""
        if self._decoder is not None:
            decoded = _decoded(self._decoder, data)
            if decoded is None:
                return None
            data = decoded
        out = self._sieve.feed(data)
        if last:
            out += self._sieve.end()
        if out and self._chunked:
            out = b"%x\r\n%b\r\n" % (len(out), out)
        if self._head:
            out, self._head = self._head + out, b""
            self._simple = self._chunked and self._decoder is None
        return out


class _Head(AnswerHead):
    """The head of a stream of which an event is kept back: the framing of its body is ours, and it is not encoded."""

    __slots__ = ("_chunked",)

    def __init__(self, head: AnswerHead, until_eof: bool) -> None:
        for name in AnswerHead.__slots__:  # what is known of it need not be found out again
            setattr(self, name, getattr(head, name))
        self._chunked = not until_eof
        self._cuts = [*self._cuts, *(found.span() for found in _BODY.finditer(self._raw))]

    @property
    def encoded(self) -> bool:
        return True

    def relayed(self, added: bytes, without_encoding: bool) -> bytes:
        chunked = b"Transfer-Encoding: chunked\r\n" if self._chunked and not without_encoding else b""
        return super().relayed(chunked + added, without_encoding)


def _decoded(decoder: Decoder, data: bytes) -> bytes | None:
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in decoder.feed(data):
            size += len(piece)
            if size > DECODED_MOST:
                return None
            pieces.append(piece)
    except ValueError:
        return None
    return b"".join(pieces)
