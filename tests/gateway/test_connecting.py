"""Connections to upstreams that can't be had: every request gets an answer all the same."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time

from gateway.test_pools import Resolving, pool_of

from fluxen.gateway.timers import TimerWheel


def test_an_upstream_that_closes_at_once() -> None:
    """Its connection may be gone before the winner of the race is told: an error, not a connection that is none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        over = threading.Event()

        def slam() -> None:
            while not over.is_set():
                with listening.accept()[0] as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async def run() -> int:
            refused = 0
            pool = pool_of(port, TimerWheel(), "several.test")
            busy = asyncio.create_task(burn())
            for _ in range(30):
                try:
                    connection = await pool.connect(10)
                except OSError:
                    refused += 1
                else:
                    assert connection.transport is not None
                    connection.abandon()
            busy.cancel()
            return refused

        async def burn() -> None:  # a busy worker sees several events in one turn
            while True:
                time.sleep(0.003)
                await asyncio.sleep(0)

        def loop() -> Resolving:
            made = Resolving()
            made.addresses = ("127.0.0.1", "127.0.0.2")
            return made

        thread = threading.Thread(target=slam)
        thread.start()
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                assert runner.run(run()) > 0, "the upstream was never too fast: this test shows nothing"
        finally:
            over.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
