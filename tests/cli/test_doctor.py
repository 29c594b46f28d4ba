"""`fluxen doctor`: every check, where all is well and where something is not, against real servers and real files."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from gateway.conftest import environment
from gateway.rig import OK, Connection, Gateway, Request, Upstream, answer
from ledger.samples import DAY, begin, end, settled
from shared import Fluxen, missing

from fluxen.keys.store import KeyStore
from fluxen.ledger import manifest as manifests
from fluxen.ledger.journal import Journal

SECRET = "sk-planted-0123456789"


@pytest.fixture
def upstreams() -> Iterator[Callable[[], Upstream]]:
    """Make an upstream that plays a script."""
    made: list[Upstream] = []

    def make(*plays: Any) -> Upstream:
        made.append(Upstream())
        if plays:
            made[-1].plays(*plays)
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert not one.faults


Doctor = Callable[..., dict[str, list[dict[str, Any]]]]


@pytest.fixture
def doctor(fluxen: Fluxen, tmp_path: Path) -> Doctor:
    """Write this configuration and see the doctor: doctor(yaml, *args) → findings by check. Exit code and text are
    compared with them."""

    def examine(text: str | None, *args: str, env: dict[str, str] | None = None) -> dict[str, list[dict[str, Any]]]:
        if text is not None:
            path = tmp_path / "fluxen.yaml"
            path.touch(mode=0o600)
            path.write_text(text)
        env = {"FLUXEN_DATA_DIR": str(tmp_path / "data"), **(env or {})}
        done = fluxen("doctor", "--json", *args, env=env)
        assert done.stderr == ""
        found = json.loads(done.stdout)
        assert found["ok"] == all(one["status"] != "fail" for one in found["checks"])
        assert done.returncode == (0 if found["ok"] else 1)
        assert SECRET not in done.stdout
        checks: dict[str, list[dict[str, Any]]] = {}
        for one in found["checks"]:
            assert one["status"] in ("ok", "warn", "fail")
            checks.setdefault(one["check"], []).append(one)
        return checks

    return examine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def serving(upstream: Upstream, port: int | None = None, more: str = "") -> str:
    return f"""
