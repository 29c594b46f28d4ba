"""The release on machines that are not this one: fresh Debians, old and new, which have no Python.

Made by mmdebstrap, entered by chroot; that takes root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway.rig import Client, Connection, Request, Upstream, request
from shared import missing, require_program

from fluxen import __version__

DIST = Path(os.environ.get("FLUXEN_DIST") or Path(__file__).parents[2] / "dist").absolute()
ENTER = 'mount --bind /proc "$0/proc" && exec chroot "$@"'
PATIENCE = 120
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
BODY = b'{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
EVENTS = (
    b'data: {"model":"gpt-4o-mini","choices":[{"delta":{"content":"word"}}]}\n\n',
    b'data: {"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":200}}\n\n',
    b"data: [DONE]\n\n",
)


@dataclass(frozen=True)
class System:
    """A fresh Debian in a folder."""

    root: Path

    def command(self, *words: str, user: str = "root") -> list[str]:
        chroot = [f"--userspec={user}", str(self.root), *words]
        return ["unshare", "--mount", "/bin/sh", "-c", ENTER, str(self.root), *chroot]

    def run(self, *words: str, user: str = "root", code: int = 0, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            self.command(*words, user=user),
            env=ENVIRONMENT | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def at(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def files(self) -> set[str]:
        """All there is, but for what dpkg and the system itself keep of what has been."""
        own = re.compile(
            r"(proc|run|var/lib/dpkg|var/lib/apt|var/log|var/cache)(/.*)?|etc/(passwd|group|shadow|gshadow|sub[ug]id)-?|tmp/.*"
        )
        names = (str(path.relative_to(self.root)) for path in self.root.rglob("*"))
        return {name for name in names if not own.fullmatch(name)}


@pytest.fixture(scope="module", params=["bullseye", "bookworm"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    mmdebstrap = require_program("mmdebstrap")
    if os.geteuid() != 0:
        missing("needs root, to enter a system of its own")
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        missing("needs to be allowed a mount of its own")
    root = tmp_path_factory.mktemp(request.param) / "root"
    subprocess.run(
        [mmdebstrap, "--quiet", "--variant=minbase", "--include=adduser", request.param, str(root)], check=True
    )
    yield System(root)
    shutil.rmtree(root)


def config(upstream: Upstream) -> str:
    return (
        'version: 1\nserver: {bind_address: "127.0.0.1:0"}\n'
        f'upstreams:\n  openai: {{target_url: "{upstream.url}", api_key: "sk-provider-0123456789"}}\n'
    )


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    started = Upstream()
    started.plays(_stream)
    yield started
    started.close()
    assert not started.faults, started.faults


def _stream(connection: Connection, _: Request) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for event in EVENTS:
        connection.send(b"%x\r\n%b\r\n" % (len(event), event))
    connection.send(b"0\r\n\r\n")


@contextmanager
def manager(system: System) -> Iterator[socket.socket]:
    """What systemd listens on for services that say when they are up: /tmp/notify in there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listening.settimeout(PATIENCE)
        listening.bind(str(system.at("/tmp/notify")))
        system.at("/tmp/notify").chmod(0o777)
        yield listening
    system.at("/tmp/notify").unlink()


