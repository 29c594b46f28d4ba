"""The catalogue of known providers: `providers.yaml`, read once into values."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import yaml


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, as `providers.yaml` describes it (the fields are explained there)."""

    name: str
    dialect: str
    base_url: str | None
    also: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    version_segment: str = "/v1"
    native: tuple[str, ...] = ()
    credential_header: str = "authorization"
    credential_scheme: str = "Bearer "
    env: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    price_list: str | None = None
    price_lists: tuple[tuple[str, str], ...] = ()
    try_model: str | None = None
    _names: re.Pattern[str] = field(default=re.compile(r"(?!)"), repr=False, compare=False)

    def recognises(self, model: str) -> bool:
        """Whether a model of this name is this provider's, whoever else may exist."""
        return self._names.fullmatch(model) is not None


@functools.cache
def load_catalogue() -> Mapping[str, Provider]:
    """Every known provider by its name; an alias is a second key to the same provider."""
    source = resources.files(__package__).joinpath("providers.yaml").read_bytes()
    found: dict[str, Provider] = {}
    for name, row in yaml.load(source, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).items():
        provider = _provider(name, row)
        for key in (name, *provider.aliases):
            if key in found:
                raise ValueError(f"providers.yaml: {key} is named twice")
            found[key] = provider
    return MappingProxyType(found)


def provider_for_model(model: str, catalogue: Mapping[str, Provider]) -> str | None:
    """The one provider whose model this is by its name, or None: no provider, or more than one, could be meant.

    A fine-tuned or dated name counts; a router's `vendor/model` and an Ollama `model:tag` do not.
    """
    if "/" in model and not model.startswith("models/"):
        return None
    if ":" in model and not model.startswith("ft:"):
        return None
    found = None
    for provider in catalogue.values():
        if provider.models and provider.recognises(model):
            if found is not None and found != provider.name:
                return None
            found = provider.name
    return found


def provider_of_upstream(
    name: str, target_url: str | None, catalogue: Mapping[str, Provider], dialect: str | None = None
) -> Provider | None:
    """Whose prices and credentials an upstream has: the provider of its name, else the one at its address, else nobody.

    The name comes first because a known provider may be reached through a proxy of one's own. A host that isn't known
    under either is somebody's own server: the models it serves have no list price, whatever they are called. So is one
    whose `dialect` (what the configuration says of it) is not the provider's.
    """
    found = _provider_of(name, target_url, catalogue)
    return None if found is not None and dialect not in (None, found.dialect) else found


def _provider_of(name: str, target_url: str | None, catalogue: Mapping[str, Provider]) -> Provider | None:
    if name in catalogue:
        return catalogue[name]
    if target_url is None:
        return None
    target = urlsplit(target_url)
    for provider in catalogue.values():
        home = urlsplit(provider.base_url or "")
        if target.hostname == home.hostname and provider.price_list is not None and _within(target.path, home.path):
            return provider
    for provider in catalogue.values():
        if any(fnmatch.fnmatchcase(target.hostname or "", host) for host in provider.hosts):
            return provider
    return None


def _within(path: str, base: str) -> bool:
    return (path.rstrip("/") + "/").startswith(base.rstrip("/") + "/")


def _provider(name: str, row: dict[str, Any]) -> Provider:
    row.setdefault("price_list", name)
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    fields["price_lists"] = tuple(row.get("price_lists", {}).items())
    names = "|".join(fnmatch.translate(glob) for glob in fields.get("models", ())) or r"(?!)"
    return Provider(name=name, **fields, _names=re.compile(names))
