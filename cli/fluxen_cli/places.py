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


def data_folder(data_dir: Path | None, config: Path | None) -> Path:
    """The data folder of the gateway that is meant, not necessarily there yet: of keys.json and what else is kept.

    When nobody names one, it is the service's (PACKAGED_DATA) for whoever works with the service's configuration, or
    has no folder of his own while the service has one.
    """
    from fluxen.config import paths

    candidates = _candidates(data_dir, config)
    if len(candidates) == 1:
        return candidates[0]
    own, packaged = candidates
    if paths.find_config(config, os.environ) == paths.SYSTEM_CONFIG and _is_folder(packaged):
        return packaged
    return packaged if not _is_folder(own) and _is_folder(packaged) else own


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


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
