"""A form (multipart/form-data) that is passed on as it comes, read on its way. Pure: bytes in, what they say out.

Its model must stand before the first file and near the beginning; nothing is sent on before it is known. Later parts
are watched: what another parser could take for a second model, or for the border of a part, ends the request before its
end, so that nobody behind us ever has the whole of it. So only one spelling of a form passes, that which clients write:
lines end with CRLF, the boundary is nowhere but at borders, a part has one plain name and at most a file's name.
"""

from __future__ import annotations

import re
from typing import Final

from fluxen.gateway.admission import Fault
from fluxen.gateway.kin import KIN, MORE_MODELS, Names, Refused, ambiguous, folded
from fluxen.gateway.strict import Strict

BEGINNING: Final = 64 * 1024  # bytes in which the model must come
HEADERS: Final = 4096  # bytes of the headers of one part
VALUE: Final = 512  # bytes of a value that is looked at

_TYPE: Final = re.compile(
    rb"multipart/form-data[ \t]*;[ \t]*boundary=(?:\"([a-z0-9'()+_,./:=?-]{8,70})\"|([a-z0-9'+_.-]{8,70}))"
    rb"(?:[ \t]*;[ \t]*charset=\"?utf-?8\"?)?",
    re.IGNORECASE,
)
_DISPOSITION: Final = re.compile(
    rb"form-data[ \t]*;[ \t]*name=(?:\"([A-Za-z0-9_.\[\]-]{1,128})\"|([A-Za-z0-9_.-]{1,128}))"
    rb"((?:[ \t]*;[ \t]*filename(?:\*=[A-Za-z0-9!#$&+.^_`|~%'-]*|=(?:\"[^\"\\\r\n;]*\"|[A-Za-z0-9_.-]+))){0,2})",
    re.IGNORECASE,
)
_PLAIN_TYPE: Final = re.compile(rb"text/plain(?:[ \t]*;[ \t]*charset=\"?(?:utf-?8|us-ascii)\"?)?", re.IGNORECASE)
_HEADER: Final = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([^\r\n\0]*)")
_TEXT_HEADERS: Final = {b"content-disposition", b"content-type", b"content-length"}
_MODELS: Final = frozenset(map(folded, MORE_MODELS))
_NO_MODEL: Final = Fault(
    400, "ambiguous_request", "this key is restricted: a form must say its model, and before the first file"
)
_CUT_OFF: Final = Fault(400, "ambiguous_request", "this key is restricted: a form must not end in a part's headers")


