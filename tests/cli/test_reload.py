"""`fluxen reload` and `fluxen config`, against a gateway that runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway.conftest import environment
from gateway.rig import KEY, Gateway
from shared import Fluxen

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams:
  openai: {{target_url: "http://127.0.0.1:9", api_key: "{provider}"}}
  other: {{target_url: "http://127.0.0.1:9", dialect: openai, api_key: "${{OTHER_KEY}}"}}
api_keys:
  static: [{{id: me, key: "{key}", team: "{team}"}}]
"""
OTHER = "sk-other-0123456789"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def config(*, provider: str = "sk-planted-one", team: str = "one") -> str:
    return CONFIG.format(provider=provider, key=KEY, team=team)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "gateway"
    gateway = Gateway(folder, config(), environment(folder / "home", {"OTHER_KEY": OTHER}))
    yield gateway
    gateway.stop()


@pytest.fixture
def run(server: Gateway, fluxen: Fluxen) -> Run:
    """A command in a shell of its own, without the gateway's environment; it never shows a secret."""

    def command(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = fluxen(*args, env={"FLUXEN_DATA_DIR": str(server.data_dir)})
        assert done.returncode == code, done.stdout + done.stderr
        for secret in ("sk-planted", KEY, OTHER):
            assert secret not in done.stdout + done.stderr
        return done

    return command


def write(server: Gateway, text: str) -> None:
    (server.folder / "fluxen.yaml").write_text(text)


def fields(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(done.stdout))


def test_reload(server: Gateway, run: Run) -> None:
    pid = server.process.pid
    assert run("reload").stdout == f"PID {pid}, 127.0.0.1:{server.port}: nothing has changed (generation 1)\n"
    write(server, config(team="two").replace("workers: 2", "workers: 3"))
    [said] = fields(run("reload", "--json"))["gateways"]
    assert (said["pid"], said["ok"], said["generation"], said["workers"]) == (pid, True, 2, 2)
    assert said["needs_restart"] == ["server.workers"]
    assert said["problems"] == []
    again = run("reload", "--pid", str(pid))
    assert "nothing has changed (generation 2)" in again.stdout
    assert "server.workers waits for a restart" in again.stderr


def test_reload_says_what_is_wrong(server: Gateway, run: Run) -> None:
    write(server, config().replace("upstreams:", "upstream:"))
    for _ in range(2):  # also when nothing has changed since
        done = run("reload", code=3)
        assert f"the gateway (PID {server.process.pid}) goes on with generation 1" in done.stderr
        assert "fluxen.yaml:4:1: upstream: unknown field (did you mean 'upstreams'?)" in done.stderr
    said = fields(run("reload", "--json", code=3))
    assert said["ok"] is False
    assert "did you mean 'upstreams'?" in said["gateways"][0]["problems"][0]
    write(server, config())
    assert "nothing has changed (generation 1)" in run("reload").stdout


def test_no_gateway_is_running(fluxen: Fluxen, tmp_path: Path) -> None:
    for command in (("reload",), ("config", "diff"), ("config", "show", "--running")):
        done = fluxen(*command, env={"FLUXEN_DATA_DIR": str(tmp_path / "nothing")})
        assert done.returncode == 1
        assert f"no gateway is running with the data folder {tmp_path / 'nothing'}" in done.stderr
        assert "hint: start `fluxen serve`" in done.stderr


def test_no_gateway_of_that_pid(server: Gateway, run: Run) -> None:
    assert "no gateway with the PID 1 is running" in run("reload", "--pid", "1", code=1).stderr


def test_diff(server: Gateway, run: Run) -> None:
    """The gateway must not have taken up the file: so it is another file that is compared."""
    assert "same: what is in force" in run("config", "diff").stdout
    assert "same: what is in force" in run("config", "diff", "--data-dir", str(server.data_dir)).stdout
    other = server.folder / "other.yaml"
    other.write_text(config())
    assert fields(run("config", "diff", str(other), "--json"))["same"] is True
    changed = config(provider="sk-planted-two", team="two").replace("workers: 2", "workers: 3, max_body: 1MB")
    changed = changed.replace("${OTHER_KEY}", "${ANOTHER}").replace("static: [", "static: [{id: new, key: planted}, ")
    other.write_text(changed)
    done = run("config", "diff", str(other), code=1)
    assert "server.workers  (needs a restart)\n  - 2\n  + 3\n" in done.stdout
    assert "server.max_body\n  - 32000000\n  + 1000000\n" in done.stdout
    assert "api_keys.static[me].team\n  - one\n  + two\n" in done.stdout
    assert "upstreams.other.api_key\n  - ${OTHER_KEY}\n  + ${ANOTHER}\n" in done.stdout
    assert "planted" not in done.stdout
    said = {one["path"]: one for one in fields(run("config", "diff", str(other), "--json", code=1))["differences"]}
    assert said["upstreams.openai.api_key"]["kind"] == "changed"
    assert said["upstreams.openai.api_key"]["running"].startswith("*** [")
    assert said["api_keys.static[new].key"]["kind"] == "added"
    assert said["server.workers"]["needs_restart"] is True
    assert not any(path.startswith("api_keys.static[me].key") for path in said)


def test_diff_of_a_file_that_cant_be_used(server: Gateway, run: Run) -> None:
    other = server.folder / "other.yaml"
    other.write_text("version: 1\nserverr: {}\n")
    assert "did you mean 'server'?" in run("config", "diff", str(other), code=3).stderr
    assert "No such file" in run("config", "diff", str(server.folder / "none.yaml"), code=3).stderr


def test_show(server: Gateway, run: Run, tmp_path: Path) -> None:
    done = run("config", "show", "--running")
    assert "server.workers: 2\n" in done.stdout
    assert "upstreams.other.api_key: ${OTHER_KEY}\n" in done.stdout
    file = tmp_path / "own.yaml"
    file.write_text('api_keys: {static: [{id: me, key: "planted"}]}\n')
    done = run("config", "show", "--config", str(file))
    assert "server.bind_address: 127.0.0.1:8080\n" in done.stdout
    assert "api_keys.static[me].key: ***\n" in done.stdout
    assert fields(run("config", "show", "--config", str(file), "--json"))["config"]["server"]["workers"] == 1


def test_several_gateways_of_one_folder(server: Gateway, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "data").symlink_to(server.data_dir)
    second = Gateway(folder, config(team="two"), environment(folder / "home", {"OTHER_KEY": OTHER}))
    try:
        pids = {server.process.pid, second.process.pid}
        assert {one["pid"] for one in fields(run("reload", "--json"))["gateways"]} == pids
        assert "2 gateways are running with this data folder" in run("config", "diff", code=1).stderr
        for gateway in (server, second):
            pid = str(gateway.process.pid)
            assert "same: " in run("config", "diff", "--pid", pid).stdout
            assert run("reload", "--pid", pid).stdout.startswith(f"PID {pid}, ")
        write(second, "nonsense: 1\n")
        done = run("reload", code=3)
        assert f"PID {server.process.pid}, " in done.stdout
        assert f"the gateway (PID {second.process.pid}) goes on with generation 1" in done.stderr
    finally:
        second.stop()
    assert [one["pid"] for one in fields(run("reload", "--json"))["gateways"]] == [server.process.pid]
