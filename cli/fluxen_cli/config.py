"""`fluxen config`: what is in force, and how the file differs from it. Secrets are never shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir
from fluxen_cli.reload import Pid, gateways

if TYPE_CHECKING:
    from fluxen.gateway.state import State

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting. None: it isn't there."""

    path: str
    running: Any
    file: Any
    restart: bool

    @property
    def kind(self) -> str:
        return "added" if self.running is None else "removed" if self.file is None else "changed"


class _Environment(Mapping[str, str]):
    """What this shell has, and whatever else a gateway may have been started with: it is compared by its name."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = {name: value for name, value in known.items() if name != "FLUXEN_DATA_DIR"}

    def __getitem__(self, name: str) -> str:
        return self._known.get(name) or "unknown-here"

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: Any = None) -> Any:
        """What is looked for without being written anywhere is there or not."""
        return self._known.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def build() -> typer.Typer:
    app = typer.Typer(
        help="What is in force, and how the file differs.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("diff")(diff)
    app.command("show")(show)
    return app


def diff(
    file: Annotated[Path | None, typer.Argument(help="Default: the file that the gateway was started with.")] = None,
    pid: Pid = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Compare the running gateway's configuration with the file, setting by setting.

    Exit code 0: they say the same. 1: they differ, as with diff. Settings given by options of `fluxen serve` are left
    out. Secrets are compared by fingerprints; those from the environment (${NAME}) by their names.
    """
    found = gateways(data_dir, config, pid)
    if len(found) > 1:
        raise FluxenError(
            f"{len(found)} gateways are running with this data folder", hint="name one of them: --pid "
            + ", --pid ".join(str(state.pid) for state in found)
        )  # fmt: skip
    [state] = found
    path = file or (Path(state.config) if state.config else None)
    if path is None:
        raise FluxenError("the gateway runs without a configuration file", hint="name a file to compare it with")
    differences = list(_differences(state, path))
    if as_json:
        answer = [
            {"path": one.path, "kind": one.kind, "running": one.running, "file": one.file, "needs_restart": one.restart}
            for one in differences
        ]
        output.emit_json({"same": not differences, "pid": state.pid, "file": str(path), "differences": answer})
    elif not differences:
        output.emit(f"same: what is in force (PID {state.pid}, generation {state.generation}) is what {path} says\n")
    else:
        output.emit(f"running: PID {state.pid}, generation {state.generation}\nfile:    {path}\n\n")
        for one in differences:
            output.emit("\n".join(_lines(one)) + "\n")
    if differences:
        raise typer.Exit(FluxenError.exit_code)


def show(
    config: ConfigFile = None,
    running: Annotated[
        bool, typer.Option("--running", help="What the running gateway has, instead of what the file says.")
    ] = False,
    pid: Pid = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the whole configuration, defaults among it. Secrets are shown as where they come from, or as ***."""
    from fluxen.config.load import load_config
    from fluxen.config.shown import flat, shown

    if running or pid is not None:
        fields = gateways(data_dir, config, pid)[0].running
    else:
        fields = shown(load_config(config, os.environ).config, b"")
    if as_json:
        output.emit_json({"config": fields})
        return
    for path, value in flat(fields):
        output.emit(f"{path}: {_text(value)}\n")


def _differences(state: State, path: Path) -> Iterator[Difference]:
    from fluxen.config.document import MAX_BYTES, dotted
    from fluxen.config.load import load_bytes
    from fluxen.config.paths import unreadable
    from fluxen.config.shown import flat, shown
    from fluxen.gateway.reload import FIXED

    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    written = load_bytes(raw, _Environment(os.environ), path)
    fixed = {dotted(where) for where in FIXED}
    theirs = dict(flat(state.running))
    ours = dict(flat(shown(written.config, bytes.fromhex(state.salt))))
    for name in dict.fromkeys((*theirs, *ours)):
        if theirs.get(name) != ours.get(name) and name not in (*state.options, "data_dir"):
            yield Difference(name, theirs.get(name), ours.get(name), name in fixed)
    named = isinstance(written.document.value, dict) and written.document.value.get("data_dir") is not None
    folder = str(written.config.data_dir)  # where it isn't written, the gateway's user and environment decide
    if named and "data_dir" not in state.options and folder != theirs.get("data_dir"):
        yield Difference("data_dir", theirs.get("data_dir"), folder, True)


def _lines(one: Difference) -> Iterator[str]:
    yield one.path + ("  (needs a restart)" if one.restart else "")
    if one.running is not None:
        yield f"  - {_text(one.running)}"
    if one.file is not None:
        yield f"  + {_text(one.file)}"


def _text(value: object) -> str:
    import json

    return output.visible(value if isinstance(value, str) else json.dumps(value))
