"""`credentials.json` in the data folder: keys of providers that `fluxen keys provider rotate` was given.

    {"version": 1, "credentials": [{"upstream": "openai", "name": "spare", "key": "sk-…", "created": "2026-11-22T20:00:00Z"}]}

An entry stands in for what the configuration says: for the credential of its name, or without a name for `api_key`.
Unlike a client key, a provider's key has to be sent, so it is kept as it is: the file is for its owner only. Readers
take no lock, writers wait for each other. Fields that this version does not know stay where they are.
"""  # noqa: E501 - the line is what the file looks like

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fluxen.config.paths import read_file
from fluxen.config.values import Secret, sendable
from fluxen.errors import ConfigError
from fluxen.keys.private import locked, write_whole

NAME: Final = "credentials.json"
VERSION: Final = 1
LONGEST: Final = 8192  # characters of a key: as long as a header may be
_LARGEST: Final = 1 << 20  # bytes of the file

Place = tuple[str, str | None]
"""An upstream, and which of its credentials; None: its api_key."""


class ProviderKeys:
    """The stored provider keys of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME

    def read(self) -> Mapping[Place, Secret]:
        """All of them; none without a file. Raises ConfigError when it can't be used."""
        return {
            (entry["upstream"], entry.get("name")): Secret(entry["key"], NAME)
            for entry in self._document()["credentials"]
        }

    def exposed(self) -> Iterator[str]:
        """What should be said of who else may open the file."""
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
        except OSError:
            return
        if mode & 0o022:
            yield f"{self.path} can be changed by others: chmod 600"
        elif mode & 0o044:
            yield f"{self.path} holds keys of providers and can be read by others: chmod 600"

    def put(self, upstream: str, name: str | None, key: str) -> None:
        """Keep a key, in place of what was kept for the same. Raises FluxenError when it can't be written."""
        entry = {"upstream": upstream, "key": key, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        if name is not None:
            entry["name"] = name
        with locked(self.path, "keys of providers are kept"):
            document = self._document()
            others = [one for one in document["credentials"] if _place(one) != (upstream, name)]
            self._write({**document, "credentials": [*others, entry]})

    def remove(self, upstream: str, name: str | None) -> bool:
        """Forget a key. False when none was kept. Raises FluxenError when the file can't be written."""
        with locked(self.path, "keys of providers are kept"):
            document = self._document()
            others = [one for one in document["credentials"] if _place(one) != (upstream, name)]
            if len(others) == len(document["credentials"]):
                return False
            self._write({**document, "credentials": others})
            return True

    def _write(self, document: Mapping[str, Any]) -> None:
        write_whole(self.path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")

    def _document(self) -> dict[str, Any]:
        try:
            raw = read_file(self.path, _LARGEST + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {"version": VERSION, "credentials": []}
        except OSError as error:
            raise ConfigError(f"can't read {self.path}: {error.strerror}", hint="check who owns it") from error
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._broken("is no JSON" if len(raw) <= _LARGEST else "is too large") from None
        version = document.get("version") if isinstance(document, dict) else None
        if type(version) is int and version > VERSION:
            raise ConfigError(f"{self.path} has version {version}: a newer Fluxen wrote it, upgrade this one")
        if type(version) is not int or version != VERSION or not isinstance(document.get("credentials"), list):
            raise self._broken(f'does not begin as {{"version": {VERSION}, "credentials": […]}}')
        seen: set[Place] = set()
        for index, entry in enumerate(document["credentials"]):
            if why := _wrong(entry):
                raise self._broken(f"credentials[{index}] {why}")
            if _place(entry) in seen:
                raise self._broken(f"credentials[{index}] is for the same as another")
            seen.add(_place(entry))
        return document  # type: ignore[no-any-return]

    def _broken(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self.path} can't be used: {why}",
            hint="restore it, or move it away and enter the keys again with fluxen keys provider rotate",
        )


def wrong_key(key: str) -> str | None:
    """Why this can't be a provider's key. Does not quote it."""
    if not key:
        return "it is empty"
    if len(key) > LONGEST:
        return f"it has more than {LONGEST} characters"
    return None if sendable(key) else "it holds a space or a character that can't stand in a header"


def _place(entry: Mapping[str, Any]) -> Place:
    return entry["upstream"], entry.get("name")


def _wrong(entry: object) -> str | None:
    """What is wrong with an entry; never quotes its key."""
    if not isinstance(entry, dict):
        return "is no object"
    if not isinstance(entry.get("upstream"), str):
        return "has no upstream"
    if not isinstance(entry.get("name"), str | None):
        return "has a name that is no text"
    key = entry.get("key")
    if not isinstance(key, str):
        return "has no key"
    why = wrong_key(key)
    return None if why is None else f"has a key that can't be sent: {why}"
