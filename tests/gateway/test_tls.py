"""HTTPS upstreams: verified by the authorities one names, asked for by name, and streamed like any other."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK,
    OK_BODY,
    PATIENCE,
    PROVIDER_KEY,
    Connection,
    Gateway,
    Request,
    answer,
    chunked,
    request,
    split_head,
    until,
    values,
)

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "https://localhost:{port}", api_key: "{provider}", ca_file: "{ca}"}}
  address: {{target_url: "https://127.0.0.1:{port}", api_key: "{provider}", ca_file: "{ca}"}}
  untrusted: {{target_url: "https://localhost:{port}", api_key: "{provider}"}}
  other: {{target_url: "https://localhost:{port}", api_key: "{provider}", ca_file: "{other}"}}
  plain: {{target_url: "https://localhost:{plain}", api_key: "{provider}", ca_file: "{ca}", connect_timeout_ms: 700}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


class Secure:
    """An upstream behind TLS. `play` answers each request."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._context.sni_callback = self._asked_for
        self.names: list[str | None] = []
        self.protocols: list[str | None] = []
        self.failed: list[str] = []
        self.connections = 0
        self.play: Callable[[Connection, Request], object] = answer_ok
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _asked_for(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.names.append(name)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        try:
            secure = self._context.wrap_socket(sock, server_side=True)
        except OSError as error:
            self.failed.append(str(error))
            sock.close()
            return
        self.connections += 1
        self.protocols.append(secure.selected_alpn_protocol())
        connection = Connection(secure, self.connections)
        while (asked := connection.read_request()) is not None:
            self.play(connection, asked)
            if connection.sock.fileno() < 0:
                return
        connection.close()

    def close(self) -> None:
        self._listening.close()


def answer_ok(connection: Connection, _: Request) -> None:
    connection.send(OK)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Secure]:
    made = Secure(authority.issue_cert("localhost"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mute() -> Iterator[int]:
    """A port that accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    return folder / "ca.pem", folder / "other.pem"


@pytest.fixture
def server(shared_gateway: StartGateway, secure: Secure, mute: int, files: tuple[Path, Path]) -> Gateway:
    secure.play = answer_ok
    config = CONFIG.format(port=secure.port, plain=mute, ca=files[0], other=files[1], provider=PROVIDER_KEY, key=KEY)
    return shared_gateway(config)


def test_a_trusted_upstream(server: Gateway, secure: Secure) -> None:
    before = secure.connections
    for _ in range(5):
        got = server.ask(request())
        assert (got.status, got.body) == (200, OK_BODY)
    assert secure.connections <= before + 1, "a handshake for each request"
    assert secure.names[-1] == "localhost"
    assert secure.protocols[-1] == "http/1.1", "we speak nothing else"
    assert server.row(got)["status"] == 200


@pytest.mark.parametrize(
    ("mount", "why"),
    [("address", "IP address mismatch"), ("untrusted", "unable to get local issuer"), ("other", "certificate")],
)
def test_an_upstream_that_can_not_prove_who_it_is(server: Gateway, secure: Secure, mount: str, why: str) -> None:
    before = secure.connections
    got = server.ask(request(f"/{mount}/v1/chat/completions".encode()))
    assert (got.status, got.complete) == (502, True)
    assert b"upstream_unreachable" in got.body
    row = server.row(got)
    assert (row["status"], row["error"]) == (502, "upstream_unreachable")
    assert (row["usage_source"], row["cost_usd"]) == ("none", 0), "nothing was sent, no key either"
    line = next(str(line["reason"]) for line in server.logged("unreachable") if line["upstream"] == mount)
    assert "certificate" in line.lower()
    assert why in line
    assert PROVIDER_KEY not in server.stderr()
    until(lambda: secure.connections == before or secure.failed, "the handshake to end")


def test_a_handshake_that_does_not_come(server: Gateway) -> None:
    got = server.ask(request(b"/plain/v1/chat/completions"))
    assert got.status == 504
    assert server.row(got)["error"] == "upstream_timeout"


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_stream(server: Gateway, secure: Secure) -> None:
    gate = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + b"5\r\nfirst\r\n")
        assert gate.wait(30)
        connection.send(chunked(b"second"))

    secure.play = play
    with server.connect() as client:
        client.send(request())
        data = b""
        while b"first" not in data:
            data += client.read()
            assert not client.ended
        assert b"second" not in data
        gate.set()
        while b"\r\n0\r\n\r\n" not in data:
            data += client.read()
            assert not client.ended
    assert data.endswith(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")


def test_much_in_both_directions(server: Gateway, secure: Secure) -> None:
    body = bytes(range(256)) * (8 << 10)  # 2 MB

    def echo(connection: Connection, asked: Request) -> None:
        connection.send(answer(asked.body, kind=b"application/octet-stream"))

    secure.play = echo
    for _ in range(2):
        got = server.ask(
            request(b"/openai/v1/files", body, json=False, headers=[b"Content-Type: application/octet-stream"])
        )
        assert (got.status, got.complete) == (200, True)
        assert got.body == body


def test_client_leaves(server: Gateway, secure: Secure) -> None:
    ended = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + b"5\r\nfirst\r\n")
        connection.drain()
        ended.set()

    secure.play = play
    with server.connect() as client:
        client.send(request())
        while b"first" not in client.read():
            assert not client.ended
    assert ended.wait(10), "the upstream connection stays open"


def test_a_connection_cut_without_a_goodbye(server: Gateway, secure: Secure) -> None:
    gate = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + b"5\r\nfirst\r\n")
        assert gate.wait(30)
        connection.close()  # Python's ssl sends no close_notify by itself

    secure.play = play
    with server.connect() as client:
        client.send(request())
        data = b""
        while b"first" not in data:
            data += client.read()
            assert not client.ended
        gate.set()
        while not client.ended:
            data += client.read()
    assert data.endswith(b"5\r\nfirst\r\n")
    identity = values(split_head(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")[1], b"x-fluxen-id")[0].decode()
    assert server.row(identity)["error"] == "upstream_broke"
