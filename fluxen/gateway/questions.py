"""What goes between a worker and the counter: questions with what is to be counted, and the counts.

A question goes in pieces, each a message of its own that says whose it is and which, so that whoever begins to listen
in the middle (either process may have died and be another by now) sees that, and drops what has no beginning.
Questions are numbered over all lives of a worker: the first half of a number is drawn at its start.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec

PIECE: Final = 60 * 1024
"""Bytes of a message without its head: less than any system lets one of a socket pair have."""
MOST: Final = 128 * 1024 * 1024
"""Bytes of one question."""
_HEAD: Final = struct.Struct("!QI")  # the question's number, and that of its piece
_NUMBER: Final = struct.Struct("!Q")
HELLO: Final = _NUMBER.pack(0)
"""What the counter says when it begins: what was asked before may not have been heard."""
_BEGUN: Final = b"begun"
LONGEST: Final = _NUMBER.size + 1024
"""Bytes of a count."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
_Error = Annotated[float, msgspec.Meta(ge=0)]


class Question(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an answer that told nothing used. Sizes are those of what follows, in this order."""

    dialect: str
    endpoint: str
    model: str | None
    due: float
    """When nobody will wait for it any more, by time.monotonic (the same for all processes)."""
    request: int
    """Bytes of the request's body; 0 where there is none, it is not here, or its count is known."""
    rough: int
    """Bytes of a body that is not here, and was JSON text."""
    encoding: str | None
    """Of the request's body."""
    head: int
    tail: int
    total: int
    """Bytes of the answer. Those between head and tail are not here."""
    streamed: bool
    warm: bool = False
    """No question: one like it may come."""


class Counted(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The answer. The errors are half the 95 % band, as a part of the counts: of all, and of the output alone."""

    input: _Count
    output: _Count
    reasoning: _Count
    error: _Error
    output_error: _Error


class Task(msgspec.Struct, gc=False):
    """A question that came whole."""

    number: int
    question: Question
    content: bytes

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """The request's body as it was sent, and the head and tail of the answer."""
        question, content = self.question, self.content
        end = question.request
        return content[:end], content[end : end + question.head], content[end + question.head :]


_encode = msgspec.json.Encoder().encode
_decode_question = msgspec.json.Decoder(Question).decode
_decode_counted = msgspec.json.Decoder(Counted).decode


def messages(number: int, question: Question, parts: Sequence[bytes]) -> Iterator[bytes]:
    """A question as it is sent, one message at a time."""
    yield _HEAD.pack(number, 0) + _encode(question)
    piece, room, count = [b""], PIECE, 0
    for part in parts:
        at = 0
        while at < len(part):
            taken = memoryview(part)[at : at + room]
            piece.append(bytes(taken))
            at += len(taken)
            room -= len(taken)
            if not room:
                count += 1
                piece[0] = _HEAD.pack(number, count)
                yield b"".join(piece)
                piece, room = [b""], PIECE
    if room < PIECE:
        piece[0] = _HEAD.pack(number, count + 1)
        yield b"".join(piece)


def counted_message(number: int, counted: Counted | None) -> bytes:
    """A count as it is sent. None: it can't be told."""
    return _NUMBER.pack(number) + (b"" if counted is None else _encode(counted))


def begun_message(number: int) -> bytes:
    """What the counter says before it counts, so that it is known what it died of."""
    return _NUMBER.pack(number) + _BEGUN


def read_begun(message: bytes) -> int | None:
    """The number of the question that is begun, if that is what is said."""
    if len(message) != _NUMBER.size + len(_BEGUN) or not message.endswith(_BEGUN):
        return None
    return int(_NUMBER.unpack_from(message)[0])


def read_counted(message: bytes) -> tuple[int, Counted | None]:
    """The number of a question and its count. What can't be one is none."""
    if len(message) < _NUMBER.size:
        return 1, None  # nobody's: they begin at random
    (number,) = _NUMBER.unpack_from(message)
    try:
        return number, _decode_counted(message[_NUMBER.size :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return number, None


class Incoming:
    """Puts the questions of one worker together, of this life and of later ones."""

    def __init__(self) -> None:
        self._number = 0
        self._question: Question | None = None
        self._pieces: list[bytes] = []
        self._missing = 0

    def take(self, message: bytes) -> Task | None:
        """The question that this message completes. One that is begun and not ended before the next is dropped."""
        if len(message) < _HEAD.size:
            return None
        number, count = _HEAD.unpack_from(message)
        if count == 0:
            try:
                question = _decode_question(message[_HEAD.size :])
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._question = None
                return None
            size = question.request + question.head + question.tail
            self._number, self._question, self._pieces, self._missing = number, question, [], size
            if not 0 <= size <= MOST:
                self._question = None
        elif self._question is not None:
            if number != self._number or count != len(self._pieces) + 1:
                self._question = None
                self._pieces = []
                return None
            self._pieces.append(message[_HEAD.size :])
            self._missing -= len(message) - _HEAD.size
        if self._question is None or self._missing:
            return None
        task = Task(self._number, self._question, b"".join(self._pieces))
        self._question, self._pieces = None, []
        return task
