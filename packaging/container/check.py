"""Starts the image that was built, as an engine would, and uses it as somebody does who has just found it.

    unshare --net python3 check.py ROOT CONFIG

ROOT is the folder of the image's files, CONFIG what `buildah inspect --type image` says of it: environment, user,
entrypoint, command, volumes, health check and stop signal are the image's own. The network is private: the port is
free, nothing outside can be reached, and a provider from a script stands in for the real one. A step that fails ends in
an exception; each that holds prints a line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

ENTER = Path(__file__).with_name("enter.py")
URL = "http://127.0.0.1:8080"
PROVIDER_KEY = "sk-of-the-gateway"
LIMIT = 60.0
"""Seconds after which something that should happen counts as not happening."""

ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello from afar"}}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}  # fmt: skip

T = TypeVar("T")


class Provider(BaseHTTPRequestHandler):
    """Answers every chat completion alike, to whoever brings the gateway's key; a question about patience after 1 s."""

    protocol_version = "HTTP/1.1"
    asked = threading.Event()

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path == "/v1/chat/completions" and self.headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
        if b"patience" in question:
            Provider.asked.set()
            threading.Event().wait(1)  # so that a stop comes while it is answered
        body = json.dumps(ANSWER if known else {"error": {"message": "not scripted"}}).encode()
        self.send_response(200 if known else 418)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Image:
    """What the image says of itself."""

    def __init__(self, root: Path, inspected: dict[str, Any]) -> None:
        docker = inspected["Docker"]["config"]
        self.root = root
        self.env: dict[str, str] = dict(entry.split("=", 1) for entry in docker["Env"])
        self.uid, self.gid = (int(part) for part in docker["User"].split(":"))
        self.command: list[str] = [*docker["Entrypoint"], *docker["Cmd"]]
        self.entrypoint: list[str] = docker["Entrypoint"]
        self.health: dict[str, Any] = docker["Healthcheck"]
        self.volumes = list(docker["Volumes"])
        self.ports = list(docker["ExposedPorts"])
        self.stop = signal.Signals[docker["StopSignal"]]


class Container:
    """One run of the image. `pid` is its first process, seen from outside."""

    def __init__(self, image: Image, work: Path, mounts: list[tuple[Path, str, bool]], env: dict[str, str]) -> None:
        self.image = image
        self._env = image.env | {"HOSTNAME": "fluxen"} | env
        self._work = work
        self._log = Path(tempfile.mkstemp(dir=work, prefix="log-")[1])
        described = {
            "root": str(image.root), "uid": image.uid, "gid": image.gid, "env": self._env, "command": image.command,
            "mounts": [[str(source), target, read_only] for source, target, read_only in mounts],
        }  # fmt: skip
        description = Path(tempfile.mkstemp(dir=work, suffix=".json")[1])
        description.write_text(json.dumps(described))
        self.started = time.monotonic()
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        with self._log.open("w") as log:
            self._outer = subprocess.Popen(
                ["unshare", *namespaces, sys.executable, str(ENTER), str(description)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        return until(lambda: [int(pid) for pid in children.read_text().split()], "a process in the container")[0]

    @property
    def said(self) -> str:
        return self._log.read_text()

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: beside the running command, as its user, with its environment."""
        into = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--ipc", "--uts", "--root", "--wd"]
        return subprocess.run(
            [*into, f"--setuid={self.image.uid}", f"--setgid={self.image.gid}", *command],
            env=self._env, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip

    def ready(self) -> float:
        """Wait for it to serve; seconds since its start."""
        until(lambda: self._lives() and reachable(f"{URL}/-/readyz"), "the gateway to be ready", self)
        return time.monotonic() - self.started

    def stop(self) -> int:
        """As `docker stop`; the exit code."""
        os.kill(self.pid, self.image.stop)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._outer.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.said}") from None

    def kill(self) -> None:
        self._outer.kill()
        self._outer.wait()

    def _lives(self) -> bool:
        if self._outer.poll() is not None:
            raise AssertionError(f"it ended with {self._outer.returncode}:\n{self.said}")
        return True


def until(condition: Callable[[], T], what: str, container: Container | None = None) -> T:
    """Poll until it is true, or fail."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}" + (f":\n{container.said}" if container else ""))


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def loopback_up() -> None:
    """A new network has a loopback device that is switched off."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line as it was printed, pasted into a shell outside."""
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=LIMIT, check=False)


@contextmanager
def running(container: Container) -> Iterator[Container]:
    try:
        yield container
    finally:
        container.kill()


def done(what: str) -> None:
    print(f"  ok: {what}", flush=True)


def volume(image: Image, work: Path) -> Path:
    """A new volume takes owner and mode of the folder in the image."""
    (name,) = image.volumes
    inside = (image.root / name.lstrip("/")).stat()
    folder = work / "volume"
    folder.mkdir()
    folder.chmod(inside.st_mode & 0o7777)
    os.chown(folder, inside.st_uid, inside.st_gid)
    return folder


