"""One worker process: an event loop, its listeners, its pools, its journal.

It owns what outlives a request and a snapshot: connections to upstreams, the timer wheel, the bytes of request bodies
held, the journal. It never imports duckdb.
"""

from __future__ import annotations

import asyncio
import ctypes
import encodings.idna  # noqa: F401 - for host names; imported late it would need a file that may be gone by then
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from fluxen.gateway.accountant import Accountant
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.channel import Channel
from fluxen.gateway.counting import Counting
from fluxen.gateway.credentials import Parking
from fluxen.gateway.dispatch import Dispatch
from fluxen.gateway.follower import Follower, Opened
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.listener import AdminListener, Listener
from fluxen.gateway.opening import Openings
from fluxen.gateway.pool import Origin, Pool
from fluxen.gateway.request_log import RequestLog
from fluxen.gateway.secrets import secrets_of
from fluxen.gateway.snapshot import Snapshot
from fluxen.gateway.spliced import Unasked
from fluxen.gateway.timers import TimerWheel
from fluxen.gateway.tls import TlsConnection
from fluxen.gateway.update import Update
from fluxen.gateway.warden import Warden
from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics
from fluxen.telemetry.secrets import Secrets
from fluxen.telemetry.settings import Settings

_LAST_WORDS = 0.3
"""Seconds between the end of accepting and the closing of idle connections: a request may be on its way on one."""
_LAST_COUNTS = 4.0
"""Seconds that the last counts may take: the supervisor waits five before it kills."""
ADMIN_CONNECTIONS = 64
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def _wall_offset() -> float:
    """What makes the time of day of a reading of time.perf_counter. Of three, because the process may be put off
    between its two clocks, and all rows of a second would be dated too early by that."""
    return max(time.time() - time.perf_counter() for _ in range(3))