class Form:
    """One form. `model` and `stream` are None until they are known."""

    __slots__ = (
        "_border", "_closed", "_kept", "_names", "_part", "_rest", "_size", "_started", "_strict", "_value", "model",
        "stream",
    )  # fmt: skip

    def __init__(self, strict: Strict, content_type: bytes) -> None:
        """content_type as it stands in the head. Raises Refused."""
        found = _TYPE.fullmatch(content_type)
        if found is None:
            raise ambiguous("a body in parts must be multipart/form-data, its boundary written plainly")
        self._strict = strict
        self._border = b"--" + (found[1] or found[2])
        self._rest = bytearray(b"\r\n")  # as if a line had ended before the first border
        self._names = Names()
        self._part: str | None = None  # whose value this part is, "" for nobody's; None: its headers are to come
        self._value = bytearray()
        self._started = self._closed = False
        self._size = 0
        self._kept = b""  # let in, and not sent on yet
        self.model: str | None = None
        self.stream: bool | None = None

    def feed(self, chunk: bytes) -> Fault | None:
        """Take in the next piece of the body. A Fault: neither it nor anything behind it may be sent on."""
        try:
            if self.model is None and self._size + len(chunk) > BEGINNING:
                beginning = BEGINNING - self._size
                if self._read(chunk[:beginning]) is None:
                    raise ambiguous(f"the model must come within the first {BEGINNING // 1024} KB of a form")
                chunk = chunk[beginning:]
            self._read(chunk)
        except Refused as refused:
            return refused.fault
        return None

    def released(self, chunk: bytes) -> bytes:
        """What may be sent on, now that `feed` has let this piece pass: all that has come and was not sent, but for the
        headers of a part of which the end has not come. Whoever reads carelessly would take them for complete if the
        body ended here."""
        whole = self._kept + chunk
        ready = len(whole) - len(self._rest) if self._in_headers else len(whole)
        self._kept = whole[ready:]
        return whole[:ready]

    def end(self) -> Fault | None:
        """Why the body must not end here: its model has not come, or something was kept back."""
        return _NO_MODEL if self.model is None else _CUT_OFF if self._in_headers else None

    @property
    def _in_headers(self) -> bool:
        return self._started and not self._closed and self._part is None

    def _read(self, piece: bytes) -> str | None:
        """Take in a piece; gives back the model if it is known by then."""
        self._rest += piece
        self._size += len(piece)
        while self._step():
            pass
        return self.model

    def _step(self) -> bool:
        """Go on behind the next border, or the headers of a part; False where more bytes are needed."""
        rest, border = self._rest, self._border
        if self._closed:
            if not b"\r\n".startswith(rest):
                raise ambiguous("something comes behind the end of the form")
            return False
        if self._started and self._part is None:
            return self._read_headers()
        at, size = rest.find(border), len(border)
        if at < 0:
            kept = size + 1  # the border may be here but for its last byte, with the line's end before it
            if not self._started and len(rest) > kept:
                raise ambiguous("a form begins with its boundary")
            self._take(rest[:-kept])
            del rest[:-kept]
            return False
        behind = bytes(rest[at + size : at + size + 2])
        if len(behind) < 2:
            return False
        if rest[max(0, at - 2) : at] != b"\r\n" or behind not in (b"\r\n", b"--") or not (self._started or at == 2):
            raise ambiguous("the boundary of a form stands where no part ends")
        self._take(rest[: at - 2])
        self._end_part()
        self._started, self._closed = True, behind == b"--"
        del rest[: at + size + 2]
        return True

    def _read_headers(self) -> bool:
        rest = self._rest
        end = rest.find(b"\r\n\r\n")
        if max(end, len(rest) if end < 0 else 0) > HEADERS:
            raise ambiguous("the headers of a part are too long")
        if end < 0:
            return False
        block = bytes(rest[:end])
        del rest[: end + 4]
        headers: dict[bytes, bytes] = {}
        for line in block.split(b"\r\n"):
            header = _HEADER.fullmatch(line)
            if header is None or header[1].lower() in headers:
                raise ambiguous("the headers of a part are odd")
            headers[header[1].lower()] = header[2].rstrip(b" \t")
        found = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
        if found is None or self._border in block:
            raise ambiguous("a part of a form has no plain name")
        encoded = headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoded not in (b"binary", b"7bit", b"8bit"):
            raise ambiguous("a part of a form must not be encoded")
        self._begin_part((found[1] or found[2]).decode("ascii"), bool(found[3]), headers)
        return True

    def _begin_part(self, name: str, is_file: bool, headers: dict[bytes, bytes]) -> None:
        part = self._names.see(name, again=True)
        if name.partition("[")[0] in KIN and "[" in name:
            raise ambiguous("what policy goes by is no list")
        if part in _MODELS or name.lower() == "_charset_":
            raise ambiguous(f"a form must not say {name}")
        if is_file:
            if self.model is None:
                raise Refused(_NO_MODEL)
            if part:
                raise ambiguous(f"{name} must not be a file")
        elif part:
            kind = headers.get(b"content-type", b"text/plain")
            if _PLAIN_TYPE.fullmatch(kind) is None or not headers.keys() <= _TEXT_HEADERS:
                raise ambiguous(f"{name} must be plain text")
        self._part = part
        self._value.clear()

    def _take(self, data: bytearray) -> None:
        """A piece of the part's value."""
        if self._part == "model" or self._part == "stream":
            self._value += data
            if len(self._value) > VALUE:
                raise ambiguous(f"{self._part} is too long")

    def _end_part(self) -> None:
        value = bytes(self._value)
        if self._part == "model":
            model = value.decode("latin-1")
            self._strict.allow(model)
            self.model = model
        elif self._part == "stream":
            self.stream = {b"true": True, b"false": False}.get(value.lower())
        self._part = None
