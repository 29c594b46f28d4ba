"""An answer that does not tell what was used, or broke off before it did: it is counted, and its row waits for that.

What is counted is what was asked and what of the answer came. So a request is held on to while it is answered, as far
as KEPT goes, and of a stream that will not tell, more is kept. The counting is the counter's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from fluxen.gateway.accountant import told_input
from fluxen.gateway.dispatch import Dispatch
from fluxen.gateway.questions import Counted, Question
from fluxen.ledger.record import End

if TYPE_CHECKING:
    from fluxen.analyzer.usage import Reading
    from fluxen.gateway.meter import Meter

KEPT: Final = 32 * 1024 * 1024
"""Bytes that a worker holds on to while requests are answered. Of bodies beyond that only the length is known."""
SMALL: Final = 4 * 1024
"""A body that is held on to in any case."""
TINY: Final = 512
"""A larger one is compressed while a stream is relayed, which may be open for long, and idle."""
_NO_TEXT: Final = (b";base64,", b'"input_audio"', b'"inlineData"', b'"bytes"')
"""In a body of which the length tells nothing."""
LONG_HEAD: Final = 128 * 1024
"""Bytes kept of the beginning of a stream that will not tell its usage: mostly all of it."""
ASKED: Final = b"include_usage"
SILENT: Final = "/completions"
"""What endpoints end in whose streams tell the usage only where they are asked to."""


class Silent(Dispatch):
    """A request that may have to be counted."""

    __slots__ = ("_encoding", "_end", "_rough")

    _encoding: bytes | None
    """Of the body that is held on to, if it is not that with which it came."""
    _end: End | None
    """The row, while what is missing is counted."""
    _rough: int
    """Bytes of a body that could not be held on to, if it was text; else 0."""

    @abstractmethod
    def _completed(self, end: End) -> None:
        """The row has waited, and nothing is to be added to it any more."""

    def _prepare(self, meter: Meter) -> None:
        """A stream begins, which may end without a word of what was used."""
        begin, worker = self._begin, self._worker
        if begin is None or worker.accountant.input_told_first(begin):
            self._let_go_of_body()
            return
        body, endpoint = self._body, begin.endpoint or ""
        if self._reserved > SMALL:
            self._hold_on()
        elif self._reserved > TINY and body and self._opening.content_encoding is None:
            self._pack(body)
        asked = self._splice is not None and self._splice.asks
        if asked or not body or not endpoint.endswith(SILENT) or any(ASKED in piece for piece in body):
            return
        worker.counting.warm(begin.dialect or "", endpoint, begin.model_asked)
        if self._body is not None and worker.kept_bytes + LONG_HEAD <= KEPT:
            meter.keep_more(LONG_HEAD)
            worker.kept_bytes += LONG_HEAD
            self._kept += LONG_HEAD

    def _pack(self, body: list[bytes]) -> None:
        """Hold on to less."""
        packed = bytes(memoryview(self._worker.counting.pack(b"".join(body))))  # a copy: that has room for a larger one
        if len(packed) < self._reserved:
            self._worker.body_bytes -= self._reserved - len(packed)
            self._reserved = len(packed)
            self._body, self._encoding = [packed], b"zstd"

    def _hold_on(self) -> None:
        """The answer begins: keep the body nevertheless, for it may have to be counted."""
        worker, size, body = self._worker, self._reserved, self._body
        if worker.kept_bytes + size <= KEPT:
            worker.kept_bytes += size
            self._kept += size
            return
        text = body is not None and not any(sign in piece for piece in body for sign in _NO_TEXT)
        self._rough = size if text and self._opening.content_encoding is None else 0
        self._let_go_of_body()

    def _counts(self, end: End, *, complete: bool) -> bool:
        """Have the counter asked for what is missing of a row. False: it stays as it is, for nobody can tell."""
        assert self._uncounted is not None
        asked = self._question(end, self._uncounted, complete)
        if asked is None or not self._worker.counting.ask(*asked, self._counted):
            return False
        self._end = end
        self._let_go_of_body()
        return True

    def _question(self, end: End, reading: Reading, complete: bool) -> tuple[Question, list[bytes]] | None:
        """What is to be counted for a row, and the bytes; None where that can't be known. complete: the answer's end
        came. What is counted is what was asked and what of the answer came: of a broken stream that is all there is,
        of any other answer that is broken nobody knows what else was made of it."""
        meter, opening = self._meter, self._opening
        if meter is None or meter.failed or not self._answering or not 200 <= self._status < 300:
            return None
        whole = complete or meter.ended()
        if not (whole or meter.streamed):
            return None
        stopped = meter.streamed and reading.finish is None  # an error in its midst can be the end of a stream, too
        if not self._worker.accountant.countable(end, reading, whole=whole and not stopped):
            return None
        told = told_input(reading.usage)
        body = self._body if opening.held and not told else None
        if body is None and not told and self._length and not self._rough:
            return None
        size = sum(map(len, body)) if body else 0
        coding = self._encoding or opening.content_encoding
        encoding = None if coding is None else coding.decode("latin-1")
        head, tail = meter.head(), meter.tail()
        question = Question(
            end.dialect or "", end.endpoint or "", reading.model or end.model_asked, 0.0, size,
            0 if told else self._rough, encoding, len(head), len(tail), meter.total, meter.streamed,
        )  # fmt: skip
        return question, [*(body or ()), head, tail]

    def _counted(self, counted: Counted | None) -> None:
        """Here is the count, or there is none."""
        end, reading = self._end, self._uncounted
        assert end is not None
        assert reading is not None
        if counted is not None:
            self._worker.accountant.estimated(end, self._upstream, reading, counted)
        self._completed(end)
