"""Signed tokens that are good, and what they say of their bearer."""

from __future__ import annotations

import base64
import fnmatch
import math
import pickle
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys import rfc7515
from keys.signer import (
    ISSUER,
    NOW,
    SECRET,
    SOURCE,
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
from fluxen.config.load import load_bytes
from fluxen.config.values import Secret
from fluxen.keys.client import ClientKey
from fluxen.keys.tokens import Tokens

HEAD = {"alg": "HS256", "typ": "JWT"}
RSA_HEAD = {"alg": "RS256", "typ": "JWT", "kid": "one"}


def bearer(payload: dict[str, Any], **fields: Any) -> ClientKey:
    return let_in(shared(**fields), token({**HEAD, "kid": "dev"}, payload, hs256()), NOW)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_tokens_that_the_common_library_makes(algorithm: str) -> None:
    """PyJWT, which Python's issuers use, as somebody else's word on what a token is."""
    keys = {"HS256": SECRET, "RS256": rsa_key(), "ES256": ec_key()}
    made = jwt.encode(public_claims(sub="ann"), keys[algorithm], algorithm, headers={"kid": "company"})
    if algorithm == "HS256":
        tokens = shared(id="company", issuer=ISSUER, audience="fluxen")
    else:
        tokens = public(rsa_jwk(rsa_key(), kid="company"), ec_jwk(ec_key(), kid="company"))
    assert let_in(tokens, made.encode()) == ClientKey("company/ann", until=NOW + 600 + 30)


def test_the_kid_is_the_issuers_id() -> None:
    issuers = [JwtKey.model_validate(entry) for entry in ({"id": "dev", "key": SECRET}, {"key": "z" * 32})]
    tokens = Tokens(issuers, {})
    assert let_in(tokens, token({**HEAD, "kid": "dev"}, claims(sub="a"), hs256())).id == "dev/a"
    assert let_in(tokens, token(HEAD, claims(sub="a"), hs256("z" * 32))).id == "jwt/a"
    for head, secret in ((HEAD, SECRET), ({**HEAD, "kid": "dev"}, "z" * 32), ({**HEAD, "kid": "other"}, SECRET)):
        refused(tokens, token(head, claims(), hs256(secret)))
    for kid in ("", "DEV", "dev ", "dev\0", "../dev", "dev' OR '1", "jwt", "*"):
        refused(tokens, token({**HEAD, "kid": kid}, claims(), hs256()))


def test_of_several_issuers_without_id_the_secret_tells() -> None:
    entries = [{"key": letter * 32, "team": letter} for letter in "abc"]
    tokens = Tokens([JwtKey.model_validate(entry) for entry in entries], {})
    for letter in "abc":
        assert let_in(tokens, token(HEAD, claims(), hs256(letter * 32))).team == letter
    refused(tokens, token(HEAD, claims(), hs256("d" * 32)))


def test_a_set_with_many_keys_and_a_token_without_kid() -> None:
    one, two, three = (rsa_key(which=which) for which in range(3))
    both = public(rsa_jwk(one, kid="one"), rsa_jwk(two, kid="two"), ec_jwk(ec_key()))
    assert let_in(both, token(RSA_HEAD, public_claims(), rs256(one))).id == "company"
    assert let_in(both, token({**RSA_HEAD, "kid": "two"}, public_claims(), rs256(two))).id == "company"
    refused(both, token(RSA_HEAD, public_claims(), rs256(two)))
    refused(both, token({"alg": "RS256"}, public_claims(), rs256(one)))  # which of the two?
    assert let_in(both, token({"alg": "ES256"}, public_claims(), es256(ec_key()))).id == "company"
    refused(both, token({"alg": "ES256", "kid": "none"}, public_claims(), es256(ec_key())))
    same = public(rsa_jwk(one, kid="one"), rsa_jwk(three, kid="one"))  # against the specification, but it happens
    for key in (one, three):
        assert let_in(same, token(RSA_HEAD, public_claims(), rs256(key))).id == "company"


def test_issuers_that_share_a_set_are_told_apart_by_what_the_token_says() -> None:
    common = {"jwks_url": SOURCE, "issuer": ISSUER}
    other = {"id": "c", "jwks_url": SOURCE + "/2", "issuer": "https://other.example.com", "audience": "one"}
    entries = [{"id": "a", "audience": "one", **common}, {"id": "b", "audience": "two", **common}, other]
    sets = {
        SOURCE: key_set(rsa_jwk(rsa_key(), kid="one")),
        SOURCE + "/2": key_set(rsa_jwk(rsa_key(which=1), kid="one")),
    }
    tokens = Tokens([JwtKey.model_validate(entry) for entry in entries], sets)

    def made(issuer: str, audience: object, key: int) -> bytes:
        return token(RSA_HEAD, claims(iss=issuer, aud=audience), rs256(rsa_key(which=key)))

    assert let_in(tokens, made(ISSUER, "one", 0)).id == "a"
    assert let_in(tokens, made(ISSUER, ["x", "two"], 0)).id == "b"
    assert let_in(tokens, made("https://other.example.com", "one", 1)).id == "c"
    for issuer, audience, key in (
        (ISSUER, "three", 0), (ISSUER, "one", 1), ("https://other.example.com", "one", 0),
        (ISSUER.rstrip("/"), "one", 0),
        (ISSUER, [], 0), (ISSUER, None, 0), (ISSUER, {"one": 1}, 0), (ISSUER, [["one"]], 0), (ISSUER, "one two", 0),
    ):  # fmt: skip
        refused(tokens, made(issuer, audience, key))


def test_an_audience_nobody_has_configured_is_somebody_else() -> None:
    refused(shared(), token(HEAD, claims(aud="billing"), hs256()))
    refused(shared(audience="fluxen"), token(HEAD, claims(), hs256()))
    refused(shared(issuer=ISSUER), token(HEAD, claims(), hs256()))
    refused(shared(issuer=ISSUER), token(HEAD, claims(iss=[ISSUER]), hs256()))
    assert let_in(shared(issuer=ISSUER), token(HEAD, claims(iss=ISSUER), hs256())).id == "jwt"


def test_times_and_the_leeway() -> None:
    tokens = shared(leeway_seconds=30)
    made = token(HEAD, {"exp": NOW + 100, "nbf": NOW, "iat": NOW}, hs256())
    assert let_in(tokens, made, NOW - 30).until == NOW + 130
    assert let_in(tokens, made, NOW + 129.9).until == NOW + 130
    fault = refused(tokens, made, "token_expired", NOW + 130)
    assert fault.message == "the token has expired"
    fresh = shared(leeway_seconds=30)
    refused(fresh, made, "token_not_yet_valid", NOW - 30.1)
    refused(fresh, made, "token_expired", math.inf)
    for name in ("nbf", "iat"):
        late = token(HEAD, claims(**{name: NOW + 31}), hs256())
        assert refused(shared(), late, "token_not_yet_valid").message == "the token is not valid yet"
    strict = shared(leeway_seconds=0)
    assert let_in(strict, token(HEAD, {"exp": NOW + 0.5}, hs256())).until == NOW + 0.5
    refused(strict, token(HEAD, {"exp": NOW}, hs256()), "token_expired")


def test_who_claims_say_the_bearer_is() -> None:
    fields = {
        "id": "dev", "team": "blue", "project": "p", "tags": {"a": "1", "b": "2"},
        "claims": {"user": "who.mail", "team": "https://example.com/team", "tags": {"b": "org.unit", "c": "c"}},
    }  # fmt: skip
    said = claims(**{"who": {"mail": "a@b"}, "https://example.com/team": "red", "org": {"unit": "x"}})
    assert bearer(said, **fields) == ClientKey(
        "dev/a@b", "red", "p", {"a": "1", "b": "x"}, None, None, None, None, NOW + 630
    )
    empty = bearer(claims(sub="not asked for", org="text", who=None), **fields)
    assert empty == ClientKey("dev", "blue", "p", {"a": "1", "b": "2"}, None, None, None, None, NOW + 630)
    assert bearer(claims(), id="dev").tags is None


@pytest.mark.parametrize(
    "value", [1, 1.5, True, [], ["ann"], {}, "", "x" * 257, "bj\u00f6rn", "a\nb", "\x7f", "\ud800"]
)
@pytest.mark.parametrize("claim", ["sub", "team", "unit", "where"])
def test_claims_that_are_no_label(claim: str, value: object) -> None:
    fields = {"claims": {"team": "team", "project": "where", "tags": {"unit": "unit"}}}
    refused(shared(**fields), token(HEAD, claims(**{claim: value}), hs256()))


def test_a_name_is_never_cut_to_another_ones() -> None:
    made = token({**HEAD, "kid": "i" * 100}, claims(sub="u" * 156), hs256())
    refused(shared(id="i" * 100), made)
    assert (
        len(let_in(shared(id="i" * 100), token({**HEAD, "kid": "i" * 100}, claims(sub="u" * 155), hs256())).id) == 256
    )


def test_a_claim_can_only_narrow() -> None:
    mapped = {"claims": {"upstreams": "ups", "models": "models", "routes": "routes"}, "networks": ["10.0.0.0/8"]}
    ours = {"upstreams": ["openai", "groq"], "models": ["gpt-*", "o1"], "routes": ["/v1/*"], **mapped}

    def limits(fields: dict[str, Any], **said: object) -> tuple[Any, Any, Any]:
        found = bearer(claims(**said), id="dev", **fields)
        assert [str(network) for network in found.networks or ()] == ["10.0.0.0/8"]
        return None if found.upstreams is None else set(found.upstreams), found.models, found.routes

    everything = ({"openai", "groq"}, ("gpt-*", "o1"), ("/v1/*",))
    assert limits(ours) == everything
    assert limits(ours, ups=None, models=None, routes=None) == everything
    assert limits(ours, ups=["openai", "anthropic"], models=["gpt-5*", "claude-*", "o1"], routes="/v1/chat/* /x") == (
        {"openai"}, ("gpt-5*", "o1"), ("/v1/chat/*",),
    )  # fmt: skip
    assert limits(ours, ups="anthropic", models=["*"], routes=["/*"]) == (set(), ("gpt-*", "o1"), ("/v1/*",))
    assert limits(ours, ups=[], models=[], routes=[]) == (set(), (), ())
    assert limits(mapped, ups=["a"], models=["m*"], routes=["/r"]) == ({"a"}, ("m*",), ("/r",))
    assert limits(mapped) == (None, None, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (["a?"], ["a*"], ["a?"]),
        (["a?b*"], ["a*b?"], []),  # they overlap, which no pattern of ours can say
        (["a?"], ["ab"], ["ab"]),
        (["a[bc]"], ["a[bc]", "ab", "a?"], ["a[bc]", "ab"]),
        (["*]", "*a*"], ["[ab]"], []),  # its letters are no letters
        (["[*]"], ["*"], ["[*]"]),  # `*` itself, and nothing else
        (["gpt-*-mini"], ["gpt-5*"], []),
        (["gpt-*"], ["GPT-5"], []),
        (["*b"], ["a*"], []),
        (["*"], ["a", "*"], ["a", "*"]),
    ],
)
def test_patterns_that_both_allow(ours: list[str], theirs: list[str], both: list[str]) -> None:
    found = bearer(claims(models=theirs), id="dev", models=ours, claims={"models": "models"})
    assert found.models == tuple(both)


