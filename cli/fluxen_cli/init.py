"""`fluxen init`: a first configuration with a first client key, asked for in a terminal or taken from what is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError, FluxenError
from fluxen_cli import output
from fluxen_cli.serve import FIRST_ID, gateway_url, try_it

if TYPE_CHECKING:
    from fluxen.config.starter import StarterUpstream
    from fluxen.config.values import Address
    from fluxen.gateway.snapshot import Snapshot
    from fluxen.providers.catalogue import Provider

SECRETS = "secrets"
"""The folder beside the configuration that holds the keys somebody typed, one file for each provider."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the file is made from. typed: keys of providers, to be kept in files of their own."""

    bind: Address
    upstreams: tuple[StarterUpstream, ...]
    typed: Mapping[str, str]


def command(
    config: Annotated[
        Path | None, typer.Option("--config", help="File to write. Default: FLUXEN_CONFIG, else ./fluxen.yaml.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: the providers whose keys are in the environment.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text; it holds the client key.")] = False,
) -> None:
    """Write a first configuration, and print a first client key, once.

    Provider keys stay where they are: in the environment, or in files that only you can read. The configuration only
    names them, and holds the hash of the client key.
    """
    path = _target(config, force=force)
    if not yes and not sys.stdin.isatty():
        raise FluxenError("there is no terminal to ask in", hint="fluxen init --yes asks nothing")
    try:
        answers = _found() if yes else _asked(path, force=force)
    except EOFError:
        raise FluxenError("broken off: nothing was written") from None
    key_id, key = _write(path, answers, force=force)
    snapshot, problems = _check(path)
    if as_json:
        output.emit_json(
            {
                "ok": True,
                "file": str(path),
                "key": {"id": key_id, "key": key},
                "upstreams": [one.name for one in answers.upstreams],
                "secrets": [str(path.parent / SECRETS / name) for name in answers.typed],
                "problems": problems,
            }
        )
        return
    output.say(_said(path, answers, key_id, key, snapshot))
    for problem in problems:
        output.note(f"warning: fluxen serve can't start yet: {output.visible(problem)}")


def _target(config: Path | None, *, force: bool) -> Path:
    from fluxen.config.paths import FILE_NAME

    path = config or Path(os.environ.get("FLUXEN_CONFIG") or FILE_NAME)
    if path.is_dir():
        raise FluxenError(f"{path} is a folder", hint=f"name the file: --config {path / FILE_NAME}")
    if not force and os.path.lexists(path):
        raise _exists(path)
    return path


def _exists(path: Path) -> FluxenError:
    return FluxenError(f"{path} is there already", hint="--force replaces it; --config names another file")


def _found() -> Answers:
    from fluxen.config.model import Server

    return Answers(Server().bind_address, tuple(_of_environment()), {})


def _of_environment() -> list[StarterUpstream]:
    """The providers whose key is in the environment."""
    from fluxen.config.starter import StarterUpstream
    from fluxen.config.values import sendable
    from fluxen.providers.catalogue import load_catalogue

    found: list[StarterUpstream] = []
    for provider in dict.fromkeys(load_catalogue().values()):
        variable = next((name for name in provider.env if os.environ.get(name, "").strip()), None)
        if variable is None:
            continue
        if sendable(os.environ[variable].removesuffix("\n")):
            comment = "the variable must be there whenever `fluxen serve` starts"
            found.append(StarterUpstream(provider.name, f"${{{variable}}}", comment))
        else:
            output.note(f"note: {variable} holds a character that can't stand in a header: {provider.name} is left out")
    return found


def _asked(path: Path, *, force: bool) -> Answers:
    output.note("A first configuration for Fluxen. Enter takes what stands in brackets.\n")
    found = _of_environment()
    if found:
        output.note("Providers whose key is in your environment, which will be used:")
        for one in found:
            output.note(f"  {one.name} ({one.api_key})")
    names = {one.name for one in found}
    typed: dict[str, str] = {}
    for provider in _ask_providers():
        if provider.name not in names:
            names.add(provider.name)
            found.append(_ask_key(provider, path.parent / SECRETS / provider.name, typed, force=force))
    return Answers(_ask_bind(), tuple(found), typed)


