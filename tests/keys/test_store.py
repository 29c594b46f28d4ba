"""keys.json: what is written is there, whoever writes at the same time and whoever is killed; what is broken lets
nobody in."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import missing

from fluxen.errors import ConfigError, FluxenError
from fluxen.keys.generate import hash_of
from fluxen.keys.provider import ProviderKeys
from fluxen.keys.store import KeyStore


def raw(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "keys.json").read_bytes())
    return found


def test_a_key_is_made_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = KeyStore(folder)
    assert store.read() is None
    key = store.create_first("default")
    assert key is not None
    assert re.fullmatch(r"flx_[A-Za-z0-9_-]{43}", key)
    stored = store.read()
    assert stored is not None
    assert stored.warnings == ()
    (one,) = stored.keys
    assert (one.id, one.hash) == ("default", hash_of(key))
    assert set(stored.clients) == {hashlib.sha256(key.encode()).digest()}
    assert store.create_first("default") is None
    other = store.create("ci")
    assert other != key
    assert [entry["hash"] for entry in raw(folder)["keys"]] == [hash_of(key), hash_of(other)]  # type: ignore[attr-defined]
    for taken_or_wrong, said in (
        ("ci", "there is a key 'ci' already"),
        ("", "id: expected 1 to 256"),
        ("a\n", "1 to 256"),
    ):
        with pytest.raises(FluxenError, match=said):
            store.create(taken_or_wrong)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for secret in (key, other):
            assert secret.encode() not in path.read_bytes()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {"keys.json", "keys.json.lock"}


def test_fields_of_a_later_release_stay(tmp_path: Path) -> None:
    entry = {"id": "a", "hash": hash_of("a"), "created": "?", "name": "Ä", "team": "red", "tags": {"x": "y"}}
    (tmp_path / "keys.json").write_text(json.dumps({"version": 1, "seen": [1.5, None], "keys": [entry]}))
    KeyStore(tmp_path).create("b")
    found = raw(tmp_path)
    assert found["seen"] == [1.5, None]
    assert found["keys"][0] == entry  # type: ignore[index]
    stored = KeyStore(tmp_path).read()
    assert stored is not None
    assert [(key.id, key.team, key.tags) for key in stored.keys] == [("a", "red", {"x": "y"}), ("b", None, None)]


ENTRY = {"id": "a", "hash": hash_of("a")}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\xff", "is no JSON"),
        ("[]", 'does not begin as {"version": 2, "keys": […]}'),
        ({"keys": []}, "does not begin as"),
        ({"version": True, "keys": []}, "does not begin as"),
        ({"version": 0, "keys": []}, "does not begin as"),
        ({"version": 3, "keys": []}, "has version 3: a newer Fluxen wrote it, upgrade this one"),
        ({"version": 1}, "does not begin as"),
        ({"version": 1, "keys": {}}, "does not begin as"),
        ({"version": 1, "keys": [5]}, "keys[0] is no object"),
        ({"version": 1, "keys": [{"id": "a"}]}, "keys[0] has no hash"),
        ({"version": 1, "keys": [{"id": "a", "key": "plain-secret"}]}, "keys[0] has no hash"),
        ({"version": 1, "keys": [{"hash": hash_of("a")}]}, "keys[0] has no id"),
        ({"version": 1, "keys": [{"id": "a", "hash": "plain-secret"}]}, "keys[0].hash: expected sha256:"),
        ({"version": 1, "keys": [ENTRY, {"id": "b\n", "hash": hash_of("b")}]}, "keys[1].id: expected 1 to 256"),
        ({"version": 1, "keys": [{**ENTRY, "upstreams": 5}]}, "keys[0].upstreams: "),
        ({"version": 1, "keys": [ENTRY, {**ENTRY, "hash": hash_of("b")}]}, "keys[1].id: is that of keys[0], too"),
        ({"version": 1, "keys": [ENTRY, {**ENTRY, "id": "b"}]}, "keys[1].hash: is that of keys[0], too"),
    ],
)
def test_a_broken_file_is_told_and_never_taken_for_none(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode("latin-1"))
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        KeyStore(tmp_path).read()
    assert caught.value.message.startswith(str(path))
    assert said in caught.value.message
    assert "plain-secret" not in caught.value.message
    with pytest.raises(ConfigError):
        KeyStore(tmp_path).create_first("default")
    assert path.read_bytes() == before


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=4) | (
    st.dictionaries(st.sampled_from(["version", "keys", "id", "hash", "tags", "team", "upstreams", "?"]), inner))),
    st.integers(0, 2))  # fmt: skip
def test_any_json_is_keys_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, value: object, depth: int
) -> None:
    shape = (
        value,
        {"version": 1, "keys": [value]},
        {"version": 1, "keys": [ENTRY | ({"x": value} | (value if isinstance(value, dict) else {}))]},
    )
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.json").write_text(json.dumps(shape[depth]))
    try:
        stored = KeyStore(folder).read()
    except ConfigError as error:
        assert str(folder) in error.message
    else:
        assert stored is not None


@pytest.mark.parametrize(
    ("mode", "said"), [(0o644, "read by everybody"), (0o602, "changed by others"), (0o660, "changed")]
)
def test_a_file_that_others_can_open_is_warned_of(mode: int, said: str, tmp_path: Path) -> None:
    KeyStore(tmp_path).create("a")
    (tmp_path / "keys.json").chmod(mode)
    stored = KeyStore(tmp_path).read()
    assert stored is not None
    (warning,) = stored.warnings
    assert said in warning
    KeyStore(tmp_path).create("b")
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_what_cant_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys.json").mkdir()
    with pytest.raises(ConfigError, match=r"can't read .*/keys\.json: Is a directory"):
        KeyStore(tmp_path).read()


@pytest.mark.parametrize("name", ["keys.json", "credentials.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_in_the_place_of_a_file_is_told_and_not_waited_for(
    kind: str, name: str, tmp_path: Path
) -> None:
    """The supervisor that opened such a pipe stood still until somebody wrote into it: no reload, no stop."""
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    reader = KeyStore(tmp_path) if name == "keys.json" else ProviderKeys(tmp_path)
    with pytest.raises(ConfigError, match=rf"can't read .*/{name}: it is no regular file"):
        reader.read()


def test_a_key_of_root_belongs_to_who_owns_the_folder(tmp_path: Path) -> None:
    """So that a service can read what an administrator created for it."""
    if os.geteuid() != 0:
        missing("needs root")
    os.chown(tmp_path, 12345, 12345)
    KeyStore(tmp_path).create("a")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(12345, 12345)}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_by_the_folders_owner_gives_nothing_away(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """Root creates a key for a service whose user is not to be trusted with root's files."""
    if os.geteuid() != 0:
        missing("needs root")
    roots, folder = tmp_path / "roots", tmp_path / "data"
    roots.write_text("root's own")
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    link(roots, folder / "keys.json.lock")
    link(roots, folder / f".keys.json.{os.getpid()}")
    if link is os.symlink:  # refused
        with pytest.raises(FluxenError, match="can't write"):
            KeyStore(folder).create("a")
    else:
        KeyStore(folder).create("a")
    assert (roots.read_text(), roots.stat().st_uid) == ("root's own", 0)


