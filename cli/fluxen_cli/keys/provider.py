"""`fluxen keys provider`: the keys that Fluxen has of providers, which no client ever sees."""

from __future__ import annotations

import difflib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.keys.listing import parked_of
from fluxen_cli.keys.place import AsJson, Gateways, Place, obeyed_note
from fluxen_cli.places import ConfigFile, DataDir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fluxen.config.values import Secret
    from fluxen.keys.slots import Slot

Upstream = Annotated[str, typer.Argument(metavar="UPSTREAM", help="The upstream's name, such as openai.")]
CredentialName = Annotated[
    str | None, typer.Option("--credential", metavar="NAME", help="Which of its credentials, if it has several.")
]
_COLUMNS: Final = ("upstream", "credential", "key", "where", "parked_until")


def build() -> typer.Typer:
    app = typer.Typer(
        help="Keys of providers: list and rotate them. A running gateway obeys within a second.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("rotate")(rotate)
    app.command("list")(listing)
    app.command("remove")(remove)
    return app


def rotate(
    upstream: Upstream,
    credential: CredentialName = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Don't try the key at the provider first.")] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Keep it in credentials.json, even if the configuration names a file.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Give Fluxen a new key of a provider. It is asked for, or read from standard input.

    The key is tried at the provider first, by asking for its list of models, which costs nothing. Where the
    configuration has file:PATH, that file is replaced. Else the key goes into credentials.json in the data folder, as
    it is and readable for its owner only, and stands in for what the configuration says.
    """
    from fluxen.keys.private import write_whole
    from fluxen.keys.provider import ProviderKeys, wrong_key
    from fluxen_cli.keys.trial import tried

    place = Place(data_dir, config)
    slot = _slot(place, upstream, credential)
    keys = ProviderKeys(place.folder)
    stored = keys.read()
    file = None if store or (slot.upstream, slot.name) in stored else _file_of(slot)
    key = _entered(slot)
    if why := wrong_key(key):
        raise FluxenError(f"this can't be a key: {why}")
    said = None if no_check else tried(place.config, slot, key, stored)
    gateways = Gateways(place.folder)
    if file is not None:
        try:
            write_whole(file, f"{key}\n".encode(), keep=True)
        except OSError as error:
            raise FluxenError(
                f"can't write {file}: {error.strerror or error}",
                hint="run this as its owner, or use --store to keep the key in the data folder instead",
            ) from error
    else:
        keys.put(slot.upstream, slot.name, key)
    kept = file or keys.path
    told = gateways.tell()
    if as_json:
        answer = {"upstream": slot.upstream, "credential": slot.name, "file": str(kept), "checked": said is not None}
        output.emit_json({**answer, "instead_of": None if file else slot.written, "gateways": told})
        return
    output.note(said or "The key was not tried.")
    output.note(f"The new key of {_called(slot)} is kept in {output.visible(str(kept))}.")
    if file is None and slot.written is not None:
        output.note(
            f"It is used instead of the one {_source(slot)}, until `fluxen keys provider remove "
            f"{slot.upstream}{f' --credential {slot.name}' if slot.name else ''}`."
        )
    if note := obeyed_note(told):
        output.note(note)


def listing(as_json: AsJson = False, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Which keys of providers Fluxen has and where they come from. Never shows a key.

    A key that a provider has refused is set aside ("parked") by the running gateways while another works.
    """
    from fluxen.keys.provider import ProviderKeys

    place = Place(data_dir, config)
    rows, warnings = credentials_of(place, datetime.now(UTC))
    if as_json:
        output.emit_json({"file": str(ProviderKeys(place.folder).path), "credentials": rows, "warnings": warnings})
        return
    output.emit_table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])
    for warning in warnings:
        output.note(f"warning: {output.visible(warning)}")


def credentials_of(place: Place, now: datetime) -> tuple[list[dict[str, object]], list[str]]:
    """Each credential: where it comes from, and whether a running gateway has set it aside; and what is odd."""
    from fluxen.keys.provider import NAME, ProviderKeys

    keys = ProviderKeys(place.folder)
    stored = keys.read()
    slots = _slots(place, stored)
    places = {(slot.upstream, slot.name) for slot in slots}
    parked = {(one["upstream"], one["credential"]): one for one in parked_of(place, now)}
    rows: list[dict[str, object]] = [
        {
            "upstream": slot.upstream,
            "credential": slot.name,
            "key": NAME if (slot.upstream, slot.name) in stored else slot.written,
            "where": slot.where,
            "parked_until": parked[slot.upstream, slot.name]["until"] if (slot.upstream, slot.name) in parked else None,
            "refused_with": parked[slot.upstream, slot.name]["status"]
            if (slot.upstream, slot.name) in parked
            else None,
        }
        for slot in slots
    ]
    warnings = list(keys.exposed())
    for name, credential in stored:
        if (name, credential) not in places:
            called = name if credential is None else f"{name} ({credential})"
            warnings.append(f"{keys.path} has a key for {called}, and there is no such credential: it is not used")
    return rows, warnings


