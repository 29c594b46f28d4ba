"""`fluxen keys create`: a new client key, shown once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.keys.place import AsJson, Gateways, Place, obeyed_note
from fluxen_cli.places import ConfigFile, DataDir
from fluxen_cli.tags import parse_tags

if TYPE_CHECKING:
    from fluxen.config.access import StaticKey
    from fluxen.keys.stored import Stored

END = "90d, 12h (from now), 2027-01-31 (its midnight, UTC), 2027-01-31T18:00:00Z or never."


Name = Annotated[str | None, typer.Option(help="For people: whose key it is, or what for.")]
Team = Annotated[str | None, typer.Option(help="Written into each row of this key.")]
Project = Annotated[str | None, typer.Option(help="Written into each row of this key.")]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="Written into each row of this key. Repeatable."),
]
Expires = Annotated[str | None, typer.Option(metavar="WHEN", help=f"Until when it works: {END}")]
Upstreams = Annotated[
    list[str] | None, typer.Option("--upstream", metavar="NAME", help="May use this upstream only. Repeatable.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="PATTERN", help="May ask for such models only: 'gpt-5*'. Repeatable."),
]
Routes = Annotated[
    list[str] | None,
    typer.Option("--route", metavar="PATTERN", help="May call such paths only: '/v1/chat/*'. Repeatable."),
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="NETWORK", help="May call from there only: 10.0.0.0/8. Repeatable."),
]


def command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Its name in rows and reports; none is used twice.")],
    name: Name = None,
    team: Team = None,
    project: Project = None,
    tag: Tags = None,
    expires: Expires = None,
    upstream: Upstreams = None,
    model: Models = None,
    route: Routes = None,
    network: Networks = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Create a client key and print it, only this once: kept is its hash, in keys.json of the data folder.

    The key is all there is on stdout, so that a script can take it. Works with the gateway up or down.
    """
    from fluxen.keys.entry import entry_of

    now = datetime.now(UTC)
    given = fields_of(name, team, project, tag, end_of(expires, now), upstream, model, route, network)
    key = checked({"id": key_id, **given})
    place = Place(data_dir, config)
    stored = _check_id(place, key_id)
    check_upstreams(place, key)
    gateways = Gateways(place.folder)
    first = stored is None and not place.written.keys
    entry = entry_of(key, now)
    secret = place.store.create(key_id, {name: value for name, value in entry.items() if name not in ("id", "hash")})
    shown(place, {**entry, "key": secret}, gateways, as_json, f"The key '{key_id}', kept as its hash in")
    if first and not as_json:
        output.note("It is the first: from now on every client needs a key.")


def fields_of(
    name: str | None,
    team: str | None,
    project: str | None,
    tag: list[str] | None,
    expires: datetime | None,
    upstream: list[str] | None,
    model: list[str] | None,
    route: list[str] | None,
    network: list[str] | None,
) -> dict[str, object]:
    """What the options say, by the names that an entry has."""
    fields: dict[str, object] = {
        "name": name,
        "team": team,
        "project": project,
        "tags": parse_tags(tag or ()) or None,
        "expires": expires,
        "upstreams": upstream or None,
        "models": model or None,
        "routes": route or None,
        "networks": network or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def check_upstreams(place: Place, key: StaticKey) -> None:
    if problems := place.check_upstreams(key.upstreams or ()):
        raise typer.BadParameter("; ".join(problems), param_hint="'--upstream'")


def end_of(text: str | None, now: datetime) -> datetime | None:
    """What `--expires` says."""
    from fluxen.keys.lifetime import parse_end

    if text is None:
        return None
    try:
        return parse_end(text, now)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}': {error}", param_hint="'--expires'") from None


def shown(place: Place, entry: dict[str, Any], gateways: Gateways, as_json: bool, first: str) -> None:
    """Print a key that has just been made, before anything else can go wrong, and when it works."""
    secret = entry.pop("key")
    if as_json:
        entry.pop("hash", None)
        output.emit_json({"file": str(place.store.path), "key": secret, **entry, "gateways": gateways.tell()})
        return
    output.note(f"{first} {output.visible(str(place.store.path))}. Keep it now, it is not shown again:")
    output.emit(f"{secret}\n")
    if said := obeyed_note(gateways.tell()):
        output.note(said)


def _check_id(place: Place, key_id: str) -> Stored | None:
    """An id of the configuration would be replaced by the new key: that is what rotating is for."""
    stored = place.store.read()
    if stored is not None and (there := stored.ids.get(key_id)):
        if there.revoked is not None:
            raise FluxenError(
                f"the key '{key_id}' was revoked {there.revoked}, and no id is used again: rows would be of two keys",
                hint="choose another id",
            )
        raise _taken(key_id, str(place.store.path))
    if (written := place.written.keys.get(key_id)) is not None:
        raise _taken(key_id, written.where)
    return stored


def _taken(key_id: str, where: str) -> FluxenError:
    return FluxenError(
        f"there is a key '{key_id}' already: {where}",
        hint=f"fluxen keys rotate {key_id} gives it a successor; or choose another id",
    )


def checked(fields: dict[str, object]) -> StaticKey:
    """The key that would be, as the configuration's own model has it."""
    from pydantic import ValidationError

    from fluxen.config.access import StaticKey

    try:
        return StaticKey.model_validate({**fields, "hash": "sha256:" + "0" * 64})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = str(first["loc"][0])
        where = "'ID'" if place == "id" else f"'--{place.removesuffix('s') if place != 'expires' else place}'"
        raise typer.BadParameter(str(first["msg"]), param_hint=where) from None
