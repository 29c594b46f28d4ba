"""The nginx of docs/deployment.md, as it is printed there, in front of a real gateway: streams, uploads, health."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from gateway.rig import until
from shared import ROOT, missing

KEY = "key-of-a-client"
UPLOAD = 40_000_000  # more than nginx takes by default, and more than max_body: it streams through


class Provider(BaseHTTPRequestHandler):
    """Streams one event, and the rest only when the test has seen the first; takes uploads."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()

    def do_POST(self) -> None:
        if self.path == "/v1/files":
            taken = self._upload()
            self._head("application/json", chunked=False, length=len(taken))
            self.wfile.write(taken)
            return
        self.rfile.read(int(self.headers["Content-Length"]))
        self._head("text/event-stream", chunked=True)
        self._chunk(b'data: {"first": true}\n\n')
        if self.go_on.wait(60):
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

    def _upload(self) -> bytes:
        total = 0
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while left:
                total += (count := len(self.rfile.read(min(left, 1 << 20))))
                left -= count
        else:
            while size := int(self.rfile.readline(), 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b'{"bytes": %d}' % total

    def _head(self, kind: str, *, chunked: bool, length: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(length))))
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Front:
    """The address of nginx, and whom it is believed by."""

    port: int
    trust: ssl.SSLContext

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self.trust)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def gateway(clean_env: dict[str, str], tmp_path: Path) -> Iterator[int]:
    Provider.go_on.clear()
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    target = f"http://127.0.0.1:{provider.server_address[1]}"
    (tmp_path / "fluxen.yaml").write_text(
        f'upstreams: {{openai: {{target_url: "{target}", api_key: sk-x}}}}\napi_keys: {{static: [{{key: {KEY}}}]}}\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0"],
        cwd=tmp_path, env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = (re.search(r"OPENAI_BASE_URL=http://127\.0\.0\.1:(\d+)/v1", line) for line in process.stdout)
        yield int(next(found[1] for found in said if found))
    finally:
        Provider.go_on.set()
        process.terminate()
        process.communicate(timeout=60)
        provider.shutdown()
        provider.server_close()


@pytest.fixture
def front(gateway: int, tmp_path: Path) -> Iterator[Front]:
    """nginx with the documented server; addresses and certificate are this test's."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("needs the program nginx")
    (documented,) = re.findall(r"^```nginx\n(.*?)^```$", (ROOT / "docs/deployment.md").read_text(), re.M | re.S)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    port = free_port()
    server = (
        documented.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        .replace("server_name ai.example.com", "server_name localhost")
        .replace("/etc/ssl/ai.example.com.pem", str(tmp_path / "cert.pem"))
        .replace("/etc/ssl/ai.example.com.key", str(tmp_path / "key.pem"))
        .replace("127.0.0.1:8080", f"127.0.0.1:{gateway}")
    )
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # it must read what lies in the test's folder
    (tmp_path / "nginx.conf").write_text(
        f"{user}daemon off;\npid {tmp_path}/pid;\nerror_log stderr warn;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}{server}}}\n"
    )
    process = subprocess.Popen(
        [program, "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.PIPE
    )
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    try:
        until(lambda: process.poll() is not None or accepts(port), "nginx to listen")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield Front(port, trust)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_what_the_documentation_puts_in_front(front: Front) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    connection = front.connect()
    connection.request("POST", "/v1/chat/completions", b'{"model": "gpt-4o-mini", "stream": true}', headers)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline() == b'data: {"first": true}\n'  # before the provider has said the rest
    Provider.go_on.set()
    assert answer.read() == b"\ndata: [DONE]\n\n"
    connection.close()

    connection = front.connect()
    upload = {**headers, "Content-Type": "application/octet-stream"}
    connection.request("POST", "/openai/v1/files", bytes(UPLOAD), upload)
    assert json.loads(connection.getresponse().read()) == {"bytes": UPLOAD}
    connection.close()

    for path, key, status in (("/-/readyz", KEY, 404), ("/v1/chat/completions", "wrong", 401)):
        connection = front.connect()
        connection.request("POST", path, b"{}", {**headers, "Authorization": f"Bearer {key}"})
        assert connection.getresponse().status == status
        connection.close()
