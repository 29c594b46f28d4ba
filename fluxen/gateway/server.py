"""`fluxen serve`, put together: configuration → snapshot → sockets → processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from fluxen.config.load import Loaded
from fluxen.errors import LedgerError
from fluxen.gateway import worker
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.gateway.supervisor import Supervisor
from fluxen.ledger.journal import probe


def serve(loaded: Loaded, env: Mapping[str, str], started: Callable[[Snapshot, str, int], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    started(snapshot, host, port) is called once connections are accepted. Raises ConfigError, AddressInUseError,
    LedgerError.
    """
    snapshot = build(loaded, env)
    config = snapshot.config
    folder = config.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerError(f"can't make the data folder {folder}: {error.strerror}", hint="check data_dir") from error
    probe(folder / "ledger")
    server = config.server
    supervisor = Supervisor(server.host, server.port, server.workers, server.shutdown_timeout_ms / 1000)
    supervisor.run(
        lambda number, listening, life: worker.run(snapshot, number, folder, listening, life),
        lambda life: _compact(snapshot, life),
        lambda: started(snapshot, *supervisor.address),
    )


def _compact(snapshot: Snapshot, life: int) -> None:
    """The body of the compactor process: the only one that imports duckdb."""
    from fluxen.ledger import process

    os.nice(5)
    process.run(snapshot.config.data_dir / "ledger", snapshot.config.ledger, life)
