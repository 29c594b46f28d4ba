"""What hostile clients try: to hold connections, to be read in two ways, to name another host. Each is refused in time,
and leaves a line that says who and why, without a byte of what was sent."""

from __future__ import annotations

import datetime
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK_BODY, PROVIDER_KEY, Gateway, Upstream, keyed, request, until
from gateway.test_timeouts import SLACK, Bench, in_loop
from shared import Fluxen

from fluxen.config.model import Tls
from fluxen.errors import ConfigError
from fluxen.gateway.head import MAX_HEAD, MAX_HEADERS
from fluxen.gateway.listening import SOON, certificate_warnings, server_context
from fluxen.gateway.timers import ticks
from fluxen.gateway.tls import HANDSHAKE_SECONDS

QUICK = """
version: 1
server: {{bind_address: "127.0.0.1:0", head_timeout_ms: 300, body_timeout_ms: 400, keep_alive_timeout_ms: 500}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(keyed(upstream))


@pytest.fixture
def quick(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(QUICK.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))


# ── patience is configured ───────────────────────────────────────────────────────────────────────────────────────


def test_a_head_that_does_not_end(quick: Gateway) -> None:
    """A byte now and then buys no time."""
    began = time.monotonic()
    with quick.connect() as client:
        client.send(request()[:70])
        client.sock.setblocking(False)

        def answered() -> bytes:
            try:
                client.sock.send(b"x")
            except (BlockingIOError, ConnectionError):
                pass
            try:
                return client.sock.recv(65536)
            except BlockingIOError:
                return b""

        got = until(answered, "the head's time to be over")
    assert got.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began >= 0.3


def test_a_body_that_stops(quick: Gateway, upstream: Upstream) -> None:
    with quick.connect() as client:
        client.send(request()[:-5])
        got = client.answer()
        assert got is not None
        assert got.status == 408
    assert quick.row(got)["error"] == "request_timeout"
    assert not upstream.requests


def test_a_connection_that_asks_no_more(quick: Gateway) -> None:
    with quick.connect() as idle, quick.connect() as used:
        assert used.ask(request()).status == 200
        assert idle.closes()
        assert used.closes()


def test_a_reload_changes_patience(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(keyed(upstream))
    path = server.folder / "fluxen.yaml"
    with server.connect() as client:
        assert client.ask(request()).status == 200
        text = path.read_text()
        path.write_text(text.replace('"127.0.0.1:0"', '"127.0.0.1:0", keep_alive_timeout_ms: 300'))

        def taken_up() -> bool:
            with server.connect() as other:
                return other.closes(1.0)

        until(taken_up, "the reload to reach new connections", 20)
        assert client.ask(request()).status == 200, "the old one is as it was until it is used again"
        assert client.closes()


def test_a_handshake_that_does_not_end(tmp_path: Path) -> None:
    """Bytes of a hello that come one by one buy no time, and neither is it a connection that may idle."""
    certificate = trustme.CA().issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    wire = outgoing.read()

    async def test(here: Bench) -> None:
        here.worker.tls = context
        silent, slow = await here.connect(), await here.connect()
        passed = 0
        while not slow.ended:
            slow.write(wire[passed : passed + 1])
            await here.turn(1)
            passed += 1
            assert passed < ticks(HANDSHAKE_SECONDS) + SLACK
        assert passed >= ticks(HANDSHAKE_SECONDS) - 5
        await here.passes(lambda: silent.ended, SLACK)
        assert silent.got == slow.got == b""

    in_loop(test, tmp_path)


# ── limits of heads ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sent",
    [
        request(headers=[b"X-A: " + b"a" * MAX_HEAD]),
        request(headers=[b"X-%d: a" % number for number in range(MAX_HEADERS + 1)]),
        request(target=b"/openai/v1/x?" + b"a" * MAX_HEAD),
        b"POST /openai/v1/x HTTP/1.1\r\n" + b"X-A: b\r\n" * (MAX_HEAD // 8),
    ],
    ids=["one large", "many", "a long target", "without an end"],
)
def test_large_heads(server: Gateway, upstream: Upstream, sent: bytes) -> None:
    with server.connect() as client:
        got = client.ask(sent)
        assert got.status == 431
        assert b"headers_too_large" in got.body
    assert not upstream.requests


def test_a_head_at_the_limit(server: Gateway, upstream: Upstream) -> None:
    plain = request()
    room = MAX_HEAD - plain.index(b"\r\n\r\n") - 4 - len(b"X-A: \r\n")
    assert server.ask(request(headers=[b"X-A: " + b"a" * room])).status == 200
    assert server.ask(request(headers=[b"X-A: " + b"a" * (room + 1)])).status == 431


# ── who and why ──────────────────────────────────────────────────────────────────────────────────────────────────

MARK = b"zqxj-mark"
TRICKS: list[tuple[bytes, str]] = [
    (request(headers=[b"Transfer-Encoding: chunked"]), "malformed head"),
    (request(headers=[b"Content-Length: 1"]), "malformed head"),
    (
        request(headers=[b"Transfer-Encoding: " + MARK + b", chunked"], length=False),
        "only 'Transfer-Encoding: chunked'",
    ),
    (request(headers=[b"X-A : " + MARK]), "malformed head"),
    (request(headers=[b"X-A: b\n" + MARK + b": c"]), "malformed head"),
    (request(headers=[b"Host: " + MARK]), "two Host headers"),
    (request(target=b"http://" + MARK + b"/openai/v1/x"), "the request target must be a path"),
    (request(target=b"/openai/v1/../" + MARK), "dot segments"),
    (request(target=b"/openai/%2e%2e/" + MARK), "dot segments"),
    (request(headers=[b"x-api-key: " + MARK]), "more than one credential"),
    (request(headers=[b"Transfer-Encoding: chunked"], length=False, body=MARK + b"\r\n"), "malformed body"),
    (b"\x16\x03\x01" + MARK, "malformed head"),
]


@pytest.mark.parametrize(("sent", "reason"), TRICKS)
def test_what_could_be_read_in_two_ways(server: Gateway, upstream: Upstream, sent: bytes, reason: str) -> None:
    def lines() -> list[dict[str, object]]:
        return [line for line in map(json.loads, server.stderr().splitlines()) if line["event"] == "security"]

    before = len(lines())
    with server.connect() as client:
        got = client.ask(sent)
        assert got.status in (400, 501)
        assert not upstream.requests

    def told() -> bool:
        return any(reason in str(line["reason"]) for line in lines())

    until(told, "the line")
    assert len(lines()) >= before
    for line in lines():
        assert (line["level"], line["client_ip"]) == ("warning", "127.0.0.1")
    assert MARK.decode() not in server.stderr()


def test_lines_come_at_a_bounded_rate(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(keyed(upstream))
    began = time.monotonic()
    for _ in range(200):
        with server.connect() as client:
            assert client.ask(request(headers=[b"Host: other"])).status == 400
    seconds = time.monotonic() - began
    server.stop()
    lines = [line for line in map(json.loads, server.stderr().splitlines()) if line["event"] == "security"]
    assert 1 <= len(lines) <= seconds + 3
    assert sum(1 + line.get("more", 0) for line in lines) == 200, "none is forgotten"


# ── hosts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"evil.example:443", b"169.254.169.254", b"a@b", b"a/b", b"", b"[::1", b"localhost, evil.example",
     b"evil.example\tx", b"\xe4", b"a" * 5000],
)  # fmt: skip
def test_a_host_decides_nothing(server: Gateway, upstream: Upstream, host: bytes) -> None:
    """Whatever a client names, its request goes where the configuration says, and says that name there."""
    got = server.ask(request(host=host))
    assert (got.status, got.body) == (200, OK_BODY)
    seen = upstream.request()
    assert seen.get(b"host") == [upstream.url[7:].encode()]
    assert not host or len(host) < 5 or host not in seen.wire
    assert b"evil" not in got.wire


@pytest.mark.parametrize(
    "target",
    [b"http://evil.example/openai/v1/x", b"https://localhost/openai/v1/x", b"evil.example:443", b"*",
     b"//evil.example/x", b"/\\evil.example/x", b"@evil.example/x", b"?key=a"],
)  # fmt: skip
def test_a_target_names_no_host(server: Gateway, upstream: Upstream, target: bytes) -> None:
    got = server.ask(request(target=target))
    assert got.status in (400, 404)
    assert not upstream.requests


@pytest.mark.parametrize("name", [b"X-Forwarded-Host", b"X-Original-URL", b"X-Rewrite-URL", b"X-HTTP-Method-Override",
                                  b"X-Forwarded-Prefix", b"Forwarded"])  # fmt: skip
def test_no_header_changes_the_way(server: Gateway, upstream: Upstream, name: bytes) -> None:
    assert server.ask(request(headers=[name + b": /-/metrics"])).status == 200
    assert upstream.request().target == b"/v1/chat/completions"


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def write(folder: Path, name: str, certificate: trustme.LeafCert) -> Tls:
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(folder / f"{name}.pem"), append=number > 0)
    certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return Tls.model_validate({"cert_file": str(folder / f"{name}.pem"), "key_file": str(folder / f"{name}.key")})


@pytest.mark.parametrize(
    ("begins", "ends", "warning"),
    [
        (NOW - DAY, NOW + 60 * DAY, None),
        (NOW - 9 * DAY, NOW - DAY, "has expired"),
        (NOW + DAY, NOW + 60 * DAY, "is not valid yet"),
        (NOW - DAY, NOW + 5 * DAY + DAY / 2, "expires in"),
    ],
)
def test_when_a_certificate_is_valid(
    tmp_path: Path, begins: datetime.datetime, ends: datetime.datetime, warning: str | None
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert(
        "localhost", not_before=begins.replace(tzinfo=None), not_after=ends.replace(tzinfo=None)
    )
    tls = write(tmp_path, "server", issued)
    found = list(certificate_warnings(server_context(tls), tls))
    assert [one for one in found if warning and warning in one] == found
    assert bool(found) is (warning is not None)


def test_a_certificate_ends_in_time(tmp_path: Path) -> None:
    tls = write(
        tmp_path, "server", trustme.CA().issue_cert("localhost", not_after=(NOW + 60 * DAY).replace(tzinfo=None))
    )
    context = server_context(tls)
    begins = 60 - SOON / 86_400
    for days, warning in ((begins - 1, None), (begins + 1, "expires in 13 days"), (59.9, "in 1 days"), (61, "expired")):
        found = list(certificate_warnings(context, tls, NOW.timestamp() + days * 86_400))
        assert len(found) == (warning is not None)
        assert warning is None or warning in found[0]


def mismatch(folder: Path) -> None:
    write(folder, "other", trustme.CA().issue_cert("localhost"))
    (folder / "server.key").write_bytes((folder / "other.key").read_bytes())


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another's key": (mismatch, "is not the key of the certificate"),
    "no certificate": (lambda folder: (folder / "server.pem").unlink(), "can't read"),
    "no key": (lambda folder: (folder / "server.key").unlink(), "can't read"),
    "a folder": (lambda folder: ((folder / "server.key").unlink(), (folder / "server.key").mkdir()), "Is a directory"),
    "an empty key": (lambda folder: (folder / "server.key").write_text(""), "holds no private key"),
    "an empty certificate": (lambda folder: (folder / "server.pem").write_text(""), "holds no certificate"),
    "garbage": (lambda folder: (folder / "server.pem").write_bytes(b"\xff\x00PEM"), "holds no certificate"),
    "exchanged": (lambda folder: (folder / "server.pem").rename(folder / "x"), "can't read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_certificates_that_can_not_be_used(tmp_path: Path, fluxen: Fluxen, case: str) -> None:
    tls = write(tmp_path, "server", trustme.CA().issue_cert("localhost"))
    secret = tls.key_file.read_text().splitlines()[1]
    break_it, message = WRONG[case]
    break_it(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        server_context(tls)
    assert secret not in str(raised.value)
    (tmp_path / "fluxen.yaml").write_text("server:\n  tls: {cert_file: server.pem, key_file: server.key}\n")
    done = fluxen("validate", "fluxen.yaml")
    assert done.returncode == 3
    assert "fluxen.yaml:2:" in done.stderr + done.stdout
    assert message in done.stderr + done.stdout


def test_a_key_with_a_password(tmp_path: Path) -> None:
    """Nobody is asked for it on the terminal."""
    from cryptography.hazmat.primitives import serialization as pem

    tls = write(tmp_path, "server", trustme.CA().issue_cert("localhost"))
    key = pem.load_pem_private_key(tls.key_file.read_bytes(), None)
    locked = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"open sesame"))
    tls.key_file.write_bytes(locked)
    with pytest.raises(ConfigError, match="is protected by a password"):
        server_context(tls)


def test_validate_warns_of_a_certificate(tmp_path: Path, fluxen: Fluxen) -> None:
    ended = (NOW - DAY).replace(tzinfo=None)
    write(tmp_path, "server", trustme.CA().issue_cert("localhost", not_before=ended - DAY, not_after=ended))
    (tmp_path / "fluxen.yaml").write_text("server:\n  tls: {cert_file: server.pem, key_file: server.key}\n")
    done = fluxen("validate", "fluxen.yaml")
    assert done.returncode == 0
    assert "has expired: clients refuse it" in done.stderr + done.stdout
