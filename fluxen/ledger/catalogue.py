"""fluxen.duckdb: the ledger for other people's tools. Fluxen itself never reads it.

It holds views over an explicit list of the immutable Parquet files, by absolute path, so each query sees one commit,
whole, some seconds behind; `ledger_commit` says which. It is built aside in the format of DuckDB 1.2 (which every 1.x
since and 2.x read) and renamed over the old one: whoever has the old one open keeps it, and the files it names stay
for the grace. Nobody ever has it open for writing: DuckDB would let no reader in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fluxen.ledger.adjusted import adjusted
from fluxen.ledger.engine import connect
from fluxen.ledger.journal import no_checkpoint, sync_folder
from fluxen.ledger.manifest import ADJUSTMENTS, DATA, REQUESTS, Kind, Manifest
from fluxen.ledger.owner import hand_over
from fluxen.ledger.parquet import SHAPES
from fluxen.ledger.schema import literal

NAME = "fluxen.duckdb"
TEMPORARY = "tmp"
STORAGE_VERSION = "v1.2.0"


def build(folder: Path, manifest: Manifest, checkpoint: Callable[[str], None] = no_checkpoint) -> Path:
    """Write fluxen.duckdb for this manifest. Call it with the compactor's lock held."""
    folder = folder.resolve()
    target = folder / NAME
    aside = folder / TEMPORARY / NAME
    aside.parent.mkdir(exist_ok=True)
    for stale in (aside, _log(aside)):
        stale.unlink(missing_ok=True)
    requests, adjustments = (_source(folder, manifest, kind) for kind in (REQUESTS, ADJUSTMENTS))
    costs = adjusted(requests, adjustments) if manifest.of(ADJUSTMENTS) else requests
    with connect(threads=1) as connection:
        connection.execute(
            f"ATTACH {literal(str(aside))} AS catalogue (STORAGE_VERSION {literal(STORAGE_VERSION)}, BLOCK_SIZE 16384)"
        )
        connection.execute(f"CREATE VIEW catalogue.requests AS {costs}")
        connection.execute(f"CREATE VIEW catalogue.adjustments AS {adjustments}")
        connection.execute(
            "CREATE VIEW catalogue.ledger_commit AS SELECT "
            f"make_timestamp({manifest.committed}) AS committed, {manifest.generation}::BIGINT AS generation, "
            f"{sum(file.rows for file in manifest.of(REQUESTS))}::BIGINT AS rows"
        )
        connection.execute("DETACH catalogue")
    _log(aside).unlink(missing_ok=True)
    aside.chmod(0o440)
    hand_over(aside, folder)
    checkpoint("views built")
    _log(target).unlink(missing_ok=True)  # of a tool that opened an older one for writing
    aside.rename(target)
    checkpoint("views renamed")
    sync_folder(folder)
    return target


def _source(folder: Path, manifest: Manifest, kind: Kind) -> str:
    return SHAPES[kind].source([(str(folder / DATA / file.name), file.schema) for file in manifest.of(kind)])


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")
