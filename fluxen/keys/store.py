"""`keys.json` in the data folder: the client keys that commands create, by their hashes.

Readers take no lock: the file is replaced as a whole. Writers wait for each other at `keys.json.lock`, so that none
overwrites what another has just added.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fluxen.config.paths import read_file
from fluxen.errors import ConfigError
from fluxen.keys.draft import Draft
from fluxen.keys.entry import moment
from fluxen.keys.generate import hash_of, new_key
from fluxen.keys.private import locked, write_whole
from fluxen.keys.stored import BrokenKeysError, NewerKeysError, Stored, parse

NAME: Final = "keys.json"
_LARGEST: Final = 256 << 20  # bytes of the file


class KeyStore:
    """The client keys of one data folder. No method ever returns a key, except the one that just made it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME
        self._last: tuple[bytes, Stored] | None = None

    def read(self) -> Stored | None:
        """The keys; None without a file. Raises ConfigError when it can't be used: a gateway that took a broken file
        for an empty one would be open to everybody."""
        raw = self.raw()
        if raw is None:
            return None
        return replace(self.parse(raw), warnings=tuple(self.exposed()))

    def raw(self) -> bytes | None:
        """The file as it is; None without one. Raises ConfigError when it can't be read."""
        try:
            return read_file(self.path, _LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(f"can't read {self.path}: {error.strerror}", hint="check who owns it") from error

    def parse(self, raw: bytes) -> Stored:
        """What such a file says; looks at no file itself. Raises ConfigError when it can't be used."""
        if self._last is None or self._last[0] != raw:  # a command that looks before it changes reads it once
            try:
                self._last = (raw, parse(raw))
            except BrokenKeysError as error:
                raise self._unusable(error) from None
        return self._last[1]

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

    def create(self, key_id: str, fields: Mapping[str, Any] | None = None) -> str:
        """Add a new key and return it: the only time it is seen. fields: what else its entry says. Raises FluxenError
        when there is one of that id, or the file can't be written, ConfigError when it can't be read."""
        with self.change() as draft:
            return _create(draft, key_id, fields or {})

    def create_first(self, key_id: str) -> str | None:
        """The same if there is no key at all; None, and nothing changes, if there is one."""
        if (stored := self.read()) is not None and stored.keys:
            return None  # so that later starts need not be able to write
        with self.change() as draft:
            return None if draft.before.keys else _create(draft, key_id, {})

    @contextmanager
    def change(self) -> Iterator[Draft]:
        """The file to be changed while nobody else does; written when the block ends without an error."""
        with locked(self.path, "a client key is kept"):
            raw = self.raw()
            draft = Draft() if raw is None else Draft(raw, self.parse(raw))
            yield draft
            if draft.changed:
                write_whole(self.path, draft.content())

    def _unusable(self, error: BrokenKeysError) -> ConfigError:
        if isinstance(error, NewerKeysError):
            return ConfigError(f"{self.path} {error}")
        return ConfigError(f"{self.path} can't be used: {error}; restore it, or move it away and create the keys anew")


def _create(draft: Draft, key_id: str, fields: Mapping[str, Any]) -> str:
    key = new_key()
    draft.add({"id": key_id, "hash": hash_of(key), "created": moment(datetime.now(UTC)), **fields})
    return key