def first_start(image: Image, work: Path, data: Path) -> str:
    """`docker compose up` without any file; the line it prints to try."""
    with running(Container(image, work, [(data, "/data", False)], {})) as container:
        seconds = container.ready()
        found = re.findall(r"\bflx_[A-Za-z0-9_-]{43,}", container.said)
        assert len(set(found)) == 1, container.said
        line = next(text.strip() for text in container.said.splitlines() if text.strip().startswith("curl "))
        assert found[0] in line
        done(f"the first start, without any file or network, serves after {seconds:.2f} s and prints a key")

        status = Path(f"/proc/{container.pid}/status").read_text()
        fields = dict(text.split(":\t", 1) for text in status.splitlines() if ":\t" in text)
        assert fields["NSpid"].split()[-1] == "1", status
        assert set(fields["Uid"].split()) == {str(image.uid)} == set(fields["Gid"].split())
        assert (fields["NoNewPrivs"], fields["CapEff"], fields["CapPrm"]) == ("1", "0" * 16, "0" * 16)
        writable = os.statvfs(f"/proc/{container.pid}/root/").f_flag & os.ST_RDONLY == 0
        assert not writable
        done(f"it is PID 1, user {image.uid}, without capabilities, on a root file system that is read-only")

        kind, *check = image.health["Test"]
        assert kind == "CMD"
        health = container.exec(*check)
        assert (health.returncode, health.stdout) == (0, f"ok: {URL} takes requests\n"), health
        done(f"{' '.join(check)}: {health.stdout.strip()}")
        refused = shell(line.replace(found[0], "flx_of-nobody") + " -s -o /dev/null -w '%{http_code}'")
        assert refused.stdout == "401", refused
        done("a key of nobody's is refused with 401")

        # What `docker exec` leaves behind is PID 1's to clean up.
        container.exec("sh", "-c", "sleep 1000 >&- 2>&- & exit 0")
        first = container.pid
        (orphan,) = until(lambda: [pid for pid, name in children(first).items() if name == "sleep"], "an orphan")
        os.kill(orphan, signal.SIGKILL)
        until(lambda: orphan not in children(first), "PID 1 to reap it")
        done("a process whose parent is gone becomes PID 1's and is reaped")

        code = container.stop()
        assert code == 0, (code, container.said)
        assert "Traceback" not in container.said
        done(f"{image.stop.name} ends it with 0")
    return line


def children(pid: int) -> dict[int, str]:
    """Its children's names; the dead count until they are reaped."""
    names = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # reaped meanwhile
            names[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
    return names


def second_start(image: Image, work: Path, data: Path, line: str, port: int) -> None:
    """With a configuration mounted, and the key of the first start."""
    settings = work / "etc"
    settings.mkdir()
    upstream = f'{{target_url: "http://127.0.0.1:{port}", api_key: "${{OPENAI_API_KEY}}"}}'
    (settings / "fluxen.yaml").write_text(f"version: 1\nupstreams: {{openai: {upstream}}}\n")
    mounts = [(data, "/data", False), (settings, "/etc/fluxen", True)]
    with running(Container(image, work, mounts, {"OPENAI_API_KEY": PROVIDER_KEY})) as container:
        container.ready()
        assert "flx_" not in container.said
        assert PROVIDER_KEY not in container.said
        done("the second start prints no key")
        asked = re.sub(r"\S+/v1/\S+", f"{URL}/openai/v1/chat/completions", line, count=1)
        answer = json.loads(shell(asked).stdout)
        assert answer == ANSWER, answer
        done("the first start's curl line reaches the provider, with the gateway's key instead of the client's")

        slow = asked.replace("Say hello", "Say patience")
        assert slow != asked
        with subprocess.Popen(["bash", "-c", f"{slow} -s"], stdout=subprocess.PIPE, text=True) as waiting:
            assert Provider.asked.wait(LIMIT)
            code = container.stop()
            assert waiting.stdout is not None
            assert json.loads(waiting.stdout.read()) == ANSWER
        assert code == 0, (code, container.said)
        done("a request that runs when it is told to stop is answered, and it ends with 0")

    with running(Container(image, work, mounts, {"OPENAI_API_KEY": PROVIDER_KEY})) as container:
        container.ready()
        report = container.exec(*image.entrypoint, "report", "costs", "--by", "model,key", "--json")
        (row,) = json.loads(report.stdout)["rows"]
        assert (row["model"], row["requests"], row["input_tokens"], row["output_tokens"]) == (
            ANSWER["model"], 2, 22, 14,
        ), row  # fmt: skip
        assert "default" in row.values(), row
        assert row["cost_usd"] == "0.0000117", row  # 2 × (11 × $0.15 + 7 × $0.60) per million
        done(f"fluxen report costs, in the container: {row['requests']} requests of key default, ${row['cost_usd']}")
        verify = container.exec(*image.entrypoint, "ledger", "verify")
        assert verify.returncode == 0, verify
        strangers = [path for path in [data, *data.rglob("*")] if path.stat().st_uid != image.uid]
        assert strangers == []
        done(f"{verify.stdout.strip()}")
        assert container.stop() == 0


def without_a_place(image: Image, work: Path) -> None:
    """A folder mounted by hand belongs to whoever made it: that must be said, not found out."""
    foreign = work / "foreign"
    foreign.mkdir(mode=0o755)
    with running(Container(image, work, [(foreign, "/data", False)], {})) as container:
        code = container.wait()
        assert code not in (0, None)
        assert "error: " in container.said, container.said
        assert "/data" in container.said
        assert "Traceback" not in container.said, container.said
        done(f"a data folder of another user: {container.said.strip().splitlines()[0]}")


def main() -> None:
    root, inspected = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    image = Image(root, inspected)
    assert image.ports == ["8080/tcp"], image.ports
    terms = (root / "usr/share/doc/fluxen/THIRD-PARTY-LICENSES.txt").read_text()
    for part in ("duckdb", "libssl3", "uvloop", "pyinstaller"):
        assert f"\n  {part} " in terms, part
    done("the terms of what is inside lie in it")
    loopback_up()
    os.environ["no_proxy"] = "*"
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    work = Path(tempfile.mkdtemp(prefix="fluxen-container-"))
    work.chmod(0o711)  # it is not root who reads the mounts
    try:
        data = volume(image, work)
        line = first_start(image, work, data)
        second_start(image, work, data, line, provider.server_address[1])
        without_a_place(image, work)
    except urllib.error.URLError as error:
        raise AssertionError(str(error)) from error
    finally:
        provider.shutdown()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
