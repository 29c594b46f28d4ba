"""`log:` of the configuration, and FLUXEN_LOG."""

from __future__ import annotations

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


def test_serve_does_not_start_with_it(fluxen: Fluxen) -> None:
    done = fluxen("serve", "--port", "0", env={"FLUXEN_LOG": "verbose"})
    assert done.returncode == 3
    assert done.stderr.startswith("error: FLUXEN_LOG: 'verbose' is none of debug, info")
    assert "hint: for example FLUXEN_LOG=debug" in done.stderr
