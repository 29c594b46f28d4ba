"""What a running gateway takes up, what it refuses, and that nobody's request is harmed by either."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, Client, Connection, Gateway, Request, Upstream, chunked, request, until

from fluxen.gateway.state import State, as_json, running
from fluxen.keys.rotation import revoke
from fluxen.keys.store import KeyStore

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: {workers}}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}", team: "{team}"}}]
"""
BUSY = 20.0
"""Seconds that are allowed on a machine that is busy with other tests; test_acceptance_reload.py knows the promise."""


def config(upstream: Upstream, *, team: str = "one", provider: str = "sk-one", key: str = KEY, workers: int = 2) -> str:
    return CONFIG.format(url=upstream.url, provider=provider, key=key, team=team, workers=workers)


def file_of(server: Gateway) -> Path:
    return server.folder / "fluxen.yaml"


def write(server: Gateway, text: str) -> None:
    """As editors do: a new file in the place of the old."""
    fresh = server.folder / ".fluxen.yaml.new"
    fresh.write_text(text)
    fresh.rename(file_of(server))


def state(server: Gateway) -> State:
    [found] = running(server.data_dir)
    return found


def settled(server: Gateway, generation: int) -> State:
    """Once every worker has that generation."""

    def there() -> State | None:
        found = state(server)
        return found if found.generation >= generation and found.applied == found.workers else None

    found: State = until(there, f"generation {generation} in every worker", BUSY)
    assert found.generation == generation
    return found


def rejected(server: Gateway) -> State:
    return until(lambda: (found := state(server)).rejected and found, "the new configuration to be rejected", BUSY)


def in_force(server: Gateway, upstream: Upstream, times: int = 12) -> set[bytes]:
    """The provider's keys that go upstream, over as many connections."""
    seen = set()
    for _ in range(times):
        assert server.ask(request()).status == 200
        seen.update(upstream.request().get(b"authorization"))
    return seen


