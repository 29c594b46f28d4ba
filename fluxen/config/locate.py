"""Where the data is, for a command that only reads: without checking the configuration and without its secrets.

`fluxen report` runs in a shell that has no provider keys, perhaps beside a file somebody is just editing. All it needs
of that file is `data_dir`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fluxen.config.document import MAX_BYTES, read_document
from fluxen.config.paths import expand
from fluxen.config.values import substitute
from fluxen.errors import ConfigError


def written_data_dir(file: Path, env: Mapping[str, str]) -> Path | None:
    """`data_dir` of a configuration that need not be valid otherwise."""
    try:
        with file.open("rb") as stream:
            document = read_document(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from error
    if document.value is None and document.problems:
        lines = tuple(problem.render(str(file)) for problem in document.problems)
        raise ConfigError(f"{file} can't be read, so its data_dir is not known", lines, hint="or name it: --data-dir")
    value = document.value.get("data_dir") if isinstance(document.value, dict) else None
    if not isinstance(value, str) or not value:
        return None
    try:
        text = substitute(value, env)
    except ValueError as error:
        raise ConfigError(f"{file}: data_dir: {error}", hint="or name it: --data-dir") from None
    return file.parent.absolute() / expand(text)
