"""What is logged and how: the configuration's `log:`, and FLUXEN_LOG, which wins over it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from fluxen.errors import ConfigError

VARIABLE: Final = "FLUXEN_LOG"
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("auto", "json", "console")
_SWITCH: Final = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}
_HINT: Final = f"for example {VARIABLE}=debug or {VARIABLE}=warning,json or {VARIABLE}=info,console,requests=off"


class Settings(NamedTuple):
    """level: what is written at least. requests: a line for each request, at level info."""

    level: str = "info"
    format: str = "auto"
    requests: bool = True


class Written(Protocol):
    """`log:` of the configuration."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def requests(self) -> bool: ...


def settings_of(written: Written, env: Mapping[str, str]) -> Settings:
    """Raises ConfigError when FLUXEN_LOG says what nobody understands."""
    settings = Settings(written.level, written.format, written.requests)
    for word in env.get(VARIABLE, "").split(","):
        settings = _applied(settings, word.strip().lower())
    return settings


def _applied(settings: Settings, word: str) -> Settings:
    name, equals, value = (part.strip() for part in word.partition("="))
    if not word:
        return settings
    if (equals and name == "level") or word in LEVELS:
        return settings._replace(level=_known(value if equals else word, LEVELS))
    if (equals and name == "format") or word in FORMATS:
        return settings._replace(format=_known(value if equals else word, FORMATS))
    if equals and name == "requests":
        return settings._replace(requests=_SWITCH[_known(value, tuple(_SWITCH))])
    raise _wrong(name, (*LEVELS, *FORMATS, "level", "format", "requests"))


def _known(value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise _wrong(value, words)
    return value


def _wrong(word: str, words: tuple[str, ...]) -> ConfigError:
    near = difflib.get_close_matches(word, words, n=1)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    return ConfigError(f"{VARIABLE}: '{word[:40]}' is none of {', '.join(words)}{meant}", hint=_HINT)
