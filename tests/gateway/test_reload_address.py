"""The address is changed while it serves: the new one is there first, the old one ends when nobody comes any more."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import KEY, Client, Gateway, Upstream, request, until
from gateway.test_reload import BUSY, events, in_force, rejected, settled, state, write

CONFIG = """
version: 1
server: {{bind_address: "{address}", workers: 2}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


def config(upstream: Upstream, address: str, provider: str = "sk-one") -> str:
    return CONFIG.format(url=upstream.url, address=address, provider=provider, key=KEY)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def listens(port: int, host: str | None = None) -> bool:
    """Whether anything listens there; asked of the kernel, because whoever tried would be one more that comes by."""
    return any(number == port and host in (None, address) for address, number, _ in proc.listeners())


def connects(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def listening(server: Gateway) -> set[str]:
    return proc.listening(server.process.pid, *proc.children(server.process.pid))


class Load(threading.Thread):
    """A client that makes a new connection for each request, to wherever it is told to, until it is stopped."""

    def __init__(self, where: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._where = where
        self._stop_now = threading.Event()
        self.served: dict[int, int] = {}
        self.errors: list[object] = []

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self) -> None:
        while not self._stop_now.is_set():
            port = self._where()
            try:
                with Client(port) as client:
                    answer = client.ask(request())
                if answer.status != 200:
                    self.errors.append(answer)
                self.served[port] = self.served.get(port, 0) + 1
            except (OSError, AssertionError) as error:
                self.errors.append(error)

    def end(self) -> None:
        self._stop_now.set()
        self.join(30)


def test_to_another_port_under_load(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, "127.0.0.1:0"))
    old, new = server.port, free_port()
    place = [old]
    with Load(lambda: place[0]) as load, server.connect() as kept:
        assert kept.ask(request()).status == 200
        write(server, config(upstream, f"127.0.0.1:{new}", provider="sk-two"))
        until(lambda: state(server).generation == 2, "it to be taken up", BUSY)
        settled(server, 2)
        assert state(server).address == f"127.0.0.1:{new}"
        assert connects(old), "nobody has stopped coming by the old one"
        assert connects(new)
        served = load.served.get(old, 0)
        until(lambda: load.served.get(old, 0) > served + 20, "the old one to be served on", BUSY)
        place[0] = new
        until(lambda: load.served.get(new, 0) > 20, "the new one to be served", BUSY)
        until(lambda: not listens(old), "the old one to be closed", 20)
        assert load.errors == []
        assert kept.ask(request()).status == 200, "an open connection outlives its address"
    server.port = new
    assert in_force(server, upstream) == {b"Bearer sk-two"}


def test_the_old_one_is_closed_only_when_its_queue_is_empty(gateway: StartGateway, upstream: Upstream) -> None:
    """Connections that wait in a worker's queue are answered though their address is given up."""
    server = gateway(config(upstream, "127.0.0.1:0"))
    old, new = server.port, free_port()
    workers = proc.workers(server.process.pid, 2)
    write(server, config(upstream, f"127.0.0.1:{new}"))
    settled(server, 2)
    os.kill(workers[0], signal.SIGSTOP)
    try:
        clients = [Client(old) for _ in range(12)]
        for client in clients:
            client.send(request())
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + 2.5 or not listens(old), "longer than the other worker waits")
        assert listens(old), "the other worker alone may not decide"
    finally:
        os.kill(workers[0], signal.SIGCONT)
    for client in clients:
        answer = client.answer()
        assert answer is not None
        assert answer.status == 200
        client.close()
    until(lambda: not listens(old), "the old one to be closed", 20)


def test_to_another_host_on_the_same_port_and_back(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, "127.0.0.1:0"))
    port = server.port
    hosts = ("0.0.0.0", "127.0.0.1", "0.0.0.0")
    with Load(lambda: port) as load:
        for number, host in enumerate(hosts, 2):
            write(server, config(upstream, f"{host}:{port}"))
            settled(server, number)
            assert state(server).address == f"{host}:{port}"
            assert connects(port)
            assert connects(port, "127.0.0.2") or host != "0.0.0.0"
    assert load.errors == []
    until(lambda: len(listening(server)) == 2, "the old sockets to be closed", 20)
    assert connects(port, "127.0.0.2")
    write(server, config(upstream, f"127.0.0.1:{port}"))
    settled(server, len(hosts) + 2)
    until(lambda: not listens(port, "0.0.0.0"), "the wildcard address to be closed", 20)
    assert server.ask(request()).status == 200


