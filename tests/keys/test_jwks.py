"""Key sets: which keys of a document come to use, and where documents lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from keys.signer import ISSUER, SECRET, b64, ec_jwk, ec_key, key_set, number, rsa_jwk, rsa_key

from fluxen.config.load import Loaded, load_bytes
from fluxen.errors import ConfigError
from fluxen.gateway.snapshot import build
from fluxen.keys.jwks import LARGEST, KeySet, KeySetError
from fluxen.keys.jwks_documents import cache_path, read_documents, urls

GOOD = rsa_jwk(rsa_key(), kid="good")


def test_keys_of_both_kinds() -> None:
    keys = KeySet.parse(key_set(GOOD, ec_jwk(ec_key(), kid="e", use="sig", alg="ES256", key_ops=["verify"])))
    assert [(key.algorithm, key.kid) for key in keys.keys] == [("RS256", "good"), ("ES256", "e")]
    assert keys.skipped == ()
    more = {"x5c": ["?"], "x5u": "https://x", "x5t": 1, "unknown": {"a": [1]}}
    assert KeySet.parse(key_set(rsa_jwk(rsa_key(), **more))).keys[0].kid is None


def private() -> dict[str, object]:
    numbers = rsa_key().private_numbers()
    return {**GOOD, "d": number(numbers.d), "p": number(numbers.p), "q": number(numbers.q)}


NUMBERS = ec_key().public_key().public_numbers()
NOT_ON_IT = {**ec_jwk(ec_key()), "y": number(NUMBERS.y ^ 1, 32)}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (rsa_jwk(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (rsa_jwk(rsa.generate_private_key(3, 2048)), "exponent"),
        ({**GOOD, "e": number(1)}, "malformed|exponent"),
        ({**GOOD, "e": number(65538)}, "malformed|exponent"),
        ({**GOOD, "e": number(2**64 + 1)}, "malformed|exponent"),
        ({**GOOD, "n": number(2**8193 + 1)}, "bits"),
        ({**GOOD, "n": number(2**100_000 + 1)}, "bits|malformed"),
        ({**GOOD, "n": ""}, "malformed|bits"),
        ({**GOOD, "n": "!!!"}, "malformed|bits"),
        ({**GOOD, "n": 5}, "malformed"),
        ({**GOOD, "n": None}, "malformed"),
        ({"kty": "RSA", "e": "AQAB"}, "malformed"),
        (ec_jwk(ec_key(ec.SECP384R1)), "another algorithm"),
        (ec_jwk(ec_key(ec.SECP256K1)), "another algorithm"),
        ({**ec_jwk(ec_key()), "crv": None}, "curve"),
        (NOT_ON_IT, "malformed"),
        ({**ec_jwk(ec_key()), "x": number(0, 32), "y": number(0, 32)}, "malformed"),
        ({**ec_jwk(ec_key()), "x": "AA"}, "malformed"),
        ({**ec_jwk(ec_key()), "x": 1}, "malformed"),
        ({**ec_jwk(ec_key()), "x": None}, "malformed"),
        ({**ec_jwk(ec_key()), "d": "AA"}, "private key"),
        (private(), "private key"),
        ({"kty": "oct", "k": b64(SECRET.encode()).decode()}, "another algorithm"),
        ({"kty": "OKP", "crv": "Ed25519", "x": b64(b"x" * 32).decode()}, "another algorithm"),
        ({**GOOD, "kty": "rsa"}, "another algorithm"),
        ({**GOOD, "kty": ["RSA"]}, "another algorithm"),
        ({**GOOD, "alg": "PS256"}, "another algorithm"),
        ({**GOOD, "alg": "HS256"}, "another algorithm"),
        ({**GOOD, "alg": ["RS256"]}, "another algorithm"),
        ({**GOOD, "use": "enc"}, "checking"),
        ({**GOOD, "use": 1}, "checking"),
        ({**GOOD, "key_ops": ["sign"]}, "checking"),
        ({**GOOD, "key_ops": "verify"}, "checking"),
        ({**GOOD, "kid": 1}, "kid"),
        (None, "no object"),
        ([], "no object"),
        ("key", "no object"),
    ],
)
def test_keys_that_are_passed_over(entry: object, why: str) -> None:
    found = KeySet.parse(key_set(entry, GOOD))
    assert [key.kid for key in found.keys] == ["good"]
    assert len(found.skipped) == 1 and found.skipped[0].startswith("keys[0] ")
    with pytest.raises(KeySetError, match=why):
        KeySet.parse(key_set(entry))


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{}", b"[]", b"null", b'{"keys":{}}', b'{"keys":null}', b'{"keys":[]}', b"<html>", b"\xff\xfe{}",
        b"[" * 100_000,
        key_set(*[GOOD] * 101), b" " * (LARGEST + 1), b'{"keys":[' + b"9" * 5000 + b"]}", json.dumps(GOOD).encode(),
    ],
)  # fmt: skip
def test_documents_that_are_no_key_set(document: bytes) -> None:
    with pytest.raises(KeySetError):
        KeySet.parse(document)


PIECES = st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.lists(st.text(max_size=5), max_size=2)
NAMES = st.sampled_from(["kty", "n", "e", "crv", "x", "y", "alg", "use", "kid", "key_ops", "d"])
CHANGES = st.dictionaries(NAMES, PIECES | st.sampled_from(["RSA", "EC", "P-256", "AQAB"]), max_size=4)


@given(st.sampled_from([GOOD, ec_jwk(ec_key()), {}]), CHANGES, st.sets(NAMES))
def test_any_entry_is_a_key_or_passed_over(
    entry: dict[str, object], changes: dict[str, object], gone: set[str]
) -> None:
    made = {name: value for name, value in {**entry, **changes}.items() if name not in gone}
    found = KeySet.parse(key_set(made, GOOD))
    assert 1 <= len(found.keys) <= 2 and len(found.keys) + len(found.skipped) == 2


def load(folder: Path, *entries: str) -> Loaded:
    text = "api_keys:\n  jwt:\n" + "".join(f"    - {entry}\n" for entry in entries)
    return load_bytes(text.encode(), {"FLUXEN_DATA_DIR": str(folder / "data")}, folder / "fluxen.yaml")


REST = f'issuer: "{ISSUER}", audience: fluxen'
URL = "https://login.example.com/jwks"


def test_documents_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(GOOD))
    loaded = load(
        tmp_path,
        f"{{id: a, jwks_file: keys.json, {REST}}}",
        f'{{id: b, jwks_url: "{URL}", {REST}}}',
        f'{{id: c, jwks_url: "{URL}", {REST}}}',
        f'{{id: d, key: "{SECRET}"}}',
    )
    assert urls(loaded.config) == (URL,)
    found = read_documents(loaded.config)
    assert found.by_source == {str(tmp_path / "keys.json"): key_set(GOOD)}
    assert found.problems == []
    assert [(where, "not been fetched" in said) for where, said in found.warnings] == [
        (("api_keys", "jwt", index, "jwks_url"), True) for index in (1, 2)
    ]
    kept = cache_path(loaded.config.data_dir, URL)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(key_set(GOOD))
    found = read_documents(loaded.config)
    assert found.by_source[URL] == key_set(GOOD)
    assert found.warnings == []
    kept.write_bytes(b"torn")
    assert "is no JSON" in read_documents(loaded.config).warnings[0][1]


def test_files_that_are_of_no_use(tmp_path: Path) -> None:
    entry = f"{{id: a, jwks_file: keys.json, {REST}}}"
    loaded = load(tmp_path, entry)
    where = ("api_keys", "jwt", 0, "jwks_file")
    assert read_documents(loaded.config).problems == [
        (where, f"can't read {tmp_path / 'keys.json'}: No such file or directory")
    ]
    (tmp_path / "keys.json").write_bytes(key_set())
    assert read_documents(loaded.config).problems == [
        (where, f"{tmp_path / 'keys.json'} holds no key for RS256 or ES256")
    ]
    (tmp_path / "keys.json").write_bytes(key_set(private(), GOOD))
    found = read_documents(loaded.config)
    assert found.problems == [] and "private key" in found.warnings[0][1]
    assert str(private()["d"]) not in found.warnings[0][1]


def test_a_public_key_as_a_secret(tmp_path: Path) -> None:
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(pem)
    loaded = load(tmp_path, "{id: a, key: 'file:public.pem'}")
    assert "jwks_file" in read_documents(loaded.config).warnings[0][1]


def test_nothing_is_imported_or_read_without_issuers(tmp_path: Path) -> None:
    found = read_documents(load_bytes(b"", {"FLUXEN_DATA_DIR": str(tmp_path)}, None).config)
    assert (found.by_source, found.problems, found.warnings) == ({}, [], [])


def test_weak_keys_are_told_of_and_those_with_other_uses_are_not(tmp_path: Path) -> None:
    other = [rsa_jwk(rsa_key(), use="enc"), rsa_jwk(rsa_key(), alg="PS256"), ec_jwk(ec_key(ec.SECP384R1))]
    (tmp_path / "keys.json").write_bytes(key_set(*other, rsa_jwk(rsa_key(1024)), GOOD))
    (told,) = read_documents(load(tmp_path, f"{{id: a, jwks_file: keys.json, {REST}}}").config).warnings
    assert "keys[3] has 1024 bits" in told[1]


def test_validation_tells_where_an_unusable_file_is_named(tmp_path: Path) -> None:
    loaded = load(tmp_path, f"{{id: a, jwks_file: keys.json, {REST}}}", f'{{id: b, jwks_url: "{URL}", {REST}}}')
    with pytest.raises(ConfigError) as caught:
        build(loaded, {})
    assert caught.value.problems == (
        f"{tmp_path / 'fluxen.yaml'}:3:26: api_keys.jwt[0].jwks_file: can't read {tmp_path / 'keys.json'}: "
        "No such file or directory",
    )
    (tmp_path / "keys.json").write_bytes(key_set(GOOD))
    snapshot = build(loaded, {})
    assert snapshot.tokens is not None and snapshot.open_mode is False
    (told,) = snapshot.warnings
    assert f"{tmp_path / 'fluxen.yaml'}:4:" in told and "not been fetched" in told
