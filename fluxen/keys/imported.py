"""Client keys from elsewhere: JSON lines, a JSON array or CSV, read as a whole, with the line of whatever is wrong.

A key is hashed as soon as it is read; no message quotes it.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from fluxen.config.access import StaticKey
from fluxen.config.load import in_words
from fluxen.config.values import parse_moment, sendable
from fluxen.keys.entry import StoredKey, entry_of
from fluxen.keys.stored import Stored
from fluxen.keys.written import WrittenKey

_LISTS: Final = ("upstreams", "models", "routes", "networks")
FIELDS: Final = ("id", "key", "hash", "created", "name", "team", "project", "tags", "expires", *_LISTS)

_DIGITS: Final = re.compile(r"[0-9a-fA-F]{64}")
_BETWEEN: Final = re.compile(r"[\s,;]+")

Problem = tuple[int, str]


@dataclass(slots=True)
class Imported:
    """entries: as keys.json is to have them; lines: where each stood. plain: ids of those that came as the key itself,
    and how long that is. there: how many are in keys.json already, and the same. problems: line and what."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    plain: dict[str, int] = field(default_factory=dict)
    there: int = 0
    problems: list[Problem] = field(default_factory=list)

    def compare(self, stored: Stored | None, written: Mapping[str, WrittenKey]) -> None:
        """Take out what is in keys.json already, and find what would be there twice. written: the keys of the
        configuration by their ids."""
        known = {one.key.digest: one for one in written.values() if one.unread is None}
        entries, lines = self.entries, self.lines
        self.entries, self.lines = [], []
        ids: dict[str, int] = {}
        hashes: dict[str, int] = {}
        for entry, line in zip(entries, lines, strict=True):
            key_id, key_hash = entry["id"], entry["hash"]
            if (first := ids.setdefault(key_id, line)) != line:
                self.problems.append((line, f"id: is that of line {first}, too"))
                continue
            if (first := hashes.setdefault(key_hash, line)) != line:
                self.problems.append((line, f"has the same key as line {first}"))
                continue
            there = stored.ids.get(key_id) if stored else None
            if there is not None and _same(there, entry):
                self.there += 1
                self.plain.pop(key_id, None)
                continue
            digest = bytes.fromhex(key_hash[7:])
            owner = stored.digests.get(digest) if stored else None
            if there is not None:
                state = "was revoked, and no id is used again" if there.revoked else "is there already, and another"
                self.problems.append((line, f"id: the key '{key_id}' {state}"))
            elif key_id in written:
                self.problems.append((line, f"id: the key '{key_id}' is in the configuration: {written[key_id].where}"))
            elif (same := known.get(digest)) is not None:
                self.problems.append((line, f"this key is in the configuration, as '{same.key.id}': {same.where}"))
            elif owner is not None:
                state = "was revoked" if owner.revoked else "is there already"
                self.problems.append((line, f"this key {state}, as '{owner.id}'"))
            else:
                self.entries.append(entry)
                self.lines.append(line)


def read_import(raw: bytes, now: datetime) -> Imported:
    """Everything that is wrong stands in `problems`; the rest is read all the same, so that one run finds all."""
    found = Imported()
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        found.problems.append((raw.count(b"\n", 0, error.start) + 1, "is no UTF-8"))
        return found
    begins = raw.lstrip()[:1]
    rows = _array(raw, found) if begins == b"[" else _lines(raw, found) if begins == b"{" else _csv(raw, found)
    for line, row in rows:
        _take(found, line, row, now)
    if not found.entries and not found.problems:
        found.problems.append((1, "holds no key"))
    return found


