"""Keys from elsewhere: all of what is right is taken, all of what is wrong is told with its line, no key is kept."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.access import StaticKey
from fluxen.keys.generate import hash_of
from fluxen.keys.imported import FIELDS, Imported, read_import
from fluxen.keys.stored import parse
from fluxen.keys.written import WrittenKey

NOW = datetime(2026, 11, 22, 20, tzinfo=UTC)
DIGITS = hashlib.sha256(b"search").hexdigest()

ROWS: list[dict[str, Any]] = [
    {"id": "mobile", "key": "sk-mobile-0123456789-0123456789-01", "team": "apps", "tags": {"a": "b", "c": "d"},
     "models": ["gpt-4o*", "claude-*"], "expires": "2031-01-31", "networks": ["10.0.0.0/8"]},
    {"id": "search", "hash": DIGITS.upper(), "name": "Jörg", "created": "2025-01-01T00:00:00Z"},
    {"id": "web", "hash": hash_of("web"), "routes": ["/v1/*"], "upstreams": ["openai"], "project": "x"},
]  # fmt: skip
ENTRIES = [
    {"id": "mobile", "hash": hash_of("sk-mobile-0123456789-0123456789-01"), "created": "2026-11-22T20:00:00Z",
     "team": "apps", "tags": {"a": "b", "c": "d"}, "models": ("gpt-4o*", "claude-*"), "networks": ["10.0.0.0/8"],
     "expires": "2031-01-31T00:00:00Z"},
    {"id": "search", "hash": hash_of("search"), "created": "2025-01-01T00:00:00Z", "name": "Jörg"},
    {"id": "web", "hash": hash_of("web"), "created": "2026-11-22T20:00:00Z", "project": "x", "upstreams": ("openai",),
     "routes": ("/v1/*",)},
]  # fmt: skip
LINES = "\n".join(json.dumps(row) for row in ROWS)
CSV = f"""id,key,hash,team,tags,models,expires,networks,name,created,routes,upstreams,project
mobile,sk-mobile-0123456789-0123456789-01,,apps,a=b c=d,"gpt-4o*, claude-*",2031-01-31,10.0.0.0/8,,,,,
search,,{DIGITS.upper()},,,,,,Jörg,2025-01-01T00:00:00Z,,,
web,,{hash_of("web")},,,,,,,,/v1/*,{{openai}},x
"""


@pytest.mark.parametrize(
    "text",
    [LINES, f"\n{LINES}\n\n", json.dumps(ROWS), json.dumps(ROWS, indent=2), CSV, CSV.replace("\n", "\r\n"),
     f"\ufeff{CSV}", f"\ufeff{LINES}"],
    ids=["lines", "blank lines", "array", "indented array", "csv", "csv of windows", "csv with a mark",
         "lines with a mark"],
)  # fmt: skip
def test_every_form_says_the_same(text: str) -> None:
    found = read_import(text.encode(), NOW)
    assert found.problems == []
    assert found.entries == ENTRIES
    assert found.plain == {"mobile": len("sk-mobile-0123456789-0123456789-01")}
    parse(json.dumps({"version": 2, "keys": found.entries}).encode())


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(delimiter: str) -> None:
    text = f"id;hash;team\na;{DIGITS};red\n".replace(";", delimiter)
    (entry,) = read_import(text.encode(), NOW).entries
    assert (entry["id"], entry["team"]) == ("a", "red")


SECRET = "sk-secret-secret-secret"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", [(1, "holds no key")]),
        ("[]", [(1, "holds no key")]),
        ("id,hash\n", [(1, "holds no key")]),
        ("\xff", [(1, "is no UTF-8")]),
        ("a,b\n1,2\n", [(1, "expected the names of the columns")]),
        (f"{SECRET}\n", [(1, "expected the names of the columns")]),
        (f"id,key\na,{SECRET}\nb,{SECRET},c\n", [(3, "has 3 fields, and the header names 2")]),
        (f'id,key\na,{SECRET}\nb,"{SECRET}\n', [(3, "is no CSV")]),
        (f'{{"id": "a", "key": "{SECRET}"}}\n\n{{"id": "b"\n5\n', [(3, "is no JSON object"), (4, "is no JSON object")]),
        (f'[{{"id": "a",\n "key": "{SECRET}"}},\n\n 5]', [(4, "is no JSON object")]),
        (f'[{{"id": "a",\n "key": "{SECRET}"}},\n', [(3, "is no JSON")]),
        ('{"id": "a"}', [(1, "key: is required, or hash")]),
        (f'{{"id": "a", "key": "{SECRET}", "hash": "{DIGITS}"}}', [(1, "hash: says once more")]),
        (f'{{"key": "{SECRET}"}}', [(1, "id: is required")]),
        ('{"id": "a", "key": "sk with spaces"}', [(1, "key: expected characters")]),
        ('{"id": "a", "key": 5}', [(1, "key: expected characters")]),
        (f'{{"id": "a", "hash": "{SECRET}"}}', [(1, "hash: expected sha256:")]),
        (f'{{"id": "a", "hash": "{DIGITS}", "model": ["x"]}}', [(1, "unknown field 'model' (did you mean 'models'?)")]),
        (f'{{"id": "a", "hash": "{DIGITS}", "models": "x"}}', [(1, "models: expected a list")]),
        (f'{{"id": "a", "hash": "{DIGITS}", "expires": "2027-13-01", "networks": ["x"], "created": 5}}',
         [(1, "created: expected a day"), (1, "networks.0: neither an IP"), (1, "expires: expected a day")]),
        (f'{{"id": "a", "hash": "{DIGITS}", "routes": []}}', [(1, "routes: an empty list would allow nothing")]),
        (f"id,hash,models\na,{DIGITS},{{}}\n", [(2, "models: an empty list would allow nothing")]),
        (f"id,hash,tags\na,{DIGITS},x\n", [(2, "tags: expected a=b c=d")]),
        (f"id,hash\na\x07,{DIGITS}\n", [(2, "id: expected 1 to 256 printable ASCII")]),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_told_with_its_line(text: str, problems: list[tuple[int, str]]) -> None:
    found = read_import(text.encode("latin-1"), NOW)
    assert [line for line, _ in found.problems] == [line for line, _ in problems]
    for (_, said), (_, expected) in zip(found.problems, problems, strict=True):
        assert said.startswith(expected)
        assert SECRET not in said
        assert "secret" not in said


def test_a_key_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reference in it is followed: whoever wrote the list would read files and variables of who imports it."""
    monkeypatch.setenv("HOME", "/root")
    for key in ("${HOME}", "file:/etc/passwd", "$HOME"):
        (entry,) = read_import(json.dumps({"id": "a", "key": key}).encode(), NOW).entries
        assert entry["hash"] == hash_of(key)


def imported(*rows: dict[str, Any]) -> Imported:
    return read_import("\n".join(json.dumps(row) for row in rows).encode(), NOW)


def test_nothing_is_there_twice() -> None:
    stored = parse(json.dumps({"version": 2, "keys": [
        {"id": "same", "hash": hash_of("same"), "created": "2020-01-01T00:00:00Z", "team": "red"},
        {"id": "other", "hash": hash_of("other"), "previous": [{"hash": hash_of("former"), "until": "2027-01-01"}]},
        {"id": "gone", "hash": hash_of("gone"), "revoked": "2026-01-01"},
    ]}).encode())  # fmt: skip
    found = imported(
        {"id": "same", "key": "same", "team": "red"},
        {"id": "other", "key": "new"},
        {"id": "gone", "key": "gone"},
        {"id": "written", "key": "w"},
        {"id": "a", "key": "former"},
        {"id": "b", "key": "gone"},
        {"id": "c", "key": "c"},
        {"id": "c", "key": "d"},
        {"id": "e", "key": "c"},
        {"id": "f", "key": "same"},
        {"id": "g", "key": "in-the-file"},
    )
    key = StaticKey.model_validate({"id": "written", "key": "in-the-file"})
    found.compare(stored, {"written": WrittenKey(key, "fluxen.yaml:3:5")})
    assert [entry["id"] for entry in found.entries] == ["c"]
    assert found.lines == [7]
    assert found.there == 1
    assert sorted(found.problems) == [
        (2, "id: the key 'other' is there already, and another"),
        (3, "id: the key 'gone' was revoked, and no id is used again"),
        (4, "id: the key 'written' is in the configuration: fluxen.yaml:3:5"),
        (5, "this key is there already, as 'other'"),
        (6, "has the same key as line 3"),
        (8, "id: is that of line 7, too"),
        (9, "has the same key as line 7"),
        (10, "has the same key as line 1"),
        (11, "this key is in the configuration, as 'written': fluxen.yaml:3:5"),
    ]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([*FIELDS, "x"]),
            st.none() | st.integers() | st.text(max_size=8) | st.sampled_from([DIGITS, "2027-01-01", "10.0.0.0/8"])
            | st.lists(st.text(max_size=5), max_size=2) | st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
        ),
        max_size=3,
    ),
    st.sampled_from(["lines", "array"]),
)  # fmt: skip
def test_what_is_taken_can_be_kept(rows: list[dict[str, Any]], form: str) -> None:
    text = json.dumps(rows) if form == "array" else "\n".join(map(json.dumps, rows))
    found = read_import(text.encode(), NOW)
    found.compare(None, {})
    parse(json.dumps({"version": 2, "keys": found.entries}).encode())
    assert found.entries or found.problems


@given(st.text(alphabet='idkeyhas,;"\n{}[]: \t=0', max_size=40))
def test_any_text_is_keys_or_problems(text: str) -> None:
    found = read_import(text.encode(), NOW)
    assert found.entries or found.problems
