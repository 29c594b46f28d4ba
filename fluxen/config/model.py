"""The configuration as pure data: frozen, every default in one place, every field with the sentence the docs print.

`docs/configuration.md` and `fluxen.example.yaml` name every field below; a test compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from fluxen.config.values import (
    Address,
    BindAddress,
    FilePath,
    KeyHash,
    Mount,
    ProviderKey,
    Secret,
    SigningKey,
    Size,
    TargetUrl,
    problem,
)

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

DEFAULT_CONNECT_MS = 10_000
DEFAULT_FIRST_BYTE_MS = 600_000  # reasoning models think for minutes before their first byte
DEFAULT_IDLE_MS = 300_000

Milliseconds = Annotated[StrictInt, Field(ge=1, le=86_400_000)]


def _label(value: object) -> object:
    """Ids, teams, projects and tags: they go into rows and perhaps headers. A number is fine; it becomes text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not (0 < len(value) <= 256 and all("\x20" <= c <= "\x7e" for c in value)):
        raise problem("expected 1 to 256 printable ASCII characters")
    return value


Label = Annotated[str, BeforeValidator(_label)]


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Section(BaseModel):
    """One mapping of the file. Unknown fields are errors; an empty section (`server:`) means its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return {} if value is None else value


class Server(Section):
    bind_address: BindAddress = Field(
        default=Address("127.0.0.1", 8080),
        description="host:port to listen on; IPv6 as [::1]:8080; port 0: any free one",
    )
    max_connections: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(
        default=1024, description="client connections open at once, over all workers; more are answered 503"
    )
    workers: Annotated[StrictInt, Field(ge=1, le=256)] = Field(default=1, description="processes that serve requests")
    max_body: Size = Field(default=32_000_000, description="largest JSON request body; larger ones are answered 413")
    body_memory: Size = Field(
        default=256_000_000, description="memory for request bodies held at once, per worker; no room is answered 503"
    )
    shutdown_timeout_ms: Milliseconds = Field(
        default=30_000, description="how long running requests may take to finish after SIGTERM"
    )

    @property
    def host(self) -> str:
        return self.bind_address.host

    @property
    def port(self) -> int:
        return self.bind_address.port


class Timeouts(NamedTuple):
    """Seconds."""

    connect: float
    first_byte: float
    idle: float


class Upstream(Section):
    request_path: Mount = Field(
        default="",
        json_schema_extra=_no_default,
        description="the mount: requests under this path go here; default /NAME",
    )
    target_url: TargetUrl | None = Field(
        default=None, description="http(s) URL of the provider; not needed for a provider Fluxen knows by name"
    )
    api_key: ProviderKey | None = Field(
        default=None, description="the provider's key; without one the provider gets no credential from Fluxen"
    )
    dialect: Literal["openai", "anthropic", "gemini"] | None = Field(
        default=None, description="the protocol it speaks; known for providers known by name, else openai"
    )
    models: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] | None = Field(
        default=None, description="patterns ('gpt-*') of model names that unified routes send here"
    )
    request_timeout_ms: Milliseconds | None = Field(
        default=None, description="limit for the wait for the response head, then for each silence between bytes"
    )
    connect_timeout_ms: Milliseconds | None = Field(default=None, description="limit for connecting; default 10000")
    first_byte_timeout_ms: Milliseconds | None = Field(
        default=None, description="limit for the response head alone; default request_timeout_ms, else 600000"
    )
    idle_timeout_ms: Milliseconds | None = Field(
        default=None, description="limit for a silence between bytes alone; default request_timeout_ms, else 300000"
    )
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of certificate authorities to trust instead of the system's"
    )


class Upstreams(Section):
    """The providers by name; `request_timeout_ms` stands among them, so it can't be a provider's name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Upstream] = Field(init=False)

    request_timeout_ms: Milliseconds | None = Field(
        default=None, description="request_timeout_ms of every upstream that has none of its own"
    )

    @model_validator(mode="before")
    @classmethod
    def _mounts(cls, value: object) -> object:
        """`openai:` alone is an upstream, and its mount is /openai."""
        if not isinstance(value, Mapping):
            return value
        result: dict[str, object] = {}
        for name, fields in value.items():
            if name not in cls.model_fields and (fields is None or isinstance(fields, Mapping)):
                fields = {"request_path": f"/{name}", **(fields or {})}
            result[name] = fields
        return result

    @property
    def by_name(self) -> Mapping[str, Upstream]:
        """In the order of the file."""
        return self.__pydantic_extra__

    def timeouts(self, upstream: Upstream) -> Timeouts:
        both = upstream.request_timeout_ms or self.request_timeout_ms
        return Timeouts(
            (upstream.connect_timeout_ms or DEFAULT_CONNECT_MS) / 1000,
            (upstream.first_byte_timeout_ms or both or DEFAULT_FIRST_BYTE_MS) / 1000,
            (upstream.idle_timeout_ms or both or DEFAULT_IDLE_MS) / 1000,
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


class StaticKey(Section):
    """Either `key` or `hash`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["key"]}, {"required": ["hash"]}]})

    key: Secret | None = Field(default=None, description="what the client sends as its API key; or else `hash`")
    hash: KeyHash | None = Field(
        default=None, description="sha256: and the 64 hexadecimal digits of its SHA-256, instead of `key`"
    )
    id: Label = Field(
        default_factory=lambda data: derived_id(_digest(data["key"], data["hash"])),
        description="the name in rows and reports; default: derived from the key, stable",
    )
    upstreams: tuple[str, ...] | None = Field(default=None, description="names of upstreams it may use; default: all")
    team: Label | None = Field(default=None, description="written into each row of this key")
    project: Label | None = Field(default=None, description="written into each row of this key")
    tags: dict[Label, Label] | None = Field(default=None, max_length=32, description="name: value, into each row")

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key: 32 bytes."""
        return _digest(self.key, self.hash)


class JwtKey(Section):
    id: Label = Field(default="", description="the name of the issuer")
    key: SigningKey = Field(description="the shared secret (HS256), at least 32 bytes")


class ApiKeys(Section):
    static: tuple[StaticKey, ...] = Field(default=(), description="keys written here")
    jwt: tuple[JwtKey, ...] = Field(default=(), description="issuers of signed tokens (not served yet)")

    @field_validator("static", "jwt", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return () if value is None else value


class Admin(Section):
    bind_address: BindAddress = Field(description="host:port of metrics, dashboard and api (not served yet)")
    key: ProviderKey | None = Field(default=None, description="what opens it; without one: this machine only")


class LedgerSettings(Section):
    retention_days: Annotated[StrictInt, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="rows older than this many days are deleted, by whole days; default: kept for ever"
    )
    grace_seconds: Annotated[StrictInt, Field(ge=0, le=2_592_000)] = Field(
        default=3600, description="how long replaced Parquet files stay for readers that still hold the old list"
    )
    on_failure: Literal["serve", "refuse"] = Field(
        default="serve", description="when a row can't be written (disk full): serve and count, or answer 503"
    )
    segment_seconds: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=10, description="age at which a journal segment is sealed for the compactor"
    )
    compact_seconds: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=5, description="pause between two looks for sealed segments"
    )


class Config(Section):
    """The whole file."""

    version: Literal[1] = Field(default=1, description="of this format")
    data_dir: FilePath = Field(
        default=Path(),
        json_schema_extra=_no_default,
        description="ledger and other data; relative to the file; FLUXEN_DATA_DIR wins; default: $XDG_DATA_HOME/fluxen",
    )
    server: Server = Server()
    upstreams: Upstreams = Upstreams()
    api_keys: ApiKeys | None = Field(
        default=None, description="who may call; with neither it nor a keys.json: open mode, loopback only"
    )
    admin: Admin | None = None
    ledger: LedgerSettings = LedgerSettings()

    @field_validator("api_keys", mode="before")
    @classmethod
    def _written_but_empty(cls, value: object) -> object:
        """`api_keys:` with nothing under it lets nobody in: deleting the last key must not open the gateway."""
        return {} if value is None else value
