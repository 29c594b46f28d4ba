"""Which keys there are: the configuration's and those of keys.json, and what it takes to listen for other machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fluxen.config.load import Loaded, load_bytes
from fluxen.errors import ConfigError
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.keys.client import ClientKey
from fluxen.keys.generate import hash_of
from fluxen.keys.known import known_keys
from fluxen.keys.store import KeyStore


def load(text: str, folder: Path) -> Loaded:
    return load_bytes(text.encode(), {"FLUXEN_DATA_DIR": str(folder)}, Path("fluxen.yaml"))


def compiled(text: str, folder: Path, env: dict[str, str] | None = None) -> Snapshot:
    return build(load(text, folder), env or {})


def problems(text: str, folder: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compiled(text, folder)
    return caught.value.problems


def id_of(snapshot: Snapshot, key: str) -> str | None:
    assert snapshot.keys is not None
    found = snapshot.keys.find(key.encode())
    return found.id if found else None


def test_keys_of_both_places_get_in(tmp_path: Path) -> None:
    created = KeyStore(tmp_path).create("ci")
    text = f"api_keys: {{static: [{{id: plain, key: abc, team: red}}, {{id: hashed, hash: '{hash_of('def')}'}}]}}"
    snapshot = compiled(text, tmp_path)
    assert [id_of(snapshot, key) for key in ("abc", "def", created)] == ["plain", "hashed", "ci"]
    for wrong in (
        "",
        "ab",
        "abcd",
        hash_of("abc"),
        hash_of("abc").removeprefix("sha256:"),
        "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"),
    ):
        assert id_of(snapshot, wrong) is None
    assert snapshot.warnings == ()


def test_what_keys_json_says_of_a_key_holds(tmp_path: Path) -> None:
    entry = {
        "id": "ci",
        "hash": hash_of("abc"),
        "team": "red",
        "project": "x",
        "tags": {"a": "b"},
        "upstreams": ["openai"],
    }
    (tmp_path / "keys.json").write_text(json.dumps({"version": 1, "keys": [entry]}))
    (tmp_path / "keys.json").chmod(0o600)
    snapshot = compiled("upstreams: {openai: }", tmp_path)
    assert snapshot.keys is not None
    assert snapshot.keys.find(b"abc") == ClientKey("ci", "red", "x", {"a": "b"}, frozenset({"openai"}))
    assert snapshot.warnings == ()
    (warning,) = compiled("upstreams: {anthropic: }", tmp_path).warnings
    assert warning == f"{tmp_path}/keys.json: key 'ci' is for an upstream that isn't there: openai"


def test_an_id_in_keys_json_replaces_the_files(tmp_path: Path) -> None:
    created = KeyStore(tmp_path).create("ci")
    snapshot = compiled("api_keys:\n  static:\n  - {key: abc, id: ci}\n  - {key: def, id: other}\n", tmp_path)
    assert [id_of(snapshot, key) for key in (created, "abc", "def")] == ["ci", None, "other"]
    (warning,) = snapshot.warnings
    assert warning == f"fluxen.yaml:3:20: api_keys.static[0].id: the key 'ci' in {tmp_path}/keys.json replaces this one"


def test_one_key_of_two_ids_is_a_mistake(tmp_path: Path) -> None:
    created = KeyStore(tmp_path).create("ci")
    (line,) = problems(f"api_keys: {{static: [{{id: b, key: {created}}}]}}", tmp_path)
    assert line == f"fluxen.yaml:1:34: api_keys.static[0].key: is the key 'ci' in {tmp_path}/keys.json, too"
    assert created not in line
    (line,) = problems(f"api_keys: {{static: [{{id: b, hash: '{hash_of(created)}'}}]}}", tmp_path)
    assert line.startswith("fluxen.yaml:1:35: api_keys.static[0].hash: is the key 'ci' in ")


def test_a_broken_file_is_told_with_all_else(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    first, second = problems("upstreams: {nobody: }", tmp_path)
    assert first.startswith(f"{tmp_path}/keys.json can't be used: is no JSON; ")
    assert "upstreams.nobody: is not a provider Fluxen knows" in second


def test_no_keys_anywhere_is_open_mode_and_for_this_machine_only(tmp_path: Path) -> None:
    assert compiled("", tmp_path).open_mode
    assert compiled("server: {bind_address: '[::1]:80'}", tmp_path).open_mode
    text = 'server: {bind_address: "0.0.0.0:8080"}'
    (line,) = problems(text, tmp_path)
    assert line.startswith("fluxen.yaml:1:24: server.bind_address: there is no client key, and on 0.0.0.0:8080 anyone ")
    with pytest.raises(ConfigError) as caught:
        compiled(text, tmp_path)
    assert caught.value.exit_code == 3
    assert "fluxen init" in (caught.value.hint or "")
    assert not compiled(f"{text}\napi_keys: {{static: [{{key: abc}}]}}", tmp_path).open_mode
    KeyStore(tmp_path).create("ci")
    assert not compiled(text, tmp_path).open_mode
    # For one command's own gateway keys don't count; it listens on this machine only all the same.
    with pytest.raises(ConfigError, match="has 1 problem"):
        build(load(text, tmp_path), {}, ClientKey("run"))
    assert build(load("", tmp_path), {}, ClientKey("run")).open_mode


@pytest.mark.parametrize("text", ["api_keys:", "api_keys: {}", "api_keys: {static: []}", "api_keys: {jwt: }"])
def test_an_empty_list_of_keys_lets_nobody_in(text: str, tmp_path: Path) -> None:
    snapshot = compiled(text, tmp_path)
    assert not snapshot.open_mode
    assert id_of(snapshot, "") is None
    (warning,) = snapshot.warnings
    assert "no key: nobody can get in (remove api_keys for open mode" in warning
    assert compiled(f"{text}\nserver: {{bind_address: '0.0.0.0:1'}}", tmp_path).keys is not None
    KeyStore(tmp_path).create("ci")
    assert compiled(text, tmp_path).warnings == ()


def test_nor_does_an_empty_keys_json(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"version": 1, "keys": []}')
    (tmp_path / "keys.json").chmod(0o600)
    snapshot = compiled("", tmp_path)
    assert not snapshot.open_mode
    (warning,) = snapshot.warnings
    assert warning.startswith(f"{tmp_path}/keys.json: no key: nobody can get in (remove the file for open mode")


def test_keys_of_the_environment_are_used_with_client_keys_too(tmp_path: Path) -> None:
    text = """
