"""Which prices a command reckons with: those of the gateway that is meant, without its secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxen.analyzer.prices import PriceBook
    from fluxen.config.prices import PriceEntry


def prices_in_force(data: Path, config: Path | None, instead: Path | None = None) -> PriceBook:
    """The price book in force with that data folder, under the configuration's own prices. config: as its option gives
    it. instead: a file of list prices to be used in the place of the book's, `-` for stdin. Raises ConfigError."""
    from fluxen.analyzer.prices import load_book
    from fluxen.config.paths import find_config

    own: tuple[PriceEntry, ...] = ()
    if (path := find_config(config, os.environ)) is not None:
        from fluxen.config.load import written_prices  # the schema costs 0.1 s, and mostly there is no file

        own = tuple(written_prices(path, os.environ))
    return load_book(data, own) if instead is None else _given(instead).with_own(own)


def _given(path: Path) -> PriceBook:
    import sys

    from fluxen.analyzer import pricecheck
    from fluxen.analyzer.prices import MAX_BYTES, book_of, outdated
    from fluxen.config.paths import read_file
    from fluxen.errors import ConfigError

    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else read_file(path, MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from None
    if problems := pricecheck.problems(raw):
        raise ConfigError(f"{path} is no price book that can be used", tuple(problems))
    if (version := outdated(raw)) is not None:
        raise ConfigError(
            f"{path} is {version}, older than the book this Fluxen came with",
            hint="the shipped one knows the prices of before, too: leave out --prices",
        )
    return book_of(raw)
