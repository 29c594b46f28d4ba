"""keys.json while it is being changed: entries that nobody touches keep their bytes, and fields that this version does
not know stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fluxen.errors import FluxenError
from fluxen.keys.entry import StoredKey
from fluxen.keys.stored import VERSION, BrokenKeysError, Stored, parse

_EMPTY = b'{"version": 2, "keys": []}'


class Draft:
    """What the file says, and what it is to say."""

    def __init__(self, raw: bytes = _EMPTY, before: Stored | None = None) -> None:
        """raw: the file as it is, and what it says. Raises BrokenKeysError."""
        self._raw = raw
        self.before: Stored = before or parse(raw)
        self._taken = dict(self.before.digests)
        self._added: dict[str, dict[str, Any]] = {}
        self._replaced: dict[str, dict[str, Any]] = {}

    @property
    def changed(self) -> bool:
        return bool(self._added or self._replaced)

    def add(self, entry: dict[str, Any]) -> StoredKey:
        """One more key. Raises FluxenError when its id or one of its keys is there already."""
        only = _read_back(entry)
        key = only.keys[0]
        if key.id in self.before.ids or key.id in self._added:
            raise FluxenError(f"there is a key '{key.id}' already")
        self._claim(key, only.digests)
        self._added[key.id] = entry
        return key

    def replace(self, key_id: str, changes: dict[str, Any]) -> StoredKey:
        """Other values for some fields of the key that is there; None removes one."""
        place = list(self.before.ids).index(key_id)
        entry = msgspec.json.decode(self._entries()[place]) | changes
        entry = {name: value for name, value in entry.items() if value is not None}
        only = _read_back(entry)
        key = only.keys[0]
        self._claim(key, only.digests)
        self._replaced[key_id] = entry
        return key

    def content(self) -> bytes:
        """The file to be: a line for each key."""
        whole = msgspec.json.decode(self._raw, type=dict[str, msgspec.Raw])
        added = [msgspec.json.encode(entry) for entry in self._added.values()]
        if self._replaced or msgspec.json.decode(whole["version"]) != VERSION:
            lines = [*self._lines(whole), *added]
        else:  # whatever is there stays as it lies there
            there = bytes(whole["keys"]).strip()[1:-1].strip()
            lines = [there, *added] if there else added
        more = b"".join(
            msgspec.json.encode(name) + b": " + _compact(bytes(value)) + b", "
            for name, value in whole.items()
            if name not in ("version", "keys")
        )
        return b'{"version": %d, %b"keys": [\n%b\n]}\n' % (VERSION, more, b",\n".join(lines))

    def _lines(self, whole: dict[str, msgspec.Raw]) -> list[bytes]:
        """The keys that were there, changed or not."""
        lines = [bytes(raw) for raw in self._entries()]
        if msgspec.json.decode(whole["version"]) != VERSION:  # version 1 was indented
            lines = [_compact(line) for line in lines]
        places = {key_id: place for place, key_id in enumerate(self.before.ids)}
        for key_id, entry in self._replaced.items():
            lines[places[key_id]] = msgspec.json.encode(entry)
        return lines

    def _entries(self) -> list[msgspec.Raw]:
        whole = msgspec.json.decode(self._raw, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(whole["keys"], type=list[msgspec.Raw])

    def _claim(self, key: StoredKey, digests: Iterable[bytes]) -> None:
        """No key may stand for two."""
        for digest in digests:
            other = self._taken.setdefault(digest, key)
            if other.id != key.id:
                raise FluxenError(f"'{key.id}' would have the same key as '{other.id}'")


def _compact(raw: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(raw))


def _read_back(entry: dict[str, Any]) -> Stored:
    """What can't be read again is never written."""
    try:
        return parse(msgspec.json.encode({"version": VERSION, "keys": [entry]}))
    except BrokenKeysError as error:
        raise FluxenError(f"such a key can't be kept: {str(error).removeprefix('keys[0].')}") from None
