"""A listening socket as one worker sees it: who accepts from it, whether anybody still comes, how it is let go of."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from fluxen.gateway.bindings import BACKLOG, DoorPlan


class Door:
    """Open from `open` to `close`. listener makes the protocol of a connection that was accepted."""

    def __init__(self, plan: DoorPlan, sock: socket.socket, listener: Callable[[], asyncio.BaseProtocol]) -> None:
        self.plan = plan
        self._sock = sock
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._accepted = 0
        self._seen = -1
        self._quiet = False

    async def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server = await loop.create_server(self._made, sock=self._sock.dup(), backlog=BACKLOG)

    def _made(self) -> asyncio.BaseProtocol:
        self._accepted += 1
        return self._listener()

    def look(self) -> bool | None:
        """Asked once a second of a door that is given up: True when nobody has come since the last time, False when
        somebody comes again, None when that is nothing new."""
        quiet, self._seen = self._seen == self._accepted, self._accepted
        if quiet == self._quiet:
            return None
        self._quiet = quiet
        return quiet

    def planned(self, plan: DoorPlan) -> None:
        if plan.retiring != self.plan.retiring:
            self._seen, self._quiet = -1, False
        self.plan = plan

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept no more. Connections that the kernel has accepted for us are answered, not reset."""
        if self._server is not None:
            self._server.close()
        self._sock.setblocking(False)
        with self._sock:
            while True:
                try:
                    accepted, _ = self._sock.accept()
                except OSError:
                    return
                await loop.connect_accepted_socket(self._made, accepted)
