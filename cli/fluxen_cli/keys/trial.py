"""A new key of a provider is tried before anything is changed: the provider is asked for its list of models with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fluxen.config.load import load_config
from fluxen.config.model import Config
from fluxen.config.values import Secret
from fluxen.errors import ConfigError, FluxenError
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.upstreams import upstreams_of
from fluxen.keys.provider import Place
from fluxen.keys.slots import Slot
from fluxen.providers.catalogue import load_catalogue
from fluxen_cli.calls import connect, refuses, try_key

_UNTRIED = "take it untried with --no-check"


class Lenient(Mapping[str, str]):
    """An environment that has every variable. The key to be tried is at hand, and of the others none is sent."""

    ABSENT = "not-in-the-environment-of-this-shell"

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def __getitem__(self, name: str) -> str:
        return self._env.get(name, self.ABSENT)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


def tried(path: Path | None, slot: Slot, key: str, stored: Mapping[Place, Secret]) -> str:
    """What the provider says of the key, for people. Raises FluxenError when it refuses it, or nobody can tell."""
    config = _configuration(path)
    overlaid = {**stored, (slot.upstream, slot.name): Secret(key)}
    found, wrong = upstreams_of(config, load_catalogue(), os.environ, overlaid)
    upstream = next((one for one in found if one.name == slot.upstream), None)
    if upstream is None:
        reason = next((message for where, message in wrong if where[1:2] == (slot.upstream,)), "is not served")
        raise FluxenError(f"the key can't be tried: {slot.upstream} {reason}", hint=_UNTRIED)
    new = next(one for one in upstream.credentials if slot.name is None or one.name == slot.name)
    target = f"{upstream.origin.scheme}://{upstream.host.decode('ascii')}"
    reply = try_key(upstream, connect(upstream, Authorities(os.environ)), new)
    status = reply.status
    if status is None:
        raise FluxenError(f"{target} can't be reached: {reply.trouble}; nothing has changed", hint=_UNTRIED)
    if refuses(reply):
        raise FluxenError(f"{target} refuses this key ({status}): nothing has changed", hint="is it copied as a whole?")
    if 200 <= status < 300:
        return f"{target} accepts the key."
    if status in (404, 405, 429, 501):
        return f"{target} does not refuse the key ({status})."
    raise FluxenError(f"{target} answers {status}, which tells nothing of the key: nothing has changed", hint=_UNTRIED)


def _configuration(path: Path | None) -> Config:
    """Secrets that this shell does not have don't matter."""
    try:
        return load_config(path, os.environ).config
    except ConfigError:
        pass
    try:
        return load_config(path, Lenient(os.environ)).config
    except ConfigError as error:
        raise ConfigError(f"the key can't be tried: {error.message}", error.problems, _UNTRIED) from None
