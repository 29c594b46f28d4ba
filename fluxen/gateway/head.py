"""Heads of requests and answers: what is forwarded, what is Fluxen's, what is hop-by-hop. Bytes in, values out.

Both are kept as the bytes that came, once llhttp has accepted them: every line then ends with CRLF, has no space
before its colon and is not folded, so that looking for a name at the start of a line finds what any parser finds.

A request's head is a list of lines in the order, case and number they were sent. Three of them are rewritten when the
upstream is known: Host, the credential and the body's framing. Everything that RFC 9110 (7.6.1) calls hop-by-hop is
dropped, and so are the headers that Connection nominates.

An answer's head is relayed byte for byte, less hop-by-hop headers and an upstream's `x-fluxen-…`.
"""

from __future__ import annotations

import re
from typing import Final

from fluxen.providers.bedrock import COUNTS

MAX_HEAD: Final = 64 * 1024  # bytes; node allows 16 KB, nginx 32 KB: Codex and Claude Code stay below 8 KB
MAX_HEADERS: Final = 200

FORWARD: Final = 0  # everything Fluxen has no word to say about
CREDENTIAL, HOST, LENGTH, ENCODING, CONNECTION, EXPECT, UPGRADE, TAGS, DROP = range(1, 10)
# Forwarded, and looked at:
CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT, CLIENT_REQUEST_ID, ANTHROPIC_VERSION, ORIGIN, FETCH_SITE = range(10, 17)
PROXIED: Final = 17
FORWARDED_FOR: Final = 18

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
    b"forwarded": PROXIED,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-real-ip": PROXIED,
}
_NEVER_NOMINATED: Final = (b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive")


class HeaderKinds(dict[bytes, int]):
    """What to do with a request's header, by its name as sent. Spellings seen once are remembered (bounded), so that
    a header costs one dict hit."""

    REMEMBERED = 4096

    def __missing__(self, name: bytes) -> int:
        low = name.lower()
        kind = _KINDS.get(low)
        if kind is None:
            kind = DROP if low.startswith(b"x-fluxen-") else PROXIED if low.startswith(b"x-forwarded-") else FORWARD
        if len(self) < self.REMEMBERED and len(name) <= 64:
            self[name] = kind
        return kind


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
                    if kind in self.noted:
                        if kind <= CONTENT_ENCODING:
                            self._refuse(400, "invalid_request", f"{name.lower().decode()} was sent twice")
                        elif kind == FORWARDED_FOR:  # one list, in as many lines as there are proxies
                            value = b"%b,%b" % (self.noted[kind], value)
                    if kind == FORWARDED_FOR:
                        self.noted[PROXIED] = value
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
        # llhttp takes a bare line feed for the end of an HTTP/0.9 request line: what follows would be a header to it.
        if self.method == b"CONNECT" or not self.target.startswith(b"/") or b"\n" in self.target:
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


# All that Fluxen looks at in an answer's head, found in one pass over it: five times faster than line by line.
_LOOKED_AT: Final = re.compile(
    rb"\r\n(content-type|content-encoding|content-length|transfer-encoding|x-request-id|request-id"
    rb"|connection|keep-alive|proxy-connection|proxy-authenticate|upgrade|x-fluxen-[^:]*|x-amzn-bedrock-[^:]*-count"
    rb"):([^\r]*)"
)


class AnswerHead:
    """One answer's head, made of bytes that llhttp has accepted (`raw`, without the empty line at its end)."""

    __slots__ = ("_cuts", "_encoding", "_raw", "content_encoding", "content_type", "counts", "framed", "request_id")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw if raw.startswith(b"HTTP/1.1") else b"HTTP/1.1" + raw[8:]  # a proxy speaks its own version
        self._cuts: list[tuple[int, int]] = []
        self._encoding: list[tuple[int, int]] = []
        self.content_type = b""
        """In lower case."""
        self.content_encoding: bytes | None = None
        self.request_id: bytes | None = None
        self.counts: bytes | None = None
        """What was used, as a usage object of JSON, where the head tells it: some of Bedrock's bodies don't."""
        self.framed = False
        """Whether the head says where the body ends. If not, it ends with the connection."""
        nominated = b""
        low = raw.lower()
        for found in _LOOKED_AT.finditer(low):
            name, value = found.groups()
            if name == b"content-type":
                self.content_type = value.strip()
            elif name == b"content-length":
                self.framed = True
            elif name == b"x-request-id" or name == b"request-id":
                self.request_id = raw[found.start(2) : found.end(2)].strip()
            elif name == b"content-encoding":
                self.content_encoding = value.strip()
            elif name == b"transfer-encoding":
                self._encoding.append(found.span())
                self.framed = value.rstrip().endswith(b"chunked")
            elif name in COUNTS:
                self._count(COUNTS[name], value.strip())
            elif name.startswith(b"x-amzn"):
                pass
            else:
                self._cuts.append(found.span())
                if name == b"connection":
                    nominated += value + b","
        if nominated and nominated.strip(b" ,") not in (b"keep-alive", b"close"):
            self._cut_nominated(low, nominated)

    def _count(self, field: bytes, value: bytes) -> None:
        if value.isdigit():
            before = b"{" if self.counts is None else self.counts[:-1] + b","
            self.counts = b'%b"%b":%b}' % (before, field, value.lstrip(b"0") or b"0")

    def _cut_nominated(self, low: bytes, tokens: bytes) -> None:
        for name in {token.strip() for token in tokens.split(b",")}.difference((b"", *_NEVER_NOMINATED)):
            line = re.compile(rb"\r\n" + re.escape(name) + rb":[^\r]*")
            self._cuts += [found.span() for found in line.finditer(low)]

    @property
    def encoded(self) -> bool:
        """Whether it has a Transfer-Encoding."""
        return bool(self._encoding)

    def relayed(self, added: bytes, without_encoding: bool) -> bytes:
        """The head for the client: hop-by-hop headers dropped, `added` (whole lines) put last.

        without_encoding also drops Transfer-Encoding, for clients that are sent the decoded body.
        """
        raw, cuts = self._raw, self._cuts + self._encoding if without_encoding else self._cuts
        if len(cuts) == 1:
            start, end = cuts[0]
            return b"%b%b\r\n%b\r\n" % (raw[:start], raw[end:], added)
        pieces, at = [], 0
        for start, end in sorted(set(cuts)):
            pieces.append(raw[at:start])
            at = end
        return b"%b%b\r\n%b\r\n" % (b"".join(pieces), raw[at:], added)
