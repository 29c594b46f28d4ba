"""Successors and ends, as pure changes of the file: whatever is done in whatever order, only who should gets in."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.load import load_bytes
from fluxen.errors import ConfigError, FluxenError
from fluxen.keys.draft import Draft
from fluxen.keys.generate import hash_of
from fluxen.keys.known import known_keys
from fluxen.keys.lifetime import parse_end, parse_span
from fluxen.keys.rotation import KEEP, revoke, rotate
from fluxen.keys.stored import parse
from fluxen.keys.written import Written, written_keys

NOW = datetime(2026, 11, 22, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Model:
    """What should be so, told in the plainest way: for each key until when it works."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self.current: str | None = None
        self.dead = False


@given(
    st.lists(
        st.tuples(st.sampled_from(["rotate", "rotate", "rotate", "revoke", "wait"]), st.integers(0, 72)), max_size=8
    )
)
def test_any_history_leaves_who_should_get_in(steps: list[tuple[str, int]]) -> None:
    draft = Draft()
    draft.add({"id": "ci", "hash": hash_of("first"), "team": "red", "models": ["gpt-*"], "later": {"x": 1}})
    raw, now = draft.content(), NOW
    model = Model()
    model.ends, model.current = {"first": float("inf")}, "first"
    for what, hours in steps:
        if what == "wait":
            now += hours * HOUR
            continue
        draft = Draft(raw)
        if what == "revoke":
            assert (revoke(draft, "ci", None, now) is None) is model.dead
            model.dead = True
        elif model.dead:
            with pytest.raises(FluxenError, match="was revoked"):
                rotate(draft, "ci", None, now, hours * HOUR)
        else:
            done = rotate(draft, "ci", None, now, hours * HOUR)
            until = now + hours * HOUR
            model.ends = {key: min(end, until.timestamp()) for key, end in model.ends.items()}
            model.ends[done.key] = float("inf")
            model.current = done.key
            assert (done.former_until is None) is (hours == 0)
        if draft.changed:
            raw = draft.content()
        stored = parse(raw)
        alive = {} if model.dead else {key: end for key, end in model.ends.items() if end > now.timestamp()}
        found = {value: one for value, one in stored.clients.items() if one.until > now.timestamp()}
        assert {value: one.until for value, one in found.items()} == {digest(key): end for key, end in alive.items()}
        assert {(one.id, one.team, one.models) for one in found.values()} <= {("ci", "red", ("gpt-*",))}
    assert b'"later":{"x":1}' in raw


def test_a_successor_that_ends() -> None:
    draft = Draft()
    draft.add({"id": "ci", "hash": hash_of("a"), "expires": "2026-11-23T00:00:00Z"})
    raw = draft.content()
    draft = Draft(raw)
    assert rotate(draft, "ci", None, NOW, HOUR * 24, KEEP).entry.expires == "2026-11-23T00:00:00Z"
    assert {one.until for one in parse(draft.content()).clients.values()} == {(NOW + 4 * HOUR).timestamp()}
    assert rotate(Draft(raw), "ci", None, NOW, HOUR, None).entry.expires is None
    with pytest.raises(FluxenError, match="so would its successor"):
        rotate(Draft(raw), "ci", None, NOW + 4 * HOUR, HOUR)
    assert rotate(Draft(raw), "ci", None, NOW + 4 * HOUR, HOUR, NOW + 5 * HOUR).entry.expires == "2026-11-23T01:00:00Z"


def test_an_unknown_key() -> None:
    for work in (rotate, revoke):
        with pytest.raises(FluxenError, match="there is no key 'x'"):
            work(Draft(), "x", None, NOW)


@pytest.mark.parametrize(
    ("text", "span"),
    [("0", 0), ("90d", 90 * 86400), ("24h", 86400), ("30m", 1800), ("2w", 14 * 86400), ("5s", 5), (" 1 d ", 86400)],
)
def test_spans(text: str, span: int) -> None:
    assert parse_span(text) == timedelta(seconds=span)


