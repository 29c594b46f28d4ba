"""The values a configuration is made of: secrets, addresses, sizes, mounts, URLs.

A secret may be written as it is, with `${NAME}` inside (an environment variable), or as `file:PATH` (relative to the
configuration's folder). Whatever a reference yields loses one trailing newline; any other byte that can't stand in a
header value (outside 0x21–0x7E) is an error that names the reference. No message ever quotes a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fluxen.config.paths import expand, read_file

SECRET_FILE_BYTES = 65_536  # a key is a line; a larger file is the wrong file

_REFERENCE = re.compile(r"\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE_VARIABLE = re.compile(r"\$[A-Z_][A-Z0-9_]+")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_MOUNT = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_RESERVED_MOUNTS = ("/v1", "/v1beta", "/-")
_LABEL_LENGTH = 63  # RFC 1035, 2.3.4: the length of a label has six bits
_KEY_HASH = re.compile(r"sha256:[0-9A-Fa-f]{64}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Sources:
    """What references are resolved against; the `context` of validation. files: where they lead to, for whoever wants
    to know when they change; filled as they are resolved, whether or not there is such a file."""

    env: Mapping[str, str]
    folder: Path
    files: set[Path] = field(default_factory=set)


class Secret:
    """A key or password. Shows itself only when asked by `reveal()`; `reference` says where it came from."""

    __slots__ = ("_value", "reference")

    def __init__(self, value: str, reference: str | None = None) -> None:
        self._value = value
        self.reference = reference

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.reference or 'masked'!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _secret, serialization=core_schema.plain_serializer_function_ser_schema(lambda _: "***")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "description": "text, ${ENVIRONMENT_VARIABLE} or file:PATH"}


class Address(NamedTuple):
    """Where to listen. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def problem(message: str) -> PydanticCustomError:
    """A message for the user. It must not quote a value that may be secret."""
    return PydanticCustomError("fluxen", "{message}", {"message": message})


def sendable(value: str) -> bool:
    """Whether every byte may stand in a header value without spaces: 0x21–0x7E."""
    return all("\x21" <= character <= "\x7e" for character in value)


def _secret(value: object, info: ValidationInfo) -> Secret:
    """A secret that travels in a header."""
    secret = _resolve(value, info)
    if secret.reference is not None and not sendable(secret.reveal()):
        raise problem(f"{secret.reference} holds a character that can't stand in a header: only 0x21 to 0x7E can")
    return secret


def _sendable_secret(secret: Secret) -> Secret:
    if not sendable(secret.reveal()):
        raise problem("holds a character that can't stand in a header: only 0x21 to 0x7E can")
    return secret


