"""The recorded traffic as a rig: the replay upstream as a process, the driver as another, and what both wrote down.

Both programs are those of the shared folder, run as its README says; nothing of them is repeated here. What the driver
checks is taken as it says; what it can't see (the exact list of headers and the path at the upstream) is compared here
from its results and the upstream's log.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateway.conftest import environment
from gateway.rig import KEY, Gateway, until
from shared import require_shared

OURS = ("openai", "anthropic", "google")
CREDENTIALS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")


@dataclass(frozen=True)
class Mount:
    """How a recorded provider is configured. prefix: what its recorded paths begin with and target_url carries."""

    upstream: str
    prefix: str = ""
    dialect: str | None = None
    header: str = "authorization"
    scheme: str = "Bearer "

    @property
    def key(self) -> str:
        return f"sk-of-{self.upstream}"

    @property
    def credential(self) -> str:
        return self.scheme + self.key


MOUNTS = {
    "openai": Mount("openai"),
    "anthropic": Mount("anthropic", header="x-api-key", scheme=""),
    "google": Mount("gemini", header="x-goog-api-key", scheme=""),
    "google-vertex": Mount("google-vertex", header="x-goog-api-key", scheme=""),
    "azure": Mount("azure", header="api-key", scheme=""),
    "portkey": Mount("portkey", header="x-portkey-api-key", scheme=""),
    "groq": Mount("groq", "/openai"),
    "openrouter": Mount("openrouter", "/api"),
    "bedrock-mantle": Mount("bedrock-mantle"),
    "snowflake": Mount("snowflake", "/api/v2/cortex"),
    "zai": Mount("zai", "/api/paas/v4"),
    "vllm-or-local": Mount("vllm"),
}
for _name in (
    *("bedrock", "cerebras", "cohere", "crusoe", "deepseek", "heroku", "huggingface", "mistral", "ollama"),
    *("together", "voyageai", "writer"),
):
    MOUNTS[_name] = Mount(_name)
ELSEWHERE = Mount("elsewhere")
"""Where the few exchanges of nameless servers go."""


def mount_of(provider: str) -> Mount:
    return MOUNTS.get(provider, ELSEWHERE)


def config(url: str, more: str = "", options: str = "") -> str:
    """A configuration with every recorded provider at `url`, and every body as it is sent. more: lines of further
    upstreams."""
    lines = ["version: 1", 'server: {bind_address: "127.0.0.1:0"}', "stream_usage: as_sent", "upstreams:"]
    for mount in (*MOUNTS.values(), ELSEWHERE):
        dialect = f", dialect: {mount.dialect}" if mount.dialect else ""
        lines.append(f'  {mount.upstream}: {{target_url: "{url}{mount.prefix}", api_key: "{mount.key}"{dialect}}}')
    return "\n".join([*lines, more, "api_keys:", f'  static: [{{id: replay, key: "{KEY}"}}]', options, ""])


def load(name: str) -> dict[str, dict[str, Any]]:
    """One of the shared files of JSON lines, by exchange id."""
    with gzip.open(require_shared("traffic", name), "rt", encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file)}


def expectations(exchanges: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What each exchange's row should say. One id is spelt differently in the two files."""
    expected = {_plain(id): row for id, row in load("expected_dev.jsonl.gz").items()}
    return {id: expected[_plain(id)] for id in exchanges}


def _plain(id: str) -> str:
    return id.replace("-", "_")


class Replay:
    """The replay upstream, serving on a free port."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        said = folder / "replay"
        with said.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable, str(require_shared("traffic", "replay_upstream.py")), "--data", data(),
                    "--port", str(self.port), *options,
                ],
                env=_environment(folder), cwd=folder, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

        def serves() -> bool:
            assert self.process.poll() is None, said.read_text()
            return b"exchanges on" in said.read_bytes()

        until(serves, "the replay upstream to serve", 60)

    def log(self) -> dict[str, list[dict[str, Any]]]:
        """What it received and sent since the last drive began, by exchange id."""
        with urllib.request.urlopen(f"{self.url}/__log", timeout=30) as answer:
            entries = json.load(answer)
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            found.setdefault(entry["id"], []).append(entry)
        return found

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@dataclass(frozen=True)
class Run:
    """One drive: its summary, and per exchange id what the driver found, and what came to the upstream."""

    summary: dict[str, Any]
    results: dict[str, dict[str, Any]]
    log: dict[str, list[dict[str, Any]]]
    file: Path
    """The driver's --out."""

    @cached_property
    def ids(self) -> dict[str, str]:
        """Exchange id by the row's id."""
        return {result["gateway_id"]: id for id, result in self.results.items() if result["gateway_id"]}


def drive(folder: Path, replay: Replay, gateway: Gateway, *options: str, exchanges: Path | None = None) -> Run:
    """Send exchanges (all, or those in a file) through a gateway. The driver judges; nothing is asserted here."""
    out = folder / "results.jsonl"
    command = [
        sys.executable, str(require_shared("traffic", "drive.py")), "--data", str(exchanges or data()),
        "--gateway", gateway.url, "--upstream", replay.url, "--key", KEY, "--id-header", "x-fluxen-id",
        "--out", str(out), *options,
    ]  # fmt: skip
    done = subprocess.run(command, env=_environment(folder), cwd=folder, capture_output=True, text=True, check=False)
    assert out.exists() and done.stdout, done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    return Run(json.loads(done.stdout), {result["id"]: result for result in results}, replay.log(), out)


def through_mounts(providers: Iterable[str]) -> list[str]:
    """The driver's options for mounts. The recorded prefix is dropped where target_url has it; Groq's SDK brings the
    whole path itself."""
    options = ["--default-mount", f"/{ELSEWHERE.upstream}"]
    for provider in providers:
        mount = mount_of(provider)
        options += ["--mount", f"{provider}=/{mount.upstream}"]
        if mount.prefix and provider != "groq":
            options += ["--strip", f"{provider}={mount.prefix}"]
    return options


def fluxen(gateway: Gateway, *args: str) -> str:
    """Standard output of a command on the gateway's data."""
    home = gateway.folder / "home"
    done = subprocess.run(
        [sys.executable, "-m", "fluxen_cli", *args],
        env=environment(home, {"FLUXEN_DATA_DIR": str(gateway.data_dir)}),
        cwd=home, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def data() -> str:
    return str(require_shared("traffic", "dev.jsonl.gz"))


def _environment(folder: Path) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(folder), "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}
