"""`fluxen keys`, run as a user runs it, from another folder than the configuration's."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import Terminal
from shared import Fluxen, missing

from fluxen.keys.generate import hash_of
from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id

KEY = re.compile(r"flx_[A-Za-z0-9_-]{43}")
DAY = timedelta(days=1)


def entries(data: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((data / "keys.json").read_bytes())
    assert document["version"] == 2
    return {entry["id"]: entry for entry in document["keys"]}


def listed(fluxen: Fluxen, *args: str, **more: Any) -> dict[str, dict[str, Any]]:
    done = fluxen("keys", "list", "--json", *args, **more)
    assert done.returncode == 0, done.stderr
    return {key["id"]: key for key in json.loads(done.stdout)["keys"]}


def codes(key: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in key["warnings"]]


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def data(clean_env: dict[str, str]) -> Path:
    return Path(clean_env["HOME"], ".local", "share", "fluxen")


@pytest.fixture
def config(clean_env: dict[str, str]) -> Path:
    """A user's configuration, which refers to secrets that this shell doesn't have."""
    path = Path(clean_env["HOME"], ".config", "fluxen", "fluxen.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(
        """upstreams:
  openai: {api_key: "${NOT_HERE}"}
  anthropic: {api_key: "file:nowhere"}
api_keys:
  static:
  - {id: plain, key: from-the-file-0123456789, team: red, tags: {a: b}, models: [gpt-*], networks: [10.0.0.0/8]}
  - {id: remote, key: "${NOT_HERE_EITHER}", team: blue}
  - {key: has-no-id-0123456789}
