"""All client keys there are: those of the configuration and those of keys.json, as one list.

A key in keys.json replaces the one in the configuration that has its id. Beyond that no id and no key may be there
twice: whose request would it be?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from fluxen.config.load import Loaded
from fluxen.errors import ConfigError
from fluxen.keys.client import ClientKey, client_of
from fluxen.keys.store import KeyStore


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


def known_keys(loaded: Loaded, raw: bytes | Literal[_Place.FILE] | None = FILE) -> Known:
    """raw: what is in keys.json, for a caller who has read it (`KeyStore.raw`); None: there is no such file.

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
    keys = list(stored.keys) if stored else []
    known.warnings += stored.warnings if stored else ()
    known.warnings += store.exposed() if stored else ()
    names = loaded.config.upstreams.by_name
    for key in keys:
        gone = [name for name in key.upstreams or () if names and name not in names]
        if gone:
            known.warnings.append(
                f"{store.path}: key '{key.id}' is for an upstream that isn't there: {', '.join(gone)}"
            )
    ids = {key.id: key for key in keys}
    digests = {key.digest: key for key in keys}
    for index, key in enumerate(section.static if section else ()):
        where = ("api_keys", "static", index)
        if key.id in ids:
            known.warnings.append(
                loaded.problem((*where, "id"), f"the key '{key.id}' in {store.path} replaces this one")
            )
        elif key.digest in digests:
            other = digests[key.digest].id
            field_name = "hash" if key.key is None else "key"
            known.problems.append(loaded.problem((*where, field_name), f"is the key '{other}' in {store.path}, too"))
        else:
            keys.append(key)
    if not keys:
        message = "no key: nobody can get in"
        if section is None:
            known.warnings.append(f"{store.path}: {message} (remove the file for open mode on this machine)")
        else:
            message += " (remove api_keys for open mode on this machine)"
            known.warnings.append(loaded.problem(("api_keys",), message))
    known.clients = {key.digest: client_of(key) for key in keys}
    return known
