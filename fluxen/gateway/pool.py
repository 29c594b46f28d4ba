"""Keep-alive pools: the connections of a worker to each origin, and how new ones are made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Final, NamedTuple

from fluxen.gateway.timers import TimerWheel, ticks
from fluxen.gateway.upstream import UpstreamConnection

IDLE_SECONDS: Final = 30.0  # a pooled connection older than this is closed: common servers close theirs at 60–75 s
IDLE_CONNECTIONS: Final = 1024  # per pool
STAGGER_SECONDS: Final = 0.25  # between attempts at a host's addresses (RFC 8305 recommends 250 ms)

_IDLE_TICKS: Final = ticks(IDLE_SECONDS)


class Origin(NamedTuple):
    """Where connections of a pool go. ca_file: trust these authorities instead of the system's."""

    scheme: str
    host: str
    port: int
    ca_file: str | None = None


class Pool:
    """The connections of a worker to one origin, the most recently used first. Outlives reloads.

    tls: what HTTPS connections are made with; None: they are plain.
    """

    def __init__(self, origin: Origin, wheel: TimerWheel, tls: ssl.SSLContext | None = None) -> None:
        self.origin = origin
        self.wheel = wheel
        self.tls = tls
        self.connections: set[UpstreamConnection] = set()
        self._idle: deque[UpstreamConnection] = deque()
        self._retired = False

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    def retire(self) -> None:
        """No reload left a use for it: connections in use finish what they do, and none is kept."""
        self._retired = True
        self.close_idle()

    def put(self, connection: UpstreamConnection) -> None:
        if self._retired:
            connection.abandon()
            return
        self._idle.append(connection)
        self.wheel.arm(connection, _IDLE_TICKS)
        if len(self._idle) > IDLE_CONNECTIONS:
            self._idle.popleft().abandon()

    def forget(self, connection: UpstreamConnection) -> None:
        self.connections.discard(connection)
        if connection.exchange is None:
            try:
                self._idle.remove(connection)
            except ValueError:
                pass

    def close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abandon()

    async def connect(self, limit: float) -> UpstreamConnection:
        """A fresh connection within `limit` seconds. Raises OSError (ssl.SSLError among them) or TimeoutError."""
        async with asyncio.timeout(limit):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_STREAM)
            hosts = list(dict.fromkeys(str(address[4][0]) for address in found))
            connection = await (self._attempt(hosts[0]) if len(hosts) == 1 else self._race(hosts))
        if connection.transport is None:  # the upstream closed it before the winner of the race could be told
            raise ConnectionResetError("the connection was closed as soon as it was made")
        return connection

    async def _attempt(self, host: str) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        name = self.origin.host if self.tls is not None else None
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self), host, self.origin.port, ssl=self.tls, server_hostname=name
        )
        return connection

    async def _race(self, hosts: list[str]) -> UpstreamConnection:
        """Try the addresses one after the other, each STAGGER_SECONDS later or when the one before failed."""
        running: set[asyncio.Task[UpstreamConnection]] = set()
        failure: BaseException = OSError(f"no address for {self.origin.host}")
        waiting = deque(hosts)
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._attempt(waiting.popleft())))
                done, running = await asyncio.wait(
                    running, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if error is None:
                        done.discard(task)
                        running |= done
                        return task.result()
                    failure = error
            raise failure
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_close_late)


def _close_late(task: asyncio.Task[UpstreamConnection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abandon()
