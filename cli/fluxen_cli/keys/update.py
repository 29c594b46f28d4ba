"""`fluxen keys update`: other limits, another end or another name for the key that people have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.keys.create import (
    Expires,
    Models,
    Name,
    Networks,
    Project,
    Routes,
    Tags,
    Team,
    Upstreams,
    check_upstreams,
    checked,
    end_of,
    fields_of,
)
from fluxen_cli.keys.place import AsJson, Gateways, KeyId, Place, obeyed_note
from fluxen_cli.places import ConfigFile, DataDir

_CLEARED = ("name", "team", "project", "tags", "expires", "upstreams", "models", "routes", "networks")


def command(
    key_id: KeyId,
    name: Name = None,
    team: Team = None,
    project: Project = None,
    tag: Tags = None,
    expires: Expires = None,
    upstream: Upstreams = None,
    model: Models = None,
    route: Routes = None,
    network: Networks = None,
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", metavar="FIELD", help=f"Have it no longer: {', '.join(_CLEARED)}. Repeatable."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Change what a key may do, until when it works or how it is called; the key itself stays.

    What an option names is replaced as a whole: two --model are all the models there are then. Former keys that still
    work may do the same. A key of the configuration is changed there.
    """
    now = datetime.now(UTC)
    given = fields_of(name, team, project, tag, end_of(expires, now), upstream, model, route, network)
    cleared = [*(clear or ()), *(["expires"] if expires is not None and "expires" not in given else [])]
    for field in cleared:
        if field not in _CLEARED:
            raise typer.BadParameter(f"'{field}' is none of {', '.join(_CLEARED)}", param_hint="'--clear'")
        if field in given:
            raise typer.BadParameter(f"'{field}' is given a value as well", param_hint="'--clear'")
    if not given and not cleared:
        raise typer.BadParameter("nothing to change: name at least one option")
    place = Place(data_dir, config)
    changes = _changes(place, key_id, given) | dict.fromkeys(cleared)
    stored = place.store.read()
    if stored is None or key_id not in stored.ids:
        if written := place.written_key(key_id, stored):
            raise FluxenError(f"the key '{key_id}' is in the configuration: {written.where}", hint="change it there")
        raise place.unknown(key_id, stored)
    gateways = Gateways(place.folder)
    with place.store.change() as draft:
        if (revoked := draft.before.ids[key_id].revoked) is not None:
            raise FluxenError(f"the key '{key_id}' was revoked {revoked}", hint="create one with another id")
        draft.replace(key_id, changes)
    told = gateways.tell()
    if as_json:
        changed = {name: value for name, value in changes.items() if name not in cleared}
        output.emit_json({"id": key_id, **changed, "cleared": cleared, "file": str(place.store.path), "gateways": told})
        return
    output.note(f"'{key_id}' is changed")
    if said := obeyed_note(told):
        output.note(said)


def _changes(place: Place, key_id: str, given: dict[str, object]) -> dict[str, Any]:
    """As an entry has them."""
    from fluxen.keys.entry import entry_of

    key = checked({"id": key_id, **given})
    check_upstreams(place, key)
    return {name: value for name, value in entry_of(key, None).items() if name in given}
