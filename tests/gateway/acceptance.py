"""What must hold while a gateway's configuration and keys change under load: nobody notices, except who is meant to.

    PYTHONPATH=tests python tests/gateway/acceptance.py [--requests 10000] [--seed 7]

The configuration has generations. In each, the upstream's address, its credential, and the caller's tags and project
change together, and all of them carry the generation's number. So each request tells which snapshot served it, in two
places that know nothing of each other: at the upstream, by path and credential, and in its row. Some requests are
begun under one snapshot and ended under a later one. Prints a JSON summary.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway import proc
from gateway.kill import PATIENCE, free_port, poll, refuses
from gateway.load import ClientConnection, Kind, Load, Outcome, Upstream, UpstreamConnection
from gateway.rig import KEY, Gateway

CONFIG = """
version: 1
server: {{bind_address: "{address}", workers: 2, shutdown_timeout_ms: 20000}}
upstreams:
  openai:
    target_url: "http://127.0.0.1:{upstream}/g{generation}"
    credentials: [{{name: c{generation}, api_key: sk-generation-{generation}}}]
api_keys:
  static:
    - {{id: me, key: "{key}", project: p{generation}, tags: {{generation: g{generation}}}}}
    - {{id: other-{generation}, key: fx-other-{generation}-0123456789abcdef}}
ledger: {{segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}}
"""
RATE = 400.0
SPLIT_SECONDS = 0.15  # between a request's head and its body: longer than a reload takes
_GENERATION = re.compile(rb"/g([0-9]+)/")


class Noting(Upstream):
    """An upstream that notes by which path, and with which credential, each request came."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[int, bytes] = {}
        self.credentials: dict[int, bytes] = {}
        self.generation = -1
        """The latest that a request came with."""
        self.refuses: set[bytes] = set()
        """Credentials that are answered 401."""

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: NotingConnection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]


class NotingConnection(UpstreamConnection):
    _upstream: Noting

    def on_url(self, url: bytes) -> None:
        self._path, self._credential = url, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == b"authorization":
            self._credential = value.removeprefix(b"Bearer ")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._upstream.paths[self._number] = self._path
        self._upstream.generation = max(self._upstream.generation, generation_of(self._path))
        self._upstream.credentials[self._number] = self._credential

    def on_message_complete(self) -> None:
        if self._credential in self._upstream.refuses:
            self._play = b"error:401"
        super().on_message_complete()


def generation_of(path: bytes) -> int:
    found = _GENERATION.match(path)
    return int(found[1]) if found else -1


# ── what clients do ──────────────────────────────────────────────────────────────────────────────────────────────


def request(
    number: int,
    play: bytes,
    key: str = KEY,
    *,
    path: bytes = b"/v1/chat/completions",
    kind: bytes = b"application/json",
) -> tuple[bytes, bytes]:
    """(head, body)"""
    body = b'{"model":"gpt-4o-mini","stream":true,"x":"' + b"x" * 1000 + b'"}'
    head = (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n"
        b"x-client-request-id: %d\r\nx-play: %b\r\nContent-Length: %d\r\n\r\n"
    )
    return head % (path, key.encode(), kind, number, play, len(body)), body


def asks(play: bytes, *, key: Callable[[], str] = lambda: KEY, wait: float = 0, **how: bytes) -> Kind:
    """A request whose answer is taken to its end. wait: seconds between its head and its body."""

    async def ask(_: Load, connection: ClientConnection, outcome: Outcome) -> None:
        head, body = request(outcome.number, play, key(), **how)
        if wait:
            connection.transport.write(head)
            await asyncio.sleep(wait)
            connection.transport.write(body)
        else:
            connection.transport.write(head + body)
        outcome.sent = True
        await connection.until(lambda: outcome.complete)

    return ask


def kinds(key: Callable[[], str] = lambda: KEY) -> dict[str, tuple[int, Kind]]:
    return {
        "unary": (60, asks(b"unary", key=key)),
        "mounted": (10, asks(b"unary", key=key, path=b"/openai/v1/chat/completions")),
        "body later": (10, asks(b"unary", key=key, wait=SPLIT_SECONDS)),
        "body later, passed on": (
            3,
            asks(b"unary", key=key, wait=SPLIT_SECONDS, path=b"/openai/v1/files", kind=b"application/octet-stream"),
        ),
        "slow": (10, asks(b"slow:0.3", key=key)),
        "stream": (7, asks(b"stream:10,0.05,100", key=key)),
    }


