"""`fluxen serve` as a process: what it says, where it listens, how it ends. What it relays is tested in gateway/."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared import Fluxen

from fluxen_cli.serve import Line, welcome

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start `fluxen serve ARGS` and read what it says up to the line about costs."""
    running: list[subprocess.Popen[str]] = []

    def run(*args: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fluxen_cli", "serve", *args],
            cwd=tmp_path, env={**clean_env, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Costs so far"):
                return process, said
        raise AssertionError(f"ended early: {said}{process.stderr.read() if process.stderr else ''}")

    yield run
    for process in running:
        process.terminate()
        process.communicate(timeout=60)


def port_in(said: str) -> int:
    found = re.search(r"serves on http://127\.0\.0\.1:(\d+)", said)
    assert found
    return int(found.group(1))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serves_says_where_and_ends_cleanly(start: Start, fluxen: Fluxen, how: signal.Signals) -> None:
    process, said = start("--port", "0", env={"OPENAI_API_KEY": "sk-not-shown"})
    port = port_in(said)
    assert f"OPENAI_BASE_URL=http://127.0.0.1:{port}/v1\n" in said
    assert "(Fluxen's key: $OPENAI_API_KEY)" in said
    assert "(the client's own key)" in said
    assert "sk-not-shown" not in said
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthz", timeout=10) as answer:
        assert answer.status == 200
    taken = fluxen("serve", "--port", str(port))
    assert taken.returncode == 4
    assert f"127.0.0.1:{port} is in use" in taken.stderr
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "no requests yet" in fluxen("report", "costs").stderr  # found without an option


def test_warnings_come_on_stderr(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fluxen.yaml").write_text("api_keys: {jwt: [{key: too-short}]}\n")
    process, said = start("--port", "0")
    assert "Clients need a client key" in said
    process.terminate()
    _, err = process.communicate(timeout=60)
    line, *others = [json.loads(line) for line in err.splitlines()]
    assert (line["level"], line["process"], line["event"]) == ("warning", "supervisor", "config_warning")
    assert line["warning"].startswith("fluxen.yaml:1:24: api_keys.jwt[0].key: shorter than 32 bytes")
    assert [line["event"] for line in others] == ["started", "stopping", "stopped"]


def test_a_bad_file_starts_nothing(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "fluxen.yaml").write_text("server: {bind_address: '0.0.0.0:0'}\n")
    done = fluxen("serve")
    assert done.returncode == 3
    assert "fluxen.yaml:1:24: server.bind_address: there is no client key" in done.stderr
    assert "\nhint: fluxen init " in done.stderr


def test_welcome_in_full() -> None:
    lines = [
        Line("openai", "/openai", "openai", "https://api.openai.com", "$OPENAI_API_KEY"),
        Line("acme", "/llm", "openai", "http://10.0.0.1:8000/base", "acme"),
        Line("anthropic", "/anthropic", "anthropic", "https://api.anthropic.com", None),
    ]
    assert (
        welcome("0.0.0.0", 80, lines, "/data/ledger", open_mode=False).partition("\n")[2]
        == """
Point your application here:
  OPENAI_BASE_URL=http://127.0.0.1:80/v1
  ANTHROPIC_BASE_URL=http://127.0.0.1:80

Clients need a client key. Upstreams, and whose key each one gets:
  openai     http://127.0.0.1:80/openai     -> https://api.openai.com  (Fluxen's key: $OPENAI_API_KEY)
  acme       http://127.0.0.1:80/llm        -> http://10.0.0.1:8000/base  (Fluxen's key: from the configuration)
  anthropic  http://127.0.0.1:80/anthropic  -> https://api.anthropic.com  (no key: set api_key)

Ledger: /data/ledger
Costs so far: fluxen report costs
"""
    )
    first = welcome("::", 80, lines, "/data/ledger", open_mode=True).splitlines()[0]
    assert first.endswith("serves on http://[::1]:80 (listening on [::]:80)")