def _ask_providers() -> list[Provider]:
    import difflib

    from fluxen.providers.catalogue import load_catalogue

    catalogue = load_catalogue()
    while True:
        said = output.ask("Other providers, by name, with commas between them (? lists them)")
        names = [name.strip().lower() for name in said.split(",") if name.strip()]
        unknown = [name for name in names if name not in catalogue]
        if not unknown:
            return [catalogue[name] for name in names]
        if "?" not in unknown:
            near = difflib.get_close_matches(unknown[0], catalogue, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            output.note(
                f"Fluxen knows no provider {output.visible(unknown[0])}{meant}; it can be added to the file later."
            )
        output.note(f"Known: {', '.join(sorted({provider.name for provider in catalogue.values()}))}")


def _ask_key(provider: Provider, file: Path, typed: dict[str, str], *, force: bool) -> StarterUpstream:
    from fluxen.config.starter import StarterUpstream
    from fluxen.config.values import sendable

    reference = f"file:{SECRETS}/{provider.name}"
    if file.exists() and not force:
        output.note(f"{file} is there already: it is used as the key of {provider.name}.")
        return StarterUpstream(provider.name, reference, "a file that only you should be able to read")
    variable = provider.env[0] if provider.env else None
    without = f"empty: it will be in {variable} later" if variable else "empty: it needs none"
    while True:
        key = output.ask(f"Key of {provider.name} (not shown; {without})", hidden=True)
        if sendable(key):
            break
        output.note("That holds a character that can't stand in a header.")
    if key:
        typed[provider.name] = key
        return StarterUpstream(provider.name, reference, "a file that only you can read")
    comment = f"its key is taken from {variable} in the environment" if variable else "needs no key"
    return StarterUpstream(provider.name, None, comment)


def _ask_bind() -> Address:
    from fluxen.config.model import Server
    from fluxen.config.values import parse_address

    while True:
        said = output.ask("Address to listen on", str(Server().bind_address))
        try:
            return parse_address(said)
        except ValueError as error:
            output.note(f"That can't be used: {error}.")


def _write(path: Path, answers: Answers, *, force: bool) -> tuple[str, str]:
    """Id and value of the client key that the file names by its hash."""
    from datetime import UTC, datetime

    from fluxen.config.starter import starter
    from fluxen.keys.generate import hash_of, new_key
    from fluxen.keys.private import write_whole

    key_id, key = _free_id(), new_key()
    path.parent.mkdir(parents=True, exist_ok=True)
    if answers.typed:
        (path.parent / SECRETS).mkdir(exist_ok=True, mode=0o700)
        write_whole(path.parent / SECRETS / ".gitignore", b"*\n")
    for name, secret in answers.typed.items():
        write_whole(path.parent / SECRETS / name, f"{secret}\n".encode())
    text = starter(answers.bind, answers.upstreams, key_id, hash_of(key), datetime.now(UTC).date())
    try:
        write_whole(path, text.encode(), mode=0o644, replace=force, keep=force)
    except FileExistsError:
        raise _exists(path) from None
    return key_id, key


def _free_id() -> str:
    """An id that keys.json does not have: the key there would replace the one of the file."""
    from fluxen.config.paths import data_dir
    from fluxen.keys.store import KeyStore

    stored = KeyStore(data_dir(None, os.environ)).read()
    taken = {key.id for key in stored.keys} if stored else set()
    number, key_id = 1, FIRST_ID
    while key_id in taken:
        number += 1
        key_id = f"{FIRST_ID}-{number}"
    return key_id


def _check(path: Path) -> tuple[Snapshot | None, list[str]]:
    """The road of `fluxen serve`, and what would stop it there: a proxy in the environment, say."""
    from fluxen.config.load import load_config
    from fluxen.gateway.snapshot import build

    try:
        return build(load_config(path, os.environ), os.environ), []
    except ConfigError as error:
        return None, [*error.problems] or [error.message]


def _said(path: Path, answers: Answers, key_id: str, key: str, snapshot: Snapshot | None) -> str:
    from fluxen.config.paths import find_config

    names = ", ".join(one.name for one in answers.upstreams) or "whichever have a key in the environment"
    text = f"Wrote {path} (providers: {names})"
    text += "".join(f"\nWrote {path.parent / SECRETS / name}, which only you can read" for name in answers.typed)
    text += f"\n\nThe first client key, '{key_id}'. Keep it now, it is not shown again:\n\n  {key}\n"
    option = "" if find_config(None, os.environ) == path else f" --config {path}"
    text += f"\nStart the gateway:\n  fluxen serve{option}\n"
    if snapshot is not None and answers.bind.port:
        text += try_it(gateway_url(*answers.bind, tls=snapshot.config.server.tls is not None), key, snapshot)
    return text