server: {{bind_address: "127.0.0.1:{port or free_port()}"}}
upstreams: {{openai: {{target_url: "{upstream.url}", api_key: "file:key"{more}}}}}
api_keys: {{static: [{{id: me, hash: "sha256:{"0" * 64}"}}]}}
"""


@pytest.fixture(autouse=True)
def key(tmp_path: Path) -> None:
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text(f"{SECRET}\n")


def dated(offset: float = 0, *headers: bytes) -> bytes:
    """An answer of a server whose clock is so many seconds ahead."""
    now = format_datetime(datetime.now(UTC) + timedelta(seconds=offset), usegmt=True)
    return answer(headers=[b"Date: " + now.encode(), *headers])


def only(found: list[dict[str, Any]]) -> tuple[str, str]:
    (one,) = found
    return one["status"], one["message"]


def test_all_is_well(doctor: Doctor, upstreams: Any, fluxen: Fluxen, tmp_path: Path) -> None:
    upstream = upstreams(lambda connection, _: connection.send(dated()))
    found = doctor(serving(upstream))
    assert {name: [one["status"] for one in each] for name, each in found.items()} == {
        name: ["ok"]
        for name in ("version", "configuration", "port", "certificates", "permissions", "upstream openai", "clock",
                     "data folder", "ledger")
    }  # fmt: skip
    assert "1 upstream (openai), 1 client key" in found["configuration"][0]["message"]
    assert found["port"][0]["message"].endswith(" is free")
    assert "accepts the key file:key (" in found["upstream openai"][0]["message"]
    assert found["clock"][0]["message"] == "agrees with that of openai"
    assert "none yet in " in found["ledger"][0]["message"]
    assert "an installed package" in found["version"][0]["message"]
    seen = upstream.request()
    assert seen.line == b"GET /v1/models HTTP/1.1"
    assert seen.get(b"authorization") == [b"Bearer " + SECRET.encode()]
    assert seen.get(b"host") == [f"127.0.0.1:{upstream.port}".encode()]
    assert not (tmp_path / "data").exists()
    done = fluxen("doctor", env={"FLUXEN_DATA_DIR": str(tmp_path / "data")})
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    version: Fluxen ")
    assert lines[-1] == "no problem"


def bytewise(connection: Connection, _: Request) -> None:
    """A head that never ends."""
    connection.sock.settimeout(60)
    try:
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not connection.ended.wait(0.2):
            connection.sock.sendall(b"x")
    except OSError:
        connection.ended.set()


def test_each_key_is_tried_and_each_answer_told(doctor: Doctor, upstreams: Any) -> None:
    status = lambda line, body=b"{}": answer(body, status=line)  # noqa: E731
    invalid = b'{"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}'
    plays: dict[str, tuple[str, list[Any]]] = {
        "openai": ("", [OK]),
        "anthropic": ("", [status(b"401 Unauthorized")]),
        "gemini": ("", [status(b"400 Bad Request", invalid)]),
        "other-gemini": ("dialect: gemini, ", [status(b"400 Bad Request")]),
        "mistral": ("", [status(b"403 Forbidden")]),
        "limited": ("", [status(b"429 Too Many Requests")]),
        "listless": ("", [status(b"404 Not Found")]),
        "moved": ("", [answer(status=b"301 Moved", headers=[b"Location: https://elsewhere.example/"])]),
        "broken": ("", [status(b"503 Service Unavailable")]),
        "strange": ("", [b"SSH-2.0-OpenSSH_9.2\r\n"]),
        "silent": ("", [lambda connection, _: connection.drain()]),
        "endless": ("", [bytewise]),
        "gone": ("", [lambda connection, _: connection.close()]),
    }
    made = {name: upstreams(*play) for name, (_, play) in plays.items()}
    lines = [
        f'  {name}: {{target_url: "{made[name].url}", {more}api_key: "{SECRET}"}}' for name, (more, _) in plays.items()
    ]
    lines.append(f'  refused: {{target_url: "http://127.0.0.1:{free_port()}", api_key: "{SECRET}"}}')
    lines.append(f'  nowhere: {{target_url: "http://nowhere.invalid", api_key: "{SECRET}"}}')
    lines.append("api_keys: {static: [{key: abc}]}")
    text = "\n".join(["server: {bind_address: '127.0.0.1:0'}", "upstreams:", *lines])
    found = {name.removeprefix("upstream "): only(each) for name, each in doctor(text).items() if "upstream" in name}
    assert found.keys() == {*plays, "refused", "nowhere"}
    for name, wanted, said in (
        ("openai", "ok", "accepts its key"),
        ("anthropic", "fail", "refuses its key (401)"),
        ("gemini", "fail", "refuses its key (400)"),
        ("other-gemini", "warn", "answers 400"),
        ("mistral", "fail", "refuses its key (403)"),
        ("limited", "warn", "answers 429: its key is over a limit"),
        ("listless", "warn", "has no list of models (404): its key could not be tried"),
        ("moved", "fail", "redirects (301)"),
        ("broken", "warn", "answers 503"),
        ("strange", "fail", "can't be reached: it does not answer in HTTP"),
        ("silent", "fail", "can't be reached: no answer within 5 s"),
        ("endless", "fail", "can't be reached: no answer within 5 s"),
        ("gone", "fail", "can't be reached: "),
        ("refused", "fail", "can't be reached: Connection refused"),
        ("nowhere", "fail", "can't be reached: "),
    ):
        assert found[name][0] == wanted, (name, found[name])
        assert said in found[name][1], (name, found[name])
    assert made["anthropic"].request().get(b"x-api-key") == [SECRET.encode()]
    assert made["anthropic"].request().get(b"anthropic-version") != []
    assert made["gemini"].request().target == b"/v1beta/models"
    assert made["gemini"].request().get(b"x-goog-api-key") == [SECRET.encode()]


def test_an_upstream_without_a_key(doctor: Doctor, upstreams: Any) -> None:
    wants, free = upstreams(answer(status=b"401 Unauthorized")), upstreams(OK)
    both = f'upstreams: {{openai: {{target_url: "{wants.url}"}}, vllm: {{target_url: "{free.url}"}}}}\n'
    bind = "server: {bind_address: '127.0.0.1:0'}\n"
    found = doctor(bind + both)  # open mode
    assert only(found["upstream openai"])[0] == "ok"
    assert "clients send their own" in only(found["upstream openai"])[1]
    assert "answers without a key" in only(found["upstream vllm"])[1]
    assert wants.request().get(b"authorization") == []
    found = doctor(bind + both + "api_keys: {static: [{key: abc}]}")
    assert only(found["upstream openai"])[0] == "fail"
    assert "wants a key (401), and Fluxen has none" in only(found["upstream openai"])[1]
    assert "upstreams.openai.api_key" in found["upstream openai"][0]["hint"]
    assert only(found["upstream vllm"])[0] == "ok"
    assert only(found["upstreams"])[0] == "warn"
    # Providers that nobody named and that have no key are not called.
    found = doctor(bind + "api_keys: {static: [{key: abc}]}")
    assert only(found["upstreams"])[1] == "Fluxen has no key of any provider"
    assert not any(name.startswith("upstream ") for name in found)


@pytest.mark.parametrize(
    ("offset", "headers", "status", "said"),
    [
        (600.0, [], "fail", "600 s behind that of openai"),
        (-600.0, [], "fail", "600 s ahead of that of openai"),
        (20.0, [], "warn", "20 s behind that of openai"),
        (2.0, [], "ok", "agrees with that of openai"),
        (600.0, [b"Age: 590"], "warn", "could not be compared"),
        (None, [], "warn", "could not be compared"),
        (None, [b"Date: yesterday"], "warn", "could not be compared"),
    ],
)
def test_the_clock(
    offset: float | None, headers: list[bytes], status: str, said: str, doctor: Doctor, upstreams: Any
) -> None:
    made = lambda: answer(headers=headers) if offset is None else dated(offset, *headers)  # noqa: E731
    upstream = upstreams(lambda connection, _: connection.send(made()))
    found = doctor(serving(upstream))["clock"]
    assert only(found)[0] == status
    seconds = said.split()[0]
    near = [said.replace(seconds, str(int(seconds) + by), 1) for by in range(-3, 4)] if seconds.isdigit() else [said]
    assert only(found)[1].startswith(tuple(near))


def test_one_wrong_clock_among_three_is_not_ours(doctor: Doctor, upstreams: Any) -> None:
    lines = [
        f"  {name}: {{target_url: '{upstreams(lambda c, _, by=by: c.send(dated(by))).url}', api_key: abc}}"
        for name, by in (("a", 0), ("b", 600), ("c", 0))
    ]
    text = "\n".join(["server: {bind_address: '127.0.0.1:0'}", "upstreams:", *lines])
    assert only(doctor(text)["clock"]) == ("ok", "agrees with that of a, b, c")


class Secure:
    """One that answers anything over TLS."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.settimeout(30)
            try:
                with self._context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(dated())
            except OSError:
                sock.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def test_certificates(doctor: Doctor, tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    for authority, name in ((ours, "ours.pem"), (others, "others.pem")):
        authority.cert_pem.write_to_path(str(tmp_path / name))
    server = Secure(ours.issue_cert("localhost"))
    try:
        text = f"""
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  named: {{target_url: "https://localhost:{server.port}", api_key: "{SECRET}", ca_file: ours.pem}}
  system: {{target_url: "https://localhost:{server.port}", api_key: "{SECRET}"}}
  address: {{target_url: "https://127.0.0.1:{server.port}", api_key: "{SECRET}", ca_file: ours.pem}}
"""
        env = {"SSL_CERT_FILE": str(tmp_path / "ours.pem")}
        found = doctor(text, env=env)
        assert only(found["certificates"]) == ("ok", f"{tmp_path}/ours.pem (SSL_CERT_FILE): 1 authorities")
        assert only(found["upstream named"])[0] == "ok"
        assert only(found["upstream system"])[0] == "ok"
        assert "can't be reached: IP address mismatch" in only(found["upstream address"])[1]
        found = doctor(None, env={"SSL_CERT_FILE": str(tmp_path / "others.pem")})
        assert only(found["upstream named"])[0] == "ok"
        assert only(found["upstream system"])[0] == "fail"
        assert "certificate" in only(found["upstream system"])[1]
        found = doctor(None, env={"SSL_CERT_FILE": "/nowhere.pem"})
        assert only(found["certificates"]) == ("fail", "SSL_CERT_FILE names /nowhere.pem, which is no file")
        assert only(found["upstream named"])[0] == "ok"
        assert only(found["upstream system"]) == only(found["certificates"])
        assert "none.pem" in only(doctor(text.replace("ours.pem", "none.pem", 1), env=env)["configuration"])[1]
    finally:
        server.close()


def test_offline_calls_nobody(doctor: Doctor, upstreams: Any) -> None:
    upstream = upstreams(OK)
    found = doctor(serving(upstream), "--offline")
    assert found.keys() == {"version", "configuration", "port", "certificates", "permissions", "data folder", "ledger"}
    assert upstream.connections == []


# --- the port


def test_a_port_that_our_own_gateway_holds_is_fine(doctor: Doctor, upstreams: Any, tmp_path: Path) -> None:
    upstream = upstreams(OK)
    gateway = Gateway(
        tmp_path / "gateway", serving(upstream, 1).replace("file:key", SECRET), environment(tmp_path / "home", {}),
        ["--port", "0"],
    )  # fmt: skip
    try:
        found = doctor(serving(upstream, gateway.port), "--offline")
        said = f"127.0.0.1:{gateway.port} is served by a Fluxen that takes requests"
        assert only(found["port"]) == ("ok", said)
    finally:
        gateway.stop()


def test_a_port_that_something_else_holds_is_not(doctor: Doctor, upstreams: Any) -> None:
    other = upstreams(answer(status=b"404 Not Found"))
    found = doctor(serving(other, other.port), "--offline")["port"]
    said = f"address 127.0.0.1:{other.port} is in use by PID {os.getpid()}, which answers 404, but it is not Fluxen"
    assert only(found) == ("fail", f"{said} that does")
    assert "server.bind_address" in found[0]["hint"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        found = doctor(serving(other, silent.getsockname()[1]), "--offline")["port"]
    assert only(found)[0] == "fail"
    assert "does not answer" in only(found)[1]


def test_an_address_that_is_not_this_machines(doctor: Doctor, upstreams: Any) -> None:
    text = serving(upstreams(OK)).replace("127.0.0.1", "203.0.113.7", 1)
    assert only(doctor(text, "--offline")["port"])[1].startswith("can't listen on 203.0.113.7:")


# --- configuration and files


def test_a_configuration_that_cant_be_used(doctor: Doctor, tmp_path: Path) -> None:
    found = doctor("server: {workers: 0}\nupstream: {}\n")
    assert [one["status"] for one in found["configuration"]] == ["fail", "fail"]
    assert "fluxen.yaml:1:19: server.workers: " in found["configuration"][0]["message"]
    assert found.keys() == {"version", "configuration", "certificates", "data folder", "ledger"}
    found = doctor("server: {bind_address: '0.0.0.0:80'}")
    assert "fluxen init" in found["configuration"][0]["hint"]
    found = doctor("data_dir: [")
    assert found["configuration"][0]["status"] == "fail"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").write_text("{")
    found = doctor("version: 1")
    assert "keys.json can't be used: is no JSON" in found["configuration"][0]["message"]
    found = doctor(None, "--config", "none.yaml")
    assert only(found["configuration"]) == ("fail", "no configuration file none.yaml")


def test_warnings_of_the_configuration(doctor: Doctor) -> None:
    text = "server: {bind_address: '127.0.0.1:0'}\napi_keys: {jwt: [{key: short}], static: [{key: abc}]}\n"
    found = doctor(text, "--offline")
    assert [one["status"] for one in found["configuration"]] == ["ok", "warn"]
    assert "shorter than 32 bytes" in found["configuration"][1]["message"]


def test_files_that_others_can_open(doctor: Doctor, upstreams: Any, tmp_path: Path) -> None:
    upstream = upstreams(OK)
    text = serving(upstream, more="") + f"admin: {{bind_address: '127.0.0.1:1', key: {SECRET}}}\n"
    config, data = tmp_path / "fluxen.yaml", tmp_path / "data"
    KeyStore(data).create("a")
    assert only(doctor(text, "--offline")["permissions"])[0] == "ok"
    for path, mode, status, said in (
        (config, 0o644, "warn", "can be read by everybody and holds keys as they are: admin.key"),
        (config, 0o602, "fail", "can be changed by everybody"),
        (tmp_path / "key", 0o604, "warn", "holds a key and is open to everybody"),
        (data / "keys.json", 0o644, "warn", "keys.json can be read by everybody"),
        (data, 0o777, "warn", "is open to everybody"),
    ):
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        found = doctor(None, "--offline")
        assert only(found["permissions"])[0] == status, path
        assert said in only(found["permissions"])[1]
        assert not any("keys.json" in one["message"] for one in found["configuration"])
        path.chmod(before)
    config.chmod(0o644)
    config.write_text(serving(upstream))  # only references: everybody may read it
    assert only(doctor(None, "--offline")["permissions"])[0] == "ok"


def test_a_data_folder_that_is_none(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = doctor("server: {bind_address: '127.0.0.1:0'}", "--offline")
    assert only(found["data folder"]) == ("fail", f"{tmp_path}/data is no folder")


def test_a_disk_that_is_nearly_full(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for size, status in (("4m", "fail"), ("500m", "warn")):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            missing(f"needs to mount a small tmpfs ({mounted.stderr.strip()})")
        try:
            found = doctor("server: {bind_address: '127.0.0.1:0'}", "--offline")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        assert only(found["data folder"])[0] == status
        assert "MB free on its disk" in only(found["data folder"])[1]


# --- the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A day in Parquet."""
    folder = tmp_path / "data" / "ledger"
    now = int(datetime.now(UTC).timestamp() * 1e6)
    journal = Journal(folder, "node", 0)
    for number, (model, cost) in enumerate([("gpt-4o", 1), ("made-up-7b", None), ("made-up-7b", None), ("old", None)]):
        start = begin(ts=now - (40 * DAY if model == "old" else number))
        journal.begin(start)
        done = end(start)
        done.upstream, done.model, done.cost_pico = "local", model, cost
        journal.end(done)
    journal.close()
    settled(folder).close()
    return folder


def test_a_ledger_and_models_without_a_price(doctor: Doctor, ledger: Path) -> None:
    found = doctor("server: {bind_address: '127.0.0.1:0'}", "--offline")
    assert only(found["ledger"]) == ("ok", f"4 rows in {ledger} read and found whole")
    status, message = only(found["prices"])
    assert status == "warn"
    assert message.startswith("no price for made-up-7b at local (2); requests in the last 30 days, price book ")


def test_a_large_ledger_is_left_to_verify(doctor: Doctor, ledger: Path) -> None:
    manifest = manifests.load(ledger)
    manifest.files = [msgspec.structs.replace(file, bytes=10**9) for file in manifest.files]
    manifests.commit(ledger, manifest)
    found = doctor("server: {bind_address: '127.0.0.1:0'}", "--offline")
    assert only(found["ledger"])[1].startswith(f"{len(manifest.files)}.0 GB in {ledger}: more than is read here")
    assert found["ledger"][0]["hint"] == "fluxen ledger verify reads all of it"
    assert only(found["prices"])[0] == "warn"


def test_a_damaged_ledger(doctor: Doctor, ledger: Path) -> None:
    config = "server: {bind_address: '127.0.0.1:0'}"
    victim = sorted((ledger / "data").iterdir())[0]
    os.truncate(victim, victim.stat().st_size - 1)
    found = doctor(config, "--offline")
    assert found["ledger"][0]["status"] == "fail"
    assert f"{victim.name} can't be read" in found["ledger"][0]["message"]
    assert "fluxen ledger verify" in found["ledger"][0]["hint"]
    (ledger / "MANIFEST.json").write_text("{")
    found = doctor(config, "--offline")
    assert only(found["ledger"])[0] == "fail"
    assert "MANIFEST.json can't be read" in only(found["ledger"])[1]
    # also where the configuration can't be used
    assert only(doctor("nope: 1")["ledger"])[0] == "fail"
