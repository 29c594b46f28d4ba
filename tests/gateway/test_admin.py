"""Fluxen's own endpoints: who is answered on which address, and that no web page, proxy or client key gets in."""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from gateway.conftest import StartGateway
from gateway.rig import KEY, PROVIDER_KEY, Answer, Client, Gateway, Upstream, request, until

from fluxen.config.load import load_bytes
from fluxen.config.model import Config
from fluxen.gateway.listening import address_problems

ADMIN_KEY = "admin-0123456789abcdef0123456789abcdef"
SHORT_KEY = "admin-short"
YAML = """
version: 1
server: {{bind_address: "127.0.0.1:0"{server}}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
admin: {{bind_address: "{bind}"{admin}}}
"""
DETAIL = ["/-/metrics", "/-/config"]


@dataclass
class Admin:
    """A gateway, and how to call its own endpoints."""

    gateway: Gateway
    port: int

    def ask(
        self, path: str, *headers: str, method: str = "GET", host: str | None = "localhost", body: bytes = b""
    ) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        with Client(self.port) as client:
            return client.ask("\r\n".join(lines).encode() + b"\r\n\r\n" + body, method.encode())


def start(
    gateway: StartGateway, upstream: Upstream, key: str | None = None, bind: str = "127.0.0.1:0", server: str = ""
) -> Admin:
    admin = "" if key is None else f', key: "{key}"'
    config = YAML.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, bind=bind, admin=admin, server=server)
    started = gateway(config)
    return Admin(started, admin_port(started))


def admin_port(gateway: Gateway) -> int:
    """As the gateway's state says it."""
    states = [json.loads(path.read_text()) for path in (gateway.data_dir / "gateways").glob("*.json")]
    [address] = [state["admin"] for state in states if state["pid"] == gateway.process.pid]
    return int(address.rpartition(":")[2])


@pytest.fixture
def local(shared_gateway: StartGateway, upstream: Upstream) -> Admin:
    """Without a key."""
    return start(shared_gateway, upstream)


@pytest.fixture
def keyed(shared_gateway: StartGateway, upstream: Upstream) -> Admin:
    return start(shared_gateway, upstream, ADMIN_KEY)


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def code(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["code"])


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────


def test_health_and_readiness(local: Admin, keyed: Admin) -> None:
    for admin in (local, keyed):
        for method in ("GET", "HEAD"):
            assert admin.ask("/-/healthz", method=method).status == 200
            assert admin.ask("/-/readyz", method=method).status == 200
        assert admin.ask("/-/healthz").body == b'{"status":"ok"}'
        assert code(admin.ask("/-/healthz", method="POST")) == "method_not_allowed"
    assert json.loads(local.ask("/-/readyz").body) == {"status": "ok", "config": "current"}
    assert keyed.ask("/-/readyz").body == b'{"status":"ok"}', "detail is for who may administer"
    assert b"current" in keyed.ask("/-/readyz", bearer(ADMIN_KEY)).body


def test_the_public_address_tells_nothing(local: Admin, keyed: Admin) -> None:
    for admin in (local, keyed):
        public = Admin(admin.gateway, admin.gateway.port)
        assert public.ask("/-/healthz").body == public.ask("/-/readyz").body == b'{"status":"ok"}'
        for path in (*DETAIL, "/-/reload", "/-/", "/-/x"):
            for headers in ((), (bearer(ADMIN_KEY),), (bearer(KEY),)):
                got = public.ask(path, *headers, method="POST" if "reload" in path else "GET")
                assert (got.status, code(got)) == (404, "not_found")


