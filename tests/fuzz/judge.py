"""An HTTP/1.1 parser of our own for the tests: small, slow, strict, and knowing nothing of Fluxen.

What it reads as a request is one without any doubt (RFC 9112): what Fluxen sends on has to be among that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)")
CARRIERS = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")


@dataclass(frozen=True, slots=True)
class Request:
    method: bytes
    target: bytes
    version: int
    """Of HTTP/1.x."""
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    wire: bytes

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def credentials(self) -> list[bytes]:
        """What is presented as a key: one for each header and each `key=` that carries one."""
        found: list[bytes] = []
        for name, value in self.headers:
            if name.lower() == b"authorization":
                scheme, _, rest = value.partition(b" ")
                found.append(rest.strip(b" \t") if scheme.lower() == b"bearer" else b"")
            elif name.lower() in CARRIERS:
                found.append(value)
        _, _, query = self.target.partition(b"?")
        found += [unquote_to_bytes(pair[4:]) for pair in query.split(b"&") if pair.startswith(b"key=")]
        return found


@dataclass(slots=True)
class Reading:
    """Requests at the beginning of a stream, and what is behind them: nothing, an unfinished one, or none."""

    requests: list[Request] = field(default_factory=list)
    rest: str = "nothing"
    """nothing | unfinished | wrong"""
    why: str = ""
    method: bytes = b""
    """What begins there, as far as it can be told: an answer to HEAD has no body even if the rest is malformed."""


class Wrong(Exception):
    """These bytes are no request."""


def read(stream: bytes) -> Reading:
    """All the requests of a connection, one after the other."""
    reading = Reading()
    at = 0
    while True:
        while stream[at : at + 1] in (b"\r", b"\n"):  # empty lines before a request line are to be ignored (2.2)
            at += 1
        if at == len(stream):
            return reading
        try:
            found = _request(stream, at)
        except Wrong as wrong:
            reading.rest, reading.why, reading.method = "wrong", str(wrong), stream[at : at + 20].partition(b" ")[0]
            return reading
        if found is None:
            reading.rest, reading.method = "unfinished", stream[at : at + 20].partition(b" ")[0]
            return reading
        request, at = found
        reading.requests.append(request)


def _request(stream: bytes, at: int) -> tuple[Request, int] | None:
    end = stream.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    first, *lines = stream[at:end].split(b"\r\n")
    start = _LINE.fullmatch(first)
    if start is None:
        raise Wrong(f"request line {first[:60]!r}")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Wrong(f"header {line[:60]!r}")
        headers.append((name, value.strip(b" \t")))
    method, target, minor = start.groups()
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Wrong("framed twice")
    body, after = b"", end + 4
    if codings:
        if codings[0].lower() != b"chunked" or minor == b"0":
            raise Wrong(f"transfer coding {codings[0][:60]!r}")
        chunked = _chunks(stream, after)
        if chunked is None:
            return None
        body, after = chunked
    elif lengths:
        if not re.fullmatch(rb"[0-9]{1,40}", lengths[0]):
            raise Wrong(f"length {lengths[0][:60]!r}")
        size = int(lengths[0])
        if len(stream) < after + size:
            return None
        body, after = stream[after : after + size], after + size
    return Request(method, target, int(minor), tuple(headers), body, stream[at:after]), after


def _chunks(stream: bytes, at: int) -> tuple[bytes, int] | None:
    """(the body, where it ends), trailers skipped; None where its end has not come."""
    body = b""
    while True:
        end = stream.find(b"\r\n", at)
        if end < 0:
            return None
        found = _SIZE.fullmatch(stream[at:end])
        if found is None:
            raise Wrong(f"chunk size {stream[at:end][:60]!r}")
        size, at = int(found[1], 16), end + 2
        if not size:
            break
        if len(stream) < at + size + 2:
            return None
        if stream[at + size : at + size + 2] != b"\r\n":
            raise Wrong("a chunk does not end where it should")
        body, at = body + stream[at : at + size], at + size + 2
    while True:
        end = stream.find(b"\r\n", at)
        if end < 0:
            return None
        line, at = stream[at:end], end + 2
        if not line:
            return body, at
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Wrong(f"trailer {line[:60]!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


def answers(stream: bytes, methods: list[bytes]) -> tuple[list[Answer], bytes]:
    """The final answers at the beginning of a stream to requests of these methods (GET beyond them), and what is
    behind the last whole one. Raises Wrong."""
    found: list[Answer] = []
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        first, *lines = stream[at:end].split(b"\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e]*", first)
        if status is None:
            raise Wrong(f"status line {first[:60]!r}")
        headers: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise Wrong(f"header {line[:60]!r} in an answer")
            headers.append((name, value.strip(b" \t")))
        after = end + 4
        if status[1].startswith(b"1"):
            at = after
            continue
        size = 0
        if not (len(found) < len(methods) and methods[len(found)] == b"HEAD") and status[1] not in (b"204", b"304"):
            lengths = [value for name, value in headers if name.lower() == b"content-length"]
            if len(lengths) != 1 or not lengths[0].isdigit():
                raise Wrong(f"an answer whose end is not known: {headers}")
            size = int(lengths[0])
        if len(stream) < after + size:
            break
        found.append(Answer(int(status[1]), tuple(headers), stream[after : after + size]))
        at = after + size
    return found, stream[at:]
