"""What the tests of `fluxen tail` and `fluxen top` share: a gateway with two workers, and commands that don't end by
themselves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.conftest import environment
from gateway.rig import PATIENCE, Answer, Client, Gateway, Upstream, request, until

CONFIG = """
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams: {{openai: {{target_url: "{url}", api_key: sk-provider-0123456789}}}}
api_keys: {{static: [{{id: alice, key: key-of-alice-0123456789}}, {{id: bob, key: key-of-bob-0123456789}}]}}
ledger: {{segment_seconds: 1, grace_seconds: 0}}
log: {{requests: false}}
"""
BODY = b'{"model":"gpt-4o-mini","messages":[]}'
FLUXEN = [sys.executable, "-m", "fluxen_cli"]


class Scene(Gateway):
    """A gateway whose upstream is at `upstream`."""

    def __init__(self, folder: Path) -> None:
        self.upstream = Upstream()
        super().__init__(folder, CONFIG.format(url=self.upstream.url), environment(folder / "home", {}))

    def call(self, times: int = 1, key: str = "alice", body: bytes = BODY) -> list[Answer]:
        """So many requests, each on a connection of its own; their order can be told by when they ended, in ms."""
        sent = request(body=body, key=f"Authorization: Bearer key-of-{key}-0123456789".encode())
        answers = []
        for _ in range(times):
            answers.append(self.ask(sent))
            time.sleep(0.002)
        return answers

    def env(self) -> dict[str, str]:
        """Of commands that look at it."""
        return {**self._env, "TERM": "xterm-256color"}

    def stop(self, patience: float = 60) -> None:
        """SIGTERM; it must end with 0. A test may have killed its processes before."""
        if not self.stopped:
            self.stopped = True
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(patience) == 0, self.stderr()

    def close(self) -> None:
        self.stop()
        assert "Traceback" not in self.stderr(), self.stderr()
        self.upstream.close()

    @contextmanager
    def load(self, threads: int = 3) -> Iterator[None]:
        """Requests without a pause, for as long as it lasts; a gateway that is away is waited for."""
        done = threading.Event()
        sent = request(body=BODY, key=b"Authorization: Bearer key-of-bob-0123456789")

        def run() -> None:
            while not done.is_set():
                try:
                    with Client.over(socket.create_connection(("127.0.0.1", self.port), PATIENCE)) as client:
                        for _ in range(20):
                            client.ask(sent)
                except (OSError, AssertionError):  # killed, or not there again yet
                    done.wait(0.02)

        running = [threading.Thread(target=run) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in running:
                thread.join()


class Watching:
    """A command that goes on until it is stopped, with its output in files."""

    def __init__(self, scene: Scene, *args: str) -> None:
        self._out, self._err = scene.folder / f"out-{args[0]}", scene.folder / f"err-{args[0]}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen([*FLUXEN, *args], stdout=out, stderr=err, env=scene.env())

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def lines(self, at_least: int) -> list[str]:
        """What it has printed, once there are so many lines."""
        until(lambda: self.out.count("\n") >= at_least or self.process.poll() is not None, f"{at_least} lines", 30)
        return self.out.splitlines()

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(30)
