"""The configuration as pure data: frozen, every default in one place, every field with the sentence the docs print.

`docs/configuration.md` and `fluxen.example.yaml` name every field below; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StringConstraints, field_validator, model_validator

from fluxen.config.access import ApiKeys, Glob
from fluxen.config.prices import PriceEntry
from fluxen.config.section import NAME, Milliseconds, Section, no_default, or_null
from fluxen.config.values import Address, BindAddress, FilePath, Mount, Network, ProviderKey, Size, TargetUrl

DEFAULT_CONNECT_MS = 10_000
DEFAULT_FIRST_BYTE_MS = 600_000  # reasoning models think for minutes before their first byte
DEFAULT_IDLE_MS = 300_000


class Tls(Section):
    cert_file: FilePath = Field(description="PEM file: the server's certificate, then those between it and its root")
    key_file: FilePath = Field(description="PEM file: its private key, without a password")
    min_version: Literal["1.2", "1.3"] = Field(
        default="1.2",
        json_schema_extra={"enum": ["1.2", "1.3", 1.2, 1.3], "type": ["string", "number"]},
        description="the oldest version of TLS that is spoken",
    )

    @field_validator("min_version", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """YAML reads 1.2 as a number."""
        return str(value) if isinstance(value, float) else value


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
    head_timeout_ms: Milliseconds = Field(
        default=10_000, description="from the first byte of a request's head to its last; then 408"
    )
    body_timeout_ms: Milliseconds = Field(default=60_000, description="silence within a request's body; then 408")
    keep_alive_timeout_ms: Milliseconds = Field(
        default=75_000, description="how long a connection without a request stays open"
    )
    tls: Tls | None = Field(default=None, description="speak HTTPS instead of HTTP; a section, see below")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="addresses or networks of proxies whose X-Forwarded-For says who calls"
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


class Credential(Section):
    name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")] = Field(description="what rows and lists call it")
    api_key: ProviderKey = Field(description="the provider's key")


StreamUsage = Literal["exact", "as_sent"]


class Upstream(Section):
    request_path: Mount = Field(
        default="",
        json_schema_extra=no_default,
        description="the mount: requests under this path go here; default /NAME",
    )
    target_url: TargetUrl | None = Field(
        default=None, description="http(s) URL of the provider; not needed for a provider Fluxen knows by name"
    )
    api_key: ProviderKey | None = Field(
        default=None, description="the provider's key; without one the provider gets no credential from Fluxen"
    )
    credentials: Annotated[tuple[Credential, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="several keys instead of api_key: one that the provider refuses is parked, the next is used",
    )
    dialect: Literal["openai", "anthropic", "gemini", "bedrock", "cohere", "ollama"] | None = Field(
        default=None, description="the protocol it speaks; known for providers known by name, else openai"
    )
    models: tuple[Glob, ...] | None = Field(
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
    stream_usage: StreamUsage | None = Field(
        default=None, description="exact or as_sent, for this upstream alone; default: stream_usage of the top level"
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


class Admin(Section):
    bind_address: BindAddress = Field(description="host:port of Fluxen's own endpoints: metrics, state, reload")
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


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what is written at least; FLUXEN_LOG wins over this section"
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else one JSON object a line"
    )
    requests: StrictBool = Field(default=True, description="one line a request, at level info")


class Config(Section):
    """The whole file."""

    version: Literal[1] = Field(default=1, description="of this format")
    data_dir: FilePath = Field(
        default=Path(),
        json_schema_extra=no_default,
        description="ledger and other data; relative to the file; FLUXEN_DATA_DIR wins; default: $XDG_DATA_HOME/fluxen",
    )
    server: Server = Server()
    stream_usage: StreamUsage = Field(
        default="exact",
        description="streams of OpenAI's chat under /v1/…: exact has the provider report their usage, see streams.md",
    )
    upstreams: Upstreams = Upstreams()
    api_keys: ApiKeys | None = Field(
        default=None, description="who may call; with neither it nor a keys.json: open mode, loopback only"
    )
    prices: tuple[PriceEntry, ...] = Field(
        default=(),
        json_schema_extra=or_null,
        description="what models cost where the shipped price list is silent, or not what you pay; a list, see below",
    )
    admin: Admin | None = None
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()

    @field_validator("prices", mode="before")
    @classmethod
    def _no_prices(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _written_but_empty(cls, value: object) -> object:
        """`api_keys:` with nothing under it lets nobody in: deleting the last key must not open the gateway."""
        return {} if value is None else value
