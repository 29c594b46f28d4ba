"""`fluxen keys import`: all or nothing, and again as often as one likes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared import Fluxen

from fluxen.keys.generate import hash_of
from fluxen.keys.store import KeyStore

LONG = "sk-mobile-0123456789-0123456789-01"


@pytest.fixture
def data(clean_env: dict[str, str]) -> Path:
    return Path(clean_env["HOME"], ".local", "share", "fluxen")


def kept(data: Path) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in json.loads((data / "keys.json").read_bytes())["keys"]}


def test_keys_of_another_gateway_go_on_working(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(f"id,key,team\nmobile,{LONG},apps\nshort,abc,apps\n")
    done = fluxen("keys", "import", "keys.csv", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"2 keys would be imported into {data}/keys.json" in done.stderr
    assert not data.exists()
    done = fluxen("keys", "import", "keys.csv")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"2 keys imported into {data}/keys.json\n" in done.stderr
    assert "keys.csv holds keys as they are: remove it" in done.stderr
    assert "warning: short enough to be guessed" in done.stderr
    assert ": short; fluxen keys rotate" in done.stderr
    assert LONG not in done.stderr
    assert {key_id: entry["hash"] for key_id, entry in kept(data).items()} == {
        "mobile": hash_of(LONG),
        "short": hash_of("abc"),
    }
    before = (data / "keys.json").read_bytes()
    assert b"abc" not in before.replace(hash_of("abc").encode(), b"").replace(hash_of(LONG).encode(), b"")
    done = fluxen("keys", "import", "keys.csv", "--json")
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["imported"], answer["already_there"], answer["ids"]) == (True, 0, 2, [])
    assert (data / "keys.json").read_bytes() == before


def test_all_or_nothing_with_every_problem(
    fluxen: Fluxen, data: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    config = tmp_path / "fluxen.yaml"
    config.write_text("upstreams: {openai: {api_key: x}}\napi_keys: {static: [{id: written, key: abcdef}]}\n")
    assert fluxen("keys", "create", "taken").returncode == 0
    before = (data / "keys.json").read_bytes()
    rows = [
        {"id": "good", "key": LONG},
        {"id": "taken", "key": "other"},
        {"id": "written", "key": "w"},
        {"id": "up", "key": "u", "upstreams": ["opnai"]},
        {"id": "field", "key": "f", "modles": ["x"]},
    ]
    file = tmp_path / "keys.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = fluxen("keys", "import", "keys.jsonl")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == [
        "error: keys.jsonl has 4 problems: nothing was imported",
        "keys.jsonl:2: id: the key 'taken' is there already, and another",
        "keys.jsonl:3: id: the key 'written' is in the configuration: fluxen.yaml:2:21",
        "keys.jsonl:4: upstreams: there is no upstream 'opnai' (did you mean 'openai'?)",
        "keys.jsonl:5: unknown field 'modles' (did you mean 'models'?)",
    ]
    assert (data / "keys.json").read_bytes() == before
    done = fluxen("keys", "import", "keys.jsonl", "--json")
    assert done.returncode == 3
    assert [one["line"] for one in json.loads(done.stdout)["problems"]] == [2, 3, 4, 5]
    piped = subprocess.run(
        [sys.executable, "-m", "fluxen_cli", "keys", "import", "-", "--json"], cwd=tmp_path, env=clean_env,
        input=json.dumps(rows[0]), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(piped.stdout)["ids"] == ["good"]
    assert set(kept(data)) == {"taken", "good"}


@pytest.mark.parametrize("file", ["nowhere.csv", "."])
def test_a_file_that_cant_be_read(file: str, fluxen: Fluxen) -> None:
    done = fluxen("keys", "import", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert file in done.stderr


def test_a_hundred_thousand_keys(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    """Import, one more, one less and a rotation among them: nothing of the others changes."""
    lines = [
        f"k{number},{hashlib.sha256(str(number).encode()).hexdigest()},team-{number % 50}" for number in range(100_000)
    ]
    (tmp_path / "many.csv").write_text("\n".join(["id,hash,team", *lines]) + "\n")
    done = fluxen("keys", "import", "many.csv", timeout=240)
    assert done.returncode == 0, done.stderr
    assert "100000 keys imported" in done.stderr
    created = fluxen("keys", "create", "one-more").stdout.strip()
    rotated = fluxen("keys", "rotate", "k50000").stdout.strip()
    assert fluxen("keys", "revoke", "k99999", "--yes").returncode == 0
    stored = KeyStore(data).read()
    assert stored is not None
    assert len(stored.keys) == 100_001
    assert len(stored.clients) == 100_001  # one more, one revoked, one with two keys

    def client(key: str) -> str | None:
        found = stored.clients.get(hashlib.sha256(key.encode()).digest())
        return found.id if found else None

    assert [client(key) for key in (created, rotated, "50000", "0", "99998", "99999")] == [
        "one-more", "k50000", "k50000", "k0", "k99998", None,
    ]  # fmt: skip
    table = fluxen("keys", "list", "--team", "team-7", "--csv")
    assert len(table.stdout.splitlines()) == 2001