class Worker:
    """What listeners and exchanges of one process share."""

    def __init__(
        self,
        snapshot: Snapshot,
        authorities: Authorities,
        number: int,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        log: Log | None = None,
        metrics: Metrics | None = None,
        *,
        doors: Opened = (),
        channel: Channel | None = None,
        line: socket.socket | None = None,
    ) -> None:
        """doors: where to listen. channel: to the supervisor, line: to the counter, if there is one."""
        self.log = log or Log(f"worker {number}")
        self.metrics = metrics or Metrics(number + 1)
        self.snapshot = snapshot
        self.authorities = authorities
        self.number = number
        self.journal = journal
        self.loop = loop
        self.wheel = TimerWheel()
        self.openings = Openings(snapshot, HeaderKinds())
        self.rejected = False
        """Whether the configuration on disk can't be used, and the one before stays in force."""
        self._origins = {upstream.origin for upstream in snapshot.upstreams}
        self.accountant = Accountant(snapshot.prices)
        self.price_version = self.accountant.price_version
        self.body_bytes = 0
        self.kept_bytes = 0
        """Of bodies and answers that are kept because they may have to be counted."""
        self.counting = Counting(line, loop)
        self.draining = False
        self.refused: dict[str, int] = {}
        self.warden = Warden()
        self.parking = Parking(self.tell, self.notice)
        self.unasked = Unasked(self.notice)
        self.request_log = RequestLog(self.log) if self.log.requests else None
        self.answered = [0] * 10
        """Rows by the class of their status (200 to 299: 2)."""
        self.wall_offset = _wall_offset()
        self._published: dict[str, int] = {}
        self._pools: dict[Origin, Pool] = {}
        self._listeners: set[Listener] = set()
        self._admins = 0
        """How many of them are on the address of Fluxen's own endpoints: they take no room from clients."""
        self._saying: list[Dispatch] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._empty: asyncio.Future[None] | None = None
        tls = snapshot.config.server.tls
        self.tls = None if tls is None else authorities.serving(tls)
        self.follower = Follower(self, doors, channel)

    # --- for the supervisor

    def take(self, update: Update) -> None:
        """Go over to another configuration, between two requests: one that has begun keeps that it began with."""
        snapshot = update.applied(self.snapshot)
        self.authorities.learn(update.stores)
        tls = snapshot.config.server.tls
        if tls is not None and update.chain is not None:
            self.tls = self.authorities.show(tls, update.chain.certificate, update.chain.key)
        else:
            self.tls = None
        self._origins = {upstream.origin for upstream in snapshot.upstreams}
        self.snapshot, self.openings = snapshot, Openings(snapshot, HeaderKinds())
        self.accountant.use(snapshot.prices)
        self.price_version = self.accountant.price_version
        self.parking.retain(snapshot.upstreams)
        self.unasked = Unasked(self.notice)
        for origin in [*self._pools]:
            if origin not in self._origins or (origin.scheme == "https" and origin.ca_file in update.stores):
                self._pools.pop(origin).retire()
        self.journal.segment_seconds = float(snapshot.config.ledger.segment_seconds)
        self.take_log(update.log, secrets_of(snapshot))

    # --- for listeners

    def admin_listener(self) -> asyncio.Protocol:
        """The same on the address of Fluxen's own endpoints. Loopback is plain: a certificate would have the wrong name
        there."""
        listener, admin = AdminListener(self), self.snapshot.config.admin
        if self.tls is None or admin is None or admin.bind_address.loopback:
            return listener
        return TlsConnection(self, self.tls, listener)

    def listener(self) -> asyncio.Protocol:
        """For a connection that was just accepted."""
        listener = Listener(self)
        return listener if self.tls is None else TlsConnection(self, self.tls, listener)

    def admit(self, listener: Listener) -> bool:
        """Whether there is room for another connection. Only one that was admitted takes room."""
        server = self.snapshot.config.server
        if listener.admin:
            if self._admins >= ADMIN_CONNECTIONS:
                return False
            self._admins += 1
        elif len(self._listeners) - self._admins >= -(-server.max_connections // server.workers):
            return False
        self._listeners.add(listener)
        return True

    def dismiss(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            self._admins -= listener.admin
        if self._empty is not None and not self._listeners and not self._empty.done():
            self._empty.set_result(None)

    # --- for exchanges

    def pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            tls = self.authorities.context(origin.ca_file) if origin.scheme == "https" else None
            pool = Pool(origin, self.wheel, tls)
            if origin in self._origins:
                self._pools[origin] = pool
            else:
                pool.retire()  # of a configuration that is over: nobody will need the connection again
        return pool

    def connect(self, exchange: Dispatch, pool: Pool, limit: float) -> None:
        """Make a connection and hand it to the exchange. limit in seconds."""
        task = self.loop.create_task(self._connect(exchange, pool, limit))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, exchange: Dispatch, pool: Pool, limit: float) -> None:
        try:
            connection = await pool.connect(limit)
        except TimeoutError:
            exchange.unreachable(f"no connection within {limit:g} s", timeout=True)
        except UnicodeError:
            exchange.unreachable("the host of its target_url is no host name", timeout=False)
        except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors
            exchange.unreachable(str(error), timeout=False)
        else:
            exchange.connected(connection)

    def commit(self, exchange: Dispatch) -> None:
        """Have what the exchange has to say (`record`) written with what the others of this turn of the event loop
        have to say, in one write; then it is told (`committed`) and goes on."""
        self._saying.append(exchange)
        if len(self._saying) == 1:
            self.loop.call_soon(self._commit)

    def _commit(self) -> None:
        saying, self._saying = self._saying[::-1], []
        said: list[tuple[Dispatch, Begin | End]] = []
        asked: Dispatch | None = None
        try:
            while saying:
                asked = saying.pop()
                record = asked.record()
                if record is not None:
                    said.append((asked, record))
            asked = None
        finally:
            if asked is not None:  # a bug that one request meets must hang neither it nor the others: without it, again
                for other in (*(exchange for exchange, _ in said), *saying):
                    self.commit(other)
                asked.failed()
        written = self.journal.write([record for _, record in said])
        self._tell([(exchange, ok) for (exchange, _), ok in zip(said, written, strict=True)][::-1])

    def _tell(self, told: list[tuple[Dispatch, bool]]) -> None:
        try:
            while told:
                exchange, written = told.pop()
                exchange.committed(written)
        finally:
            if told:
                self.loop.call_soon(self._tell, told)

    def notice(self, kind: str, reason: str) -> None:
        """A line at a bounded rate. kind: an event, or an event and the upstream it is about (`broken: openai`)."""
        event, _, upstream = kind.partition(": ")
        if upstream:
            self.log.notice(event, about=upstream, upstream=upstream, reason=reason)
        else:
            self.log.notice(event, reason=reason)

    def take_log(self, settings: Settings, secrets: Secrets) -> None:
        """Other settings of the log, and the secrets of another configuration."""
        self.log.change(settings, secrets)
        self.request_log = RequestLog(self.log) if self.log.requests else None

    def count_refused(self, code: str, client_ip: str | None = None) -> None:
        """Somebody unknown, or what was no request: no row, but a count and a line at a bounded rate."""
        self.refused[code] = self.refused.get(code, 0) + 1
        self.log.notice("refused", about=code, code=code, client_ip=client_ip)

    def suspicious(self, reason: str, client_ip: str) -> None:
        """Somebody sent what could be an attempt to be understood in two ways. reason: one of few; it quotes
        nothing of what was sent."""
        self.log.notice("security", about=reason, reason=reason, client_ip=client_ip)

    def tell(self, *message: object) -> None:
        """Say something to the supervisor: plain values, the first says what it is about (Conductor.heard)."""
        self.follower.tell(*message)

    def ready(self) -> bool:
        return not self.draining

    # --- life

    async def serve(self, life: int) -> None:
        """Serve until told to stop (SIGTERM, SIGINT, or the end of the supervisor: EOF on `life`), then drain."""
        loop = self.loop
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_reader(life, stop.set)
        self.wheel.start(loop)
        housekeeping = loop.create_task(self._housekeeping())
        await self.follower.start()
        self.counting.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        await stop.wait()
        loop.remove_reader(life)
        self.draining = True
        await self.follower.stop()
        await self._drain()
        self.follower.end()
        housekeeping.cancel()
        self.wheel.stop()
        self._commit()
        self.journal.close()
        self.publish()
        self.log.close()

    async def _housekeeping(self) -> None:
        told = uncounted = 0
        while True:
            await asyncio.sleep(1.0)
            self.wall_offset = _wall_offset()
            self.journal.tick()
            if self.journal.lost > told:
                self.log.notice("ledger", reason=self.journal.error, lost=self.journal.lost)
                told = self.journal.lost
            if self.counting.given_up > uncounted:
                self.log.notice("uncounted", count=self.counting.given_up - uncounted)
                uncounted = self.counting.given_up
            if self.snapshot.tokens is not None:
                for url in self.snapshot.tokens.take_wanted():
                    self.tell("unknown_kid", url)
                for reason, count in self.snapshot.tokens.take_refused().items():
                    self.log.notice("token_refused", about=reason, reason=reason, count=count)
            self.log.tick()
            self.publish()
            self.follower.tick()

    def publish(self) -> None:
        """Bring what was counted to where all processes see it."""
        slot = self.metrics.slot(self.number)
        slot.set("connections", len(self._listeners))
        slot.set("requests_in_flight", len(self.journal.open_requests))
        slot.set("body_bytes", self.body_bytes)
        counted = {"ledger_lost": self.journal.lost, "log_dropped": self.log.dropped}
        counted |= {f"refused_{code}": count for code, count in self.refused.items()}
        counted |= {f"requests_{number}xx": self.answered[number] for number in range(1, 6)}
        for name, count in counted.items():
            slot.count(name, count - self._published.get(name, 0))
        self._published = counted

    async def _drain(self) -> None:
        """Let requests finish, within shutdown_timeout_ms."""
        limit = self.snapshot.config.server.shutdown_timeout_ms / 1000
        if self._listeners:
            await asyncio.sleep(_LAST_WORDS)
        for listener in list(self._listeners):
            listener.close_if_idle()
        if self._listeners:
            self._empty = self.loop.create_future()
            try:
                await asyncio.wait_for(self._empty, limit)
            except TimeoutError:
                for listener in list(self._listeners):
                    listener.cut_short()
                await asyncio.sleep(0)
        await self.counting.settled(_LAST_COUNTS)
        self.counting.end()
        for pool in self._pools.values():
            pool.close_idle()
        for task in self._connecting:  # for clients that have left
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)


def run(
    snapshot: Snapshot,
    authorities: Authorities,
    number: int,
    data_dir: Path,
    doors: Opened,
    channel: Channel,
    life: int,
    log: Log,
    metrics: Metrics,
    *,
    line: socket.socket,
    rejected: bool,
) -> None:
    """The body of a worker process. channel: its end of it. life: the reading end of a pipe that the supervisor holds
    open. line: its end of that to the counter. rejected: as Worker.rejected."""
    _keep_freed_memory()
    ledger = snapshot.config.ledger
    journal = Journal(
        data_dir / "ledger", socket.gethostname()[:64], number, segment_seconds=float(ledger.segment_seconds)
    )
    loop = uvloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        log.within(loop)
        worker = Worker(
            snapshot, authorities, number, journal, loop, log, metrics, doors=doors, channel=channel, line=line
        )
        worker.rejected = rejected
        loop.run_until_complete(worker.serve(life))
    finally:
        loop.close()


def _keep_freed_memory() -> None:
    """Tell glibc not to hand freed memory back after each large read: with TLS it was re-faulted, page by page, at
    each one (2 faults and 30 µs a request)."""
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, 256 << 20)
            mallopt(_M_MMAP_THRESHOLD, 32 << 20)
