"""Whose certificates the executable believes, on machines that keep them elsewhere than the one it was built on.

Such a machine is a folder that holds the C library and zlib (what PyInstaller's loader is linked to) and nothing else,
not even /proc; the executable runs with it as its root (which takes root to do).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from gateway.rig import Client, Connection, answer, request
from shared import missing

if TYPE_CHECKING:
    from packaging.smoke.conftest import Configured

BODY = b'{"model":"gpt-4o-mini","messages":[]}'
JSON = (
    b'{"model":"gpt-4o-mini","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2}}'
)
NEEDED = ("libc.so.*", "libm.so.*", "libdl.so.*", "libpthread.so.*", "librt.so.*", "libutil.so.*", "libresolv.so.*",
             "libnss_files.so.*", "libnss_dns.so.*", "ld-linux*", "libz.so.*")  # fmt: skip


class Machine:
    """The folder that is the root of all, with the executable in it."""

    def __init__(self, root: Path, binary: Path) -> None:
        self.root = root
        for name in ("home", "tmp", "etc"):
            (root / name).mkdir(parents=True)
        if (binary.parent / "_internal").is_dir():
            shutil.copytree(binary.parent, root / "opt")
        else:
            (root / "opt").mkdir()
            shutil.copy2(binary, root / "opt" / "fluxen")
        needed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
        for place in {Path(path).parent for path in re.findall(r"(/\S+) \(0x", needed)}:
            inside = root / place.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            for pattern in NEEDED:
                for library in place.glob(pattern):
                    shutil.copy2(library, inside / library.name)

    def _start(self, args: tuple[str, ...], env: Mapping[str, str]) -> subprocess.Popen[str]:
        def enter() -> None:
            os.chroot(self.root)
            os.chdir("/home")

        return subprocess.Popen(
            ["/opt/fluxen", *args], env={"HOME": "/home", **env}, preexec_fn=enter, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def json(self, *args: str, env: Mapping[str, str] | None = None) -> Any:
        with self._start((*args, "--json"), env or {}) as process:
            said, errors = process.communicate(timeout=60)
        assert process.returncode == 0, said + errors
        return json.loads(said)

    def status_through_it(self, config: str, env: Mapping[str, str] | None = None) -> int:
        """What a client is answered by a gateway of this configuration."""
        (self.root / "home" / "fluxen.yaml").write_text(config)
        with self._start(("serve",), env or {}) as process:
            assert process.stdout is not None and process.stderr is not None
            try:
                said = ""
                for line in process.stdout:
                    said += line
                    if line.startswith("Costs so far"):
                        break
                found = re.search(r" serves on http://\S*:(\d+)\b", said)
                assert found is not None, said + process.stderr.read()
                with Client(int(found[1])) as client:
                    status = client.ask(request(b"/v1/chat/completions", BODY, key=None)).status
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, process.stderr.read()
            finally:
                process.kill()
        assert list((self.root / "tmp").iterdir()) == []
        return status


@pytest.fixture
def machine(binary: Path, tmp_path: Path) -> Machine:
    if os.geteuid() != 0:
        missing("only root may change what the root folder is")
    return Machine(tmp_path / "root", binary)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[str]:
    """The URL of an upstream behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            with accepted:
                try:
                    with context.wrap_socket(accepted, server_side=True) as wrapped:
                        connection = Connection(wrapped, 0)
                        while connection.read_request() is not None:
                            connection.send(answer(JSON))
                except OSError:  # who does not believe us leaves in the middle
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(60)


def store(machine: Machine) -> str:
    """Which store the executable uses there, as its doctor says."""
    told = machine.json("doctor", "--offline")
    (found,) = [check["message"] for check in told["checks"] if check["check"] == "certificates"]
    return found


def test_a_machine_without_a_store(machine: Machine, secure: str, configured: Configured) -> None:
    """It brings its own, which knows nothing of a private authority, and checks by it."""
    assert "Mozilla's list" in store(machine)
    assert machine.json("self-test")["ok"]
    assert machine.status_through_it(configured(secure)) == 502
    requests = machine.json("report", "costs", "--by", "error")["rows"]
    assert [row["requests"] for row in requests] == [1]


def test_a_store_that_is_named(machine: Machine, secure: str, configured: Configured, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(str(machine.root / "etc" / "mine.pem"))
    assert machine.status_through_it(configured(secure), {"SSL_CERT_FILE": "/etc/mine.pem"}) == 200


@pytest.mark.parametrize("place", ["etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"])
def test_the_store_of_the_system(
    machine: Machine, secure: str, configured: Configured, authority: trustme.CA, place: str
) -> None:
    """Wherever that is."""
    (machine.root / place).parent.mkdir(parents=True)
    authority.cert_pem.write_to_path(str(machine.root / place))
    assert f"/{place}" in store(machine)
    assert machine.status_through_it(configured(secure)) == 200
