"""`fluxen serve`, put together: configuration → snapshot → sockets → processes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fluxen import __version__
from fluxen.analyzer.estimates import hold
from fluxen.analyzer.prices import PriceBook
from fluxen.config.document import dotted
from fluxen.config.load import Loaded
from fluxen.errors import LedgerError
from fluxen.gateway import counter, unpacked, worker
from fluxen.gateway.bindings import Bindings
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.channel import Channel
from fluxen.gateway.conductor import Conductor
from fluxen.gateway.listening import shared
from fluxen.gateway.reload import Reloader, Settle
from fluxen.gateway.secrets import secrets_of
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.gateway.state import State, StateFile, node
from fluxen.gateway.supervisor import Child, Supervisor, raise_file_limit
from fluxen.keys import tokens
from fluxen.keys.client import ClientKey
from fluxen.keys.jwks_documents import urls
from fluxen.ledger.journal import probe
from fluxen.telemetry.libraries import follow
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics
from fluxen.telemetry.settings import settings_of


def serve(
    loaded: Loaded,
    env: Mapping[str, str],
    started: Callable[[Snapshot, str, int], None],
    *,
    settle: Settle | None = None,
    everyone: ClientKey | None = None,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    started(snapshot, host, port) is called once connections are accepted. settle: what the command line says over a
    configuration that is read again; None: a gateway of a command's own, which is not reloaded and which no other
    command hears of. everyone: open mode whatever api_keys say, and rows name every caller so. parent: the PID of the
    process that forked this one; the end of it ends this one, too. Raises ConfigError, AddressInUseError, LedgerError.
    """
    log_settings = settings_of(loaded.config.log, env)
    authorities = Authorities(env)
    unfetched: list[str] = []
    if everyone is None and (sets := urls(loaded.config)):
        from fluxen.keys.jwks_refresh import fetch_missing

        unfetched = fetch_missing(loaded.config.data_dir, sets, lambda: authorities.context(None))
    snapshot = build(loaded, env, everyone)
    config = snapshot.config
    folder = config.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerError(f"can't make the data folder {folder}: {error.strerror}", hint="check data_dir") from error
    probe(folder / "ledger")
    for upstream in snapshot.upstreams:
        if upstream.origin.scheme == "https":
            authorities.context(upstream.origin.ca_file)
    if config.server.tls is not None:
        authorities.serving(config.server.tls)
    PriceBook.shipped()  # read before the workers fork: theirs, too, and the file may be gone for a later one
    if settle is not None:
        tokens.prepare()  # the first issuer of signed tokens may come with a reload
    temporary = unpacked.folder()
    if temporary is not None:
        unpacked.hold(temporary)
        if settle is not None:
            import fluxen.gateway.watch  # noqa: F401 - its process may be started again when the file is gone
        parent = parent or os.getppid()

    server = config.server
    log = Log("supervisor", log_settings, secrets=secrets_of(snapshot), colour=not env.get("NO_COLOR"))
    follow(log)
    metrics = Metrics(server.workers)
    raise_file_limit()
    bindings = Bindings(server.workers)
    bindings.use(bindings.prepare(server.bind_address))
    if config.admin is not None and not shared(config):
        bindings.use(bindings.prepare(config.admin.bind_address, admin=True), admin=True)
    public = bindings.current()
    assert public is not None
    address = public.address
    conductor = Conductor(
        snapshot, authorities, bindings, log, metrics,
        reloader=None if settle is None else Reloader(loaded, snapshot, env, settle, authorities),
        state=None if settle is None else (_state(loaded, env), StateFile(folder)),
    )  # fmt: skip
    supervisor = Supervisor(conductor, log, metrics, parent)

    def accepting() -> None:
        for warning in snapshot.warnings:
            log.warning("config_warning", warning=warning)
        for problem in unfetched:
            log.warning("key_set", reason=problem)
        log.event(
            "started", version=__version__, pid=os.getpid(), address=":".join(map(str, address)),
            workers=server.workers, open_mode=snapshot.open_mode,
        )  # fmt: skip
        started(snapshot, *address)
        _ready(env)

    def work(number: int) -> Callable[[Channel, int], None]:
        return lambda channel, life: worker.run(
            conductor.snapshot, authorities, number, folder, bindings.of_worker(number), channel, life,
            log.child(f"worker {number}"), metrics, line=conductor.lines.of_worker(number), rejected=conductor.rejected,
        )  # fmt: skip

    resident = temporary is not None
    compactor = Child(
        "compactor", lambda _, life: _compact(snapshot, life, log.child("compactor"), resident=resident), talks=False
    )
    counting = Child(
        "counter",
        lambda _, life: _count(conductor.lines.of_counter, life, log.child("counter"), resident=resident),
        talks=False, counts=True,
    )  # fmt: skip
    workers = [Child(f"worker {number}", work(number), number) for number in range(server.workers)]
    watcher = Child("watcher", lambda channel, life: _watch(channel, life, folder, authorities))
    children = [compactor, counting, *workers]
    supervisor.run(children if settle is None else [*children, watcher], accepting)
    if temporary is not None and supervisor.orphaned:
        unpacked.remove(temporary)


def _state(loaded: Loaded, env: Mapping[str, str]) -> State:
    """What commands may know of this process from the start on."""
    over = [dotted(where) for where in loaded.options] + (["data_dir"] if env.get("FLUXEN_DATA_DIR") else [])
    return State(
        os.getpid(), node(), __version__, time.time(),
        config=None if loaded.path is None else str(loaded.path.absolute()),
        workers=loaded.config.server.workers,
        loaded=time.time(),
        options=over,
        salt=os.urandom(16).hex(),
    )  # fmt: skip


def _ready(env: Mapping[str, str]) -> None:
    """Tell systemd (`Type=notify`) that connections are accepted: sd_notify(3)."""
    if address := env.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
            out.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)


def _watch(channel: Channel, life: int, data_dir: Path, authorities: Authorities) -> None:
    """The body of the watcher process: the only one with threads."""
    from fluxen.gateway import watch

    watch.run(channel, life, data_dir, lambda: authorities.context(None))


def _count(lines: Sequence[socket.socket], life: int, log: Log, *, resident: bool) -> None:
    """The body of the counter process. resident: what it needs can't be read again."""
    if resident:
        hold()
        unpacked.keep(log, lambda stop: counter.run(lines, stop, log), life)
    else:
        counter.run(lines, life, log)


def _compact(snapshot: Snapshot, life: int, log: Log, *, resident: bool) -> None:
    """The body of the compactor process: the only one that imports duckdb. resident: it can't be imported again."""
    from fluxen.ledger import process

    os.nice(5)
    ledger = snapshot.config.data_dir / "ledger"
    if resident:
        unpacked.keep(log, lambda stop: process.run(ledger, snapshot.config.ledger, stop, log), life)
    else:
        process.run(ledger, snapshot.config.ledger, life, log)
