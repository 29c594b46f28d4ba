"""`fluxen health` against a real gateway, and against everything that may stand in its place."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from shared import Fluxen

from fluxen.config.model import Server
from fluxen_cli import health


@pytest.fixture
def gateway(clean_env: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """The port of a gateway that listens on every address of this machine."""
    (tmp_path / "fluxen.yaml").write_text(
        "server: {bind_address: '0.0.0.0:0'}\napi_keys: {static: [{id: a, key: key-of-a}]}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "serve"],
        cwd=tmp_path, env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = (re.search(r"listening on 0\.0\.0\.0:(\d+)", line) for line in process.stdout)
        yield int(next(found[1] for found in said if found))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_gateway_that_serves_is_healthy(fluxen: Fluxen, gateway: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{gateway}"
    done = fluxen("health", "--url", f"{url}/")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ok: {url} takes requests\n", "")
    answer = json.loads(fluxen("health", "--url", url, "--json").stdout)
    assert (answer["ok"], answer["url"], answer["status"]) == (True, url, 200)
    # What a configuration says: nobody can call 0.0.0.0. Its keys need not be there to ask.
    described = tmp_path / "elsewhere.yaml"
    described.write_text(
        f"server: {{bind_address: '0.0.0.0:{gateway}'}}\nupstreams: {{a: {{api_key: '${{NOT_SET}}'}}}}\n"
    )
    done = fluxen("health", "--config", str(described), env={"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ok: {url} takes requests\n", "")
    # The gateway's own file leaves the port to the system: then nobody can know it.
    done = fluxen("health")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: fluxen.yaml lets the system choose the port\nhint: ")


def test_nothing_there(fluxen: Fluxen, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = fluxen("health", "--url", url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: {url} does not answer: Connection refused\n"
        done = fluxen("health", "--url", url, "--json")
        assert (done.returncode, done.stderr) == (1, "")
        answer = json.loads(done.stdout)
        assert (answer["ok"], answer["status"]) == (False, None)


class Stranger(BaseHTTPRequestHandler):
    """Some other server: it says yes to everything. Below /busy it is a gateway that is not ready."""

    def do_GET(self) -> None:
        busy = self.path == "/busy/-/readyz"
        self.send_response(503 if busy else 200)
        if busy:
            self.send_header("x-fluxen-id", "0")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, *_: object) -> None:
        pass


def test_a_stranger_on_the_port_is_not_healthy_and_neither_is_a_gateway_that_says_no(fluxen: Fluxen) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = fluxen("health", "--url", url)
        assert (done.returncode, done.stderr) == (1, f"error: {url} answers 200, but it is not Fluxen that does\n")
        done = fluxen("health", "--url", f"{url}/busy")
        assert (done.returncode, done.stderr) == (1, f"error: {url}/busy is not ready: it answers 503\n")
        secure = url.replace("http", "https")
        done = fluxen("health", "--url", secure)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {secure} does not answer: ")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://a:b", "http://u:p@localhost"])
def test_no_address_of_a_gateway(fluxen: Fluxen, url: str) -> None:
    done = fluxen("health", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --url is no address of a gateway\nhint: such as http://127.0.0.1:8080\n"


def test_what_a_configuration_says(fluxen: Fluxen, tmp_path: Path) -> None:
    assert tuple(Server().bind_address) == health.DEFAULT
    for text, url, certificate in (
        ("", "http://127.0.0.1:8080", None),
        ("server: {bind_address: '[::]:81'}", "http://[::1]:81", None),
        ("server: {bind_address: '10.0.0.7:82'}", "http://10.0.0.7:82", None),
        ("server: {tls: {cert_file: tls/a.pem, key_file: b}}", "https://127.0.0.1:8080", tmp_path / "tls" / "a.pem"),
    ):
        (tmp_path / "fluxen.yaml").write_text(text)
        assert health.described(tmp_path / "fluxen.yaml") == (url, certificate)
    (tmp_path / "fluxen.yaml").write_text("server: {bind_address: 8080}")
    done = fluxen("health")
    assert done.returncode == 3
    assert "server.bind_address: expected host:port" in done.stderr


@pytest.mark.parametrize("arguments", [["--url", "URL"], ["--json", "--url", "URL"]])
def test_what_it_imports(arguments: list[str]) -> None:
    """A container runs the first of them every half minute: the whole command line would cost three times as much."""
    code = (
        "import sys; sys.argv[1:] = ['health', *sys.argv[1:]]; from fluxen_cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: print(ended.code, *sys.modules)"
    )
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        line = [url if argument == "URL" else argument for argument in arguments]
        done = subprocess.run([sys.executable, "-c", code, *line], cwd="/", capture_output=True, text=True, check=True)
    exit_code, *loaded = done.stdout.splitlines()[-1].split()
    assert exit_code == "1"
    heavy = ("duckdb", "asyncio", "uvloop", "rich", "yaml", "fluxen.gateway", "fluxen.ledger")
    assert [name for name in heavy if name in loaded] == []
    assert "http.client" in loaded
    assert ("typer" in loaded) is ("--json" in arguments)
