"""The parts of the documentation that are made from the code: help texts in docs/cli.md, keys in docs/configuration.md.

`make docs` writes them; tests/test_docs.py fails when they are stale.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from shared import ROOT

from fluxen.config.access import ApiKeys, Claims, JwtKey, StaticKey
from fluxen.config.model import (
    Admin,
    Config,
    Credential,
    LedgerSettings,
    LogSettings,
    Server,
    Tls,
    Upstream,
    Upstreams,
)
from fluxen.config.prices import PriceEntry
from fluxen.config.schema import FILE, made_of
from fluxen.config.values import Address

CLI = ROOT / "docs" / "cli.md"
SCHEMA = ROOT / "fluxen" / "config" / FILE
CONFIGURATION = ROOT / "docs" / "configuration.md"

COMMANDS = (
    "", "init", "serve", "run", "demo", "report", "report costs", "report usage", "report models", "report keys",
    "report errors", "report latency", "report cache", "cost", "cost estimate", "cost prices",
    "cost prices show", "cost prices update", "cost reprice", "tail", "top", "sql", "validate", "reload", "config",
    "config diff", "config show", "health", "doctor", "ledger", "ledger verify", "ledger compact", "ledger export",
    "ledger backup", "ledger views", "keys", "keys create", "keys list", "keys show", "keys update", "keys rotate",
    "keys revoke", "keys import", "keys provider", "keys provider rotate", "keys provider list", "keys provider remove",
)  # fmt: skip

SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "top level": (Config, ""),
    "server": (Server, "server."),
    "server.tls": (Tls, "server.tls."),
    "upstreams": (Upstreams, "upstreams."),
    "one upstream": (Upstream, "upstreams.NAME."),
    "one credential": (Credential, "upstreams.NAME.credentials[]."),
    "api_keys": (ApiKeys, "api_keys."),
    "one static key": (StaticKey, "api_keys.static[]."),
    "one jwt issuer": (JwtKey, "api_keys.jwt[]."),
    "claims": (Claims, "api_keys.jwt[].claims."),
    "one price": (PriceEntry, "prices[]."),
    "admin": (Admin, "admin."),
    "ledger": (LedgerSettings, "ledger."),
    "log": (LogSettings, "log."),
}

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewrite(text: str) -> str:
    """The text with every generated block made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{block(match['name'])}{match[3]}", text)


def block(name: str) -> str:
    if name.startswith("help"):
        return f"```text\n{help_of(name.removeprefix('help').strip())}```\n"
    return "".join(table(*SECTIONS[name.removeprefix("keys of ")]))


def help_of(command: str) -> str:
    """What `fluxen COMMAND --help` prints in 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "fluxen_cli", *command.split(), "--help"],
        env={**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def table(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield "| key | default | meaning |\n|---|---|---|\n"
    for name, field in model.model_fields.items():
        inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if inner and inner[0] not in (StaticKey, JwtKey, Credential, PriceEntry):
            meaning = field.description or "a section, see below"
            yield f"| `{prefix}{name}` | – | {meaning} |\n"
            continue
        required = field.is_required()
        yield f"| `{prefix}{name}` | {'required' if required else _default(field.default)} | {field.description} |\n"


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _default(value: object) -> str:
    """A default as one would write it; '–' where the meaning says what happens without the key."""
    plain = isinstance(value, int | str) and value != ""
    return f"`{value}`" if plain or isinstance(value, Address) else "–"


def main() -> None:
    for path in (CLI, CONFIGURATION):
        path.write_text(rewrite(path.read_text()))
    SCHEMA.write_text(made_of(Config))


if __name__ == "__main__":
    main()
