"""`fluxen serve`, put together: configuration → snapshot → sockets → processes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping

from fluxen.analyzer.prices import PriceBook
from fluxen.config.load import Loaded
from fluxen.errors import LedgerError
from fluxen.gateway import unpacked, worker
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.secrets import secrets_of
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.gateway.supervisor import Supervisor
from fluxen.keys.client import ClientKey
from fluxen.ledger.journal import probe
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics
from fluxen.telemetry.settings import settings_of


def serve(
    loaded: Loaded,
    env: Mapping[str, str],
    started: Callable[[Snapshot, str, int], None],
    *,
    everyone: ClientKey | None = None,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    started(snapshot, host, port) is called once connections are accepted. everyone: open mode whatever api_keys say,
    and rows name every caller so. parent: the PID of the process that forked this one; the end of it ends this one,
    too. Raises ConfigError, AddressInUseError, LedgerError.
    """
    log_settings = settings_of(loaded.config.log, env)
    snapshot = build(loaded, env, everyone)
    config = snapshot.config
    folder = config.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerError(f"can't make the data folder {folder}: {error.strerror}", hint="check data_dir") from error
    probe(folder / "ledger")
    authorities = Authorities(env)
    for upstream in snapshot.upstreams:
        if upstream.origin.scheme == "https":
            authorities.context(upstream.origin.ca_file)
    if config.server.tls is not None:
        authorities.serving(config.server.tls)
    PriceBook.shipped()  # read before the workers fork: theirs, too, and the file may be gone for a later one
    temporary = unpacked.folder()
    if temporary is not None:
        unpacked.hold(temporary)
        parent = parent or os.getppid()

    def accepting() -> None:
        started(snapshot, *supervisor.address)
        _ready(env)

    server = config.server
    log = Log("supervisor", log_settings, secrets=secrets_of(snapshot), colour=not env.get("NO_COLOR"))
    metrics = Metrics(server.workers)
    supervisor = Supervisor(
        server.host, server.port, server.workers, server.shutdown_timeout_ms / 1000, log, metrics, parent
    )
    supervisor.run(
        lambda number, listening, life: worker.run(
            snapshot, authorities, number, folder, listening, life, log.child(f"worker {number}"), metrics
        ),
        lambda life: _compact(snapshot, life, log.child("compactor"), resident=temporary is not None),
        accepting,
    )
    if temporary is not None and supervisor.orphaned:
        unpacked.remove(temporary)


def _ready(env: Mapping[str, str]) -> None:
    """Tell systemd (`Type=notify`) that connections are accepted: sd_notify(3)."""
    if address := env.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
            out.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)


def _compact(snapshot: Snapshot, life: int, log: Log, *, resident: bool) -> None:
    """The body of the compactor process: the only one that imports duckdb. resident: it can't be imported again."""
    from fluxen.ledger import process

    os.nice(5)
    ledger = snapshot.config.data_dir / "ledger"
    if resident:
        unpacked.keep(log, lambda stop: process.run(ledger, snapshot.config.ledger, stop, log), life)
    else:
        process.run(ledger, snapshot.config.ledger, life, log)
