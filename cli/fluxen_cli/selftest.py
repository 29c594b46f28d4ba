"""`fluxen self-test` (hidden): does this installation hold everything that Fluxen will ever import or open?

What is frozen holds what an analysis of the source has found, and whatever that missed shows when somebody needs it:
a late import, a file of data, a library that looks for its own version. So everything is imported here, all data is
read, and each native library does a little of what Fluxen has it do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from fluxen_cli import output

Check = Callable[[], str]
"""Does something that fails when a part is missing; says what was there."""


def command(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Import and try every part of this installation. Exit code 1 when one is missing."""
    from fluxen import __version__

    frozen = bool(getattr(sys, "frozen", False))
    results = [(name, *_try(check)) for name, check in checks()]
    failed = [name for name, ok, _ in results if not ok]
    if as_json:
        parts = [{"name": name, "ok": ok, "detail": detail} for name, ok, detail in results]
        output.emit_json({"ok": not failed, "version": __version__, "frozen": frozen, "checks": parts})
    else:
        for name, ok, detail in results:
            output.emit(f"{'ok  ' if ok else 'FAIL'}  {name:11} {output.visible(detail)}\n")
        output.emit(f"fluxen {__version__}{', frozen' if frozen else ''}: {len(failed)} of {len(results)} failed\n")
    if failed:
        raise typer.Exit(1)


def _try(check: Check) -> tuple[bool, str]:
    try:
        return True, check()
    except BaseException as error:  # noqa: BLE001 - whatever goes wrong is what is asked for (Rust's panics, too)
        return False, f"{type(error).__name__}: {error}"


def checks() -> Iterator[tuple[str, Check]]:
    yield "modules", _modules
    yield "data", _data
    yield "ranks", _ranks
    yield "duckdb", _duckdb
    yield "time zones", _time_zones
    yield "brotli", _brotli
    yield "zstandard", _zstandard
    yield "uvloop", _uvloop
    yield "httptools", _httptools
    yield "msgspec", _msgspec
    yield "pydantic", _pydantic
    yield "yaml", _yaml
    yield "tls", _tls
    yield "authorities", _authorities
    yield "tokens", _tokens
    yield "host names", _host_names
    yield "tables", _tables
    yield "completion", _completion


def _require(condition: object, what: str) -> None:
    if not condition:
        raise RuntimeError(what)


