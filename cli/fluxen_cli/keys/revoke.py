"""`fluxen keys revoke`: the end of a key, for ever."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.keys.place import AsJson, Gateways, Place, obeyed_note
from fluxen_cli.places import ConfigFile, DataDir


def command(
    key_ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="The ids of the keys to end: all of them or none.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """End keys at once and for ever, with those they replaced.

    A key of the configuration ends, too: its id stays in keys.json as revoked, and lets nobody in whatever the file
    says. The id is never used again, so that the rows of the ledger stay of one key.
    """
    from fluxen.keys.rotation import revoke

    place = Place(data_dir, config)
    stored = place.store.read()
    written = {key_id: place.written_key(key_id, stored) for key_id in dict.fromkeys(key_ids)}
    for key_id, found in written.items():
        if found is None and (stored is None or key_id not in stored.ids):
            raise place.unknown(key_id, stored)
    if not yes:
        _ask(list(written))
    gateways = Gateways(place.folder)
    now = datetime.now(UTC)
    with place.store.change() as draft:
        ended = [key_id for key_id, found in written.items() if revoke(draft, key_id, found, now) is not None]
    told = gateways.tell() if ended else []
    if as_json:
        output.emit_json({"file": str(place.store.path), "ids": list(written), "revoked": ended, "gateways": told})
        return
    for key_id, found in written.items():
        if key_id not in ended:
            output.note(f"'{key_id}' was revoked before")
            continue
        remove = f"; remove the entry at {found.where} when you like" if found else ""
        output.note(f"'{key_id}' is revoked{remove}")
    if ended and (said := obeyed_note(told)):
        output.note(said)


def _ask(key_ids: list[str]) -> None:
    if not sys.stdin.isatty():
        raise FluxenError("nobody is there to be asked whether to revoke", hint="say so with --yes")
    named = ", ".join(f"'{key_id}'" for key_id in key_ids)
    try:
        answer = output.ask(
            f"Revoke {output.visible(named)}? Who uses it is refused at once, and it can't be undone (y/N)"
        )
    except EOFError:
        answer = ""
    if answer.lower() not in ("y", "yes"):
        raise FluxenError("nothing was revoked")