def remove(
    upstream: Upstream,
    credential: CredentialName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Forget a key of credentials.json: what the configuration says applies again."""
    from fluxen.keys.provider import ProviderKeys

    place = Place(data_dir, config)
    keys = ProviderKeys(place.folder)
    if (upstream, credential) not in keys.read():
        called = upstream if credential is None else f"the credential '{credential}' of {upstream}"
        raise FluxenError(
            f"{keys.path} has no key for {called}", hint="fluxen keys provider list shows where each key comes from"
        )
    if not yes:
        _ask(f"Forget the key of {upstream}? It is kept nowhere else (y/N)")
    gateways = Gateways(place.folder)
    keys.remove(upstream, credential)
    told = gateways.tell()
    if as_json:
        output.emit_json({"upstream": upstream, "credential": credential, "file": str(keys.path), "gateways": told})
        return
    slot = next((one for one in _slots(place, {}) if (one.upstream, one.name) == (upstream, credential)), None)
    if slot is not None and slot.written is not None:
        output.note(f"From now on {_called(slot)} has the key {_source(slot)}.")
    else:
        output.note(f"Fluxen has no key of {output.visible(upstream)} any more.")
    if note := obeyed_note(told):
        output.note(note)


def _slots(place: Place, stored: Mapping[tuple[str, str | None], Secret]) -> list[Slot]:
    from fluxen.keys.slots import Slot, provider_slots
    from fluxen.providers.catalogue import load_catalogue

    slots = provider_slots(place.config, os.environ)
    if not any(slot.where for slot in slots):  # there are no upstreams but those of the catalogue
        names, catalogue = {slot.upstream for slot in slots}, load_catalogue()
        slots += [Slot(name, None) for name, one in stored if one is None and name in catalogue and name not in names]
    return slots


def _slot(place: Place, upstream: str, credential: str | None) -> Slot:
    """The one that is meant."""
    from fluxen.keys.slots import Slot
    from fluxen.providers.catalogue import load_catalogue

    slots = _slots(place, {})
    of_it = [slot for slot in slots if slot.upstream == upstream]
    if not of_it:
        catalogue = load_catalogue()
        if not any(slot.where for slot in slots) and upstream in catalogue and credential is None:
            return Slot(catalogue[upstream].name, None)
        known = list(dict.fromkeys(slot.upstream for slot in slots)) or sorted(catalogue)
        raise FluxenError(f"there is no upstream '{upstream}'{_nearest(upstream, known)}")
    names = [slot.name for slot in of_it if slot.name is not None]
    if credential is None and len(of_it) > 1:
        raise FluxenError(f"{upstream} has several credentials", hint=f"say which: --credential {'|'.join(names)}")
    if credential is not None and credential not in names:
        if not names:
            raise FluxenError(f"{upstream} has one key, without a name", hint="leave --credential out")
        raise FluxenError(f"{upstream} has no credential '{credential}'{_nearest(credential, names)}")
    return next(slot for slot in of_it if credential is None or slot.name == credential)


def _file_of(slot: Slot) -> Path | None:
    """The file to be replaced."""
    if slot.written is None or not slot.written.startswith("file:"):
        return None
    if slot.file is None:
        raise FluxenError(
            f"the path in {slot.written} has a variable that is not set here",
            hint="set it, or use --store to keep the key in the data folder instead",
        )
    if slot.file.is_symlink():
        raise FluxenError(
            f"{slot.file} is a link: what it comes from would stay as it is",
            hint="change the key where that file is made (a Kubernetes Secret, for one); or keep it here with --store",
        )
    return slot.file


def _entered(slot: Slot) -> str:
    """The new key: never from the command line, which everybody on the machine can see."""
    if not sys.stdin.isatty():
        return sys.stdin.read(65_536).removesuffix("\n").removesuffix("\r")
    try:
        return output.ask(f"The new key of {output.visible(_called(slot))}", hidden=True)
    except EOFError:
        raise FluxenError("no key was entered: nothing has changed") from None


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise FluxenError("nobody is there to be asked", hint="say so with --yes")
    try:
        answer = output.ask(output.visible(question))
    except EOFError:
        answer = ""
    if answer.lower() not in ("y", "yes"):
        raise FluxenError("nothing has changed")


def _called(slot: Slot) -> str:
    return slot.upstream if slot.name is None else f"{slot.upstream} ({slot.name})"


def _source(slot: Slot) -> str:
    """Where the configuration has it from."""
    if slot.where is None:
        return f"of the environment ({slot.written})"
    return f"at {output.visible(slot.where)} ({output.visible(slot.written or '')})"


def _nearest(word: str, candidates: Sequence[str]) -> str:
    found = difflib.get_close_matches(word.lower(), candidates, n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""
