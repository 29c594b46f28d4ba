"""`fluxen keys provider`: a provider's key is tried, kept, and used, and no output ever shows it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import Terminal
from gateway.conftest import environment
from gateway.rig import KEY, OK, Connection, Gateway, Request, Upstream, answer, request, until
from shared import Fluxen

from fluxen.errors import ConfigError
from fluxen.keys.provider import ProviderKeys

OLD, NEW, OTHER = (f"sk-planted-{name}-0123456789" for name in ("old", "new", "other"))
ROWS = ("upstream", "credential", "key")


class Provider(Upstream):
    """Takes the keys that it is told to take."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = set(keys)
        self.plays(self._play)

    def _play(self, connection: Connection, request: Request) -> None:
        known = request.get(b"authorization") in [[f"Bearer {key}".encode()] for key in self.keys]
        connection.send(OK if known else answer(b'{"error":"no such key"}', status=b"401 Unauthorized"))

    @property
    def last(self) -> str:
        return self.requests[-1].get(b"authorization")[0].decode().removeprefix("Bearer ")


@pytest.fixture
def provider() -> Iterator[Provider]:
    one = Provider(OLD, NEW)
    yield one
    one.close()
    assert not one.faults


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(clean_env: dict[str, str], tmp_path: Path) -> Run:
    """run('rotate', 'openai', key=…): `fluxen keys provider …`, with the key on standard input."""

    def one(*args: str, key: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "fluxen_cli", "keys", "provider", *args],
            env={**clean_env, "FLUXEN_DATA_DIR": str(tmp_path / "data"), **(env or {})},
            cwd=tmp_path, input=key, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        for secret in (OLD, NEW, OTHER):
            assert secret not in done.stdout + done.stderr
        return done

    return one


@pytest.fixture
def config(tmp_path: Path, provider: Provider) -> Callable[[str], Path]:
    """config('api_key: x'): a configuration whose one upstream is the provider, with these fields."""

    def write(fields: str) -> Path:
        path = tmp_path / "fluxen.yaml"
        path.write_text(
            f'server: {{bind_address: "127.0.0.1:0"}}\n'
            f"upstreams:\n  openai: {{target_url: '{provider.url}', {fields}}}\n"
            f"api_keys: {{static: [{{id: me, key: '{KEY}'}}]}}\n"
        )
        return path

    return write


def stored(tmp_path: Path) -> dict[tuple[str, str | None], str]:
    return {place: secret.reveal() for place, secret in ProviderKeys(tmp_path / "data").read().items()}


def listed(run: Run, **more: Any) -> list[tuple[Any, ...]]:
    done = run("list", "--json", **more)
    assert done.returncode == 0, done.stderr
    return [tuple(one[name] for name in ROWS) for one in json.loads(done.stdout)["credentials"]]


# --- what it does to the files


@pytest.mark.parametrize("written", ['"${NOT_HERE}"', OLD])
def test_into_credentials_json(
    written: str, run: Run, config: Callable[[str], Path], provider: Provider, tmp_path: Path, fluxen: Fluxen
) -> None:
    """What is no file of its own stays as it is, and the new key stands in for it, until it is removed."""
    before = config(f"api_key: {written}").read_bytes()
    done = run("rotate", "openai", key=f"{NEW}\n")
    assert done.returncode == 0, done.stderr
    assert provider.last == NEW
    assert "accepts the key" in done.stderr
    path = tmp_path / "data" / "credentials.json"
    assert str(path) in done.stderr
    assert "fluxen.yaml:3:" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stored(tmp_path) == {("openai", None): NEW}
    assert (tmp_path / "fluxen.yaml").read_bytes() == before
    assert listed(run) == [("openai", None, "credentials.json")]

    env = {"NOT_HERE": OLD, "FLUXEN_DATA_DIR": str(tmp_path / "data")}
    said = fluxen("validate", env=env)
    assert said.returncode == 0, said.stderr
    assert "upstreams.openai.api_key: the key in credentials.json is used instead" in said.stderr
    assert NEW not in said.stdout + said.stderr
    assert run("remove", "openai").returncode == 1  # nobody there to be asked
    done = run("remove", "openai", "--yes")
    assert (done.returncode, stored(tmp_path)) == (0, {})
    assert listed(run) == [("openai", None, "${NOT_HERE}" if "NOT" in written else "in the file")]
    assert run("remove", "openai", "--yes").returncode == 1


def test_into_the_file_it_comes_from(run: Run, config: Callable[[str], Path], tmp_path: Path) -> None:
    """With its mode and owner; a service that reads it must go on to be able to."""
    config("api_key: 'file:secret'")
    secret = tmp_path / "secret"
    secret.write_text(OLD)
    secret.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(secret, 1234, 1235)
    before = secret.stat()
    done = run("rotate", "openai", key=NEW)
    assert done.returncode == 0, done.stderr
    after = secret.stat()
    assert secret.read_text() == f"{NEW}\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert not (tmp_path / "data" / "credentials.json").exists()
    assert listed(run) == [("openai", None, "file:secret")]
    assert run("rotate", "openai", "--store", key=OLD).returncode == 0
    assert (secret.read_text(), stored(tmp_path)) == (f"{NEW}\n", {("openai", None): OLD})
    assert run("rotate", "openai", key=NEW).returncode == 0, "where it is kept by then"
    assert stored(tmp_path) == {("openai", None): NEW}