def _resolve(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise problem("expected text (quote it)")
    if not value:
        raise problem("is empty")
    if _BARE_VARIABLE.fullmatch(value):
        raise problem("an environment variable is written ${NAME}")
    sources = _sources(info)
    resolved = substitute(value, sources.env)
    reference: str | None = None
    if value.startswith("file:"):
        path = sources.folder / expand(resolved[5:])
        sources.files.add(path)
        reference, resolved = value, _read_secret_file(path, value)
    elif references := _REFERENCE.findall(value):
        reference = ", ".join(f"${{{name}}}" for name in references)
    if reference is None:
        return Secret(value)
    resolved = resolved.removesuffix("\n")
    if not resolved:
        raise problem(f"{reference} is empty")
    return Secret(resolved, reference)


def substitute(value: str, env: Mapping[str, str]) -> str:
    """`${NAME}` replaced by the environment's value; one that is missing or malformed is an error naming it."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if not match.group().endswith("}") or not _NAME.fullmatch(name):
            raise problem("'${' must be followed by a variable's name and '}'")
        if name not in env:
            raise problem(f"environment variable {name} is not set (export {name}=…)")
        return env[name]

    return _REFERENCE.sub(replace, value)


def _read_secret_file(path: Path, reference: str) -> str:
    try:
        raw = read_file(path, SECRET_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise problem(f"can't read {reference}: {reason}") from None
    if len(raw) > SECRET_FILE_BYTES:
        raise problem(f"{reference} is larger than {SECRET_FILE_BYTES} bytes")
    return raw.decode("latin-1")  # every byte stays visible to the check that follows


def _sources(info: ValidationInfo) -> Sources:
    return info.context if isinstance(info.context, Sources) else Sources({}, Path())


def _text(value: object, info: ValidationInfo) -> object:
    return substitute(value, _sources(info).env) if isinstance(value, str) else value


def _path(value: object, info: ValidationInfo) -> object:
    text = _text(value, info)
    if not isinstance(text, str) or not text or "\0" in text:
        raise problem("expected a path")
    sources = _sources(info)
    path = sources.folder / expand(text)
    sources.files.add(path)
    return path


def _key_hash(value: object) -> str:
    """Whoever writes the key itself here by mistake does not read it in the message."""
    if not isinstance(value, str) or not _KEY_HASH.fullmatch(value):
        raise problem("expected sha256: and the 64 hexadecimal digits of the key's SHA-256")
    return value.lower()


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise problem("expected a size such as 32MB, 256 MiB or 1048576")
    size = float(match.group(1)) * unit
    if not 1 <= size <= 2**50 or size != int(size):
        raise problem("expected a size of at least one whole byte")
    return int(size)


def parse_address(text: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:0` → Address; ValueError with what to write instead."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("expected host:port, such as 127.0.0.1:8080 (0.0.0.0:8080 for all IPv4 addresses)")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("the port must be a number from 0 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:8080")
    try:
        version: int = ipaddress.ip_address(host).version
    except ValueError:
        version = 0  # a name
    if bracketed != (version == 6) or (version == 0 and (not _HOST_NAME.fullmatch(host) or host[-1].isdigit())):
        raise ValueError("neither an IP address nor a host name")
    return Address(host, int(port))


def _address(value: object, info: ValidationInfo) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise problem('expected "host:port" in quotes')
    try:
        return parse_address(substitute(value, _sources(info).env))
    except ValueError as error:
        raise problem(str(error)) from None


def _mount(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise problem("expected a path that begins with '/'")
    mount = value.rstrip("/")
    reserved = next((name for name in _RESERVED_MOUNTS if (name + "/").startswith(mount + "/")), None)
    if not mount or reserved or mount.startswith("/-/"):
        raise problem(f"would hide Fluxen's own {reserved or '/-'} routes; choose another, such as /openai")
    if not _MOUNT.fullmatch(mount) or any(part in (".", "..") for part in mount.split("/")):
        raise problem("only letters, digits, '-', '.', '_' and '~' between single slashes")
    return mount


def _target_url(value: object, info: ValidationInfo) -> str:
    value = _text(value, info)
    if not isinstance(value, str):
        raise problem("expected a URL")
    if not sendable(value):
        raise problem("a URL holds no spaces, control or non-ASCII characters")
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise problem("not a URL: host or port is malformed") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise problem("expected http://host… or https://host…")
    labels = url.hostname.removesuffix(".").split(".")  # a dot at the end only says that the name is complete
    if "" in labels:
        raise problem("not a URL: the host has a dot too many")
    if ":" not in url.hostname and max(map(len, labels)) > _LABEL_LENGTH:
        raise problem(f"not a URL: between two dots a host has at most {_LABEL_LENGTH} characters")
    if url.username is not None or url.password is not None:
        raise problem("holds a user or password; put the credential in api_key")
    if "?" in value or "#" in value:
        raise problem("must not have a query or fragment")
    if port == 0:
        raise problem("port 0 can't be called")
    if any(part in (".", "..") for part in url.path.split("/")) or "//" in url.path or "%" in url.path:
        raise problem("its path must not hold '..', '//' or '%'")
    return value.rstrip("/")


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise problem('expected an address or network in quotes, such as "10.0.0.0/8"')
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        if "has host bits set" in str(error):
            meant = ipaddress.ip_network(value, strict=False)
            raise problem(f"the address has bits beyond the network's prefix: {meant} is meant?") from None
        raise problem("neither an IP address nor a network such as 10.0.0.0/8 or fd00::/8") from None


def parse_moment(text: str) -> datetime:
    """`2027-01-31` (its midnight, UTC) or an ISO 8601 time with its offset; ValueError with what to write instead."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a day such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z") from None
    if moment.tzinfo is None and not _DAY.fullmatch(text):
        raise ValueError("the time has no offset: end it with Z for UTC, such as 2027-01-31T18:00:00Z")
    try:
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise problem("expected a day such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z")
    try:
        return parse_moment(value)
    except ValueError as error:
        raise problem(str(error)) from None


def _route_pattern(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 256 or not sendable(value):
        raise problem("expected the beginning '/' of a path and '*' for any rest of it, such as /v1/chat/*")
    if "?" in value or "#" in value or "%" in value or "//" in value:
        raise problem("a path without query, '//' and '%': such requests are refused for restricted keys anyway")
    return value


def _jwks_url(value: object, info: ValidationInfo) -> str:
    """https, or http on this machine: whoever changes these keys on the way lets himself in."""
    value = _text(value, info)
    if not isinstance(value, str) or not sendable(value):
        raise problem("expected a URL")
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        raise problem("not a URL: host or port is malformed") from None
    local = url.hostname in ("localhost", "127.0.0.1", "::1")
    if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and local)):
        raise problem("expected https://host… (http only for this machine)")
    if url.username is not None or url.password is not None or "#" in value:
        raise problem("must not hold a user, a password or a fragment")
    return value


# A literal nobody can send is tolerated as a client's key (the loader warns), but never as one that goes upstream.
ProviderKey = Annotated[Secret, AfterValidator(_sendable_secret)]
SigningKey = Annotated[
    Secret, PlainValidator(_resolve), WithJsonSchema({"type": "string", "description": "the HS256 secret"})
]
KeyHash = Annotated[
    str, BeforeValidator(_key_hash), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9A-Fa-f]{64}$"})
]
Text = Annotated[str, BeforeValidator(_text)]
FilePath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string"})]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": ["integer", "string"], "examples": ["32MB"]})]
BindAddress = Annotated[
    Address, BeforeValidator(_address), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]})
]
Mount = Annotated[str, BeforeValidator(_mount), WithJsonSchema({"type": "string", "pattern": "^/."})]
TargetUrl = Annotated[str, BeforeValidator(_target_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "::1"]}),
]
Moment = Annotated[
    datetime, PlainValidator(_moment), WithJsonSchema({"type": "string", "examples": ["2027-01-31T18:00:00Z"]})
]
RoutePattern = Annotated[
    str, BeforeValidator(_route_pattern), WithJsonSchema({"type": "string", "pattern": "^/", "maxLength": 256})
]
JwksUrl = Annotated[str, BeforeValidator(_jwks_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
