"""A command pays at its start for what it does, and for nothing else: what is imported, not how long it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset(
    [
        "aiohttp",
        "asyncio",
        "brotli",
        "certifi",
        "duckdb",
        "http",
        "httptools",
        "msgspec",
        "multiprocessing",
        "pytz",
        "rich",
        "ssl",
        "uvloop",
        "yaml",
        "zstandard",
        "fluxen.analyzer",
        "fluxen.gateway",
        "fluxen.keys",
        "fluxen.ledger",
        "fluxen.providers",
        "fluxen.reports",
    ]
)
"""What costs 10 ms or more by itself, or brings such a thing along."""

PROGRAM = """
import json, os, sys
sys.argv[0] = "fluxen"
from fluxen_cli.__main__ import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
with open(os.environ["TOLD"], "w") as told:
    json.dump(sorted(sys.modules), told)
"""


def imported(arguments: list[str], folder: Path) -> set[str]:
    """The modules that this command line has imported when it is done."""
    told = folder / "modules.json"
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TOLD": str(told)}
    program = [sys.executable, "-c", PROGRAM, *arguments]
    ended = subprocess.run(program, env=env, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(told.read_text()))


def commands() -> list[list[str]]:
    import typer.main

    from fluxen_cli.app import build

    found: list[list[str]] = [[]]

    def walk(command: object, path: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            found.append([*path, name])
            walk(child, [*path, name])

    walk(typer.main.get_command(build()), [])
    return found


def test_the_version_needs_nothing(tmp_path: Path) -> None:
    for spelling in ("--version", "-V"):
        modules = imported([spelling], tmp_path)
        assert not {"typer", "click", "pydantic", "dataclasses", "inspect", "fluxen_cli.app"} & modules
        assert not HEAVY & modules


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_imports_no_work(command: list[str], tmp_path: Path) -> None:
    modules = imported([*command, "--help"], tmp_path)
    assert "fluxen_cli.app" in modules
    assert not HEAVY & modules


def test_the_tree_itself_needs_no_pydantic(tmp_path: Path) -> None:
    """Typer brings it along for a command with parameters, but not for the list of commands."""
    assert "pydantic" not in imported(["--help"], tmp_path)


def test_no_engine_for_a_configuration(tmp_path: Path) -> None:
    assert not {"duckdb", "uvloop", "rich"} & imported(["validate"], tmp_path)


def test_what_is_heavy_is_spelt_right(tmp_path: Path) -> None:
    """Or the tests above would look for names that nothing ever has."""
    program = "import importlib.util as u, sys; print([name for name in sys.argv[1:] if not u.find_spec(name)])"
    command = [sys.executable, "-c", program, *sorted(HEAVY)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
