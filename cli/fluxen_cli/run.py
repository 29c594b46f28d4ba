"""`fluxen run`: a command with a gateway of its own, and what it cost at the end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fluxen_cli import output
from fluxen_cli.places import ConfigFile
from fluxen_cli.tags import check_label, parse_tags

if TYPE_CHECKING:
    from fluxen.config.load import Loaded
    from fluxen.gateway.snapshot import Snapshot
    from fluxen.keys.client import ClientKey

CONTEXT = {"allow_interspersed_args": False}
"""Options behind COMMAND are COMMAND's."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes, as every shell has them."""

_STRAGGLERS_MS = 5_000
"""How long requests may go on when the command they were for has ended."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What the rows of a run say about it."""

    team: str | None
    project: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    data_dir: Path


def command(
    arguments: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run, and its arguments.")],
    tags: Annotated[
        list[str] | None, typer.Option("--tags", metavar="NAME=VALUE", help="Tags for its rows: a=b,c=d. Repeatable.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="Team in its rows.")] = None,
    project: Annotated[str | None, typer.Option(help="Project in its rows.")] = None,
    summary: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the summary to FILE, too, as JSON.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the gateway says, on stderr.")] = False,
    config: ConfigFile = None,
) -> None:
    """Run COMMAND through a gateway of its own, then say what it cost.

    fluxen run -- python app.py: the command finds the gateway in the variables that the SDKs of OpenAI, Anthropic and
    Gemini read, and so do Claude Code and Codex. Stdin, stdout and the terminal are the command's; the summary comes
    on stderr. Configuration, provider keys and ledger are those of `fluxen serve`; no client key is needed. The exit
    code is the command's (128 + N when signal N ended it; 127 when there is no such command, 126 when it can't run).
    """
    run = os.urandom(4).hex()
    labels = parse_tags(tags or ())
    for label in (team, project):
        if label is not None:
            check_label(label)
    if shutil.which(arguments[0]) is None and not (os.sep in arguments[0] and Path(arguments[0]).exists()):
        _cant_run(arguments[0], FileNotFoundError())

    import shlex
    from contextlib import ExitStack

    with ExitStack() as stack:
        file = stack.enter_context(summary.open("w", encoding="utf-8")) if summary else None
        begun = time.time()
        ended = _through_gateway(arguments, config, Caller(team, project, {**labels, "run": run}), quiet, verbose)
        seconds = time.time() - begun
        if file is not None or not quiet:
            from fluxen_cli.bill import draw_up

            bill = draw_up(ended.data_dir, run, begun)
            if not quiet:
                output.note(bill.text(seconds, f" --config {shlex.quote(str(config))}" if config else ""))
            if file is not None:
                file.write(output.json_text({**bill.fields(seconds), "exit_code": ended.code}))
    raise typer.Exit(ended.code)


def _through_gateway(
    arguments: Sequence[str], config: Path | None, caller: Caller, quiet: bool, verbose: bool
) -> Ended:
    """Run the command while a gateway serves it. When this returns, every row is written."""
    from fluxen_cli import clients
    from fluxen_cli.foreground import wait_for
    from fluxen_cli.private import PrivateGateway

    announce, says = (_announce, 2) if verbose else (None, None)
    gateway = PrivateGateway(lambda: _prepare(config, caller), os.environ, announce=announce, says=says)
    try:
        ready = gateway.ready
        env = clients.environment(os.environ, arguments[0], ready.url, ready.keys)
        if not quiet:
            for name, value in clients.replaced(os.environ, ready.keys).items():
                output.note(f"fluxen: {name} was {output.visible(value)}; the gateway takes its place")
            output.note(f"fluxen: {_listed(clients.spoken(ready.keys))} through {ready.url}; costs at the end")
        try:
            code = wait_for(clients.arguments(arguments, ready.url, ready.keys, env), env)
        except OSError as error:
            _cant_run(arguments[0], error)
        return Ended(code, Path(ready.data_dir))
    finally:
        gateway.stop()


def _prepare(config: Path | None, caller: Caller) -> tuple[Loaded, ClientKey]:
    """The configuration of `fluxen serve`, on a port of its own. Called in the gateway's process."""
    from dataclasses import replace

    from fluxen.config.load import load_config
    from fluxen.config.values import Address
    from fluxen.keys.client import ClientKey

    loaded = load_config(config, os.environ)
    server = loaded.config.server
    private = {
        "bind_address": Address("127.0.0.1", 0),
        "workers": 1,
        "tls": None,  # the way is from this machine to itself, and its certificates are others' names
        "shutdown_timeout_ms": min(server.shutdown_timeout_ms, _STRAGGLERS_MS),
    }
    changed = loaded.config.model_copy(update={"server": server.model_copy(update=private), "admin": None})
    return replace(loaded, config=changed), ClientKey("", caller.team, caller.project, caller.tags)


def _announce(snapshot: Snapshot, host: str, port: int) -> None:
    from fluxen.config.paths import ledger_folder
    from fluxen_cli.serve import upstream_lines, welcome

    place = str(ledger_folder(snapshot.config.data_dir))
    output.note(welcome(host, port, upstream_lines(snapshot), place, open_mode=snapshot.open_mode))


def _cant_run(program: str, error: OSError) -> NoReturn:
    """Say why, and end as a shell would."""
    shown = output.visible(program)
    if not isinstance(error, FileNotFoundError):
        output.note(f"error: {shown} can't be run: {error.strerror}")
        output.note("hint: a script needs a first line such as #!/bin/sh, and chmod +x")
        raise typer.Exit(NOT_EXECUTABLE)
    if shutil.which(program) is not None:
        output.note(f"error: {shown} can't be run: what its first line (#!) names is not there")
        raise typer.Exit(NOT_EXECUTABLE)
    output.note(f"error: there is no command {shown}")
    if Path(program).is_file():
        output.note(
            f"hint: a file of the folder you are in is ./{shown}, and python runs a script that isn't executable"
        )
    elif " " in program:
        output.note("hint: without quotes around the whole: fluxen run -- python app.py")
    else:
        output.note("hint: is it installed, and on your PATH? What your shell alone knows (an alias) can't be run")
    raise typer.Exit(NOT_FOUND)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "nothing"
