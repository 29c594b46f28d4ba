"""Signed tokens: take one apart, check who signed it, read its claims, and the key sets they are checked by.

An input says how to make a token of it: its first byte which key signs (or that the bytes are the token itself, or a
key set), then head and payload as JSON, whatever that is. Who judges reads the token by himself, with the standard
library and the keys: what is let in has to be signed by the key that its head names, be in its time, for this gateway,
and allow no more than its issuer may.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from keys.signer import NOW, SECRET, b64, ec_jwk, ec_key, es256, hs256, key_set, number, rs256, rsa_jwk, rsa_key

from fluxen.config.access import JwtKey
from fluxen.keys.client import ClientKey
from fluxen.keys.jwks import KeySet, KeySetError
from fluxen.keys.tokens import TokenFault, Tokens

OTHER_SECRET = "another secret of 32 bytes or more, of others"
SOURCE = "https://login.example.com/jwks"
UPSTREAMS, MODELS, ROUTES = ("openai", "tunnel"), ("gpt-5*", "claude-[34]*", "o?-mini"), ("/v1/chat/*", "/a/b/*")
SHARED = {
    "id": "dev", "key": SECRET, "upstreams": UPSTREAMS, "models": MODELS, "routes": ROUTES, "leeway_seconds": 30,
    "claims": {"team": "team", "upstreams": "up", "models": "models", "routes": "routes", "tags": {"env": "a.b"}},
}  # fmt: skip
PUBLIC = {
    "id": "company", "jwks_url": SOURCE, "issuer": "https://login.example.com/", "audience": "fluxen", "models": MODELS,
    "claims": {"models": "models", "upstreams": "up"},
}  # fmt: skip
SAMPLES = (
    "gpt-5", "gpt-5-mini", "gpt-4o", "claude-3", "claude-[34]", "claude-5", "GPT-5", "x", "", "gpt-5*", "*",
    "/v1/chat/x",
    "/v1/chat/", "/v1/chat", "/v1/files", "/a/b/c", "/a/b/../x", "?", "[a]", "gpt-5]", "o3-mini", "o33-mini",
)  # fmt: skip
HEADS = (
    b'{"alg":"HS256","kid":"dev"}', b'{"alg":"HS256","kid":"dev","typ":"JWT"}', b'{"alg":"RS256","kid":"r"}',
    b'{"alg":"ES256","kid":"e"}', b'{"alg":"none"}', b'{"alg":"none","kid":"dev"}', b'{"alg":"HS256","kid":"r"}',
    b'{"alg":"HS384","kid":"dev"}', b'{"alg":"RS256","kid":"e"}', b'{"alg":"ES256","kid":"r"}', b'{"alg":"RS256"}',
    b'{"alg":"hs256","kid":"dev"}', b'{"alg":"HS256","kid":"dev","crit":["x"]}',
    b'{"alg":"HS256","kid":"dev","b64":false}',
    b'{"alg":"HS256","kid":"dev","alg":"none"}', b'{"alg":"HS256","kid":null}', b'{"alg":"HS256","kid":["dev"]}',
    b'{"alg":"RS256","kid":"r","jwk":{"kty":"oct"},"x5u":"http://evil"}', b'{"typ":"at+jwt","alg":"RS256","kid":"r"}',
)  # fmt: skip
CLAIMS = (
    b'"exp":1800000600', b'"exp":1800000000', b'"exp":1799999970', b'"exp":"1800000600"', b'"exp":1.8e9',
    b'"exp":1e999',
    b'"exp":NaN', b'"exp":true', b'"exp":null', b'"nbf":1799999000', b'"nbf":1800000031', b'"iat":1800009999',
    b'"sub":"me"',
    b'"sub":42', b'"sub":"a\\u0000b"', b'"sub":"' + b"s" * 250 + b'"', b'"iss":"https://login.example.com/"',
    b'"iss":"x"',
    b'"aud":"fluxen"', b'"aud":["x","fluxen"]', b'"aud":"fluxen2"', b'"aud":[]', b'"team":"red"', b'"team":["red"]',
    b'"up":["openai"]', b'"up":["anthropic"]', b'"up":"openai tunnel"', b'"up":[]', b'"models":["gpt-5-mini"]',
    b'"models":["*"]', b'"models":["gpt-*"]', b'"models":["[a-z]*"]', b'"models":"gpt-5* x"', b'"models":{}',
    b'"routes":["/*"]',
    b'"routes":["/v1/chat/completions"]', b'"a":{"b":"c"}', b'"a.b":"d"', b'"a":{"b":{"c":1}}',
    b'"sub":{"x":[[[[1]]]]}',
    b'"models":["o*-mini"]', b'"models":["o[0-9][0-9]-mini","o?*"]', b'"models":["gpt-5?","claude-3*"]',
    b'"models":["claude-[3-9]*"]', b'"models":["**"]', b'"models":["gpt-5**"]',
)  # fmt: skip
GOOD = b'"exp":1800000600,"iss":"https://login.example.com/","aud":"fluxen"'
SIGNERS = b"HOREPQNK"
"""H: the shared secret. O: another one. R: the RSA key. E: the P-256 key. P: HMAC by the RSA key's public bytes.
Q: another RSA key. N: no signature. K: the input is a key set. Any other: the input is the token."""


class TokensTarget:
    name = "jwt"
    traced = tuple(f"fluxen/keys/{name}.py" for name in ("tokens", "token_parts", "token_claims", "jwks"))
    base_steps = 20_000
    words: Sequence[bytes] = (
        *HEADS, *CLAIMS, b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b"null", b"true", b"1e308", b"\\u0061",
        b"\\ud800", b"\xff",
        b"=", b".", b"-", b"_", b"9" * 5000, b"[" * 3000, b'"kid"', b'"alg"', b'"kty":"RSA"', b'"e":"AQAB"', b'"n":"',
        b'"crv":"P-256"',
        b'"kty":"EC"', b'"x":"', b'"y":"', b'"d":"x"', b'"use":"enc"', b'"key_ops":["sign"]',
    )  # fmt: skip

    def __init__(self, _folder: Path) -> None:
        self._rsa, self._ec = rsa_key(), ec_key()
        document = key_set(rsa_jwk(self._rsa, kid="r"), ec_jwk(self._ec, kid="e"))
        self._document = document
        shared, public = JwtKey.model_validate(SHARED), JwtKey.model_validate(PUBLIC)
        self._issuers = {"dev": shared, "company": public}
        self._tokens = Tokens([shared, public], {SOURCE: document})
        pem = self._rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._signers = {
            ord("H"): hs256(), ord("O"): hs256(OTHER_SECRET), ord("R"): rs256(self._rsa), ord("E"): es256(self._ec),
            ord("P"): hs256(pem), ord("Q"): rs256(rsa_key(2048, 1)), ord("N"): lambda _: b"",
        }  # fmt: skip

    def seeds(self) -> list[bytes]:
        signed = [bytes((signer,)) + head + b"\n{" + GOOD + b"}" for signer in b"HOREPQN" for head in HEADS]
        good = b".".join(map(b64, (HEADS[0], b"{" + GOOD.partition(b",")[0] + b"}")))
        sets = [self._document, b'{"keys":[]}', b"[]", key_set({"kty": "oct", "k": "x"})]
        sets += [key_set(rsa_jwk(self._rsa, kid="r", e=number(e))) for e in (1, 3, 2**40)]
        return [*signed, good + b"." + b64(hs256()(good)), *(b"K" + one for one in sets)]

    def make(self, chance: random.Random) -> bytes:
        claims = [GOOD] if chance.random() < 0.7 else []
        claims += [chance.choice(CLAIMS) for _ in range(chance.randrange(5))]
        signer = chance.choice((b"H", b"H", b"H", b"E", b"R", b"O", b"P", b"N", b"Q"))
        head = {b"E": HEADS[3], b"R": HEADS[2], b"H": HEADS[0]}.get(signer, HEADS[0])
        if chance.random() < 0.4:
            head = chance.choice(HEADS)
        return signer + head + b"\n{" + b",".join(claims) + b"}"

    def run(self, case: bytes) -> Hashable:
        if case[:1] == b"K":
            try:
                found = KeySet.parse(case[1:])
            except KeySetError:
                return None
            assert all(key.key.key_size >= (2048 if key.algorithm == "RS256" else 256) for key in found.keys)
            return len(found.keys)
        sign = self._signers.get(case[0]) if case else None
        token = case
        if sign is not None:
            head, _, payload = case[1:].partition(b"\n")
            message = b64(head) + b"." + b64(payload)
            token = message + b"." + b64(sign(message))
        for now in (NOW, NOW):  # the second time it may be remembered
            found = self._tokens.identify(token, now)
            if isinstance(found, TokenFault):
                assert found.code in ("invalid_token", "invalid_api_key", "token_expired", "token_not_yet_valid"), found
                assert found.message.isascii(), found
                assert found.message.isprintable(), found
            else:
                self._judge(token, found)
        self._tokens.take_wanted()
        if isinstance(found, ClientKey):
            late = self._tokens.identify(token, found.until)
            assert isinstance(late, TokenFault), "let in when it has ended"
            return client_shape(found)
        return found.reason

    def _judge(self, token: bytes, client: ClientKey) -> None:
        """What was let in: may it?"""
        head_part, payload_part, signature_part = token.split(b".")
        head, payload = strictly(head_part), strictly(payload_part)
        signature = base64.urlsafe_b64decode(signature_part + b"==")
        assert head.keys().isdisjoint(("crit", "b64")), head
        assert head.get("typ", "JWT").lower() in ("jwt", "at+jwt", "application/jwt", "application/at+jwt"), head
        message = head_part + b"." + payload_part
        name = self._signed(head, message, signature)
        issuer = self._issuers[name]
        assert client.until == payload["exp"] + issuer.leeway_seconds > NOW, (client, payload)
        assert all(payload[claim] <= NOW + issuer.leeway_seconds for claim in ("nbf", "iat") if claim in payload), (
            payload
        )
        if issuer.issuer is not None:
            assert payload.get("iss") == issuer.issuer, payload
            audience = payload.get("aud")
            assert audience == "fluxen" or (isinstance(audience, list) and "fluxen" in audience), payload
        else:
            assert "aud" not in payload, payload
        assert client.id == name or client.id == f"{name}/{payload['sub']}", client
        shown = [client.id, client.team, client.project, *(client.tags or {}), *(client.tags or {}).values()]
        assert all(text is None or (text.isascii() and text.isprintable() and 0 < len(text) <= 256) for text in shown)
        if issuer.upstreams is not None:
            assert client.upstreams is not None, client
            assert client.upstreams <= set(issuer.upstreams), client
        claimed = [word for kind in ("models", "routes") for word in _listed(payload.get(kind))]
        for ours, theirs in ((issuer.models, client.models), (issuer.routes, client.routes)):
            if ours is not None:
                assert theirs is not None, client
                for sample in (*SAMPLES, *claimed, *(word.replace("*", "x").replace("?", "y") for word in claimed)):
                    if any(fnmatchcase(sample, pattern) for pattern in theirs):
                        assert any(fnmatchcase(sample, pattern) for pattern in ours), (
                            f"{sample!r} is allowed to {client}"
                        )

    def _signed(self, head: dict[str, object], message: bytes, signature: bytes) -> str:
        """Whose key has signed it. Raises when it isn't the one that the head names."""
        kid, algorithm = head.get("kid"), head["alg"]
        if algorithm == "HS256":
            assert kid == "dev", head
            assert signature == hmac.digest(SECRET.encode(), message, hashlib.sha256), "let in with a wrong signature"
            return "dev"
        try:
            if algorithm == "RS256":
                assert kid in ("r", None), head
                self._rsa.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                assert algorithm == "ES256", head
                assert kid in ("e", None), head
                assert len(signature) == 64, "let in with a signature of another length"
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self._ec.public_key().verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise AssertionError("let in with a wrong signature") from None
        return "company"


def client_shape(client: ClientKey) -> Hashable:
    """Who was let in, but for the names."""
    lists = (client.upstreams, client.models, client.routes)
    return client.id.partition("/")[0], client.team is None, client.tags is None, *(one and len(one) for one in lists)


def strictly(part: bytes) -> dict[str, object]:
    """A JSON object in base64url. Raises AssertionError when two readers could differ."""
    raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    assert base64.urlsafe_b64encode(raw).rstrip(b"=") == part, "two spellings of one token"

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        assert len({name for name, _ in found}) == len(found), "a name twice"
        return dict(found)

    value = json.loads(raw, object_pairs_hook=pairs)
    assert isinstance(value, dict), value
    return value


def _listed(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split(" ")
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
