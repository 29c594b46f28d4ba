"""What the supervisor says to its workers, and what becomes of a snapshot by it.

A reload sends what a Snapshot is made of, as plain data, and of the client keys only those that changed: a hundred
thousand of them need not go through a socket because one was revoked. Whatever takes files was read by the supervisor;
its bytes are in here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fluxen.config.model import Config
from fluxen.gateway.bindings import DoorPlan
from fluxen.gateway.routes import Upstream
from fluxen.gateway.snapshot import Snapshot, assemble
from fluxen.keys.client import ClientKey, KeyIndex
from fluxen.providers.dialect import dialects
from fluxen.telemetry.settings import Settings


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificate that the gateway shows, and its key: what is in the two files."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Chain(masked)"


Differences = tuple[Collection[bytes], Mapping[bytes, ClientKey]]
"""Digests of client keys that are no more, and client keys that are new or mean something else."""


def differences(old: Snapshot, new: Snapshot) -> Differences:
    if new.keys is None:
        return (), {}
    gone, changed = (old.keys or KeyIndex({})).differences(new.keys)
    return frozenset(gone), changed


@dataclass(frozen=True, slots=True)
class Update:
    """From one generation of the configuration to the next. Messages come in order, so each follows the one before."""

    generation: int
    config: Config
    upstreams: tuple[Upstream, ...]
    keyed: bool
    """False: open mode."""
    keys: Differences
    key_sets: Mapping[str, bytes]
    """The documents with the public keys of those who sign tokens."""
    log: Settings
    stores: Mapping[str | None, bytes]
    """Certificate authorities that are new or have changed, by ca_file; None: the system's."""
    chain: Chain | None
    """The gateway's own certificate, where it speaks TLS."""
    price_file: bytes | None
    """The price book of the data folder, if it is another than before."""
    same_prices: bool
    doors: tuple[DoorPlan, ...]
    """All there are to be. The sockets of those that the worker does not have come with the message."""

    def applied(self, old: Snapshot) -> Snapshot:
        """The snapshot that this makes of the one before."""
        keys = None
        if self.keyed:
            keys = old.keys or KeyIndex({})
            if any(self.keys):
                keys = keys.changed(*self.keys)
        known = dialects()  # of which there is one each: what came through the socket is another
        upstreams = tuple(replace(upstream, dialect=known[upstream.dialect.name]) for upstream in self.upstreams)
        return assemble(
            self.config,
            upstreams,
            keys,
            key_sets=self.key_sets,
            everyone=old.everyone,
            price_file=old.price_file if self.same_prices else self.price_file,
            before=old,
        )


@dataclass(frozen=True, slots=True)
class Doors:
    """The doors alone: one of them is given up."""

    plans: tuple[DoorPlan, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the file on disk is what is in force, or was rejected."""

    rejected: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to what a worker asked (Follower.ask)."""

    number: int
    answer: Any
