"""Whether a gateway takes requests, asked from outside as a client would: a process that is there and does not answer
is not ready. No secret is needed and none is sent.

This module is all that `fluxen health --url URL` imports: a container runs that every half minute, and the command line
as a whole would take three times as long.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxen.errors import FluxenError

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from pathlib import Path

TIMEOUT = 4.0
"""Seconds without a byte until it counts as no answer. Container health checks should allow a little more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    ready: bool
    url: str
    status: int | None
    """Of the answer; None when there was none."""
    message: str


def tell(url: str, cert_file: Path | None = None, *, as_json: bool = False) -> int:
    """Ask, and say what came of it; the exit code."""
    from fluxen_cli import output

    try:
        verdict = ask(url.rstrip("/"), cert_file)
    except FluxenError as error:
        output.fail(error)
        return error.exit_code
    if as_json:
        output.emit_json(
            {"ok": verdict.ready, "url": verdict.url, "status": verdict.status, "message": verdict.message}
        )
    elif verdict.ready:
        output.emit(f"ok: {verdict.url} {verdict.message}\n")
    else:
        output.fail(FluxenError(f"{verdict.url} {verdict.message}"))
    return 0 if verdict.ready else FluxenError.exit_code


def ask(url: str, cert_file: Path | None = None) -> Verdict:
    """One GET of the readiness endpoint. Whatever goes wrong with it is a verdict. Raises FluxenError for no URL.

    cert_file: the certificate that the gateway shows, when it is known: then nothing else is believed, and the name in
    it is not asked for, since this machine calls it by its address.
    """
    import http.client

    connection, path = _connection(url, cert_file)
    try:
        connection.request("GET", f"{path}/-/readyz", headers={"Connection": "close"})
        answer = connection.getresponse()
        ours = answer.getheader("x-fluxen-id") is not None
        answer.read(4096)
    except TimeoutError:
        return Verdict(False, url, None, f"does not answer within {TIMEOUT:.0f} s")
    except OSError as error:
        return Verdict(False, url, None, f"does not answer: {error.strerror or error}")
    except http.client.HTTPException:
        return Verdict(False, url, None, "answers, but not in HTTP: that is not Fluxen")
    finally:
        connection.close()
    if not ours:
        return Verdict(False, url, answer.status, f"answers {answer.status}, but it is not Fluxen that does")
    if answer.status != 200:
        return Verdict(False, url, answer.status, f"is not ready: it answers {answer.status}")
    return Verdict(True, url, answer.status, "takes requests")


def _connection(url: str, cert_file: Path | None) -> tuple[HTTPConnection, str]:
    """A connection, not yet made, to the host of a URL, and the path in it. No proxy of the environment is used."""
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query:
        raise FluxenError("--url is no address of a gateway", hint="such as http://127.0.0.1:8080")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, port or 80, timeout=TIMEOUT), parts.path
    if cert_file is not None:
        from fluxen.gateway.listening import client_of

        context = client_of(cert_file)
    else:
        from fluxen.gateway.certificates import client_context, trust

        context = client_context(trust(os.environ))
    return HTTPSConnection(parts.hostname, port or 443, timeout=TIMEOUT, context=context), parts.path