PATTERNS = st.lists(st.text("ab*?[]!-", min_size=1, max_size=5), min_size=1, max_size=3)


@given(PATTERNS, PATTERNS, st.lists(st.text("ab[]!-*?", min_size=1, max_size=5), min_size=1, max_size=20))
def test_what_both_allow_is_allowed_by_each(ours: list[str], theirs: list[str], names: list[str]) -> None:
    found = bearer(claims(models=theirs), id="dev", models=ours, claims={"models": "models"}).models or ()
    for name in names:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in found):
            for patterns in (ours, theirs):
                assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), (name, found)


@pytest.mark.parametrize(
    "value", [1, True, {}, {"a": 1}, [1], [None], [[]], [""], ["a\n"], ["x" * 257], ["a"] * 65, "a  b"]
)
def test_lists_that_are_none(value: object) -> None:
    refused(shared(claims={"models": "m"}), token(HEAD, claims(m=value), hs256()))


def test_a_token_that_was_good_is_remembered_until_it_ends() -> None:
    tokens = public(rsa_jwk(rsa_key(), kid="one"))
    made = token(RSA_HEAD, public_claims(sub="ann"), rs256(rsa_key()))
    first = let_in(tokens, made)
    assert let_in(tokens, made) is first
    refused(tokens, made, "token_expired", NOW + 700)
    refused(tokens, made[:-4] + b"AAAA")
    assert let_in(tokens, made) is first


