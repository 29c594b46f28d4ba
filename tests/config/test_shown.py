"""A configuration as it may be shown: nothing is left out, and no secret is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from fluxen.config.load import load_bytes
from fluxen.config.model import Config
from fluxen.config.shown import flat, shown
from fluxen.config.values import Secret

SALT = b"salt"
TEXT = """
version: 1
server: {bind_address: "0.0.0.0:80", trusted_proxies: ["10.0.0.0/8"]}
upstreams:
  request_timeout_ms: 1000
  openai: {api_key: "PLANTED-1"}
  other: {target_url: "https://x.test/v1", credentials: [{name: a, api_key: "${KEY}"}, {name: b, api_key: "file:key"}]}
api_keys:
  static:
    - {id: one, key: "PLANTED-2", tags: {a: b}, expires: 2030-01-01}
    - {id: two, hash: "sha256:%s"}
  jwt:
    - {id: three, key: "PLANTED-3 at least 32 bytes of it"}
    - {id: four, jwks_url: "https://x.test/keys?token=PLANTED-4", issuer: i, audience: a}
admin: {bind_address: "127.0.0.1:81", key: "PLANTED-5"}
""" % ("ab" * 32)


def config(text: str, folder: Path) -> Config:
    (folder / "key").write_text("PLANTED-6\n")
    env = {"KEY": "PLANTED-7", "HOME": str(folder)}
    return load_bytes(text.encode(), env, folder / "fluxen.yaml").config


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    for salt in (SALT, b""):
        text = json.dumps(shown(config(TEXT, tmp_path), salt))
        assert "PLANTED" not in text
        assert "abababab" not in text
        assert "${KEY}" in text
        assert "file:key" in text


def test_every_field_is_in_it(tmp_path: Path) -> None:
    fields = shown(config(TEXT, tmp_path), SALT)
    assert list(fields) == list(Config.model_fields)
    assert fields["server"]["bind_address"] == "0.0.0.0:80"
    assert fields["server"]["trusted_proxies"] == ["10.0.0.0/8"]
    assert fields["server"]["workers"] == 1
    assert fields["upstreams"]["request_timeout_ms"] == 1000
    assert fields["upstreams"]["other"]["target_url"] == "https://x.test/v1"
    assert fields["api_keys"]["static"][0]["tags"] == {"a": "b"}
    assert fields["api_keys"]["static"][0]["expires"] == "2030-01-01T00:00:00+00:00"
    assert fields["api_keys"]["jwt"][1]["jwks_url"].startswith("https://x.test/keys?***")
    json.dumps(fields)


def test_fingerprints_tell_two_secrets_apart_and_need_the_salt(tmp_path: Path) -> None:
    one = dict(flat(shown(config(TEXT, tmp_path), SALT)))
    same = dict(flat(shown(config(f"# comment\n{TEXT}", tmp_path), SALT)))
    other = dict(flat(shown(config(TEXT.replace("PLANTED-1", "PLANTED-x"), tmp_path), SALT)))
    salted = dict(flat(shown(config(TEXT, tmp_path), b"other")))
    assert one == same
    assert [path for path in one if one[path] != other[path]] == ["upstreams.openai.api_key"]
    assert one["upstreams.openai.api_key"] != salted["upstreams.openai.api_key"]


def test_items_go_by_their_names(tmp_path: Path) -> None:
    paths = dict(flat(shown(config(TEXT, tmp_path), SALT)))
    assert paths["api_keys.static[one].tags.a"] == "b"
    assert paths["upstreams.other.credentials[a].api_key"] == "${KEY}"


def _secrets(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[str]:
    """Names of the fields that hold a secret, in all models below."""
    found: set[str] = set()
    if model in seen:
        return found
    seen.add(model)
    for name, field in model.model_fields.items():
        for part in _parts(field.annotation):
            if part is Secret:
                found.add(name)
            elif isinstance(part, type) and issubclass(part, BaseModel):
                found |= _secrets(part, seen)
    return found


def _parts(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [annotation] if not inner else [part for one in inner for part in _parts(one)]


def test_what_is_secret_has_the_type_that_is_masked() -> None:
    """A field that is called a key and is plain text would be shown."""
    from fluxen.config.model import Upstream

    seen: set[type[BaseModel]] = set()
    assert _secrets(Config, seen) | _secrets(Upstream, seen) == {"api_key", "key"}
    suspicious = {name for model in seen for name in model.model_fields if "key" in name or "secret" in name}
    assert suspicious <= {"api_key", "key", "key_file", "api_keys", "keep_alive_timeout_ms"}