# ── a gateway whose configuration changes ────────────────────────────────────────────────────────────────────────


@dataclass
class Summary:
    name: str = ""
    requests: int = 0
    rows: int = 0
    generations: int = 0
    """How many snapshots have served requests."""
    straddling: int = 0
    """Requests that ended when a later snapshot than theirs had served others."""
    workers: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    """Seconds until a change was obeyed in every worker."""
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems and self.requests > 0 and all(seconds <= 1 for seconds in self.took.values())


@dataclass
class Site:
    """A gateway, its upstream and its file."""

    root: Path
    seed: int = 7
    address: str = "127.0.0.1:0"
    generation: int = 0
    upstream: Noting = field(default_factory=Noting)
    server: Gateway = field(init=False)
    load: Load = field(init=False)
    port: int = 0
    ended_at: dict[int, int] = field(default_factory=dict)
    """By the number of a request: the latest generation that the upstream had seen when it ended."""
    begun: float = field(default_factory=time.monotonic)
    summary: Summary = field(default_factory=Summary)

    async def start(self, text: str | None = None) -> None:
        await self.upstream.start()
        home = self.root / "home"
        home.mkdir(parents=True)
        self.env = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.env |= {"HOME": str(home), "NO_PROXY": "*"}
        self.server = await asyncio.to_thread(Gateway, self.root / "gateway", text or self.text(), self.env)
        self.port = self.server.port
        await asyncio.to_thread(proc.workers, self.server.process.pid, 2)
        self.load = Load(self.upstream, lambda: self.port, self.noted(kinds()), random.Random(self.seed), RATE)

    @property
    def file(self) -> Path:
        return self.server.folder / "fluxen.yaml"

    def text(self, **other: object) -> str:
        """The configuration of this generation."""
        values: dict[str, object] = {
            "address": self.address, "upstream": self.upstream.port, "generation": self.generation, "key": KEY,
        }  # fmt: skip
        return CONFIG.format(**{**values, **other})

    def noted(self, kinds: dict[str, tuple[int, Kind]]) -> dict[str, tuple[int, Kind]]:
        """The same, and it is noted which generation was the latest when a request ended."""

        def note(kind: Kind) -> Kind:
            async def run(load: Load, connection: ClientConnection, outcome: Outcome) -> None:
                await kind(load, connection, outcome)
                self.ended_at[outcome.number] = self.upstream.generation

            return run

        return {name: (weight, note(kind)) for name, (weight, kind) in kinds.items()}

    def next(self, write: Callable[[Path, str], object] | None = None, *, hup: bool = False) -> int:
        """Write the next generation (by `write`, else by replacing the file), and say so with SIGHUP if asked to."""
        self.generation += 1
        (write or replace)(self.file, self.text())
        if hup:
            self.server.process.send_signal(signal.SIGHUP)
        return self.generation

    async def served(self, generation: int) -> None:
        """Wait until a request was served by this generation: the load has to run."""
        await poll(lambda: self.upstream.generation >= generation, f"generation {generation} to serve a request")

    async def command(self, *args: str, stdin: str | None = None) -> str:
        """A `fluxen` command of this gateway's, to its end; what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fluxen_cli", *args, cwd=self.server.folder,
            env={**self.env, "FLUXEN_DATA_DIR": str(self.server.data_dir), "FLUXEN_CONFIG": str(self.file)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(None if stdin is None else stdin.encode())
        assert process.returncode == 0, f"fluxen {' '.join(args)}: {process.returncode} {out.decode()} {err.decode()}"
        return out.decode()

    async def stop(self) -> None:
        """End the gateway as a user would, once the load has ended."""
        self.load.stopping = True
        self.server.stopped = True
        if self.server.process.poll() is None:
            self.server.process.send_signal(signal.SIGTERM)
        await poll(lambda: self.server.process.poll() is not None, "the gateway to end")

    async def close(self) -> None:
        """Whatever happened: nothing is left running."""
        server: Gateway | None = getattr(self, "server", None)
        if server is not None and server.process.poll() is None:
            server.kill()
        await self.upstream.close()

    def settle(self, *, others: tuple[str, ...] = ()) -> Summary:
        """Compare clients, upstream and ledger, all at rest. others: keys whose requests are not of the load."""
        summary, problems = self.summary, self.summary.problems
        rows = self.server.query(
            "SELECT client_request_id AS number, status, error, project, credential, worker, upstream,"
            " tags['generation'] AS generation FROM requests WHERE key_id NOT IN (SELECT unnest(?))",
            [list(others)],
        )
        numbers = Counter(int(row["number"]) for row in rows)
        summary.requests, summary.rows = len(self.load.outcomes), len(rows)
        summary.statuses = dict(Counter(str(one.status) for one in self.load.outcomes))
        summary.workers = len({row["worker"] for row in rows})
        generations: set[int] = set()
        for one in self.load.outcomes:
            if one.status != 200 or not one.complete:
                problems.append(f"{one} was not served")
            elif numbers[one.number] != 1:
                problems.append(f"{one} has {numbers[one.number]} rows")
        for row in rows:
            number = int(row["number"])
            told = {row["generation"], f"g{row['project'][1:]}", f"g{(row['credential'] or '?')[1:]}"}
            path = self.upstream.paths.get(number)
            if path is not None:
                generations.add(generation := generation_of(path))
                told |= {f"g{generation}", f"g{self.upstream.credentials[number].rpartition(b'-')[2].decode()}"}
                summary.straddling += self.ended_at.get(number, generation) > generation
            if len(told) != 1:
                problems.append(f"{number} was served by a mixture: {sorted(told)}, {row}, {path!r}")
            if row["error"] is not None:
                problems.append(f"{number}: {row}")
        problems += [f"{number} went up {count} times" for number, count in self.upstream.seen.items() if count > 1]
        summary.generations = len(generations)
        self.clean()
        return summary

    def clean(self) -> None:
        """What the gateway said of itself; call it when it has ended."""
        problems = self.summary.problems
        errors = self.server.stderr()
        for word in ("Traceback", "restarting", "Exception", "could not be written"):
            if word in errors:
                problems.append(f"{word} on stderr: …{errors[max(0, errors.find(word) - 200) :][:2000]}")
        if self.server.process.returncode != 0:
            problems.append(f"the gateway ended with {self.server.process.returncode}")
        self.summary.seconds = round(time.monotonic() - self.begun, 1)
        del problems[20:]


def replace(file: Path, text: str) -> None:
    """As good editors and deployment tools do: a new file, renamed over the old one."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text)
    os.replace(beside, file)


