"""`keys.json` in the data folder: the client keys that commands create, by their hashes.

    {"version": 1, "keys": [{"id": "ci", "hash": "sha256:…", "created": "2026-11-22T20:00:00Z", "team": …}]}

Readers take no lock: the file is replaced as a whole. Writers wait for each other at `keys.json.lock`, so that none
overwrites what another has just added. Fields that this version does not know stay where they are; whatever would
narrow what a key may do (an end date, a revocation) has to come with a new `version`, which an older Fluxen refuses:
ignored, it would let somebody in.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fluxen.config.access import StaticKey
from fluxen.errors import ConfigError, FluxenError
from fluxen.keys.generate import hash_of, new_key
from fluxen.keys.private import open_lock, write_whole

NAME: Final = "keys.json"
VERSION: Final = 1
_FIELDS: Final = ("id", "hash", "team", "project", "tags", "upstreams")


@dataclass(frozen=True, slots=True)
class Stored:
    """What keys.json says. warnings: lines for the operator."""

    keys: tuple[StaticKey, ...]
    warnings: tuple[str, ...] = ()


class KeyStore:
    """The client keys of one data folder. No method ever returns a key, except the one that just made it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME

    def read(self) -> Stored | None:
        """The keys; None without a file. Raises ConfigError when it can't be used: a gateway that took a broken file
        for an empty one would be open to everybody."""
        raw = self.raw()
        if raw is None:
            return None
        stored = self.parse(raw)
        return Stored(stored.keys, (*stored.warnings, *self.exposed()))

    def raw(self) -> bytes | None:
        """The file as it is; None without one. Raises ConfigError when it can't be read."""
        try:
            return self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(f"can't read {self.path}: {error.strerror}", hint="check who owns it") from error

    def parse(self, raw: bytes) -> Stored:
        """What such a file says; looks at no file itself. Raises ConfigError when it can't be used."""
        document = self._document(raw)
        keys: list[StaticKey] = []
        ids: dict[str, int] = {}
        digests: dict[bytes, int] = {}
        for index, entry in enumerate(document["keys"]):
            key = self._key(index, entry)
            if (first := ids.setdefault(key.id, index)) != index:
                raise self._broken(f"keys[{index}].id is that of keys[{first}], too")
            if (first := digests.setdefault(key.digest, index)) != index:
                raise self._broken(f"keys[{index}].hash is that of keys[{first}], too")
            keys.append(key)
        return Stored(tuple(keys))

    def create(self, key_id: str) -> str:
        """Add a new key and return it: the only time it is seen. Raises FluxenError when there is one of that id, or
        the file can't be written, ConfigError when it can't be read."""
        with self._locked():
            document = self._written()
            if any(entry.get("id") == key_id for entry in document["keys"]):
                raise FluxenError(f"{self.path} has a key '{key_id}' already")
            return self._add(document, key_id)

    def create_first(self, key_id: str) -> str | None:
        """The same if there is no key at all; None, and nothing changes, if there is one."""
        if (stored := self.read()) is not None and stored.keys:
            return None  # so that later starts need not be able to write
        with self._locked():
            document = self._written()
            return None if document["keys"] else self._add(document, key_id)

    def _add(self, document: dict[str, Any], key_id: str) -> str:
        key = new_key()
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"id": key_id, "hash": hash_of(key), "created": created}
        try:
            self._key(len(document["keys"]), entry)  # what can't be read again is never written
        except ConfigError:
            raise FluxenError("a key's id has 1 to 256 printable ASCII characters") from None
        document["keys"].append(entry)
        write_whole(self.path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. What a killed one left behind goes."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = open_lock(self.path.with_name(f"{NAME}.lock"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for left in self.path.parent.glob(f".{NAME}.*"):
                    left.unlink(missing_ok=True)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise FluxenError(
                f"can't write {self.path}: {error.strerror or error}",
                hint="a client key is kept there: check data_dir, who owns it, and that its disk has room",
            ) from error

    def _written(self) -> dict[str, Any]:
        raw = self.raw()
        return {"version": VERSION, "keys": []} if raw is None else self._document(raw)

    def _document(self, raw: bytes) -> dict[str, Any]:
        """Its outer shape checked."""
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._broken("is no JSON") from None
        version = document.get("version") if isinstance(document, dict) else None
        if type(version) is int and version > VERSION:
            raise ConfigError(f"{self.path} has version {version}: a newer Fluxen wrote it, upgrade this one")
        if type(version) is not int or version != VERSION or not isinstance(document.get("keys"), list):
            raise self._broken(f'does not begin as {{"version": {VERSION}, "keys": […]}}')
        if not all(isinstance(entry, dict) for entry in document["keys"]):
            raise self._broken("holds an entry that is no object")
        return document  # type: ignore[no-any-return]

    def _key(self, index: int, entry: dict[str, Any]) -> StaticKey:
        known = {name: entry[name] for name in _FIELDS if entry.get(name) is not None}
        missing = next((name for name in ("id", "hash") if name not in known), None)
        if missing:
            raise self._broken(f"keys[{index}] has no {missing}")
        try:
            return StaticKey.model_validate(known)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise self._broken(f"keys[{index}].{where}: {first['msg']}") from None

    def _broken(self, why: str) -> ConfigError:
        return ConfigError(f"{self.path} can't be used: {why}; restore it, or move it away and create the keys anew")

    def exposed(self) -> Iterator[str]:
        """Warnings when others can open the file."""
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
        except OSError:
            return  # gone since it was read
        if mode & 0o022:
            yield f"{self.path} can be changed by others, who could add a key: chmod 600"
        elif mode & 0o004:
            yield f"{self.path} can be read by everybody: chmod 600"
