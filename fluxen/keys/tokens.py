"""Signed tokens (JWT) as client keys: who the bearer of one is, or why it is refused.

The key decides the algorithm, never the token: a shared secret checks HS256 and nothing else, an RSA key RS256, a P-256
key ES256. A token finds its key by its `kid`; nothing else in its head is looked at, so that no `jwk`, `jku` or `x5u`
brings a key of its own along. The claims are read after the signature has been checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fluxen.config.access import SIGNING_KEY_BYTES, JwtKey
from fluxen.keys.client import ClientKey
from fluxen.keys.token_claims import client_of, is_for
from fluxen.keys.token_parts import Parts, TokenError, TokenFault, strict_object, take_apart

if TYPE_CHECKING:
    from fluxen.keys.jwks import KeySet, PublicKey, SharedKey

__all__ = ["TokenFault", "Tokens", "prepare", "source_of"]


def prepare() -> None:
    """Import what Tokens needs: before a fork, so that a worker reads no file of the installation later on."""
    import fluxen.keys.jwks  # noqa: F401


def source_of(issuer: JwtKey) -> str | None:
    """Under which name the issuer's key set is known: its URL, or the path of its file. None for a shared secret."""
    return issuer.jwks_url or (None if issuer.jwks_file is None else str(issuer.jwks_file))


class Tokens:
    """The issuers of one configuration. Not changed, but for what it remembers.

    A token that was good is good until it ends: its signature is checked once, not for each request it comes with.
    """

    REMEMBERED: Final = 4096

    def __init__(self, issuers: Sequence[JwtKey], key_sets: Mapping[str, bytes]) -> None:
        """key_sets: the documents of jwks_file and jwks_url by source_of. An issuer whose document is missing or can't
        be used has no keys: its tokens are refused."""
        from fluxen.keys.jwks import KeySet, KeySetError, SharedKey, is_public_key

        self._seen: dict[bytes, ClientKey] = {}
        self._wanted: set[str] = set()
        self._refused: dict[str, int] = {}
        self._shared: dict[str | None, list[tuple[SharedKey, list[JwtKey]]]] = {}
        self._public: dict[tuple[str, str | None], list[tuple[PublicKey, list[JwtKey]]]] = {}
        self._kids: dict[str, frozenset[str | None]] = {}
        sources: dict[str, list[JwtKey]] = {}
        for issuer in issuers:
            if (secret := issuer.secret) is not None:
                if len(secret) >= SIGNING_KEY_BYTES and not is_public_key(secret):
                    self._shared.setdefault(issuer.id or None, []).append((SharedKey(secret), [issuer]))
            elif source := source_of(issuer):
                sources.setdefault(source, []).append(issuer)
        for source, theirs in sources.items():
            try:
                keys = KeySet.parse(key_sets[source]) if source in key_sets else KeySet(())
            except KeySetError:
                keys = KeySet(())
            self._add(keys, theirs)
            if theirs[0].jwks_url is not None:
                self._kids[source] = frozenset(key.kid for key in keys.keys)

    def _add(self, keys: KeySet, issuers: list[JwtKey]) -> None:
        for key in keys.keys:
            if key.kid is not None:
                self._public.setdefault((key.algorithm, key.kid), []).append((key, issuers))
        for algorithm in ("RS256", "ES256"):  # a token without kid: only where there is no choice
            alone = [key for key in keys.keys if key.algorithm == algorithm]
            if len(alone) == 1:
                self._public.setdefault((algorithm, None), []).append((alone[0], issuers))

    def identify(self, token: bytes, now: float) -> ClientKey | TokenFault:
        """now: seconds since 1970. Whatever the bytes are, there is an answer."""
        digest = hashlib.sha256(token).digest()
        seen = self._seen.get(digest)
        if seen is not None and now < seen.until:
            return seen
        try:
            client = self._judge(take_apart(token), now)
        except TokenError as error:
            fault = error.fault
            if fault.code != "invalid_api_key":
                self._refused[fault.reason] = self._refused.get(fault.reason, 0) + 1
            return fault
        if len(self._seen) >= self.REMEMBERED:
            self._seen.clear()
        self._seen[digest] = client
        return client

    def take_wanted(self) -> frozenset[str]:
        """URLs of key sets that should be fetched again: since the last call a token named a key that isn't in them."""
        if not self._wanted:
            return frozenset()
        wanted = frozenset(self._wanted)
        self._wanted.clear()
        return wanted

    def take_refused(self) -> Mapping[str, int]:
        """Why tokens were refused since the last call, and how many, for the log: their bearers don't hear so much. The
        reasons are few; nothing of a token is in them."""
        refused, self._refused = self._refused, {}
        return refused

    def _judge(self, parts: Parts, now: float) -> ClientKey:
        for issuer, claims in self._proven(parts):
            if is_for(issuer, claims):
                return client_of(issuer, claims, now)
        raise TokenError("iss or aud are not those of the issuer whose key has signed it")

    def _proven(self, parts: Parts) -> list[tuple[JwtKey, dict[str, object]]]:
        """The issuers whose key has signed this, and what they say."""
        keys: Sequence[tuple[PublicKey | SharedKey, list[JwtKey]]]
        if parts.algorithm == "HS256":
            keys = self._shared.get(parts.kid, ())
        elif parts.algorithm in ("RS256", "ES256"):
            keys = self._public.get((parts.algorithm, parts.kid), ())
        else:
            raise TokenError("signed by another algorithm than HS256, RS256 and ES256")
        signers = [issuers for key, issuers in keys if key.signed(parts.signed, parts.signature)]
        if not signers:
            if parts.algorithm != "HS256":
                self._wanted.update(url for url, kids in self._kids.items() if parts.kid not in kids)
            raise TokenError("its signature is wrong" if keys else "no key for its kid and algorithm")
        claims = strict_object(parts.payload, "payload")
        return [(issuer, claims) for issuers in signers for issuer in issuers]
