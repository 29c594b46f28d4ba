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
    from fluxen.gateway.routes import Upstream
    from fluxen.gateway.snapshot import Snapshot

# What the official SDKs read, and what each appends to it by itself.
SDK_VARIABLES = {"openai": ("OPENAI_BASE_URL", "/v1"), "anthropic": ("ANTHROPIC_BASE_URL", ""),
                 "gemini": ("GOOGLE_GEMINI_BASE_URL", "")}  # fmt: skip

FIRST_ID = "default"
"""The id of the first client key, whoever creates it."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Line:
    """What the start says about one upstream."""

    name: str
    mount: str
    dialect: str
    target: str
    credential: str | None  # where Fluxen's key comes from; None: it has none
    variable: str | None = None  # the environment variable that its key would be found in


def command(
    config: ConfigFile = None,
    bind: Annotated[
        str | None, typer.Option(metavar="host:port", help="Address instead of the configuration's bind_address.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Only the port instead of the configuration's; 0: any free one."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that serve, instead of the configuration's.")
    ] = None,
    first_key: Annotated[
        bool,
        typer.Option("--first-key", help="If there is no client key yet, create one and print it, only this once."),
    ] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what runs.

    Without client keys (no api_keys in the configuration, no keys.json in the data folder) this is open mode: for
    this machine only, with the provider keys found in the environment or else those of the clients.
    """
    from fluxen.config.load import load_config
    from fluxen.gateway.server import serve
    from fluxen.telemetry.settings import settings_of

    loaded = override(load_config(config, os.environ), bind, port, workers)
    lines_only = settings_of(loaded.config.log, os.environ).format == "json"
    key = _first_key(loaded) if first_key else None

    def announce(snapshot: Snapshot, host: str, bound: int) -> None:
        if lines_only:  # whoever asked for it reads stdout and stderr as one; the log says where it serves
            return
        place = str(ledger_folder(snapshot.config.data_dir))
        tls = snapshot.config.server.tls is not None
        output.say(welcome(host, bound, upstream_lines(snapshot), place, open_mode=snapshot.open_mode, tls=tls))
        if (own := admin_url(snapshot)) is not None:
            output.say(f"\nFluxen's own endpoints: {own}/-/metrics, /-/config, /-/reload\n")
        if key is not None:
            output.say(try_it(gateway_url(host, bound, tls=tls), key, snapshot))

    serve(loaded, os.environ, announce, settle=lambda again: override(again, bind, port, workers))


def _first_key(loaded: Loaded) -> str | None:
    """Create the first client key where there is none. It is printed before anything else can fail: nobody can read it
    later."""
    from fluxen.keys.store import KeyStore

    written = loaded.config.api_keys
    if written is not None and (written.static or written.jwt):
        return None
    store = KeyStore(loaded.config.data_dir)
    key = store.create_first(FIRST_ID)
    if key is not None:
        output.say(f"The first client key, '{FIRST_ID}'. Keep it now, it is not shown again:\n\n  {key}\n\n")
    return key


def try_it(url: str, key: str, snapshot: Snapshot) -> str:
    """How to use a client key, at once and from a shell."""
    from fluxen_cli.first import curl_line, upstream_to_try

    upstream = upstream_to_try(snapshot.upstreams)
    if upstream is None:
        return ""
    first = "Try it:"
    if not upstream.credentials and (variable := _variable(snapshot, upstream)):
        first = f"Try it (once Fluxen has a key of {upstream.name}: {variable} in its environment):"
    return f"\n{first}\n  {curl_line(url, key, upstream)}\n"


def _variable(snapshot: Snapshot, upstream: Upstream) -> str | None:
    """The environment variable that its key would be taken from, if it may be."""
    from fluxen.providers.catalogue import load_catalogue

    section = snapshot.config.upstreams.by_name.get(upstream.name)
    known = load_catalogue().get(upstream.provider)
    return known.env[0] if known and known.env and (section is None or section.target_url is None) else None


def upstream_lines(snapshot: Snapshot) -> list[Line]:
    return [
        Line(
            upstream.name,
            upstream.mount.decode(),
            upstream.dialect.name,
            f"{upstream.origin.scheme}://{upstream.host.decode()}{upstream.base.decode()}",
            ", ".join(credential.name for credential in upstream.credentials) or None,
            _variable(snapshot, upstream),
        )
        for upstream in snapshot.upstreams
    ]


def gateway_url(host: str, port: int, *, tls: bool = False) -> str:
    """Where to call what listens there: on this machine, if it listens on every address."""
    reachable = _WILDCARDS.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def admin_url(snapshot: Snapshot) -> str | None:
    """Where the configuration puts Fluxen's own endpoints, if it does and names the port."""
    server, admin = snapshot.config.server, snapshot.config.admin
    if admin is None or not admin.bind_address.port:
        return None
    tls = server.tls is not None and (admin.bind_address == server.bind_address or not admin.bind_address.loopback)
    return gateway_url(*admin.bind_address, tls=tls)


def welcome(host: str, port: int, upstreams: Sequence[Line], ledger: str, *, open_mode: bool, tls: bool = False) -> str:
    """What `serve` says once it listens. A wildcard address is shown as the loopback one: nobody can call 0.0.0.0."""
    url = gateway_url(host, port, tls=tls)
    listening = f" (listening on {f'[{host}]' if ':' in host else host}:{port})" if host in _WILDCARDS else ""
    text = [f"Fluxen {__version__} serves on {url}{listening}", "", "Point your application here:"]
    spoken = {line.dialect for line in upstreams}
    text += [f"  {name}={url}{path}" for dialect, (name, path) in SDK_VARIABLES.items() if dialect in spoken]
    if open_mode:
        text += ["", "Open mode: this machine only, no client keys. Upstreams, and whose key each one gets:"]
    else:
        text += ["", "Clients need a client key. Upstreams, and whose key each one gets:"]
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
    if open_mode:
        return "the client's own key"
    return f"no key: set {line.variable} or api_key" if line.variable else "no key: set api_key"


def override(loaded: Loaded, bind: str | None, port: int | None, workers: int | None) -> Loaded:
    """What the command line says wins over the file."""
    from dataclasses import replace

    from fluxen.config.values import parse_address

    server = loaded.config.server
    update: dict[str, object] = {}
    options = dict(loaded.options)
    address = server.bind_address
    if bind is not None:
        try:
            address = parse_address(bind)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="'--bind'") from None
        options[("server", "bind_address")] = "--bind"
    if port is not None:
        address = address._replace(port=port)
    if address != server.bind_address:
        update["bind_address"] = address
    if workers is not None:
        update["workers"] = workers
    if not update:
        return loaded
    config = loaded.config.model_copy(update={"server": server.model_copy(update=update)})
    return replace(loaded, config=config, options=options)
