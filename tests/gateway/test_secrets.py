"""Secrets planted wherever there can be one, and every output searched for them: stderr, stdout, each file of the data
folder, Fluxen's own endpoints, what commands print, the command lines of the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import Gateway, Upstream, answer, request, until
from keys.signer import hs256, token

from fluxen.config.load import load_bytes
from fluxen.gateway.secrets import secrets_of
from fluxen.gateway.snapshot import build
from fluxen.gateway.state import running

PLANTED = {
    name: f"planted-{name}-{'0123456789abcdef' * 2}"
    for name in (
        "provider", "first", "second", "env", "file", "static", "signing", "admin", "later", "rejected", "misplaced",
        "hidden", "guess", "guess2", "guess3", "parameter", "password", "cookie",
    )
}  # fmt: skip
CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
  several:
    target_url: "{url}"
    credentials: [{{name: first, api_key: "{first}"}}, {{name: second, api_key: "{second}"}}]
  env: {{target_url: "{url}", api_key: "${{PLANTED_ENV}}"}}
  file: {{target_url: "{url}", api_key: "file:provider.key"}}
  gone: {{target_url: "http://127.0.0.1:9", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{static}", models: ["gpt-*"]}}]
  jwt: [{{id: dev, key: "{signing}"}}]
admin: {{bind_address: "127.0.0.1:0", key: "{admin}"}}
log: {{level: debug}}
"""
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"my password is %b"}]}'
COMMANDS = (
    "keys list", "keys list --all", "keys list --json", "keys show me", "keys show made --json", "keys provider list",
    "validate fluxen.yaml", "validate fluxen.yaml --json", "config diff fluxen.yaml", "config diff fluxen.yaml --json",
    "config show", "config show --running", "report costs --by key", "ledger verify", "health --config fluxen.yaml",
    "reload", "reload --json", "doctor --config fluxen.yaml --offline",
)  # fmt: skip
EVERYTHING = "select * from requests"


