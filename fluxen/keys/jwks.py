"""A JSON Web Key Set: the public keys of an issuer, and signatures checked by them. PyJWT and cryptography do the work.

Importing this costs 45 ms of CPU and 5 MB: it is done only where somebody has signed tokens to check, see prepare() in
tokens.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

LARGEST: Final = 262_144  # bytes of a set
_KEYS: Final = 100
_RSA_BITS: Final = (2048, 8192)  # below: can be factored some day; above: half a millisecond a check
_EXPONENTS: Final = (65_537, 2**32)
_CURVES: Final = ("P-384", "P-521", "secp256k1")  # of ES384, ES512, ES256K
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))

ELSEWHERE: Final = ("is for another algorithm than RS256 and ES256", "is not for checking signatures")
"""Why keys are skipped that have other uses; all others are the worse for it."""

_RS256: Final = RSAAlgorithm(RSAAlgorithm.SHA256)
_ES256: Final = ECAlgorithm(ECAlgorithm.SHA256, SECP256R1)
_HS256: Final = HMACAlgorithm(hashlib.sha256)


class KeySetError(ValueError):
    """The document can't be used; the text says why, for the operator."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key for one algorithm."""

    algorithm: str
    kid: str | None
    key: RSAPublicKey | EllipticCurvePublicKey = field(repr=False)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature of the message is by the holder of this key."""
        try:
            if isinstance(self.key, RSAPublicKey):
                return _RS256.verify(message, self.key, signature)
            return _ES256.verify(message, self.key, signature)
        except (ValueError, PyJWTError, UnsupportedAlgorithm):
            return False


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A secret that issuer and gateway have (HS256)."""

    secret: bytes = field(repr=False)

    def signed(self, message: bytes, signature: bytes) -> bool:
        return _HS256.verify(message, self.secret, signature)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that can be used. skipped: why the others can't be, for the operator."""

    keys: tuple[PublicKey, ...]
    skipped: tuple[str, ...] = ()

    @classmethod
    def parse(cls, document: bytes) -> KeySet:
        """Raises KeySetError when there is no key in it that can be used."""
        if len(document) > LARGEST:
            raise KeySetError(f"is larger than {LARGEST} bytes")
        try:
            found = json.loads(document.decode())
        except (ValueError, RecursionError):
            raise KeySetError("is no JSON") from None
        entries = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(entries, list) or len(entries) > _KEYS:
            raise KeySetError(f'is no key set: {{"keys": […]}} with at most {_KEYS} keys')
        keys: list[PublicKey] = []
        skipped: list[str] = []
        for index, entry in enumerate(entries):
            try:
                keys.append(_public_key(entry))
            except KeySetError as error:
                skipped.append(f"keys[{index}] {error}")
        if not keys:
            why = f": {'; '.join(skipped[:3])}" if skipped else ""
            raise KeySetError(f"holds no key for RS256 or ES256{why}")
        return cls(tuple(keys), tuple(skipped))


def is_public_key(secret: bytes) -> bool:
    """Whether this is a public key or a certificate, which is no secret: an attacker has it, too."""
    try:
        _HS256.prepare_key(secret)
    except (PyJWTError, ValueError):
        return True
    return False


def _public_key(entry: object) -> PublicKey:
    if not isinstance(entry, Mapping):
        raise KeySetError("is no object")
    kind, algorithm, kid, use = (entry.get(name) for name in ("kty", "alg", "kid", "use"))
    expected = {"RSA": "RS256", "EC": "ES256"}.get(kind) if isinstance(kind, str) else None
    if expected is None or algorithm not in (None, expected) or entry.get("crv", "P-256") in _CURVES:
        raise KeySetError(ELSEWHERE[0])
    operations = entry.get("key_ops", ["verify"])
    if use not in (None, "sig") or not isinstance(operations, list) or "verify" not in operations:
        raise KeySetError(ELSEWHERE[1])
    if not _PRIVATE.isdisjoint(entry):
        raise KeySetError("is a private key: whoever can read this file can make tokens, so it is not used")
    if kid is not None and not isinstance(kid, str):
        raise KeySetError("has a kid that is no text")
    return PublicKey(expected, kid, _rsa(entry) if kind == "RSA" else _p256(entry))


def _rsa(entry: Mapping[str, object]) -> RSAPublicKey:
    try:
        key = RSAAlgorithm.from_jwk(dict(entry))
    except (ValueError, TypeError, KeyError, OverflowError, PyJWTError, UnsupportedAlgorithm):
        raise KeySetError("is a malformed RSA key") from None
    if not isinstance(key, RSAPublicKey):
        raise KeySetError("is no public key")
    if not _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]:
        raise KeySetError(f"has {key.key_size} bits: an RSA key must have {_RSA_BITS[0]} to {_RSA_BITS[1]}")
    if not _EXPONENTS[0] <= key.public_numbers().e < _EXPONENTS[1]:
        raise KeySetError("has an exponent below 65537 or above 32 bits")
    return key


def _p256(entry: Mapping[str, object]) -> EllipticCurvePublicKey:
    if entry.get("crv") != "P-256":
        raise KeySetError("is on another curve than P-256")
    try:
        key = ECAlgorithm.from_jwk(dict(entry))
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, PyJWTError, UnsupportedAlgorithm):
        raise KeySetError("is a malformed P-256 key") from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise KeySetError("is no public key")
    return key
