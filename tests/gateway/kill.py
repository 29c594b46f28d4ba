"""Kill processes of a serving gateway with SIGKILL, at random and under load, and compare what its clients got and its
upstream saw with what the ledger holds.

    PYTHONPATH=tests python tests/gateway/kill.py --kills 50 --seed 7

Two workers serve streams and unary requests. Now and then a worker, the counter, the compactor or the supervisor dies;
after the supervisor's death the gateway is started anew on the same folder and port as soon as the port is free, while
the orphans of the old one may still be finishing their streams. A reader (a process of its own) takes snapshots all the
while. At the end, and after a last compaction, must hold:

- each answer that told a client its id has exactly one row of that id;
- each request that the upstream saw has exactly one row;
- no row is of a request that nobody made, none is there twice, and in no snapshot ever was, or went away again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway import proc
from gateway.load import PLAIN, Load, Upstream, config
from gateway.rig import Gateway

KINDS = ("worker", "counter", "compactor", "worker", "supervisor")
PATIENCE = 60.0
RATE = 60.0


@dataclass
class Summary:
    kills: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    answered: int = 0
    complete: int = 0
    seen: int = 0
    rows: int = 0
    lost_rows: int = 0
    unseen_rows: int = 0
    """Rows of requests that the upstream did not see: begun, and killed before they were sent."""
    missing: int = 0
    doubled: int = 0
    snapshots: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not (self.missing or self.doubled or self.problems) and self.snapshots > 0 and self.lost_rows > 0


# ── the reader, a process of its own ─────────────────────────────────────────────────────────────────────────────


SNAPSHOT = "SELECT id::VARCHAR, error, false FROM requests UNION ALL SELECT id::VARCHAR, NULL, true FROM in_flight"


def read(folder: Path, until: Path) -> None:
    """Take snapshots until the file `until` exists; print how many, and what was wrong with them.

    What is finished stays. A dead writer's requests are `lost`, and may look like in flight once more while the
    compactor holds the lock by which the dead are told from the living.
    """
    from fluxen.ledger.reader import Reader

    reader = Reader(folder, threads=1)
    snapshots, faults = 0, []
    finished: dict[str, object] = {}
    while not until.exists():
        rows = reader.query(SNAPSHOT).rows
        snapshots += 1
        faults += [
            f"snapshot {snapshots}: {id_} × {n}" for id_, n in Counter(str(row[0]) for row in rows).items() if n > 1
        ]
        open_ = {str(id_) for id_, _, in_flight in rows if in_flight}
        now = {str(id_): error for id_, error, in_flight in rows if not in_flight}
        gone = {id_ for id_, error in finished.items() if id_ not in now and not (error == "lost" and id_ in open_)}
        if gone:
            faults.append(f"snapshot {snapshots}: {len(gone)} of {len(finished)} went away, {min(gone)} to {max(gone)}")
        finished = now
    print(json.dumps({"snapshots": snapshots, "faults": faults[:20]}))


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────


async def poll(condition: Callable[[], Any], what: str) -> Any:
    """As `rig.until`, while the loop goes on."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still waiting after {PATIENCE:g} s: {what}")
        await asyncio.sleep(0.02)
    return found


