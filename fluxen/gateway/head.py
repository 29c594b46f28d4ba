"""Heads of requests and answers: what is forwarded, what is Fluxen's, what is hop-by-hop. Bytes in, values out.

A request head is collected header by header, in the order, case and number they were sent, as the pieces of the
head that goes upstream. Three places are left open and filled when the upstream is known: Host, the credential and
the body's framing. Everything that RFC 9110 (7.6.1) calls hop-by-hop is dropped, and so are the headers that
Connection nominates.

An answer's head is relayed as it came, byte for byte, less hop-by-hop headers and an upstream's `x-fluxen-id`.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_HEAD = 64 * 1024  # bytes; node allows 16 KB, nginx 32 KB: Codex and Claude Code stay below 8 KB
MAX_HEADERS = 200

FORWARD, NOTED, CREDENTIAL, HOST, LENGTH, ENCODING, CONNECTION, EXPECT, UPGRADE, TAGS, DROP = range(11)

_KINDS: dict[bytes, int] = {
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
    b"content-type": NOTED,
    b"content-encoding": NOTED,
    b"user-agent": NOTED,
    b"x-client-request-id": NOTED,
    b"anthropic-version": NOTED,
    b"origin": NOTED,
    b"sec-fetch-site": NOTED,
}


class HeaderKinds(dict[bytes, int]):
    """What to do with a header, by its name as sent. Spellings seen once are remembered (bounded), so that the
    hot path pays one dict hit for a header."""

    REMEMBERED = 4096

    def __missing__(self, name: bytes) -> int:
        low = name.lower()
        kind = _KINDS.get(low, DROP if low.startswith(b"x-fluxen-") else FORWARD)
        if len(self) < self.REMEMBERED and len(name) <= 64:
            self[name] = kind
        return kind


class RequestHead:
    """One request's head as it is collected. `fault` is the first reason to refuse it: (status, code, message)."""

    __slots__ = (
        "chunked",
        "count",
        "credential",
        "credential_at",
        "credential_name",
        "expects",
        "fault",
        "framing_at",
        "host",
        "host_at",
        "http10",
        "keep_alive",
        "length",
        "lines",
        "method",
        "nominated",
        "noted",
        "tags",
        "target",
        "upgrade",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.http10 = False
        self.keep_alive = True
        self.lines: list[bytes] = []
        self.noted: dict[bytes, bytes] = {}
        self.count = 0
        self.host: bytes | None = None
        self.host_at = -1
        self.credential: bytes | None = None
        self.credential_name = b""
        self.credential_at = -1
        self.length: int | None = None
        self.chunked = False
        self.framing_at = -1
        self.nominated: list[bytes] | None = None
        self.expects = False
        self.upgrade: bytes | None = None
        self.tags: bytes | None = None
        self.fault: tuple[int, str, str] | None = None

    def special(self, kind: int, name: bytes, value: bytes) -> None:
        """Take in a header of any kind but FORWARD (those the listener appends to `lines` itself)."""
        lines = self.lines
        if kind == NOTED:
            low = name.lower()
            if low in self.noted and low in (b"content-type", b"content-encoding"):
                self._refuse(400, "invalid_request", f"{low.decode()} was sent twice")
            self.noted[low] = value
            lines += (name, b": ", value, b"\r\n")
        elif kind == CREDENTIAL:
            if self.credential is not None:
                self._refuse(400, "duplicate_credential", "the request carries more than one credential")
            self.credential, self.credential_name, self.credential_at = value, name, len(lines)
            lines += (name, b": ", value, b"\r\n")
        elif kind == HOST:
            if self.host is not None:
                self._refuse(400, "invalid_request", "the request has two Host headers")
            self.host, self.host_at = value, len(lines)
            lines += (name, b": ", value, b"\r\n")
        elif kind == LENGTH:  # llhttp has refused everything but one run of digits
            self.length, self.framing_at = int(value), len(lines)
            lines += (name, b": ", value, b"\r\n")
        elif kind == ENCODING:
            if value.lower() != b"chunked":
                self._refuse(501, "unsupported_transfer_encoding", "only 'Transfer-Encoding: chunked' is supported")
            self.chunked, self.framing_at = True, len(lines)
            lines += (name, b": ", value, b"\r\n")
        elif kind == CONNECTION:
            low = value.lower()
            if low not in (b"keep-alive", b"close"):
                self.nominated = [*(self.nominated or ()), *(token.strip() for token in low.split(b","))]
        elif kind == EXPECT:
            if value.lower() != b"100-continue":
                self._refuse(417, "expectation_failed", "only 'Expect: 100-continue' is supported")
            self.expects = True
        elif kind == UPGRADE:
            self.upgrade = value.lower()
        elif kind == TAGS:
            self.tags = value if self.tags is None else self.tags + b"," + value

    def finish(self, method: bytes, http_version: str, keep_alive: bool) -> None:
        """The head is complete: the checks that need all of it."""
        self.method = method
        self.http10 = http_version == "1.0"
        self.keep_alive = keep_alive and not self.http10
        lines = self.lines
        if http_version not in ("1.1", "1.0"):
            self._refuse(400, "invalid_request", f"HTTP/{http_version} is not supported")
        elif method == b"CONNECT" or not self.target.startswith(b"/"):
            self._refuse(400, "invalid_request", "the request target must be a path")
        elif self.host is None and not self.http10:
            self._refuse(400, "invalid_request", "the request has no Host header")
        elif self.http10 and self.chunked:
            self._refuse(400, "invalid_request", "HTTP/1.0 has no chunked encoding")
        elif len(lines) > 4 * MAX_HEADERS:
            self._refuse(431, "headers_too_large", f"more than {MAX_HEADERS} headers")
        if self.nominated is not None:
            self._drop_nominated(self.nominated)

    def too_large(self) -> bool:
        return sum(map(len, self.lines)) + len(self.target) > MAX_HEAD

    def upstream_head(
        self,
        target: bytes,
        host: bytes,
        credential: tuple[bytes, bytes] | None,
        keep_credential: bool,
        body_length: int,
    ) -> bytes:
        """The head that goes upstream. May be asked for again, for a second attempt.

        credential is (header name, value) or None for none; keep_credential leaves the client's as it is.
        body_length is the length of a held body; -1 leaves the framing as the client chose it.
        """
        lines = self.lines
        if self.host_at < 0:
            self.host_at = len(lines)
            lines += (b"Host", b": ", host, b"\r\n")
        lines[self.host_at + 2] = host
        if not keep_credential:
            at = self.credential_at
            if credential is None:
                if at >= 0:
                    lines[at : at + 4] = (b"", b"", b"", b"")
            elif at < 0:
                self.credential_at = len(lines)
                lines += (credential[0], b": ", credential[1], b"\r\n")
            else:
                if lines[at].lower() != credential[0].lower():
                    lines[at] = credential[0]
                lines[at + 2] = credential[1]
        if body_length >= 0 and self.chunked:
            at = self.framing_at
            lines[at : at + 4] = (b"Content-Length", b": ", b"%d" % body_length, b"\r\n")
        return b"".join((self.method, b" ", target, b" HTTP/1.1\r\n", *lines, b"\r\n"))

    def _drop_nominated(self, tokens: list[bytes]) -> None:
        """Remove what Connection nominates, but for what frames or addresses the message."""
        kept = (b"host", b"content-length", b"transfer-encoding", b"authorization", b"close", b"keep-alive")
        drop = {token for token in tokens if token not in kept}
        lines = self.lines
        for at in range(0, len(lines), 4):
            if lines[at].lower() in drop:
                lines[at : at + 4] = (b"", b"", b"", b"")
                if at == self.credential_at:
                    self._refuse(400, "invalid_request", "the Connection header names the credential")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.fault is None:
            self.fault = (status, code, message)


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


_ANSWER_HOPS = (
    b"\r\nconnection:",
    b"\r\nkeep-alive:",
    b"\r\nproxy-connection:",
    b"\r\nproxy-authenticate:",
    b"\r\nupgrade:",
    b"\r\nx-fluxen-",
)


class AnswerHead:
    """One answer's head, looked at without taking it apart. `raw` ends with the empty line; `low` is it lowercased."""

    __slots__ = ("low", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.low = raw.lower()

    def value(self, name: bytes) -> bytes | None:
        """The first value of a header; name as b'\\r\\ncontent-type:'."""
        at = self.low.find(name)
        if at < 0:
            return None
        at += len(name)
        return self.raw[at : self.raw.find(b"\r\n", at)].strip()

    def relayed(self, added: bytes, without_encoding: bool) -> bytes:
        """The head for the client: hop-by-hop headers dropped, `added` (whole lines) put last.

        without_encoding also drops Transfer-Encoding, for clients that are sent the decoded body.
        """
        raw, low = self.raw, self.low
        nominated = self._nominated()
        for name in (*_ANSWER_HOPS, *nominated, *((b"\r\ntransfer-encoding:",) if without_encoding else ())):
            at = low.find(name)
            while at >= 0:
                end = low.find(b"\r\n", at + 2)
                raw, low = raw[:at] + raw[end:], low[:at] + low[end:]
                at = low.find(name, at)
        return raw[:-2] + added + b"\r\n"

    def _nominated(self) -> Iterator[bytes]:
        at = self.low.find(b"\r\nconnection:")
        while at >= 0:
            end = self.low.find(b"\r\n", at + 2)
            for token in self.low[at + 13 : end].split(b","):
                name = token.strip()
                if name and name not in (b"keep-alive", b"close", b"content-length", b"transfer-encoding"):
                    yield b"\r\n" + name + b":"
            at = self.low.find(b"\r\nconnection:", end)
