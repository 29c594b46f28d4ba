"""The command as a whole: what it imports, how it ends, and what it never prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shared import Fluxen

from fluxen import __version__


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["--version", "serve"]])
def test_version(fluxen: Fluxen, arguments: list[str]) -> None:
    done = fluxen(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fluxen {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-h"], 0, "Exit codes:"),
        ([], 2, "Usage:"),
        (["nope"], 2, "No such command 'nope'"),
        (["report", "costs", "--nope"], 2, "No such option"),
        (["report", "costs", "--by", "colour"], 2, "hint: did you mean 'hour'? group by hour, day"),
        (["report", "costs", "--since", "soon"], 2, "'soon' is no moment"),
        (["report", "costs", "--json", "--csv"], 2, "exclude each other"),
        (["report", "costs"], 5, "no ledger found; looked in "),
        (["report", "costs", "--config", "none.yaml"], 3, "no configuration file none.yaml"),
        (["sql", "select 1"], 5, "hint: start `fluxen serve`"),
        (["ledger", "verify"], 5, "no ledger found"),
        (["validate", "none.yaml"], 3, "no configuration file none.yaml"),
        (["serve", "--port", "70000"], 2, "65535"),
        (["serve", "--config", "none.yaml"], 3, "no configuration file none.yaml"),
    ],
)
def test_exit_codes(fluxen: Fluxen, arguments: list[str], code: int, said: str) -> None:
    done = fluxen(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code and arguments:
        assert done.stdout == ""


def test_no_data_names_every_folder(fluxen: Fluxen, clean_env: dict[str, str], tmp_path: Path) -> None:
    done = fluxen("report", "costs")
    assert f"looked in {clean_env['HOME']}/.local/share/fluxen/ledger, /var/lib/fluxen/ledger" in done.stderr
    done = fluxen("report", "costs", env={"FLUXEN_DATA_DIR": "/nowhere"})
    assert "looked in /nowhere/ledger\n" in done.stderr
    (tmp_path / "fluxen.yaml").write_text("data_dir: state\nupstreams: {openai: {api_key: '${NOT_SET_HERE}'}}\n")
    done = fluxen("report", "costs")  # needs no key to read, and no valid upstreams
    assert f"looked in {tmp_path}/state/ledger\n" in done.stderr
    (tmp_path / "fluxen.yaml").write_text("data_dir: [\n")
    done = fluxen("report", "costs")
    assert done.returncode == 3
    assert "fluxen.yaml:2:1: " in done.stderr


def test_ctrl_c_is_quiet(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "ledger").mkdir(parents=True)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "sql", "-", "--data-dir", "data"],
        cwd=tmp_path, env=clean_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # It reads its question only after everything is imported: a full pipe says when it does.
        assert waiting.stdin is not None
        question = b"--" + b"x" * (1 << 17)
        os.write(waiting.stdin.fileno(), question)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=30)
    finally:
        waiting.kill()
    assert (waiting.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_error(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "ledger").mkdir(parents=True)
    query = "select i, repeat('x', 100) from range(20000) t(i)"
    shell = f'"{sys.executable}" -m fluxen_cli sql "{query}" --data-dir data | head -n 2; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=clean_env, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1] == "0"
    assert done.stderr == ""


def test_what_the_system_refuses_is_an_error_not_a_traceback(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "ledger" / "journal").mkdir(parents=True)
    command = f'"{sys.executable}" -m fluxen_cli'
    for shell, said in (
        (f"{command} ledger verify --data-dir data > /dev/full", "error: No space left on device\n"),
        (f"{command} ledger backup /proc/none/copy --data-dir data", "error: No such file or directory: /proc/none"),
        (f"{command} ledger verify --data-dir data >&-; exit 1", ""),
    ):
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=clean_env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == (1 if said else 0)