def test_what_is_remembered_is_bounded() -> None:
    tokens = shared()
    for number in range(Tokens.REMEMBERED + 10):
        assert let_in(tokens, token(HEAD, claims(sub=str(number)), hs256())).id == f"jwt/{number}"
    held = [len(value) for value in vars(tokens).values()]
    assert max(held) <= Tokens.REMEMBERED


def test_a_key_that_is_unknown_is_asked_for() -> None:
    """From those URLs only whose set doesn't have it; nobody is asked because of a wrong signature."""
    common = {"issuer": ISSUER, "audience": "fluxen"}
    entries = [
        {"id": "a", "jwks_url": SOURCE, **common},
        {"id": "b", "jwks_url": SOURCE + "/2", **common},
        {"id": "c", "jwks_url": SOURCE + "/3", **common},
        {"id": "d", "jwks_file": "/keys.json", **common},
        {"id": "dev", "key": SECRET},
    ]
    one, two = key_set(rsa_jwk(rsa_key(), kid="one")), key_set(rsa_jwk(rsa_key(which=1), kid="two"))
    tokens = Tokens([JwtKey.model_validate(entry) for entry in entries], {SOURCE: one, SOURCE + "/2": two})
    let_in(tokens, token(RSA_HEAD, public_claims(), rs256(rsa_key())))
    for quiet in ({"alg": "HS256", "kid": "?"}, {"alg": "none", "kid": "?"}, {"alg": "RS256", "kid": 1}):
        refused(tokens, token(quiet, public_claims(), rs256(rsa_key())))
    assert tokens.take_wanted() == frozenset()
    refused(tokens, token({"alg": "RS256", "kid": "three"}, public_claims(), rs256(rsa_key())))
    assert tokens.take_wanted() == {SOURCE, SOURCE + "/2", SOURCE + "/3"}
    assert tokens.take_wanted() == frozenset()
    refused(tokens, token(RSA_HEAD, public_claims(), rs256(rsa_key(which=1))))
    assert tokens.take_wanted() == {SOURCE + "/2", SOURCE + "/3"}