@pytest.mark.parametrize("text", ["", "d", "1", "-1d", "1y", "1.5h", "99999w", "999999999999d", "1d1h"])
def test_no_span(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|ten years"):
        parse_span(text)


def test_ends() -> None:
    assert parse_end("never", NOW) is None
    assert parse_end("12h", NOW) == NOW + 12 * HOUR
    assert parse_end("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=UTC)
    assert parse_end("2027-01-31T18:00:00+02:00", NOW) == datetime(2027, 1, 31, 16, tzinfo=UTC)
    for text in (
        "0",
        "0d",
        "2026-11-22",
        "2026-11-22T20:00:00Z",
        "tomorrow",
        "2027-02-30",
        "2027-01-31T18:00",
        "99999w",
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_end(text, NOW)


def read(text: str, folder: Path, env: dict[str, str] | None = None) -> Written:
    path = folder / "fluxen.yaml"
    path.write_text(text)
    return written_keys(path, env or {})


def test_keys_of_a_configuration_that_is_in_work(tmp_path: Path) -> None:
    (tmp_path / "ci").write_text("from-a-file\n")
    found = read(
        """
upstreams: {request_timeout_ms: 5, openai: {api_key: "${NONE}", nonsense: 1}, local: }
server: {bind_address: 5}
api_keys:
  static:
  - {id: plain, key: abc, team: red}
  - {id: hashed, hash: "HASH"}
  - {id: file, key: "file:ci"}
  - {id: variable, key: "${THERE}"}
  - {id: missing, key: "${NONE}", models: [x]}
  - {key: "${NONE}"}
  - {id: wrong, key: abcd, networks: [x]}
  - {id: both, key: abcd, hash: "x"}
  - {id: neither}
  - 5
""".replace("HASH", hash_of("def")),
        tmp_path,
        {"THERE": "value"},
    )
    assert found.upstreams == ("openai", "local")
    digests = {key_id: one.key.digest for key_id, one in found.keys.items() if one.unread is None}
    assert digests == {
        "plain": digest("abc"), "hashed": digest("def"), "file": digest("from-a-file"), "variable": digest("value"),
    }  # fmt: skip
    missing = found.keys["missing"]
    assert "NONE" in (missing.unread or "")
    assert (missing.key.models, missing.where) == (("x",), f"{tmp_path}/fluxen.yaml:10:5")
    places = [re.sub(r".*yaml:(\d+):.*", r"\1", line) for line in found.problems]
    assert places == ["11", "12", "14", "15"]
    assert all("abcd" not in line for line in found.problems)


def test_a_revoked_key_whose_value_is_not_known_lets_nobody_in(tmp_path: Path) -> None:
    found = read("api_keys: {static: [{id: far, key: '${NONE}', team: red}]}", tmp_path)
    draft = Draft()
    entry = revoke(draft, "far", found.keys["far"], NOW)
    assert entry is not None
    stored = parse(draft.content())
    assert (stored.ids["far"].team, stored.ids["far"].revoked, stored.clients) == ("red", "2026-11-22T20:00:00Z", {})


@pytest.mark.parametrize("text", ["a: [", "\t", "a: 1\na: 2\n- x"])
def test_what_is_no_yaml_is_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its client keys are not known"):
        read(text, tmp_path)


@pytest.mark.parametrize("text", ["", "5", "[]", "api_keys: 5", "api_keys: {static: {}}", "api_keys:", "upstreams: []"])
def test_what_has_no_keys_has_none(text: str, tmp_path: Path) -> None:
    found = read(text, tmp_path)
    assert (found.keys, found.problems, found.upstreams) == ({}, [], ())


def test_no_configuration() -> None:
    assert written_keys(None, {}).keys == {}


@pytest.mark.parametrize("overlap", [0, 24])
def test_a_replaced_key_of_the_configuration_stays_known_when_its_entry_gets_another_id(
    tmp_path: Path, overlap: int
) -> None:
    """Or it would work again: nothing in keys.json would speak of it any more."""
    text = "api_keys: {static: [{id: ci, key: leaked-key}]}"
    written = read(text, tmp_path).keys["ci"]
    draft = Draft()
    rotate(draft, "ci", written, NOW, overlap * HOUR)
    draft = Draft(draft.content())
    rotate(draft, "ci", written, NOW + 48 * HOUR, timedelta(0))
    raw = draft.content()
    entry = parse(raw).ids["ci"]
    assert [(one.hash, entry.until_of(one) <= NOW + 48 * HOUR) for one in entry.previous] == [
        (hash_of("leaked-key"), True)
    ]
    loaded = load_bytes(text.replace("id: ci", "id: other").encode(), {"HOME": str(tmp_path)}, None)
    (problem,) = known_keys(loaded, raw).problems
    assert "is the key 'ci' in" in problem
