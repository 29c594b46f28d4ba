"""Who may call, as the configuration says it: client keys, issuers of signed tokens, and what each may use."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import ConfigDict, Field, StrictInt, StringConstraints, field_validator

from fluxen.config.section import Label, Section, Title, one_of, or_null
from fluxen.config.values import FilePath, JwksUrl, KeyHash, Moment, Network, RoutePattern, Secret, SigningKey

SIGNING_KEY_BYTES = 32
"""RFC 7518, 3.2: the key of HS256 has at least the size of its hash. With a shorter one no token is let in."""

Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Access(Section):
    """What a caller may use. Each list narrows; none of them: everything."""

    upstreams: tuple[str, ...] | None = Field(default=None, description="names of upstreams it may use; default: all")
    models: tuple[Glob, ...] | None = Field(
        default=None, description="patterns ('gpt-5*') of model names it may ask for; default: all"
    )
    routes: tuple[RoutePattern, ...] | None = Field(
        default=None, description="patterns ('/v1/chat/*') of request paths it may call; default: all"
    )
    networks: tuple[Network, ...] | None = Field(
        default=None, description="addresses or networks (10.0.0.0/8) it may call from; default: all"
    )


def _digest(key: Secret | None, key_hash: str | None) -> bytes:
    """The SHA-256 of a client key. The loader sees to it that there is one of the two."""
    if key is not None:
        return hashlib.sha256(key.reveal().encode()).digest()
    return bytes.fromhex(key_hash.removeprefix("sha256:")) if key_hash else b""


def derived_id(digest: bytes) -> str:
    """The id of a static key that has none: the same after every restart, also when `key` becomes `hash`, and no way
    back to the key."""
    return "key-" + hashlib.blake2s(digest, person=b"fluxenid", digest_size=5).hexdigest()


class StaticKey(Access):
    """Either `key` or `hash`."""

    model_config = ConfigDict(json_schema_extra=one_of("key", "hash"))

    key: Secret | None = Field(default=None, description="what the client sends as its API key; or else `hash`")
    hash: KeyHash | None = Field(
        default=None, description="sha256: and the 64 hexadecimal digits of its SHA-256, instead of `key`"
    )
    id: Label = Field(
        default_factory=lambda data: derived_id(_digest(data["key"], data["hash"])),
        description="the name in rows and reports; default: derived from the key, stable",
    )
    name: Title | None = Field(default=None, description="for people: whose key it is, or what for")
    team: Label | None = Field(default=None, description="written into each row of this key")
    project: Label | None = Field(default=None, description="written into each row of this key")
    tags: dict[Label, Label] | None = Field(default=None, max_length=32, description="name: value, into each row")
    expires: Moment | None = Field(
        default=None, description="until when it works: 2027-01-31 (its midnight, UTC) or 2027-01-31T18:00:00Z"
    )

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key: 32 bytes."""
        return _digest(self.key, self.hash)


class Claims(Section):
    """Which claim of a token says what; `a.b` is the claim b in the claim a."""

    user: Label = Field(default="sub", description="who calls: in rows, key_id is the issuer's id, '/' and this")
    team: Label | None = Field(default=None, description="the claim that names the team")
    project: Label | None = Field(default=None, description="the claim that names the project")
    tags: dict[Label, Label] | None = Field(default=None, max_length=32, description="name of a tag: its claim")
    upstreams: Label | None = Field(default=None, description="the claim that lists the upstreams it may use")
    models: Label | None = Field(default=None, description="the claim that lists the models (patterns) it may ask for")
    routes: Label | None = Field(default=None, description="the claim that lists the paths (patterns) it may call")


class JwtKey(Access):
    """Either `key` (HS256), or `jwks_file` or `jwks_url` (RS256, ES256)."""

    model_config = ConfigDict(json_schema_extra=one_of("key", "jwks_file", "jwks_url"))

    id: Label = Field(default="", description="the issuer's name in rows; with `key`, the `kid` of its tokens")
    key: SigningKey | None = Field(default=None, description="the shared secret (HS256), at least 32 bytes")
    jwks_file: FilePath | None = Field(default=None, description="JSON Web Key Set with the issuer's public keys")
    jwks_url: JwksUrl | None = Field(default=None, description="https URL of such a set; fetched again as it ages")
    issuer: Label | None = Field(default=None, description="what `iss` must be; required with jwks_file and jwks_url")
    audience: Label | None = Field(
        default=None, description="what `aud` must be or hold; required with jwks_file and jwks_url"
    )
    leeway_seconds: Annotated[StrictInt, Field(ge=0, le=300)] = Field(
        default=30, description="how far the clocks of issuer and gateway may differ, for `exp` and `nbf`"
    )
    team: Label | None = Field(default=None, description="written into each row, where no claim says it")
    project: Label | None = Field(default=None, description="written into each row, where no claim says it")
    tags: dict[Label, Label] | None = Field(default=None, max_length=32, description="name: value, into each row")
    claims: Claims = Claims()

    @property
    def secret(self) -> bytes | None:
        """The bytes of `key` as they are in its file or in the environment; of one written here, its UTF-8."""
        if self.key is None:
            return None
        if (self.key.reference or "").startswith("file:"):
            return self.key.reveal().encode("latin-1")  # as which it was read
        return self.key.reveal().encode(errors="surrogateescape")


class ApiKeys(Section):
    static: tuple[StaticKey, ...] = Field(default=(), json_schema_extra=or_null, description="keys written here")
    jwt: tuple[JwtKey, ...] = Field(default=(), json_schema_extra=or_null, description="issuers of signed tokens")

    @field_validator("static", "jwt", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return () if value is None else value