"""
    )
    return path


def test_create_prints_the_key_alone_and_keeps_its_hash(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    done = fluxen(
        "keys", "create", "ci", "--name", "Jörgs Rechner", "--team", "red", "--project", "shop", "--tag", "a=b",
        "--tag", "c=d", "--expires", "90d", "--upstream", "openai", "--upstream", "anthropic", "--model", "gpt-5*",
        "--route", "/v1/chat/*", "--network", "10.0.0.0/8", "--network", "::1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert KEY.fullmatch(done.stdout.removesuffix("\n"))
    key = done.stdout.strip()
    assert key not in done.stderr
    assert f"{data}/keys.json. Keep it now, it is not shown again" in done.stderr
    assert "from now on every client needs a key" in done.stderr
    entry = entries(data)["ci"]
    created = datetime.fromisoformat(entry["created"])
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=5)
    assert datetime.fromisoformat(entry["expires"]) - created == 90 * DAY
    assert {name: value for name, value in entry.items() if name not in ("created", "expires")} == {
        "id": "ci", "hash": hash_of(key), "name": "Jörgs Rechner", "team": "red", "project": "shop",
        "tags": {"a": "b", "c": "d"}, "upstreams": ["openai", "anthropic"], "models": ["gpt-5*"],
        "routes": ["/v1/chat/*"], "networks": ["10.0.0.0/8", "::1/128"],
    }  # fmt: skip
    assert stat.S_IMODE((data / "keys.json").stat().st_mode) == 0o600
    again = fluxen("keys", "create", "other", "--json")
    answer = json.loads(again.stdout)
    assert KEY.fullmatch(answer["key"])
    assert (answer["id"], answer["gateways"], answer["file"]) == ("other", [], str(data / "keys.json"))
    assert "hash" not in answer
    for name in ("list", "show"):
        said = fluxen("keys", name, *(["ci"] if name == "show" else ["--all"]))
        assert said.returncode == 0
        assert "ci" in said.stdout
        for secret in (key, answer["key"], entry["hash"][7:]):
            assert secret not in said.stdout + said.stderr
    everywhere = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key.encode() not in everywhere


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["ci", "--upstream", "opnai"], 2, "there is no upstream 'opnai' (did you mean 'openai'?)"),
        (["ci", "--network", "10.0.0.1/8"], 2, "10.0.0.0/8 is meant?"),
        (["ci", "--route", "v1"], 2, "'--route': expected the beginning '/'"),
        (["ci", "--expires", "1999-01-01"], 2, "that is not in the future"),
        (["ci", "--expires", "soon"], 2, "or for how long, such as 90d, or never"),
        (["ci", "--expires", "2027-01-01T10:00:00"], 2, "the time has no offset"),
        (["ci", "--team", "rouge\n"], 2, "'--team': expected 1 to 256 printable ASCII characters"),
        (["ci", "--tag", "a"], 2, "is no tag: write NAME=VALUE"),
        (["é"], 2, "'ID': expected 1 to 256 printable ASCII characters"),
        (["plain"], 1, "there is a key 'plain' already: "),
        (["remote"], 1, "there is a key 'remote' already: "),
    ],
)
def test_what_create_refuses(args: list[str], code: int, said: str, fluxen: Fluxen, data: Path, config: Path) -> None:
    assert config.is_file()
    done = fluxen("keys", "create", *args, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (data / "keys.json").exists()


def test_an_id_is_used_once(fluxen: Fluxen, data: Path) -> None:
    assert fluxen("keys", "create", "ci").returncode == 0
    before = (data / "keys.json").read_bytes()
    done = fluxen("keys", "create", "ci")
    assert (done.returncode, done.stdout) == (1, "")
    assert "hint: fluxen keys rotate ci gives it a successor; or choose another id" in done.stderr
    assert (data / "keys.json").read_bytes() == before
    assert fluxen("keys", "revoke", "ci", "--yes").returncode == 0
    for args in (["create", "ci"], ["rotate", "ci"]):
        done = fluxen("keys", *args)
        assert (done.returncode, done.stdout) == (1, "")
        assert "the key 'ci' was revoked 20" in done.stderr


def test_rotate(fluxen: Fluxen, data: Path) -> None:
    first = fluxen("keys", "create", "ci", "--team", "red", "--expires", "90d").stdout.strip()
    done = fluxen("keys", "rotate", "ci")
    second = done.stdout.strip()
    assert KEY.fullmatch(second)
    assert second != first
    entry = entries(data)["ci"]
    assert (entry["hash"], entry["team"], [one["hash"] for one in entry["previous"]]) == (
        hash_of(second), "red", [hash_of(first)],
    )  # fmt: skip
    until = datetime.fromisoformat(entry["previous"][0]["until"])
    assert DAY - timedelta(minutes=5) < until - datetime.now(UTC) <= DAY
    assert f"The former key works until {iso(until)}" in done.stderr
    third = json.loads(fluxen("keys", "rotate", "ci", "--overlap", "1h", "--expires", "never", "--json").stdout)
    entry = entries(data)["ci"]
    assert (entry["hash"], entry.get("expires")) == (hash_of(third["key"]), None)
    assert [one["hash"] for one in entry["previous"]] == [hash_of(second), hash_of(first)]
    assert {one["until"] for one in entry["previous"]} == {third["former_until"]}  # the shorter overlap
    assert codes(listed(fluxen)["ci"]) == ["overlap"]
    assert listed(fluxen)["ci"]["former_until"] == third["former_until"]
    done = fluxen("keys", "rotate", "ci", "--overlap", "0")
    assert "The former key is refused." in done.stderr
    assert "previous" not in entries(data)["ci"]
    assert codes(listed(fluxen)["ci"]) == []
    for args, said in ((["--overlap", "1x"], "expected a time such as 24h"), (["--overlap", "99999w"], "ten years")):
        done = fluxen("keys", "rotate", "ci", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in " ".join(done.stderr.split())
    done = fluxen("keys", "rotate", "cii")
    assert done.returncode == 1
    assert f"there is no key 'cii' in {data}/keys.json\nhint: did you mean 'ci'?" in done.stderr


def test_a_key_that_has_ended_gets_a_new_end(fluxen: Fluxen, data: Path) -> None:
    past = iso(datetime.now(UTC) - DAY)
    data.mkdir(parents=True)
    entry = {"id": "ci", "hash": hash_of("abc"), "expires": past}
    (data / "keys.json").write_text(json.dumps({"version": 2, "keys": [entry]}))
    (data / "keys.json").chmod(0o600)
    found = listed(fluxen)["ci"]
    assert (found["state"], codes(found)) == ("expired", ["expired"])
    done = fluxen("keys", "rotate", "ci")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the key 'ci' ended {past}, and so would its successor" in done.stderr
    assert "--expires 90d" in done.stderr
    assert fluxen("keys", "rotate", "ci", "--expires", "10d").returncode == 0
    found = listed(fluxen)["ci"]
    assert found["state"] == "active"
    assert "expires_soon" in codes(found)


def test_a_key_of_the_configuration_is_rotated_with_all_it_has(
    fluxen: Fluxen, data: Path, config: Path, tmp_path: Path
) -> None:
    before = config.read_bytes()
    done = fluxen("keys", "rotate", "plain", "--overlap", "2h")
    assert done.returncode == 0, done.stderr
    assert f"{config}:6:5 is replaced by it: remove that entry after then" in done.stderr
    entry = entries(data)["plain"]
    assert (entry["team"], entry["tags"], entry["models"], entry["networks"]) == (
        "red", {"a": "b"}, ["gpt-*"], ["10.0.0.0/8"],
    )  # fmt: skip
    assert [one["hash"] for one in entry["previous"]] == [hash_of("from-the-file-0123456789")]
    assert config.read_bytes() == before
    found = listed(fluxen)
    assert (found["plain"]["source"], found["plain"]["replaces"]) == ("keys.json", f"{config}:6:5")
    assert codes(found["plain"]) == ["replaces", "overlap"]
    secrets = {"NOT_HERE": "sk-x", "NOT_HERE_EITHER": "elsewhere-0123456789"}
    (config.parent / "nowhere").write_text("sk-y")
    said = fluxen("validate", env=secrets)
    assert said.returncode == 0, said.stderr
    assert f"the key 'plain' in {data}/keys.json replaces this one" in said.stderr

    # What a reference stands for is not known here, so the former key can't stay.
    done = fluxen("keys", "rotate", "remote")
    assert (done.returncode, done.stdout) == (1, "")
    assert "environment variable NOT_HERE_EITHER is not set" in done.stderr
    assert "--overlap 0" in done.stderr
    assert "remote" not in entries(data)
    done = fluxen("keys", "rotate", "remote", env=secrets)
    assert [one["hash"] for one in entries(data)["remote"]["previous"]] == [hash_of("elsewhere-0123456789")]
    assert fluxen("keys", "rotate", "remote", "--overlap", "0").returncode == 0
    assert entries(data)["remote"]["team"] == "blue"
    (derived,) = [key_id for key_id in found if key_id.startswith("key-")]
    assert fluxen("keys", "rotate", derived, cwd=tmp_path).returncode == 0
    assert [one["hash"] for one in entries(data)[derived]["previous"]] == [hash_of("has-no-id-0123456789")]


def test_revoke(fluxen: Fluxen, data: Path, config: Path) -> None:
    key = fluxen("keys", "create", "ci").stdout.strip()
    assert fluxen("keys", "rotate", "ci").returncode == 0
    done = fluxen("keys", "revoke", "ci")
    assert (done.returncode, "say so with --yes" in done.stderr) == (1, True)
    done = fluxen("keys", "revoke", "ci", "nobody", "--yes")
    assert (done.returncode, "revoked" in entries(data)["ci"]) == (1, False)  # all or none
    assert f"there is no key 'nobody' in {data}/keys.json and {config}" in done.stderr
    done = fluxen("keys", "revoke", "ci", "plain", "remote", "--yes", "--json")
    assert json.loads(done.stdout)["revoked"] == ["ci", "plain", "remote"]
    found = entries(data)
    assert all("revoked" in found[key_id] for key_id in ("ci", "plain", "remote"))
    assert found["plain"]["hash"] == hash_of("from-the-file-0123456789")
    done = fluxen("keys", "revoke", "ci", "--yes")
    assert (done.returncode, done.stderr) == (0, "'ci' was revoked before\n")
    assert set(listed(fluxen)) & {"ci", "plain", "remote"} == set()
    shown = listed(fluxen, "--all")
    assert {shown[key_id]["state"] for key_id in ("ci", "plain", "remote")} == {"revoked"}
    assert codes(shown["plain"]) == ["replaces"]
    assert key not in done.stdout + done.stderr
    secrets = {"NOT_HERE": "sk-x", "NOT_HERE_EITHER": "elsewhere"}
    (config.parent / "nowhere").write_text("sk-y")
    said = fluxen("validate", env=secrets)
    assert f"the key 'plain' in {data}/keys.json was revoked, and lets nobody in" in said.stderr
    config.write_text("api_keys: {static: [{id: back, key: from-the-file-0123456789}]}")
    said = fluxen("validate")
    assert said.returncode == 3
    assert f"is the key 'plain' in {data}/keys.json, which was revoked" in said.stderr


def test_a_key_of_keys_json_ends_whatever_state_the_configuration_is_in(
    fluxen: Fluxen, data: Path, config: Path
) -> None:
    fluxen("keys", "create", "ci")
    config.write_text("upstreams: {{ not yaml: [")
    args = ("--data-dir", str(data), "--yes")
    assert fluxen("keys", "revoke", "ci", *args).returncode == 0
    assert "revoked" in entries(data)["ci"]
    done = fluxen("keys", "create", "other", "--data-dir", str(data))
    assert (done.returncode, done.stdout) == (3, "")  # nobody can tell whether the file uses the id
    assert "its client keys are not known" in done.stderr


@pytest.mark.parametrize(
    ("answer", "ends"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("\x04", False)]
)
def test_a_person_is_asked(
    answer: str, ends: bool, fluxen: Fluxen, data: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    fluxen("keys", "create", "ci")
    terminal = Terminal([sys.executable, "-m", "fluxen_cli", "keys", "revoke", "ci"], clean_env, tmp_path)
    terminal.wait_for("Revoke 'ci'?")
    terminal.type(answer)
    assert terminal.ends() == (0 if ends else 1)
    assert ("revoked" in entries(data)["ci"]) is ends


@pytest.fixture
def used(data: Path) -> Iterator[None]:
    """A ledger in which three keys called: one today, one 100 days ago, one has a call open."""
    journal = Journal(data / "ledger", "node", 0)
    now = datetime.now(UTC)
    for key_id, days, cost in (("busy", 1, 1_500_000_000_000), ("busy", 2, None), ("busy", 40, 7_000_000_000_000),
                               ("idle", 100, 1_000_000_000_000)):  # fmt: skip
        at = int((now - days * DAY).timestamp() * 1e6)
        end = End(id=new_id(), ts=at, key_id=key_id, model="m", status=200, usage_source="reported")
        end.cost_pico = cost
        assert journal.end(end)
    assert journal.begin(Begin(id=new_id(), ts=int(now.timestamp() * 1e6), key_id="open"))
    yield
    journal.close()


def test_list_knows_use_and_cost_and_what_to_do(fluxen: Fluxen, data: Path, used: None) -> None:
    now = datetime.now(UTC)
    old, young = iso(now - 200 * DAY), iso(now - DAY)
    keys = [
        {"id": "busy", "hash": hash_of("1"), "created": old, "team": "red"},
        {"id": "idle", "hash": hash_of("2"), "created": old, "team": "red", "expires": iso(now + 13 * DAY)},
        {"id": "never", "hash": hash_of("3"), "created": old, "expires": iso(now + 15 * DAY)},
        {"id": "new", "hash": hash_of("4"), "created": young},
        {"id": "open", "hash": hash_of("5"), "created": old},
        {"id": "gone", "hash": hash_of("6"), "created": old, "revoked": young},
    ]
    (data / "keys.json").write_text(json.dumps({"version": 2, "keys": keys}))
    (data / "keys.json").chmod(0o600)
    found = listed(fluxen)
    assert list(found) == ["busy", "idle", "never", "new", "open"]
    busy = found["busy"]
    assert (busy["requests_30d"], busy["cost_30d_usd"], busy["unknown_cost_30d"]) == (2, "1.5", 1)
    assert busy["last_use"][:10] == f"{now - DAY:%Y-%m-%d}"
    assert {key_id: codes(key) for key_id, key in found.items()} == {
        "busy": [], "idle": ["expires_soon", "unused"], "never": ["never_used"], "new": [], "open": [],
    }  # fmt: skip
    assert (found["idle"]["requests_30d"], found["idle"]["cost_30d_usd"]) == (0, "0")
    assert list(listed(fluxen, "--team", "red")) == ["busy", "idle"]
    assert listed(fluxen, "--all")["gone"]["state"] == "revoked"
    done = fluxen("keys", "list")
    head, first, *_ = [line.split() for line in done.stdout.splitlines()]
    assert head == ["id", "name", "team", "state", "created", "expires", "last_use", "requests_30d", "cost_30d_usd",
                    "source"]  # fmt: skip
    assert (first[0], first[2:4], first[-3:]) == ("busy", ["red", "active"], ["2", "1.5", "keys.json"])
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warnings] == ["idle:", "idle:", "never:"]
    csv = fluxen("keys", "list", "--csv", "--team", "red").stdout.splitlines()
    assert csv[0].startswith("id,name,team,state,")
    assert csv[1].startswith("busy,,red,active,")
    shown = fluxen("keys", "show", "idle", "--json")
    assert json.loads(shown.stdout)["last_use"][:10] == f"{now - 100 * DAY:%Y-%m-%d}"


def test_keys_are_listed_whatever_became_of_the_ledger(fluxen: Fluxen, data: Path, used: None) -> None:
    assert fluxen("keys", "create", "ci").returncode == 0
    (data / "ledger" / "MANIFEST.json").write_text("{")
    for args in (["list"], ["show", "ci"]):
        done = fluxen("keys", *args)
        assert (done.returncode, "ci" in done.stdout) == (0, True)
        assert "warning: use and cost are not known: " in done.stderr
    assert json.loads(fluxen("keys", "list", "--json").stdout)["ledger"] is False


def test_without_keys_and_without_a_ledger(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("keys", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no client key in {data}/keys.json; fluxen keys create makes one\n"
    assert json.loads(fluxen("keys", "list", "--json").stdout)["keys"] == []
    done = fluxen("keys", "show", "ci")
    assert (done.returncode, done.stdout) == (1, "")
    assert not data.exists()


def test_control_characters_never_reach_the_terminal(fluxen: Fluxen, data: Path) -> None:
    data.mkdir(parents=True)
    entry = {"id": "ci", "hash": hash_of("abc"), "name": "x"}
    (data / "keys.json").write_text(json.dumps({"version": 2, "keys": [entry | {"name": "\x1b[2J"}]}))
    for args in (["list"], ["create", "b"], ["revoke", "ci", "--yes"]):
        done = fluxen("keys", *args)
        assert (done.returncode, done.stdout) == (3, "")
        assert "keys[0].name: expected 1 to 256 printable characters" in done.stderr
        assert "\x1b" not in done.stderr


def test_the_service_is_meant_by_who_names_its_folder(fluxen: Fluxen, tmp_path: Path) -> None:
    """Option, variable and configuration name the data folder, as for every command; root's file is the owner's."""
    folders = [tmp_path / name for name in ("option", "variable", "written")]
    config = tmp_path / "fluxen.yaml"
    config.write_text(f"data_dir: {folders[2]}\n")
    assert fluxen("keys", "create", "a", "--data-dir", str(folders[0])).returncode == 0
    assert fluxen("keys", "create", "b", env={"FLUXEN_DATA_DIR": str(folders[1])}).returncode == 0
    assert fluxen("keys", "create", "c", "--config", str(config), cwd=tmp_path / "option").returncode == 0
    assert [list(entries(folder)) for folder in folders] == [["a"], ["b"], ["c"]]
    if os.geteuid() != 0:
        missing("needs root")
    os.chown(folders[0], 12345, 12345)
    assert fluxen("keys", "rotate", "a", "--data-dir", str(folders[0])).returncode == 0
    assert (folders[0] / "keys.json").stat().st_uid == 12345


def test_what_cant_be_written_is_told_and_no_key_shown(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fluxen("keys", "create", "ci", "--data-dir", str(tmp_path / "file" / "data"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "can't write" in done.stderr
    assert "hint: a client key is kept there" in done.stderr


def test_commands_at_the_same_time_lose_nothing(fluxen: Fluxen, data: Path) -> None:
    for key_id in ("rotated", "revoked"):
        assert fluxen("keys", "create", key_id).returncode == 0
    with ThreadPoolExecutor(8) as pool:
        same = [pool.submit(fluxen, "keys", "create", "same") for _ in range(3)]
        others = [pool.submit(fluxen, "keys", "create", f"k{number}") for number in range(3)]
        turns = [pool.submit(fluxen, "keys", "rotate", "rotated") for _ in range(3)]
        revoked = pool.submit(fluxen, "keys", "revoke", "revoked", "--yes")
    shown = [one.result().stdout.strip() for one in same]
    (key,) = [one for one in shown if one]
    found = entries(data)
    assert found["same"]["hash"] == hash_of(key)
    assert [found[f"k{number}"]["hash"] for number in range(3)] == [
        hash_of(one.result().stdout.strip()) for one in others
    ]
    successors = {hash_of(one.result().stdout.strip()) for one in turns}
    former = {one["hash"] for one in found["rotated"]["previous"]}
    assert len(successors) == 3
    assert found["rotated"]["hash"] in successors
    assert successors <= {found["rotated"]["hash"], *former}
    assert len(former) == 3
    assert revoked.result().returncode == 0
    assert "revoked" in found["revoked"]
    assert {path.name for path in data.iterdir()} == {"keys.json", "keys.json.lock"}


def test_update_changes_what_is_named_and_nothing_else(fluxen: Fluxen, data: Path, config: Path) -> None:
    key = fluxen("keys", "create", "ci", "--team", "red", "--model", "gpt-*", "--expires", "5d").stdout.strip()
    before = entries(data)["ci"]
    done = fluxen("keys", "update", "ci", "--model", "a*", "--model", "b", "--clear", "team", "--expires", "90d")
    assert (done.returncode, done.stdout) == (0, "")
    after = entries(data)["ci"]
    assert (after["hash"], after["created"], after["models"]) == (hash_of(key), before["created"], ["a*", "b"])
    assert "team" not in after
    assert datetime.fromisoformat(after["expires"]) - datetime.fromisoformat(before["expires"]) >= 85 * DAY
    done = fluxen("keys", "update", "ci", "--expires", "never", "--tag", "a=b", "--json")
    answer = json.loads(done.stdout)
    assert (answer["cleared"], answer["tags"]) == (["expires"], {"a": "b"})
    assert entries(data)["ci"] == {
        "id": "ci", "hash": hash_of(key), "created": before["created"], "models": ["a*", "b"], "tags": {"a": "b"},
    }  # fmt: skip
    for args, code, said in (
        (["ci"], 2, "nothing to change"),
        (["ci", "--clear", "id"], 2, "'id' is none of name, team"),
        (["ci", "--clear", "tags", "--tag", "a=b"], 2, "'tags' is given a value as well"),
        (["ci", "--upstream", "opnai"], 2, "did you mean 'openai'?"),
        (["ic"], 2, "nothing to change"),
        (["cii", "--team", "x"], 1, "did you mean 'ci'?"),
        (["plain", "--team", "x"], 1, f"the key 'plain' is in the configuration: {config}:6:5"),
    ):
        done = fluxen("keys", "update", *args, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert fluxen("keys", "revoke", "ci", "--yes").returncode == 0
    done = fluxen("keys", "update", "ci", "--team", "x")
    assert (done.returncode, "was revoked" in done.stderr) == (1, True)