def events(server: Gateway, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.stderr().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


# ── what is taken up ─────────────────────────────────────────────────────────────────────────────────────────────


def by_rename(server: Gateway, text: str) -> None:
    write(server, text)


def in_place(server: Gateway, text: str) -> None:
    file_of(server).write_text(text)


def by_backup(server: Gateway, text: str) -> None:
    """As vim does with `backupcopy=no`: the old one is moved away, then a new one is written."""
    file = file_of(server)
    file.rename(file.with_suffix(".yaml~"))
    file.write_text(text)


def in_pieces(server: Gateway, text: str) -> None:
    """As a slow copy does; each beginning of it is no valid configuration or another one."""
    with file_of(server).open("w") as file:
        for line in text.splitlines(keepends=True):
            file.write(line)
            file.flush()


@pytest.mark.parametrize("change", [by_rename, in_place, by_backup, in_pieces])
def test_a_change_is_taken_up_by_every_worker(
    gateway: StartGateway, upstream: Upstream, change: Callable[[Gateway, str], None]
) -> None:
    server = gateway(config(upstream))
    assert in_force(server, upstream) == {b"Bearer sk-one"}
    change(server, config(upstream, team="two", provider="sk-two"))
    settled(server, 2)
    assert in_force(server, upstream) == {b"Bearer sk-two"}
    assert server.row(server.ask(request()))["team"] == "two"
    assert [event["generation"] for event in events(server, "config_reloaded")] == [2]


def test_a_symlink_is_swapped_as_kubernetes_does(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    folder = server.folder / "mounted"
    for turn in ("1", "2", "3"):
        (folder / f"..{turn}").mkdir(parents=True)
        text = config(upstream, provider=f"sk-{turn}", team=turn)
        (folder / f"..{turn}" / "fluxen.yaml").write_text(text)
    (folder / "..data").symlink_to("..1")
    (folder / "fluxen.yaml").symlink_to("..data/fluxen.yaml")
    file_of(server).unlink()
    file_of(server).symlink_to(folder / "fluxen.yaml")
    settled(server, 2)
    for turn in ("2", "3"):
        (folder / "..data_tmp").symlink_to(f"..{turn}")
        (folder / "..data_tmp").rename(folder / "..data")
        settled(server, int(turn) + 1)
        assert in_force(server, upstream) == {b"Bearer sk-%b" % turn.encode()}
        shutil.rmtree(folder / f"..{int(turn) - 1}")


def test_the_folder_is_replaced_as_a_whole(gateway: StartGateway, upstream: Upstream) -> None:
    """No event tells of that: it is seen by looking."""
    server = gateway(config(upstream))
    conf = server.folder / "conf"
    (conf / "d").mkdir(parents=True)
    (conf / "d" / "fluxen.yaml").write_text(config(upstream, provider="sk-2"))
    file_of(server).unlink()
    file_of(server).symlink_to(conf / "d" / "fluxen.yaml")
    settled(server, 2)
    other = server.folder / "other"
    (other / "d").mkdir(parents=True)
    (other / "d" / "fluxen.yaml").write_text(config(upstream, provider="sk-3"))
    conf.rename(server.folder / "old")
    other.rename(conf)
    settled(server, 3)
    assert in_force(server, upstream) == {b"Bearer sk-3"}
    (conf / "d" / "fluxen.yaml").write_text(config(upstream, provider="sk-4"))
    settled(server, 4)


def test_a_secret_in_a_file_of_its_own(gateway: StartGateway, upstream: Upstream, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sk-first\n")
    server = gateway(config(upstream, provider=f"file:{secret}"))
    assert in_force(server, upstream, 1) == {b"Bearer sk-first"}
    secret.write_text("sk-second\n")
    settled(server, 2)
    assert in_force(server, upstream) == {b"Bearer sk-second"}
    secret.unlink()
    assert "can't read" in rejected(server).problems[0]
    assert in_force(server, upstream) == {b"Bearer sk-second"}
    secret.write_text("sk-third\n")
    settled(server, 3)
    assert not state(server).rejected
    assert in_force(server, upstream) == {b"Bearer sk-third"}


def test_a_secret_that_the_configuration_names_too_early(gateway: StartGateway, upstream: Upstream) -> None:
    """The file comes after its name: that mends it, without another change of the configuration."""
    server = gateway(config(upstream))
    secret = server.folder / "later"
    write(server, config(upstream, provider=f"file:{secret}"))
    rejected(server)
    secret.write_text("sk-later")
    settled(server, 2)
    assert in_force(server, upstream) == {b"Bearer sk-later"}


def test_what_means_the_same_is_no_new_generation(gateway: StartGateway, upstream: Upstream) -> None:
    text = config(upstream)
    server = gateway(text)
    for again in (text, f"# a comment\n{text}", text):
        write(server, again)
        before = state(server).attempts
        server.process.send_signal(signal.SIGHUP)
        until(lambda before=before: state(server).attempts > before, "it to be looked at")
    assert state(server).generation == 1
    assert events(server, "config_reloaded") == []


def test_a_client_key_is_revoked_in_every_worker(gateway: StartGateway, upstream: Upstream) -> None:
    """Also on connections that are open, and for heads that the workers remember."""
    server = gateway(config(upstream))
    clients = [server.connect() for _ in range(12)]
    for client in clients:
        assert client.ask(request()).status == 200
    write(server, config(upstream, key="fx-another-0123456789"))
    settled(server, 2)
    for client in clients:
        assert client.ask(request()).status == 401
        client.close()


def test_limits_are_taken_up(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    assert server.ask(request(body=b'{"model":"%b"}' % (b"m" * 3000))).status == 200
    write(server, config(upstream).replace("workers: 2", "workers: 2, max_body: 2000, max_connections: 2"))
    settled(server, 2)
    assert server.ask(request(body=b'{"model":"%b"}' % (b"m" * 3000))).status == 413
    kept = [server.connect() for _ in range(8)]
    refused = [client for client in kept if not client.is_open()]
    until(lambda: [client for client in kept if not client.is_open()], "connections beyond the limit to be refused")
    assert refused is not None
    for client in kept:
        client.close()


def test_what_takes_a_restart_is_named_and_the_rest_taken_up(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    text = config(upstream, provider="sk-two", workers=3) + "ledger: {retention_days: 3}\n"
    write(server, text)
    found = settled(server, 2)
    assert found.needs_restart == ["server.workers", "ledger.retention_days"]
    assert len(proc.workers(server.process.pid, 2)) == 2
    assert in_force(server, upstream) == {b"Bearer sk-two"}
    [said] = events(server, "config_needs_restart")
    assert said["settings"] == "server.workers, ledger.retention_days"


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_file_changes_nothing_and_is_told_once(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    bad = config(upstream, provider="sk-two").replace("target_url", "target_ulr")
    for number, text in enumerate((bad, bad + "\n", bad + "\n\n")):
        write(server, text)
        server.process.send_signal(signal.SIGHUP)
        until(lambda number=number: state(server).attempts > number, "it to be looked at")
        rejected(server)
    [said] = events(server, "config_rejected")
    assert ":5:" in str(said["problems"])
    assert "did you mean 'target_url'?" in str(said["problems"])
    assert in_force(server, upstream) == {b"Bearer sk-one"}
    write(server, bad.replace("version: 1", "version: 7"))
    until(lambda: len(events(server, "config_rejected")) == 2, "another error to be told", BUSY)
    write(server, config(upstream))
    until(lambda: not state(server).rejected, "it to be mended", BUSY)
    assert state(server).generation == 1
    assert in_force(server, upstream) == {b"Bearer sk-one"}


def test_a_revoked_key_does_not_live_on_beside_a_bad_file(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    store = KeyStore(server.data_dir)
    ends, stays = (request(key=b"x-api-key: " + store.create(name).encode()) for name in ("ends", "stays"))
    until(lambda: server.ask(ends).status == server.ask(stays).status == 200, "both keys to be known", BUSY)
    write(server, config(upstream, team="two") + "nonsense: 1\n")
    problems = rejected(server).problems
    before = state(server).generation
    with store.change() as draft:
        revoke(draft, "ends", None, datetime.now(UTC))
    after = settled(server, before + 1)
    assert (after.rejected, after.problems) == (True, problems)
    refused = {401, 429}  # whoever asked often before the key was known is throttled
    assert {server.ask(ends).status for _ in range(12)} <= refused
    assert {server.ask(stays).status for _ in range(12)} == {200}
    assert len(events(server, "config_rejected")) == 1
    write(server, config(upstream, team="two"))
    assert not settled(server, before + 2).rejected
    assert server.ask(ends).status in refused


@pytest.mark.parametrize("text", [None, "", "   \n", "# nothing\n", "version: 1\n"])
def test_keys_never_become_open_mode(gateway: StartGateway, upstream: Upstream, text: str | None) -> None:
    """Gone, empty, or without a word of keys."""
    server = gateway(config(upstream))
    if text is None:
        file_of(server).unlink()
    else:
        write(server, text)
    rejected(server)
    assert server.ask(request()).status == 200
    assert server.ask(request(key=None)).status == 401
    write(server, config(upstream))
    until(lambda: not state(server).rejected, "it to be back", BUSY)
    assert state(server).generation == 1


def test_another_file_never_takes_the_place_of_one_that_is_gone(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway("", args=())  # only to have a folder
    server.stop()
    first = server.folder / "fluxen.yaml"
    second = server.folder / "home" / ".config" / "fluxen" / "fluxen.yaml"
    second.parent.mkdir(parents=True)
    first.write_text(config(upstream))
    second.write_text(config(upstream, provider="sk-other"))
    server.start()
    first.unlink()
    assert "gone" in rejected(server).problems[0]
    assert in_force(server, upstream) == {b"Bearer sk-one"}


def test_keys_json_vanishes(gateway: StartGateway, upstream: Upstream, fluxen: Callable[..., object]) -> None:
    server = gateway(config(upstream))
    keys = server.data_dir / "keys.json"
    made = fluxen("keys", "create", "ci", "--json", env={"FLUXEN_DATA_DIR": str(server.data_dir)})
    assert made.returncode == 0, made.stderr  # type: ignore[attr-defined]
    key = json.loads(made.stdout)["key"].encode()  # type: ignore[attr-defined]
    settled(server, 2)
    own = request(key=b"x-api-key: " + key)
    assert {server.ask(own).status for _ in range(8)} == {200}
    keys.rename(keys.with_suffix(".away"))
    assert "keys.json is gone" in rejected(server).problems[0]
    assert {server.ask(own).status for _ in range(8)} == {200}
    keys.with_suffix(".away").rename(keys)
    until(lambda: not state(server).rejected, "it to be back", BUSY)
    keys.write_bytes(b"{")
    rejected(server)
    assert {server.ask(own).status for _ in range(8)} == {200}


def test_what_is_no_unicode_in_a_file_ends_no_gateway(gateway: StartGateway, upstream: Upstream) -> None:
    """JSON can escape half a character, which no file of state could be written with: the supervisor fell over it."""
    server = gateway(config(upstream))
    half = '{"version": 1, "credentials": [{"upstream": "\\ud800", "key": "sk-two"}]}'
    (server.data_dir / "credentials.json").write_text(half)
    warnings = settled(server, 2).warnings
    assert any("has a key for '?', and there is no such upstream" in warning for warning in warnings)
    assert in_force(server, upstream) == {b"Bearer sk-one"}


@pytest.mark.parametrize("pid", [1, -1, 0])
def test_a_state_that_names_somebody_elses_process_is_not_believed(
    pid: int, gateway: StartGateway, upstream: Upstream
) -> None:
    """Root's `fluxen reload` would send its SIGHUP there, and -1 is everybody."""
    server = gateway(config(upstream))
    real = state(server)
    file = server.data_dir / "gateways" / f"{real.pid}.json"
    forged = json.loads(file.read_bytes()) | {"pid": pid}
    file.write_text(json.dumps(forged))
    assert running(server.data_dir) == []


def test_a_state_can_always_be_written() -> None:
    """The name of a folder need not be UTF-8."""
    said = State(1, "node", "0", 0.0, config="/srv/\udcff/fluxen.yaml", problems=["\ud800: unknown"])
    found = msgspec.json.decode(as_json(said), type=State)
    assert (found.config, found.problems) == ("/srv/?/fluxen.yaml", ["?: unknown"])


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────


class Ticking:
    """A play: a stream that goes on until it is told to end, a chunk at a time."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, connection: Connection, _: Request) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"
        )
        assert self.go_on.wait(120)
        connection.send(chunked(b"ended"))


def begin(server: Gateway, count: int) -> list[Client]:
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.send(request())
        data = b""
        while b"begun" not in data:
            data += client.read()
    return clients


def finish(client: Client) -> bytes:
    data = b""
    while b"\r\n0\r\n\r\n" not in data and not client.ended:
        data += client.read()
    client.close()
    return data


def test_nothing_leaks_and_streams_go_on(
    gateway: StartGateway, upstream: Upstream, upstreams: Callable[[str], Upstream]
) -> None:
    """Fifty reloads, half of them with another upstream: descriptors and memory stay, streams flow."""
    other = upstreams("other")
    server = gateway(config(upstream))
    streams = Ticking()
    upstream.plays(streams)
    clients = begin(server, 6)
    upstream.plays(OK)
    pids = [server.process.pid, *proc.children(server.process.pid)]
    before = None
    for turn in range(50):
        target = other if turn % 2 else upstream
        server.process.send_signal(signal.SIGHUP) if turn % 3 == 0 else None
        write(server, config(target, provider=f"sk-{turn}"))
        settled(server, turn + 2)
        for _ in range(4):
            assert server.ask(request()).status == 200
        assert target.request().get(b"authorization") == [b"Bearer sk-%d" % turn]
        if turn == 9:
            before = [(len(proc.descriptors(pid)), proc.rss(pid)) for pid in pids]
    assert before is not None
    assert proc.children(server.process.pid) == pids[1:]
    after = [(len(proc.descriptors(pid)), proc.rss(pid)) for pid in pids]
    for pid, (files, memory), (more_files, more_memory) in zip(pids, before, after, strict=True):
        assert more_files <= files + 8, (pid, proc.descriptors(pid))
        assert more_memory < memory + 12_000_000
    streams.go_on.set()
    for client in clients:
        assert finish(client) == b"5\r\nended\r\n0\r\n\r\n"


def test_a_worker_dies_during_a_reload(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    victim = proc.workers(server.process.pid, 2)[0]
    os.kill(victim, signal.SIGSTOP)
    write(server, config(upstream, provider="sk-two"))
    until(lambda: (state(server).generation, state(server).applied) == (2, 1), "the other one to have it", BUSY)
    os.kill(victim, signal.SIGKILL)
    settled(server, 2)
    proc.workers(server.process.pid, 2)
    assert in_force(server, upstream) == {b"Bearer sk-two"}
    write(server, config(upstream, provider="sk-three"))
    settled(server, 3)
    assert in_force(server, upstream) == {b"Bearer sk-three"}
    server.kill()


def test_a_worker_that_takes_nothing_is_replaced(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    victim = proc.workers(server.process.pid, 2)[0]
    os.kill(victim, signal.SIGSTOP)
    for number in range(3):
        write(server, config(upstream, provider=f"sk-{number}"))
        until(lambda number=number: state(server).generation == number + 2, "the supervisor to take it up", BUSY)
    until(lambda: state(server).applied == 2, "the worker to be replaced", 30)
    assert not proc.alive(victim)
    assert in_force(server, upstream) == {b"Bearer sk-2"}
    assert [event["child"] for event in events(server, "worker_stuck")]
    server.kill()


def test_the_watcher_dies(gateway: StartGateway, upstream: Upstream) -> None:
    """Its successor sees what was changed meanwhile."""
    server = gateway(config(upstream))
    watcher = proc.children(server.process.pid)[-1]
    os.kill(watcher, signal.SIGKILL)
    write(server, config(upstream, provider="sk-two"))
    settled(server, 2)
    until(lambda: len(proc.children(server.process.pid)) == 5, "a new watcher")
    write(server, config(upstream, provider="sk-three"))
    settled(server, 3)
    server.kill()


def test_the_supervisor_is_killed(gateway: StartGateway, upstream: Upstream) -> None:
    """Everything ends, the watcher too; what it left in the data folder is known as such and goes at the next start."""
    server = gateway(config(upstream))
    children = proc.children(server.process.pid)
    assert len(children) == 5
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(30)
    for child in children:
        until(lambda child=child: not proc.alive(child), f"the end of {child}", 30)
    left = sorted(path.name for path in (server.data_dir / "gateways").iterdir())
    assert left == [f"{server.process.pid}.json", f"{server.process.pid}.lock"]
    assert running(server.data_dir) == []
    server.start()
    assert [one.pid for one in running(server.data_dir)] == [server.process.pid]
    assert f"{server.process.pid}.json" in [path.name for path in (server.data_dir / "gateways").iterdir()]
    assert not (server.data_dir / "gateways" / left[0]).exists() or left[0] == f"{server.process.pid}.json"
    server.stop()
    assert list((server.data_dir / "gateways").iterdir()) == []


def test_the_state_tells_no_secret(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, provider="sk-planted-0123456789"))
    [file] = (server.data_dir / "gateways").glob("*.json")
    text = file.read_text()
    assert "sk-planted" not in text
    assert KEY not in text
    assert file.stat().st_mode & 0o777 == 0o600
    found = state(server)
    assert found.address == f"127.0.0.1:{server.port}"
    assert found.running["upstreams"]["openai"]["api_key"].startswith("*** [")


def test_a_worker_that_is_told_to_end_takes_what_is_new_meanwhile(gateway: StartGateway, upstream: Upstream) -> None:
    """Its streams go on for longer than the supervisor waits for a worker that takes nothing."""
    server = gateway(config(upstream))
    streams = Ticking()
    upstream.plays(streams)
    clients = begin(server, 12)
    upstream.plays(OK)
    leaving = proc.workers(server.process.pid, 2)[0]
    os.kill(leaving, signal.SIGTERM)
    write(server, config(upstream, provider="sk-two"))
    settled(server, 2)
    begun = time.monotonic()
    until(lambda: time.monotonic() > begun + 6 or not proc.alive(leaving), "longer than that")
    assert proc.alive(leaving)
    streams.go_on.set()
    for client in clients:
        assert finish(client) == b"5\r\nended\r\n0\r\n\r\n"
    until(lambda: not proc.alive(leaving), "its end")
    assert in_force(server, upstream) == {b"Bearer sk-two"}
    server.kill()
