"""A client that takes nothing is let go of, whatever else it does meanwhile."""

from __future__ import annotations

from pathlib import Path

from gateway.rig import request
from gateway.test_timeouts import SLACK, Bench, in_loop

from fluxen.gateway.listener import STALL_TICKS, WAITING_BYTES


def test_a_client_that_stops_reading_and_goes_on_sending(tmp_path: Path) -> None:
    """What it sends meanwhile stops our reading, but not the clock."""

    async def test(here: Bench) -> None:
        caller = await here.connect()
        caller.transport.pause_reading()
        caller.write(request(b"/slow/flood"))
        await here.settle()
        [listener] = here.worker._listeners
        while listener.writable:
            await here.settle()
        caller.write(b"x" * 2 * WAITING_BYTES)
        while listener._reading:
            await here.settle()
        await here.turn(STALL_TICKS - SLACK)
        assert not here.upstream_closed.is_set()
        await here.passes(here.upstream_closed.is_set, 2 * SLACK)

    in_loop(test, tmp_path)
