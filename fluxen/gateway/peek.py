"""A look into a held request body: which model, streamed or not. The body itself is never changed."""

from __future__ import annotations

import msgspec

from fluxen.gateway.meter import decode_whole


class Peek(msgspec.Struct, gc=False):
    """What routing and the ledger need of a body. Both are None where the body does not say."""

    model: str | None = None
    stream: bool | None = None


class _Loose(msgspec.Struct, gc=False):
    model: msgspec.Raw = msgspec.Raw(b"null")
    stream: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(Peek).decode
_decode_loose = msgspec.json.Decoder(_Loose).decode
NOTHING = Peek()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def peek(body: bytes, encoding: bytes | None, limit: int) -> Peek:
    """Model and stream of a JSON body. A body that is not JSON, or not decodable within `limit` bytes, says nothing:
    it passes untouched, and the upstream judges it."""
    if encoding is not None:
        try:
            body = decode_whole(body, encoding, limit)
        except ValueError:
            return NOTHING
    try:
        return _decode(body)
    except msgspec.ValidationError:
        return _peek_loosely(body)
    except _UNREADABLE:
        return NOTHING


def _peek_loosely(body: bytes) -> Peek:
    """A body whose `model` or `stream` is of another type: take the one that is of the right type."""
    try:
        loose = _decode_loose(body)
    except _UNREADABLE:
        return NOTHING
    model, stream = _value(loose.model), _value(loose.stream)
    return Peek(model if isinstance(model, str) else None, stream if isinstance(stream, bool) else None)


def _value(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except _UNREADABLE:  # a number out of range, for one: skipped over it is fine, taken alone it is not
        return None