def test_metrics(local: Admin, upstream: Upstream) -> None:
    def counted() -> dict[bytes, float]:
        got = local.ask("/-/metrics")
        assert got.status == 200
        assert got.get(b"content-type") == [b"text/plain; version=0.0.4; charset=utf-8"]
        lines = [line.rpartition(b" ") for line in got.body.splitlines() if not line.startswith(b"#")]
        return {name: float(value) for name, _, value in lines}

    before = counted()[b'fluxen_requests_total{status="2xx"}']
    assert local.gateway.ask(request()).status == 200
    until(lambda: counted()[b'fluxen_requests_total{status="2xx"}'] == before + 1, "the request to be counted")
    assert counted()[b"fluxen_connections"] >= 1
    for line in local.ask("/-/metrics").body.decode().splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) fluxen_\w+ .+|fluxen_\w+(\{\w+="[^"]*"\})? -?[0-9.e+]+', line), line


def test_the_running_configuration(local: Admin) -> None:
    got = local.ask("/-/config")
    assert (got.status, got.get(b"content-type")) == (200, [b"application/json"])
    state = json.loads(got.body)
    assert state["pid"] == local.gateway.process.pid
    assert state["running"]["upstreams"]["openai"]["target_url"].startswith("http://127.0.0.1:")
    for secret in (KEY, PROVIDER_KEY):
        assert secret.encode() not in got.body
    assert "salt" not in state


def test_reload(gateway: StartGateway, upstream: Upstream) -> None:
    admin = start(gateway, upstream)
    path = admin.gateway.folder / "fluxen.yaml"
    good = path.read_text()
    got = admin.ask("/-/reload", method="POST")
    assert (got.status, json.loads(got.body)["ok"]) == (200, True)
    path.write_text(good.replace("api_keys:", "api_kees:"))
    got = admin.ask("/-/reload", method="POST")
    outcome = json.loads(got.body)
    assert (got.status, outcome["ok"]) == (422, False)
    assert any("api_kees" in problem for problem in outcome["problems"])
    assert json.loads(admin.ask("/-/readyz").body) == {"status": "ok", "config": "rejected"}
    assert admin.gateway.ask(request()).status == 200, "what was in force stays"
    path.write_text(good.replace("id: me", "id: other"))
    got = admin.ask("/-/reload", method="POST")
    outcome = json.loads(got.body)
    assert (got.status, outcome["ok"], outcome["problems"]) == (200, True, [])
    answered = admin.gateway.ask(request())
    assert admin.gateway.row(answered)["key_id"] == "other"
    assert json.loads(admin.ask("/-/readyz").body)["config"] == "current"


def test_admin_address_comes_and_goes(gateway: StartGateway, upstream: Upstream) -> None:
    """A reload gives the admin endpoints a key, another address, and takes them away."""
    admin = start(gateway, upstream)
    path = admin.gateway.folder / "fluxen.yaml"
    good = path.read_text()
    path.write_text(good.removesuffix("}\n") + f', key: "{ADMIN_KEY}"}}\n')
    with Client(admin.port) as held:
        assert held.ask(b"GET /-/config HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200
        assert admin.ask("/-/reload", method="POST").status == 200
        assert held.ask(b"GET /-/config HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 401
        assert admin.ask("/-/config").status == 401
        assert admin.ask("/-/config", bearer(ADMIN_KEY)).status == 200
        path.write_text(good.partition("admin:")[0])
        assert admin.ask("/-/reload", bearer(ADMIN_KEY), method="POST").status == 200
        assert held.ask(b"GET /-/config HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 404

    listening = f"0100007F:{admin.port:04X} 00000000:0000 0A"
    until(lambda: listening not in Path("/proc/net/tcp").read_text(), "the address to be let go of", 30)
    assert admin.gateway.ask(request()).status == 200


def test_nothing_else_is_there(local: Admin, upstream: Upstream) -> None:
    """No route of clients, whatever key they bring."""
    for path in ("/openai/v1/chat/completions", "/v1/models", "/", "/-", "/-x"):
        assert code(local.ask(path, bearer(KEY))) == "not_found"
    assert code(local.ask("/-/../v1/models", bearer(KEY))) == "not_found"
    assert not upstream.requests


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_methods(local: Admin, method: str) -> None:
    for path in (*DETAIL, "/-/reload"):
        assert code(local.ask(path, method=method)) == "method_not_allowed"
    assert code(local.ask("/-/reload")) == "method_not_allowed"
    assert code(local.ask("/-/metrics", method="POST")) == "method_not_allowed"


# ── without a key: this machine ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:8081", "127.0.0.1:1"])
def test_names_of_this_machine(local: Admin, host: str) -> None:
    assert local.ask("/-/config", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "0.0.0.0",
        "localhost:8081@evil.example", "localhost evil.example", "", "::1", "[::1", "localhost.", "localhost:", "[::]",
        "localhost:80:80", "localhost/", "2130706433", "127.1", "0x7f.1", "localhost\tx", "[::ffff:127.0.0.1]",
    ],
)  # fmt: skip
def test_dns_rebinding(local: Admin, host: str) -> None:
    """A page whose name was made to point here keeps its own name in Host."""
    for path in DETAIL:
        got = local.ask(path, host=host)
        assert got.status in (400, 403), got.body
    assert local.ask("/-/reload", host=host, method="POST").status in (400, 403)


def test_no_host_or_two(local: Admin) -> None:
    assert local.ask("/-/config", host=None).status == 400
    assert local.ask("/-/config", "Host: localhost").status == 400
    assert local.ask("/-/config", "Host: evil.example").status == 400


@pytest.mark.parametrize(
    "target", ["http://localhost/-/config", "http://evil.example/-/config", "//localhost/-/config"]
)
def test_absolute_targets(local: Admin, target: str) -> None:
    assert local.ask(target).status in (400, 404)


@pytest.mark.parametrize(
    "header",
    [
        "Origin: http://localhost:8081", "Origin: null", "Origin: https://evil.example", "origin:",
        "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "sec-fetch-site: CROSS-SITE", "Sec-Fetch-Site: ",
        "Forwarded: for=127.0.0.1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost",
        "x-forwarded-proto: http",
        "X-Forwarded-Port: 80", "X-Forwarded-Server: localhost", "X-Forwarded-Prefix: /x", "X-Real-IP: 127.0.0.1",
        "X-FORWARDED-anything: ",
    ],
)  # fmt: skip
def test_pages_and_proxies(local: Admin, header: str) -> None:
    for path in DETAIL:
        assert local.ask(path, header).status == 403
    assert local.ask("/-/reload", header, method="POST").status == 403
    assert local.ask("/-/healthz", header).status == 200


@pytest.mark.parametrize("header", ["Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"])
def test_a_person_with_a_browser(local: Admin, header: str) -> None:
    assert local.ask("/-/config", header).status == 200


def test_another_machine(local: Admin) -> None:
    """A peer that is not loopback is refused whatever it says, if it gets so far."""
    from fluxen.gateway.own import _loopback

    for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert _loopback(peer)
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "", "localhost", "unknown", "0.0.0.0"):
        assert not _loopback(peer)


# ── forged posts ─────────────────────────────────────────────────────────────────────────────────────────────────

CROSS = [
    ["Origin: https://evil.example"],
    ["Origin: null"],
    ["Origin: http://localhost:1"],
    ["Origin: http://evil.example", "Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: same-site"],
]
FORMS = [
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain",
    "TEXT/PLAIN;charset=utf-8",
]


@pytest.mark.parametrize("headers", CROSS)
def test_cross_site_post(local: Admin, keyed: Admin, headers: list[str]) -> None:
    """Even with the right key, which a browser might add by itself some day."""
    assert local.ask("/-/reload", *headers, method="POST").status == 403
    got = keyed.ask("/-/reload", *headers, bearer(ADMIN_KEY), method="POST")
    assert (got.status, code(got)) == (403, "cross_site")


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("body", [b"", b"a=b"])
def test_forms(local: Admin, keyed: Admin, kind: str, body: bytes) -> None:
    """What a page can send without asking first."""
    assert local.ask("/-/reload", f"Content-Type: {kind}", method="POST", body=body).status == 415
    assert keyed.ask("/-/reload", f"Content-Type: {kind}", bearer(ADMIN_KEY), method="POST", body=body).status == 415


def test_a_post_has_no_body(local: Admin) -> None:
    assert local.ask("/-/reload", "Content-Type: application/json", method="POST", body=b"{}").status == 400
    assert local.ask("/-/reload", "Content-Length: 0", method="POST").status == 200
    chunked = b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with Client(local.port) as client:
        assert client.ask(chunked).status == 400


# ── with a key ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "header", [bearer(ADMIN_KEY), f"x-api-key: {ADMIN_KEY}", f"authorization: bEARER  {ADMIN_KEY} "]
)
def test_the_key_opens(keyed: Admin, header: str) -> None:
    for path in DETAIL:
        assert keyed.ask(path, header).status == 200
    assert keyed.ask("/-/reload", header, method="POST").status == 200
    assert keyed.ask("/-/config", header, "X-Forwarded-For: 10.0.0.1", host="metrics.example").status == 200


def test_nothing_else_does(gateway: StartGateway, upstream: Upstream) -> None:
    admin = start(gateway, upstream, ADMIN_KEY)
    wrong: Iterable[list[str]] = [
        [],
        [bearer(KEY)],
        [f"x-api-key: {KEY}"],
        [bearer(PROVIDER_KEY)],
        [bearer(ADMIN_KEY + "x")],
        [bearer(ADMIN_KEY[:-1])],
        [bearer(ADMIN_KEY.upper())],
        [f"Authorization: Basic {ADMIN_KEY}"],
        [f"Authorization: {ADMIN_KEY}"],
        ["Authorization: Bearer"],
        [f"Cookie: key={ADMIN_KEY}"],
    ]
    for headers in wrong:
        got = admin.ask("/-/config", *headers)
        assert (got.status, code(got)) == (401, "invalid_admin_key")
        assert admin.ask("/-/reload", *headers, method="POST").status == 401
    assert admin.ask(f"/-/config?key={ADMIN_KEY}").status == 401, "a URL ends up in logs"
    assert admin.ask("/-/config", bearer(ADMIN_KEY), f"x-api-key: {ADMIN_KEY}").status == 400
    for secret in (ADMIN_KEY, KEY, PROVIDER_KEY):
        assert secret not in admin.gateway.stderr()


def test_the_admin_key_is_no_client_key(keyed: Admin, upstream: Upstream) -> None:
    got = keyed.gateway.ask(request(key=bearer(ADMIN_KEY).encode()))
    assert got.status == 401
    assert not upstream.requests


def test_guessing_is_throttled(gateway: StartGateway, upstream: Upstream) -> None:
    """A short key is not even compared then; a long one can't be guessed and keeps its owner in."""
    for key, expected in ((SHORT_KEY, 429), (ADMIN_KEY, 200)):
        admin = start(gateway, upstream, key)
        statuses = [admin.ask("/-/config", bearer(f"guess-{number}")).status for number in range(40)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        assert set(statuses) == {401, 429}
        assert admin.ask("/-/config", bearer("guess")).get(b"retry-after")
        assert admin.ask("/-/config", bearer(key)).status == expected
        assert admin.gateway.ask(request()).status == 200, "a generated client key works on"


def test_readiness_is_no_way_to_guess(gateway: StartGateway, upstream: Upstream) -> None:
    """It answers everybody, and tells more to who has the key: each wrong one counts there, too. A probe has none."""
    admin = start(gateway, upstream, SHORT_KEY)
    assert b"config" in admin.ask("/-/readyz", bearer(SHORT_KEY)).body
    for number in range(40):
        assert admin.ask("/-/readyz", bearer(f"guess-{number}")).body == b'{"status":"ok"}'
    assert admin.ask("/-/readyz", bearer(SHORT_KEY)).body == b'{"status":"ok"}'
    assert admin.ask("/-/config", bearer(SHORT_KEY)).status == 429
    admin = start(gateway, upstream, SHORT_KEY)
    for _ in range(40):
        assert admin.ask("/-/readyz").status == 200
    assert admin.ask("/-/config", bearer(SHORT_KEY)).status == 200


def test_on_the_address_of_clients(gateway: StartGateway, upstream: Upstream) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    config = YAML.format(
        url=upstream.url, provider=PROVIDER_KEY, key=KEY, bind=f"127.0.0.1:{port}", admin=f', key: "{ADMIN_KEY}"',
        server="",
    ).replace("127.0.0.1:0", f"127.0.0.1:{port}")  # fmt: skip
    admin = Admin(gateway(config), port)
    for path in DETAIL:
        assert admin.ask(path).status == 401
        assert admin.ask(path, bearer(KEY)).status == 401
        for _ in range(2):
            assert admin.ask(path, bearer(ADMIN_KEY)).status == 200
    assert admin.ask("/-/reload", bearer(ADMIN_KEY), method="POST").status == 200
    assert admin.ask("/-/reload", bearer(ADMIN_KEY), "Sec-Fetch-Site: cross-site", method="POST").status == 403
    assert admin.ask("/-/readyz").body == b'{"status":"ok"}'
    assert admin.gateway.ask(request()).status == 200


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────


def configured(public: str, own: str, key: bool) -> Config:
    secret = ", key: k" if key else ""
    text = f'server: {{bind_address: "{public}"}}\nadmin: {{bind_address: "{own}"{secret}}}\n'
    return load_bytes(text.encode(), {}, None).config


@pytest.mark.parametrize(
    ("public", "own", "key", "problem"),
    [
        ("127.0.0.1:80", "127.0.0.1:81", False, None),
        ("0.0.0.0:80", "[::1]:81", False, None),
        ("127.0.0.1:80", "0.0.0.0:81", True, None),
        ("127.0.0.1:80", "127.0.0.1:80", True, None),
        ("127.0.0.1:0", "127.0.0.1:0", False, None),
        ("127.0.0.1:80", "127.0.0.1:80", False, "is the address that clients call"),
        ("127.0.0.1:80", "0.0.0.0:81", False, "without admin.key only this machine is answered"),
        ("0.0.0.0:80", "127.0.0.1:80", True, "has the port of server.bind_address"),
        ("127.0.0.1:80", "127.0.0.2:80", False, "has the port of server.bind_address"),
    ],
)
def test_two_addresses(public: str, own: str, key: bool, problem: str | None) -> None:
    found = list(address_problems(configured(public, own, key)))
    if problem is None:
        assert not found
    else:
        [(where, message)] = found
        assert where == ("admin", "bind_address")
        assert problem in message


def test_many_admin_connections_take_no_room_from_clients(gateway: StartGateway, upstream: Upstream) -> None:
    admin = start(gateway, upstream, server=", max_connections: 3")
    held = [Client(admin.port) for _ in range(60)]
    for client in held:
        assert client.ask(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200
    clients = [admin.gateway.connect() for _ in range(3)]
    for client in clients:
        assert client.ask(request()).status == 200
    assert admin.ask("/-/metrics").status == 200, "and clients take none from it"
    more = [Client(admin.port) for _ in range(10)]
    full = until(lambda: select.select([client.sock for client in more], [], [], 0.1)[0], "some to be refused")
    assert full[0].recv(12) == b"HTTP/1.1 503"
    for client in (*held, *clients, *more):
        client.close()


def test_tls(gateway: StartGateway, upstream: Upstream, tmp_path: Path) -> None:
    """Where clients are spoken to in TLS, so is whoever asks from elsewhere; loopback stays plain."""
    certificate = trustme.CA().issue_cert("localhost")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(tmp_path / "server.pem"), append=number > 0)
    certificate.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    tls = f', tls: {{cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key"}}'
    admin = start(gateway, upstream, ADMIN_KEY, server=tls)
    assert admin.ask("/-/config", bearer(ADMIN_KEY)).status == 200
    admin = start(gateway, upstream, ADMIN_KEY, "0.0.0.0:0", server=tls)
    with Client(admin.port, tls=admin.gateway.tls) as client:
        sent = f"GET /-/config HTTP/1.1\r\nHost: localhost\r\n{bearer(ADMIN_KEY)}\r\n\r\n".encode()
        assert client.ask(sent, b"GET").status == 200
    assert b"https://" in admin.ask("/-/config", bearer(ADMIN_KEY)).body
