"""`fluxen health`: does the gateway take requests? For a container's health check, a script, or a look by hand.

It asks the running gateway from outside, by HTTP, as a client would: a process that is there and does not answer is
not healthy. No secret is needed and none is sent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile

if TYPE_CHECKING:
    from http.client import HTTPConnection

TIMEOUT = 4.0
"""Seconds without a byte until it counts as no answer. Container health checks should allow a little more."""

DEFAULT = ("127.0.0.1", 8080)
"""Where a gateway listens that nobody told where. As in the configuration's model, which takes long to import."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Verdict:
    ready: bool
    url: str
    status: int | None
    """Of the answer; None when there was none."""
    message: str


def command(
    config: ConfigFile = None,
    url: Annotated[
        str | None, typer.Option(help="Where the gateway is, instead of where the configuration says it listens.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Ask the running gateway whether it takes requests. Exit code 0 if it does, 1 if it does not."""
    verdict = ask(url.rstrip("/") if url is not None else described(config))
    if as_json:
        output.emit_json(
            {"ok": verdict.ready, "url": verdict.url, "status": verdict.status, "message": verdict.message}
        )
    elif verdict.ready:
        output.emit(f"ok: {verdict.url} {verdict.message}\n")
    else:
        raise FluxenError(f"{verdict.url} {verdict.message}")
    if not verdict.ready:
        raise typer.Exit(FluxenError.exit_code)


def described(config: Path | None) -> str:
    """The URL of the gateway that the configuration describes, seen from this machine."""
    from fluxen.config import paths

    file = paths.find_config(config, os.environ)
    host, port = DEFAULT
    if file is not None:
        from fluxen.config.locate import written_bind_address

        host, port = written_bind_address(file, os.environ) or DEFAULT
    if not port:
        raise FluxenError(f"{file} lets the system choose the port", hint="name the address: --url http://127.0.0.1:…")
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def ask(url: str) -> Verdict:
    """One GET of the readiness endpoint. Whatever goes wrong with it is a verdict, not an error."""
    import http.client

    connection, path = _connection(url)
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


def _connection(url: str) -> tuple[HTTPConnection, str]:
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
    from fluxen.gateway.certificates import client_context, trust

    context = client_context(trust(os.environ))
    return HTTPSConnection(parts.hostname, port or 443, timeout=TIMEOUT, context=context), parts.path
