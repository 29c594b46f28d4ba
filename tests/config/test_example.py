"""`fluxen.example.yaml` is valid as it stands, valid with every '#' taken away, and then names every field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from shared import ROOT

from fluxen.config.load import load_bytes
from fluxen.config.model import Config, Upstream, Upstreams

EXAMPLE = ROOT / "fluxen.example.yaml"

ENV = {
    "OPENAI_API_KEY": "sk-1",
    "FLUXEN_KEY_ALICE": "alice-key",
    "FLUXEN_JWT_KEY": "x" * 32,
    "FLUXEN_ADMIN_KEY": "admin",
    "LOCAL_KEY": "local-1",
    "HOME": "/home/x",
}


def uncommented() -> bytes:
    return re.sub(r"(?m)^( *)#(?=[a-z-])", r"\1", EXAMPLE.read_text()).encode()


def test_as_it_stands_it_is_open_mode_with_all_defaults() -> None:
    loaded = load_bytes(EXAMPLE.read_bytes(), {"HOME": "/home/x"}, None)
    assert loaded.warnings == ()
    assert loaded.config == load_bytes(b"", {"HOME": "/home/x"}, None).config


def test_with_every_setting_it_is_valid(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "anthropic").write_text("sk-ant\n")
    (tmp_path / "secrets" / "second").write_text("local-2\n")
    loaded = load_bytes(uncommented(), ENV, tmp_path / "fluxen.yaml")
    assert list(loaded.config.upstreams.by_name) == ["openai", "anthropic", "local"]
    assert loaded.warnings == ()
    # The defaults it shows are the defaults.
    changed = {"tls": None, "trusted_proxies": ()}
    assert loaded.config.server.model_copy(update=changed) == Config().server
    assert loaded.config.log == Config().log
    assert loaded.config.ledger.model_copy(update={"retention_days": None}) == Config().ledger


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def fields(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    for name, field in model.model_fields.items():
        yield model, name
        for inner in models_in(field.annotation):
            yield from fields(inner)
    if model is Upstreams:
        yield from fields(Upstream)


def test_it_sets_every_field() -> None:
    loaded = load_bytes(
        uncommented().replace(b"file:secrets/anthropic", b"k").replace(b"file:secrets/second", b"k"), ENV, None
    )
    written: dict[type[BaseModel], set[str]] = {}

    def collect(value: object) -> None:
        if isinstance(value, BaseModel):
            written.setdefault(type(value), set()).update(value.model_fields_set & set(type(value).model_fields))
            for item in [*dict(value).values(), *(value.model_extra or {}).values()]:
                collect(item)
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)

    collect(loaded.config)
    missing = [f"{model.__name__}.{name}" for model, name in fields(Config) if name not in written.get(model, set())]
    assert missing == []