class Arena:
    """One gateway, its load, and who dies in it."""

    def __init__(self, server: Gateway, load: Load, chance: random.Random) -> None:
        self.server = server
        self.load = load
        self.kills: Counter[str] = Counter()
        self._chance = chance

    async def kill(self, kind: str) -> None:
        """One kill; what died is replaced afterwards."""
        self.kills[kind] += 1
        supervisor = self.server.process.pid
        if kind == "supervisor":
            await self._restart()
        elif kind == "compactor":
            victim = await poll(lambda: proc.roles(supervisor)[1], "the compactor to run")
            os.kill(victim, signal.SIGKILL)
            await poll(lambda: proc.roles(supervisor)[1] not in (None, victim), "another compactor")
        elif kind == "counter":
            [victim] = await poll(lambda: self._counters(), "the counter to run")
            os.kill(victim, signal.SIGKILL)
            await poll(lambda: self._counters() not in ([], [victim]), "another counter")
        else:
            victim = self._chance.choice(await poll(lambda: self._workers(), "two workers to run"))
            os.kill(victim, signal.SIGKILL)
            await poll(lambda: victim not in (now := self._workers()) and now, "another worker")

    def _counters(self) -> list[int]:
        return proc.counters(self.server.process.pid) if self._workers() else []

    def _workers(self) -> list[int]:
        found = proc.roles(self.server.process.pid)[0]
        return found if len(found) == 2 else []

    async def _restart(self) -> None:
        self.server.process.kill()
        await poll(lambda: self.server.process.poll() is not None, "the supervisor to die")
        await poll(lambda: refuses(self.server.port), "the port to be free")
        await asyncio.to_thread(self.server.start)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def fight(root: Path, kills: int, seed: int, pause: float) -> Summary:
    begun = time.monotonic()
    chance = random.Random(seed)
    upstream = Upstream()
    await upstream.start()
    home = root / "home"
    home.mkdir(parents=True)
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    server = await asyncio.to_thread(
        Gateway, root / "gateway", config(upstream.port, free_port()), {**env, "HOME": str(home), "NO_PROXY": "*"}
    )
    over = root / "over"
    reader = subprocess.Popen(
        [sys.executable, __file__, "--reader", str(server.ledger), "--until", str(over)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    load = Load(upstream, lambda: server.port, PLAIN, chance, RATE)
    arena = Arena(server, load, chance)
    running = asyncio.create_task(load.run())
    try:
        for turn in range(kills):
            await asyncio.sleep(chance.uniform(0.2, 2 * pause))
            await arena.kill(KINDS[turn % len(KINDS)])
        await asyncio.sleep(pause)
        load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        server.stopped = True
        server.process.send_signal(signal.SIGTERM)
        await poll(lambda: server.process.poll() is not None, "the gateway to end")
        over.touch()
        output, _ = await asyncio.to_thread(reader.communicate)
    finally:
        running.cancel()
        for process in (reader, server.process):
            if process.poll() is None:
                process.kill()
        await upstream.close()
    summary = settle(server, load, upstream, json.loads(output))
    summary.kills = dict(arena.kills)
    summary.seconds = round(time.monotonic() - begun, 1)
    return summary


def settle(server: Gateway, load: Load, upstream: Upstream, snapshots: dict[str, Any]) -> Summary:
    """Compare clients, upstream and ledger, which is at rest: first as it was left, then compacted."""
    from fluxen.ledger import store

    query = "SELECT id::VARCHAR AS id, client_request_id AS number, status, error FROM requests"
    before = server.query(query)
    store.compact(server.ledger, grace_seconds=0)
    rows = server.query(query)
    problems = [str(fault) for fault in snapshots["faults"]] + store.verify(server.ledger).problems
    if Counter(row["id"] for row in before) != Counter(row["id"] for row in rows):
        problems.append("compaction changed the rows")
    if server.query("SELECT 1 FROM in_flight"):
        problems.append("requests of dead writers are in flight")
    if server.process.returncode != 0:
        problems.append(f"the gateway ended with {server.process.returncode}")
    if "Traceback" in server.stderr():
        problems.append(server.stderr()[-4000:])

    ids, numbers = Counter(row["id"] for row in rows), Counter(int(row["number"]) for row in rows)
    number_of = {row["id"]: int(row["number"]) for row in rows}
    missing = [f"answered: {one.number} {one.id}" for one in load.outcomes if one.id is not None and not ids[one.id]]
    missing += [f"seen: {number}" for number in upstream.seen if not numbers[number]]
    doubled = [f"id {id_}" for id_, count in ids.items() if count > 1]
    doubled += [f"number {number}" for number, count in numbers.items() if count > 1]
    for one in load.outcomes:
        if one.id is not None and number_of.get(one.id, one.number) != one.number:
            problems.append(f"{one.id} is {number_of[one.id]}'s row, and was {one.number}'s answer")
    problems += [f"{number} was never sent" for number in numbers if number >= len(load.outcomes)]
    problems += [f"{number} was sent upstream {count} times" for number, count in upstream.seen.items() if count > 1]
    return Summary(
        requests=len(load.outcomes),
        answered=sum(one.id is not None for one in load.outcomes),
        complete=sum(one.complete for one in load.outcomes),
        seen=len(upstream.seen),
        rows=len(rows),
        lost_rows=sum(row["error"] == "lost" for row in rows),
        unseen_rows=len(numbers.keys() - upstream.seen.keys()),
        missing=len(missing),
        doubled=len(doubled),
        snapshots=int(snapshots["snapshots"]),
        problems=(problems + missing + doubled)[:20],
    )


def main(kills: int, seed: int, root: Path, pause: float = 0.6) -> Summary:
    """Run it all in `root`, an empty folder."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(fight(root, kills, seed, pause))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=Path, default=Path(), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.reader is not None:
        read(given.reader, given.until)
        sys.exit()
    arena_root = Path(tempfile.mkdtemp(prefix="fluxen-kill-"))
    outcome = main(given.kills, given.seed, arena_root)
    print(json.dumps(asdict(outcome)))
    if not outcome.ok:
        sys.exit(f"kept for inspection: {arena_root}")
    shutil.rmtree(arena_root)
