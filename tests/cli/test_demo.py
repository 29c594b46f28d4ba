"""`fluxen demo` as a process: its show is true, nothing of the user's is touched, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import PATIENCE, Terminal
from gateway.rig import until
from shared import Fluxen

from fluxen.analyzer.cost import cost_pico
from fluxen.analyzer.prices import PriceBook
from fluxen.providers.answer import Usage
from fluxen_cli.demo import cast
from fluxen_cli.demo.provider import script
from fluxen_cli.demo.story import _EACH

DEMO = [sys.executable, "-m", "fluxen_cli", "demo"]
MARK = "FLUXEN_MARK_OF_THIS_TEST"


@dataclass(frozen=True)
class Stage:
    """Where a demo runs: an environment of its own, a folder for what is temporary."""

    env: dict[str, str]
    folder: Path
    temporary: Path

    def processes(self) -> list[int]:
        """All processes that have this environment, and so were started by what ran here."""
        mark = f"{MARK}={self.folder}".encode()
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if mark in _read(path)]

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.temporary.iterdir())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


@pytest.fixture
def stage(clean_env: dict[str, str], tmp_path: Path) -> Stage:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**clean_env, "TMPDIR": str(temporary), MARK: str(tmp_path), "TERM": "xterm-256color"}
    return Stage(env, tmp_path, temporary)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.CompletedProcess[str], Path]]:
    """One demo in a hostile environment, kept: what it said, and where it was."""
    folder = tmp_path_factory.mktemp("demo")
    hostile = {
        "HOME": str(folder / "home"), "PATH": os.environ["PATH"], "FLUXEN_CONFIG": str(folder / "no-such-file"),
        "FLUXEN_DATA_DIR": str(folder / "not-here"), "OPENAI_API_KEY": "sk-the-users-own",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    (folder / "fluxen.yaml").write_text("this: is the user's own, and wrong\n")
    done = subprocess.run(
        [*DEMO, "--keep", "kept"], cwd=folder, env=hostile, capture_output=True, text=True, timeout=120
    )
    yield done, folder


def ask(folder: Path, *arguments: str) -> Any:
    """What a command says, as JSON, of the ledger that was kept."""
    command = [sys.executable, "-m", "fluxen_cli", *arguments, "--json", "--config", str(folder / "kept/fluxen.yaml")]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_says_what_is_so(shown: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = shown
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stdout + done.stderr
    requests = 3 * _EACH
    assert f"{requests} of {requests} requests answered" in done.stdout
    assert 'process ended  child="worker 0"  how=SIGKILL' in done.stdout
    assert "\x1b" not in done.stdout
    found = re.search(
        r"(\d+) answers and (\d+) broken requests at the clients, (\d+) rows", " ".join(done.stdout.split())
    )
    assert found
    answers, broken, rows = map(int, found.groups())
    assert answers == requests
    assert broken > 0
    (counted,) = ask(
        folder, "sql", "select count(*), count(distinct id), count(*) filter (error = 'lost') from requests"
    )["rows"]
    assert counted == [rows, rows, broken]
    assert rows == answers + broken


def test_the_bill_is_that_of_the_script(shown: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Worked out here from what the provider says and the list prices, without gateway and ledger."""
    _, folder = shown
    book, now = PriceBook.shipped(), datetime.now(UTC)
    expected: dict[str, Decimal | None] = {}
    statuses: dict[int, int] = {}
    for request in (request for requests in cast.plan(_EACH).values() for request in requests):
        model = request.model
        status, said, _ = script(model, str(request.number))
        statuses[status] = statuses.get(status, 0) + 1
        price = book.find(model.upstream, model.name, now)
        assert (price is None) == (model.name == "llama-3.3-70b"), (
            f"{model.name} has a price, or none, where it should not"
        )
        if status == 200:
            usage = Usage(input=said.fresh, cache_read=said.read, cache_write_5m=said.written, output=said.output,
                          reasoning=said.reasoning)  # fmt: skip
            cost = cost_pico(price, usage)
            before = expected.get(model.name, Decimal(0))
            expected[model.name] = None if cost is None or before is None else before + Decimal(cost) / 10**12
    assert set(statuses) == {200, 429, 500}
    assert len(expected) == len(cast.MODELS)
    rows = ask(folder, "sql", "select model, sum(cost_usd) from requests where model is not null group by model")[
        "rows"
    ]
    assert {name: cost and Decimal(cost) for name, cost in rows} == expected
    answered = ask(folder, "sql", "select status, count(*) from requests where status is not null group by 1")["rows"]
    assert dict(answered) == statuses
    classes = ["sum(cache_read_tokens)", "sum(reasoning_tokens)", "sum(cache_write_5m_tokens)",
               "count(*) filter (stream)", "count(*) filter (not stream)"]  # fmt: skip
    sums = ask(folder, "sql", f"select {' > 0 and '.join(classes)} > 0 from requests")
    assert sums["rows"] == [[True]]
    assert {row["dialect"] for row in ask(folder, "report", "costs", "--by", "dialect")["rows"]} == {
        "openai", "anthropic", "gemini",
    }  # fmt: skip


