"""The JSON Schema for editors: as shipped it is that of the models, takes what the loader takes, and sees mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import write_docs
from shared import ROOT

from fluxen.config.document import read_document
from fluxen.config.load import load_bytes
from fluxen.config.model import Config
from fluxen.config.schema import made_of, shipped
from fluxen.errors import ConfigError

EXAMPLE = (ROOT / "fluxen.example.yaml").read_text()
FULL = re.sub(r"(?m)^( *)#(?=[a-z-])", r"\1", EXAMPLE)
ENV = {"HOME": "/home/x", "A_KEY": "sk-a", "B_KEY": "sk-b"}

TAKEN = [
    "",
    "version: 1",
    "server:\nupstreams:\nledger:\nlog:\n",
    "upstreams: {openai: , local: {target_url: 'http://127.0.0.1:1', models: [a]}}",
    "api_keys:\n",
    "api_keys: {static: , jwt: }",
    "api_keys: {static: [{key: abc, id: 7, team: 1.5, tags: {1: 2}}]}",
    "api_keys: {jwt: [{key: 'some signing key of more than 32 bytes', claims: }]}",
    "server: {max_body: 33, body_memory: 64 MiB}",
    "upstreams: {openai: {credentials: [{name: a, api_key: '${A_KEY}'}, {name: b, api_key: '${B_KEY}'}]}}",
]
MISTAKES = [
    "versoin: 1",
    "version: 2",
    "server: {bind_adress: x}",
    "server: {workers: 0}",
    "server: {max_connections: many}",
    "upstreams: {openai: {dialect: opnai}}",
    "upstreams: {openai: {request_timeout_ms: 1.5}}",
    "api_keys: {static: [{id: nothing}]}",
    "api_keys: {static: [{key: a, hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}]}",
    "api_keys: {jwt: [{id: a}]}",
    "admin: {key: a}",
    "log: {level: loud}",
]


def judge(text: str) -> list[str]:
    """What an editor would say."""
    document = read_document(text.encode())
    assert not document.problems
    plain = json.loads(json.dumps(document.value))  # names of tags are text in JSON
    return [error.message for error in jsonschema.Draft202012Validator(json.loads(shipped())).iter_errors(plain or {})]


def test_the_shipped_file_is_that_of_the_models() -> None:
    assert shipped() == made_of(Config), "stale: run `make docs`"
    assert write_docs.SCHEMA.read_text() == shipped()
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped()))


@pytest.mark.parametrize("text", [*TAKEN, EXAMPLE], ids=[*TAKEN, "the example"])
def test_what_the_loader_takes_an_editor_does_not_underline(text: str, tmp_path: Path) -> None:
    load_bytes(text.encode(), ENV, tmp_path / "fluxen.yaml")
    assert judge(text) == []


def test_nor_anything_of_the_full_example() -> None:
    assert judge(FULL) == []


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_seen(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_bytes(text.encode(), ENV, tmp_path / "fluxen.yaml")
    assert judge(text)