def serve_and_report(
    system: System, program: str, user: str, data: str, file: str, manager: socket.socket | None = None
) -> None:
    """Serve, stream, stop by SIGTERM, and find the request in the report."""
    env = {"FLUXEN_DATA_DIR": data, "HOME": "/", "TMPDIR": "/tmp"} | (
        {"NOTIFY_SOCKET": "/tmp/notify"} if manager else {}
    )
    serving = subprocess.Popen(
        system.command(program, "serve", "--config", file, user=user),
        env=ENVIRONMENT | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        said = ""
        for line in serving.stdout:
            said += line
            if line.startswith("Costs so far"):
                break
        found = re.search(r" serves on http://\S*:(\d+)\b", said)
        assert found, said
        if manager is not None:
            message, (credentials,), _, _ = manager.recvmsg(100, socket.CMSG_SPACE(12))
            sender, _, _ = struct.unpack("3i", credentials[2])
            assert (message, sender) == (b"READY=1", serving.pid), "systemd hears the main process only"
        with Client(int(found[1])) as client:
            answer = client.ask(request(b"/v1/chat/completions", BODY, key=None))
        assert (answer.status, answer.complete) == (200, True)
        assert EVENTS[1] in answer.wire
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(PATIENCE) == 0
    finally:
        if serving.poll() is None:
            serving.kill()
            serving.wait()
        if serving.stdout:
            serving.stdout.close()
    report = json.loads(system.run(program, "report", "costs", "--json", user=user, env=env))
    (row,) = report["rows"]
    assert (row["model"], row["requests"], row["input_tokens"]) == ("gpt-4o-mini", 1, 1000)


@pytest.fixture(scope="module")
def alone(system: System) -> str:
    """The one file, alone in there."""
    shutil.copy(DIST / "fluxen", system.at("/tmp/fluxen"))
    return "/tmp/fluxen"


def test_one_file_is_all_it_takes(system: System, alone: str, upstream: Upstream) -> None:
    assert not list(system.root.glob("usr/bin/python*")), "this is about systems without Python"
    assert system.run(alone, "--version") == f"fluxen {__version__}\n"
    system.at("/tmp/gateway.yaml").write_text(config(upstream))
    system.run("mkdir", "--mode=0777", "/tmp/data")
    assert "ok: " in system.run(alone, "validate", "/tmp/gateway.yaml", user="nobody")
    serve_and_report(system, alone, "nobody", "/tmp/data", "/tmp/gateway.yaml")


def test_the_package_installs_serves_upgrades_and_goes(system: System, upstream: Upstream) -> None:
    (deb,) = DIST.glob(f"fluxen_{__version__}_*.deb")
    shutil.copy(deb, system.at("/tmp"))
    before, users = system.files(), system.at("/etc/passwd").read_text()

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (install,) = re.findall(r"^```sh dist\n(apt-get install .*?)^```$", readme, re.MULTILINE | re.DOTALL)
    system.run("sh", "-c", f"cd /tmp; {install}")
    assert system.run("fluxen", "--version", user="nobody") == f"fluxen {__version__}\n"
    assert system.run("stat", "--format=%U:%G %a", "/var/lib/fluxen") == "fluxen:fluxen 750\n"
    assert system.run("stat", "--format=%U:%G %a", "/etc/fluxen/fluxen.yaml") == "root:fluxen 640\n"
    assert system.run("dpkg", "--verify", "fluxen") == ""
    for place in ("bash-completion/completions/fluxen", "zsh/vendor-completions/_fluxen", "man/man1/fluxen.1.gz"):
        assert system.at(f"/usr/share/{place}").stat().st_size > 0
    system.run("fluxen", "validate", user="fluxen")

    system.at("/etc/fluxen/fluxen.yaml").write_text(config(upstream))
    with manager(system) as listening:
        program = "/usr/lib/fluxen/fluxen"
        serve_and_report(system, program, "fluxen", "/var/lib/fluxen", "/etc/fluxen/fluxen.yaml", listening)

    system.run("dpkg", "--install", f"/tmp/{deb.name}")  # an upgrade keeps what is the administrator's
    assert system.at("/etc/fluxen/fluxen.yaml").read_text() == config(upstream)
    assert system.run("stat", "--format=%U:%G %a", "/etc/fluxen/fluxen.yaml") == "root:fluxen 640\n"

    system.run("dpkg", "--remove", "fluxen")
    assert system.at("/var/lib/fluxen/ledger").is_dir() and system.at("/etc/fluxen/fluxen.yaml").exists()
    assert not system.at("/usr/bin/fluxen").is_symlink()
    system.run("dpkg", "--purge", "fluxen")
    assert system.files() == before
    assert system.at("/etc/passwd").read_text() == users


def test_the_service_is_hardened(tmp_path: Path) -> None:
    """By systemd's own measure, without running it."""
    analyze = require_program("systemd-analyze")
    unit = tmp_path / "fluxen.service"
    text = (Path(__file__).parents[1] / "fluxen.service").read_text()
    program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert program
    unit.write_text(text.replace(program[1], "/bin/true").replace("man:fluxen(1)", "man:true(1)"))
    verified = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", unit], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stdout  # 2.0 of 10, where 10 is without any protection
