from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxen.config import paths
from fluxen.errors import ConfigError, NoDataError


def test_a_user_without_a_home_must_name_a_folder() -> None:
    nobody = {"HOME": "relative/home"}
    assert paths.config_candidates(nobody) == (Path("fluxen.yaml"), Path("/etc/fluxen/fluxen.yaml"))
    with pytest.raises(ConfigError, match="no home folder"):
        paths.data_dir(None, nobody)
    assert paths.data_dir(Path("/srv"), nobody) == Path("/srv")
    assert paths.data_dir(Path("/srv"), {"FLUXEN_DATA_DIR": "/env"}) == Path("/env")


def test_a_folder_is_no_configuration_and_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        paths.find_config(tmp_path, {})
    assert caught.value.message == f"{tmp_path} is a directory, not a configuration file"
    assert caught.value.hint == f"name the file in it, such as {tmp_path}/fluxen.yaml"
    with pytest.raises(ConfigError, match=r"\(named by FLUXEN_CONFIG\) is a directory"):
        paths.find_config(None, {"FLUXEN_CONFIG": str(tmp_path)})
    with pytest.raises(ConfigError, match="no configuration file"):
        paths.find_config(tmp_path / "none", {})


def test_xdg_folders_must_be_absolute() -> None:
    assert paths.data_dir(None, {"HOME": "/h", "XDG_DATA_HOME": "data"}) == Path("/h/.local/share/fluxen")
    assert paths.data_dir(None, {"HOME": "/h", "XDG_DATA_HOME": "/data"}) == Path("/data/fluxen")


def test_a_tilde_without_a_user_stays() -> None:
    assert paths.expand("~no-such-user-here/x") == Path("~no-such-user-here/x")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that we may not look into; root becomes somebody else for it."""
    folder = tmp_path / "locked"
    (folder / "ledger").mkdir(parents=True)
    (folder / "fluxen.yaml").touch()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    folder.chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)


def test_folders_one_may_not_look_into(locked: Path, tmp_path: Path) -> None:
    with pytest.raises(NoDataError) as caught:
        paths.existing_ledger((tmp_path / "none", locked))
    expected = f"no ledger found; looked in {tmp_path}/none/ledger, {locked}/ledger (permission denied)"
    assert caught.value.message == expected
    with pytest.raises(ConfigError, match="no configuration file"):
        paths.find_config(locked / "fluxen.yaml", {})
