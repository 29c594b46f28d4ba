"""Where a configuration says which keys of providers are used, for commands: also where they can't be read.

An administrator's shell has no provider keys, and the service's files are not his to read: to give the service a new
one must be possible all the same. So nothing here resolves a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from fluxen.config.document import MAX_BYTES, Document, Where, read_document
from fluxen.config.model import Upstreams
from fluxen.config.paths import expand, unreadable
from fluxen.config.values import substitute
from fluxen.errors import ConfigError
from fluxen.providers.catalogue import Provider, load_catalogue, provider_of_upstream


@dataclass(frozen=True, slots=True)
class Slot:
    """One key of a provider, as the configuration has it. name: of a credential; None: the upstream's api_key. where:
    file:line:column. written: how it is referred to, 'in the file' for a key that stands there itself, None for none.
    file: what holds it, where that is a file of its own."""

    upstream: str
    name: str | None
    where: str | None = None
    written: str | None = None
    file: Path | None = None


IN_THE_FILE = "in the file"


def provider_slots(path: Path | None, env: Mapping[str, str]) -> list[Slot]:
    """All of them, in the order of the file; without a file (or an upstream in it) those of the environment. Raises
    ConfigError when it is no YAML."""
    catalogue = load_catalogue()
    if path is not None:
        try:
            with path.open("rb") as file:
                document = read_document(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise unreadable(path, error) from error
        if document.value is None and document.problems:
            lines = tuple(problem.render(str(path)) for problem in document.problems)
            raise ConfigError(f"{path} can't be read, so its upstreams are not known", lines)
        top = document.value if isinstance(document.value, dict) else {}
        upstreams = top.get("upstreams")
        written = {
            str(name): fields if isinstance(fields, dict) else {}
            for name, fields in (upstreams.items() if isinstance(upstreams, dict) else ())
            if name not in Upstreams.model_fields
        }
        if written:
            found = _Found(path, document, env, catalogue)
            return [slot for name, fields in written.items() for slot in found.of(name, fields)]
    providers = dict.fromkeys(catalogue.values())
    return [
        Slot(provider.name, None, None, variable)
        for provider in providers
        if (variable := _variable(provider, env)) is not None
    ]


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    document: Document
    env: Mapping[str, str]
    catalogue: Mapping[str, Provider]

    def of(self, name: str, fields: Mapping[str, Any]) -> Iterator[Slot]:
        where: Where = ("upstreams", name)
        credentials = fields.get("credentials")
        if isinstance(credentials, list) and credentials:
            for index, one in enumerate(credentials):
                if isinstance(one, dict) and isinstance(one.get("name"), str):
                    yield self._slot(name, one["name"], one.get("api_key"), (*where, "credentials", index, "api_key"))
            return
        key = fields.get("api_key")
        if key is not None:
            yield self._slot(name, None, key, (*where, "api_key"))
            return
        target = fields.get("target_url")
        known = provider_of_upstream(name, None, self.catalogue) if target is None else None
        yield Slot(name, None, self._position(where), None if known is None else _variable(known, self.env))

    def _slot(self, upstream: str, name: str | None, key: object, where: Where) -> Slot:
        position = self._position(where)
        if not isinstance(key, str) or ("${" not in key and not key.startswith("file:")):
            return Slot(upstream, name, position, IN_THE_FILE)
        file = None
        if key.startswith("file:"):
            try:
                file = self.path.parent.absolute() / expand(substitute(key, self.env)[5:])
            except PydanticCustomError:
                pass  # its path has a variable that this shell doesn't know
        return Slot(upstream, name, position, key if file or key.startswith("file:") else _names(key), file)

    def _position(self, where: Where) -> str:
        mark = self.document.mark(where)
        return f"{self.path}:{mark.line}:{mark.column}" if mark else str(self.path)


def _names(written: str) -> str:
    """The references in it: what stands around them may be a part of a key."""
    return ", ".join(f"${{{part.partition('}')[0]}}}" for part in written.split("${")[1:])


def _variable(provider: Provider, env: Mapping[str, str]) -> str | None:
    return next((f"${name}" for name in provider.env if env.get(name, "").strip()), None)