# ── the trials ───────────────────────────────────────────────────────────────────────────────────────────────────


async def reloads(site: Site, requests: int, *, told: bool = False) -> Summary:
    """So many requests while the configuration changes as fast as it is taken up. Not one fails, and each is of one
    snapshot. told: every change is told by SIGHUP; else every other one, and the gateway finds the rest itself."""
    await site.start()
    site.summary.name = "reloads"
    running = asyncio.create_task(site.load.run())
    try:
        while len(site.load.outcomes) < requests:
            await site.served(site.next(hup=told or site.generation % 2 == 0))
            if running.done():
                running.result()
        site.load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    return site.settle()


async def stream(site: Site, seconds: float, turns: int, streams: int = 6) -> Summary:
    """Streams that go on through reloads, in both workers: every byte arrives, in order."""
    await site.start()
    site.summary.name = "stream"
    pause = 0.1
    count = round(seconds / pause)
    begun = site.load
    begun.rate = 40.0
    outcomes, received = [], []
    running = asyncio.create_task(begun.run())
    loop = asyncio.get_running_loop()
    try:
        for number in range(streams):
            _, connection = await loop.create_connection(Recording, "127.0.0.1", site.port)
            outcome = Outcome(1_000_000 + number, "long")
            connection.outcome = outcome
            head, body = request(outcome.number, b"stream:%d,%g,100" % (count, pause))
            connection.transport.write(head + body)
            outcomes.append(outcome)
            received.append(connection)
        for turn in range(turns):
            before = [connection.bytes for connection in received]
            await site.served(site.next(hup=turn % 2 == 0))
            await poll(
                lambda before=before: all(one.bytes > was for one, was in zip(received, before, strict=True)),
                f"bytes of every stream after reload {turn + 1}",
            )
            await asyncio.sleep(seconds / turns * 0.6)
        early = sum(outcome.complete for outcome in outcomes)
        for connection, outcome in zip(received, outcomes, strict=True):
            await connection.until(lambda outcome=outcome: outcome.complete)
        begun.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    begun.outcomes += outcomes
    summary = site.settle()
    if early:
        summary.problems.append(f"{early} streams had ended before the last reload")
    bodies = {bytes(connection.body) for connection in received}
    # The end is one more; the usage, which the gateway asked for, is not among what clients get.
    if len(bodies) != 1 or next(iter(bodies)).count(b"data: ") != count + 1:
        summary.problems.append(f"{len(bodies)} different streams, {[body.count(b'data: ') for body in bodies]} events")
    return summary


