"""`fluxen keys rotate`: a successor under the same id, while the former key works on for a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from fluxen_cli import output
from fluxen_cli.keys.create import END, end_of, shown
from fluxen_cli.keys.place import AsJson, Gateways, KeyId, Place
from fluxen_cli.places import ConfigFile, DataDir


def command(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the former key still works: 24h, 7d, 30m; 0: not at all.")
    ] = "24h",
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help=f"Until when the new key works, if not as the former: {END}")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Replace a key: print its successor, only this once, and let both work until the overlap ends.

    Whatever the key may do, its successor may, and rows keep the id. Of a key in the configuration the successor goes
    into keys.json and replaces that entry, which can be removed when the overlap is over. Keys from an earlier
    rotation end with the former key at the latest; --overlap 0 ends them all at once.
    """
    from fluxen.keys.entry import moment
    from fluxen.keys.lifetime import parse_span
    from fluxen.keys.rotation import KEEP, rotate

    now = datetime.now(UTC)
    try:
        span = parse_span(overlap)
    except ValueError as error:
        raise typer.BadParameter(f"'{overlap}': {error}", param_hint="'--overlap'") from None
    end = KEEP if expires is None else end_of(expires, now)
    place = Place(data_dir, config)
    stored = place.store.read()
    written = place.written_key(key_id, stored)
    if written is None and (stored is None or key_id not in stored.ids):
        raise place.unknown(key_id, stored)
    gateways = Gateways(place.folder)
    with place.store.change() as draft:
        done = rotate(draft, key_id, written, now, span, end)
    until = None if done.former_until is None else moment(done.former_until)
    entry = {
        "key": done.key,
        "id": key_id,
        "created": done.entry.created,
        "expires": done.entry.expires,
        "former_until": until,
        "replaces": written.where if written else None,
    }
    shown(place, entry, gateways, as_json, f"The new key '{key_id}', kept as its hash in")
    if as_json:
        return
    output.note(f"The former key works until {until}." if until else "The former key is refused.")
    if written is not None:
        output.note(f"{written.where} is replaced by it: remove that entry{' after then' if until else ''}.")