def _modules() -> str:
    """Every module of ours: an import at its top that was left out fails here."""
    import importlib
    import pkgutil

    import fluxen
    import fluxen_cli

    names: list[str] = []
    for package in (fluxen, fluxen_cli):
        # A package that can't be imported, or listed, must not be passed over.
        names += [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", _stop)]
    for name in names:
        importlib.import_module(name)
    _require("fluxen.gateway.worker" in names and __name__ in names, f"only {len(names)} modules are listed")
    return f"{len(names)} imported"


def _stop(name: str) -> None:
    raise ImportError(f"can't import {name}, so not what is in it")


def _data() -> str:
    """Every file of data, by the code that reads it, and that it has something in it."""
    from fluxen.analyzer.prices import PriceBook
    from fluxen.providers.catalogue import load_catalogue

    providers = {provider.name for provider in load_catalogue().values()}
    _require({"openai", "anthropic"} <= providers, f"providers: {sorted(providers)}")
    book = PriceBook.shipped()
    _require(book.version, "prices without a version")
    return f"{len(providers)} providers, prices {book.version}"


def _ranks() -> str:
    """Tokens are counted by our own loop, and by tiktoken where it is there."""
    from fluxen.analyzer.ranks import ENCODINGS
    from fluxen.analyzer.tokens import Tokenizer

    for encoding in ENCODINGS:
        counter = Tokenizer(encoding)
        own = counter.count("Hello, world! 你好")
        counter.warm()
        _require(own == counter.count("Hello, world! 你好") > 4, f"{encoding} counted {own} tokens")
    tables = "tiktoken._tiktoken" in sys.modules
    return f"{', '.join(ENCODINGS)}{', tiktoken' if tables else ''}"


def _duckdb() -> str:
    """JSON, Parquet and ICU are built in: nothing is fetched, which `connect` makes sure of."""
    import tempfile
    from pathlib import Path

    import duckdb

    from fluxen.ledger.engine import connect

    with tempfile.TemporaryDirectory() as folder, connect(threads=1) as connection:
        file = Path(folder, "rows.parquet")
        connection.execute(f"COPY (SELECT '{{\"a\": [1, 2]}}'::JSON AS j) TO '{file}' (FORMAT parquet)")
        found = connection.execute(f"SELECT json_extract(j, '$.a[1]')::INT FROM '{file}'").fetchone()
        _require(found == (2,), f"json from parquet gave {found}")
        zone = connection.execute("SELECT timezone('Asia/Kolkata', '2026-01-01 00:00:00+00'::TIMESTAMPTZ)").fetchone()
        _require(zone is not None and str(zone[0]) == "2026-01-01 05:30:00", f"icu gave {zone}")
    return f"{duckdb.__version__}, json, parquet, icu"


def _time_zones() -> str:
    """DuckDB makes times with a zone by pytz, which it imports by itself."""
    from datetime import UTC, datetime

    from fluxen.ledger.engine import connect

    with connect(threads=1) as connection:
        row = connection.execute("SELECT '2026-01-01 00:00:00+00'::TIMESTAMPTZ").fetchone()
    _require(row == (datetime(2026, 1, 1, tzinfo=UTC),), f"a time with a zone gave {row}")
    return "a time with a zone is UTC"


def _brotli() -> str:
    import brotli

    return f"{brotli.__version__}, {_decoded(b'br', brotli.compress(_PLAIN))}"


def _zstandard() -> str:
    import zstandard

    _require(zstandard.backend == "cext", f"the backend is {zstandard.backend}")
    return f"{zstandard.__version__}, {_decoded(b'zstd', zstandard.compress(_PLAIN))}"


_PLAIN = b"one of many words, " * 1000


def _decoded(encoding: bytes, packed: bytes) -> str:
    from fluxen.gateway.meter import decode_whole

    _require(decode_whole(packed, encoding, 1 << 20) == _PLAIN, "what was packed comes back as something else")
    return f"{len(_PLAIN)} bytes from {len(packed)}"


def _uvloop() -> str:
    """A loop of the worker's kind carries bytes over a socket."""
    import asyncio

    import uvloop
    from uvloop._version import __version__  # uvloop doesn't export it to type checkers

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        writer.close()

    async def talk() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            said = await reader.read()
            writer.close()
            return said

    loop = uvloop.new_event_loop()
    try:
        said = loop.run_until_complete(asyncio.wait_for(talk(), 10))
    finally:
        loop.close()
    _require(said == b"hello", f"a socket gave {said!r}")
    return f"{__version__}, bytes over a socket"


def _httptools() -> str:
    import httptools

    class Seen:
        """What the parser tells of."""

        url = b""

        def on_url(self, url: bytes) -> None:
            self.url += url

    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    _require((seen.url, parser.get_method()) == (b"/v1/x", b"POST"), f"a request gave {seen.url!r}")
    return f"{httptools.__version__}, a request"


def _msgspec() -> str:
    import msgspec

    from fluxen.gateway.peek import Peek

    found = msgspec.json.decode(b'{"model": "m", "stream": true}', type=Peek)
    _require((found.model, found.stream) == ("m", True), f"a body gave {found}")
    return f"{msgspec.__version__}, a body"


def _pydantic() -> str:
    import pydantic

    from fluxen.config.model import Config

    config = Config.model_validate({"version": 1, "server": {"bind_address": "127.0.0.1:1"}})
    _require(config.server.port == 1, f"a configuration gave port {config.server.port}")
    return f"{pydantic.VERSION}, a configuration"


def _yaml() -> str:
    import yaml

    _require(yaml.load("a: [1, 2]", yaml.CSafeLoader) == {"a": [1, 2]}, "yaml reads something else")
    return f"{yaml.__version__}, by libyaml"


def _tls() -> str:
    """The store that upstreams are checked against on this machine."""
    import ssl

    from fluxen.gateway.certificates import client_context, trust

    store = trust(os.environ)
    context = client_context(store)
    _require(context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname, "upstreams would not be checked")
    return f"{ssl.OPENSSL_VERSION}, {store.source} ({store.cafile or store.capath})"


def _authorities() -> str:
    """The store for systems without one."""
    import certifi

    from fluxen.gateway.certificates import Trust, client_context

    count = client_context(Trust(certifi.where(), None, "certifi")).cert_store_stats()["x509_ca"]
    _require(count > 50, f"only {count} authorities")
    return f"{count} in certifi {certifi.__version__}"


def _tokens() -> str:
    """A signed token of each kind is made, and its bearer known."""
    import json
    import secrets

    import cryptography
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    from fluxen.config.access import JwtKey
    from fluxen.keys.client import ClientKey
    from fluxen.keys.tokens import Tokens

    shared, source = secrets.token_hex(32), "https://localhost/"
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    public = [
        jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True),
        jwt.algorithms.ECAlgorithm.to_jwk(ec_key.public_key(), as_dict=True),
    ]
    issuers = [JwtKey.model_validate({"key": shared}), JwtKey.model_validate({"jwks_url": source})]
    tokens = Tokens(issuers, {source: json.dumps({"keys": public}).encode()})
    for algorithm, key in (("HS256", shared), ("RS256", rsa_key), ("ES256", ec_key)):
        made = jwt.encode({"exp": 100, "sub": "me"}, key, algorithm).encode()
        bearer, forged = tokens.identify(made, 1.0), tokens.identify(made[:-8] + b"AAAAAAAA", 1.0)
        _require(
            isinstance(bearer, ClientKey) and not isinstance(forged, ClientKey), f"{algorithm}: {bearer}, {forged}"
        )
    return f"HS256, RS256, ES256 by PyJWT {jwt.__version__}, cryptography {cryptography.__version__}"


def _host_names() -> str:
    """A name that is not ASCII, and one that is, through the system's resolver library."""
    import socket

    _require("bücher.example".encode("idna") == b"xn--bcher-kva.example", "no IDNA")
    found = socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    _require(found[0][4] == ("127.0.0.1", 80), f"an address gave {found}")
    return "IDNA, resolver"


def _tables() -> str:
    """What a terminal gets."""
    import io

    from rich.console import Console
    from rich.table import Table

    table = Table("model", "cost_usd")
    table.add_row("m–1", "0.000001")
    shown = io.StringIO()
    Console(file=shown, width=80, force_terminal=True, color_system="truecolor").print(table)
    _require("m–1" in shown.getvalue(), "a table without its row")
    return "rich"


def _completion() -> str:
    """Typer finds out which shell asks, and writes help texts for it; it imports late what it does that with."""
    import importlib

    for name in ("shellingham.posix.proc", "shellingham.posix.ps", "typer.rich_utils"):
        importlib.import_module(name)
    return "for every shell"
