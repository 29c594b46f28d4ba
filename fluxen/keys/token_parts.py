"""A signed token taken apart: head, claims and signature as RFC 7515 and 7519 spell them, or not at all. Pure.

Not left to PyJWT, whose reading costs 0.1 to 0.5 ms of whoever is sent a forged token, and which takes padding that
isn't in the specification and the last of two equal names. What it is used for are keys and signatures (jwks.py).
"""

from __future__ import annotations

import base64
import json
import re
from typing import Final, NamedTuple

LONGEST: Final = 8192  # bytes of a token
LABEL: Final = 256  # characters of what is taken from one
_SHAPE: Final = re.compile(rb"(e[A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")  # e: of an object's brace
_TYPES: Final = ("jwt", "at+jwt")
_LAST: Final = 253_402_300_800.0  # seconds from 1970 to the year 10000; milliseconds by mistake are beyond it


class TokenFault(NamedTuple):
    """Why a token is refused. code is for programs, message for people; reason says more, for the operator's log alone,
    and nothing of the token itself."""

    code: str
    message: str
    reason: str


_MESSAGES: Final = {
    "invalid_api_key": "the API key is missing or not known to this gateway",
    "invalid_token": "the token is not valid for this gateway",
    "token_expired": "the token has expired",
    "token_not_yet_valid": "the token is not valid yet",
}


class TokenError(ValueError):
    """Raised within this package only; becomes a TokenFault."""

    def __init__(self, reason: str, code: str = "invalid_token") -> None:
        super().__init__(reason)
        self.code = code

    @property
    def fault(self) -> TokenFault:
        return TokenFault(self.code, _MESSAGES[self.code], str(self))


class Parts(NamedTuple):
    """Nothing of it is to be believed before the signature is checked."""

    algorithm: str
    kid: str | None
    signed: bytes
    """What the signature is of."""
    payload: bytes
    """The claims, as they are encoded."""
    signature: bytes


def take_apart(token: bytes) -> Parts:
    """Raises TokenError; with code invalid_api_key for what isn't shaped like a token."""
    shape = _SHAPE.fullmatch(token) if len(token) <= LONGEST else None
    if shape is None:
        if token.startswith(b"e") and token.count(b".") == 2:
            raise TokenError("malformed, or longer than 8192 bytes")
        raise TokenError("no token", "invalid_api_key")
    head = strict_object(shape[1], "head")
    algorithm, kid, kind = head.get("alg"), head.get("kid"), head.get("typ")
    if not isinstance(algorithm, str):
        raise TokenError("no algorithm")
    if "crit" in head or "b64" in head:  # extensions; RFC 7515 has those refused that aren't understood
        raise TokenError("the head asks for an extension")
    if "typ" in head and not (isinstance(kind, str) and kind.lower().removeprefix("application/") in _TYPES):
        raise TokenError("the head's typ is neither JWT nor at+jwt")
    if "kid" in head and not (isinstance(kid, str) and len(kid) <= LABEL):
        raise TokenError("the head's kid is no short text")
    return Parts(
        algorithm,
        kid if isinstance(kid, str) else None,
        token[: shape.end(2)],
        shape[2],
        _decoded(shape[3], "signature"),
    )


def strict_object(segment: bytes, name: str) -> dict[str, object]:
    """Decode a JSON object: UTF-8, no name twice, no NaN. Raises TokenError."""
    try:
        found = _DECODER.decode(_decoded(segment, name).decode())
    except (ValueError, RecursionError):
        raise TokenError(f"the {name} is no JSON object, or has a name twice") from None
    if not isinstance(found, dict):
        raise TokenError(f"the {name} is no JSON object")
    return found


def moment(claims: dict[str, object], name: str) -> float | None:
    """Seconds since 1970; None without that claim. Raises TokenError."""
    value = claims.get(name)
    if name not in claims:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LAST:
        raise TokenError(f"{name} is no time in seconds")
    return float(value)


def _decoded(segment: bytes, name: str) -> bytes:
    """Base64url without padding, in the one spelling that each sequence of bytes has."""
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except ValueError:
        raise TokenError(f"the {name} is not in base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise TokenError(f"the {name} is not in base64url")
    return decoded


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
