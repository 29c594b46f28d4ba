"""What keeps a gateway from starting is said once, and nothing is left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gateway.conftest import StartGateway


def serve(data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0"],
        env={**os.environ, "FLUXEN_DATA_DIR": str(data)},
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("file", ["data", "data/ledger", "data/ledger/journal"])
def test_a_file_where_the_ledger_should_be(tmp_path: Path, file: str) -> None:
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("something else")
    ended = serve(tmp_path / "data")
    assert ended.returncode == 1
    assert str(place) in ended.stderr
    assert "hint: check data_dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "serves on" not in ended.stdout + ended.stderr
    assert place.read_text() == "something else"


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_connections_are_accepted(tmp_path: Path, gateway: StartGateway, abstract: bool) -> None:
    name = f"\0fluxen-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(30)
        server = gateway('server: {bind_address: "127.0.0.1:0"}', env={"NOTIFY_SOCKET": name.replace("\0", "@")})
        assert systemd.recv(100) == b"READY=1"
        assert server.ask(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200


def test_a_systemd_that_is_gone_keeps_nothing_from_starting(tmp_path: Path, gateway: StartGateway) -> None:
    server = gateway('server: {bind_address: "127.0.0.1:0"}', env={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert server.ask(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET").status == 200
