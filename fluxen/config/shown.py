"""A configuration as it may be shown: every value in force, defaults among them, and no secret.

Of a secret is shown where it comes from, as it is written (`${NAME}`, `file:PATH`), or `***`; and behind it a
fingerprint by a salt that is never shown, so that two can be compared and none be guessed. What comes from the
environment has none: a process keeps the environment it was started with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from fluxen.config.values import Address, Secret

_HASHES = frozenset({"hash"})  # no secret, but what a guess could be tried on
_URLS = frozenset({"jwks_url"})  # their query may hold a token


def shown(config: BaseModel, salt: bytes) -> dict[str, Any]:
    """Sections as mappings, everything else as JSON knows it. An empty salt: without fingerprints."""
    fields: dict[str, Any] = {name: _value(name, getattr(config, name), salt) for name in type(config).model_fields}
    for name, value in (config.__pydantic_extra__ or {}).items():
        fields[name] = _value(name, value, salt)
    return fields


def flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Its values by path. Items of a list that have an id or a name go by it, so that one more moves no other."""
    for name, value in fields.items():
        yield from _flat(f"{prefix}{name}", value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from flat(value, f"{path}.")
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flat(f"{path}[{item.get('id') or item.get('name') or index}]", item)
    else:
        yield path, value


def _value(name: str, value: Any, salt: bytes) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseModel):
        return shown(value, salt)
    if isinstance(value, Secret):
        reference = value.reference
        if reference is not None and not reference.startswith("file:"):
            return reference
        return (reference or "***") + _fingerprint(value.reveal(), salt)
    if name in _HASHES:
        return "***" + _fingerprint(str(value), salt)
    if name in _URLS:
        address, question, query = str(value).partition("?")
        return f"{address}?***{_fingerprint(query, salt)}" if question else address
    if isinstance(value, Mapping):
        return {str(key): _value("", item, salt) for key, item in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, Address):
        return [_value("", item, salt) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _fingerprint(text: str, salt: bytes) -> str:
    if not salt:
        return ""
    return f" [{hashlib.blake2s(text.encode(errors='surrogateescape'), key=salt, digest_size=4).hexdigest()}]"
