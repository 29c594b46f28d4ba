"""Where configuration and data are found, so that `fluxen report` reads what `fluxen serve` wrote without an option.

Configuration: `--config`, else `$FLUXEN_CONFIG`, else the first that exists of ./fluxen.yaml,
$XDG_CONFIG_HOME/fluxen/fluxen.yaml and /etc/fluxen/fluxen.yaml; none of them is fine (open mode).
Data: `$FLUXEN_DATA_DIR`, else `data_dir:` of the configuration, else $XDG_DATA_HOME/fluxen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxen.errors import ConfigError, NoDataError

FILE_NAME = "fluxen.yaml"
SYSTEM_CONFIG = Path("/etc/fluxen") / FILE_NAME
PACKAGED_DATA = Path("/var/lib/fluxen")
"""Where an installed service keeps its data; read when the user has none of their own."""


def config_candidates(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The places looked at when nobody names a file, in order."""
    return (Path(FILE_NAME), _base(env, "XDG_CONFIG_HOME", ".config") / "fluxen" / FILE_NAME, SYSTEM_CONFIG)


def find_config(explicit: Path | None, env: Mapping[str, str]) -> Path | None:
    """The configuration file to use; None when there is none. A file somebody named must exist."""
    named = explicit or (Path(env["FLUXEN_CONFIG"]) if env.get("FLUXEN_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            source = "" if explicit else " (named by FLUXEN_CONFIG)"
            raise ConfigError(f"no configuration file {named}{source}", hint="name another with --config")
        return named
    return next((path for path in config_candidates(env) if path.is_file()), None)


def data_dir(configured: Path | None, env: Mapping[str, str]) -> Path:
    """The folder of ledger, cache and keys. Absolute; not necessarily there yet."""
    if env.get("FLUXEN_DATA_DIR"):
        return Path(env["FLUXEN_DATA_DIR"]).absolute()
    if configured is not None:
        return configured.absolute()
    return _base(env, "XDG_DATA_HOME", ".local/share") / "fluxen"


def ledger_folder(data: Path) -> Path:
    return data / "ledger"


def existing_ledger(candidates: Sequence[Path]) -> Path:
    """The first of the data folders that holds a ledger; NoDataError names every folder looked in."""
    for data in candidates:
        if ledger_folder(data).is_dir():
            return ledger_folder(data)
    looked = ", ".join(str(ledger_folder(data)) for data in candidates)
    raise NoDataError(
        f"no ledger found; looked in {looked}",
        hint="start `fluxen serve` and send a request, or name the data folder with --data-dir or FLUXEN_DATA_DIR",
    )


def _base(env: Mapping[str, str], variable: str, default: str) -> Path:
    """An XDG base folder; the standard has relative values ignored."""
    value = Path(env.get(variable, ""))
    if value.is_absolute():
        return value
    home = env.get("HOME")
    return (Path(home) if home else Path.home()) / default