class Told:
    """What was put out, by where."""

    def __init__(self, server: Gateway) -> None:
        self.server = server
        self.outputs: dict[str, str] = {}

    def command(self, *words: str) -> str:
        """Run one, as its user would."""
        env = {
            **self.server._env,
            "PLANTED_ENV": PLANTED["env"],
            "FLUXEN_CONFIG": str(self.server.folder / "fluxen.yaml"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "fluxen_cli", *words], cwd=self.server.folder, env=env, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode != 2, f"{words}: {done.stderr}"
        self.outputs[f"fluxen {' '.join(words)}"] = done.stdout + done.stderr
        return done.stdout

    def search(self, secrets: dict[str, str]) -> list[str]:
        """Where a secret stands."""
        return [
            f"{name} in {where}: …{text[max(0, text.find(secret) - 150) : text.find(secret) + 20]}"
            for where, text in self.outputs.items()
            for name, secret in secrets.items()
            if secret in text or secret.replace("-", "%2D") in text
        ]


@pytest.fixture
def server(gateway: StartGateway, upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "gateway-0"
    folder.mkdir()
    (folder / "provider.key").write_text(PLANTED["file"] + "\n")
    yield gateway(CONFIG.format(url=upstream.url, **PLANTED), env={"PLANTED_ENV": PLANTED["env"]})


def bearer(key: str) -> bytes:
    return b"Authorization: Bearer " + key.encode()


def refused(upstream: Upstream) -> None:
    """The provider answers with the key it was asked with, as some do."""
    echo = "".join(f"{value} " for value in PLANTED.values()).encode()
    upstream.plays(answer(b'{"error":{"message":"Incorrect API key provided: %b"}}' % echo, status=b"401 Unauthorized"))


def test_no_secret_is_in_any_output(server: Gateway, upstream: Upstream) -> None:
    told = Told(server)
    created = json.loads(told.command("keys", "create", "made", "--json", "--model", "gpt-*"))
    secrets = {**PLANTED, "created": str(created["key"])}
    assert len(told.search(secrets)) == 1, "what it finds"
    del told.outputs["fluxen keys create made --json --model gpt-*"]  # the one place where it is shown, this once
    good = token({"alg": "HS256", "kid": "dev"}, {"exp": time.time() + 3600, "sub": "user"}, hs256(PLANTED["signing"]))
    old = token({"alg": "HS256", "kid": "dev"}, {"exp": 1, "sub": "user"}, hs256(PLANTED["signing"]))
    forged = token({"alg": "HS256", "kid": "dev"}, {"exp": time.time() + 3600}, hs256("x" * 40))
    secrets |= {"token": good.decode(), "old token": old.decode(), "forged token": forged.decode()}
    until(lambda: ask(server, secrets["created"]) == 200, "the new key to be known")

    for play in (None, refused):
        if play is not None:
            play(upstream)
        for mount in (b"openai", b"several", b"env", b"file", b"gone"):
            for key in (secrets["static"], secrets["created"], good.decode()):
                ask(server, key, b"/" + mount + b"/v1/chat/completions")
    path = b"/openai/v1/chat/completions?limit=1&client_secret=%b&x=%b&y=%b" % tuple(
        PLANTED[name].encode() for name in ("parameter", "provider", "static")
    )
    ask(server, secrets["static"], path)
    ask(server, secrets["static"], path.replace(b"planted-", b"planted%2D"))
    for line in (
        bearer(PLANTED["guess"]),
        b"x-api-key: " + PLANTED["guess2"].encode(),
        b"x-goog-api-key: " + forged,
        b"api-key: " + old,
        bearer("x"),
        bearer(PLANTED["guess"]) + b"\r\n" + bearer(PLANTED["guess2"]),
    ):
        server.ask(request(key=line))
    server.ask(request(b"/openai/v1/models?key=" + PLANTED["guess3"].encode(), b"", method=b"GET", key=None))
    server.ask(request(key=bearer(PLANTED["static"]), headers=[b"Cookie: " + PLANTED["cookie"].encode()]))
    server.ask(b"GET /%b HTTP/1.1\r\nAuth orization: %b\r\n\r\n" % (b"x", bearer(PLANTED["static"])))
    server.ask(b"GET http://u:%b@host/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % PLANTED["password"].encode())

    file = server.folder / "fluxen.yaml"
    text = file.read_text()
    for changed in (
        text.replace(PLANTED["first"], PLANTED["later"]),
        text.replace(PLANTED["first"], PLANTED["rejected"] + " with a space"),
        text.replace("log: {level", f"log: {{{PLANTED['misplaced']}: 1, level"),
        text.replace(f'"{PLANTED["first"]}"', f'"{PLANTED["rejected"]}'),
        text.replace(PLANTED["first"], "file:/nowhere/" + "x"),
        text.replace(f'"{PLANTED["first"]}"', f"[{PLANTED['rejected']}]"),
        text,
    ):
        file.write_text(changed)
        server.process.send_signal(signal.SIGHUP)
        told.command("validate", "fluxen.yaml")
        told.command("config", "diff", "fluxen.yaml")
        told.outputs[f"validate {len(told.outputs)}"] = told.outputs.pop("fluxen validate fluxen.yaml")
        told.outputs[f"diff {len(told.outputs)}"] = told.outputs.pop("fluxen config diff fluxen.yaml")
    secrets["successor"] = str(json.loads(told.command("keys", "rotate", "me", "--overlap", "1h", "--json"))["key"])
    del told.outputs["fluxen keys rotate me --overlap 1h --json"]
    for command in COMMANDS:
        told.command(*command.split())
    told.command("sql", EVERYTHING)
    told.command("ledger", "export", "rows.jsonl")
    told.outputs["the export"] = (server.folder / "rows.jsonl").read_text()

    admin = admin_port(server)
    for name in ("healthz", "readyz", "metrics", "config", "nothing"):
        for port in (server.port, admin):
            told.outputs[f"/-/{name} at {port}"] = own(port, name, PLANTED["admin"])
            told.outputs[f"/-/{name} at {port}, wrong key"] = own(port, name, PLANTED["guess"])
    for pid in (server.process.pid, *server.children().values()):
        told.outputs[f"the command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    server.stop()
    told.outputs |= {"stderr": server.stderr(), "stdout": server.stdout()}
    for path_ in sorted(server.data_dir.rglob("*")):
        if path_.is_file():
            told.outputs[str(path_.relative_to(server.data_dir))] = path_.read_bytes().decode("latin-1")
    assert len(told.outputs) > 40
    assert len(server.logged("request")) > 30
    assert server.logged("config_rejected")
    del secrets["misplaced"]  # the name of a field is no secret, and the message must name it
    assert told.search(secrets) == []


def ask(server: Gateway, key: str, path: bytes = b"/openai/v1/chat/completions") -> int:
    return server.ask(request(path, BODY % PLANTED["hidden"].encode(), key=bearer(key))).status


def admin_port(server: Gateway) -> int:
    [state] = running(server.data_dir)
    return int(str(state.admin).rpartition(":")[2])


def own(port: int, name: str, key: str) -> str:
    """The answer of one of Fluxen's own endpoints."""
    done = subprocess.run(
        [sys.executable, "-c", GET, f"http://127.0.0.1:{port}/-/{name}"],
        input=key, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "NO_PROXY": "*"}, check=True,
    )  # fmt: skip
    return done.stdout


GET = """
import sys, urllib.error, urllib.request
ask = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.stdin.read()})
try:
    with urllib.request.urlopen(ask) as answer:
        print(answer.status, answer.headers, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.headers, error.read().decode())
    error.close()
"""


def test_all_that_a_snapshot_knows_to_be_secret() -> None:
    yaml = b"""
upstreams: {openai: {api_key: the-key-of-a-provider}}
api_keys: {static: [{id: a, key: the-key-of-a-client}], jwt: [{id: b, key: the-key-that-signs-all-the-tokens}]}
admin: {bind_address: "127.0.0.1:8081", key: the-key-of-the-admin}
"""
    snapshot = build(load_bytes(yaml, {}, Path("/nowhere/fluxen.yaml")), {})
    assert secrets_of(snapshot).values == {
        "the-key-of-a-provider",
        "the-key-of-a-client",
        "the-key-that-signs-all-the-tokens",
        "the-key-of-the-admin",
    }
