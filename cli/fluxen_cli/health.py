"""`fluxen health`: does the gateway take requests? For a container's health check, a script, or a look by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli.places import ConfigFile
from fluxen_cli.serve import gateway_url

DEFAULT = ("127.0.0.1", 8080)
"""Where a gateway listens that nobody told where. As in the configuration's model, which takes long to import."""


def command(
    config: ConfigFile = None,
    url: Annotated[
        str | None, typer.Option(help="Where the gateway is, instead of where the configuration says it listens.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Ask the running gateway whether it takes requests. Exit code 0 if it does, 1 if it does not."""
    from fluxen_cli.readiness import tell

    place, cert_file = (url, None) if url is not None else described(config)
    if code := tell(place, cert_file, as_json=as_json):
        raise typer.Exit(code)


def described(config: Path | None) -> tuple[str, Path | None]:
    """The URL of the gateway that the configuration describes, seen from this machine, and the certificate it shows if
    it speaks HTTPS."""
    from fluxen.config import paths

    file = paths.find_config(config, os.environ)
    host, port = DEFAULT
    cert_file: Path | None = None
    if file is not None:
        from fluxen.config.locate import written_bind_address, written_certificate

        host, port = written_bind_address(file, os.environ) or DEFAULT
        cert_file = written_certificate(file, os.environ)
    if not port:
        raise FluxenError(f"{file} lets the system choose the port", hint="name the address: --url http://127.0.0.1:…")
    return gateway_url(host, port, tls=cert_file is not None), cert_file
