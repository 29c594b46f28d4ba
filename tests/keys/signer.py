"""An issuer of signed tokens with keys of its own, and an attacker's tools: any head, any payload, any signature."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from fluxen.config.access import JwtKey
from fluxen.keys.client import ClientKey
from fluxen.keys.tokens import TokenFault, Tokens

NOW = 1_800_000_000.0
ISSUER = "https://login.example.com/"
SOURCE = "https://login.example.com/jwks"
SECRET = "a shared secret of 32 bytes or more"

Sign = Callable[[bytes], bytes]


def rsa_key(bits: int = 2048, which: int = 0) -> rsa.RSAPrivateKey:
    """which: another number, another key."""
    return _rsa_key(bits, which)


@functools.cache
def _rsa_key(bits: int, _which: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


def b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def number(value: int, length: int | None = None) -> str:
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big")).decode()


def rsa_jwk(key: rsa.RSAPrivateKey, **more: object) -> dict[str, object]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **more}


def ec_jwk(key: ec.EllipticCurvePrivateKey, **more: object) -> dict[str, object]:
    numbers = key.public_key().public_numbers()
    length = (key.curve.key_size + 7) // 8
    name = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}.get(key.curve.name, key.curve.name)
    return {"kty": "EC", "crv": name, "x": number(numbers.x, length), "y": number(numbers.y, length), **more}


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def hs256(secret: bytes | str = SECRET) -> Sign:
    raw = secret.encode() if isinstance(secret, str) else secret
    return lambda message: hmac.digest(raw, message, hashlib.sha256)


def rs256(key: rsa.RSAPrivateKey) -> Sign:
    return lambda message: key.sign(message, padding.PKCS1v15(), hashes.SHA256())


def es256(key: ec.EllipticCurvePrivateKey, size: int = 32) -> Sign:
    def sign(message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return sign


def claims(**more: object) -> dict[str, object]:
    return {"exp": int(NOW) + 600, **more}


def public_claims(**more: object) -> dict[str, object]:
    return claims(iss=ISSUER, aud="fluxen", **more)


def token(head: Mapping[str, object] | bytes, payload: Mapping[str, object] | bytes, sign: Sign) -> bytes:
    """bytes: as they are, not JSON of ours."""
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, payload)]
    message = b".".join(map(b64, raw))
    return message + b"." + b64(sign(message))


def shared(**fields: Any) -> Tokens:
    """One issuer with a secret."""
    return Tokens([JwtKey.model_validate({"key": SECRET, **fields})], {})


def public(*keys: object, **fields: Any) -> Tokens:
    """One issuer with public keys."""
    entry = {"id": "company", "jwks_url": SOURCE, "issuer": ISSUER, "audience": "fluxen", **fields}
    return Tokens([JwtKey.model_validate(entry)], {SOURCE: key_set(*keys)})


def let_in(tokens: Tokens, made: bytes, now: float = NOW) -> ClientKey:
    found = tokens.identify(made, now)
    assert isinstance(found, ClientKey), found
    return found


def refused(tokens: Tokens, made: bytes, code: str = "invalid_token", now: float = NOW) -> TokenFault:
    found = tokens.identify(made, now)
    assert isinstance(found, TokenFault), found
    assert found.code == code, found
    assert tokens.identify(made, now) == found  # nothing was remembered of it
    return found
