"""Bounded load for a long time, and nothing grows: a look for leaks, and for what happens once in ten thousand times.

    PYTHONPATH=tests python tests/gateway/soak.py --seconds 600 --rate 100 --seed 7

Unary requests, streams, uploads, clients that leave at every stage, upstreams that fail in every way, by about a
hundred requests a second. At the end must hold: each request has exactly one row, and that row says what the client
saw; the workers' memory and descriptors are what they were when they were warm; no process died; no traceback.
Prints a JSON summary.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway import proc
from gateway.kill import PATIENCE, poll
from gateway.load import FAULTS, PLAIN, Load, Outcome, Upstream, config
from gateway.rig import Gateway

WARM = 0.4  # of the time: caches fill, malloc finds its size
GROWTH = 3 << 20  # bytes by which a warm worker may grow: what it holds at a time differs by that much
EXPECTED: dict[str, tuple[int, str | None]] = {
    "unary": (200, None),
    "slow": (200, None),
    "stream": (200, None),
    "silent stream": (200, None),
    "long stream": (200, None),
    "fat stream": (200, None),
    "upload": (200, None),
    "chunked upload": (200, None),
    "refused by the upstream": (429, "upstream_status"),
    "answered early": (413, "upstream_status"),
    "fin": (200, "upstream_broke"),
    "rst": (200, "upstream_broke"),
    "garbage": (200, "upstream_broke"),
    "leaves mid-stream": (200, "client_closed"),
    "leaves before the first byte": (499, "client_closed"),
    "leaves mid-upload": (499, "client_closed"),
}
"""What a row of each kind says: (status, error)."""


@dataclass
class Summary:
    seconds: float = 0.0
    requests: int = 0
    rows: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    doubled: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """Of unary requests, as a client of the same event loop sees them."""
    rss_mb: dict[str, list[float]] = field(default_factory=dict)
    """Per worker: when begun, when warm (median), at the end (median)."""
    growth_mb: float = 0.0
    descriptors: list[list[int]] = field(default_factory=list)
    """Per worker: idle at the beginning, idle at the end."""
    cpu_ms_per_request: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.doubled or self.problems) and self.requests > 0


@dataclass
class Sample:
    at: float
    rss: dict[int, int]


async def watch(workers: list[int], samples: list[Sample]) -> None:
    while True:
        samples.append(Sample(time.monotonic(), {pid: proc.rss(pid) for pid in workers}))
        await asyncio.sleep(0.5)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_descriptors(pid: int) -> int:
    """All but connections to the upstream, which are kept alive for a while, and the segment being sealed."""
    return sum(not (name.startswith("socket:") or name.endswith(".jnl")) for name in proc.descriptors(pid))


def sockets(pid: int) -> int:
    return sum(name.startswith("socket:") for name in proc.descriptors(pid))


async def soak(root: Path, seconds: float, rate: float, seed: int) -> Summary:
    upstream = Upstream()
    await upstream.start()
    home = root / "home"
    home.mkdir(parents=True)
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    server = await asyncio.to_thread(
        Gateway, root / "gateway", config(upstream.port), {**env, "HOME": str(home), "NO_PROXY": "*"}
    )
    workers = await asyncio.to_thread(proc.workers, server.process.pid, 2)
    load = Load(upstream, lambda: server.port, {**PLAIN, **FAULTS}, random.Random(seed), rate)
    samples: list[Sample] = []
    summary = Summary()
    begun = time.monotonic()
    before = [(idle_descriptors(pid), sockets(pid)) for pid in workers]
    running, watching = asyncio.create_task(load.run()), asyncio.create_task(watch(workers, samples))
    try:
        await asyncio.wait([running, watching], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        load.stopping = True
        if watching.done():
            summary.problems.append("a worker has died")
        await asyncio.wait_for(running, PATIENCE)
        watching.cancel()
        if not summary.problems:
            cpu = sum(map(cpu_seconds, workers))
            summary.cpu_ms_per_request = round(1000 * cpu / max(1, len(load.outcomes)), 3)
            # The pools' connections are closed after 30 s, those of the clients are closed by now.
            await upstream.close()
            for pid, (_, count) in zip(workers, before, strict=True):
                await poll(lambda pid=pid, count=count: sockets(pid) <= count, "all connections to be closed")
            summary.descriptors = [
                [files, idle_descriptors(pid)] for pid, (files, _) in zip(workers, before, strict=True)
            ]
        server.stopped = True
        server.process.send_signal(signal.SIGTERM)
        await poll(lambda: server.process.poll() is not None, "the gateway to end")
    finally:
        running.cancel()
        watching.cancel()
        if server.process.poll() is None:
            server.process.kill()
    summary.seconds = round(time.monotonic() - begun, 1)
    settle(summary, server, load, upstream)
    memory(summary, samples, begun, seconds)
    return summary


def settle(summary: Summary, server: Gateway, load: Load, upstream: Upstream) -> None:
    """Compare, one by one, what clients saw with what the ledger says."""
    problems = summary.problems
    rows = server.query("SELECT id::VARCHAR AS id, client_request_id AS number, * EXCLUDE (id) FROM requests")
    by_number: dict[int, dict[str, Any]] = {int(row["number"]): row for row in rows}
    numbers = Counter(int(row["number"]) for row in rows)
    summary.requests, summary.rows = len(load.outcomes), len(rows)
    summary.kinds = dict(Counter(one.kind for one in load.outcomes))
    summary.doubled = sum(count > 1 for count in numbers.values())
    summary.missing = sum(one.number not in numbers for one in load.outcomes)
    for one in load.outcomes:
        if (row := by_number.get(one.number)) is not None:
            problems += compare(one, row)
    problems += [f"{number} was sent upstream {count} times" for number, count in upstream.seen.items() if count > 1]
    if server.query("SELECT 1 FROM in_flight"):
        problems.append("requests are in flight")
    errors = server.stderr()
    for word in ("Traceback", "restarting", "Exception", "could not be written"):
        if word in errors:
            problems.append(f"{word} on stderr: …{errors[max(0, errors.find(word) - 200) :][:2000]}")
    if server.process.returncode != 0:
        problems.append(f"the gateway ended with {server.process.returncode}")
    times = sorted(one.seconds for one in load.outcomes if one.kind == "unary" and one.complete)
    if times:
        summary.p50_ms = round(1000 * times[len(times) // 2], 2)
        summary.p99_ms = round(1000 * times[len(times) * 99 // 100], 2)
    del problems[30:]


def compare(one: Outcome, row: dict[str, Any]) -> list[str]:
    status, error = EXPECTED[one.kind]
    found: list[str] = []
    if one.id is not None and one.id != row["id"]:
        found.append(f"{one}: its row is {row['id']}")
    if (row["status"], row["error"]) != (status, error):
        found.append(f"{one}: its row says {row['status']} {row['error']}")
    if not one.left and (one.status != status or one.complete != (error in (None, "upstream_status"))):
        found.append(f"{one}: expected {status}, {error}")
    if row["usage_source"] == "reported" and (row["input_tokens"], row["output_tokens"]) != (11, 7):
        found.append(f"{one}: {row['input_tokens']} + {row['output_tokens']} tokens")
    known = ("estimated", "unknown") if one.kind == "silent stream" else ("reported",)
    if error is None and "upload" not in one.kind and row["usage_source"] not in known:
        found.append(f"{one}: usage is {row['usage_source']}")
    if (
        error in ("upstream_broke", "client_closed")
        and row["endpoint"] == "/v1/chat/completions"
        and row["cost_usd"] == 0
    ):
        found.append(f"{one}: it may be billed and costs 0")
    return found


def memory(summary: Summary, samples: list[Sample], begun: float, seconds: float) -> None:
    """Compare a warm worker with itself at the end."""
    if not samples:
        return
    warm = [one.rss for one in samples if WARM <= (one.at - begun) / seconds < WARM + 0.2]
    last = [one.rss for one in samples if 0.8 <= (one.at - begun) / seconds < 1]
    if not warm or not last:
        summary.problems.append("too short to tell of memory")
        return
    for number, pid in enumerate(samples[0].rss):
        was, now = (statistics.median(rss[pid] for rss in span) for span in (warm, last))
        summary.rss_mb[f"worker {number}"] = [round(one / 2**20, 1) for one in (samples[0].rss[pid], was, now)]
        summary.growth_mb = max(summary.growth_mb, round((now - was) / 2**20, 2))
        if now - was > GROWTH:
            summary.problems.append(f"worker {number} grew from {was / 2**20:.1f} to {now / 2**20:.1f} MB")
    for was, now in summary.descriptors:
        if now > was + 1:
            summary.problems.append(f"a worker has {now} open files, and had {was}")


def main(seconds: float, rate: float, seed: int, root: Path) -> Summary:
    """Run it all in `root`, an empty folder."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(root, seconds, rate, seed))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    arena = Path(tempfile.mkdtemp(prefix="fluxen-soak-"))
    outcome = main(given.seconds, given.rate, given.seed, arena)
    print(json.dumps(asdict(outcome)))
    if not outcome.ok:
        sys.exit(f"kept for inspection: {arena}")
    shutil.rmtree(arena)