def test_a_link_is_not_written_through(run: Run, config: Callable[[str], Path], tmp_path: Path) -> None:
    """A Kubernetes Secret, say: it would be overwritten again."""
    config("api_key: 'file:secret'")
    (tmp_path / "real").write_text(OLD)
    (tmp_path / "secret").symlink_to("real")
    done = run("rotate", "openai", key=NEW)
    assert done.returncode == 1
    assert "--store" in done.stderr
    assert (tmp_path / "real").read_text() == OLD


def test_one_of_several(run: Run, config: Callable[[str], Path], tmp_path: Path, fluxen: Fluxen) -> None:
    config(f"credentials: [{{name: main, api_key: {OLD}}}, {{name: spare, api_key: '${{SPARE}}'}}]")
    assert "--credential main|spare" in run("rotate", "openai", key=NEW).stderr
    assert "did you mean 'spare'" in run("rotate", "openai", "--credential", "spar", key=NEW).stderr
    done = run("rotate", "openai", "--credential", "spare", key=NEW)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == {("openai", "spare"): NEW}
    assert listed(run) == [("openai", "main", "in the file"), ("openai", "spare", "credentials.json")]
    said = fluxen("validate", env={"SPARE": OTHER, "FLUXEN_DATA_DIR": str(tmp_path / "data")})
    assert "upstreams.openai.credentials[1].api_key: the key in credentials.json is used instead" in said.stderr


def test_without_a_configuration(run: Run, tmp_path: Path, fluxen: Fluxen) -> None:
    """Then it is a provider that Fluxen knows by name."""
    done = run("rotate", "groq", "--no-check", key=NEW)
    assert done.returncode == 0, done.stderr
    assert listed(run) == [("groq", None, "credentials.json")]
    assert "did you mean 'openai'" in run("rotate", "opnai", "--no-check", key=NEW).stderr
    said = fluxen("validate", env={"FLUXEN_DATA_DIR": str(tmp_path / "data")})
    assert (said.returncode, "groq" in said.stdout) == (0, True)


def test_for_nothing(run: Run, config: Callable[[str], Path], tmp_path: Path, fluxen: Fluxen) -> None:
    """A stored key whose upstream or credential is gone is told of, and not used."""
    config(f"credentials: [{{name: main, api_key: {OLD}}}]")
    keys = ProviderKeys(tmp_path / "data")
    for place in (("openai", None), ("openai", "gone"), ("mistral", None)):
        keys.put(*place, NEW)
    said = fluxen("validate", env={"FLUXEN_DATA_DIR": str(tmp_path / "data")})
    assert said.returncode == 0, said.stderr
    assert said.stderr.count("credentials.json has a key for ") == 3
    done = run("list", "--json")
    assert len(json.loads(done.stdout)["warnings"]) == 3


# --- what it does not take


def test_a_refused_key_changes_nothing(run: Run, config: Callable[[str], Path], tmp_path: Path) -> None:
    config(f"api_key: {OLD}")
    done = run("rotate", "openai", key=OTHER)
    assert done.returncode == 1
    assert "refuses this key (401)" in done.stderr
    assert not (tmp_path / "data").exists()
    assert run("rotate", "openai", "--no-check", key=OTHER).returncode == 0
    assert stored(tmp_path) == {("openai", None): OTHER}


@pytest.mark.parametrize(("status", "code"), [(b"404 Not Found", 0), (b"429 Too Many Requests", 0), (b"503 Off", 1)])
def test_a_provider_that_does_not_say(
    status: bytes, code: int, run: Run, config: Callable[[str], Path], provider: Provider
) -> None:
    config(f"api_key: {OLD}")
    provider.plays(answer(b"{}", status=status))
    assert run("rotate", "openai", key=NEW).returncode == code


