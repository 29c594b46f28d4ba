"""Where data and gateway are, for a command that only reads: without checking the configuration and its secrets.

`fluxen report` runs in a shell that has no provider keys, perhaps beside a file somebody is just editing. All it needs
of that file is `data_dir`; all that `fluxen health` needs is where and how the gateway listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fluxen.config.document import MAX_BYTES, read_document
from fluxen.config.paths import expand, unreadable
from fluxen.config.values import Address, parse_address, substitute
from fluxen.errors import ConfigError


def written_data_dir(file: Path, env: Mapping[str, str]) -> Path | None:
    """`data_dir` of a configuration that need not be valid otherwise."""
    hint = "or name it: --data-dir"
    value = _read(file, "data_dir", hint).get("data_dir")
    if not isinstance(value, str) or not value:
        return None
    try:
        text = substitute(value, env)
    except ValueError as error:
        raise ConfigError(f"{file}: data_dir: {error}", hint=hint) from None
    return file.parent.absolute() / expand(text)


def written_bind_address(file: Path, env: Mapping[str, str]) -> Address | None:
    """`server.bind_address` of such a configuration."""
    hint = "or name it: --url"
    server = _read(file, "bind_address", hint).get("server")
    value = server.get("bind_address") if isinstance(server, dict) else None
    if value is None:
        return None
    try:
        return parse_address(substitute(str(value), env))
    except ValueError as error:
        raise ConfigError(f"{file}: server.bind_address: {error}", hint=hint) from None


def written_certificate(file: Path, env: Mapping[str, str]) -> Path | None:
    """`server.tls.cert_file` of such a configuration: the gateway speaks HTTPS, if there is one."""
    hint = "or name it: --url"
    server = _read(file, "tls", hint).get("server")
    tls = server.get("tls") if isinstance(server, dict) else None
    value = tls.get("cert_file") if isinstance(tls, dict) else None
    if not isinstance(value, str) or not value:
        return None
    try:
        return file.parent.absolute() / expand(substitute(value, env))
    except ValueError as error:
        raise ConfigError(f"{file}: server.tls.cert_file: {error}", hint=hint) from None


def written_upstreams(file: Path, env: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """`target_url` and `dialect` of each of its upstreams, as far as they can be told: who serves and bills it."""
    section = _read(file, "upstreams", "mend it, or name another with --config").get("upstreams")
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, fields in section.items() if isinstance(section, dict) else ():
        if not isinstance(fields, dict):
            continue
        target, dialect = fields.get("target_url"), fields.get("dialect")
        try:
            url = substitute(target, env) if isinstance(target, str) else None
        except ValueError:  # of a variable that this shell has not
            url = None
        found[str(name)] = url, dialect if isinstance(dialect, str) else None
    return found


def _read(file: Path, wanted: str, hint: str) -> dict[str, object]:
    """The top of the file; empty when it is no mapping."""
    try:
        with file.open("rb") as stream:
            document = read_document(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise unreadable(file, error) from error
    if document.value is None and document.problems:
        lines = tuple(problem.render(str(file)) for problem in document.problems)
        raise ConfigError(f"{file} can't be read, so its {wanted} is not known", lines, hint=hint)
    return document.value if isinstance(document.value, dict) else {}