def test_what_cant_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FluxenError, match=r"can't write .*/file/data/keys\.json: Not a directory") as caught:
        KeyStore(tmp_path / "file" / "data").create_first("default")
    assert caught.value.exit_code == 1
    assert caught.value.hint is not None


WRITER = """
import sys
from pathlib import Path
from fluxen.keys.store import KeyStore
store, name, count = KeyStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    key_id = f"{name}-{number}"
    print(key_id, store.create(key_id), flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def promised(said: str) -> dict[str, str]:
    """The ids and hashes of the keys that a writer has shown; a line cut short was not shown."""
    lines = [line.split() for line in said.splitlines(keepends=True) if line.endswith("\n")]
    return {key_id: hash_of(key) for key_id, key in lines}


def kept(folder: Path) -> dict[str, str]:
    stored = KeyStore(folder).read()
    return {key.id: key.hash or "" for key in stored.keys} if stored else {}


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    writers = [writer(tmp_path, name, 25) for name in "abcd"]
    for one in writers:
        go(one)
    shown: dict[str, str] = {}
    for one in writers:
        said, _ = one.communicate(timeout=60)
        assert one.returncode == 0
        shown |= promised(said)
    assert len(shown) == 100
    assert kept(tmp_path) == shown


def test_one_first_key_however_many_start(tmp_path: Path) -> None:
    code = WRITER.replace("store.create(key_id)", "store.create_first('default')")
    starts = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "x", "1"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]  # fmt: skip
    for one in starts:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in starts:
        go(one)
    said = [one.communicate(timeout=60)[0].split()[1] for one in starts]
    (key,) = [one for one in said if one != "None"]
    assert kept(tmp_path) == {"default": hash_of(key)}


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    chance = random.Random(20261122)
    shown: dict[str, str] = {}
    killed_at_work = 0
    for number in range(12):
        victim = writer(tmp_path, f"v{number}", 100_000)
        assert victim.stdout is not None
        go(victim)
        said = victim.stdout.readline()  # it is at it; now at any moment of its next few rounds
        deadline = time.monotonic() + chance.random() * 0.004
        while time.monotonic() < deadline:
            pass
        killed_at_work += victim.poll() is None
        os.kill(victim.pid, signal.SIGKILL)
        said += victim.communicate(timeout=60)[0]
        shown |= promised(said)
        assert shown.items() <= kept(tmp_path).items()
    assert killed_at_work == 12
    extra = kept(tmp_path).keys() - shown.keys()
    assert len(extra) <= 12  # one that was written, and killed before it could be shown
    KeyStore(tmp_path).create("last")
    assert {path.name for path in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}
