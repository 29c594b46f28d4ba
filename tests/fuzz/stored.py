"""keys.json: whatever its bytes are, they are read or refused in one way, and nobody gets in who isn't in them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from fluxen.errors import ConfigError
from fluxen.keys.store import KeyStore

HASHES = tuple(f"sha256:{letter * 64}" for letter in "0123456789abcdef")
FIELDS = (
    '"name":"n"', '"team":"red"', '"project":"p"', '"tags":{"a":"b"}', '"upstreams":["openai"]', '"upstreams":[]',
    '"models":["gpt-*"]', '"models":[""]', '"routes":["/v1/*"]', '"routes":["x"]', '"networks":["10.0.0.0/8"]',
    '"networks":["10.0.0.1/8"]', '"networks":["::1"]', '"expires":"2027-01-31"',
    '"expires":"2027-01-31T18:00:00+01:00"',
    '"expires":"x"', '"expires":null', '"revoked":"2026-11-22T20:00:00Z"', '"revoked":null', '"revoked":true',
    '"later":{"x":[1]}',
    '"created":"2026-11-22T20:00:00Z"', '"created":5', '"tags":{"a":1}', '"id":5', '"hash":null',
)  # fmt: skip
VERSIONS = ("1", "2", "3", "0", "-1", "1.0", "2e0", '"2"', "true", "null", "99999999999999999999999999")


class Stored:
    name = "keys"
    traced = tuple(f"fluxen/keys/{name}.py" for name in ("stored", "entry", "store", "client"))
    base_steps = 20_000
    words: Sequence[bytes] = tuple(
        word.encode()
        for word in (
            *FIELDS, *VERSIONS, *HASHES, '"version":', '"keys":', "[", "]", "{", "}", ",", ":", '"', "\\u0000",
            "\\ud800", "\ufeff",
            "sha256:", "SHA256:", '"previous":[{"hash":"' + HASHES[9] + '","until":"2026-11-30"}]', "\n", "9" * 400,
            "[" * 2000, "\x00",
        )
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self._store = KeyStore(folder)

    def seeds(self) -> list[bytes]:
        return [
            b"", b"null", b"{}", b'{"version":2,"keys":[]}', b'{"version":1,"keys":[]}', b"\xff\xfe", b"[" * 50_000,
            *(self._file([self._entry(n, [field])], "2") for n, field in enumerate(FIELDS)),
            *(self._file([self._entry(0, [])], version) for version in VERSIONS),
        ]  # fmt: skip

    def make(self, chance: random.Random) -> bytes:
        entries = [
            self._entry(
                number if chance.random() < 0.9 else chance.randrange(16),
                [chance.choice(FIELDS) for _ in range(chance.randrange(4))],
                chance.randrange(16) if chance.random() < 0.3 else None,
            )
            for number in range(chance.randrange(5))
        ]
        return self._file(entries, chance.choice(("1", "2", "2", "2", *VERSIONS)))

    def _entry(self, number: int, fields: list[str], former: int | None = None) -> str:
        if former is not None:
            fields = [*fields, f'"previous":[{{"hash":"{HASHES[former]}","until":"2026-11-30T00:00:00Z"}}]']
        return "{" + ",".join([f'"id":"k{number}"', f'"hash":"{HASHES[number % 16]}"', *fields]) + "}"

    def _file(self, entries: list[str], version: str) -> bytes:
        return f'{{"version":{version},"keys":[{",".join(entries)}]}}'.encode()

    def run(self, case: bytes) -> Hashable:
        try:
            found = self._store.parse(case)
        except ConfigError as error:
            assert error.message.isprintable(), error.message
            assert not any(one in error.message for one in HASHES), error.message
            return re.sub(r"'[^']*'|[0-9]+", "", error.message)
        document = json.loads(case)
        assert document["version"] in (1, 2), document["version"]
        expected: dict[bytes, dict[str, Any]] = {}
        for entry in document["keys"]:
            if entry.get("revoked") is None:
                expected[_digest(entry["hash"])] = {**entry, "until": None}
                for former in entry.get("previous") or ():
                    expected[_digest(former["hash"])] = {**entry, "until": former["until"]}
        assert found.clients.keys() == expected.keys(), "others get in than those that are in it"
        for digest, entry in expected.items():
            client = found.clients[digest]
            assert client.id == entry["id"], client
            ends = [_seconds(text) for text in (entry.get("expires"), entry["until"]) if text is not None]
            assert client.until == min(ends, default=float("inf")), (client, entry)
            for kind in ("models", "routes"):
                assert getattr(client, kind) == _tuple(entry.get(kind)), (client, entry)
            assert client.upstreams == (None if entry.get("upstreams") is None else set(entry["upstreams"])), client
            networks = entry.get("networks")
            assert client.networks == (None if networks is None else tuple(map(ip_network, networks))), client
        return len(expected), len(found.keys), len(found.warnings)


def _digest(text: str) -> bytes:
    return bytes.fromhex(text.partition(":")[2])


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()


def _tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
