"""All client keys that a gateway would know, what became of each, and what was done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fluxen.config.access import StaticKey
from fluxen.errors import FluxenError
from fluxen.keys.entry import StoredKey
from fluxen.keys.stored import Stored
from fluxen.keys.written import Written, WrittenKey

if TYPE_CHECKING:
    from fluxen.reports.keys import KeyUse

DAYS: Final = 30
"""Of which requests and cost are told."""
SOON: Final = timedelta(days=14)
UNUSED: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Warned:
    """code: for programs; message: for people."""

    code: str
    message: str


@dataclass(slots=True)
class Card:
    """One key. source: where it stands; state: active, expired or revoked. replaces: the place in the configuration
    that it stands for. former_until: until when a key that it replaced still works."""

    id: str
    source: str
    state: str
    fields: Mapping[str, Any]
    created: datetime | None
    expires: datetime | None
    revoked: str | None = None
    replaces: str | None = None
    former_until: datetime | None = None
    looked: bool = False
    """Whether there is a ledger to know its use from."""
    use: KeyUse | None = None
    warnings: list[Warned] = field(default_factory=list)

    @property
    def requests(self) -> int | None:
        return self.use.requests if self.use else 0 if self.looked else None

    @property
    def cost(self) -> Decimal | None:
        """In dollars; None when it is not known."""
        return self.use.cost_usd if self.use else Decimal(0) if self.looked else None

    def json(self) -> dict[str, object]:
        """As `--json` has it."""
        use = self.use
        return {
            "id": self.id,
            **{name: self.fields.get(name) for name in FIELDS},
            "state": self.state,
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
            "source": self.source,
            "replaces": self.replaces,
            "former_until": self.former_until,
            "last_use": use.last_use if use else None,
            f"requests_{DAYS}d": self.requests,
            f"cost_{DAYS}d_usd": self.cost,
            f"unknown_cost_{DAYS}d": use.unknown_cost if use else self.requests,
            "warnings": [{"code": one.code, "message": one.message} for one in self.warnings],
        }


FIELDS: Final = ("name", "team", "project", "tags", "upstreams", "models", "routes", "networks")


def census(stored: Stored | None, written: Written, uses: Mapping[str, KeyUse] | None, now: datetime) -> list[Card]:
    """Those of keys.json in its order, then those of the configuration. uses: None when there is no ledger."""
    cards = [_of_stored(key, written.keys.get(key.id), now) for key in (stored.keys if stored else ())]
    known = stored.ids if stored else {}
    cards += [_of_written(key, now) for key_id, key in written.keys.items() if key_id not in known]
    for card in cards:
        if uses is not None:
            card.looked, card.use = True, uses.get(card.id)
        if card.state != "revoked":
            card.warnings += _warnings(card, now)
    return cards


def uses_of(folder: Path, now: datetime) -> tuple[dict[str, KeyUse] | None, list[str]]:
    """What the ledger of a data folder knows of keys; None without one. And what is wrong with it: keys are listed all
    the same."""
    from fluxen.config.paths import ledger_folder

    ledger = ledger_folder(folder)
    try:
        if not ledger.is_dir():
            return None, []
        from fluxen.ledger.reader import Reader
        from fluxen.reports.keys import key_use

        return key_use(Reader(ledger), now - timedelta(days=DAYS)), []
    except FluxenError as error:
        return None, [f"use and cost are not known: {error.message}"]
    except OSError as error:
        return None, [f"use and cost are not known: {error.filename or ledger}: {error.strerror or error}"]


def _of_stored(key: StoredKey, written: WrittenKey | None, now: datetime) -> Card:
    ends = key.ends
    state = "revoked" if key.revoked is not None else "expired" if ends is not None and ends <= now else "active"
    fields = {name: getattr(key, name) for name in FIELDS}
    card = Card(key.id, "keys.json", state, fields, key.made, ends, key.revoked)
    card.former_until = key.open_until(now)
    if written is not None:
        card.replaces = written.where
        what = "lets nobody in any more" if key.revoked is not None else "is replaced by it"
        card.warnings.append(Warned("replaces", f"{written.where} {what}: remove that entry"))
    return card


def _of_written(key: WrittenKey, now: datetime) -> Card:
    ends = key.key.expires
    state = "expired" if ends is not None and ends <= now else "active"
    card = Card(key.key.id, key.where, state, _fields(key.key), None, ends)
    if key.unread:
        card.warnings.append(Warned("unread", f"{key.where}: {key.unread}"))
    return card


def _fields(key: StaticKey) -> dict[str, Any]:
    networks = key.networks
    return {name: getattr(key, name) for name in FIELDS} | {
        "networks": None if networks is None else [str(network) for network in networks]
    }


def _warnings(card: Card, now: datetime) -> Iterator[Warned]:
    if card.state == "expired":
        yield Warned(
            "expired", f"ended {_day(card.expires)}: give it a later end (keys update --expires), or revoke it"
        )
    elif card.expires is not None and card.expires - now <= SOON:
        yield Warned(
            "expires_soon", f"ends {_day(card.expires)}: rotate it, or give it a later end (keys update --expires)"
        )
    if card.former_until is not None:
        yield Warned("overlap", f"the key it replaced still works, until {_day(card.former_until)}")
    if not card.looked or card.state != "active":
        return
    old = card.created is not None and now - card.created >= UNUSED
    if card.use is None and old:
        yield Warned("never_used", f"the ledger has no request of it, and it was created {_day(card.created)}")
    elif card.use is not None and now - card.use.last_use >= UNUSED:
        yield Warned("unused", f"last used {_day(card.use.last_use)}: revoke what nobody needs")


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z" if moment else "?"
