"""Who calls: what a client key or a token stands for, and the index that client keys are found in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import msgspec

from fluxen.config.access import StaticKey


class ClientKey(msgspec.Struct, frozen=True, gc=False):
    """Who calls, as the ledger names them, and what they may use; None: everything. Holds no key.

    A Struct, not a dataclass, for there may be 100,000 of them: it is made, compared and pickled in half the time.
    """

    id: str
    team: str | None = None
    project: str | None = None
    tags: Mapping[str, str] | None = None
    upstreams: frozenset[str] | None = None
    """Names."""
    models: tuple[str, ...] | None = None
    """Patterns of model names."""
    routes: tuple[str, ...] | None = None
    """Patterns of request paths."""
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    """Where calls may come from."""
    until: float = math.inf
    """When it ends: seconds since 1970 UTC."""

    @property
    def restricts_body(self) -> bool:
        """Whether what a request's body says decides if it may pass."""
        return self.models is not None


OPEN: Final = ClientKey("")
"""Whoever calls in open mode, if nobody says who that is."""


def client_of(key: StaticKey) -> ClientKey:
    """What a key of the configuration stands for."""
    return ClientKey(
        key.id, key.team, key.project, key.tags, None if key.upstreams is None else frozenset(key.upstreams),
        key.models, key.routes, key.networks, math.inf if key.expires is None else key.expires.timestamp(),
    )  # fmt: skip


class KeyIndex:
    """Client keys by their SHA-256; no key is kept. Several may stand for one client: while a rotation's overlap lasts,
    the key it had before is one more, with an end. How long a look-up takes tells nothing of how near a guess was: the
    bytes of two digests are compared only when their 64-bit hashes, salted by the process, are the same."""

    __slots__ = ("_clients",)

    def __init__(self, clients: dict[bytes, ClientKey]) -> None:
        """clients by the SHA-256 of their keys: 32 bytes. Not to be changed afterwards."""
        self._clients = clients

    def __len__(self) -> int:
        """How many clients; one with a former key that still works is one."""
        return len({client.id for client in self._clients.values()})

    def find(self, presented: bytes) -> ClientKey | None:
        """The client whose key this is. Whether the key still works (`until`) is for the caller to judge."""
        return self._clients.get(hashlib.sha256(presented).digest())

    def differences(self, newer: KeyIndex) -> tuple[Collection[bytes], Mapping[bytes, ClientKey]]:
        """What makes `newer` of this one: digests that are gone, clients that are new or changed."""
        gone = self._clients.keys() - newer._clients.keys()
        mine = self._clients
        changed = {
            digest: client
            for digest, client in newer._clients.items()
            if (old := mine.get(digest)) is not client and old != client
        }
        return gone, changed

    def changed(self, gone: Collection[bytes], changed: Mapping[bytes, ClientKey]) -> KeyIndex:
        """A new index; this one stays as it is, for the requests that began with it."""
        clients = {**self._clients, **changed}
        for digest in gone:
            clients.pop(digest, None)
        return KeyIndex(clients)
