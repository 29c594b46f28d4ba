"""Where configuration and data are found, so that `fluxen report` reads what `fluxen serve` wrote without an option.

Configuration: `--config`, else `$FLUXEN_CONFIG`, else the first that exists of ./fluxen.yaml,
$XDG_CONFIG_HOME/fluxen/fluxen.yaml and /etc/fluxen/fluxen.yaml; none of them is fine (open mode).
Data: `$FLUXEN_DATA_DIR`, else `data_dir:` of the configuration, else $XDG_DATA_HOME/fluxen.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxen.errors import ConfigError, NoDataError

FILE_NAME = "fluxen.yaml"
SYSTEM_CONFIG = Path("/etc/fluxen") / FILE_NAME
PACKAGED_DATA = Path("/var/lib/fluxen")
"""Where an installed service keeps its data; read when the user has none of their own."""


def config_candidates(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The places looked at when nobody names a file, in order."""
    own = _base(env, "XDG_CONFIG_HOME", ".config")
    return (Path(FILE_NAME), *([own / "fluxen" / FILE_NAME] if own else []), SYSTEM_CONFIG)


def find_config(explicit: Path | None, env: Mapping[str, str]) -> Path | None:
    """The configuration file to use; None when there is none. A file somebody named must exist."""
    named = explicit or (Path(env["FLUXEN_CONFIG"]) if env.get("FLUXEN_CONFIG") else None)
    if named is not None:
        if not _is_file(named):
            source = "" if explicit else " (named by FLUXEN_CONFIG)"
            if _is_folder(named):
                raise ConfigError(
                    f"{named}{source} is a directory, not a configuration file",
                    hint=f"name the file in it, such as {named / 'fluxen.yaml'}",
                )
            hint = "check its path" if explicit else "mend or unset FLUXEN_CONFIG"
            raise ConfigError(f"no configuration file {named}{source}", hint=hint)
        return named
    return next((path for path in config_candidates(env) if _is_file(path)), None)


def unreadable(path: Path, error: OSError) -> ConfigError:
    """A configuration that is there; a service's own, most often, in /etc."""
    hint = "be the user it is for, or have a file of your own: `fluxen init` writes ./fluxen.yaml, which comes first"
    return ConfigError(
        f"can't read {path}: {error.strerror}", hint=hint if isinstance(error, PermissionError) else None
    )


def read_file(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a file. Nothing else is waited for: whoever opens a pipe stands still until somebody
    writes into it, and a device has no end. Raises OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(limit)


def data_dir(configured: Path | None, env: Mapping[str, str]) -> Path:
    """The folder of ledger, cache and keys. Absolute; not necessarily there yet."""
    if env.get("FLUXEN_DATA_DIR"):
        return Path(env["FLUXEN_DATA_DIR"]).absolute()
    if configured is not None:
        return configured.absolute()
    own = _base(env, "XDG_DATA_HOME", ".local/share")
    if own is None:
        raise ConfigError("there is no home folder to keep data in", hint="name one: FLUXEN_DATA_DIR or data_dir")
    return own / "fluxen"


def ledger_folder(data: Path) -> Path:
    return data / "ledger"


def existing_ledger(candidates: Sequence[Path]) -> Path:
    """The first of the data folders that holds a ledger; NoDataError names every folder looked in."""
    looked = []
    for folder in map(ledger_folder, candidates):
        try:
            if stat.S_ISDIR(folder.stat().st_mode) and os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
                return folder
            looked.append(f"{folder} (permission denied)")
        except PermissionError:
            looked.append(f"{folder} (permission denied)")
        except OSError:
            looked.append(str(folder))
    raise NoDataError(
        f"no ledger found; looked in {', '.join(looked)}",
        hint="start `fluxen serve` and send a request, or name the data folder with --data-dir or FLUXEN_DATA_DIR",
    )


def expand(path: str) -> Path:
    """`~` and `~user` as folders, where there are such users."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _is_file(path: Path) -> bool:
    """A file in a folder one may not look into is not there."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _base(env: Mapping[str, str], variable: str, default: str) -> Path | None:
    """An XDG base folder (the standard has relative values ignored); None for a user without a home."""
    value = Path(env.get(variable, ""))
    if value.is_absolute():
        return value
    home = expand(env.get("HOME") or "~")
    return home / default if home.is_absolute() else None
