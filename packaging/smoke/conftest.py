"""Smoke tests of built executables: pytest packaging/smoke --binary dist/fluxen --binary dist/fluxen-folder/fluxen

Also FLUXEN_BINARY=PATH[:PATH…]. Each test runs for each of them. The executable gets an environment with nothing in it
but HOME and TMPDIR, both new, and runs from another folder: what it needs it must have with it. The upstream and the
clients are those of tests/gateway.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gateway import proc
from gateway.rig import Client, Upstream, until


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--binary", action="append", metavar="PATH", help="An executable to test; may be given again.")


def binaries(config: pytest.Config) -> list[Path]:
    named = config.getoption("--binary") or os.environ.get("FLUXEN_BINARY", "").split(":")
    found = [Path(name).absolute() for name in named if name]
    missing = [str(path) for path in found if not os.access(path, os.X_OK)]
    if missing or not found:
        raise pytest.UsageError(f"no executable: {', '.join(missing) or 'name one with --binary PATH'}")
    return found


def is_folder(binary: Path) -> bool:
    """Whether this is the form that lies unpacked in a folder."""
    return (binary.resolve().parent / "_internal").is_dir()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`binary` is each of them, `one_file` each that unpacks itself."""
    for name in {"binary", "one_file"} & set(metafunc.fixturenames):
        chosen = [path for path in binaries(metafunc.config) if name == "binary" or not is_folder(path)]
        metafunc.parametrize(name, chosen, ids=lambda path: "folder" if is_folder(path) else "one-file", indirect=True)


@dataclass
class Fluxen:
    """One executable with a home and a folder for temporary files of its own."""

    binary: Path
    home: Path
    temporary: Path
    elsewhere: Path
    """Where it is run."""
    started: list[Serving] = field(default_factory=list)

    @property
    def one_file(self) -> bool:
        return not is_folder(self.binary)

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"HOME": str(self.home), "TMPDIR": str(self.temporary), **(more or {})}

    def run(
        self, *args: str, env: Mapping[str, str] | None = None, code: int = 0, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be `code`, and leave nothing behind."""
        command = [str(self.binary), *args]
        done = subprocess.run(
            command, env=self.env(env), cwd=self.elsewhere, capture_output=True, text=True, timeout=120, **more
        )
        assert done.returncode == code, f"{args} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *args: str, **more: Any) -> Any:
        return json.loads(self.run(*args, "--json", **more).stdout)

    def serve(self, config: str, *args: str, env: Mapping[str, str] | None = None) -> Serving:
        file = self.elsewhere / f"gateway-{len(self.started)}.yaml"
        file.write_text(config)
        command = [str(self.binary), "serve", "--config", str(file), *args]
        self.started.append(Serving(self, command, self.env(env)))
        return self.started[-1]

    def unpacked(self) -> list[Path]:
        """What lies in the folder of temporary files."""
        return sorted(self.temporary.iterdir())


class Serving:
    """`fluxen serve`, once it accepts connections."""

    def __init__(self, fluxen: Fluxen, command: list[str], env: Mapping[str, str]) -> None:
        self.fluxen = fluxen
        self._stderr = fluxen.elsewhere / f"stderr-{len(fluxen.started)}"
        with self._stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=env, cwd=fluxen.elsewhere, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=errors, text=True, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        with self.process.stdout as said:  # nobody reads what comes later: that must not matter
            for line in said:
                self.said += line
                if line.startswith("Costs so far"):
                    break
        found = re.search(r" serves on http://\S*:(\d+)\b", self.said)
        assert found is not None, f"serve ended with {self.process.wait(60)}: {self.said}{self.stderr()}"
        self.port = int(found[1])
        if fluxen.one_file:
            (self.supervisor,) = until(lambda: proc.children(self.process.pid), "the program of the loader")
        else:
            self.supervisor = self.process.pid

    def connect(self) -> Client:
        return Client(self.port)

    def processes(self) -> list[int]:
        """The supervisor and all below it."""
        found = [self.supervisor]
        for pid in found:
            found += proc.children(pid)
        return found

    def workers(self) -> list[int]:
        return proc.roles(self.supervisor)[0]

    def stderr(self) -> str:
        return self._stderr.read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """It ends with 0, without a word, and with nothing left behind."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        assert self.process.wait(60) == 0, self.stderr()
        assert "Traceback" not in self.stderr(), self.stderr()
        assert self.fluxen.unpacked() == []

    def kill(self) -> None:
        for pid in [self.process.pid, *self.processes()]:
            if proc.alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def one_file(request: pytest.FixtureRequest) -> Path:
    return request.param


def _fluxen(binary: Path, folder: Path) -> Iterator[Fluxen]:
    places = {name: folder / name for name in ("home", "temporary", "elsewhere")}
    for place in places.values():
        place.mkdir()
    made = Fluxen(binary, **places)
    yield made
    for serving in made.started:
        if serving.process.poll() is None:  # a test that failed
            serving.kill()


@pytest.fixture
def fluxen(binary: Path, tmp_path: Path) -> Iterator[Fluxen]:
    """Each form of the executable."""
    yield from _fluxen(binary, tmp_path)


@pytest.fixture
def unpacking(one_file: Path, tmp_path: Path) -> Iterator[Fluxen]:
    """The form that unpacks itself at each start, for what can go wrong with that."""
    yield from _fluxen(one_file, tmp_path)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    started = Upstream()
    yield started
    started.close()
    assert not started.faults, started.faults


Configured = Callable[..., str]


@pytest.fixture
def configured() -> Configured:
    """A configuration: configured(url, server='…', upstream='…'). The ledger is compacted within seconds."""

    def configuration(url: str, server: str = "", upstream: str = "") -> str:
        return (
            f'version: 1\nserver: {{bind_address: "127.0.0.1:0"{server}}}\n'
            f'upstreams:\n  openai: {{target_url: "{url}", api_key: "sk-provider-0123456789"{upstream}}}\n'
            "ledger: {segment_seconds: 1, compact_seconds: 1, grace_seconds: 0}\n"
        )

    return configuration
