"""How a client key gets its successor, and how it ends.

Both work on a key of keys.json and on one of the configuration: that becomes an entry of keys.json with all that the
file says of it, and replaces it from then on.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal

from fluxen.errors import FluxenError
from fluxen.keys.draft import Draft
from fluxen.keys.entry import StoredKey, entry_of, moment
from fluxen.keys.generate import hash_of, new_key
from fluxen.keys.lifetime import DAY
from fluxen.keys.written import WrittenKey

OVERLAP: Final = DAY
"""How long the former key goes on working unless somebody says otherwise: time to bring the new one everywhere."""


class _Keep(Enum):
    END = "the end stays as it is"


KEEP: Final = _Keep.END


@dataclass(frozen=True, slots=True)
class Rotated:
    """key: the successor, the only time it is seen. former_until: None when the former key ended at once."""

    key: str
    entry: StoredKey
    former_until: datetime | None


def rotate(
    draft: Draft,
    key_id: str,
    written: WrittenKey | None,
    now: datetime,
    overlap: timedelta = OVERLAP,
    expires: datetime | Literal[_Keep.END] | None = KEEP,
) -> Rotated:
    """Replace the key of this id. The former one works until the overlap ends, and so does, at most, any key before.

    written: what the configuration says of the id. expires: the end of the successor, None for none. Raises
    FluxenError when there is no such key, it was revoked, or its successor would have ended already.
    """
    entry = _entry(draft, key_id, written)
    if entry.revoked is not None:
        raise FluxenError(
            f"the key '{key_id}' was revoked {entry.revoked}",
            hint="the id of a revoked key is never used again: create one with another id",
        )
    end = entry.ends if expires is KEEP else expires
    if end is not None and end <= now:
        raise FluxenError(
            f"the key '{key_id}' ended {moment(end)}, and so would its successor",
            hint="say until when that one is to work: --expires 90d, or --expires never",
        )
    key, until = new_key(), now + overlap
    unknown = written is not None and written.unread is not None and key_id not in draft.before.ids
    if overlap and written is not None and unknown:
        raise FluxenError(
            f"{written.where}: {written.unread}, so the key '{key_id}' can't go on working beside its successor",
            hint="set what it needs, or end it at once: --overlap 0",
        )
    # What has ended is remembered as long as the configuration may hold it: under another id it would work again.
    stays = None if written is None or written.unread is not None else entry_of(written.key, None).get("hash")
    former = [] if unknown or not (overlap or entry.hash == stays) else [{"hash": entry.hash, "until": moment(until)}]
    for one in entry.previous:
        if ((ends := entry.until_of(one)) > now and overlap) or one.hash == stays:
            former.append({"hash": one.hash, "until": moment(min(ends, until))})
    changes: dict[str, Any] = {
        "hash": hash_of(key),
        "created": moment(now),
        "previous": former or None,
        "expires": None if end is None else moment(end),
    }
    return Rotated(key, _change(draft, key_id, written, changes), until if overlap else None)


def revoke(draft: Draft, key_id: str, written: WrittenKey | None, now: datetime) -> StoredKey | None:
    """End the key of this id and those before it, for ever. None: it was revoked already. Raises FluxenError when
    there is no such key."""
    if _entry(draft, key_id, written).revoked is not None:
        return None
    return _change(draft, key_id, written, {"revoked": moment(now)})


def _entry(draft: Draft, key_id: str, written: WrittenKey | None) -> StoredKey:
    if (found := draft.before.ids.get(key_id)) is not None:
        return found
    if written is None:
        raise FluxenError(f"there is no key '{key_id}'", hint="fluxen keys list --all shows all there are")
    return Draft().add(_first_entry(written))


def _change(draft: Draft, key_id: str, written: WrittenKey | None, changes: dict[str, Any]) -> StoredKey:
    if key_id in draft.before.ids or written is None:
        return draft.replace(key_id, changes)
    entry = _first_entry(written) | changes
    return draft.add({name: value for name, value in entry.items() if value is not None})


def _first_entry(written: WrittenKey) -> dict[str, Any]:
    entry = entry_of(written.key, None)
    if written.unread:
        entry["hash"] = hash_of(secrets.token_urlsafe(32))  # nobody's: what the key is can't be known here
    return entry
