"""`fluxen serve`: start the gateway and say where to point each SDK."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen import __version__
from fluxen.config.paths import ledger_folder
from fluxen_cli import output
from fluxen_cli.places import ConfigFile

if TYPE_CHECKING:
    from fluxen.config.load import Loaded
    from fluxen.gateway.snapshot import Snapshot

# What the official SDKs read, and what each appends to it by itself.
SDK_VARIABLES = {"openai": ("OPENAI_BASE_URL", "/v1"), "anthropic": ("ANTHROPIC_BASE_URL", ""),
                 "gemini": ("GOOGLE_GEMINI_BASE_URL", "")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """What the start says about one upstream."""

    name: str
    mount: str
    dialect: str
    target: str
    credential: str | None  # where Fluxen's key comes from; None: it has none


def command(
    config: ConfigFile = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port instead of the configuration's; 0: any free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that serve, instead of the configuration's.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what runs.

    Without a configuration file (or without api_keys in it) this is open mode: for this machine only, with the
    provider keys found in the environment or else those of the clients.
    """
    from fluxen.config.load import load_config
    from fluxen.gateway.server import serve

    loaded = override(load_config(config, os.environ), port, workers)

    def announce(snapshot: Snapshot, host: str, bound: int) -> None:
        for warning in snapshot.warnings:
            output.note(f"warning: {output.visible(warning)}")
        place = str(ledger_folder(snapshot.config.data_dir))
        output.say(welcome(host, bound, upstream_lines(snapshot), place, open_mode=snapshot.open_mode))

    serve(loaded, os.environ, announce)


def upstream_lines(snapshot: Snapshot) -> list[Line]:
    return [
        Line(
            upstream.name,
            upstream.mount.decode(),
            upstream.dialect.name,
            f"{upstream.origin.scheme}://{upstream.host.decode()}{upstream.base.decode()}",
            upstream.credential_name,
        )
        for upstream in snapshot.upstreams
    ]


def welcome(host: str, port: int, upstreams: Sequence[Line], ledger: str, *, open_mode: bool) -> str:
    """What `serve` says once it listens. A wildcard address is shown as the loopback one: nobody can call 0.0.0.0."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
    listening = f" (listening on {f'[{host}]' if ':' in host else host}:{port})" if reachable != host else ""
    text = [f"Fluxen {__version__} serves on {url}{listening}", "", "Point your application here:"]
    spoken = {line.dialect for line in upstreams}
    text += [f"  {name}={url}{path}" for dialect, (name, path) in SDK_VARIABLES.items() if dialect in spoken]
    if open_mode:
        text += ["", "Open mode: this machine only, no client keys. Upstreams, and whose key each one gets:"]
    else:
        text += ["", "Clients need a key of api_keys. Upstreams, and whose key each one gets:"]
    names = max((len(line.name) for line in upstreams), default=0)
    mounts = max((len(url + line.mount) for line in upstreams), default=0)
    for line in upstreams:
        to = f"  {line.name:{names}}  {url + line.mount:{mounts}}  -> {line.target}"
        text.append(f"{to}  ({_whose(line, open_mode)})")
    text += ["", f"Ledger: {ledger}", "Costs so far: fluxen report costs", ""]
    return "\n".join(text)


def _whose(line: Line, open_mode: bool) -> str:
    if line.credential is not None:
        return f"Fluxen's key: {line.credential if line.credential != line.name else 'from the configuration'}"
    return "the client's own key" if open_mode else "no key: set api_key"


def override(loaded: Loaded, port: int | None, workers: int | None) -> Loaded:
    """What the command line says wins over the file."""
    from dataclasses import replace

    server = loaded.config.server
    update: dict[str, object] = {}
    if port is not None:
        update["bind_address"] = server.bind_address._replace(port=port)
    if workers is not None:
        update["workers"] = workers
    if not update:
        return loaded
    return replace(loaded, config=loaded.config.model_copy(update={"server": server.model_copy(update=update)}))
