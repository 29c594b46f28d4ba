"""What the bytes of keys.json say. Reads no file and knows no time; 100,000 keys take a quarter of a second.

    {"version": 2, "keys": [
    {"id": "ci", "hash": "sha256:…", "created": "2026-11-22T20:00:00Z"}
    ]}

Version 1 knew no end, no restriction but `upstreams`, no previous keys and no revocation. It is read like version 2,
and what is written is version 2: a Fluxen that knows only version 1 refuses it, instead of letting in whoever it
doesn't know to be restricted. Fields of later releases that this one does not know are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from fluxen.config.access import Access
from fluxen.config.values import parse_moment
from fluxen.keys.client import ClientKey
from fluxen.keys.entry import StoredKey

VERSION: Final = 2
_OLDEST: Final = 1
_HASH: Final = "sha256:"


class BrokenKeysError(ValueError):
    """Why the bytes can't be used. Never quotes what may be a key."""


class NewerKeysError(BrokenKeysError):
    """A later release wrote them."""


@dataclass(slots=True)
class Stored:
    """What keys.json says. warnings: lines for the operator."""

    keys: Sequence[StoredKey]
    """All entries in order, revoked ones too."""
    ids: Mapping[str, StoredKey] = field(default_factory=dict)
    digests: Mapping[bytes, StoredKey] = field(default_factory=dict)
    """The entry of each key, former and revoked ones too, by its SHA-256."""
    clients: Mapping[bytes, ClientKey] = field(default_factory=dict)
    """Who gets in, by the SHA-256 of his key; `until` may be past."""
    warnings: tuple[str, ...] = ()


class _File(msgspec.Struct):
    version: int
    keys: list[StoredKey]


def parse(raw: bytes) -> Stored:
    """Raises BrokenKeysError for the first thing that is wrong."""
    # JSON has no bare control character in a string: without backslash, DEL and non-ASCII each is printable ASCII.
    printable = raw.isascii() and b"\\" not in raw and b"\x7f" not in raw
    return _Parser(_entries(raw), printable=printable).stored()


def _entries(raw: bytes) -> list[StoredKey]:
    try:
        raw.decode()  # what isn't looked at is not checked below
        found = msgspec.json.decode(raw, type=_File)
    except (ValueError, RecursionError):
        _explain(raw)
        raise BrokenKeysError("has a name twice in one entry") from None  # the first is wrong, the last is not
    if not _OLDEST <= found.version <= VERSION:
        _explain(raw)
    return found.keys


def _explain(raw: bytes) -> None:
    """Say what is wrong with bytes that could not be decoded, in words for a person."""
    begins = f'does not begin as {{"version": {VERSION}, "keys": […]}}'
    try:
        document = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        raise BrokenKeysError("is no JSON") from None
    version = document.get("version") if isinstance(document, dict) else None
    if type(version) is int and version > VERSION:
        raise NewerKeysError(f"has version {version}: a newer Fluxen wrote it, upgrade this one")
    if type(version) is not int or version < _OLDEST or not isinstance(document.get("keys"), list):
        raise BrokenKeysError(begins)
    for index, entry in enumerate(document["keys"]):
        if not isinstance(entry, dict):
            raise BrokenKeysError(f"keys[{index}] is no object")
        for name in ("id", "hash"):
            if entry.get(name) is None:
                raise BrokenKeysError(f"keys[{index}] has no {name}")
        try:
            msgspec.convert(entry, StoredKey)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at ")
            place = where.rpartition("$")[2].rstrip("`")
            if "length" in what:
                what = "expected at most 32 tags" if "object" in what else "expected 1 to 256 characters"
            raise BrokenKeysError(f"keys[{index}]{place}: {what.replace('`', '')}") from None


class _Limits(msgspec.Struct, frozen=True):
    """What a caller may use, checked."""

    upstreams: frozenset[str] | None
    models: tuple[str, ...] | None
    routes: tuple[str, ...] | None
    networks: tuple[IPv4Network | IPv6Network, ...] | None


