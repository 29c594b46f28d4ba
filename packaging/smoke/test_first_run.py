"""From nothing to a gateway, by the executable alone."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

from gateway.rig import Upstream, answer, request

if TYPE_CHECKING:
    from packaging.smoke.conftest import Configured, Fluxen

BODY = b'{"model":"gpt-4o-mini","messages":[]}'
JSON = (
    b'{"model":"gpt-4o-mini","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2}}'
)


def test_init_and_serve(fluxen: Fluxen, upstream: Upstream) -> None:
    """What init writes is what serve takes, and the key it prints opens it."""
    env = {"OPENAI_API_KEY": "sk-provider-0123456789"}
    told = fluxen.json("init", "--yes", env=env)
    key = told["key"]["key"]
    assert key.startswith("flx_")
    file = fluxen.elsewhere / "fluxen.yaml"
    assert key not in file.read_text()
    assert fluxen.run("validate", env=env).stdout.startswith("ok: ")

    written = file.read_text().replace("openai: {", f'openai: {{target_url: "{upstream.url}", ')
    upstream.plays(answer(JSON))
    serving = fluxen.serve(written, "--port", "0", env=env)
    with serving.connect() as client:
        assert client.ask(request(b"/v1/chat/completions", BODY, key=None)).status == 401
    with serving.connect() as client:
        bearer = b"Authorization: Bearer " + key.encode()
        assert client.ask(request(b"/v1/chat/completions", BODY, key=bearer)).status == 200
    url = f"http://127.0.0.1:{serving.port}"
    assert fluxen.run("health", "--url", url).stdout
    serving.stop()
    fluxen.run("health", "--url", url, code=1)
    assert [row["key"] for row in fluxen.json("report", "costs", "--by", "key")["rows"]] == ["default"]


def test_a_first_key_is_made_by_serve(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    serving = fluxen.serve(configured(upstream.url), "--first-key")
    assert serving.said.count("flx_") >= 1
    serving.stop()
    keys = fluxen.home / ".local/share/fluxen/keys.json"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    again = fluxen.serve(configured(upstream.url), "--first-key")
    assert "flx_" not in again.said
    again.stop()


def test_doctor(fluxen: Fluxen) -> None:
    told = fluxen.json("doctor", "--offline")
    assert told["ok"], told
    form = "one-file executable" if fluxen.one_file else "folder"
    (version,) = [check for check in told["checks"] if check["check"] == "version"]
    assert form in version["message"]


def test_run_gives_its_command_a_clean_environment(fluxen: Fluxen) -> None:
    """Nothing of ours: a library path would have every program load our OpenSSL, and Fluxen itself be confused."""
    before = {"LD_LIBRARY_PATH": "/nowhere", "FLUXEN_DATA_DIR": str(fluxen.home / "data")}
    done = fluxen.run("run", "--", "/usr/bin/env", env=before)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
    assert {name: found.get(name) for name in fluxen.env(before)} == fluxen.env(before)
    assert not [name for name in found if name.startswith(("_PYI", "LD_")) and name not in before]
    assert "LD_LIBRARY_PATH" not in fluxen.run("run", "--", "/usr/bin/env").stdout
    assert fluxen.unpacked() == []


def test_run_runs_itself(fluxen: Fluxen) -> None:
    done = fluxen.run("run", "--", str(fluxen.binary), "self-test", "--json")
    assert json.loads(done.stdout)["ok"]
    assert fluxen.unpacked() == []


def test_run_ends_as_its_command(fluxen: Fluxen) -> None:
    fluxen.run("run", "--", "/bin/sh", "-c", "exit 7", code=7)
    assert fluxen.unpacked() == []


def test_demo(fluxen: Fluxen) -> None:
    """The whole product without a key or a network; nothing of the user's is touched."""
    done = fluxen.run("demo")
    assert "fluxen report costs" in done.stdout
    assert "none missing, none twice" in done.stdout
    assert list(fluxen.home.iterdir()) == []
    assert fluxen.unpacked() == []


def test_one_file_knows_that_it_is_one_also_beside_its_temporary_folder(unpacking: Fluxen) -> None:
    """Where TMPDIR is the folder the executable lies in, its parts lie beside it, as those of a frozen folder do."""
    beside = unpacking.temporary / "fluxen"
    shutil.copy(unpacking.binary, beside)
    done = subprocess.run(
        [beside, "doctor", "--offline", "--json"],
        env=unpacking.env(), cwd=unpacking.elsewhere, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (version,) = [check for check in json.loads(done.stdout)["checks"] if check["check"] == "version"]
    assert "the one-file executable" in version["message"]
    assert unpacking.unpacked() == [beside]
