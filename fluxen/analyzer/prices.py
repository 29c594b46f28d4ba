"""The price book: which price a provider's model had at a time, in a tier, at an upstream.

Three layers, the later over the earlier: the file shipped with this version; a newer one in the data folder, put there
by `fluxen cost prices update`; the `prices` section of the configuration. What the files say: `pricelist`; what one's
own entries change: `ownprices`.

What is found is remembered until the next moment at which it may change, so a request pays for one dictionary lookup.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import zstandard

from fluxen.analyzer import pricecheck
from fluxen.analyzer.ownprices import OwnPrices
from fluxen.analyzer.pricelist import EPOCH, Price, PriceFile, Rates
from fluxen.config.paths import read_file
from fluxen.errors import ConfigError
from fluxen.providers.catalogue import load_catalogue

if TYPE_CHECKING:  # the schema costs 0.1 s, and a command without own prices needs none of it
    from fluxen.config.prices import PriceEntry

__all__ = ["FILE", "Price", "PriceBook", "Rates", "book_of", "installed", "load_book", "older", "outdated"]

FILE: Final = "prices.json"
"""In the data folder: a price book that is newer than the shipped one."""
MAX_BYTES: Final = 16 << 20
_REMEMBERED: Final = 4096  # names of models that are remembered; beyond, all are forgotten and looked up anew
_NUMBERED: Final = re.compile(r"([a-z-]+)-(\d+(?:\.\d+)*)\+")
_NO_PRICES: Final = OwnPrices(())

_Key = tuple[str, str, str | None, str | None, str | None]


class PriceBook:
    """A price book. `version` names its content: the same version, the same prices."""

    __slots__ = ("_file", "_memo", "_names", "_own", "own", "version")

    def __init__(self, data: bytes | PriceFile, names: Mapping[str, str | None], own: OwnPrices = _NO_PRICES) -> None:
        """`names`: our providers' names in the book, None without prices; others are the same in both. Raises
        ValueError for data that is no price book."""
        self._file = data if isinstance(data, PriceFile) else PriceFile(data)
        self._names = names
        self._own = own
        self.own = bool(own)
        """Whether the configuration says something of prices."""
        self.version = f"{self._file.version}+own.{own.digest}" if own else self._file.version
        self._memo: dict[_Key, tuple[Price | None, int, int]] = {}

    @staticmethod
    def shipped() -> PriceBook:
        """The book that came with this version of Fluxen; read on first use."""
        return _shipped()

    def with_own(self, entries: Iterable[PriceEntry]) -> PriceBook:
        """The same book under one's own prices."""
        return PriceBook(self._file, self._names, OwnPrices(entries))

    @property
    def file(self) -> PriceFile:
        return self._file

    def list_name(self, provider: str) -> str | None:
        """What the file calls a provider of ours; None: it has no list prices."""
        return self._names.get(provider, provider)

    def own_tiers(self, names: Iterable[str], upstream: str | None) -> list[str]:
        """Tiers of which one's own prices speak, for a model of these names."""
        return self._own.tiers(names, upstream)

    def find(self, provider: str, model: str, at: datetime, tier: str | None = None) -> Price | None:
        """The price of a provider's model at a time (UTC if it says nothing else); None: unknown."""
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return self.find_at(provider, model, (at - EPOCH) // timedelta(microseconds=1), None, tier)

    def find_at(
        self,
        provider: str,
        model: str,
        ts: int,
        upstream: str | None = None,
        tier: str | None = None,
        asked: str | None = None,
    ) -> Price | None:
        """The same, with the time in microseconds since the epoch, as the ledger has it.

        upstream: its name, for prices that hold there only. tier: the provider's word for how the request was served.
        asked: the model's name in the request, by which one's own prices may mean it, too."""
        key = (provider, model, tier, upstream, asked) if self.own else (provider, model, tier, None, None)
        known = self._memo.get(key)
        if known is None or not known[1] <= ts < known[2]:
            known = self._look_up(key, ts)
        return known[0]

    def span_at(
        self, provider: str, model: str, ts: int, upstream: str | None = None, tier: str | None = None
    ) -> tuple[Price | None, int, int]:
        """The same, with the moments between which it surely holds (EVER: no such moment)."""
        return self._look_up((provider, model, tier, upstream, None), ts)

    def _look_up(self, key: _Key, ts: int) -> tuple[Price | None, int, int]:
        provider, model, word, upstream, asked = key
        name = self._names.get(provider, provider)
        tier = self._file.tier(name, word)
        terms = self._file.terms(name, model, ts, tier)
        own = self._own.apply(terms, (model,) if asked is None else (model, asked), upstream, tier, ts)
        known = (own.price, own.since, own.until)
        if len(self._memo) >= _REMEMBERED:
            self._memo.clear()
        self._memo[key] = known
        return known


def load_book(data_dir: Path | None, entries: Iterable[PriceEntry] = ()) -> PriceBook:
    """The book in force where the data is kept there (None: nowhere) and the configuration says this. Raises
    ConfigError."""
    return book_of(None if data_dir is None else installed(data_dir), entries)


def installed(data_dir: Path) -> bytes | None:
    """The price book in the data folder, checked; None: there is none. Raises ConfigError for one that can't be
    used."""
    path = data_dir / FILE
    hint = "fluxen cost prices update puts another in its place, with --revert the shipped one is used again"
    try:
        raw = read_file(path, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):  # a data folder that is none is the ledger's to complain about
        return None
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint=hint) from None
    if problems := pricecheck.problems(raw):
        raise ConfigError(f"{path} is no price book that can be used", tuple(problems), hint)
    return raw


def book_of(raw: bytes | None, entries: Iterable[PriceEntry] = ()) -> PriceBook:
    """The book of a checked file; None, or one that is older than the shipped one: the shipped one's."""
    own = tuple(entries)
    book = PriceBook.shipped()
    if raw is not None and outdated(raw) is None:
        book = PriceBook(raw, book._names)
    return book.with_own(own) if own else book


def outdated(raw: bytes | None) -> str | None:
    """The version of a price book that is older than the shipped one, and so has to stand back; None: it is not."""
    if raw is None:
        return None
    version = msgspec.json.decode(raw, type=_Version).version
    return version if older(version, PriceBook.shipped().version) else None


def older(version: str, than: str) -> bool:
    """Whether a version comes before another. Of books from different sources nobody can tell: then it does not."""
    ours, theirs = _NUMBERED.match(version), _NUMBERED.match(than)
    if ours is None or theirs is None or ours[1] != theirs[1]:
        return False
    return tuple(map(int, ours[2].split("."))) < tuple(map(int, theirs[2].split(".")))


class _Version(msgspec.Struct):
    version: str


@functools.cache
def _shipped() -> PriceBook:
    names = {key: provider.price_list for key, provider in load_catalogue().items()}
    packed = resources.files(__package__).joinpath("prices.json.zst").read_bytes()
    return PriceBook(zstandard.decompress(packed), names)
