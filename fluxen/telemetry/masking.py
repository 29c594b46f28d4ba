"""A request target as it may be shown: what a query parameter's name says is a credential is masked. Pure.

What is masked by its value instead (keys that are known, keys that look like one) is secrets.py's part.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

MASK: Final = b"***"

_TELLING: Final = re.compile(rb"key|token|secret|pass|pwd|auth|cred|sig|session|jwt|cookie|bearer|code", re.IGNORECASE)
_PAIRS: Final = re.compile(rb"([&;])")


def shown_target(target: bytes) -> str:
    """Path and query, the values of telling parameters masked. Names are read as a lenient server would: decoded
    twice."""
    path, mark, query = target.partition(b"?")
    if mark:
        query = b"".join(_pair(part) for part in _PAIRS.split(query))
    return (path + mark + query).decode("latin-1")


def _pair(pair: bytes) -> bytes:
    name, equals, value = pair.partition(b"=")
    if not value:
        return pair
    read = unquote_to_bytes(unquote_to_bytes(name)) if b"%" in name else name
    return name + equals + MASK if _TELLING.search(read) else pair
