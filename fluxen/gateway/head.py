"""Heads of requests and answers: what is forwarded, what is Fluxen's, what is hop-by-hop. Bytes in, values out.

Both are kept as the bytes that came, once llhttp has accepted them: every line then ends with CRLF, has no space
before its colon and is not folded, so that looking for a name at the start of a line finds what any parser finds.

A request's head is a list of lines in the order, case and number they were sent. Three of them are rewritten when the
upstream is known: Host, the credential and the body's framing. Everything that RFC 9110 (7.6.1) calls hop-by-hop is
dropped, and so are the headers that Connection nominates.

An answer's head is relayed line by line as it came, less hop-by-hop headers and an upstream's `x-fluxen-…`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_HEAD: Final = 64 * 1024  # bytes; node allows 16 KB, nginx 32 KB: Codex and Claude Code stay below 8 KB
MAX_HEADERS: Final = 200

FORWARD: Final = 0  # everything Fluxen has no word to say about
CREDENTIAL, HOST, LENGTH, ENCODING, CONNECTION, EXPECT, UPGRADE, TAGS, DROP = range(1, 10)
# Forwarded, and looked at:
CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT, CLIENT_REQUEST_ID, ANTHROPIC_VERSION, ORIGIN, FETCH_SITE = range(10, 17)

_KINDS: Final[dict[bytes, int]] = {
    b"authorization": CREDENTIAL,
    b"x-api-key": CREDENTIAL,
    b"x-goog-api-key": CREDENTIAL,
    b"api-key": CREDENTIAL,
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"x-fluxen-tags": TAGS,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
    b"content-type": CONTENT_TYPE,
    b"content-encoding": CONTENT_ENCODING,
    b"user-agent": USER_AGENT,
    b"x-client-request-id": CLIENT_REQUEST_ID,
    b"anthropic-version": ANTHROPIC_VERSION,
    b"origin": ORIGIN,
    b"sec-fetch-site": FETCH_SITE,
}
_NEVER_NOMINATED: Final = (b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive")


class HeaderKinds(dict[bytes, int]):
    """What to do with a header, by its name as sent. Spellings seen once are remembered (bounded), so that the
    hot path pays one dict hit for a header. `own` is the kind of what begins with x-fluxen-."""

    REMEMBERED = 4096

    def __init__(self, kinds: Mapping[bytes, int], own: int) -> None:
        super().__init__()
        self._kinds = kinds
        self._own = own

    def __missing__(self, name: bytes) -> int:
        low = name.lower()
        kind = self._kinds.get(low, self._own if low.startswith(b"x-fluxen-") else FORWARD)
        if len(self) < self.REMEMBERED and len(name) <= 64:
            self[name] = kind
        return kind


def request_kinds() -> HeaderKinds:
    """What to do with the headers of requests."""
    return HeaderKinds(_KINDS, DROP)


class RequestHead:
    """One request's head, made of bytes that llhttp has accepted (`raw`, without the empty line at its end).

    `fault` is the first reason to refuse the request: (status, code, message).
    """

    __slots__ = (
        "_framing_at",
        "_host_at",
        "chunked",
        "credential",
        "credential_at",
        "credential_name",
        "expects",
        "fault",
        "host",
        "http10",
        "keep_alive",
        "length",
        "lines",
        "method",
        "noted",
        "tags",
        "target",
        "upgrade",
    )

    def __init__(self, raw: bytes, kinds: HeaderKinds) -> None:
        self.fault: tuple[int, str, str] | None = None
        self.http10 = False
        self.keep_alive = True
        self.noted: dict[int, bytes] = {}
        self.host: bytes | None = None
        self.credential: bytes | None = None
        self.credential_name = b""
        self.credential_at = -1
        self.length: int | None = None
        self.chunked = False
        self.expects = False
        self.upgrade: bytes | None = None
        self.tags: bytes | None = None
        self._host_at = self._framing_at = -1
        lines = self.lines = raw.split(b"\r\n")
        start = lines[0].split(b" ")
        if len(start) == 3:
            self.method, self.target, version = start
        else:
            self.method = self.target = version = b""
        nominated: list[bytes] | None = None
        for at, line in enumerate(lines):
            name, _, value = line.partition(b":")
            kind = kinds[name] if at else FORWARD
            if kind:
                value = value.strip(b" \t")
                if kind >= CONTENT_TYPE:
                    if kind <= CONTENT_ENCODING and kind in self.noted:
                        self._refuse(400, "invalid_request", f"{name.decode()} was sent twice")
                    self.noted[kind] = value
                elif kind == CONNECTION:
                    lines[at] = b""
                    low = value.lower()
                    if low != b"keep-alive":
                        if nominated is None:
                            nominated = []
                        nominated += [token.strip(b" \t") for token in low.split(b",")]
                else:
                    self._special(kind, at, name, value)
        self._check(version)
        if nominated is not None:
            self._nominate(nominated)

    def _special(self, kind: int, at: int, name: bytes, value: bytes) -> None:
        """A header that is not for the upstream, or that is rewritten."""
        if kind == CREDENTIAL:
            if self.credential is not None:
                self._refuse(400, "duplicate_credential", "the request carries more than one credential")
            self.credential, self.credential_name, self.credential_at = value, name, at
        elif kind == HOST:
            if self.host is not None:
                self._refuse(400, "invalid_request", "the request has two Host headers")
            self.host, self._host_at = value, at
        elif kind == LENGTH:  # llhttp has refused everything but one run of digits
            self.length, self._framing_at = int(value), at
        elif kind == ENCODING:
            if value.lower() != b"chunked":
                self._refuse(501, "unsupported_transfer_encoding", "only 'Transfer-Encoding: chunked' is supported")
            self.chunked, self._framing_at = True, at
        else:
            self.lines[at] = b""
            if kind == EXPECT:
                if value.lower() != b"100-continue":
                    self._refuse(417, "expectation_failed", "only 'Expect: 100-continue' is supported")
                self.expects = True
            elif kind == UPGRADE:
                self.upgrade = value.lower()
            elif kind == TAGS:
                self.tags = value if self.tags is None else self.tags + b"," + value

    def _check(self, version: bytes) -> None:
        """What all of the head tells."""
        if version != b"HTTP/1.1":
            self.http10 = version == b"HTTP/1.0"
            self.keep_alive = False
            if not self.http10:
                self._refuse(400, "invalid_request", "the request line is not one of HTTP/1.1 or HTTP/1.0")
            elif self.chunked:
                self._refuse(400, "invalid_request", "HTTP/1.0 has no chunked encoding")
        if self.method == b"CONNECT" or not self.target.startswith(b"/"):
            self._refuse(400, "invalid_request", "the request target must be a path")
        elif self.method == b"TRACE":  # it is there to echo heads, the provider's key among them
            self._refuse(405, "method_not_allowed", "TRACE is not forwarded")
        elif self.host is None and not self.http10:
            self._refuse(400, "invalid_request", "the request has no Host header")
        elif len(self.lines) > MAX_HEADERS + 1:
            self._refuse(431, "headers_too_large", f"more than {MAX_HEADERS} headers")

    def _nominate(self, tokens: list[bytes]) -> None:
        """What Connection says: whether to close, and which headers go no further."""
        if b"close" in tokens:
            self.keep_alive = False
        drop = {token for token in tokens if token not in _NEVER_NOMINATED}
        for at, line in enumerate(self.lines):
            if at and line.partition(b":")[0].lower() in drop:
                if at == self.credential_at:
                    self._refuse(400, "invalid_request", "the Connection header names the credential")
                self.lines[at] = b""

    def compiled(
        self, target: bytes, host: bytes, credential: tuple[bytes, bytes] | None, keep_credential: bool, held: bool
    ) -> tuple[bytes, bytes | None]:
        """The head that goes upstream: the bytes before and behind the body's length; (all, None) where it has none.

        credential is (header name, value) or None for none; keep_credential leaves the client's as it is. held: the
        body is sent with its length, even if the client sent it in chunks.
        """
        lines = list(self.lines)
        lines[0] = b"%b %b HTTP/1.1" % (self.method, target)
        if self._host_at < 0:
            lines.append(b"Host: " + host)
        else:
            lines[self._host_at] = lines[self._host_at][:4] + b": " + host
        at = self.credential_at
        if keep_credential:
            pass
        elif credential is None:
            if at >= 0:
                lines[at] = b""
        elif at < 0:
            lines.append(b"%b: %b" % credential)
        else:
            name = self.credential_name
            lines[at] = (name if name.lower() == credential[0] else credential[0]) + b": " + credential[1]
        at = self._framing_at
        if at < 0 or (self.chunked and not held):
            return b"\r\n".join((*filter(None, lines), b"", b"")), None
        name = b"Content-Length" if self.chunked else lines[at].partition(b":")[0]
        before = b"\r\n".join((*filter(None, lines[:at]), name + b": "))
        return before, b"\r\n".join((b"", *filter(None, lines[at + 1 :]), b"", b""))

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.fault is None:
            self.fault = (status, code, message)
        self.keep_alive = False  # what was misread once is not trusted with a second request


def parse_tags(value: bytes) -> dict[str, str] | None:
    """`k=v,…` of x-fluxen-tags; None when it is not of that form, too long, or has more than 16 tags."""
    if len(value) > 1024:
        return None
    tags: dict[str, str] = {}
    for pair in value.decode("latin-1").split(","):
        name, equals, text = pair.partition("=")
        name, text = name.strip(), text.strip()
        if not name or not equals or len(name) > 64 or len(text) > 256 or not (name + text).isprintable():
            return None
        tags[name] = text
    return tags if len(tags) <= 16 else None


ANSWER_TYPE, ANSWER_CODING, ANSWER_LENGTH, ANSWER_ENCODING, ANSWER_ID, ANSWER_CONNECTION, ANSWER_DROP = range(1, 8)

_ANSWER_KINDS: Final[dict[bytes, int]] = {
    b"content-type": ANSWER_TYPE,
    b"content-encoding": ANSWER_CODING,
    b"content-length": ANSWER_LENGTH,
    b"transfer-encoding": ANSWER_ENCODING,
    b"x-request-id": ANSWER_ID,
    b"request-id": ANSWER_ID,
    b"connection": ANSWER_CONNECTION,
    b"keep-alive": ANSWER_DROP,
    b"proxy-connection": ANSWER_DROP,
    b"proxy-authenticate": ANSWER_DROP,
    b"upgrade": ANSWER_DROP,
}


def answer_kinds() -> HeaderKinds:
    """What to do with the headers of answers."""
    return HeaderKinds(_ANSWER_KINDS, ANSWER_DROP)


class AnswerHead:
    """One answer's head, made of bytes that llhttp has accepted (`raw`, without the empty line at its end)."""

    __slots__ = ("_encoding_at", "_lines", "content_encoding", "content_type", "framed", "request_id")

    def __init__(self, raw: bytes, kinds: HeaderKinds) -> None:
        self.content_type = b""
        self.content_encoding: bytes | None = None
        self.request_id: bytes | None = None
        self.framed = False
        """Whether the head says where the body ends. If not, it ends with the connection."""
        self._encoding_at = 0
        lines = self._lines = raw.split(b"\r\n")
        nominated: bytes | None = None
        for at, line in enumerate(lines):
            name, _, value = line.partition(b":")
            kind = kinds[name] if at else FORWARD
            if not kind:
                continue
            if kind == ANSWER_TYPE:
                self.content_type = value.strip().lower()
            elif kind == ANSWER_CODING:
                self.content_encoding = value.strip()
            elif kind == ANSWER_LENGTH:
                self.framed = True
            elif kind == ANSWER_ENCODING:
                self._encoding_at = at
                self.framed = value.rstrip().lower().endswith(b"chunked")
            elif kind == ANSWER_ID:
                self.request_id = value.strip()
            else:
                lines[at] = b""
                if kind == ANSWER_CONNECTION:
                    nominated = value.lower() if nominated is None else nominated + b"," + value.lower()
        if nominated is not None and nominated.strip() not in (b"keep-alive", b"close"):
            drop = {token.strip() for token in nominated.split(b",")}.difference(_NEVER_NOMINATED)
            for at, line in enumerate(lines):
                if at and line.partition(b":")[0].lower() in drop:
                    lines[at] = b""

    @property
    def encoded(self) -> bool:
        """Whether it has a Transfer-Encoding."""
        return self._encoding_at > 0

    def relayed(self, added: bytes, without_encoding: bool) -> bytes:
        """The head for the client: hop-by-hop headers dropped, `added` (whole lines) put last.

        without_encoding also drops Transfer-Encoding, for clients that are sent the decoded body.
        """
        lines = self._lines
        if without_encoding:
            lines[self._encoding_at] = b""
        if lines[0].startswith(b"HTTP/1.0"):
            lines[0] = b"HTTP/1.1" + lines[0][8:]  # a proxy speaks its own version (RFC 9110, 2.5)
        return b"\r\n".join((*filter(None, lines), added, b""))
