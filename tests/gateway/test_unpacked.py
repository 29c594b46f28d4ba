"""A gateway that ends with its parent, and processes that need no file any more. packaging/smoke has the frozen one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gateway.rig import until

from fluxen.gateway import unpacked

PARENT = """
import os, sys, time
from pathlib import Path
from fluxen.config.load import load_config
from fluxen.gateway.server import serve

parent = os.getpid()
if os.fork() == 0:
    os.setsid()
    told = lambda snapshot, host, port: print(os.getpid(), port, flush=True)
    serve(load_config(Path(sys.argv[1]), os.environ), os.environ, told, parent=parent)
    os._exit(0)
time.sleep(100)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_the_gateway_ends_with_the_process_that_forked_it(tmp_path: Path) -> None:
    file = tmp_path / "fluxen.yaml"
    file.write_text(f'version: 1\ndata_dir: "{tmp_path}/data"\nserver: {{bind_address: "127.0.0.1:0", workers: 2}}\n')
    with subprocess.Popen([sys.executable, "-c", PARENT, str(file)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        supervisor, _port = (int(word) for word in parent.stdout.readline().split())
        children = [int(p) for p in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
        assert len(children) == 3  # two workers and the compactor
        parent.send_signal(signal.SIGKILL)
        for pid in (supervisor, *children):
            until(lambda pid=pid: gone(pid), f"the end of {pid}")


KEEPER = """
import os, select, sys
from fluxen.gateway import unpacked

life, held = os.pipe()
if os.fork() == 0:
    os.close(held)
    def body(stop):
        print("body", os.getpid(), flush=True)
        select.select([stop], [], [])
        print("told", os.getpid(), flush=True)
    unpacked.keep("body", body, life)
    print("kept", flush=True)
    os._exit(0)
os.close(life)
sys.stdin.read()
os.close(held)
os.wait()
"""


def test_what_is_kept_is_forked_again_and_ends_when_told() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        first = int(program.stdout.readline().removeprefix("body "))
        os.kill(first, signal.SIGKILL)
        second = int(program.stdout.readline().removeprefix("body "))
        assert second != first
        assert "body ended: starting again" in program.stderr.readline()
        program.stdin.close()
        assert program.stdout.read() == f"told {second}\nkept\n"
        assert program.wait(30) == 0


def test_an_installed_program_was_not_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert unpacked.folder() is None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "fluxen"))
    monkeypatch.setattr(sys, "_MEIPASS", str(tmp_path / "_internal"), raising=False)
    assert unpacked.folder() is None, "a frozen folder stays where it is"
    monkeypatch.setattr(sys, "_MEIPASS", "/tmp/_MEIabc")
    assert unpacked.folder() == Path("/tmp/_MEIabc")


def test_a_held_folder_is_locked_and_can_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "_MEI"
    folder.mkdir()
    held = unpacked.hold(folder)
    other = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / "file").write_text("x")
    unpacked.remove(folder)
    assert not folder.exists()
    os.close(held)
    os.close(other)
