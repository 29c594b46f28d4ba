"""`fluxen keys` beside a running gateway: it says what the gateway makes of it, and every worker obeys."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gateway.conftest import environment
from gateway.rig import Answer, Gateway, Upstream, answer, request, until
from shared import Fluxen

from fluxen.keys.generate import hash_of

WORKERS = 2
CONFIG = """
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams: {{openai: {{target_url: "{url}", api_key: sk-provider-0123456789}}}}
api_keys: {{static: [{{id: written, key: in-the-file-0123456789}}]}}
"""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    yield found
    found.close()
    assert not found.faults


@pytest.fixture
def gateway(tmp_path: Path, upstream: Upstream) -> Iterator[Gateway]:
    folder = tmp_path / "gateway"
    found = Gateway(folder, CONFIG.format(url=upstream.url), environment(folder / "home", {}))
    yield found
    found.stop()


def call(gateway: Gateway, key: str) -> Answer:
    return gateway.ask(request(key=b"Authorization: Bearer " + key.encode()))


def statuses(gateway: Gateway, key: str) -> set[int]:
    """Of connections of their own, until each worker must have answered some of them."""
    return {call(gateway, key).status for _ in range(24)}


def refused(gateway: Gateway, key: str) -> bool:
    """By every worker; whoever fails often is told to wait."""
    return statuses(gateway, key) <= {401, 429}


def keys(fluxen: Fluxen, gateway: Gateway, *args: str, code: int = 0) -> dict[str, object]:
    config = str(gateway.folder / "fluxen.yaml")
    done = fluxen("keys", *args, "--json", "--config", config, env={"FLUXEN_DATA_DIR": str(gateway.data_dir)})
    assert done.returncode == code, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def obeyed(answer: dict[str, object]) -> bool:
    (one,) = answer["gateways"]  # type: ignore[misc]
    return bool(one["obeys"])


def test_every_worker_obeys_when_the_command_is_done(fluxen: Fluxen, gateway: Gateway) -> None:
    made = keys(fluxen, gateway, "create", "ci")
    assert obeyed(made)
    first = str(made["key"])
    assert statuses(gateway, first) == {200}
    rotated = keys(fluxen, gateway, "rotate", "ci", "--overlap", "1h")
    second = str(rotated["key"])
    assert obeyed(rotated)
    assert (statuses(gateway, first), statuses(gateway, second)) == ({200}, {200})
    third = str(keys(fluxen, gateway, "rotate", "ci", "--overlap", "0")["key"])
    assert [refused(gateway, key) for key in (first, second)] == [True, True]
    assert statuses(gateway, third) == {200}
    rows = {row["key_id"] for row in gateway.rows(24 * 4)}
    assert rows == {"ci"}
    assert obeyed(keys(fluxen, gateway, "revoke", "ci", "written", "--yes"))
    assert [refused(gateway, key) for key in (third, "in-the-file-0123456789")] == [True, True]


def test_a_key_of_the_configuration_is_rotated_under_load(fluxen: Fluxen, gateway: Gateway) -> None:
    """Not one request is refused, neither with the former key nor with its successor."""
    seen: list[tuple[str, int]] = []
    current = ["in-the-file-0123456789"]
    done = threading.Event()

    def load() -> None:
        with gateway.connect() as client:
            while not done.is_set():
                key = current[-1]
                seen.append((key, client.ask(request(key=b"Authorization: Bearer " + key.encode())).status))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            answer = keys(fluxen, gateway, "rotate", "written", "--overlap", "1h")
            assert obeyed(answer)
            current.append(str(answer["key"]))
            until(lambda: sum(key == current[-1] for key, _ in list(seen)) >= 50, "calls with the new key")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert {key for key, _ in seen} == set(current)
    assert {status for _, status in seen} == {200}
    row = gateway.query("SELECT key_id, count(*) AS n FROM requests GROUP BY 1")
    assert [one["key_id"] for one in row] == ["written"]


def test_an_overlap_ends_by_itself(fluxen: Fluxen, gateway: Gateway) -> None:
    """Without a reload: nothing has to happen at that moment, also on a connection that was open before."""
    first = str(keys(fluxen, gateway, "create", "ci")["key"])
    with gateway.connect() as client:
        ask = request(key=b"x-api-key: " + first.encode())
        assert client.ask(ask).status == 200
        rotated = keys(fluxen, gateway, "rotate", "ci", "--overlap", "4s")
        found: list[Answer] = []
        until(lambda: found.append(client.ask(ask)) or found[-1].status != 200, "the end of the overlap", 30)
        assert datetime.now(UTC) >= datetime.fromisoformat(str(rotated["former_until"]))
        assert (found[-1].status, b"key_expired" in found[-1].body) == (401, True)
    assert call(gateway, str(rotated["key"])).status == 200
    shown = keys(fluxen, gateway, "show", "ci")
    assert (shown["former_until"], shown["warnings"]) == (None, [])


def test_the_first_key_closes_a_gateway_that_was_open(fluxen: Fluxen, tmp_path: Path, upstream: Upstream) -> None:
    folder = tmp_path / "gateway"
    text = CONFIG.format(url=upstream.url).partition("api_keys")[0]
    found = Gateway(folder, text, environment(folder / "home", {}))
    try:
        assert found.ask(request(key=None)).status == 200
        made = keys(fluxen, found, "create", "ci")
        assert obeyed(made)
        assert {found.ask(request(key=None)).status for _ in range(9)} == {401}
        assert statuses(found, str(made["key"])) == {200}
        assert obeyed(keys(fluxen, found, "revoke", "ci", "--yes"))
        assert {found.ask(request(key=None)).status for _ in range(5)} <= {401, 429}  # open again is for a restart
    finally:
        found.stop()


def test_a_key_ends_beside_a_configuration_that_cant_be_used(fluxen: Fluxen, gateway: Gateway) -> None:
    key = str(keys(fluxen, gateway, "create", "ci")["key"])
    config = gateway.folder / "fluxen.yaml"
    config.write_text(f"{config.read_text()}nonsense: 1\n")
    env = {"FLUXEN_DATA_DIR": str(gateway.data_dir)}
    done = fluxen("keys", "revoke", "ci", "--yes", "--config", str(config), env=env)
    assert done.returncode == 0
    assert "'ci' is revoked" in done.stderr
    assert f"warning: the gateway with PID {gateway.process.pid} obeys this, but nothing else that" in done.stderr
    assert "nonsense" in done.stderr
    assert refused(gateway, key)


def test_a_gateway_that_cant_obey_is_warned_of(fluxen: Fluxen, gateway: Gateway) -> None:
    """Somebody has written into keys.json what can't be: a key that was revoked still works, and that is said."""
    key = str(keys(fluxen, gateway, "create", "ci")["key"])
    file = gateway.data_dir / "keys.json"
    good = json.loads(file.read_bytes())
    twice = {"id": "twice", "hash": hash_of("in-the-file-0123456789")}
    file.write_text(json.dumps(good | {"keys": [*good["keys"], twice]}))
    env = {"FLUXEN_DATA_DIR": str(gateway.data_dir)}
    done = fluxen("keys", "revoke", "ci", "--yes", "--config", str(gateway.folder / "fluxen.yaml"), env=env)
    assert done.returncode == 0
    assert "'ci' is revoked" in done.stderr
    assert f"warning: the gateway with PID {gateway.process.pid} goes on with what it had" in done.stderr
    assert "obeys" not in done.stderr
    assert statuses(gateway, key) == {200}
    entries = json.loads(file.read_bytes())
    file.write_text(json.dumps(entries | {"keys": [one for one in entries["keys"] if one["id"] != "twice"]}))
    until(lambda: call(gateway, key).status == 401, "the revoked key to be refused")
    assert refused(gateway, key)