async def addresses(site: Site) -> Summary:
    """The gateway moves from address to address while clients call it, each of them as soon as the new one answers; an
    address that somebody else has changes nothing at all. Not one request fails."""
    ports = [free_port() for _ in range(3)]
    site.address = f"127.0.0.1:{ports[0]}"
    await site.start()
    site.summary.name = "addresses"
    load = site.load
    running = asyncio.create_task(load.run())
    try:
        await site.served(0)
        for host, port in (("127.0.0.1", ports[1]), ("0.0.0.0", ports[1]), ("127.0.0.1", ports[2])):
            before, site.address = site.port, f"{host}:{port}"
            generation = site.next()
            await poll(lambda port=port: answers(port), f"an answer on {site.address}")
            site.port = port
            await site.served(generation)
            if before != port:
                await poll(lambda before=before: refuses(before), f"port {before} to be closed")
        with socket.create_server(("127.0.0.1", 0)) as other:
            held, site.address = site.address, f"127.0.0.1:{other.getsockname()[1]}"
            refused = site.next()
            await poll(lambda: rejections(site) > 0, "the reload to be refused")
        site.address = held
        await site.served(site.next())
        if refused in {generation_of(path) for path in site.upstream.paths.values()}:
            site.summary.problems.append("a reload whose address is taken was applied in part")
        load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    return site.settle()


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def rejections(site: Site) -> int:
    return site.server.stderr().count('"config_rejected"')


async def files(site: Site) -> Summary:
    """The file changes as editors and orchestrators change files, and breaks in between. What can be read is served,
    what can't changes nothing and is said once."""
    await site.start()
    site.summary.name = "files"
    load, file = site.load, site.file
    load.rate = 100.0
    running = asyncio.create_task(load.run())
    projected = Projected(file)

    async def breaks(what: str, change: Callable[[], object]) -> None:
        """A change that can't be taken up, and is said."""
        before, latest = rejections(site), site.upstream.generation
        change()
        await poll(lambda: rejections(site) > before, f"{what} to be refused")
        if site.upstream.generation != latest:
            site.summary.problems.append(f"{what} was served")
        ready = await asyncio.to_thread(site.server._ready)
        if not ready:
            site.summary.problems.append(f"not ready after {what}")

    try:
        await site.served(0)
        for write in (replace, Path.write_text, renamed, Path.write_text, projected.write, projected.write):
            await site.served(site.next(write))
        await breaks("no YAML", lambda: projected.write(file, "a: [b"))
        await breaks("an unknown field", lambda: projected.write(file, site.text() + "nonsense: true\n"))
        await breaks(
            "no client keys", lambda: projected.write(file, re.sub(r"(?s)api_keys:.*ledger", "ledger", site.text()))
        )
        await site.served(site.next(projected.write))
        await breaks("no file", projected.remove)
        await site.served(site.next(projected.write))
        load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    return site.settle()


def renamed(file: Path, text: str) -> None:
    """As vim does with `backupcopy=no`: the old file gets another name, and for a moment there is none."""
    file.rename(file.with_name(f"{file.name}~"))
    file.write_text(text)


