"""What can happen to an executable that runs from a temporary folder it has unpacked itself into."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import proc
from gateway.rig import Upstream, answer, request, until

if TYPE_CHECKING:
    from packaging.smoke.conftest import Configured, Fluxen, Serving

BODY = b'{"model":"gpt-4o-mini","messages":[]}'
JSON = (
    b'{"model":"gpt-4o-mini","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2}}'
)


def ask(serving: Serving, times: int = 1) -> None:
    for _ in range(times):
        with serving.connect() as client:
            found = client.ask(request(b"/v1/chat/completions", BODY, key=None))
            assert (found.status, found.complete) == (200, True), found.wire


def ledger(fluxen: Fluxen) -> Path:
    return fluxen.home / ".local/share/fluxen/ledger"


def compacted(fluxen: Fluxen) -> int:
    """Files that the compactor has made of the journal."""
    return len(list(ledger(fluxen).rglob("*.parquet")))


def compacting(serving: Serving) -> None:
    """Wait until all processes have loaded what they will ever need: the compactor, the last of them, is at work."""
    until(lambda: (ledger(serving.fluxen) / "compactor.json").exists(), "the first step of the compactor")


def test_the_folder_goes_away_under_a_gateway(unpacking: Fluxen, upstream: Upstream, configured: Configured) -> None:
    """It serves, meters, compacts, replaces what dies, and ends as if nothing were."""
    upstream.plays(answer(JSON))
    serving = unpacking.serve(configured(upstream.url))
    (folder,) = unpacking.unpacked()
    (worker,) = until(serving.workers, "the worker to run")
    compacting(serving)
    shutil.rmtree(folder)

    ask(serving, 3)
    until(lambda: compacted(unpacking), "the compactor to write its first file")

    os.kill(worker, signal.SIGKILL)
    until(lambda: (now := serving.workers()) and worker not in now, "another worker")
    ask(serving, 3)
    _kill_youngest_compactor(serving)
    ask(serving)
    serving.stop()
    checked = unpacking.json("ledger", "verify")
    assert (checked["ok"], checked["rows"], checked["missing"]) == (True, 7, 0), checked
    assert unpacking.json("report", "costs")["totals"]["requests"] == 7


def _kill_youngest_compactor(serving: Serving) -> None:
    """The process that works, not the one that keeps what is loaded for its successors."""
    engine = [pid for pid in serving.processes() if "duckdb" in proc.maps(pid)]
    assert engine
    os.kill(engine[-1], signal.SIGKILL)

    def again() -> bool:
        now = [pid for pid in serving.processes() if pid not in engine]
        return any("duckdb" in proc.maps(pid) for pid in now)

    until(again, "another compactor, though its files are gone")


def test_a_killed_loader_takes_its_gateway_along(unpacking: Fluxen, upstream: Upstream, configured: Configured) -> None:
    upstream.plays(answer(JSON))
    serving = unpacking.serve(configured(upstream.url), "--workers", "2")
    until(lambda: len(serving.workers()) == 2, "two workers")
    ask(serving)
    processes = serving.processes()
    assert len(unpacking.unpacked()) == 1
    serving.process.kill()
    serving.process.wait(60)
    for pid in processes:
        until(lambda pid=pid: not proc.alive(pid), f"the end of {pid}")
    assert unpacking.unpacked() == []
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", serving.port))
    assert unpacking.json("ledger", "verify")["rows"] == 1


def test_an_upgrade_replaces_the_file_of_a_running_gateway(
    unpacking: Fluxen, upstream: Upstream, configured: Configured
) -> None:
    """Nothing is read from the file any more, which is another one now."""
    upstream.plays(answer(JSON))
    copy = unpacking.elsewhere / "fluxen"
    shutil.copy2(unpacking.binary, copy)
    unpacking.binary = copy
    serving = unpacking.serve(configured(upstream.url))
    compacting(serving)
    new = copy.with_name("new")
    new.write_bytes(b"#!/bin/sh\nexit 1\n")
    new.chmod(0o755)
    new.rename(copy)
    ask(serving)
    until(lambda: compacted(unpacking), "the compactor to write")
    serving.stop()
