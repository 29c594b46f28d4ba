"""The Snapshot: what a Config means, compiled once and never changed. A request keeps the one it began with.

`fluxen validate` builds one and throws it away: whatever would keep `fluxen serve` from starting is found by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fluxen.analyzer.prices import FILE as PRICES
from fluxen.analyzer.prices import PriceBook, book_of, installed, outdated
from fluxen.config import model as schema
from fluxen.config.load import Loaded
from fluxen.config.values import Secret
from fluxen.errors import ConfigError
from fluxen.gateway.listening import Patience, address_problems, certificate_warnings, server_context
from fluxen.gateway.routes import Router, Upstream
from fluxen.gateway.upstreams import behind_proxy, stand_ins, upstreams_of
from fluxen.keys.client import OPEN, ClientKey, KeyIndex
from fluxen.keys.jwks_documents import Documents, read_documents
from fluxen.keys.known import FILE, Known, StoredKeys, known_keys
from fluxen.keys.provider import Place, ProviderKeys
from fluxen.keys.tokens import Tokens
from fluxen.providers.catalogue import load_catalogue
from fluxen.providers.dialect import dialects


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that requests need to know. keys is None in open mode: then every caller is `everyone`."""

    config: schema.Config
    keys: KeyIndex | None
    router: Router
    upstreams: tuple[Upstream, ...]
    max_body: int
    body_memory: int
    patience: Patience
    warnings: tuple[str, ...] = field(default=())
    everyone: ClientKey = OPEN
    tokens: Tokens | None = None
    """Who bears which signed token; None where none is taken."""
    key_sets: Mapping[str, bytes] = field(default_factory=dict)
    """What the issuers' public keys were read from, by `source_of`."""
    prices: PriceBook = field(default_factory=PriceBook.shipped)
    price_file: bytes | None = field(default=None, repr=False)
    """The price book of the data folder, where there is one."""

    @property
    def open_mode(self) -> bool:
        return self.keys is None


def build(
    loaded: Loaded, env: Mapping[str, str], everyone: ClientKey | None = None, *, stored: StoredKeys = FILE
) -> Snapshot:
    """Compile a configuration and the keys of its data folder. everyone: open mode whatever keys there are, and who
    every caller is; what it says goes into rows. stored: what keys.json holds, for a caller who has read it. Raises
    ConfigError with every problem."""
    config = loaded.config
    known = known_keys(loaded, stored) if everyone is None else Known()
    catalogue = load_catalogue()
    problems = list(known.problems)
    hint: str | None = None
    address = config.server.bind_address
    if known.clients is None and not known.problems and not address.loopback:
        message = (
            f"there is no client key, and on {address} anyone could spend your money: create one, or bind 127.0.0.1"
        )
        problems.append(loaded.problem(("server", "bind_address"), message))
        hint = (
            "fluxen init writes a configuration with a first client key; fluxen serve --first-key creates only the key"
        )
    kept = ProviderKeys(config.data_dir)
    stored_keys: Mapping[Place, Secret] = {}
    try:
        stored_keys = kept.read()
    except ConfigError as error:
        problems.append(error.message)
    upstreams, wrong = upstreams_of(config, catalogue, env, stored_keys)
    problems += [loaded.problem(where, message) for where, message in wrong]
    if proxy := behind_proxy(upstreams, env):
        problems.append(proxy)
    problems += [loaded.problem(where, message) for where, message in address_problems(config)]
    warnings = [*loaded.warnings, *known.warnings, *kept.exposed()]
    warnings += [loaded.problem(where, message) for where, message in stand_ins(config, upstreams, stored_keys)]
    if config.server.tls is not None:
        try:
            shown = certificate_warnings(server_context(config.server.tls), config.server.tls)
            warnings += [loaded.problem(("server", "tls", "cert_file"), message) for message in shown]
        except ConfigError as error:
            problems.append(loaded.problem(("server", "tls"), error.message))
            hint = hint or error.hint
    price_file: bytes | None = None
    try:
        price_file = installed(config.data_dir)
    except ConfigError as error:
        problems += [error.message, *error.problems]
        hint = hint or error.hint
    if (version := outdated(price_file)) is not None:
        path, newer = config.data_dir / PRICES, PriceBook.shipped().version
        warnings.append(f"{path}: {version} is older than the shipped price book {newer}, which is used: delete it")
    documents = read_documents(config) if everyone is None else Documents()
    problems += [loaded.problem(where, message) for where, message in documents.problems]
    warnings += [loaded.problem(where, message) for where, message in documents.warnings]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError(f"{loaded.name} has {count}", tuple(problems), hint)
    keys = None if known.clients is None else KeyIndex(known.clients)
    return assemble(
        config,
        tuple(upstreams),
        keys,
        key_sets=documents.by_source,
        warnings=tuple(warnings),
        everyone=everyone or OPEN,
        price_file=price_file,
    )


def assemble(
    config: schema.Config,
    upstreams: tuple[Upstream, ...],
    keys: KeyIndex | None,
    *,
    key_sets: Mapping[str, bytes],
    warnings: tuple[str, ...] = (),
    everyone: ClientKey = OPEN,
    price_file: bytes | None = None,
    before: Snapshot | None = None,
) -> Snapshot:
    """A snapshot of parts that are checked already. Reads no file: workers do this, too. before: the one that it takes
    the place of; its price book is kept, with what it has found already, if nothing has changed of it."""
    if before is not None and (before.price_file, before.config.prices) == (price_file, config.prices):
        prices = before.prices
    else:
        prices = book_of(price_file, config.prices)
    issuers = config.api_keys.jwt if config.api_keys is not None else ()
    return Snapshot(
        config=config,
        keys=keys,
        router=Router(upstreams, dialects(), load_catalogue(), tells=keys is None),
        upstreams=upstreams,
        max_body=config.server.max_body,
        body_memory=config.server.body_memory,
        patience=Patience.of(config.server),
        warnings=warnings,
        everyone=everyone,
        tokens=Tokens(issuers, key_sets) if issuers else None,
        key_sets=key_sets,
        prices=prices,
        price_file=price_file,
    )
