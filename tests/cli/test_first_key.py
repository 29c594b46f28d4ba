"""`fluxen serve --first-key` and `--bind`: from nothing to the first request, by the line that was printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from gateway.conftest import environment
from gateway.rig import OK_BODY, Gateway, Upstream, request, until
from shared import Fluxen, require_program

from fluxen.keys.generate import hash_of
from fluxen.keys.store import KeyStore

Start = Callable[..., Gateway]

KEY = re.compile(r"flx_[A-Za-z0-9_-]{43}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a gateway in a folder of its own: start(config, *args)."""
    started: list[Gateway] = []

    def run(config: str, *args: str, env: Mapping[str, str] | None = None) -> Gateway:
        folder = tmp_path / f"gateway-{len(started)}"
        started.append(Gateway(folder, config, environment(folder / "home", env or {}), args))
        return started[-1]

    yield run
    for one in started:
        one.stop()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    yield found
    found.close()
    assert not found.faults


def config(upstream: Upstream, name: str = "openai", more: str = "") -> str:
    return f"""
server: {{bind_address: "127.0.0.1:0"}}
upstreams: {{{name}: {{target_url: "{upstream.url}", api_key: sk-provider-0123456789{more}}}}}
"""


def curl_in(said: str) -> str:
    """The last line of what was printed, which is the one to try."""
    (line,) = [line for line in said.splitlines() if line.startswith("  curl ")]
    assert said.rstrip().endswith(line)
    return line.strip()


def shell(line: str, env: Mapping[str, str] | None = None) -> str:
    require_program("curl")
    quiet = {**os.environ, "NO_PROXY": "*", **(env or {})}
    done = subprocess.run(
        ["sh", "-c", f"{line} --silent --show-error"],
        env=quiet,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_first_start_prints_a_key_that_works_and_no_later_one_does(start: Start, upstream: Upstream) -> None:
    gateway = start(config(upstream), "--first-key")
    line = until(lambda: curl_in(gateway.stdout()) if "Try it:\n" in gateway.stdout() else None, "a line to try")
    keys = set(KEY.findall(gateway.stdout()))
    assert len(keys) == 1
    key = keys.pop()
    assert f"\n  {key}\n" in gateway.stdout()
    assert "Clients need a client key" in gateway.stdout()
    assert shell(line) == OK_BODY.decode()
    seen = upstream.request()
    assert seen.line == b"POST /v1/chat/completions HTTP/1.1"
    assert seen.get(b"authorization") == [b"Bearer sk-provider-0123456789"]
    assert json.loads(seen.body)["model"] == "gpt-4o-mini"
    (row,) = gateway.rows(at_least=1)
    assert (row["key_id"], row["status"]) == ("default", 200)
    assert gateway.ask(request(key=None)).status == 401
    gateway.stop()
    for place in (gateway.journal(), gateway.stderr().encode()):
        assert key.encode() not in place
    before = (gateway.data_dir / "keys.json").read_bytes()
    assert hash_of(key).encode() in before
    gateway.start()
    assert shell(line.replace(re.findall(r":\d+/", line)[0], f":{gateway.port}/")) == OK_BODY.decode()
    assert not KEY.search(gateway.stdout())
    assert "Try it" not in gateway.stdout()
    assert (gateway.data_dir / "keys.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "more", "asked", "header"),
    [
        ("anthropic", "", b"POST /v1/messages", b"x-api-key"),
        ("gemini", "", b"POST /v1beta/models/gemini-2.5-flash-lite:generateContent", b"x-goog-api-key"),
        ("acme", "", b"GET /v1/models", b"authorization"),
        ("acme", ", dialect: anthropic, request_path: /team/a", b"GET /v1/models", b"x-api-key"),
        ("groq", "", b"GET /v1/models", b"authorization"),
    ],
)
def test_the_line_speaks_the_upstreams_protocol(
    name: str, more: str, asked: bytes, header: bytes, start: Start, upstream: Upstream
) -> None:
    gateway = start(config(upstream, name, more), "--first-key")
    line = until(lambda: curl_in(gateway.stdout()) if "Try it:\n" in gateway.stdout() else None, "a line to try")
    assert shell(line) == OK_BODY.decode()
    seen = upstream.request()
    assert seen.line == asked + b" HTTP/1.1"
    assert seen.get(header)[0].endswith(b"sk-provider-0123456789")
    assert b"flx_" not in seen.wire
    assert (b"anthropic-version" in seen.wire) == (header == b"x-api-key")


def test_with_a_key_other_machines_may_call(start: Start, fluxen: Fluxen) -> None:
    refused = fluxen("serve", "--bind", "0.0.0.0:0")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "\n--bind: there is no client key, and on 0.0.0.0:0 anyone could spend your money" in refused.stderr
    assert "\nhint: fluxen init " in refused.stderr
    gateway = start("", "--bind", "0.0.0.0:0", "--first-key", env={"OPENAI_API_KEY": ""})
    said = until(lambda: gateway.stdout() if "curl" in gateway.stdout() else None, "a line to try")
    assert f"serves on http://127.0.0.1:{gateway.port} (listening on 0.0.0.0:{gateway.port})" in said
    assert "(no key: set OPENAI_API_KEY or api_key)" in said
    assert "Try it (once Fluxen has a key of openai: OPENAI_API_KEY in its environment):\n" in said
    assert f"curl http://127.0.0.1:{gateway.port}/openai/v1/chat/completions " in said


def test_bind_is_the_whole_address_and_port_wins(start: Start, fluxen: Fluxen) -> None:
    gateway = start('server: {bind_address: "0.0.0.0:1"}', "--bind", "127.0.0.1:1", "--port", "0")
    assert "(listening on" not in gateway.stdout()
    for wrong in ("8080", "localhost", "::1:8080", "[::1]", "host:port", ":80"):
        done = fluxen("serve", "--bind", wrong)
        assert done.returncode == 2
        assert "--bind" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "keys", ["api_keys: {static: [{key: abc}]}", "api_keys: {jwt: [{key: abcdefghijklmnopqrstuvwxyz0123456789}]}"]
)
def test_where_keys_are_configured_none_is_made(keys: str, start: Start, upstream: Upstream) -> None:
    gateway = start(config(upstream) + keys, "--first-key")
    gateway.stop()
    assert not KEY.search(gateway.stdout())
    assert not (gateway.data_dir / "keys.json").exists()


