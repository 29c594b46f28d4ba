"""The journey of all recorded exchanges through one gateway, made once per way of splitting the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway.conftest import environment
from gateway.rig import Gateway, until
from traffic.rig import MOUNTS, OURS, Replay, Run, config, drive, expectations, fluxen, load, through_mounts

REPORT = ("report", "costs", "--json", "--by", "route,upstream")


@dataclass(frozen=True)
class Journey:
    """What came of it. rows: the ledger's, by their id, read when the gateway had stopped."""

    gateway: Gateway
    mounts: Run
    unified: Run
    recorded: dict[str, dict[str, Any]]
    expected: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, Any]]
    while_serving: str
    after_stopping: str

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.mounts, self.unified


@pytest.fixture(scope="session", params=["event", "random"])
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder: Path = tmp_path_factory.mktemp(f"traffic-{request.param}")
    recorded = load("dev.jsonl.gz")
    replay = Replay(folder, "--split", request.param, "--seed", "7")
    try:
        gateway = Gateway(folder / "gateway", config(replay.url), environment(folder / "home", {}))
        (gateway.folder / "home").mkdir()
        try:
            mounts = drive(_new(folder / "mounts"), replay, gateway, *through_mounts(MOUNTS))
            providers = [option for name in OURS for option in ("--provider", name)]
            unified = drive(_new(folder / "unified"), replay, gateway, *providers)
            count = len(mounts.results) + len(unified.results)
            until(lambda: gateway.query("SELECT count(*) AS n FROM requests")[0]["n"] >= count, f"{count} rows")
            while_serving = fluxen(gateway, *REPORT)
        finally:
            gateway.stop()
    finally:
        replay.close()
    rows = {str(row["id"]): row for row in gateway.query("SELECT * FROM requests")}
    yield Journey(
        gateway, mounts, unified, recorded, expectations(recorded), rows, while_serving, fluxen(gateway, *REPORT)
    )


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