def test_why_tokens_were_refused_is_for_the_log() -> None:
    tokens = shared(claims={"team": "team"})
    assert tokens.take_refused() == {}
    for payload in ({"exp": 1, "team": "x"}, {"exp": 2}, claims(team="se\ncret"), claims(aud="elsewhere")):
        tokens.identify(token(HEAD, payload, hs256()), NOW)
    tokens.identify(token(HEAD, claims(), hs256("x" * 32)), NOW)
    tokens.identify(b"no token at all", NOW)
    assert tokens.take_refused() == {
        "expired": 2,
        "team is not 1 to 256 printable ASCII characters": 1,
        "iss or aud are not those of the issuer whose key has signed it": 1,
        "its signature is wrong": 1,
    }
    assert tokens.take_refused() == {}


def test_keys_of_an_issuer_can_be_handed_to_another_process() -> None:
    entry = JwtKey.model_validate({"id": "dev", "key": SECRET, "claims": {"team": "t"}, "networks": ["::1"]})
    tokens = Tokens(pickle.loads(pickle.dumps([entry])), {})
    assert let_in(tokens, token({**HEAD, "kid": "dev"}, claims(t="x"), hs256())).team == "x"


def test_every_byte_of_a_secret_counts(tmp_path: Path) -> None:
    raw = bytes(range(128, 160)) + b"\xff\x00"
    (tmp_path / "secret").write_bytes(raw + b"\n")
    for written, env, secret in (
        ("file:secret", {}, raw),
        ("${SECRET}", {"SECRET": raw[:-1].decode(errors="surrogateescape")}, raw[:-1]),
        ("schlüssel von 32 oder mehr bytes", {}, "schlüssel von 32 oder mehr bytes".encode()),
    ):
        text = f"api_keys: {{jwt: [{{key: '{written}'}}]}}".encode()
        loaded = load_bytes(text, {**env, "FLUXEN_DATA_DIR": str(tmp_path)}, tmp_path / "fluxen.yaml")
        assert loaded.warnings == () and loaded.config.api_keys is not None
        assert let_in(Tokens(loaded.config.api_keys.jwt, {}), token(HEAD, claims(), hs256(secret))).id == "jwt"


def test_nothing_shows_a_secret() -> None:
    tokens = shared()
    for shown in (repr(tokens), repr(vars(tokens)), str(refused(tokens, token(HEAD, {}, hs256())))):
        assert SECRET not in shown


def test_the_examples_of_the_specification() -> None:
    secret = base64.urlsafe_b64decode(rfc7515.SECRET + "==").decode("latin-1")
    entries = [
        JwtKey(key=Secret(secret, "file:secret"), issuer=rfc7515.ISSUER),
        JwtKey(id="public", jwks_url=SOURCE, issuer=rfc7515.ISSUER),
    ]
    tokens = Tokens(entries, {SOURCE: key_set(rfc7515.RSA_KEY, rfc7515.EC_KEY)})
    for made, issuer in ((rfc7515.HS256, "jwt"), (rfc7515.RS256, "public"), (rfc7515.ES256, "public")):
        assert let_in(tokens, made.encode(), rfc7515.EXPIRES - 1).id == issuer
        refused(tokens, made.encode(), "token_expired")
