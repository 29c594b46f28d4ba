"""Which keys.json a command means, and what the gateways that serve from its folder make of a change."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.places import data_folder

if TYPE_CHECKING:
    from fluxen.gateway.state import State
    from fluxen.keys.store import KeyStore
    from fluxen.keys.stored import Stored
    from fluxen.keys.written import Written, WrittenKey

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `fluxen keys list` shows it.")]

_PATIENCE = 10.0
"""Seconds to wait for a running gateway, which needs less than one."""
_LOOK_AGAIN = 0.02


class Place:
    """The keys of one data folder, and those of the configuration that goes with it."""

    def __init__(self, data_dir: Path | None, config: Path | None) -> None:
        from fluxen.config.paths import find_config
        from fluxen.keys.store import KeyStore

        self.config = find_config(config, os.environ)
        self.folder = data_folder(data_dir, config)
        self.store: KeyStore = KeyStore(self.folder)

    @cached_property
    def written(self) -> Written:
        """Raises ConfigError when the configuration can't be read at all."""
        from fluxen.keys.written import written_keys

        return written_keys(self.config, os.environ)

    def written_key(self, key_id: str, stored: Stored | None) -> WrittenKey | None:
        """What the configuration says of an id that keys.json has not. Only then is the file looked at: to revoke a
        key of keys.json is possible whatever state the file is in."""
        if stored is not None and key_id in stored.ids:
            return None
        return self.written.keys.get(key_id)

    def unknown(self, key_id: str, stored: Stored | None) -> FluxenError:
        """That there is no such key, with the nearest there is."""
        ids = [*(stored.ids if stored else ()), *self.written.keys]
        nearest = difflib.get_close_matches(key_id, ids, n=1)
        places = [str(self.store.path), *([str(self.config)] if self.config else [])]
        hint = f"did you mean '{nearest[0]}'?" if nearest else "fluxen keys list --all shows all there are"
        return FluxenError(f"there is no key '{key_id}' in {' and '.join(places)}", hint=hint)

    def check_upstreams(self, names: Iterable[str]) -> list[str]:
        """What is wrong with the upstreams that a key is to be for: nothing could be called with it."""
        from fluxen.providers.catalogue import load_catalogue

        known = self.written.upstreams or tuple(provider.name for provider in load_catalogue().values())
        problems = []
        for name in names:
            if name not in known:
                nearest = difflib.get_close_matches(name.lower(), known, n=1)
                meant = f" (did you mean '{nearest[0]}'?)" if nearest else ""
                problems.append(f"there is no upstream '{name}'{meant}")
        return problems


@dataclass(frozen=True, slots=True)
class Obeyed:
    """A gateway that serves from the folder: whether it has taken up what is on disk now; else why not."""

    pid: int
    obeys: bool
    problem: str | None = None


class Gateways:
    """Made before a change, so that it can tell afterwards which gateways have seen it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = {state.pid: state for state in self._running()}

    def obeyed(self) -> list[Obeyed]:
        """Ask them to look at once, and wait until all of them have taken up the change or said why they can't."""
        for pid in self._before:
            with contextlib.suppress(PermissionError, ProcessLookupError):  # another's sees the file change by itself
                os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + _PATIENCE
        while True:
            states = [state for state in self._running() if state.pid in self._before]
            waiting = [state.pid for state in states if not self._settled(state)]
            if not waiting or time.monotonic() > deadline:
                return [self._outcome(state, waiting) for state in states]
            time.sleep(_LOOK_AGAIN)

    def tell(self) -> list[dict[str, object]]:
        """Wait, and warn of those that do not obey; all as JSON. Ctrl-C ends the waiting: the change is made."""
        try:
            found = self.obeyed()
        except KeyboardInterrupt:
            return []
        for one in found:
            if one.problem is not None:
                output.note(f"warning: the gateway with PID {one.pid} {output.visible(one.problem)}")
        return [{"pid": one.pid, "obeys": one.obeys, "problem": one.problem} for one in found]

    def _running(self) -> list[State]:
        from fluxen.gateway.state import running

        try:
            return running(self._folder)
        except OSError:
            return []  # somebody else's folder: the change itself will say so

    def _settled(self, state: State) -> bool:
        before = self._before[state.pid]
        if state.generation > before.generation:
            return state.applied >= state.workers
        return state.attempts > before.attempts and (state.rejected or state.applied >= state.workers)

    def _outcome(self, state: State, waiting: list[int]) -> Obeyed:
        if state.pid in waiting:
            return Obeyed(state.pid, False, "has not taken it up yet: fluxen reload asks it to")
        if not state.rejected:
            return Obeyed(state.pid, True)
        why = f": {state.problems[0]}" if state.problems else ""
        if state.generation > self._before[state.pid].generation:  # keys count even then
            return Obeyed(state.pid, True, f"obeys this, but nothing else that has changed, for it can't be used{why}")
        return Obeyed(state.pid, False, f"goes on with what it had, for what is on disk can't be used{why}")


def obeyed_note(gateways: list[dict[str, object]]) -> str:
    """When the change applies."""
    if gateways:
        return "The running gateway obeys it." if all(one["obeys"] for one in gateways) else ""
    return "No gateway of this machine serves from this folder; one of another machine obeys within a second."