upstreams:
  openai:
  anthropic: {api_key: written}
  gemini: {target_url: "http://127.0.0.1:1"}
api_keys: {static: [{key: abc}]}
"""
    env = {"OPENAI_API_KEY": "sk-env", "ANTHROPIC_API_KEY": "a-env", "GEMINI_API_KEY": "g-env"}
    found = {
        one.name: [(key.value, key.name) for key in one.credentials] for one in compiled(text, tmp_path, env).upstreams
    }
    assert found["openai"] == [(b"Bearer sk-env", "$OPENAI_API_KEY")]
    assert found["anthropic"] == [(b"written", "anthropic")]
    assert found["gemini"] == []


def entry(key_id: str, key: str, **more: object) -> dict[str, object]:
    return {"id": key_id, "hash": hash_of(key), **more}


def keep(folder: Path, *entries: dict[str, object]) -> bytes:
    raw = json.dumps({"version": 2, "keys": entries}).encode()
    (folder / "keys.json").write_bytes(raw)
    (folder / "keys.json").chmod(0o600)
    return raw


def test_a_rotated_key_of_the_file_and_its_successor_are_one_caller(tmp_path: Path) -> None:
    keep(tmp_path, entry("ci", "new", team="red", previous=[{"hash": hash_of("abc"), "until": "2999-01-01"}]))
    snapshot = compiled("api_keys: {static: [{key: abc, id: ci, team: blue}]}", tmp_path)
    assert snapshot.keys is not None
    old, new = snapshot.keys.find(b"abc"), snapshot.keys.find(b"new")
    assert (old, new) == (ClientKey("ci", "red", until=old.until if old else 0), ClientKey("ci", "red"))
    assert old is not None
    assert old.until < new.until if new else False
    assert len(snapshot.keys) == 1
    (warning,) = snapshot.warnings
    assert "replaces this one" in warning


def test_a_revoked_key_lets_nobody_in_by_any_name(tmp_path: Path) -> None:
    former = [{"hash": hash_of("older"), "until": "2999-01-01"}]
    keep(tmp_path, entry("ci", "old", revoked="2026-11-22", previous=former), entry("b", "b"))
    snapshot = compiled("api_keys: {static: [{key: abc, id: ci}]}", tmp_path)
    assert [id_of(snapshot, key) for key in ("abc", "old", "older", "b")] == [None, None, None, "b"]
    (warning,) = snapshot.warnings
    assert warning.endswith(f"the key 'ci' in {tmp_path}/keys.json was revoked, and lets nobody in")
    for key in ("old", "older"):
        (line,) = problems(f"api_keys: {{static: [{{key: {key}, id: c}}]}}", tmp_path)
        assert line.endswith(f"is the key 'ci' in {tmp_path}/keys.json, which was revoked")
    keep(tmp_path, entry("ci", "old", revoked="2026-11-22"))
    snapshot = compiled("", tmp_path)
    assert not snapshot.open_mode
    assert any("no key: nobody can get in" in warning for warning in snapshot.warnings)
    assert compiled("api_keys: {jwt: [{id: i, key: 0123456789-0123456789-0123456789}]}", tmp_path).keys is not None


def test_bytes_that_were_read_before_are_what_counts(tmp_path: Path) -> None:
    """A reload reads the file once; what lies there a moment later is for the next one."""
    loaded = load("", tmp_path)
    raw = keep(tmp_path, entry("ci", "abc"))
    assert known_keys(loaded, None).clients is None
    keep(tmp_path, entry("other", "def"))
    assert [one.id for one in (known_keys(loaded, raw).clients or {}).values()] == ["ci"]
    assert [one.id for one in (known_keys(loaded).clients or {}).values()] == ["other"]
    known = known_keys(loaded, b"{")
    assert (known.clients, len(known.problems)) == (None, 1)


def test_keys_for_lost_upstreams_are_told_only_while_they_live(tmp_path: Path) -> None:
    keep(tmp_path, entry("a", "a", upstreams=["gone"]), entry("b", "b", upstreams=["gone"], revoked="2026-11-22"),
         entry("c", "c", upstreams=["openai"]), entry("d", "d", upstreams=["gone", "openai"]))  # fmt: skip
    warnings = compiled("upstreams: {openai: }", tmp_path).warnings
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "key 'a' is for an upstream that isn't there: gone",
        "key 'd' is for an upstream that isn't there: gone",
    ]
