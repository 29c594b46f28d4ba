"""One entry of keys.json: a client key by its hash, the keys it replaced a while ago, and how it ended.

    {"id": "ci", "hash": "sha256:…", "created": "2026-11-22T20:00:00Z", "team": "red",
     "expires": "2027-01-31T00:00:00Z",
     "previous": [{"hash": "sha256:…", "until": "2026-11-23T20:00:00Z"}], "revoked": "2026-12-01T09:00:00Z"}

Its other fields are those of a key in the configuration (`fluxen.config.access.StaticKey`) and mean the same. A revoked
key stays as a tombstone: its id replaces that of the configuration, and nobody gets in by any of its hashes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from fluxen.config.access import StaticKey
from fluxen.config.values import parse_moment

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""Ids, names, teams, tags: counted while they are decoded, what they are made of is for fluxen.keys.stored."""


class Previous(msgspec.Struct, frozen=True, gc=False):
    """A key that was replaced; until when it still works."""

    hash: str
    until: str


class StoredKey(msgspec.Struct, frozen=True, gc=False):
    """What an entry says. Fields that this version does not know are left out here and stay in the file."""

    id: Text
    hash: str
    created: str | None = None
    name: Text | None = None
    team: Text | None = None
    project: Text | None = None
    tags: Annotated[dict[Text, Text], msgspec.Meta(max_length=32)] | None = None
    upstreams: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expires: str | None = None
    previous: tuple[Previous, ...] = ()
    revoked: str | None = None

    @property
    def ends(self) -> datetime | None:
        """When it stops working by itself."""
        return None if self.expires is None else parse_moment(self.expires)

    @property
    def made(self) -> datetime | None:
        """When it was created, if that is known."""
        try:
            return None if self.created is None else parse_moment(self.created)
        except ValueError:
            return None  # of an older file, where nobody read it

    def open_until(self, now: datetime) -> datetime | None:
        """Until when a key that this one replaced still works; None: none does."""
        ends = [until for one in self.previous if (until := self.until_of(one)) > now]
        return max(ends) if ends and self.revoked is None else None

    def until_of(self, former: Previous) -> datetime:
        """Until when one of the previous keys works: never longer than this one."""
        until = parse_moment(former.until)
        return until if self.ends is None else min(until, self.ends)


def moment(at: datetime) -> str:
    """As times stand in keys.json: 2026-11-22T20:00:00Z. A part of a second is left out."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def entry_of(key: StaticKey, created: datetime | None) -> dict[str, Any]:
    """A key of the configuration, or one that is about to be made, as an entry: all that it may and how it is called,
    its key as a hash. created: None when nobody knows."""
    entry: dict[str, Any] = {"id": key.id, "hash": f"sha256:{key.digest.hex()}"}
    if created is not None:
        entry["created"] = moment(created)
    for name in ("name", "team", "project", "tags", "upstreams", "models", "routes"):
        if (value := getattr(key, name)) is not None:
            entry[name] = value
    if key.networks is not None:
        entry["networks"] = [str(network) for network in key.networks]
    if key.expires is not None:
        entry["expires"] = moment(key.expires)
    return entry
