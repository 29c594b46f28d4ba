"""The listener behind TLS: the same bytes as without it, and nothing that TLS lets a client do holds or breaks it."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import trustme
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK_BODY,
    PROVIDER_KEY,
    Client,
    Connection,
    Gateway,
    Request,
    Upstream,
    answer,
    chunked,
    request,
    until,
)
from shared import require_program

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", max_connections: {connections},{more}
         tls: {{cert_file: "{folder}/server.pem", key_file: "{folder}/server.key"}}}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of a gateway that is called localhost and 127.0.0.1, and whom to believe."""
    made = tmp_path_factory.mktemp("https")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(made / "server.pem"), append=number > 0)
    certificate.private_key_pem.write_to_path(str(made / "server.key"))
    authority.cert_pem.write_to_path(str(made / "ca.pem"))
    return made


def config(upstream: Upstream, folder: Path, connections: int = 1024, more: str = "") -> str:
    return CONFIG.format(
        url=upstream.url, provider=PROVIDER_KEY, key=KEY, folder=folder, connections=connections, more=more
    )


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream, folder: Path) -> Gateway:
    return shared_gateway(config(upstream, folder))


def handshake(server: Gateway, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), 15), server_hostname="localhost")


def believing(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# ── what it speaks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request(server: Gateway, upstream: Upstream, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = believing(authority)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with handshake(server, context) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert sock.version() == version.name.replace("_", ".")
        assert sock.compression() is None
        client = Client.over(sock)
        for number in range(3):
            got = client.ask(request(headers=[b"X-N: %d" % number]))
            assert (got.status, got.body) == (200, OK_BODY)
    assert server.row(got)["status"] == 200
    assert f"serves on https://127.0.0.1:{server.port}\n" in server.stdout()
    assert f"OPENAI_BASE_URL=https://127.0.0.1:{server.port}/v1" in server.stdout()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_no_old_version(server: Gateway, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = believing(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        handshake(server, context)


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA256", "DHE"])
def test_no_weak_cipher(server: Gateway, authority: trustme.CA, ciphers: str) -> None:
    """Without forward secrecy, in CBC mode, or whose key exchange costs the server a hundred times the client's."""
    context = believing(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert handshake failure"):
        handshake(server, context)


def test_min_version(gateway: StartGateway, upstream: Upstream, folder: Path, authority: trustme.CA) -> None:
    server = gateway(config(upstream, folder).replace("server.key", 'server.key", min_version: "1.3'))
    assert server.ask(request()).status == 200
    context = believing(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        handshake(server, context)


def test_curl(server: Gateway, upstream: Upstream, folder: Path) -> None:
    done = subprocess.run(
        [require_program("curl"), "-sS", "--cacert", folder / "ca.pem", "-H", f"Authorization: Bearer {KEY}",
         "-H", "Content-Type: application/json", "-d", '{"model":"m"}', "-w", "%{http_version} %{http_code}",
         f"https://localhost:{server.port}/openai/v1/chat/completions", "--resolve",
         f"localhost:{server.port}:127.0.0.1"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == OK_BODY + b"1.1 200"


def test_openai_sdk(server: Gateway, upstream: Upstream, authority: trustme.CA) -> None:
    from openai import DefaultHttpxClient, OpenAI

    upstream.plays(answer(b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[]}'))
    with DefaultHttpxClient(verify=believing(authority)) as http:
        client = OpenAI(base_url=f"{server.url}/v1", api_key=KEY, http_client=http, max_retries=0)
        for _ in range(2):
            assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]).id == "x"


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 2_000, 16_384, 70_000, 3_000_000])
def test_to_the_byte(size: int, server: Gateway, upstream: Upstream) -> None:
    up = b'{"model":"m","x":"' + random.Random(size).randbytes(size) + b'"} \r\n'
    down = random.Random(size + 1).randbytes(size)
    upstream.plays(answer(down, kind=b"application/json"))
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request(body=up))
            assert (got.status, got.complete) == (200, True)
            assert got.body == down
            assert upstream.request().body == up
            assert upstream.request().wire.endswith(b"Content-Length: %d\r\n\r\n" % len(up) + up)


@pytest.mark.parametrize("way", ["length", "chunked"])
def test_an_upload(server: Gateway, upstream: Upstream, way: str) -> None:
    body = random.Random(7).randbytes(4_000_000)
    framing = b"Content-Length: %d" % len(body) if way == "length" else b"Transfer-Encoding: chunked"
    lines = [b"Content-Type: application/octet-stream", framing]
    sent = request(b"/openai/v1/files", b"", json=False, length=False, headers=lines)
    sent += body if way == "length" else chunked(*(body[at : at + 60_001] for at in range(0, len(body), 60_001)))
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(sent).status == 200
            assert upstream.request().body == body


def test_a_stream(server: Gateway, upstream: Upstream) -> None:
    """Each event as soon as it comes, and its bytes as they came."""
    gate = [threading.Event() for _ in range(3)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    def play(connection: Connection, _: Request) -> None:
        connection.send(head)
        for number, one in enumerate(gate):
            assert one.wait(30)
            connection.send(b"%x\r\ndata: %d\n\n\r\n" % (9, number))
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    with server.connect() as client:
        client.send(request())
        got = b""
        for number, one in enumerate(gate):
            one.set()
            while b"data: %d" % number not in got:
                got += client.read()
                assert not client.ended
        while not got.endswith(b"0\r\n\r\n"):
            got += client.read()
            assert not client.ended
    assert got.partition(b"\r\n\r\n")[2] == b"".join(b"9\r\ndata: %d\n\n\r\n" % n for n in range(3)) + b"0\r\n\r\n"


def test_any_split(server: Gateway, upstream: Upstream) -> None:
    """Records that end anywhere: the same request each time, and the next one behind it."""
    sent = request(headers=[b"X-A: b"])
    with server.connect() as client:
        for cut in range(1, len(sent), 3):
            client.send(sent[:cut])
            client.send(sent[cut:])
            got = client.answer()
            assert got is not None
            assert got.status == 200
    wires = {seen.wire for seen in upstream.requests}
    assert len(wires) == 1


def test_records_that_end_anywhere_in_the_wire(server: Gateway, folder: Path, authority: trustme.CA) -> None:
    """TCP cuts records, too: the ciphertext comes byte by byte."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = believing(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", server.port), 15) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def push() -> None:
            for byte in outgoing.read():
                sock.send(bytes([byte]))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                push()
                incoming.write(sock.recv(65536))
        tls.write(request())
        push()
        got = b""
        while OK_BODY not in got:
            try:
                got += tls.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(sock.recv(65536))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined(server: Gateway, upstream: Upstream) -> None:
    with server.connect() as client:
        client.send(b"".join(request(headers=[b"X-N: %d" % number]) for number in range(20)))
        for _ in range(20):
            got = client.answer()
            assert got is not None
            assert got.status == 200
    assert [seen.get(b"x-n") for seen in upstream.requests] == [[b"%d" % number] for number in range(20)]


SMUGGLED = [
    (b"Content-Length: 28", b"Transfer-Encoding: chunked"),
    (b"Content-Length: 28", b"Content-Length: 28"),
    (b"Content-Length: +28",),
    (b"Transfer-Encoding: gzip, chunked",),
    (b"Transfer-Encoding : chunked",),
    (b"X-A: b\r\n folded", b"Content-Length: 28"),
    (b"X-A: b\nX-B: c", b"Content-Length: 28"),
    (b"Host: other", b"Content-Length: 28"),
]


@pytest.mark.parametrize("lines", SMUGGLED)
def test_framing_is_judged_as_without(server: Gateway, upstream: Upstream, lines: tuple[bytes, ...]) -> None:
    with server.connect() as client:
        got = client.ask(request(headers=lines, length=False))
        assert got.status in (400, 501)
        assert client.closes()
    assert not upstream.requests


def test_expect(server: Gateway, upstream: Upstream) -> None:
    sent = request(headers=[b"Expect: 100-continue"])
    head, body = sent[:-28], sent[-28:]
    with server.connect() as client:
        client.send(head)
        got = b""
        while b"\r\n\r\n" not in got:
            got += client.read()
        assert got == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(body).status == 200


# ── endings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_reaches_who_is_still_sending(server: Gateway, upstream: Upstream) -> None:
    """The connection is not reset under the answer, as it would be if it were closed at once."""
    with server.connect() as client:
        client.send(request(body=b"", length=False, headers=[b"Content-Length: 99000000"]))
        for _ in range(40):
            client.send(b"x" * 65536)
        got = client.answer()
        assert got is not None
        assert got.status == 413
        assert client.closes()
        assert not client.was_reset


def test_connection_close_says_goodbye(server: Gateway, authority: trustme.CA) -> None:
    """With close_notify, without which a client must suspect that an end was cut off."""
    sock = socket.create_connection(("127.0.0.1", server.port), 15)
    with believing(authority).wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        tls.sendall(request(headers=[b"Connection: close"]))
        while tls.recv(65536):
            pass


def test_a_cut_answer_does_not_look_complete(server: Gateway, upstream: Upstream, authority: trustme.CA) -> None:
    relayed = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf")
        assert relayed.wait(15)
        connection.reset()

    upstream.plays(play)
    sock = socket.create_connection(("127.0.0.1", server.port), 15)
    with believing(authority).wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        tls.sendall(request())
        got = b""
        while not got.endswith(b"half"):
            got += tls.recv(65536)
        relayed.set()
        with pytest.raises(OSError, match=r"(?i)reset|EOF occurred"):
            tls.recv(65536)


@pytest.mark.parametrize("goodbye", ["close_notify", "FIN", "reset"])
def test_the_client_leaves(server: Gateway, upstream: Upstream, authority: trustme.CA, goodbye: str) -> None:
    ended = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\nfirst")
        connection.drain()
        ended.set()

    upstream.plays(play)
    sock = handshake(server, believing(authority))
    sock.sendall(request())
    got = b""
    while b"first" not in got:
        got += sock.recv(65536)
    if goodbye == "close_notify":
        sock.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):  # the gateway's own goodbye need not be here yet
            sock.unwrap()
    elif goodbye == "FIN":
        sock.shutdown(socket.SHUT_WR)
    else:
        Client.over(sock).reset()
    assert ended.wait(15), "the upstream goes on for nobody"
    sock.close()


def test_a_client_that_reads_slowly(server: Gateway, upstream: Upstream) -> None:
    """Much in one answer, taken in small pieces: back-pressure reaches the upstream, and every byte arrives."""
    body = random.Random(3).randbytes(8 << 20)
    upstream.plays(answer(body))
    with server.connect(receive_buffer=32768) as client:
        client.send(request())
        got = client.answer()
    assert got is not None
    assert got.body == body


# ── what is no TLS, and what is no end ───────────────────────────────────────────────────────────────────────────


def test_plain_http_is_told_so(server: Gateway) -> None:
    with Client(server.port) as client:
        got = client.ask(request())
        assert got.status == 400
        assert b"https://" in got.body
    assert "http request" in server.stderr()


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"a" * 300, b"SSH-2.0-x\r\n", b"\x80\x2e\x01"]
)
def test_garbage(server: Gateway, garbage: bytes) -> None:
    before = server.children()
    with Client(server.port) as client:
        client.send(garbage)
        client.shut()
        while client.read():
            pass
    assert server.ask(request()).status == 200
    assert server.children() == before


def test_garbage_in_the_middle(server: Gateway, upstream: Upstream, authority: trustme.CA) -> None:
    """A record nobody with the session's keys has made ends the connection; nothing of it is acted on."""
    with server.connect() as client:
        assert client.ask(request()).status == 200
        raw = socket.socket(fileno=client.sock.detach())
        with raw:
            raw.settimeout(15)
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"z" * 32)
            while raw.recv(65536):
                pass
    assert len(upstream.requests) == 1
    assert server.ask(request()).status == 200


@pytest.mark.parametrize("seed", range(4))
def test_spoiled_bytes(server: Gateway, upstream: Upstream, authority: trustme.CA, seed: int) -> None:
    """One byte of what a client sends is another one, wherever it stands, in the handshake or behind it: the
    connection ends, nothing of it is acted on, and the next client is served."""
    chance = random.Random(seed)
    before = server.children()
    for _ in range(25):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = believing(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        spoiled = chance.randrange(1000)
        sent = 0
        with socket.create_connection(("127.0.0.1", server.port), 15) as sock, contextlib.suppress(OSError):
            asked = False
            while True:
                try:
                    if not asked:
                        tls.do_handshake()
                        tls.write(request())
                        asked = True
                    if tls.read(65536):
                        break  # it was answered before that byte came
                except ssl.SSLWantReadError:
                    pass
                wire = bytearray(outgoing.read())
                if sent <= spoiled < sent + len(wire):
                    wire[spoiled - sent] ^= 1 << chance.randrange(8)
                sent += len(wire)
                sock.sendall(wire)
                if sent > spoiled:
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                    break
                incoming.write(sock.recv(65536))
    assert server.ask(request(headers=[b"X-Whole: 1"])).status == 200
    assert server.children() == before
    assert all(seen.body == upstream.request().body for seen in upstream.requests)


def test_no_renegotiation(server: Gateway, folder: Path) -> None:
    """A client of TLS 1.2 that asks for another handshake gets none: each would cost us ten times what it costs him."""
    done = subprocess.run(
        [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2", "-quiet",
         "-no_ign_eof", "-CAfile", folder / "ca.pem"],
        input=b"R\n", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert b"no renegotiation" in done.stderr


def test_max_connections_counts_from_accept(gateway: StartGateway, upstream: Upstream, folder: Path) -> None:
    """Who has connected and never says hello takes room like anybody else."""
    server = gateway(config(upstream, folder, connections=3))
    silent = [socket.create_connection(("127.0.0.1", server.port), 15) for _ in range(3)]

    def full() -> bool:
        with socket.create_connection(("127.0.0.1", server.port), 15) as one:
            readable, _, _ = select.select([one], [], [], 0.05)
            try:
                return bool(readable) and one.recv(1) == b""
            except ConnectionError:
                return True

    until(full, "the gateway to be full")
    assert "gateway_full" in server.stderr()
    for one in silent:
        one.close()

    def answers() -> bool:
        try:
            return server.ask(request()).status == 200
        except (AssertionError, OSError):
            return False

    until(answers, "the gateway to have room again")


def test_health(server: Gateway) -> None:
    """`fluxen health` believes the certificate that its configuration names, whatever the system trusts."""
    import sys

    config_file = server.folder / "asked.yaml"
    written = (server.folder / "fluxen.yaml").read_text()
    config_file.write_text(written.replace("127.0.0.1:0", f"127.0.0.1:{server.port}"))
    line = [sys.executable, "-m", "fluxen_cli", "health", "--config", str(config_file)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"ok: {server.url} takes requests\n")
    line = [sys.executable, "-m", "fluxen_cli", "health", "--url", server.url]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "certificate" in done.stderr.lower()
