"""Kill writers and compactors with SIGKILL, at random and at every commit point, and count what the ledger holds.

    python tests/ledger/kill.py --kills 50 --seed 7

Two writers, one compactor (grace 0, a step every 50 ms), one that adjusts the costs of finished requests and one reader
run as processes of their own. A writer notes each line the journal acknowledged in an `acks` file by one write; that
file survives a kill as the journal does. So does the adjuster with each adjustment that was published. The
reader checks every snapshot against what was acknowledged before it began; at the end everything is checked exactly.
The last line of output is the summary as JSON; the exit code is 1 when anything was missing or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import LOST, Begin, End, new_id

COMPACTOR_POINTS = (
    "listed",
    "locked",
    "parquet written",
    "parquet synced",
    "manifest written",
    "manifest renamed",
    "committed",
    "views built",
    "views renamed",
    "deleted",
)
JOURNAL_POINTS = ("created", "copied", "renamed", "rotated")
ADJUSTER_POINTS = ("adjustments created", "adjustments written", "adjustments renamed", "")
"""Where the adjuster strikes itself; the last: nowhere, it is killed from outside."""
KINDS = ("writer", "compactor", "rotation", "commit point", "stopped", "adjuster")
BEGUN, ENDED = 0, 1
WORD = 8
DEADLINE = 30.0


def strike(when: str, sig: int) -> Callable[[str], None]:
    """A checkpoint that signals this process at `name:count`, the count-th time it comes to `name`."""
    name, _, count = when.rpartition(":")
    left = int(count) if name else 0

    def checkpoint(here: str) -> None:
        nonlocal left
        if here == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sig)

    return checkpoint


# ── the processes ────────────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, acks: Path, node: str, die: str) -> None:
    """Serve requests of very different lengths until killed; some stay open over many segments."""
    chance = random.Random(node)
    journal = Journal(
        folder, node, 0, segment_bytes=20_000, segment_seconds=0.1, checkpoint=strike(die, signal.SIGKILL)
    )
    log = os.open(acks / node, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    running: dict[int, Begin] = {}
    number = 0
    while os.getppid() != 1:
        for _ in range(8):
            begin = Begin(new_id(), time.time_ns() // 1000, request_bytes=number, tags={"k": node}, user_agent="x" * 50)
            if journal.begin(begin):
                acknowledge(log, number, BEGUN)
            running[number] = begin
            number += 1
            while len(running) > 40 or (running and chance.random() < 0.5):
                done = chance.choice([*running][-8:] if chance.random() < 0.95 else [*running])
                end = End.of(running.pop(done))
                end.status, end.cost_pico, end.usage_raw = 200, done, '{"output_tokens": 1}'
                if journal.end(end):
                    acknowledge(log, done, ENDED)
        journal.tick()
        time.sleep(0.02)


def acknowledge(log: int, number: int, kind: int) -> None:
    os.write(log, (number * 2 + kind).to_bytes(WORD, "little"))


def compact(folder: Path, die: str, stop: str) -> None:
    from fluxen.ledger.compactor import Compactor

    killer, stopper = strike(die, signal.SIGKILL), strike(stop, signal.SIGSTOP)

    def checkpoint(name: str) -> None:
        killer(name)
        stopper(name)

    compactor = Compactor(folder, grace_seconds=0, checkpoint=checkpoint)
    while os.getppid() != 1:
        compactor.step()
        time.sleep(0.05)


def adjust(folder: Path, adjusted: Path, die: str) -> None:
    """Give requests new costs, some of them again and again, in segments of a few lines."""
    from fluxen.ledger.adjuster import adjusting
    from fluxen.ledger.reader import Reader
    from fluxen.ledger.record import Adjustment

    reader, checkpoint = Reader(folder), strike(die, signal.SIGKILL)
    log = os.open(adjusted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    while os.getppid() != 1:
        rows = reader.query("SELECT id::VARCHAR, epoch_us(ts) FROM requests WHERE error IS NULL LIMIT 40").rows
        made = time.time_ns() // 1000
        with adjusting(folder, "adjuster", segment_bytes=1000, checkpoint=checkpoint) as adjuster:
            for name, ts in rows:
                adjuster.add(Adjustment(str(name), int(str(ts)), made, None, None, made))
            adjuster.publish()
        os.write(log, "".join(f"{name} {made}\n" for name, _ in rows).encode())
        time.sleep(0.1)


def read(folder: Path, acks: Path, until: Path) -> None:
    """Take snapshots until the file `until` exists; print how many, and what was wrong with them."""
    from fluxen.ledger.reader import Reader

    chance = random.Random(1)

    def dawdle(_: str) -> None:
        """Let the others overtake between any two looks: that is what a reader's order must survive."""
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 0.15))

    reader, known = Reader(folder, checkpoint=dawdle), Acks(acks)
    snapshots, faults, times = 0, [], []
    while not until.exists():
        known.update()
        begun = {node: set(numbers) for node, numbers in known.begun.items()}
        ended = {node: set(numbers) for node, numbers in known.ended.items()}
        started = time.perf_counter()
        rows = reader.query(
            "SELECT node, request_bytes, error, false FROM requests "
            "UNION ALL SELECT node, request_bytes, NULL, true FROM in_flight"
        ).rows
        times.append(time.perf_counter() - started)
        snapshots += 1
        faults += [f"snapshot {snapshots}: {fault}" for fault in compare(rows, begun, ended)]
    times.sort()
    print(json.dumps({"snapshots": snapshots, "faults": faults[:20], "p50_ms": round(1e3 * times[len(times) // 2], 1)}))


class Acks:
    """What the writers know to be written, read again and again while it grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: dict[str, set[int]] = {}
        self.ended: dict[str, set[int]] = {}
        self._read: Counter[str] = Counter()

    def update(self) -> None:
        for path in self.folder.iterdir():
            begun, ended = self.begun.setdefault(path.name, set()), self.ended.setdefault(path.name, set())
            with path.open("rb") as file:
                file.seek(self._read[path.name])
                content = file.read()
            whole = len(content) // WORD * WORD
            self._read[path.name] += whole
            for at in range(0, whole, WORD):
                value = int.from_bytes(content[at : at + WORD], "little")
                (ended if value % 2 == ENDED else begun).add(value // 2)


def compare(rows: list[tuple[object, ...]], begun: dict[str, set[int]], ended: dict[str, set[int]]) -> Iterator[str]:
    """Rows are (node, number, error, in flight). Yields what contradicts the acknowledgements."""
    seen: dict[str, Counter[object]] = {}
    finished: dict[str, set[object]] = {}
    for node, number, error, open_ in rows:
        seen.setdefault(str(node), Counter())[number] += 1
        if not open_ and error != LOST:
            finished.setdefault(str(node), set()).add(number)
    for node, counts in seen.items():
        for number, count in counts.items():
            if count > 1:
                yield f"doubled: {node} {number} × {count}"
    for node, numbers in ended.items():
        for number in numbers - finished.get(node, set()):
            yield f"missing: {node} {number} had ended" + (
                ", shown open or lost" if number in seen.get(node, ()) else ""
            )
    for node, numbers in begun.items():
        for number in numbers - seen.get(node, Counter()).keys():
            yield f"missing: {node} {number} had begun"


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Summary:
    kills: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    streams: int = 0
    begun: int = 0
    ended: int = 0
    rows: int = 0
    lost: int = 0
    unacknowledged: int = 0
    adjusted: int = 0
    missing: int = 0
    doubled: int = 0
    snapshots: int = 0
    faults: list[str] = field(default_factory=list)
    catalogue_rows: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        exact = not self.missing and not self.doubled and self.catalogue_rows == self.rows
        return exact and not self.faults and not self.problems and self.snapshots > 0


class Arena:
    """The processes of one run and the folder they share."""

    def __init__(self, root: Path, seed: int) -> None:
        self.folder, self.acks, self.end = root / "ledger", root / "acks", root / "end"
        self.adjusted = root / "adjusted"
        self.acks.mkdir(parents=True)
        self.chance = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self._incarnation = 0
        self.writers = [self.writer(), self.writer()]
        self.compactor = self.role("compactor")
        self.adjuster = self.role("adjuster")
        self.reader = self.role("reader", stdout=subprocess.PIPE)

    def role(self, name: str, *args: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--role", name, "--folder", str(self.folder), "--acks", str(self.acks)]
        command += ["--until", str(self.end), "--adjusted", str(self.adjusted)]
        return subprocess.Popen([*command, *args], stdout=stdout)

    def writer(self, die: str = "") -> subprocess.Popen[bytes]:
        self._incarnation += 1
        node = f"w{self._incarnation:04d}"
        process = self.role("writer", "--node", node, "--die", die)
        poll(lambda: (self.acks / node).exists() or process.poll() is not None, f"{node} to write")
        return process

    def kill(self, kind: str, turn: int) -> None:
        """One kill of this kind; what died is alive again afterwards."""
        self.kills[kind] += 1
        place = self.chance.randrange(len(self.writers))
        if kind == "writer":
            self.writers[place] = self._end(self.writers[place], self.writer)
        elif kind == "compactor":
            self.compactor = self._end(self.compactor, lambda: self.role("compactor"))
        elif kind == "rotation":
            point = JOURNAL_POINTS[turn % len(JOURNAL_POINTS)]
            self.points[point] += 1
            self.writers[place] = self._end(
                self.writers[place], lambda: self.writer(f"{point}:{self.chance.randint(2, 5)}")
            )
            self.writers[place] = self._died(self.writers[place], self.writer)
        elif kind == "commit point":
            point = COMPACTOR_POINTS[turn % len(COMPACTOR_POINTS)]
            self.points[point] += 1
            self._end_gently(self.compactor)
            struck = self.role("compactor", "--die", f"{point}:{self.chance.randint(1, 4)}")
            self.compactor = self._died(struck, lambda: self.role("compactor"))
        elif kind == "adjuster":
            point = ADJUSTER_POINTS[turn % len(ADJUSTER_POINTS)]
            if point:
                self._end_gently(self.adjuster)
                struck = self.role("adjuster", "--die", f"{point}:{self.chance.randint(1, 9)}")
                self.adjuster = self._died(struck, lambda: self.role("adjuster"))
            else:
                self.adjuster = self._end(self.adjuster, lambda: self.role("adjuster"))
        else:
            self._stopped(place)

    def _stopped(self, place: int) -> None:
        """The compactor stands still between listing and locking while a writer rotates, and dies."""
        self._end_gently(self.compactor)
        self.compactor = self.role("compactor", "--stop", f"listed:{self.chance.randint(1, 4)}")
        poll(lambda: state(self.compactor.pid) == "T", "the compactor to stop")
        time.sleep(self.chance.uniform(0.1, 0.5))
        self.writers[place] = self._end(self.writers[place], self.writer)
        self.compactor.send_signal(signal.SIGCONT)

    def _end(self, process: subprocess.Popen[bytes], again: Callable[[], subprocess.Popen[bytes]]):
        if process.poll() is not None:
            raise RuntimeError(f"a process ended by itself with {process.returncode}")
        self._end_gently(process)
        return again()

    def _end_gently(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def _died(self, process: subprocess.Popen[bytes], again: Callable[[], subprocess.Popen[bytes]]):
        poll(lambda: process.poll() is not None, "a process to strike itself")
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"a process ended with {process.returncode}, not by SIGKILL")
        return again()

    def close(self) -> None:
        for process in (*self.writers, self.compactor, self.adjuster, self.reader):
            if process.poll() is None:
                self._end_gently(process)
        if self.reader.stdout:
            self.reader.stdout.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def poll(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {DEADLINE} s for {what}")
        time.sleep(0.01)


def main(kills: int, seed: int, root: Path, pause: float = 0.4) -> Summary:
    """Run it all in `root`, an empty folder."""
    started = time.monotonic()
    arena = Arena(root, seed)
    order = [KINDS[turn % len(KINDS)] for turn in range(kills)]
    turns: Counter[str] = Counter()
    try:
        for kind in order:
            time.sleep(arena.chance.uniform(0, 2 * pause))
            arena.kill(kind, turns[kind] if kills >= 50 else arena.chance.randrange(100))
            turns[kind] += 1
        time.sleep(pause)
        for writer in arena.writers:
            arena._end_gently(writer)
        arena._end_gently(arena.adjuster)
        arena.end.touch()
        output, _ = arena.reader.communicate()
        arena._end_gently(arena.compactor)
        summary = settle(arena, json.loads(output))
    finally:
        arena.close()
    summary.seconds = round(time.monotonic() - started, 1)
    return summary


def settle(arena: Arena, snapshots: dict[str, object]) -> Summary:
    """Compare the ledger at rest with the acknowledgements: first as the kills left it, then compacted."""
    import duckdb

    from fluxen.ledger import store
    from fluxen.ledger.reader import Reader

    known = Acks(arena.acks)
    known.update()
    select = "SELECT node, request_bytes, error, false FROM requests"
    reader = Reader(arena.folder)
    before = reader.query(select).rows
    store.compact(arena.folder, grace_seconds=0)
    after = reader.query(select).rows
    found = [fault for rows in (before, after) for fault in compare(rows, known.begun, known.ended)]
    begun = sum(map(len, known.begun.values()))
    with duckdb.connect(str(arena.folder / "fluxen.duckdb"), read_only=True) as catalogue:
        (in_catalogue,) = catalogue.execute("SELECT count(*) FROM requests").fetchone() or (0,)
    extra = Counter(str(node) for node, number, *_ in after if number not in known.begun[str(node)])
    problems = store.verify(arena.folder).problems
    made = Counter(reader.query("SELECT id::VARCHAR, epoch_us(made) FROM adjustments").rows)
    told = arena.adjusted.read_text() if arena.adjusted.exists() else ""
    published = {(name, int(at)) for name, at in (line.split() for line in told.splitlines())}
    problems += [f"adjustment {one} is there {count} times" for one, count in made.items() if count > 1]
    problems += [f"adjustment {one} is missing" for one in published - made.keys()]
    newest = "SELECT id, max(epoch_us(made)) AS made FROM adjustments GROUP BY id"
    wrong = f"SELECT count(*) FROM requests JOIN ({newest}) USING (id) WHERE cost_usd * 1000000000000 <> made"
    if reader.query(wrong).rows != [(0,)]:
        problems.append("requests have another cost than their newest adjustment says")
    problems += [f"{node} has {count} rows nobody heard of" for node, count in extra.items() if count > 1]
    if sorted(map(str, before)) != sorted(map(str, after)):
        problems.append("compaction changed the rows")
    if reader.query("SELECT * FROM in_flight").rows:
        problems.append("requests of dead writers are in flight")
    return Summary(
        kills=dict(arena.kills),
        points=dict(arena.points),
        streams=len(known.begun),
        begun=begun,
        ended=sum(map(len, known.ended.values())),
        rows=len(after),
        lost=sum(error == LOST for _, _, error, _ in after),
        unacknowledged=sum(extra.values()),
        adjusted=len(made),
        missing=sum(fault.startswith("missing") for fault in found),
        doubled=sum(fault.startswith("doubled") for fault in found),
        snapshots=int(str(snapshots["snapshots"])),
        faults=list(map(str, snapshots["faults"])),  # type: ignore[call-overload]
        catalogue_rows=in_catalogue,
        problems=problems,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    for name in ("role", "node", "die", "stop"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    for name in ("folder", "acks", "until", "adjusted"):
        parser.add_argument(f"--{name}", type=Path, default=Path(), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.role == "writer":
        write(given.folder, given.acks, given.node, given.die)
    elif given.role == "compactor":
        compact(given.folder, given.die, given.stop)
    elif given.role == "adjuster":
        adjust(given.folder, given.adjusted, given.die)
    elif given.role == "reader":
        read(given.folder, given.acks, given.until)
    else:
        arena_root = Path(tempfile.mkdtemp(prefix="fluxen-kill-"))
        outcome = main(given.kills, given.seed, arena_root)
        print(json.dumps(asdict(outcome)))
        if not outcome.ok:
            sys.exit(f"kept for inspection: {arena_root}")
        shutil.rmtree(arena_root)