def test_use_is_known_while_the_gateway_runs(fluxen: Fluxen, gateway: Gateway) -> None:
    assert call(gateway, "in-the-file-0123456789").status == 200
    gateway.rows(1)
    (key,) = keys(fluxen, gateway, "list")["keys"]  # type: ignore[misc]
    assert (key["id"], key["requests_30d"], key["warnings"]) == ("written", 1, [])
    assert key["last_use"] is not None
    assert key["source"] == f"{gateway.folder}/fluxen.yaml:4:21"


def test_a_provider_key_that_is_refused_is_shown(fluxen: Fluxen, tmp_path: Path, upstream: Upstream) -> None:
    folder = tmp_path / "gateway"
    text = CONFIG.replace("api_key: sk-provider-0123456789", "credentials: [{{name: old, api_key: sk-old-0123456789}}, "
                          "{{name: new, api_key: sk-new-0123456789}}]")  # fmt: skip
    found = Gateway(folder, text.format(url=upstream.url), environment(folder / "home", {}))
    try:
        upstream.plays(answer(b"{}", status=b"401 Unauthorized"), answer())
        assert call(found, "in-the-file-0123456789").status == 200
        config = str(folder / "fluxen.yaml")
        env = {"FLUXEN_DATA_DIR": str(found.data_dir)}

        def shown() -> dict[str, dict[str, object]]:
            done = fluxen("keys", "list", "--json", "--config", config, env=env)
            return {one["credential"]: one for one in json.loads(done.stdout)["credentials"]}

        until(lambda: shown()["old"]["parked_until"], "the refused credential to be shown")
        assert (shown()["old"]["refused_with"], shown()["new"]["parked_until"]) == (401, None)
        done = fluxen("keys", "list", "--config", config, env=env)
        assert "warning: the provider refuses the credential 'old' of openai (401)" in done.stderr
        assert "provider keys: openai (old) SET ASIDE, openai (new) in the file" in done.stderr
        assert "sk-" not in done.stdout + done.stderr
    finally:
        found.stop()
