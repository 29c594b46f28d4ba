"""Fluxen's own answers: refusals in the caller's dialect, never an empty reply."""

from __future__ import annotations

from http import HTTPStatus

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_NO_RETRY = (401, 403)
"""Without the header Claude Code repeats such a request for 90 s (seen on the wire)."""


def reply(
    status: int, body: bytes, *, request_id: str | None, close: bool, without_body: bool,
    retry_after: int | None = None, kind: str = "application/json",
) -> bytes:  # fmt: skip
    """A whole answer. without_body: to a HEAD request. retry_after in seconds. kind: its media type."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    if request_id is not None:
        head += f"x-fluxen-id: {request_id}\r\n"
    if status in _NO_RETRY:
        head += "x-should-retry: false\r\n"
    if status == 401:
        head += "WWW-Authenticate: Bearer\r\n"
    if status == 426:
        head += "Upgrade: HTTP/1.1\r\nConnection: Upgrade, close\r\n"
    elif close:
        head += "Connection: close\r\n"
    if retry_after is not None:
        head += f"Retry-After: {retry_after}\r\n"
    return head.encode("ascii") + b"\r\n" + (b"" if without_body else body)