def _array(raw: bytes, found: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (ValueError, RecursionError) as error:
        found.problems.append((_line_of(raw, error), f"is no JSON: {error}"))
        return
    at = line = 0
    for item in items:
        begin = raw.index(bytes(item), at)  # between two of them are only blanks and a comma
        line += raw.count(b"\n", at, begin)
        yield from _object(bytes(item), line + 1, found)
        line += raw.count(b"\n", begin, begin + len(bytes(item)))
        at = begin + len(bytes(item))


def _lines(raw: bytes, found: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(raw.split(b"\n"), 1):
        if text.strip():
            yield from _object(text, number, found)


def _object(text: bytes, line: int, found: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        row = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        found.problems.append((line, "is no JSON object on a line of its own"))
        return
    if isinstance(row, dict):
        yield line, {name: value for name, value in row.items() if value is not None}
    else:
        found.problems.append((line, "is no JSON object"))


def _line_of(raw: bytes, error: BaseException) -> int:
    at = re.search(r"\(byte ([0-9]+)\)", str(error))
    return raw.count(b"\n", 0, int(at.group(1)) if at else len(raw)) + 1  # without a place: it ends too early


def _csv(raw: bytes, found: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    text = raw.decode()
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if names is None:
                names = [cell.strip() for cell in cells]
                if "id" not in names or not {"key", "hash"} & set(names):
                    found.problems.append((1, f"expected the names of the columns: {', '.join(FIELDS)}"))
                    return
            elif len(cells) > len(names):
                found.problems.append((line, f"has {len(cells)} fields, and the header names {len(names)}"))
            elif any(cell.strip() for cell in cells):
                yield line, dict(_cells(names, cells, line, found))
            line = reader.line_num + 1
    except csv.Error as error:
        found.problems.append((line, f"is no CSV: {error}"))


def _cells(names: list[str], cells: list[str], line: int, found: Imported) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(names, cells, strict=False):
        text = cell.strip()
        if not text:
            continue
        if name in _LISTS:
            yield name, [part for part in _BETWEEN.split(text.strip("{}")) if part]  # PostgreSQL writes {a,b}
        elif name == "tags":
            pairs = [part.partition("=") for part in _BETWEEN.split(text) if part]
            if all(tag and equals and value for tag, equals, value in pairs):
                yield name, {tag: value for tag, _, value in pairs}
            else:
                found.problems.append((line, "tags: expected a=b c=d"))
        else:
            yield name, text


def _take(found: Imported, line: int, row: dict[str, Any], now: datetime) -> None:
    before = len(found.problems)
    for name in row:
        if name not in FIELDS:
            nearest = difflib.get_close_matches(str(name).lower(), FIELDS, n=1)
            meant = f" (did you mean '{nearest[0]}'?)" if nearest else ""
            found.problems.append((line, f"unknown field '{name}'{meant}"))
        elif row[name] == [] and name in _LISTS:  # elsewhere it means everything
            found.problems.append(
                (line, f"{name}: an empty list would allow nothing: leave it out to allow everything")
            )
    created = _created(found, line, row, now)
    fields = {name: value for name, value in row.items() if name in FIELDS and name not in ("key", "created")}
    key_hash, length = _proof(found, line, row)
    if not isinstance(row.get("id"), str | int):
        found.problems.append((line, "id: is required"))
        fields["id"] = "?"
    try:
        key = StaticKey.model_validate({**fields, "hash": key_hash})
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            if one["type"] != "extra_forbidden":
                found.problems.append((line, f"{'.'.join(map(str, one['loc']))}: {in_words(one)}"))
        return
    if len(found.problems) == before:
        found.entries.append(entry_of(key, created))
        found.lines.append(line)
        if length is not None:
            found.plain[key.id] = length


def _created(found: Imported, line: int, row: dict[str, Any], now: datetime) -> datetime:
    if (text := row.get("created")) is None:
        return now
    try:
        return parse_moment(text if isinstance(text, str) else "")
    except ValueError as error:
        found.problems.append((line, f"created: {error}"))
        return now


def _proof(found: Imported, line: int, row: dict[str, Any]) -> tuple[str, int | None]:
    """The hash, and how long the key is if that is what came. A key is taken as it is: no reference is followed."""
    key, key_hash = row.get("key"), row.get("hash")
    if (key is None) == (key_hash is None):
        what = "key: is required, or hash" if key is None else "hash: says once more what key says: either of the two"
        found.problems.append((line, what))
    elif key is not None:
        if isinstance(key, str) and key and sendable(key):
            return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}", len(key)
        found.problems.append((line, "key: expected characters that can stand in a header: 0x21 to 0x7E"))
    elif isinstance(key_hash, str) and _DIGITS.fullmatch(digits := key_hash.strip().removeprefix("sha256:")):
        return f"sha256:{digits.lower()}", None
    else:
        found.problems.append((line, "hash: expected sha256: and the 64 hexadecimal digits of the key's SHA-256"))
    return "sha256:" + "0" * 64, None


def _same(there: StoredKey, entry: Mapping[str, Any]) -> bool:
    """Whether keys.json says the same of it; when it was created may differ."""
    new = msgspec.convert({**entry, "created": there.created}, StoredKey)
    return new == there
