"""A configuration read again: the same road as `fluxen validate`, and what a running gateway refuses besides.

Whatever is wrong, what is in force stays. Only the keys that commands have changed are taken up even so: one that was
revoked must not live on because somebody has mistyped a timeout. A file that is gone is no
other file's turn, an empty one is taken for one that is being written, and a gateway with client keys never becomes one
without: that takes a restart.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fluxen.analyzer.prices import FILE as PRICES
from fluxen.config import paths
from fluxen.config.document import MAX_BYTES, Where, dotted
from fluxen.config.load import Loaded, load_bytes
from fluxen.config.model import Config
from fluxen.errors import ConfigError
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.snapshot import Snapshot, assemble, build
from fluxen.gateway.update import Chain, Differences, differences
from fluxen.gateway.upstreams import upstreams_of
from fluxen.keys.client import KeyIndex
from fluxen.keys.jwks_documents import cache_path, urls
from fluxen.keys.known import known_keys
from fluxen.keys.provider import ProviderKeys
from fluxen.keys.store import KeyStore
from fluxen.providers.catalogue import load_catalogue
from fluxen.telemetry.settings import Settings, settings_of

FIXED: Final[tuple[Where, ...]] = (
    ("data_dir",),
    ("server", "workers"),
    ("ledger", "retention_days"),
    ("ledger", "grace_seconds"),
    ("ledger", "compact_seconds"),
)
"""Settings that only a start takes up."""
CREDENTIALS: Final = "credentials.json"
_LARGEST: Final = 256 << 20  # bytes of any file that is looked at
_TURNS: Final = 4

Settle = Callable[[Loaded], Loaded]
"""What the command line says over the file."""


class Outcome(enum.Enum):
    """What comes of an attempt that brings nothing new."""

    UNTOUCHED = "no file has changed since the last attempt"
    CURRENT = "the files are what is in force"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Something new, checked and ready. restart: settings that wait for one."""

    loaded: Loaded
    snapshot: Snapshot
    keys: Differences
    """From the client keys in force to these. Found once: with a hundred thousand it takes a while."""
    restart: tuple[str, ...]
    stores: Mapping[str | None, bytes]
    chain: Chain | None
    log: Settings
    whole: bool = True
    """Whether it is all that is on disk; if not, the configuration is the one that was in force before."""


Inputs = Mapping[Path, bytes]
"""What was read, as digests; a file that isn't there is left out."""