class Projected:
    """A file as Kubernetes mounts it: a link to a file behind a link to a folder, and that second link is replaced."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._count = 0

    def write(self, file: Path, text: str) -> None:
        self._count += 1
        folder = file.with_name(f"..{self._count}")
        folder.mkdir()
        (folder / file.name).write_text(text)
        self._link(file.with_name("..data"), folder.name)
        if not file.is_symlink():
            self._link(file, f"..data/{file.name}")

    def remove(self) -> None:
        self._file.with_name("..data").unlink()

    def _link(self, at: Path, to: str) -> None:
        beside = at.with_name(f"{at.name}_tmp")
        beside.symlink_to(to)
        os.replace(beside, at)


async def revocation(site: Site, connections: int = 9) -> Summary:
    """A key that is revoked is refused in every worker, on connections that are open as on new ones; nobody else is.
    (Not so many connections that those who are refused are throttled.)"""
    await site.start()
    site.summary.name = "revocation"
    running = asyncio.create_task(site.load.run())
    made = json.loads(await site.command("keys", "create", "victim", "--tag", "generation=g0", "--json"))
    loop = asyncio.get_running_loop()
    probes: list[Probe] = []
    try:
        for number in range(connections):
            _, probe = await loop.create_connection(Probe, "127.0.0.1", site.port)
            probe.begin(2_000_000 + number * 10_000, made["key"])
            probes.append(probe)
        for probe in probes:
            if (status := await probe.ask()) != 200:
                site.summary.problems.append(f"a new key is answered {status}")
        let_in = [asyncio.create_task(probe.until_refused()) for probe in probes]
        await site.command("keys", "revoke", "victim", "--yes")
        revoked = (site.server.data_dir / "keys.json").stat().st_mtime
        await asyncio.wait_for(asyncio.gather(*let_in), PATIENCE)
        site.summary.took["revoked"] = round(max(task.result() for task in let_in) - revoked, 3)
        if {probe.status for probe in probes} != {401}:
            site.summary.problems.append(f"a revoked key is answered {[probe.status for probe in probes]}")
        for number in range(connections):  # whom a new connection reaches is the kernel's choice
            _, probe = await loop.create_connection(Probe, "127.0.0.1", site.port)
            probe.begin(3_000_000 + number, made["key"])
            if (status := await probe.ask()) != 401:
                site.summary.problems.append(f"a revoked key is answered {status}")
        site.load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    answered = [id_ for probe in probes for id_ in probe.ids]
    rows = site.server.query("SELECT id::VARCHAR AS id, worker FROM requests WHERE key_id = 'victim'")
    if {row["id"] for row in rows} != set(answered):
        site.summary.problems.append(f"{len(answered)} requests of the key, {len(rows)} rows")
    if len({row["worker"] for row in rows}) != 2:
        site.summary.problems.append("the key has not been used in both workers")
    return site.settle(others=("victim",))


class Probe(ClientConnection):
    """Asks by one key, again and again."""

    def begin(self, number: int, key: str) -> None:
        self._number, self._key = number, key
        self.ids: list[str] = []
        self.status = 0

    async def ask(self) -> int:
        self.outcome = outcome = Outcome(self._number, "probe")
        self._number += 1
        head, body = request(outcome.number, b"unary", self._key)
        self.transport.write(head + body)
        await self.until(lambda: outcome.complete)
        self.status = outcome.status
        if outcome.status == 200 and outcome.id is not None:
            self.ids.append(outcome.id)
        return outcome.status

    async def until_refused(self) -> float:
        """When the last request began that was let in, as seconds since 1970."""
        while True:
            last = time.time()
            if await self.ask() != 200:
                return last
            await asyncio.sleep(0.01)


async def rotation(site: Site) -> Summary:
    """Client keys get successors under load, one that the configuration holds and one of keys.json, and so does the
    provider's: clients take each new key as soon as the command has printed it, some keep the old one until its overlap
    ends. Not one request is refused."""
    await site.start()
    site.summary.name = "rotation"
    made = json.loads(
        await site.command("keys", "create", "stored", "--tag", "generation=g0", "--project", "p0", "--json")
    )
    in_use = {"stored": made["key"], "me": KEY}
    load = site.load
    load.kinds = site.noted(
        {
            f"{name} {who}": (weight, kind)
            for who in in_use
            for name, (weight, kind) in kinds(lambda who=who: in_use[who]).items()
        }
    )
    running = asyncio.create_task(load.run())
    try:
        former = dict(in_use)
        for _ in range(2):
            for who in ("stored", "me"):
                rotated = json.loads(await site.command("keys", "rotate", who, "--overlap", "1h", "--json"))
                count = len(load.outcomes)
                await poll(lambda count=count: len(load.outcomes) > count + 50, "requests with the old key")
                former[who], in_use[who] = in_use[who], rotated["key"]
                count = len(load.outcomes)
                await poll(lambda count=count: len(load.outcomes) > count + 50, "requests with the new key")
        # The keys of the first time have ended with those of the second rotation at the latest; those still work.
        loop = asyncio.get_running_loop()
        for number, who in enumerate(former):
            _, probe = await loop.create_connection(Probe, "127.0.0.1", site.port)
            probe.begin(4_000_000 + number, former[who])
            if (status := await probe.ask()) != 200:
                site.summary.problems.append(f"the former key of {who} is answered {status} within its overlap")
        for who in former:
            rotated = json.loads(await site.command("keys", "rotate", who, "--overlap", "1h", "--json"))
            in_use[who] = rotated["key"]
        load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        for who in former:
            await site.command("keys", "rotate", who, "--overlap", "0", "--json")
            _, probe = await loop.create_connection(Probe, "127.0.0.1", site.port)
            probe.begin(5_000_000 + len(in_use[who]), in_use[who])
            if (status := await probe.ask()) != 401:
                site.summary.problems.append(f"the former key of {who} is answered {status} without an overlap")
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    return site.settle()


async def provider(site: Site) -> Summary:
    """The provider's key gets a successor under load, and the provider ends the old one once it is out of use. Not one
    request is refused, also not those that had begun with the old key."""
    await site.start()
    site.summary.name = "provider"
    load = site.load
    running = asyncio.create_task(load.run())
    try:
        await site.served(0)
        await site.command("keys", "provider", "rotate", "openai", "--no-check", stdin="sk-successor-0\n")
        last = max(site.upstream.paths, default=0)
        begun = len(load.outcomes)
        await poll(lambda: len(load.outcomes) > begun + 200, "requests with the new key")
        old = {
            number for number, key in site.upstream.credentials.items() if key == b"sk-generation-0" and number > last
        }
        site.upstream.refuses.add(b"sk-generation-0")
        begun = len(load.outcomes)
        await poll(lambda: len(load.outcomes) > begun + 200, "requests that only the new key gets through")
        if b"sk-successor-0" not in site.upstream.credentials.values():
            site.summary.problems.append("the new key has not been used")
        late = [number for number in old if number > begun]
        if late:
            site.summary.problems.append(f"the old key was used on: {late[:5]}")
        load.stopping = True
        await asyncio.wait_for(running, PATIENCE)
        await site.stop()
    finally:
        running.cancel()
        await site.close()
    return site.settle()


class Recording(ClientConnection):
    """Keeps the body of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()

    def on_body(self, body: bytes) -> None:
        self.body += body


def run(trial: Awaitable[Summary]) -> Summary:
    """In an event loop of its own."""
    import uvloop

    async def tried() -> Summary:
        return await trial

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(tried())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default=",".join(TRIALS))
    return parser.parse_args()


TRIALS: dict[str, Callable[[Site, argparse.Namespace], Awaitable[Summary]]] = {
    "reloads": lambda site, given: reloads(site, given.requests),
    "signals": lambda site, given: reloads(site, given.requests, told=True),
    "stream": lambda site, _: stream(site, 30, 20),
    "addresses": lambda site, _: addresses(site),
    "files": lambda site, _: files(site),
    "revocation": lambda site, _: revocation(site),
    "rotation": lambda site, _: rotation(site),
    "provider": lambda site, _: provider(site),
}


def main() -> int:
    given = arguments()
    failed = 0
    for name in given.only.split(","):
        root = Path(tempfile.mkdtemp(prefix=f"fluxen-{name}-"))
        summary = run(TRIALS[name](Site(root / "site", given.seed), given))
        print(json.dumps(asdict(summary)), flush=True)
        if summary.ok:
            shutil.rmtree(root)
        else:
            failed += 1
            print(f"kept for inspection: {root}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
