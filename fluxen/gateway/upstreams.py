"""From the configuration to the upstreams: what each section and the catalogue of providers say together."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from fluxen.config import model as schema
from fluxen.config.document import Where
from fluxen.config.values import Secret
from fluxen.errors import ConfigError
from fluxen.gateway.certificates import Trust, client_context
from fluxen.gateway.credentials import Credential
from fluxen.gateway.pool import Origin
from fluxen.gateway.routes import HOME, USUAL, Upstream
from fluxen.gateway.timers import ticks
from fluxen.keys.provider import NAME, Place
from fluxen.providers.catalogue import Provider, provider_of_upstream
from fluxen.providers.dialect import dialects

NONE_STORED: Final[Mapping[Place, Secret]] = {}
_PORTS: Final = {"http": 80, "https": 443}


def upstreams_of(
    config: schema.Config,
    catalogue: Mapping[str, Provider],
    env: Mapping[str, str],
    stored: Mapping[Place, Secret] = NONE_STORED,
) -> tuple[list[Upstream], list[tuple[Where, str]]]:
    """The upstreams, in the order of the file, and what is wrong with others: where, and a message. stored: keys that
    stand in for those of the file."""
    upstreams: list[Upstream] = []
    problems: list[tuple[Where, str]] = []
    for name, section in _sections(config, catalogue, env, stored).items():
        try:
            upstreams.append(_upstream(config, name, section, catalogue, env, stored))
        except ConfigError as error:
            problems.append((("upstreams", name), error.message))
    return upstreams, problems


def stand_ins(
    config: schema.Config, upstreams: Sequence[Upstream], stored: Mapping[Place, Secret]
) -> Iterator[tuple[Where, str]]:
    """What to say of stored keys: which of the file's are not in use because of them, and which are for nothing."""
    known = {upstream.name for upstream in upstreams}
    for name, credential in stored:
        where: Where = ("upstreams", name)
        section = config.upstreams.by_name.get(name, schema.Upstream())
        names = [one.name for one in section.credentials or ()]
        if name not in known:
            yield ("upstreams",), f"{NAME} has a key for '{name}', and there is no such upstream"
        elif credential in names:
            yield (*where, "credentials", names.index(credential), "api_key"), f"the key in {NAME} is used instead"
        elif credential is not None or names:
            for_what = "its api_key" if credential is None else f"its credential '{credential}'"
            yield where, f"{NAME} has a key for {for_what}, and there is none: it is not used"
        elif section.api_key is not None:
            yield (*where, "api_key"), f"the key in {NAME} is used instead"


def behind_proxy(upstreams: Sequence[Upstream], env: Mapping[str, str]) -> str | None:
    """What to say if the environment asks for a proxy on the way to one of them."""
    proxied = [upstream for upstream in upstreams if _behind_proxy(upstream.origin, env)]
    if not proxied:
        return None
    hosts = ",".join(sorted({upstream.origin.host for upstream in proxied}))
    return (
        f"{proxied[0].origin.scheme.upper()}_PROXY is set, and Fluxen can't reach an upstream through a proxy: "
        f"unset it, or add to NO_PROXY: {hosts}"
    )


def _sections(
    config: schema.Config, catalogue: Mapping[str, Provider], env: Mapping[str, str], stored: Mapping[Place, Secret]
) -> Mapping[str, schema.Upstream]:
    """The upstreams of the file; without any, the usual providers and those whose key is in the environment, or
    stored."""
    if config.upstreams.by_name:
        return config.upstreams.by_name
    addressed = [provider for provider in dict.fromkeys(catalogue.values()) if provider.base_url is not None]
    names = [*USUAL]
    names += [provider.name for provider in addressed if any(env.get(n) for n in provider.env)]
    names += [
        name for name, credential in stored if credential is None and name in catalogue and catalogue[name].base_url
    ]
    return {name: schema.Upstream(request_path=f"/{name}") for name in dict.fromkeys(names)}