def test_nothing_of_the_users_is_touched(shown: tuple[subprocess.CompletedProcess[str], Path], fluxen: Fluxen) -> None:
    done, folder = shown
    assert sorted(path.name for path in folder.iterdir()) == ["fluxen.yaml", "kept"]
    kept = folder / "kept"
    everything = b"".join(path.read_bytes() for path in kept.rglob("*") if path.is_file())
    for secret in ("sk-the-users-own", *(team.key for team in cast.TEAMS)):
        assert secret.encode() not in everything
        assert secret not in done.stdout
    # What it says to do with the kept folder works; the same folder again does not.
    commands = [line.split() for line in done.stdout.splitlines() if str(kept) in line and line.startswith("  fluxen ")]
    assert [command[1] for command in commands] == ["report", "validate"]
    for command in commands:
        assert fluxen(*command[1:]).returncode == 0
    again = fluxen("demo", "--keep", str(kept))
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr


def test_on_a_terminal_nothing_is_left(stage: Stage) -> None:
    terminal = Terminal(DEMO, stage.env, stage.folder, columns=80)
    assert terminal.ends() == 0, terminal.said
    assert stage.is_clean()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.said)
    assert f"{_EACH}/{_EACH}" in plain
    assert "Was anything lost?" in plain
    assert "\x1b[36mfluxen report costs --by team\x1b[0m" in terminal.said
    wide = [line for line in re.split(r"[\r\n]+", plain) if len(line) > 80 and str(stage.temporary) not in line]
    assert wide == []


@pytest.mark.parametrize("keep", [[], ["--keep", "kept"]], ids=["temporary", "kept"])
def test_ctrl_c_leaves_nothing(stage: Stage, keep: list[str]) -> None:
    terminal = Terminal([*DEMO, *keep], stage.env, stage.folder)
    terminal.wait_for(f"/{_EACH}")
    assert len(stage.processes()) >= 4  # the demo, the gateway, its worker and its compactor
    terminal.type("\x03")
    assert terminal.ends() == 130
    assert "Traceback" not in terminal.said
    assert stage.is_clean()
    assert not (stage.folder / "kept").exists()


def test_sigterm_leaves_nothing(stage: Stage) -> None:
    with subprocess.Popen(DEMO, env=stage.env, cwd=stage.folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "requests answered" in line)
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert stage.is_clean()


def test_sigkill_leaves_no_process(stage: Stage) -> None:
    with subprocess.Popen(DEMO, env=stage.env, cwd=stage.folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "requests answered" in line)
        process.kill()
        process.communicate(timeout=PATIENCE)
    until(lambda: not stage.processes(), "the gateway to end", PATIENCE)


def test_a_reader_that_has_seen_enough_ends_it(stage: Stage) -> None:
    with subprocess.Popen(
        DEMO, env=stage.env, cwd=stage.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert stage.is_clean()
