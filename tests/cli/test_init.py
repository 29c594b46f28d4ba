"""`fluxen init`: what it writes is valid and safe to show, what it asks it asks in a real terminal."""

from __future__ import annotations

import json
import os
import re
import select
import stat
import subprocess
import sys
import termios
import time
from datetime import date
from pathlib import Path

import pytest
from gateway.conftest import environment
from gateway.rig import Gateway, request
from shared import Fluxen

from fluxen.config.load import load_bytes
from fluxen.config.starter import StarterUpstream, starter
from fluxen.config.values import Address
from fluxen.keys.generate import hash_of
from fluxen.keys.store import KeyStore

KEY = re.compile(r"flx_[A-Za-z0-9_-]{43}")


def key_in(said: str) -> str:
    """The one key that was printed."""
    (key,) = set(KEY.findall(said))
    return key


def loaded_hash(path: Path, env: dict[str, str]) -> tuple[str, str | None]:
    keys = load_bytes(path.read_bytes(), env, path).config.api_keys
    assert keys is not None
    (key,) = keys.static
    return key.id, key.hash


def test_yes_takes_what_is_in_the_environment(fluxen: Fluxen, tmp_path: Path) -> None:
    env = {
        "OPENAI_API_KEY": "sk-planted-1",
        "GOOGLE_API_KEY": "g-planted-2\n",
        "MISTRAL_API_KEY": "  ",
        "XAI_API_KEY": "ä",
    }
    done = fluxen("init", "--yes", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: XAI_API_KEY holds a character that can't stand in a header: xai is left out\n"
    path = tmp_path / "fluxen.yaml"
    text = path.read_text()
    key = key_in(done.stdout)
    assert loaded_hash(path, env) == ("default", hash_of(key))
    for secret in (key, "sk-planted-1", "g-planted-2"):
        assert secret not in text
    assert "planted" not in done.stdout
    checked = fluxen("validate", env=env)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "ok: fluxen.yaml, 2 upstreams (openai, gemini), 1 client key\n"
    assert "\n  fluxen serve\n" in done.stdout
    assert f"curl http://127.0.0.1:8080/openai/v1/chat/completions -H 'Authorization: Bearer {key}'" in done.stdout
    assert {found.name for found in tmp_path.iterdir()} == {"fluxen.yaml", "home"}


def test_with_nothing_to_find_it_names_no_provider(fluxen: Fluxen, tmp_path: Path) -> None:
    done = fluxen("init", "--yes")
    assert done.returncode == 0
    assert "once Fluxen has a key of openai: OPENAI_API_KEY in its environment" in done.stdout
    checked = fluxen("validate", env={"GROQ_API_KEY": "g"})
    assert checked.stdout == "ok: fluxen.yaml, 4 upstreams (openai, anthropic, gemini, groq), 1 client key\n"


def test_nothing_is_overwritten_without_force(fluxen: Fluxen, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "gateway.yaml"
    first = fluxen("init", "--yes", "--config", str(path))
    assert first.returncode == 0
    assert f"\n  fluxen serve --config {path}\n" in first.stdout
    before = path.read_bytes()
    refused = fluxen("init", "--yes", "--config", str(path))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"error: {path} is there already\nhint: --force replaces it; --config names another file\n"
    )
    assert path.read_bytes() == before
    again = fluxen("init", "--yes", "--force", env={"FLUXEN_CONFIG": str(path)})
    assert again.returncode == 0
    assert "\n  fluxen serve\n" in again.stdout
    assert loaded_hash(path, {"HOME": "/"})[1] == hash_of(key_in(again.stdout)) != hash_of(key_in(first.stdout))
    (tmp_path / "link.yaml").symlink_to("nowhere")
    assert fluxen("init", "--yes", "--config", "link.yaml").returncode == 1
    done = fluxen("init", "--yes", "--config", "etc")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: etc is a folder")


def test_two_at_once_leave_one_file_and_its_key(tmp_path: Path, clean_env: dict[str, str]) -> None:
    started = [
        subprocess.Popen([sys.executable, "-m", "fluxen_cli", "init", "--yes", "--json"], cwd=tmp_path, env=clean_env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    said = [one.communicate(timeout=60)[0] for one in started]
    assert sorted(one.returncode for one in started) == [0, 1, 1]
    (answer,) = [json.loads(text) for text in said if text]
    assert loaded_hash(tmp_path / "fluxen.yaml", clean_env) == ("default", hash_of(answer["key"]["key"]))


def test_json(fluxen: Fluxen, tmp_path: Path) -> None:
    done = fluxen("init", "--yes", "--json", env={"OPENAI_API_KEY": "sk-1"})
    answer = json.loads(done.stdout)
    assert loaded_hash(tmp_path / "fluxen.yaml", {"OPENAI_API_KEY": "sk-1", "HOME": "/"}) == (
        answer["key"]["id"], hash_of(answer["key"]["key"]),
    )  # fmt: skip
    assert (answer["ok"], answer["file"], answer["upstreams"]) == (True, "fluxen.yaml", ["openai"])
    assert (answer["secrets"], answer["problems"]) == ([], [])


def test_without_a_terminal_it_asks_nothing(fluxen: Fluxen, tmp_path: Path) -> None:
    done = fluxen("init")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no terminal to ask in\nhint: fluxen init --yes asks nothing\n"
    assert not (tmp_path / "fluxen.yaml").exists()


def test_an_id_of_keys_json_is_not_taken(fluxen: Fluxen, tmp_path: Path) -> None:
    """There it would replace the one just printed."""
    KeyStore(tmp_path / "data").create("default")
    env = {"FLUXEN_DATA_DIR": str(tmp_path / "data")}
    done = fluxen("init", "--yes", env=env)
    assert "The first client key, 'default-2'" in done.stdout
    checked = fluxen("validate", env=env)
    assert checked.stdout.endswith(", 2 client keys\n")
    assert checked.stderr == ""


def test_what_will_stop_serve_is_said(fluxen: Fluxen) -> None:
    done = fluxen("init", "--yes", env={"OPENAI_API_KEY": "sk-1", "HTTPS_PROXY": "http://proxy", "NO_PROXY": ""})
    assert done.returncode == 0
    assert done.stderr.startswith("warning: fluxen serve can't start yet: HTTPS_PROXY is set")
    key_in(done.stdout)


def test_the_gateway_it_describes_serves(fluxen: Fluxen, tmp_path: Path) -> None:
    done = fluxen("init", "--yes")
    text = (tmp_path / "fluxen.yaml").read_text()
    server = Gateway(tmp_path / "gateway", text, environment(tmp_path / "home", {}), ["--port", "0"])
    try:
        known = b"x-api-key: " + key_in(done.stdout).encode()
        assert server.ask(request(b"/nowhere", key=known)).status == 404
        assert server.ask(request(b"/nowhere", key=b"x-api-key: flx_other")).status == 401
    finally:
        server.stop()


@pytest.mark.parametrize(
    "upstreams",
    [
        (),
        (StarterUpstream("openai", "${OPENAI_API_KEY}", "x"),),
        (StarterUpstream("openai", "file:secrets/openai", "x"), StarterUpstream("vllm", None, "x")),
    ],
)
def test_it_is_valid_as_it_stands_and_with_every_example_taken(
    upstreams: tuple[StarterUpstream, ...], tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "openai").write_text("sk-1\n")
    text = starter(Address("::1", 80), upstreams, "default", hash_of("abc"), date(2026, 11, 22))
    env = {"HOME": "/home/x", "OPENAI_API_KEY": "sk-1"}
    for one in (text, re.sub(r"(?m)^( *)#(?=[a-z-])", r"\1", text)):
        loaded = load_bytes(one.encode(), env, tmp_path / "fluxen.yaml")
        assert loaded.warnings == ()
        assert loaded.config.server.bind_address == Address("::1", 80)
    assert "local" in loaded.config.upstreams.by_name
    assert loaded.config.ledger.retention_days == 400
    assert max(map(len, text.splitlines())) <= 120


# --- in a terminal

TAKE_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "fluxen_cli", *sys.argv[1:]])
"""


class Terminal:
    """`fluxen ARGS` at a terminal of its own; stdout is a pipe. `shown` is all the terminal has shown."""

    def __init__(self, *args: str, env: dict[str, str], cwd: Path) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_THE_TERMINAL, *args],
            stdin=slave, stderr=slave, stdout=subprocess.PIPE, env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def wait_for(self, text: str) -> None:
        """Until the terminal shows it (behind what was waited for before)."""
        deadline = time.monotonic() + 60
        while (at := self.shown.find(text, self._seen)) < 0:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"never came: {text!r} in {self.shown!r}"
            try:
                self.shown += os.read(self._master, 4096).decode()
            except OSError:  # the other end is closed
                raise AssertionError(f"ended without {text!r}: {self.shown!r}") from None
        self._seen = at + len(text)

    def answer(self, question: str, line: str) -> None:
        self.wait_for(question)
        os.write(self._master, line.encode() + b"\n")

    def hidden(self, question: str, line: str) -> None:
        """As answer, once the terminal has stopped showing what is typed."""
        self.wait_for(question)
        deadline = time.monotonic() + 60
        while termios.tcgetattr(self._master)[3] & termios.ECHO:
            assert time.monotonic() < deadline, "what is typed here would be shown"
            time.sleep(0.005)
        os.write(self._master, line.encode() + b"\n")

    def end(self) -> tuple[int, str]:
        """Exit code and stdout."""
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            said = pipe.read().decode()
        code = self.process.wait(60)
        os.set_blocking(self._master, False)
        try:
            while more := os.read(self._master, 65536):
                self.shown += more.decode()
        except OSError:
            pass
        os.close(self._master)
        return code, said


def test_a_dialogue(clean_env: dict[str, str], fluxen: Fluxen, tmp_path: Path) -> None:
    env = clean_env | {"OPENAI_API_KEY": "sk-planted-1"}
    terminal = Terminal("init", env=env, cwd=tmp_path)
    terminal.wait_for("openai (${OPENAI_API_KEY})")
    terminal.answer("Other providers", "?")
    terminal.wait_for("Known: anthropic, ")
    terminal.answer("Other providers", "mistal")
    terminal.wait_for("Fluxen knows no provider mistal (did you mean mistral?)")
    terminal.answer("Other providers", "Mistral, groq,vllm, openai, lmstudio")
    terminal.hidden("Key of mistral (not shown; empty: it will be in MISTRAL_API_KEY later)", "two words")
    terminal.wait_for("can't stand in a header")
    terminal.hidden("Key of mistral", "m-typed-0123456789")
    terminal.hidden("Key of groq", "")
    terminal.hidden("Key of vllm", "v-typed")
    terminal.hidden("Key of lmstudio (not shown; empty: it needs none)", "")
    terminal.answer("Address to listen on [127.0.0.1:8080]", "localhost")
    terminal.wait_for("That can't be used: expected host:port")
    terminal.answer("Address to listen on [127.0.0.1:8080]", "0.0.0.0:9000")
    code, said = terminal.end()
    assert code == 0, terminal.shown
    for secret in ("m-typed", "v-typed", "sk-planted", "two words"):
        assert secret not in terminal.shown
        assert secret not in said
    text = (tmp_path / "fluxen.yaml").read_text()
    assert "typed" not in text
    assert "planted" not in text
    secrets = tmp_path / "secrets"
    assert {path.name: path.read_text() for path in secrets.iterdir()} == {
        "mistral": "m-typed-0123456789\n", "vllm": "v-typed\n", ".gitignore": "*\n",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    checked = fluxen("validate", env=env)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "ok: fluxen.yaml, 5 upstreams (openai, mistral, groq, vllm, lmstudio), 1 client key\n"
    loaded = load_bytes((tmp_path / "fluxen.yaml").read_bytes(), env, tmp_path / "fluxen.yaml").config
    assert loaded.server.bind_address == Address("0.0.0.0", 9000)
    found = loaded.upstreams.by_name["mistral"].api_key
    assert found is not None
    assert (found.reveal(), found.reference) == ("m-typed-0123456789", "file:secrets/mistral")
    assert loaded.upstreams.by_name["groq"].api_key is None
    assert "GROQ_API_KEY" in text
    key = key_in(said)
    assert f"curl http://127.0.0.1:9000/openai/v1/chat/completions -H 'Authorization: Bearer {key}'" in said
    assert key not in terminal.shown


def test_enter_takes_the_defaults_and_a_key_that_lies_there_is_kept(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mistral").write_text("there-before\n")
    terminal = Terminal("init", "--json", env=clean_env, cwd=tmp_path)
    terminal.answer("Other providers", "mistral")
    terminal.wait_for("secrets/mistral is there already: it is used")
    terminal.answer("Address to listen on", "")
    code, said = terminal.end()
    assert code == 0
    answer = json.loads(said)
    assert (answer["upstreams"], answer["secrets"]) == (["mistral"], [])
    assert (tmp_path / "secrets" / "mistral").read_text() == "there-before\n"


def test_a_file_that_is_replaced_keeps_mode_and_owner(fluxen: Fluxen, tmp_path: Path) -> None:
    """A service reads it, whatever the umask of the administrator."""
    file = tmp_path / "fluxen.yaml"
    file.write_text("version: 1\n")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 0, 12345)
    before = file.stat()
    old = os.umask(0o077)
    try:
        assert fluxen("init", "--yes", "--force").returncode == 0
    finally:
        os.umask(old)
    after = file.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_file_that_appears_while_it_asks_stays(clean_env: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal("init", env=clean_env, cwd=tmp_path)
    terminal.answer("Other providers", "")
    terminal.wait_for("Address to listen on")
    (tmp_path / "fluxen.yaml").write_text("mine\n")
    terminal.answer("", "")
    assert terminal.end() == (1, "")
    assert "error: fluxen.yaml is there already" in terminal.shown
    again = Terminal("init", env=clean_env, cwd=tmp_path)
    again.wait_for("error: fluxen.yaml is there already")
    assert again.end() == (1, "")
    assert "Other providers" not in again.shown, "what is asked for nothing"
    assert (tmp_path / "fluxen.yaml").read_text() == "mine\n"


@pytest.mark.parametrize(("typed", "code"), [("\x03", 130), ("\x04", 1)])
def test_who_breaks_off_leaves_nothing(typed: str, code: int, clean_env: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal("init", env=clean_env, cwd=tmp_path)
    terminal.answer("Other providers", "mistral")
    terminal.hidden("Key of mistral", "m-typed")
    terminal.answer("Address to listen on", typed)
    assert terminal.end() == (code, "")
    assert "Traceback" not in terminal.shown
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
