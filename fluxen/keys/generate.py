"""A new client key: 256 random bits behind a prefix by which people and secret scanners know whose it is.

What is kept of it is its SHA-256. Stretching (bcrypt, scrypt) makes guessing dear where people choose passwords; nobody
guesses 256 random bits, and a gateway looks a key up for each request whose head is new.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

PREFIX: Final = "flx_"


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What a configuration or keys.json may hold of a key: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