def test_an_address_that_is_taken_refuses_the_whole_reload(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, "127.0.0.1:0"))
    sockets = listening(server)
    assert len(sockets) == 2
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        write(server, config(upstream, f"127.0.0.1:{taken}", provider="sk-two"))
        assert f"127.0.0.1:{taken} is in use by PID {os.getpid()}" in rejected(server).problems[0]
        assert in_force(server, upstream) == {b"Bearer sk-one"}
        assert len(events(server, "config_rejected")) == 1
    assert listening(server) == sockets
    server.process.send_signal(signal.SIGHUP)  # nothing has changed in the file: whoever asks again has it tried again
    settled(server, 2)
    server.port = taken
    assert in_force(server, upstream) == {b"Bearer sk-two"}


def test_somebody_else_who_shares_the_port_is_noticed(gateway: StartGateway, upstream: Upstream) -> None:
    """From 127.0.0.1 to all addresses while another program of the same user has 127.0.0.2 with SO_REUSEPORT."""
    server = gateway(config(upstream, "127.0.0.1:0"))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.2", server.port))
        other.listen()
        write(server, config(upstream, f"0.0.0.0:{server.port}"))
        assert "is in use by PID" in rejected(server).problems[0]
    assert server.ask(request()).status == 200


def test_a_worker_that_dies_meanwhile_has_both(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, "127.0.0.1:0"))
    old, new = server.port, free_port()
    with Load(lambda: old) as load:
        write(server, config(upstream, f"127.0.0.1:{new}"))
        settled(server, 2)
        [victim, _] = proc.workers(server.process.pid, 2)
    os.kill(victim, signal.SIGKILL)
    clients = [Client(port) for port in (old, new) for _ in range(8)]
    for client in clients:
        assert client.ask(request()).status == 200
        client.close()
    until(lambda: not listens(old), "the old one to be closed", 20)
    assert load.errors == []
    server.kill()


@pytest.mark.parametrize("option", [("--port", "0"), ("--bind", "127.0.0.1:0")])
def test_options_of_the_command_line_win_after_a_reload(
    gateway: StartGateway, upstream: Upstream, option: tuple[str, str]
) -> None:
    server = gateway(config(upstream, "127.0.0.1:1"), args=[*option, "--workers", "1"])
    port = server.port
    write(server, config(upstream, "127.0.0.1:2", provider="sk-two"))
    settled(server, 2)
    assert state(server).address == f"127.0.0.1:{port}"
    assert len(proc.workers(server.process.pid, 1)) == 1
    assert in_force(server, upstream) == {b"Bearer sk-two"}


ADMIN = 'admin: {{bind_address: "127.0.0.1:{port}"}}\n'


def test_the_admin_address_comes_moves_and_goes(gateway: StartGateway, upstream: Upstream) -> None:
    public = config(upstream, "127.0.0.1:0")
    server = gateway(public)
    first, second = free_port(), free_port()
    assert state(server).admin is None
    for generation, port in ((2, first), (3, second)):
        write(server, public + ADMIN.format(port=port))
        settled(server, generation)
        assert state(server).admin == f"127.0.0.1:{port}"
        with Client(port) as client:
            answer = client.ask(b"GET /-/config HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET")
        assert answer.status == 200
        said = json.loads(answer.body)
        assert (said["generation"], said["rejected"]) == (generation, False)
        assert KEY.encode() not in answer.body
        assert "salt" not in said
    until(lambda: not listens(first), "the first one to be closed", 20)
    with Client(second) as client:
        asked = b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        answer = client.ask(asked)
        assert (answer.status, json.loads(answer.body)["generation"]) == (200, 3)
        write(server, public + "nonsense: 1\n")
        rejected(server)
        refused = json.loads(client.ask(asked).body)
        assert refused["ok"] is False
        assert "nonsense" in refused["problems"][0]
        write(server, public)
        settled(server, 4)
    until(lambda: not listens(second), "the second one to be closed", 20)
    assert state(server).admin is None
    assert server.ask(b"GET /-/config HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 404


def test_the_two_addresses_are_not_swapped_at_once(gateway: StartGateway, upstream: Upstream) -> None:
    """For a moment both would listen there: a caller could reach the wrong one."""
    first, second = free_port(), free_port()
    server = gateway(config(upstream, f"127.0.0.1:{first}") + ADMIN.format(port=second))
    before = listening(server)
    write(server, config(upstream, f"127.0.0.1:{second}") + ADMIN.format(port=first))
    assert "is Fluxen's other address" in rejected(server).problems[0]
    assert listening(server) == before
    assert server.ask(request()).status == 200
