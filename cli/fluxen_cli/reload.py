"""`fluxen reload`: have the running gateway take up its configuration, and say what came of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import ConfigError, FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir

if TYPE_CHECKING:
    from fluxen.gateway.state import State

PATIENCE = 20.0
"""Seconds until a gateway that does not answer is given up: longer than its own patience with its workers."""

Pid = Annotated[int | None, typer.Option("--pid", help="Only the gateway with this PID.")]


def command(
    pid: Pid = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Have the running gateway read its files again, now.

    It does so by itself within a second of a change. This waits for the outcome and tells it: every worker has what is
    new, or nothing has changed, or what is wrong (exit code 3; what was in force stays in force).
    """
    ended = []
    for state in gateways(data_dir, config, pid):
        ended.append((state, _reload(data_dir, config, state)))
    if as_json:
        answer = [_fields(before, after) for before, after in ended]
        output.emit_json({"ok": not any(after.rejected for _, after in ended), "gateways": answer})
    for before, after in ended:
        if not as_json and not after.rejected:
            output.emit(f"{_text(before, after)}\n")
            for setting in after.needs_restart:
                output.note(f"note: {output.visible(setting)} waits for a restart")
            for warning in after.warnings:
                output.note(f"warning: {output.visible(warning)}")
    rejected = [after for _, after in ended if after.rejected]
    if rejected and as_json:
        raise typer.Exit(ConfigError.exit_code)
    if rejected:
        problems = tuple(dict.fromkeys(problem for after in rejected for problem in after.problems))
        names = ", ".join(str(after.pid) for after in rejected)
        raise ConfigError(
            f"the gateway (PID {names}) goes on with generation {rejected[0].generation}: the new one can't be used",
            problems,
        )


def gateways(data_dir: Path | None, config: Path | None, pid: int | None) -> list[State]:
    """The running gateways of the data folder that is meant. Raises FluxenError when there is none."""
    from fluxen.gateway.state import running
    from fluxen_cli.places import data_folder

    folder = data_folder(data_dir, config)
    try:
        found = running(folder)
    except PermissionError as error:
        raise FluxenError(
            f"can't look into {error.filename}: {error.strerror}", hint="be the user the gateway runs as, or root"
        ) from None
    if pid is not None:
        found = [state for state in found if state.pid == pid]
    if not found:
        which = f" with the PID {pid}" if pid is not None else ""
        raise FluxenError(
            f"no gateway{which} is running with the data folder {folder}",
            hint="start `fluxen serve`, or name its folder with --data-dir or FLUXEN_DATA_DIR",
        )
    return found


def _reload(data_dir: Path | None, config: Path | None, before: State) -> State:
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise FluxenError(
            f"may not signal the gateway (PID {before.pid})", hint="be the user it runs as, or root"
        ) from None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.02)
        [state] = gateways(data_dir, config, before.pid)
        if state.attempts > before.attempts and (state.rejected or state.applied >= state.workers):
            return state
    raise FluxenError(f"the gateway (PID {before.pid}) did not say within {PATIENCE:g} s what came of it: see its log")


def _text(before: State, after: State) -> str:
    which = f"PID {after.pid}, {after.address}"
    if after.generation == before.generation:
        return f"{which}: nothing has changed (generation {after.generation})"
    workers = f"{after.workers} worker{'s' if after.workers != 1 else ''}"
    return f"{which}: generation {after.generation} is in force in {workers} after {after.milliseconds} ms"


def _fields(before: State, after: State) -> dict[str, object]:
    return {
        "pid": after.pid,
        "address": after.address,
        "ok": not after.rejected,
        "changed": after.generation != before.generation,
        "generation": after.generation,
        "workers": after.workers,
        "milliseconds": after.milliseconds if after.generation != before.generation else None,
        "problems": after.problems,
        "warnings": after.warnings,
        "needs_restart": after.needs_restart,
    }