def test_a_provider_that_is_not_there(run: Run, config: Callable[[str], Path], provider: Provider) -> None:
    path = config(f"api_key: {OLD}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port on which nobody listens
        path.write_text(path.read_text().replace(provider.url, f"http://127.0.0.1:{taken.getsockname()[1]}"))
        done = run("rotate", "openai", key=NEW)
    assert (done.returncode, "can't be reached" in done.stderr, "--no-check" in done.stderr) == (1, True, True)


@pytest.mark.parametrize("key", ["", "\n", "two words", "bad\x07bell", "sk-ünicode", "x" * 9000, "two\nlines"])
def test_what_can_be_no_key(key: str, run: Run, config: Callable[[str], Path], tmp_path: Path) -> None:
    config(f"api_key: {OLD}")
    done = run("rotate", "openai", key=key)
    assert done.returncode == 1
    assert "this can't be a key" in done.stderr
    assert not key.strip() or key.strip() not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"version": 1}', b'{"version": 9, "credentials": []}', b"[" * 100_000,
        b'{"version": 1, "credentials": [1]}', b'{"version": 1, "credentials": [{"upstream": "openai"}]}',
        b'{"version": 1, "credentials": [{"upstream": "openai", "key": "a b"}]}',
        b'{"version": 1, "credentials": [{"upstream": "openai", "name": 5, "key": "planted"}]}',
        b'{"version": 1, "credentials": [{"upstream": "o", "key": "planted"}, {"upstream": "o", "key": "planted"}]}',
    ],
)  # fmt: skip
def test_a_broken_file(content: bytes, run: Run, config: Callable[[str], Path], tmp_path: Path, fluxen: Fluxen) -> None:
    """Nobody starts with it, nobody overwrites it, and no message quotes it."""
    config(f"api_key: {OLD}")
    path = tmp_path / "data" / "credentials.json"
    path.parent.mkdir()
    path.write_bytes(content)
    for done in (
        run("rotate", "openai", key=NEW), run("list"),
        fluxen("validate", env={"FLUXEN_DATA_DIR": str(path.parent)}),
    ):  # fmt: skip
        assert done.returncode in (1, 3)
        assert "credentials.json" in done.stderr
        assert "planted" not in done.stderr
        assert "Traceback" not in done.stderr
    assert path.read_bytes() == content


def test_fields_of_later_versions_stay(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(
        '{"version": 1, "more": 1, "credentials": [{"upstream": "a", "key": "k", "note": "x"}, '
        '{"upstream": "b", "key": "k"}]}'
    )
    keys = ProviderKeys(tmp_path)
    keys.put("b", None, "new")
    assert keys.remove("c", None) is False
    document = json.loads(path.read_text())
    assert document["more"] == 1
    assert document["credentials"][0] == {"upstream": "a", "key": "k", "note": "x"}
    assert keys.read()["b", None].reveal() == "new"
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        assert [*keys.exposed()] == [f"{path} holds keys of providers and can be read by others: chmod 600"]


def test_what_is_wrong_with_an_entry_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"version": 1, "credentials": [{"upstream": "a", "key": 5}]}')
    with pytest.raises(ConfigError) as caught:
        ProviderKeys(tmp_path).read()
    assert caught.value.message == f"{path} can't be used: credentials[0] has no key"


# --- people and gateways


def test_asked_at_a_terminal(config: Callable[[str], Path], clean_env: dict[str, str], tmp_path: Path) -> None:
    """What is typed is not shown."""
    config(f"api_key: {OLD}")
    command = [sys.executable, "-m", "fluxen_cli", "keys", "provider", "rotate", "openai"]
    terminal = Terminal(command, {**clean_env, "FLUXEN_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    terminal.wait_for("The new key of openai")
    terminal.type(f"{NEW}\n")
    assert terminal.ends() == 0, terminal.said
    assert NEW not in terminal.said
    assert stored(tmp_path) == {("openai", None): NEW}


@pytest.mark.parametrize("fields", [f"api_key: {OLD}", "api_key: 'file:secret'"], ids=["stored", "file"])
def test_a_running_gateway_obeys(fields: str, tmp_path: Path, provider: Provider) -> None:
    """Without a restart, and back again."""
    env = environment(tmp_path / "home", {})
    text = (
        'version: 1\nserver: {bind_address: "127.0.0.1:0", workers: 2}\n'
        f"upstreams:\n  openai: {{target_url: '{provider.url}', {fields}}}\n"
        f"api_keys: {{static: [{{id: me, key: '{KEY}'}}]}}\n"
    )
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "secret").write_text(OLD)
    gateway = Gateway(folder, text, env)
    command = [sys.executable, "-m", "fluxen_cli", "keys", "provider", "rotate", "openai", "--json"]
    more = {**env, "FLUXEN_DATA_DIR": str(folder / "data")}
    try:
        assert gateway.ask(request()).status == 200
        assert provider.last == OLD
        done = subprocess.run(
            command, env=more, cwd=folder, input=NEW, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["gateways"] == [{"pid": gateway.process.pid, "obeys": True, "problem": None}]
        for _ in range(8):  # both workers
            assert gateway.ask(request()).status == 200
            assert provider.last == NEW
        if "file" not in fields:
            done = subprocess.run(
                [*command[:-3], "remove", "openai", "--yes"],
                env=more, cwd=folder, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            until(lambda: gateway.ask(request()).status == 200 and provider.last == OLD, "the old key again")
        everything = gateway.stderr() + gateway.stdout() + done.stdout + done.stderr
        everything += "".join(path.read_text() for path in (folder / "data" / "gateways").glob("*.json"))
        assert not [key for key in (OLD, NEW) if key in everything]
    finally:
        gateway.stop()
