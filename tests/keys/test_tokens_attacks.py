"""Whoever forges a token, or bends one that is good, stays outside."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from keys.signer import (
    ISSUER,
    NOW,
    SECRET,
    SOURCE,
    Sign,
    b64,
    claims,
    ec_jwk,
    ec_key,
    es256,
    hs256,
    key_set,
    let_in,
    public,
    public_claims,
    refused,
    rs256,
    rsa_jwk,
    rsa_key,
    shared,
    token,
)

from fluxen.config.access import JwtKey
from fluxen.keys.client import ClientKey
from fluxen.keys.tokens import TokenFault, Tokens

HS = {"alg": "HS256", "typ": "JWT", "kid": "dev"}
RS = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
ES = {"alg": "ES256", "typ": "JWT", "kid": "ec"}
Head = dict[str, Any]


def unsigned(_message: bytes) -> bytes:
    return b""


@pytest.fixture(scope="module")
def every() -> Tokens:
    """Issuers of all kinds at once."""
    entries = [
        {"id": "dev", "key": SECRET},
        {"id": "company", "jwks_url": SOURCE, "issuer": ISSUER, "audience": "fluxen"},
    ]
    keys = key_set(rsa_jwk(rsa_key(), kid="rsa"), ec_jwk(ec_key(), kid="ec"))
    return Tokens([JwtKey.model_validate(entry) for entry in entries], {SOURCE: keys})


def test_they_are_good_before_they_are_bent(every: Tokens) -> None:
    assert let_in(every, token(HS, claims(), hs256())).id == "dev"
    assert let_in(every, token(RS, public_claims(), rs256(rsa_key()))).id == "company"
    assert let_in(every, token(ES, public_claims(), es256(ec_key()))).id == "company"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", " none", "none\0", None, [], {}, 0, True])
@pytest.mark.parametrize("signature", [b"", b"x", b"\0" * 32])
def test_no_algorithm(every: Tokens, algorithm: object, signature: bytes) -> None:
    for kid in ("dev", "rsa", "ec"):
        refused(every, token({"alg": algorithm, "kid": kid}, public_claims(), lambda _: signature))
    refused(every, token({"kid": "dev"}, public_claims(), lambda _: signature))
    refused(every, token({**HS, "alg": ["none", "HS256"]}, claims(), hs256()))


def public_forms() -> list[bytes]:
    """What an attacker has of the public keys, in every form in which it might be taken for a secret."""
    found: list[bytes] = [key_set(rsa_jwk(rsa_key(), kid="rsa"), ec_jwk(ec_key(), kid="ec"))]
    for key in (rsa_key().public_key(), ec_key().public_key()):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
            raw = key.public_bytes(encoding, form)
            found += [raw, raw.strip(), base64.b64encode(raw)]
    jwks: list[Head] = [rsa_jwk(rsa_key(), kid="rsa"), ec_jwk(ec_key(), kid="ec")]
    for jwk in jwks:
        found += [json.dumps(jwk).encode(), *(str(jwk[name]).encode() for name in ("n", "x", "y") if name in jwk)]
        found += [base64.urlsafe_b64decode(str(jwk[name]) + "==") for name in ("n", "x") if name in jwk]
    return [*found, b"", b"\0" * 32, b"dev", b"null", b"None"]


def test_a_public_key_is_no_secret(every: Tokens) -> None:
    """HS256 with what everybody knows (CVE-2015-9235 and its kin)."""
    for secret in public_forms():
        for kid in ("dev", "rsa", "ec", None):
            head = {"alg": "HS256"} | ({} if kid is None else {"kid": kid})
            refused(every, token(head, public_claims(), hs256(secret)))
            for algorithm, wide in (("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
                sign = functools.partial(hmac.digest, secret, digest=wide)
                refused(every, token({**head, "alg": algorithm}, public_claims(), sign))


def test_nor_may_one_be_configured_as_one() -> None:
    for key in (rsa_key().public_key(), ec_key().public_key()):
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
        refused(shared(key=pem), token({"alg": "HS256"}, claims(), hs256(pem)))


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_short_secret_signs_nothing(length: int) -> None:
    refused(shared(key="k" * (length or 1)), token({"alg": "HS256"}, claims(), hs256("k" * length)))


def test_a_short_secret_leaves_the_others_alone() -> None:
    tokens = Tokens(
        [JwtKey.model_validate({"id": name, "key": key}) for name, key in (("a", "short"), ("b", SECRET))], {}
    )
    refused(tokens, token({"alg": "HS256", "kid": "a"}, claims(), hs256("short")))
    assert let_in(tokens, token({"alg": "HS256", "kid": "b"}, claims(), hs256())).id == "b"


def pss(message: bytes) -> bytes:
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    return rsa_key().sign(message, salted, hashes.SHA256())


def sha512(message: bytes) -> bytes:
    return rsa_key().sign(message, padding.PKCS1v15(), hashes.SHA512())


def der(message: bytes) -> bytes:
    return ec_key().sign(message, ec.ECDSA(hashes.SHA256()))


def sha1(message: bytes) -> bytes:
    return rsa_key().sign(message, padding.PKCS1v15(), hashes.SHA1())


@pytest.mark.parametrize(
    ("head", "sign"),
    [
        ({**RS, "alg": "PS256"}, pss), (RS, pss), ({**RS, "alg": "RS512"}, sha512), (RS, sha512), (RS, sha1),
        ({**RS, "alg": "ES256"}, rs256(rsa_key())), ({**ES, "alg": "RS256"}, es256(ec_key())), (ES, der),
        ({**ES, "alg": "ES256K"}, es256(ec_key())), ({**ES, "alg": "EdDSA"}, es256(ec_key())),
        ({**RS, "alg": "rs256"}, rs256(rsa_key())), ({**RS, "alg": "RS256 "}, rs256(rsa_key())),
        (RS, rs256(rsa_key(which=1))), (RS, es256(ec_key())), (ES, rs256(rsa_key())), (HS, rs256(rsa_key())),
        ({**RS, "kid": "ec"}, rs256(rsa_key())), ({**ES, "kid": "rsa"}, es256(ec_key())), (RS, hs256()), (ES, hs256()),
    ],
)  # fmt: skip
def test_another_algorithm_than_the_keys(every: Tokens, head: Head, sign: Sign) -> None:
    refused(every, token(head, public_claims(), sign))


@pytest.mark.parametrize(
    "signature",
    [
        b"", b"\0" * 64, b"\0" * 256, b"\0" * 63 + b"\1", b"\0" * 31 + b"\1" + b"\0" * 32, b"\xff" * 64, b"\0" * 63,
        bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") * 2,  # the curve's order
    ],
)  # fmt: skip
def test_signatures_of_nobody(every: Tokens, signature: bytes) -> None:
    """Zeroes (CVE-2022-21449), the order of the curve, too short, too long."""
    for head in (HS, RS, ES):
        refused(every, token(head, public_claims(), lambda _: signature))
        for sign in (hs256(), rs256(rsa_key()), es256(ec_key())):
            refused(every, token(head, public_claims(), lambda m, sign=sign: sign(m) + signature[:1] + b"\0"))


@pytest.mark.parametrize(
    "more",
    [
        {"jwk": rsa_jwk(rsa_key(which=1))}, {"jwk": rsa_jwk(rsa_key(which=1), kid="rsa")},
        {"jku": "https://attacker.example/jwks"}, {"jku": "file:///etc/passwd"}, {"x5u": "https://attacker.example/x"},
        {"x5c": ["MIIB"]}, {"x5t": "AAAA"}, {"kid": "https://attacker.example/jwks"}, {"kid": "../../dev/null"},
        {"kid": "/proc/self/environ"}, {"kid": "rsa\0"}, {"kid": "RSA"}, {"kid": "rsa "}, {"kid": ""},
        {"kid": "x" * 257},
        {"kid": None}, {"kid": ["rsa"]}, {"kid": {"rsa": 1}}, {"kid": 0}, {"kid": "rsa' UNION SELECT 'x"}, {"kid": "*"},
    ],
)  # fmt: skip
def test_keys_that_a_token_brings_along_or_points_to(every: Tokens, more: Head) -> None:
    refused(every, token({**RS, **more}, public_claims(), rs256(rsa_key(which=1))))
    if "kid" in more:
        refused(every, token({**RS, **more}, public_claims(), rs256(rsa_key())))
    else:  # many issuers write them; they are not looked at
        assert let_in(every, token({**RS, **more}, public_claims(), rs256(rsa_key()))).id == "company"


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"crit": ["b64"], "b64": False},
        {"crit": ["b64"], "b64": True},
        {"b64": False}, {"b64": True}, {"b64": None}, {"crit": "exp"}, {"crit": ["kid"]},
        {"typ": "JWE"}, {"typ": "dpop+jwt"}, {"typ": "logout+jwt"}, {"typ": ""}, {"typ": None}, {"typ": ["JWT"]},
        {"typ": "JWT "}, {"typ": "application/application/jwt"}, {"typ": "\u212aWT"},
    ],
)  # fmt: skip
def test_heads_that_ask_for_more_or_for_something_else(every: Tokens, more: Head) -> None:
    for head, payload, sign in ((HS, claims(), hs256()), (RS, public_claims(), rs256(rsa_key()))):
        refused(every, token({**head, **more}, payload, sign))


def test_a_payload_that_is_not_encoded(every: Tokens) -> None:
    """RFC 7797: the signature is of other bytes than those that are read."""
    head = b64(json.dumps({**HS, "b64": False, "crit": ["b64"]}).encode())
    payload = json.dumps(claims()).encode()
    for shown in (payload, b64(payload), b""):
        refused_by_shape = every.identify(head + b"." + shown + b"." + b64(hs256()(head + b"." + payload)), NOW)
        assert isinstance(refused_by_shape, TokenFault)


@pytest.mark.parametrize("kind", ["jwt", "JWT", "at+jwt", "AT+JWT", "application/at+jwt", "application/JWT"])
def test_types_of_token(every: Tokens, kind: str) -> None:
    assert let_in(every, token({**HS, "typ": kind}, claims(), hs256())).id == "dev"
    assert let_in(every, token({"alg": "HS256", "kid": "dev", "cty": "x", "x": [1]}, claims(), hs256())).id == "dev"


@pytest.mark.parametrize(
    "head",
    [
        b'{"alg":"none","alg":"HS256","kid":"dev"}', b'{"alg":"HS256","alg":"none","kid":"dev"}',
        b'{"alg":"HS256","kid":"x","kid":"dev"}', b'{"alg":"HS256","\\u0061lg":"none","kid":"dev"}',
        b'{"alg":"HS256","kid":"dev","x":{"a":1,"a":2}}', b'{"alg":"HS256","kid":"dev","x":NaN}',
        b'{"alg":"HS256","kid":"dev"} {}', b'{"alg":"HS256","kid":"dev"}\0', b'\xef\xbb\xbf{"alg":"HS256","kid":"dev"}',
        '{"alg":"HS256","kid":"dev"}'.encode("utf-16"), '{"alg":"HS256","kid":"dev"}'.encode("utf-32-le"),
        b'{"alg":"HS256","kid":"dev","x":"\xff"}', b'{"alg":"HS256","kid":"dev"', b"{}", b'"HS256"', b"[]", b"e30",
        b"null", b'{"alg":"HS256","kid":"dev",}',
        b"{'alg':'HS256','kid':'dev'}", b'{"alg":"HS256","kid":"dev","x":"\n"}',
        b'{"alg":"HS256","kid":"dev","x":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"alg":"HS256","kid":"dev","x":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_heads_that_parsers_read_differently(every: Tokens, head: bytes) -> None:
    found = every.identify(token(head, claims(), hs256()), NOW)
    assert isinstance(found, TokenFault) and found.code in ("invalid_token", "invalid_api_key"), found


@pytest.mark.parametrize(
    "payload",
    [
        b'{"exp":1800000600,"sub":"a","sub":"b"}', b'{"exp":1,"exp":1800000600}',
        b'{"exp":1800000600,"s\\u0075b":1,"sub":"a"}',
        b'{"exp":1800000600,"x":{"y":1,"y":2}}', b"[1800000600]", b'"exp"', b"null", b"", b"{", b'{"exp":1800000600}x',
        b'{"exp":NaN}', b'{"exp":Infinity}', b'{"exp":-Infinity}', b'{"exp":1e999}', b'{"exp":' + b"9" * 5000 + b"}",
        b'{"exp":1800000600,"x":' + b"[" * 2900 + b"]" * 2900 + b"}", b'\xef\xbb\xbf{"exp":1800000600}',
        '{"exp":1800000600}'.encode("utf-16"), b'{"exp":1800000600,"sub":"\xff"}',
        b'{"exp":1800000600,"sub":"\\ud800"}',
        b'{"exp":01800000600}', b'{"exp":0x6b49d200}', b'{"exp":1_800_000_600}', b'{"exp":"1800000600"}',
    ],
)  # fmt: skip
def test_payloads_that_parsers_read_differently(every: Tokens, payload: bytes) -> None:
    refused(every, token(HS, payload, hs256()))


@pytest.mark.parametrize(
    "value",
    [
        "1800000600",
        True,
        None,
        [],
        {},
        [1800000600],
        -1,
        1e300,
        10**30,
        1_800_000_600_000,
        253_402_300_800,
        "never",
        "",
    ],
)
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_times_that_are_none(every: Tokens, claim: str, value: object) -> None:
    refused(every, token(HS, claims(**{claim: value}), hs256()))


def test_a_token_without_an_end(every: Tokens) -> None:
    refused(every, token(HS, {}, hs256()))
    refused(every, token(HS, {"EXP": NOW + 60, "nbf": NOW, "iat": NOW}, hs256()))


def test_nothing_is_said_before_the_signature_is_checked(every: Tokens) -> None:
    """Neither that it has expired, nor whether the issuer is known: all a forger hears is no."""
    heard = {
        (fault := refused(every, token(head, payload, unsigned))).code + fault.message
        for head in (HS, RS, {**RS, "kid": "nobody"})
        for payload in (claims(), {"exp": 1}, {}, public_claims(nbf=NOW * 1.1), b"{", {"iss": "?"})
    }
    assert len(heard) == 1
    assert "secret" not in heard.pop()


def shapes() -> list[bytes]:
    good = token(HS, claims(), hs256())
    head, payload, signature = good.split(b".")
    moved = [good + b"=", good + b".", b"." + good, good + b" ", b" " + good, good + b"\n", good.replace(b".", b".."),
             good.replace(b".", b"\0."), head + b"=." + payload + b"." + signature,
             head + b"." + payload + b"=." + signature, good + b"." + signature, head + b"." + payload,
             head + b"." + payload + b".", b".".join([head, b"", signature]), good.replace(b"e", b"\xc3\xa9", 1),
             b".".join([head[:4] + b"\n" + head[4:], payload, signature]), b".".join([payload, head, signature]),
             b".".join([head, payload, signature[:-1]]), b".".join([head, payload, signature, b"", b""])]  # fmt: skip
    last = bytes([signature[-1] ^ 1]) if signature[-1:].isalnum() else b"A"
    return [*moved, b".".join([head, payload, signature[:-1] + last])]


def test_spellings_of_a_good_token_that_are_not_its_own(every: Tokens) -> None:
    """No padding, no white space, no other last bits: one token, one spelling."""
    for made in shapes():
        found = every.identify(made, NOW)
        assert isinstance(found, TokenFault), made


def test_keys_that_are_no_tokens(every: Tokens) -> None:
    for key in (b"", b"flx_abc", b"a.b.c", b"eyJ", b"x" * 10_000, b"..", b"sk-ant-api03.x.y", b"\xff.\xff.\xff"):
        fault = refused(every, key, "invalid_api_key")
        assert "API key" in fault.message
    refused(every, b".".join([b"eyJ", b"a" * 9000, b"b"]))


def test_a_token_in_a_token(every: Tokens) -> None:
    inner = token(HS, claims(), hs256())
    refused(every, token({**HS, "cty": "JWT"}, inner, hs256()))
    refused(every, token({**HS, "cty": "JWT"}, json.dumps(inner.decode()).encode(), hs256()))
    encrypted = b".".join([b64(b'{"alg":"dir","enc":"A128GCM"}'), b"", b"a", b"b", b"c"])
    refused(every, encrypted, "invalid_api_key")


def test_the_largest_token(every: Tokens) -> None:
    fill = 8192 - len(token(HS, claims(x=""), hs256()))
    made = token(HS, claims(x="y" * (fill * 3 // 4 - 2)), hs256())
    assert 8180 <= len(made) <= 8192
    assert let_in(every, made).id == "dev"
    refused(every, token(HS, claims(x="y" * (fill * 3 // 4 + 8)), hs256()))


def test_no_key_of_one_issuer_opens_for_another() -> None:
    entries = [
        {"id": name, "jwks_url": f"{SOURCE}/{name}", "issuer": f"https://{name}", "audience": "fluxen"} for name in "ab"
    ]
    sets = {f"{SOURCE}/{name}": key_set(rsa_jwk(rsa_key(which=which), kid="rsa")) for which, name in enumerate("ab")}
    tokens = Tokens([JwtKey.model_validate(entry) for entry in entries], sets)
    for which, name in enumerate("ab"):
        for said in "ab":
            made = token(RS, claims(iss=f"https://{said}", aud="fluxen"), rs256(rsa_key(which=which)))
            if said == name:
                assert let_in(tokens, made).id == name
            else:
                refused(tokens, made)


@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    assert isinstance(BOTH.identify(raw, NOW), TokenFault)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["alg", "kid", "typ", "crit", "b64", "jwk", "exp", "nbf", "iat", "iss", "aud", "sub", "team", "m"]
)
VALUES = JSON | st.sampled_from(["HS256", "RS256", "none", "dev", NOW + 60, int(NOW), ["a"], "a b", ISSUER, "fluxen"])


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=8), st.booleans())
def test_whatever_a_holder_of_the_secret_signs(head: Head, payload: Head, named: bool) -> None:
    """No exception; whoever is let in is so for PyJWT, too, and is called what the rules say."""
    made = token(({"alg": "HS256", "kid": "dev"} | head) if named else head, {"exp": NOW + 60} | payload, hs256())
    found = BOTH.identify(made, NOW)
    if isinstance(found, TokenFault):
        return
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    theirs = jwt.decode(made, SECRET, ["HS256"], options=options)
    assert found.id == ("dev" if theirs.get("sub") is None else f"dev/{theirs['sub']}")
    assert NOW - 30 < theirs["exp"] == found.until - 30
    assert found.models is None or all(isinstance(model, str) for model in found.models)


@given(st.data())
def test_one_byte_changed_is_another_token(data: st.DataObject) -> None:
    made = data.draw(st.sampled_from(GOOD))
    place = data.draw(st.integers(0, len(made) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != made[place]))
    bent = made[:place] + bytes([byte]) + made[place + 1 :]
    assert isinstance(BOTH.identify(bent, NOW), TokenFault)


def _both() -> Tokens:
    fields = {"id": "dev", "key": SECRET, "claims": {"team": "team", "models": "m"}}
    other = {"id": "company", "jwks_url": SOURCE, "issuer": ISSUER, "audience": "fluxen"}
    keys = key_set(rsa_jwk(rsa_key(), kid="rsa"), ec_jwk(ec_key(), kid="ec"))
    return Tokens([JwtKey.model_validate(fields), JwtKey.model_validate(other)], {SOURCE: keys})


BOTH = _both()
GOOD = (
    token(HS, claims(sub="ann"), hs256()),
    token(RS, public_claims(sub="ann"), rs256(rsa_key())),
    token(ES, public_claims(sub="ann"), es256(ec_key())),
)


def test_good_ones_are_good() -> None:
    assert [type(BOTH.identify(made, NOW)) for made in GOOD] == [ClientKey] * 3


def test_weak_and_strange_keys_never_come_to_use() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    low = rsa.generate_private_key(3, 2048)
    wrong = ec_key(ec.SECP384R1)
    for entry, head, sign in (
        (rsa_jwk(weak, kid="k"), {"alg": "RS256", "kid": "k"}, rs256(weak)),
        (rsa_jwk(low, kid="k"), {"alg": "RS256", "kid": "k"}, rs256(low)),
        (ec_jwk(wrong, kid="k"), {"alg": "ES256", "kid": "k"}, es256(wrong, 48)),
        ({"kty": "oct", "k": b64(SECRET.encode()).decode(), "kid": "k"}, {"alg": "HS256", "kid": "k"}, hs256()),
        (rsa_jwk(rsa_key(), kid="k", use="enc"), {"alg": "RS256", "kid": "k"}, rs256(rsa_key())),
        (rsa_jwk(rsa_key(), kid="k", alg="PS256"), {"alg": "RS256", "kid": "k"}, rs256(rsa_key())),
    ):
        refused(public(entry), token(head, public_claims(), sign))
        beside = public(entry, rsa_jwk(rsa_key(), kid="rsa"))
        refused(beside, token(head, public_claims(), sign))
        assert let_in(beside, token(RS, public_claims(), rs256(rsa_key()))).id == "company"
