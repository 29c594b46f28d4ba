"""What keys.json says: who gets in with which key and until when; whatever is wrong is told and never let in."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.access import StaticKey
from fluxen.keys.client import ClientKey, KeyIndex, client_of
from fluxen.keys.draft import Draft
from fluxen.keys.entry import entry_of
from fluxen.keys.generate import hash_of
from fluxen.keys.stored import BrokenKeysError, parse

WHEN = "2027-01-31T18:00:00Z"
THEN = datetime(2027, 1, 31, 18, tzinfo=UTC).timestamp()


def written(*entries: Any, version: int = 2) -> bytes:
    return json.dumps({"version": version, "keys": entries}).encode()


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


FULL: dict[str, Any] = {
    "id": "ci", "hash": hash_of("now"), "created": WHEN, "name": "Jörg", "team": "red", "project": "shop",
    "tags": {"a": "b"}, "upstreams": ["openai"], "models": ["gpt-5*"], "routes": ["/v1/*"],
    "networks": ["10.0.0.0/8", "::1"], "expires": WHEN,
}  # fmt: skip
CLIENT = ClientKey(
    "ci", "red", "shop", {"a": "b"}, frozenset({"openai"}), ("gpt-5*",), ("/v1/*",),
    (ip_network("10.0.0.0/8"), ip_network("::1")), THEN,
)  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_all_that_an_entry_says_holds(version: int) -> None:
    stored = parse(written(FULL, {"id": "free", "hash": hash_of("free")}, version=version))
    assert stored.clients == {digest("now"): CLIENT, digest("free"): ClientKey("free")}
    assert CLIENT.until == THEN
    assert ClientKey("free").until == math.inf


def test_the_same_words_mean_the_same_in_both_files() -> None:
    fields = {name: value for name, value in FULL.items() if name not in ("created", "hash")}
    key = StaticKey.model_validate({**fields, "key": "now"})
    assert client_of(key) == CLIENT
    entry = entry_of(key, None)
    assert parse(written(entry)).clients == {digest("now"): CLIENT}


def test_former_keys_are_the_same_caller_until_they_end() -> None:
    former = [
        {"hash": hash_of("old"), "until": "2027-01-01T00:00:00Z"},
        {"hash": hash_of("older"), "until": "2028-01-01"},
    ]
    stored = parse(written({**FULL, "previous": former}))
    index = KeyIndex(dict(stored.clients))
    assert (len(index), len(stored.clients)) == (1, 3)
    old, older = index.find(b"old"), index.find(b"older")
    assert old is not None
    assert older is not None
    assert old.until == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert older.until == THEN  # never longer than the key itself
    assert (old.id, old.models, old.networks) == (CLIENT.id, CLIENT.models, CLIENT.networks)
    assert index.find(b"now") == CLIENT
    assert stored.ids["ci"].open_until(datetime(2026, 12, 1, tzinfo=UTC)) == datetime.fromtimestamp(THEN, UTC)
    assert stored.ids["ci"].open_until(datetime(2027, 2, 1, tzinfo=UTC)) is None


def test_nobody_gets_in_by_a_revoked_key_but_its_hashes_stay_taken() -> None:
    former = [{"hash": hash_of("old"), "until": WHEN}]
    raw = written({**FULL, "previous": former, "revoked": WHEN})
    stored = parse(raw)
    assert stored.clients == {}
    assert set(stored.ids) == {"ci"}
    assert set(stored.digests) == {digest("now"), digest("old")}
    for key in ("now", "old"):
        with pytest.raises(BrokenKeysError, match=r"keys\[1\]\.hash: is that of keys\[0\], too"):
            parse(raw.replace(b'"keys": [', b'"keys": [').replace(b"}]}", b"}, " + json.dumps(
                {"id": "b", "hash": hash_of(key)}).encode() + b"]}"))  # fmt: skip


ENTRY = {"id": "a", "hash": hash_of("a")}
LONG = "x" * 257


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"expires": "soon"}, "expires: expected a day"),
        ({"expires": 5}, "expires: Expected str"),
        ({"revoked": "yes"}, "revoked: expected a day"),
        ({"revoked": True}, "revoked: Expected str"),
        ({"previous": [{"hash": hash_of("b")}]}, "previous"),
        ({"previous": [{"hash": "b", "until": WHEN}]}, "previous[0].hash: expected sha256:"),
        ({"previous": [{"hash": hash_of("a"), "until": WHEN}]}, "previous[0].hash: is that of keys[0], too"),
        ({"previous": [{"hash": hash_of("b"), "until": "x"}]}, "previous[0].until: expected"),
        ({"previous": [{"hash": hash_of("b"), "until": WHEN}] * 2}, "previous[1].hash: is that of keys[0], too"),
        ({"networks": ["10.0.0.1/8"]}, "networks.0: the address has bits beyond"),
        ({"networks": "10.0.0.0/8"}, "networks: Expected array"),
        ({"routes": ["v1"]}, "routes.0: expected the beginning '/'"),
        ({"routes": ["/a%2f"]}, "routes.0: a path without"),
        ({"models": [""]}, "models.0: "),
        ({"models": [5]}, "models[0]: Expected str"),
        ({"team": "Ä"}, "team: expected 1 to 256 printable ASCII"),
        ({"project": ""}, "project: expected 1 to 256"),
        ({"project": "\x7f"}, "project: expected 1 to 256"),
        ({"name": "\x1b"}, "name: expected 1 to 256 printable characters"),
        ({"name": LONG}, "name: expected 1 to 256"),
        ({"id": LONG}, "id: expected 1 to 256"),
        ({"id": "a\n"}, "id: expected 1 to 256"),
        ({"tags": {"a": "\n"}}, "tags: expected 1 to 256"),
        ({"tags": {"": "b"}}, "tags: expected 1 to 256"),
        ({"tags": {str(number): "x" for number in range(33)}}, "tags: expected at most 32 tags"),
        ({"hash": hash_of("a").upper()}, "hash: expected sha256:"),
        ({"hash": "sha256:" + " " * 64}, "hash: expected sha256:"),
        ({"hash": "sha256:" + "0" * 62 + "  "}, "hash: expected sha256:"),
        ({"hash": "sha256:" + "٠" * 64}, "hash: expected sha256:"),
    ],
)
def test_what_is_wrong_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(BrokenKeysError) as caught:
        parse(written(ENTRY | entry))
    assert str(caught.value).startswith("keys[0].")
    assert said in str(caught.value)
    other = ENTRY | entry
    if other["id"] == "a" and other["hash"] == ENTRY["hash"]:
        with pytest.raises(BrokenKeysError, match=r"keys\[1\]"):
            parse(written({"id": "first", "hash": hash_of("first")}, other))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.sampled_from([WHEN, hash_of("x"), "10.0.0.0/8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["id", "hash", "tags", "previous", "until", "expires", "revoked", "models", "networks", "x"]), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*FULL, "previous", "revoked", "x"]), JSON))
def test_any_entry_is_right_or_refused(fields: dict[str, Any]) -> None:
    """The judge: by plain Python, without the tricks of the parser."""
    entry = ENTRY | fields
    try:
        stored = parse(written(entry))
    except BrokenKeysError:
        return
    assert stored.keys[0].id == entry["id"]
    if entry.get("revoked") is not None:
        assert not stored.clients
        return
    client = stored.clients[bytes.fromhex(entry["hash"][7:])]
    for name in ("models", "routes"):
        assert getattr(client, name) == (None if entry.get(name) is None else tuple(entry[name]))
    assert client.upstreams == (None if entry.get("upstreams") is None else frozenset(entry["upstreams"]))
    assert (client.networks is None) == (entry.get("networks") is None)
    assert (client.until == math.inf) == (entry.get("expires") is None)
    assert all(one.until <= client.until for one in stored.clients.values())


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":, \\u0versionky12', max_size=60).map(str.encode))
def test_any_bytes_are_keys_or_refused(raw: bytes) -> None:
    try:
        parse(raw)
    except BrokenKeysError as error:
        assert str(error)


def test_what_this_version_does_not_know_stays() -> None:
    entry = {**ENTRY, "later": [1.5, None, {"x": "\u2028"}], "previous": [], "huge": 123456789012345678901234567890}
    raw = json.dumps(
        {"seen": {"a": 1}, "version": 1, "keys": [entry, {"id": "b", "hash": hash_of("b")}]}, indent=1
    ).encode()
    draft = Draft(raw)
    draft.add({"id": "c", "hash": hash_of("c")})
    draft.replace("b", {"team": "red"})
    found = json.loads(draft.content())
    assert (found["version"], found["seen"]) == (2, {"a": 1})
    assert found["keys"][0] == entry
    assert found["keys"][1] == {"id": "b", "hash": hash_of("b"), "team": "red"}
    again = Draft(draft.content())
    again.replace("a", {"team": "blue"})
    assert json.loads(again.content())["keys"][0] == {**entry, "team": "blue"}
    assert draft.content().count(b"\n") == 5  # a line for each key


def test_an_index_tells_what_changed_and_travels_between_processes() -> None:
    raw = [{"id": f"k{number}", "hash": hash_of(str(number))} for number in range(5)]
    older = KeyIndex(dict(parse(written(*raw)).clients))
    raw[0]["team"] = "red"
    raw[1]["hash"] = hash_of("new")
    raw[2]["revoked"] = WHEN
    newer = KeyIndex(dict(parse(written(*raw)).clients))
    gone, changed = pickle.loads(pickle.dumps(tuple(map(_plain, older.differences(newer)))))
    assert set(gone) == {digest("1"), digest("2")}
    assert changed == {digest("0"): ClientKey("k0", "red"), digest("new"): ClientKey("k1")}
    made = older.changed(gone, changed)
    assert [made.find(key) for key in (b"0", b"1", b"2", b"3", b"new")] == [
        ClientKey("k0", "red"), None, None, ClientKey("k3"), ClientKey("k1"),
    ]  # fmt: skip
    assert older.find(b"2") == ClientKey("k2")
    assert newer.differences(made) == (set(), {})


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else set(value)
