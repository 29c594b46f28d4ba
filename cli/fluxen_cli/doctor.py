"""`fluxen doctor`: is everything that a gateway needs there and in order? Changes nothing, takes a few seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError, FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile

if TYPE_CHECKING:
    from fluxen_cli.checks import Finding


def command(
    config: ConfigFile = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Call no upstream; so neither keys nor the clock are checked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Find out what a gateway would lack or stumble over here.

    Checks configuration, port, provider keys, clock, certificates, files, prices and ledger. Exit code 1 when something
    is wrong. Provider keys are tried by asking for the list of models, which costs nothing.
    """
    findings: list[Finding] = []
    for finding in examine(config, offline=offline):
        findings.append(finding)
        if not as_json:
            output.emit(_line(finding))
    count = {status: sum(finding.status == status for finding in findings) for status in ("fail", "warn")}
    if as_json:
        checks = [
            {"check": one.check, "status": one.status, "message": one.message, "hint": one.hint} for one in findings
        ]
        output.emit_json({"ok": not count["fail"], "checks": checks})
    else:
        problems = f"{count['fail']} problem{'' if count['fail'] == 1 else 's'}" if count["fail"] else "no problem"
        warnings = f", {count['warn']} warning{'' if count['warn'] == 1 else 's'}" if count["warn"] else ""
        output.emit(f"{problems}{warnings}\n")
    if count["fail"]:
        raise typer.Exit(FluxenError.exit_code)


def examine(config: Path | None, *, offline: bool) -> Iterator[Finding]:
    """What there is to find, in the order in which one would mend it."""
    from fluxen.config.load import load_config
    from fluxen.gateway.certificates import Authorities
    from fluxen.gateway.snapshot import build
    from fluxen_cli import checks

    authorities = Authorities(os.environ)
    yield checks.installation()
    try:
        loaded = load_config(config, os.environ)
        snapshot = build(loaded, os.environ)
    except ConfigError as error:
        for problem in error.problems or (error.message,):
            yield checks.Finding("configuration", "fail", problem, error.hint)
        yield checks.certificates(authorities, os.environ)
        try:
            folder = _data_dir(config)
        except ConfigError:
            return  # of a file that can't be read nothing else can be known
    else:
        calls = None
        if not offline:
            from fluxen_cli.calls import Calls

            calls = Calls(snapshot, authorities)
        yield from checks.configuration(loaded, snapshot)
        yield checks.port(snapshot)
        yield checks.certificates(authorities, os.environ)
        yield from checks.permissions(loaded, os.environ)
        folder = loaded.config.data_dir
        if calls is not None:
            yield from calls.findings()
    yield checks.data_folder(folder)
    yield from checks.ledger(folder / "ledger")


def _data_dir(config: Path | None) -> Path:
    """Of a configuration that is not valid."""
    from fluxen.config import paths
    from fluxen.config.locate import written_data_dir

    file = paths.find_config(config, os.environ)
    return paths.data_dir(written_data_dir(file, os.environ) if file else None, os.environ)


def _line(finding: Finding) -> str:
    text = f"{finding.status:4}  {finding.check}: {output.visible(finding.message)}\n"
    return text + (f"      hint: {output.visible(finding.hint)}\n" if finding.hint else "")