class _Parser:
    """Checks entries and makes ClientKeys of them. What many of them have in common is checked once."""

    def __init__(self, keys: list[StoredKey], *, printable: bool) -> None:
        """printable: every text among them is known to be printable ASCII."""
        self._keys = keys
        self._printable = printable
        self._limits: dict[tuple[object, ...], _Limits] = {}
        self._moments: dict[str, float] = {}

    def stored(self) -> Stored:
        keys, limits = self._keys, self._limits
        ids = {key.id: key for key in keys}
        self._check_ids(ids)
        if not self._printable:
            self._check_texts()
        digests: dict[bytes, StoredKey] = {}
        clients: dict[bytes, ClientKey] = {}
        for index, key in enumerate(keys):
            digest = _digest(key.hash)
            if digest is None:
                raise self._wrong(index, "hash", "expected sha256: and the 64 hexadecimal digits of the key's SHA-256")
            wanted = (key.upstreams, key.models, key.routes, key.networks)
            may = limits.get(wanted) or self._check_limits(index, wanted)
            client = ClientKey(
                key.id, key.team, key.project, key.tags, may.upstreams, may.models, may.routes, may.networks,
                math.inf if key.expires is None else self._seconds(index, "expires", key.expires),
            )  # fmt: skip
            if digests.setdefault(digest, key) is not key:
                raise self._wrong(index, "hash", f"is that of {self._other(digests[digest])}, too")
            if key.revoked is None:
                clients[digest] = client
            else:
                self._seconds(index, "revoked", key.revoked)
            if key.previous:
                self._former(index, key, client, digests, clients)
        return Stored(keys, ids, digests, clients)

    def _former(
        self,
        index: int,
        key: StoredKey,
        client: ClientKey,
        digests: dict[bytes, StoredKey],
        clients: dict[bytes, ClientKey],
    ) -> None:
        """The keys that this one replaced: the same caller, until the overlap ends."""
        for place, one in enumerate(key.previous):
            where = f"previous[{place}]"
            until = min(client.until, self._seconds(index, f"{where}.until", one.until))
            digest = _digest(one.hash)
            if digest is None:
                raise self._wrong(index, f"{where}.hash", "expected sha256: and 64 hexadecimal digits")
            if digest in digests:
                raise self._wrong(index, f"{where}.hash", f"is that of {self._other(digests[digest])}, too")
            digests[digest] = key
            if key.revoked is None:
                clients[digest] = msgspec.structs.replace(client, until=until)

    def _check_ids(self, ids: Mapping[str, StoredKey]) -> None:
        if len(ids) == len(self._keys):
            return
        seen: dict[str, int] = {}
        for index, key in enumerate(self._keys):
            if (first := seen.setdefault(key.id, index)) != index:
                raise self._wrong(index, "id", f"is that of keys[{first}], too")

    def _check_texts(self) -> None:
        """What ids, names and labels are made of: of all of them at once, for that costs a tenth."""
        keys = self._keys
        tags = [key.tags for key in keys if key.tags]
        texts: dict[str, Iterable[str]] = {
            "id": (key.id for key in keys),
            "team": {key.team for key in keys if key.team is not None},
            "project": {key.project for key in keys if key.project is not None},
            "tags": chain(chain.from_iterable(tags), chain.from_iterable(one.values() for one in tags)),
        }
        for field_name, found in texts.items():
            if not _printable_ascii(found):
                raise self._first(field_name, partial(_plain, field_name))
        if not "".join([key.name for key in keys if key.name is not None]).isprintable():
            raise self._first("name", lambda key: key.name is None or key.name.isprintable())

    def _check_limits(self, index: int, wanted: tuple[Any, ...]) -> _Limits:
        names = ("upstreams", "models", "routes", "networks")
        try:
            access = Access.model_validate(dict(zip(names, wanted, strict=True)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise self._wrong(index, ".".join(str(part) for part in first["loc"]), first["msg"]) from None
        upstreams = None if access.upstreams is None else frozenset(access.upstreams)
        limits = _Limits(upstreams, access.models, access.routes, access.networks)
        self._limits[wanted] = limits
        return limits

    def _seconds(self, index: int, field_name: str, text: str) -> float:
        if (known := self._moments.get(text)) is not None:
            return known
        try:
            seconds = parse_moment(text).timestamp()
        except ValueError as error:
            raise self._wrong(index, field_name, str(error)) from None
        self._moments[text] = seconds
        return seconds

    def _first(self, field_name: str, good: Callable[[StoredKey], bool]) -> BrokenKeysError:
        index = next(index for index, key in enumerate(self._keys) if not good(key))
        kind = "printable" if field_name == "name" else "printable ASCII"
        return self._wrong(index, field_name, f"expected 1 to 256 {kind} characters")

    def _other(self, key: StoredKey) -> str:
        return f"keys[{next(index for index, one in enumerate(self._keys) if one is key)}]"

    def _wrong(self, index: int, field_name: str, what: str) -> BrokenKeysError:
        return BrokenKeysError(f"keys[{index}].{field_name}: {what}")


def _printable_ascii(texts: Iterable[str]) -> bool:
    together = "".join(texts)
    return together.isascii() and together.isprintable()


def _plain(field_name: str, key: StoredKey) -> bool:
    value = getattr(key, field_name) or ""
    return _printable_ascii([*value, *value.values()] if isinstance(value, dict) else [value])


def _digest(text: str) -> bytes | None:
    """The 32 bytes behind `sha256:`; None for anything else."""
    if len(text) != 71 or not text.startswith(_HASH):
        return None
    try:
        digest = bytes.fromhex(text[7:])
    except ValueError:
        return None
    return digest if len(digest) == 32 else None  # fromhex passes over spaces
