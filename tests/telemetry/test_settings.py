"""`log:` of the configuration, and FLUXEN_LOG."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shared import Fluxen

from fluxen.config.model import LogSettings
from fluxen.errors import ConfigError
from fluxen.telemetry.settings import FORMATS, LEVELS, Settings, settings_of


def test_without_the_variable_the_file_says_it() -> None:
    assert settings_of(LogSettings(), {}) == Settings("info", "auto", True)
    assert settings_of(LogSettings(level="error", format="json", requests=False), {}) == ("error", "json", False)


def test_the_defaults_are_those_of_the_configuration() -> None:
    assert Settings() == settings_of(LogSettings(), {"FLUXEN_LOG": ""})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("debug", ("debug", "json", True)),
        ("warning,console", ("warning", "console", True)),
        (" Info , console , requests = off ", ("info", "console", False)),
        ("level=debug,format=auto,requests=yes", ("debug", "auto", True)),
        (",,", ("error", "json", True)),
        ("requests=false", ("error", "json", False)),
    ],
)
def test_the_variable_wins_over_the_file(value: str, expected: tuple[str, str, bool]) -> None:
    assert settings_of(LogSettings(level="error", format="json"), {"FLUXEN_LOG": value}) == expected


@pytest.mark.parametrize(
    "value", ["loud", "warn", "json=yes", "requests", "requests=maybe", "level=", "format=xml", "a=b"]
)
def test_what_nobody_understands_is_an_error_that_helps(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(LogSettings(), {"FLUXEN_LOG": value})
    assert caught.value.message.startswith("FLUXEN_LOG: '")
    assert "FLUXEN_LOG=" in (caught.value.hint or "")


def test_the_nearest_word() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'warning'\?"):
        settings_of(LogSettings(), {"FLUXEN_LOG": "warn"})


def test_the_words_are_those_of_the_schema() -> None:
    properties = LogSettings.model_json_schema()["properties"]
    assert tuple(properties["level"]["enum"]) == LEVELS
    assert tuple(properties["format"]["enum"]) == FORMATS


@pytest.mark.parametrize("asked", ["FLUXEN_LOG", "file"])
def test_who_asks_for_json_gets_nothing_else(clean_env: dict[str, str], tmp_path: Path, asked: str) -> None:
    """Collectors of logs read stdout and stderr as one."""
    (tmp_path / "fluxen.yaml").write_text("log: {format: json}\n" if asked == "file" else "")
    env = clean_env if asked == "file" else {**clean_env, "FLUXEN_LOG": "json"}
    with subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        events = [first["event"], *(json.loads(line)["event"] for line in process.stdout)]
        assert process.wait(60) == 0
    assert events == ["started", "stopping", "stopped"]
    assert first["open_mode"] is True
    assert first["address"].startswith("127.0.0.1:")


def test_serve_does_not_start_with_it(fluxen: Fluxen) -> None:
    done = fluxen("serve", "--port", "0", env={"FLUXEN_LOG": "verbose"})
    assert done.returncode == 3
    assert done.stderr.startswith("error: FLUXEN_LOG: 'verbose' is none of debug, info")
    assert "hint: for example FLUXEN_LOG=debug" in done.stderr
