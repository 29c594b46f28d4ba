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
    from fluxen.config.locate import data_candidates
    from fluxen.config.paths import existing_ledger

    return existing_ledger(data_candidates(data_dir, config, os.environ))