def _upstream(
    config: schema.Config,
    name: str,
    section: schema.Upstream,
    catalogue: Mapping[str, Provider],
    env: Mapping[str, str],
    stored: Mapping[Place, Secret],
) -> Upstream:
    known = provider_of_upstream(name, section.target_url, catalogue)
    target = section.target_url or (known.base_url if known else None)
    if target is None and known is not None:
        raise ConfigError(f"every {known.name} account has an address of its own: it needs a target_url")
    if target is None:
        near = difflib.get_close_matches(name.lower(), catalogue, n=1)
        meant = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(f"is not a provider Fluxen knows{meant}: it needs a target_url")
    known = provider_of_upstream(name, section.target_url, catalogue, section.dialect)
    dialect = dialects()[section.dialect or (known.dialect if known else "openai")]
    like = known or catalogue[HOME[dialect.name]]
    parts = urlsplit(target)
    port = parts.port or _PORTS[parts.scheme]
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    if section.ca_file is not None:
        client_context(Trust(str(section.ca_file), None, "ca_file"))  # only for what is wrong with it
    limits = config.upstreams.timeouts(section)
    return Upstream(
        name=name,
        provider=known.name if known else "",
        dialect=dialect,
        also=known.also if known else (),
        price_lists=tuple((path.encode("ascii"), name) for path, name in known.price_lists) if known else (),
        origin=Origin(parts.scheme, host, port, str(section.ca_file) if section.ca_file else None),
        host=(shown if port == _PORTS[parts.scheme] else f"{shown}:{port}").encode("ascii"),
        base=parts.path.rstrip("/").encode("ascii"),
        version=like.version_segment.encode("ascii"),
        native=tuple(path.encode("ascii") for path in like.native),
        repairs=dialect.name == "openai" and (known is not None or section.dialect is not None),
        mount=section.request_path.encode("ascii"),
        credential_header=like.credential_header.encode("ascii"),
        credentials=tuple(
            Credential(called, f"{like.credential_scheme}{key}".encode("latin-1"))
            for called, key in _keys(name, section, known, env, stored)
        ),
        models=_globs(section.models),
        connect_seconds=limits.connect,
        first_byte_ticks=ticks(limits.first_byte),
        idle_ticks=ticks(limits.idle),
        exact=(section.stream_usage or config.stream_usage) == "exact",
    )


def _keys(
    name: str,
    section: schema.Upstream,
    known: Provider | None,
    env: Mapping[str, str],
    stored: Mapping[Place, Secret],
) -> list[tuple[str, str]]:
    """The provider's keys, each behind what to call it in rows: never the key itself."""
    if section.credentials:
        return [(one.name, stored.get((name, one.name), one.api_key).reveal()) for one in section.credentials]
    if (kept := stored.get((name, None))) is not None:
        return [(kept.reference or name, kept.reveal())]
    if section.api_key is not None:
        return [(section.api_key.reference or name, section.api_key.reveal())]
    if known is not None and section.target_url is None:
        for variable in known.env:
            if value := env.get(variable, "").strip():
                if not all("\x21" <= character <= "\x7e" for character in value):
                    raise ConfigError(f"the key in ${variable} holds a character that can't stand in a header")
                return [(f"${variable}", value)]
    return []


def _globs(models: Sequence[str] | None) -> re.Pattern[str] | None:
    return None if models is None else re.compile("|".join(fnmatch.translate(glob) for glob in models))


def _behind_proxy(origin: Origin, env: Mapping[str, str]) -> bool:
    """Whether the environment asks for a proxy on the way to this origin, and NO_PROXY does not exempt it."""
    low = {name.lower(): value for name, value in env.items() if name.lower().endswith("_proxy")}
    if not (low.get(f"{origin.scheme}_proxy") or low.get("all_proxy")):
        return False
    for entry in low.get("no_proxy", "").lower().split(","):
        exempt = entry.strip().removeprefix("*").removeprefix(".")
        if entry.strip() == "*" or exempt in (origin.host, f"{origin.host}:{origin.port}"):
            return False
        if exempt and origin.host.endswith(f".{exempt}"):
            return False
    return True
