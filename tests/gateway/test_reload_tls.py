"""Certificates that change while they are in use: the gateway's own, and those that upstreams are believed by."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import KEY, PROVIDER_KEY, Client, Gateway, Upstream, request, until
from gateway.test_reload import BUSY, rejected, settled, state, write
from gateway.test_tls import Secure

SERVING = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: 2{tls}}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""
CALLING = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "https://localhost:{port}", ca_file: "{ca}", api_key: "{provider}"}}
  more: {{target_url: "https://localhost:{port}", ca_file: "{ca}", api_key: "{provider}", dialect: openai}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


def put(certificate: trustme.LeafCert, folder: Path, *, halves: str = "both") -> None:
    """Each file by a rename, as those who write certificates do."""
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    for name, content in (("cert.pem", chain), ("key.pem", certificate.private_key_pem.bytes())):
        if halves in ("both", name):
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").rename(folder / name)


def leaf(certificate: trustme.LeafCert) -> str:
    pem = certificate.cert_chain_pems[0].bytes().decode()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def shown(server: Gateway) -> set[str]:
    """The certificates that clients see, over as many connections as find every worker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    seen = set()
    for _ in range(12):
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            seen.add(hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest())
    return seen


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def test_the_gateways_own_certificate(
    gateway: StartGateway, upstream: Upstream, authority: trustme.CA, tmp_path: Path
) -> None:
    first, second, third = (authority.issue_cert("localhost", "127.0.0.1") for _ in range(3))
    put(first, tmp_path)
    tls = f', tls: {{cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem"}}'
    server = gateway(SERVING.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, tls=tls))
    assert shown(server) == {leaf(first)}
    with server.connect() as kept:
        assert kept.ask(request()).status == 200
        put(second, tmp_path)
        settled(server, 2)
        assert shown(server) == {leaf(second)}
        assert kept.ask(request()).status == 200, "a connection outlives the certificate it was made with"
    put(third, tmp_path, halves="cert.pem")
    assert "is not the key of the certificate" in rejected(server).problems[0]
    assert shown(server) == {leaf(second)}
    victim = proc.workers(server.process.pid, 2)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: not proc.alive(victim), "its end")
    assert set(proc.workers(server.process.pid, 2)) != {victim}
    assert shown(server) == {leaf(second)}, "a worker that begins meanwhile has what is in force, too"
    put(third, tmp_path, halves="key.pem")
    settled(server, 3)
    assert shown(server) == {leaf(third)}
    server.kill()


def test_http_becomes_https_on_the_same_port_and_back(
    gateway: StartGateway, upstream: Upstream, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate = authority.issue_cert("localhost")
    put(certificate, tmp_path)
    tls = f', tls: {{cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem"}}'
    plain, secure = (SERVING.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, tls=text) for text in ("", tls))
    server = gateway(plain)
    with server.connect() as kept:
        write(server, secure)
        settled(server, 2)
        assert state(server).tls
        assert shown(server) == {leaf(certificate)}
        assert kept.ask(request()).status == 200
    write(server, plain)
    settled(server, 3)
    with Client(server.port) as client:
        assert client.ask(request()).status == 200


def test_what_an_upstream_is_believed_by(gateway: StartGateway, authority: trustme.CA, tmp_path: Path) -> None:
    """Another content of the same file: also a pooled connection, made when it was believed, is not used again."""
    other = trustme.CA()
    secure = Secure(authority.issue_cert("localhost"))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    config = CALLING.format(port=secure.port, provider=PROVIDER_KEY, key=KEY, ca=ca)
    server = gateway(config)
    for _ in range(3):
        assert server.ask(request()).status == 200
    assert secure.connections == 1
    ca.write_bytes(other.cert_pem.bytes())
    settled(server, 2)
    assert server.ask(request()).status == 502
    ca.write_bytes(b"nothing of the kind")
    assert "holds no certificate" in rejected(server).problems[0]
    ca.write_bytes(other.cert_pem.bytes() + authority.cert_pem.bytes())
    settled(server, 3)
    assert server.ask(request()).status == 200
    ca.unlink()
    rejected(server)
    assert server.ask(request()).status == 200
    secure.close()


def test_the_first_upstream_behind_tls(
    gateway: StartGateway, upstream: Upstream, authority: trustme.CA, tmp_path: Path
) -> None:
    """Nothing of TLS was needed when the workers began."""
    secure = Secure(authority.issue_cert("localhost"))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    server = gateway(SERVING.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, tls=""))
    assert server.ask(request()).status == 200
    write(server, CALLING.format(port=secure.port, provider=PROVIDER_KEY, key=KEY, ca=ca))
    settled(server, 2)
    assert server.ask(request()).status == 200
    assert secure.connections == 1
    until(lambda: upstream.connections[-1].ended.is_set(), "a connection that nobody needs to be closed", BUSY)
    secure.close()