class Reloader:
    """Reads again what a running gateway was made of. `files`: what it depends on, whether it is there or not."""

    def __init__(
        self, loaded: Loaded, snapshot: Snapshot, env: Mapping[str, str], settle: Settle, authorities: Authorities
    ) -> None:
        self._env = env
        self._settle = settle
        self._loaded = loaded
        self._authorities = authorities
        self._named = loaded.path  # as somebody wrote it, for messages
        self._path = None if loaded.path is None else loaded.path.absolute()
        self._written = loaded.path is not None and bool(loaded.document.value)
        self._running = snapshot
        self._store = KeyStore(snapshot.config.data_dir)
        self._stored = self._store.path.exists()
        self._chain = _chain(snapshot.config)
        self._restart: tuple[str, ...] = ()
        self.files: frozenset[Path] = self._always() | frozenset(file.absolute() for file in loaded.files)
        self._inputs: Inputs | None = None
        """Of what is in force; None: not yet compared with what the start has read."""
        self._tried: Inputs | None = None

    def attempt(self, *, again: bool) -> Accepted | Outcome:
        """Read everything, if anything has changed. again: look even if nothing has, since the last attempt failed.

        Raises ConfigError when what there is now can't take the place of what is in force."""
        inputs = self._read()
        if not again and inputs == self._tried:
            return Outcome.UNTOUCHED
        self._tried = inputs
        if inputs == self._inputs:
            return Outcome.CURRENT
        for _ in range(_TURNS):
            found: set[Path] = set()
            try:
                accepted = self._load(found)
            finally:
                # What is named now is watched, too, be it that it mends what is wrong.
                before, self.files = self.files, self._always() | {file.absolute() for file in found}
            if self.files <= before:
                break
            self._tried = self._read()  # read before it is used, so that no change after that is missed
        if self._same(accepted):
            self._inputs = self._tried
            return Outcome.CURRENT
        return accepted

    def rest(self) -> Accepted | None:
        """After an attempt that failed: the keys as they are now with the configuration in force; None when nothing
        is new in them. Raises ConfigError when they are what is wrong."""
        config, running = self._loaded.config, self._running
        known = known_keys(self._loaded, self._keys())
        if known.problems:
            raise ConfigError(f"{self._store.path} can't be used", tuple(known.problems))
        stored = ProviderKeys(config.data_dir).read()
        upstreams, wrong = upstreams_of(config, load_catalogue(), self._env, stored)
        snapshot = assemble(
            config,
            running.upstreams if wrong else tuple(upstreams),
            None if known.clients is None else KeyIndex(known.clients),
            key_sets=running.key_sets,
            warnings=running.warnings,
            everyone=running.everyone,
            price_file=running.price_file,
            before=running,
        )
        self._never_open(snapshot)
        accepted = Accepted(
            self._loaded, snapshot, differences(self._running, snapshot), self._restart, {}, self._chain,
            settings_of(self._loaded.config.log, self._env), whole=False,
        )  # fmt: skip
        return None if self._same(accepted) else accepted

    def _same(self, accepted: Accepted) -> bool:
        """Whether all of it is in force: other bytes, and the same meaning."""
        old, new = self._running, accepted.snapshot
        if (new.keys is None) != (old.keys is None) or accepted.restart != self._restart:
            return False
        return (
            not any(accepted.keys)
            and (new.config, new.upstreams, new.warnings) == (old.config, old.upstreams, old.warnings)
            and (new.key_sets, new.price_file) == (old.key_sets, old.price_file)
            and not accepted.stores
            and accepted.chain == self._chain
        )

    def taken(self, accepted: Accepted) -> None:
        """From now on this is in force."""
        self._running, self._loaded = accepted.snapshot, accepted.loaded
        self._chain, self._restart = accepted.chain, accepted.restart
        self._path = self._path or (accepted.loaded.path and accepted.loaded.path.absolute())
        self._named = self._named or accepted.loaded.path
        self._written = accepted.loaded.path is not None
        self._stored = self._stored or self._store.path.exists()
        self._inputs = self._tried if accepted.whole else None

    @property
    def path(self) -> Path | None:
        """Of the configuration; None while there is no file."""
        return self._path

    @property
    def urls(self) -> tuple[str, ...]:
        """Where key sets are fetched from."""
        return urls(self._running.config)

    # --- files

    def _always(self) -> frozenset[Path]:
        """What is looked at whatever the configuration says."""
        data = self._running.config.data_dir
        files = {data / CREDENTIALS, data / PRICES, self._store.path}
        files.update(cache_path(data, url) for url in self.urls)
        if self._path is not None:
            files.add(self._path)
        else:
            files.update(path.absolute() for path in paths.config_candidates(self._env))
        files.update(self._authorities.files())
        return frozenset(files)

    def _read(self) -> Inputs:
        return dict(self._digests())

    def _digests(self) -> Iterator[tuple[Path, bytes]]:
        for path in self.files:
            try:
                if not path.is_file():  # whoever opens a pipe waits for a writer
                    continue
                with path.open("rb") as file:
                    content = file.read(_LARGEST)
            except OSError:
                continue
            yield path, hashlib.blake2b(content, digest_size=16).digest()

    def _load(self, found: set[Path]) -> Accepted:
        loaded = self._settle(self._configuration(found))
        loaded, restart = self._pinned(loaded)
        found.update(cache_path(loaded.config.data_dir, url) for url in urls(loaded.config))
        snapshot = build(loaded, self._env, stored=self._keys())
        self._never_open(snapshot)
        origins = {one.origin.ca_file for one in snapshot.upstreams if one.origin.scheme == "https"}
        return Accepted(
            loaded,
            snapshot,
            differences(self._running, snapshot),
            restart,
            self._authorities.changed(origins),
            _chain(loaded.config),
            settings_of(loaded.config.log, self._env),
        )

    def _never_open(self, snapshot: Snapshot) -> None:
        if snapshot.keys is None and self._running.keys is not None:
            raise ConfigError(
                f"{self._named or 'the configuration'} names no client keys any more: that would let everybody in",
                hint="a gateway in use does not become open; restart it if that is meant",
            )

    def _configuration(self, found: set[Path]) -> Loaded:
        path = self._path
        if path is None:  # it was started without a file: one that appears is taken up
            candidates = paths.config_candidates(self._env)
            path = next((candidate.absolute() for candidate in candidates if candidate.is_file()), None)
            if path is None:
                return load_bytes(b"", self._env, None, files=found)
        name = self._named or path
        try:
            if path.exists() and not path.is_file():
                raise ConfigError(f"{name} is no file any more")
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise ConfigError(f"{name} is gone", hint="put it back; until then what was in it stays in force") from None
        except OSError as error:
            raise paths.unreadable(name, error) from error
        if self._written and not raw.strip():
            raise ConfigError(f"{name} is empty: somebody is just writing it, or it is lost")
        return load_bytes(raw, self._env, name, files=found)

    def _keys(self) -> bytes | None:
        raw = self._store.raw()
        if raw is None and self._stored:
            raise ConfigError(
                f"{self._store.path} is gone: its client keys stay in force",
                hint="put it back, or restart the gateway to go on without them",
            )
        return raw

    def _pinned(self, loaded: Loaded) -> tuple[Loaded, tuple[str, ...]]:
        """The configuration with what can't change while it runs as it is, and the names of what would have."""
        config, waiting = loaded.config, []
        for where in FIXED:
            wanted, running = _at(config, where), _at(self._running.config, where)
            if wanted != running:
                waiting.append(dotted(where))
                config = _with(config, where, running)
        return (replace(loaded, config=config), tuple(waiting)) if waiting else (loaded, ())


def _at(config: Config, where: Where) -> object:
    value: object = config
    for part in where:
        value = getattr(value, str(part))
    return value


def _with(config: Config, where: Where, value: object) -> Config:
    if len(where) == 1:
        return config.model_copy(update={str(where[0]): value})
    section = getattr(config, str(where[0]))
    return config.model_copy(update={str(where[0]): section.model_copy(update={str(where[1]): value})})


def _chain(config: Config) -> Chain | None:
    tls = config.server.tls
    if tls is None:
        return None
    try:
        return Chain(paths.read_file(tls.cert_file, _LARGEST), paths.read_file(tls.key_file, _LARGEST))
    except OSError as error:
        raise ConfigError(f"can't read {error.filename}: {error.strerror}") from None
