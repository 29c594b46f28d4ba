"""The options by which reading commands name where the data is, and the folder they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data folder; default: FLUXEN_DATA_DIR, data_dir of the configuration, XDG."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; default: FLUXEN_CONFIG, ./fluxen.yaml, XDG, /etc.")
]


def ledger_folder(data_dir: Path | None, config: Path | None) -> Path:
    """The folder of the ledger that is there; NoDataError names every folder looked in."""
    from fluxen.config.paths import existing_ledger

    return existing_ledger(_candidates(data_dir, config))


def _candidates(explicit: Path | None, config: Path | None) -> tuple[Path, ...]:
    """The data folders to look in, in order. One that somebody named is the only one: others hold other data."""
    from fluxen.config import paths

    if explicit is not None:
        return (paths.expand(str(explicit)).absolute(),)
    if os.environ.get("FLUXEN_DATA_DIR"):
        return (paths.data_dir(None, os.environ),)
    if file := paths.find_config(config, os.environ):
        from fluxen.config.locate import written_data_dir  # YAML costs 20 ms, and mostly there is no file

        if written := written_data_dir(file, os.environ):
            return (written,)
    return (paths.data_dir(None, os.environ), paths.PACKAGED_DATA)
