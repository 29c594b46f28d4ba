"""DuckDB, in memory, as the ledger's query engine. Nothing of a worker imports this: duckdb costs 0.1 s and 38 MB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

Connection = duckdb.DuckDBPyConnection


def connect(*, threads: int | None = None, memory: str | None = None, spill: Path | None = None) -> Connection:
    """A connection that never reaches for the network, for Python variables or for files of its own.

    A missing extension would otherwise be looked for on the Internet, which hangs for seconds without one.
    `spill` is where a sort that does not fit into `memory` may write; without it such a query fails.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        "enable_external_file_cache": False,  # files are read once or the page cache has them: a third of a query's CPU
        "temp_directory": str(spill) if spill else "",
    }
    if threads:
        config["threads"] = threads
    if memory:
        config["memory_limit"] = memory
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    # Where Python looks interactive, DuckDB draws a bar on stdout, among the data, when a query takes two seconds.
    connection.execute("SET enable_progress_bar = false")
    return connection


@contextmanager
def line_file(lines: Iterable[bytes], folder: Path | None = None) -> Iterator[str]:
    """The path of a file that holds the lines: in memory where the system can, else (or in `folder`) on disk."""
    if folder is None and hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("fluxen-lines", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            _write(file.write, lines)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
        return
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".ndjson") as named:
        _write(named.write, lines)
        named.flush()
        yield named.name


def _write(write: object, lines: Iterable[bytes]) -> None:
    assert callable(write)
    for line in lines:
        write(line)
        write(b"\n")
