"""All client keys there are: those of the configuration and those of keys.json, as one list.

A key in keys.json replaces the one in the configuration that has its id. Beyond that no id and no key may be there
twice: whose request would it be?
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from fluxen.config.load import Loaded
from fluxen.errors import ConfigError
from fluxen.keys.client import ClientKey, client_of
from fluxen.keys.store import KeyStore
from fluxen.keys.stored import Stored


@dataclass(slots=True)
class Known:
    """clients: by the SHA-256 of their keys; None when nobody ever spoke of keys, which is open mode. None of them:
    nobody gets in."""

    clients: dict[bytes, ClientKey] | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Place(Enum):
    FILE = "keys.json of the data folder"


FILE: Final = _Place.FILE
"""Read keys.json now, instead of being given what is in it."""

StoredKeys = bytes | Literal[_Place.FILE] | None
"""What is in keys.json; None: there is no such file."""


def known_keys(loaded: Loaded, raw: StoredKeys = FILE) -> Known:
    """raw: what is in keys.json, for a caller who has read it (`KeyStore.raw`).

    What is wrong comes as lines for ConfigError.problems, so that it is told with everything else.
    """
    known = Known()
    section = loaded.config.api_keys
    store = KeyStore(loaded.config.data_dir)
    try:
        raw = store.raw() if raw is FILE else raw
        stored = None if raw is None else store.parse(raw)
    except ConfigError as error:
        known.problems.append(error.message)
        return known
    if section is None and stored is None:
        return known
    names = loaded.config.upstreams.by_name
    known.clients = dict(stored.clients) if stored else {}
    if stored:
        known.warnings += [*stored.warnings, *store.exposed()]
        known.warnings += _lost_upstreams(store, stored, names) if names else ()
    for index, key in enumerate(section.static if section else ()):
        where = ("api_keys", "static", index)
        other = stored.digests.get(key.digest) if stored else None
        if stored and key.id in stored.ids:
            revoked = stored.ids[key.id].revoked is not None
            what = "was revoked, and lets nobody in" if revoked else "replaces this one"
            known.warnings.append(loaded.problem((*where, "id"), f"the key '{key.id}' in {store.path} {what}"))
        elif other is not None:
            message = f"is the key '{other.id}' in {store.path}, {'which was revoked' if other.revoked else 'too'}"
            known.problems.append(loaded.problem((*where, "hash" if key.key is None else "key"), message))
        else:
            known.clients[key.digest] = client_of(key)
    if not known.clients and not (section and section.jwt):
        message = "no key: nobody can get in"
        if section is None:
            known.warnings.append(f"{store.path}: {message} (remove the file for open mode on this machine)")
        else:
            message += " (remove api_keys for open mode on this machine)"
            known.warnings.append(loaded.problem(("api_keys",), message))
    return known


def _lost_upstreams(store: KeyStore, stored: Stored, names: Collection[str]) -> Iterator[str]:
    """Keys for an upstream that is no longer, or not yet, in the configuration."""
    seen: set[tuple[str, ...]] = set()
    for key in stored.keys:
        wanted = key.upstreams
        if wanted is None or wanted in seen or key.revoked is not None:
            continue
        if gone := [name for name in wanted if name not in names]:
            yield f"{store.path}: key '{key.id}' is for an upstream that isn't there: {', '.join(gone)}"
        else:
            seen.add(wanted)
