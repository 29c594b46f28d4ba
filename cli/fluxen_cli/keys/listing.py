"""`fluxen keys list`: every client key, its use, and what should be done about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError
from fluxen_cli import output
from fluxen_cli.keys.place import AsJson, Place
from fluxen_cli.places import ConfigFile, DataDir

if TYPE_CHECKING:
    from fluxen.gateway.state import State
    from fluxen_cli.keys.census import Card

_COLUMNS = ("id", "name", "team", "state", "created", "expires", "last_use")
_SHOWN = 20
"""Warnings in text; --json has all of them."""


def command(
    everything: Annotated[bool, typer.Option("--all", help="Revoked keys, too.")] = False,
    team: Annotated[str | None, typer.Option(help="Only keys of this team.")] = None,
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV; money exact.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Every client key with its last use, and requests and dollars of the last 30 days.

    Warns of keys that end within 14 days or have not been used for 90, of former keys that still work, of entries of
    the configuration that keys.json replaces, and of provider keys that the provider refuses. Never shows a key.
    """
    from fluxen_cli.keys.census import DAYS, census, uses_of

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    now = datetime.now(UTC)
    place = Place(data_dir, config)
    stored = place.store.read()
    uses, unknown = uses_of(place.folder, now)
    cards = [
        card
        for card in census(stored, place.written, uses, now)
        if (everything or card.state != "revoked")
        and (team is None or card.fields["team"] == team)
        and (project is None or card.fields["project"] == project)
    ]
    credentials, odd = _credentials(place, now)
    about = [*(stored.warnings if stored else ()), *place.written.problems, *unknown, *odd]
    if as_json:
        output.emit_json(
            {
                "file": str(place.store.path),
                "config": str(place.config) if place.config else None,
                "ledger": uses is not None,
                "keys": [card.json() for card in cards],
                "credentials": credentials,
                "warnings": about,
            }
        )
        return
    columns = (*_COLUMNS, f"requests_{DAYS}d", f"cost_{DAYS}d_usd", "source")
    if as_csv:
        output.emit_csv(columns, [[card.json()[name] for name in columns] for card in cards])
    elif cards:
        output.emit_table(columns, [_row(card) for card in cards])
    else:
        output.note(f"no client key{' like this' if team or project else ''} in {place.store.path}{_else(place)}")
    _say([*about, *(f"{card.id}: {one.message}" for card in cards for one in card.warnings)])
    _say([str(one["message"]) for one in parked_of(place, now)])
    if credentials:
        output.note(f"provider keys: {output.visible(', '.join(map(_credential, credentials)))}")


def _credentials(place: Place, now: datetime) -> tuple[list[dict[str, object]], list[str]]:
    """The keys of providers; when those can't be told, clients' keys are listed all the same."""
    from fluxen_cli.keys.provider import credentials_of

    try:
        return credentials_of(place, now)
    except ConfigError as error:
        return [], [error.message]


def _credential(one: Mapping[str, object]) -> str:
    name = one["upstream"] if one["credential"] is None else f"{one['upstream']} ({one['credential']})"
    return f"{name} {'SET ASIDE' if one['parked_until'] else one['key'] or 'without a key'}"


def _row(card: Card) -> Sequence[object]:
    use = card.use
    return (
        card.id, card.fields["name"], card.fields["team"], card.state, _day(card.created), _day(card.expires),
        f"{use.last_use:%Y-%m-%d %H:%MZ}" if use else None, card.requests, card.cost, card.source,
    )  # fmt: skip


def _day(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d}" if moment else None


def _else(place: Place) -> str:
    return f" and {place.config}" if place.config else "; fluxen keys create makes one"


def _say(warnings: Sequence[str]) -> None:
    for warning in warnings[:_SHOWN]:
        output.note(f"warning: {output.visible(warning)}")
    if len(warnings) > _SHOWN:
        output.note(f"and {len(warnings) - _SHOWN} more warnings: --json has all")


def parked_of(place: Place, now: datetime) -> list[dict[str, object]]:
    """Provider keys that running gateways have set aside, because the provider refused them."""
    from fluxen.gateway.state import running

    try:
        states = running(place.folder)
    except OSError:
        return []
    return [one for state in states for one in _parked(state, now)]


def _parked(state: State, now: datetime) -> list[dict[str, object]]:
    by_name: dict[tuple[str, str, int], list[float]] = {}
    for one in state.parked:
        if one.until > now.timestamp():
            by_name.setdefault((one.upstream, one.credential, one.status), []).append(one.until)
    return [
        {
            "upstream": upstream,
            "credential": credential,
            "status": status,
            "workers": len(untils),
            "until": datetime.fromtimestamp(max(untils), UTC),
            "pid": state.pid,
            "message": f"the provider refuses the credential '{credential}' of {upstream} ({status}): it is set aside "
            f"until {datetime.fromtimestamp(max(untils), UTC):%H:%M:%S}Z and others are used",
        }
        for (upstream, credential, status), untils in by_name.items()
    ]
