"""`fluxen keys show`: all that is known of one key, but the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from fluxen_cli import output
from fluxen_cli.keys.place import AsJson, KeyId, Place
from fluxen_cli.places import ConfigFile, DataDir


def command(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """What a key may do, where it stands, until when it works and what it was used for. Never the key itself."""
    from fluxen_cli.keys.census import census, uses_of

    now = datetime.now(UTC)
    place = Place(data_dir, config)
    stored = place.store.read()
    if key_id not in (stored.ids if stored else ()) and key_id not in place.written.keys:
        raise place.unknown(key_id, stored)
    uses, unknown = uses_of(place.folder, now)
    cards = census(stored, place.written, uses, now)
    card = next(one for one in cards if one.id == key_id)
    if as_json:
        output.emit_json(card.json())
        return
    shown = {name: value for name, value in card.json().items() if value is not None and name != "warnings"}
    width = max(map(len, shown))
    for name, value in shown.items():
        output.emit(f"{name:{width}}  {output.visible(_text(value))}\n")
    for warning in (*unknown, *(one.message for one in card.warnings)):
        output.note(f"warning: {output.visible(warning)}")


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:f}" if isinstance(value, Decimal) else value if isinstance(value, str) else json.dumps(value)