def test_an_empty_list_of_keys_gets_its_first(start: Start, upstream: Upstream) -> None:
    gateway = start(config(upstream) + "api_keys: {static: []}", "--first-key")
    key = KEY.search(gateway.stdout())
    assert key is not None
    assert gateway.ask(request(key=b"x-api-key: " + key[0].encode())).status == 200


def test_two_starts_at_once_make_one_key(tmp_path: Path, upstream: Upstream) -> None:
    """Of the same data folder: a rolling restart, say."""
    started = [Popened(tmp_path / f"of-{number}", tmp_path / "data", config(upstream)) for number in range(2)]
    try:
        said = [one.said() for one in started]
    finally:
        for one in started:
            one.end()
    keys = {key for text in said for key in KEY.findall(text)}
    assert len(keys) == 1
    assert sorted("The first client key" in text for text in said) == [False, True]
    stored = json.loads((tmp_path / "data" / "keys.json").read_text())["keys"]
    assert [entry["hash"] for entry in stored] == [hash_of(keys.pop())]


class Popened:
    """`fluxen serve --first-key` that is not waited for."""

    def __init__(self, folder: Path, data: Path, text: str) -> None:
        folder.mkdir()
        (folder / "fluxen.yaml").write_text(text)
        env = environment(folder / "home", {"FLUXEN_DATA_DIR": str(data)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fluxen_cli", "serve", "--first-key"],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def said(self) -> str:
        """Everything up to the end of the welcome."""
        assert self._process.stdout is not None
        text = ""
        for line in self._process.stdout:
            text += line
            if line.startswith("Costs so far"):
                return text
        raise AssertionError(f"ended early: {text}{self._process.communicate()[1]}")

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def test_a_key_that_cant_be_kept_is_not_printed(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fluxen("serve", "--first-key", "--port", "0", env={"FLUXEN_DATA_DIR": str(tmp_path / "file" / "data")})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(r"error: can't write .*/file/data/keys\.json: Not a directory\nhint: ", done.stderr)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").write_text("{")
    done = fluxen("serve", "--first-key", "--port", "0", env={"FLUXEN_DATA_DIR": str(tmp_path / "data")})
    assert (done.returncode, done.stdout) == (3, "")
    assert "keys.json can't be used: is no JSON" in done.stderr


def test_a_data_folder_of_somebody_else(unprivileged: list[str], clean_env: dict[str, str], tmp_path: Path) -> None:
    """As in a container whose volume belongs to another user."""
    data = tmp_path / "data"
    data.mkdir()
    KeyStore(data).create("ci")
    if os.geteuid() == 0:
        os.chown(data, 12345, 12345)
        os.chown(data / "keys.json", 12345, 12345)
    command = [*unprivileged, sys.executable, "-m", "fluxen_cli"]
    env = clean_env | {"FLUXEN_DATA_DIR": str(data)}

    def ended(*args: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr
        return done

    (data / "keys.json").chmod(0o000)
    for args in (["serve", "--first-key", "--port", "0"], ["serve", "--port", "0"], ["validate"]):
        done = ended(*args)
        assert (done.returncode, done.stdout) == (3, "")
        assert f"can't read {data}/keys.json: Permission denied" in done.stderr
    (data / "keys.json").chmod(0o644)
    (data / "keys.json").write_text('{"version": 1, "keys": []}')
    data.chmod(0o555)
    done = ended("serve", "--first-key", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"error: can't write {data}/keys.json: Permission denied\nhint: a client key is kept "
    )
    data.chmod(0o000)
    (tmp_path / "fluxen.yaml").write_text("version: 1\n")
    (tmp_path / "fluxen.yaml").chmod(0o000)
    for args in (["run", "true"], ["validate"], ["health"]):
        done = ended(*args)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("error: can't read fluxen.yaml: Permission denied\nhint: be the user it is for")
    (tmp_path / "fluxen.yaml").unlink()
    done = ended("doctor", "--offline", "--json")
    assert done.returncode == 1
    found = {one["check"]: one["message"] for one in json.loads(done.stdout)["checks"]}
    assert "Permission denied" in found["configuration"]
    assert found["data folder"] == f"{data} can't be written to by this user"
    assert found["ledger"] == f"{data}/ledger can't be read: Permission denied"
    data.chmod(0o700)


def test_a_key_is_printed_even_if_the_start_fails(
    fluxen: Fluxen, start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    """It is in keys.json then, and nobody could read it there."""
    other = start(config(upstream))
    done = fluxen("serve", "--first-key", "--port", str(other.port))
    assert done.returncode == 4
    assert len(KEY.findall(done.stdout)) == 1
