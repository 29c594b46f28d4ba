"""A gateway that ends with its parent, and processes that need no file any more. packaging/smoke has the frozen one."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK_BODY, PROVIDER_KEY, Upstream, answer, request, until

from fluxen.gateway import unpacked
from fluxen.gateway.state import running

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
        assert len(children) == 4  # two workers, the compactor and the counter
        parent.send_signal(signal.SIGKILL)
        for pid in (supervisor, *children):
            until(lambda pid=pid: gone(pid), f"the end of {pid}")


KEEPER = """
import os, select, sys
from fluxen.gateway import unpacked
from fluxen.telemetry.log import Log

life, held = os.pipe()
if os.fork() == 0:
    os.close(held)
    def body(stop):
        print("body", os.getpid(), flush=True)
        select.select([stop], [], [])
        print("told", os.getpid(), flush=True)
    unpacked.keep(Log("body"), body, life)
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
        said = json.loads(program.stderr.readline())
        assert (said["process"], said["event"], said["reason"]) == ("body", "ended", "starting again")
        program.stdin.close()
        assert program.stdout.read() == f"told {second}\nkept\n"
        assert program.wait(30) == 0


def test_an_installed_program_was_not_unpacked() -> None:
    """Nor is a frozen folder, and one file is: packaging/smoke/test_first_run.py asks the executables."""
    assert unpacked.folder() is None


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


COUNTS = """
import os, sys, time
from fluxen.analyzer.estimates import hold
from fluxen.gateway import counter, questions, unpacked
from fluxen.telemetry.log import Log

lines = counter.Lines(1)
life, held = os.pipe()
if os.fork() == 0:
    os.close(held)
    lines.keep_only(None, counter=True)
    hold()
    def read(event, arguments):
        if event == "import" or (event == "open" and not str(arguments[0]).startswith("/proc")):
            os.write(1, f"{event} {arguments[0]}\\n".encode())
    sys.addaudithook(read)
    unpacked.keep(Log("counter"), lambda stop: counter.run(lines.of_counter, stop, Log("counter")), life)
    os._exit(0)
os.close(life)
line = lines.of_worker(0)
assert line.recv(100) == questions.HELLO
due = time.monotonic() + 100
for model in ("gpt-4o", "gpt-4o", "gpt-4"):
    body = b'{"messages":[{"role":"user","content":"' + b"Hello, world. " * 50_000 + b'"}]}'
    asked = questions.Question("openai", "/v1/chat/completions", model, due, len(body), 0, None, 2, 0, 2, False)
    for message in questions.messages(9, asked, [body, b"{}", b""]):
        line.send(message)
    assert questions.read_begun(line.recv(2000)) == 9
    number, counted = questions.read_counted(line.recv(2000))
    assert counted.input > 100_000, counted
os.close(held)
lines.close()
os.wait()
"""


def test_a_counter_needs_no_file_once_it_runs() -> None:
    """Not for any encoding, nor for a text that tiktoken is to count: of a one-file executable they may be gone."""
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]


SPY = """
import os, sys
told = os.open(os.environ["IMPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def spy(event, arguments):
    if event == "import":
        os.write(told, f"{os.getpid()} {arguments[0]}\\n".encode())
sys.addaudithook(spy)
"""
CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "http://localhost:{port}", api_key: "{provider}"}}
  nobody: {{target_url: "https://localhost:{dead}", dialect: openai, api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""
ASKED = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
SAID = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n'
ENCODED = {b"identity": OK_BODY, b"gzip": gzip.compress(OK_BODY), b"deflate": zlib.compress(OK_BODY),
           b"br": brotli.compress(OK_BODY), b"zstd": zstandard.compress(OK_BODY)}  # fmt: skip


def test_a_worker_imports_nothing_once_it_serves(tmp_path: Path, gateway: StartGateway, upstream: Upstream) -> None:
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    imports = tmp_path / "imports"
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
    config = CONFIG.format(port=upstream.port, dead=port, provider=PROVIDER_KEY, key=KEY)
    server = gateway(config, env={"PYTHONPATH": str(tmp_path / "spy"), "IMPORTS": str(imports)})
    before = imports.read_text()
    assert f"{server.process.pid} uvloop\n" in before

    for encoding, body in ENCODED.items():
        upstream.plays(lambda c, _, b=body, e=encoding: c.send(answer(b, headers=[b"Content-Encoding: " + e])))
        got = server.ask(request())
        assert (got.status, server.row(got)["usage_source"]) == (200, "reported")
    stream = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    upstream.plays(lambda c, _: c.send(answer(stream, kind=b"text/event-stream")))
    assert server.ask(request(body=b'{"model":"m","stream":true}')).status == 200
    upstream.plays(lambda c, _: c.send(answer(SAID, kind=b"text/event-stream")))
    assert server.row(server.ask(request(body=ASKED)))["usage_source"] == "estimated"
    upstream.plays(lambda c, _: c.reset())
    assert server.ask(request()).status == 502
    assert server.ask(request(b"/nobody/v1/chat/completions")).status == 502
    assert server.ask(request(key=b"Authorization: Bearer wrong")).status == 401
    assert server.ask(request(b"/openai/%2e%2e/x")).status == 400
    server.rows(at_least=len(ENCODED) + 4)

    worker = server.children()["worker 0"]
    late = imports.read_text().removeprefix(before)
    assert [line for line in late.splitlines() if line.startswith(f"{worker} ")] == []


def test_a_reload_imports_nothing_either(tmp_path: Path, gateway: StartGateway, upstream: Upstream) -> None:
    """Neither in a worker nor in the supervisor, whether it is taken up or refused: the files may be gone by then."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    imports = tmp_path / "imports"
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
    config = CONFIG.format(port=upstream.port, dead=port, provider=PROVIDER_KEY, key=KEY)
    server = gateway(config, env={"PYTHONPATH": str(tmp_path / "spy"), "IMPORTS": str(imports)})
    until(lambda: "watchdog.observers" in imports.read_text(), "the watcher to run")
    before = imports.read_text()
    pids = (server.process.pid, server.children()["worker 0"])
    file = server.folder / "fluxen.yaml"
    changed = config.replace("id: me", 'id: me, models: ["m*"], networks: [127.0.0.0/8], expires: 2099-01-01')
    [held] = running(server.data_dir)
    for number, text in enumerate((changed, changed.replace("https:", "httpss:"), "a: [", config), 1):
        file.write_text(text)
        os.kill(server.process.pid, signal.SIGHUP)
        until(
            lambda number=number: (
                (found := running(server.data_dir)[0]).attempts >= held.attempts + number
                and (found.rejected or found.applied == 1)
            ),
            "it to be looked at",
        )
        server.ask(request())
    assert running(server.data_dir)[0].generation == 3
    late = imports.read_text().removeprefix(before)
    assert [line for line in late.splitlines() if int(line.split()[0]) in pids] == []
