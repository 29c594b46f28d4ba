"""`fluxen run` as a process: the command it runs is a real SDK, a shell or a script, before a provider of our own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import PATIENCE, Terminal
from gateway.proc import alive, children
from gateway.rig import Connection, Request, Upstream, answer, until
from sdk.provider import CACHED, INPUT, OUTPUT, TEXT, Provider
from shared import Fluxen

from fluxen.errors import ConfigError
from fluxen_cli import clients

RUN = [sys.executable, "-m", "fluxen_cli", "run"]

OPENAI = """
import openai
answer = openai.OpenAI(max_retries=0).chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}]
)
print(answer.choices[0].message.content)
"""
ANTHROPIC = """
import anthropic
with anthropic.Anthropic(max_retries=0).messages.stream(
    model="claude-sonnet-4-5", max_tokens=10, messages=[{"role": "user", "content": "x"}]
) as stream:
    print(stream.get_final_text())
"""
GEMINI = """
from google import genai
with genai.Client() as client:
    print(client.models.generate_content(model="gemini-2.5-flash", contents="x").text)
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    started = Provider()
    yield started
    started.close()
    assert not started.faults, started.faults


@pytest.fixture
def configured(provider: Provider, tmp_path: Path) -> Path:
    """A configuration whose gateway has a key for everything, and asks clients for one that nobody here has."""
    keys = {"openai": "sk-gw-openai", "anthropic": "sk-gw-anthropic", "gemini": "sk-gw-gemini"}
    upstreams = [f'  {name}: {{target_url: "{provider.url}", api_key: {key}}}' for name, key in keys.items()]
    path = tmp_path / "fluxen.yaml"
    text = ["server: {bind_address: '0.0.0.0:8080'}", "upstreams:", *upstreams]
    path.write_text("\n".join([*text, "api_keys: {static: [{id: someone, key: not-known-here-0123456789}]}", ""]))
    return path


@dataclass(frozen=True)
class Row:
    """A line of a summary in JSON."""

    model: str
    requests: int
    output_tokens: int | None
    cost_usd: str | None


def rows(summary: Path) -> list[Row]:
    found = json.loads(summary.read_text())["rows"]
    return [Row(row["model"], row["requests"], row["output_tokens"], row["cost_usd"]) for row in found]


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-W", "ignore", "-c", code]


# --- what SDKs find


@pytest.mark.parametrize(
    ("code", "model", "cost"),
    [
        (OPENAI, "gpt-4o-mini", "0.0000096"),  # 31 × $0.15 + 10 × $0.075 + 7 × $0.60 per million
        (ANTHROPIC, "claude-sonnet-4-5", "0.000201"),  # 31 × $3 + 10 × $0.30 + 7 × $15
        (GEMINI, "gemini-2.5-flash", "0.0000271"),  # 31 × $0.30 + 10 × $0.03 + 7 × $2.50
    ],
    ids=["openai", "anthropic", "gemini"],
)
def test_sdks_find_the_gateway_and_its_keys(
    fluxen: Fluxen, configured: Path, provider: Provider, tmp_path: Path, code: str, model: str, cost: str
) -> None:
    done = fluxen("run", "--json", "bill.json", "--tags", "a=b,c=d", "--project", "p1", *python(code))
    assert (done.returncode, done.stdout) == (0, f"{TEXT}\n"), done.stderr
    seen = provider.last
    assert clients.PLACEHOLDER not in str(seen.headers)
    assert "sk-gw-" in str(seen.headers)
    assert rows(tmp_path / "bill.json") == [Row(model, 1, OUTPUT, cost)]
    begun, *summary = done.stderr.splitlines()
    assert begun.startswith("fluxen: OpenAI, Anthropic and Gemini through http://127.0.0.1:")
    assert summary[0].startswith("fluxen: 1 request in ")
    assert summary[3].split()[:5] == [model, "1", str(INPUT), str(CACHED), str(OUTPUT)]
    # The command it ends with finds the same rows in the ledger of `fluxen serve`.
    again = summary[-1].partition("fluxen ")[2].split()
    report = json.loads(fluxen(*again, "--by", "project,tag:a,tag:c,model", "--json").stdout)
    (row,) = report["rows"]
    assert [row[name] for name in ("project", "tag:a", "tag:c", "model", "cost_usd")] == ["p1", "b", "d", model, cost]


def test_without_a_key_of_the_gateway_the_clients_own_goes_on(
    fluxen: Fluxen, provider: Provider, tmp_path: Path
) -> None:
    (tmp_path / "fluxen.yaml").write_text(f'upstreams: {{openai: {{target_url: "{provider.url}"}}}}\n')
    env = {"OPENAI_API_KEY": "sk-own-0123456789", "ANTHROPIC_BASE_URL": "http://elsewhere"}
    show = "import os; print(os.environ['ANTHROPIC_BASE_URL'], 'ANTHROPIC_API_KEY' in os.environ)"
    done = fluxen("run", *python(OPENAI + show), env=env)
    assert done.stdout == f"{TEXT}\nhttp://elsewhere False\n", done.stderr
    assert provider.last.header("authorization") == "Bearer sk-own-0123456789"
    assert "fluxen: OpenAI through" in done.stderr  # it speaks nothing else
    nothing = fluxen("run", *python(OPENAI))
    assert nothing.returncode == 1
    assert "OPENAI_API_KEY" in nothing.stderr  # the SDK asks for it: no placeholder that could not work
    assert "no request came through the gateway" in nothing.stderr


STRAGGLER = """
import os, pathlib, time, urllib.request
if os.fork() == 0:
    body = b'{"model":"gpt-4o-mini","messages":[]}'
    headers = {"Content-Type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
    os._exit(0)
pathlib.Path("command").write_text(str(os.getpid()))
while not pathlib.Path("asked").exists():
    time.sleep(0.01)
"""


def test_the_bill_waits_for_a_request_that_outlives_the_command(fluxen: Fluxen, tmp_path: Path) -> None:
    def answer_late(connection: Connection, _: Request) -> None:
        (tmp_path / "asked").touch()
        until(lambda: not alive(int((tmp_path / "command").read_text())), "the end of the command")
        time.sleep(1.5)  # a provider that takes its time: a bill drawn up at once would miss this
        connection.send(answer())

    upstream = Upstream()
    upstream.plays(answer_late)
    try:
        text = f'upstreams: {{openai: {{target_url: "{upstream.url}", api_key: sk-gw-openai}}}}\n'
        (tmp_path / "fluxen.yaml").write_text(text)
        done = fluxen("run", "--json", "bill.json", *python(STRAGGLER))
    finally:
        upstream.close()
    assert done.returncode == 0, done.stderr
    assert [(row.requests, row.output_tokens) for row in rows(tmp_path / "bill.json")] == [(1, 7)]


def test_errors_and_unknown_costs_are_said(fluxen: Fluxen, configured: Path, tmp_path: Path) -> None:
    code = OPENAI.replace("gpt-4o-mini", "my-own") + OPENAI.replace("gpt-4o-mini", "fail-429")
    done = fluxen("run", "--json", "bill.json", *python(code))
    assert done.returncode == 1
    bill = json.loads((tmp_path / "bill.json").read_text())
    assert (bill["exit_code"], bill["totals"]["unknown_cost"], bill["totals"]["cost_usd"]) == (1, 1, None)
    assert [(row["status"], row["requests"]) for row in bill["errors"]] == [(429, 1)]
    assert "cost unknown" in done.stderr
    assert "Errors: 1 × 429" in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("  my-own"))
    assert line.endswith("  unknown")
    assert "$0" not in line


# --- what belongs to the command


def test_stdin_and_stdout_are_the_commands(clean_env: dict[str, str], tmp_path: Path) -> None:
    text = "one\ntwo\n" * 50_000
    done = subprocess.run(
        [*RUN, "cat", "-"], input=text, env=clean_env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, text)
    assert "no request came through the gateway" in done.stderr
    quiet = subprocess.run([*RUN, "-q", "--", "sh", "-c", "echo on stderr >&2; exit 3"], env=clean_env, cwd=tmp_path,
                           capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (3, "", "on stderr\n")


def test_its_options_are_not_ours(fluxen: Fluxen) -> None:
    assert fluxen("run", "-q", "echo", "--json", "--", "-q").stdout == "--json -- -q\n"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL, ""),
        (["no-such-command"], 127, "error: there is no command no-such-command\nhint: is it installed"),
        (["plain"], 127, "error: there is no command plain\nhint: a file of the folder you are in is ./plain"),
        (["python app.py"], 127, "hint: without quotes around the whole"),
        (["./plain"], 126, "error: ./plain can't be run: Permission denied"),
        (["./headless"], 126, "error: ./headless can't be run: Exec format error"),
        (["./orphan"], 126, "what its first line (#!) names is not there"),
    ],
)
def test_exit_codes(fluxen: Fluxen, tmp_path: Path, command: list[str], code: int, said: str) -> None:
    for name, text, mode in (("plain", "x", 0o644), ("headless", "\0x", 0o755), ("orphan", "#!/no/such\n", 0o755)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    done = fluxen("run", "-q", "--", *command)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_before_it_starts(fluxen: Fluxen, tmp_path: Path) -> None:
    touch = ["--", "touch", "started"]
    (tmp_path / "fluxen.yaml").write_text("server: {port: 1}\n")
    done = fluxen("run", *touch)
    assert done.returncode == ConfigError.exit_code
    assert "fluxen.yaml:1:10: server.port: unknown field" in done.stderr
    assert fluxen("run", "--config", "none.yaml", *touch).returncode == ConfigError.exit_code
    (tmp_path / "fluxen.yaml").unlink()
    for arguments, said in (
        (["--tags", "a"], "'a' is no tag: write NAME=VALUE"),
        (["--team", ""], "printable ASCII"),
        (["--json", "no/such/folder"], "No such file or directory: no/such/folder"),
    ):
        done = fluxen("run", *arguments, *touch)
        assert done.returncode != 0
        assert said in done.stderr
    (tmp_path / "file").touch()
    done = fluxen("run", *touch, env={"FLUXEN_DATA_DIR": str(tmp_path / "file" / "x")})
    assert done.returncode == 1
    assert "can't make the data folder" in done.stderr
    assert not (tmp_path / "started").exists()


def test_verbose_shows_the_gateway_on_stderr(fluxen: Fluxen) -> None:
    done = fluxen("run", "-v", "--", "echo", "x")
    assert done.stdout == "x\n"
    assert "Point your application here:" in done.stderr


# --- signals

TRAP = "trap 'echo got {0}; exit 5' {0}; echo ready; while :; do sleep 0.02; done"


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "USR1"])
def test_signals_are_handed_on(clean_env: dict[str, str], tmp_path: Path, name: str) -> None:
    """Nobody has a terminal here, so whatever is sent to us is meant for it."""
    with subprocess.Popen([*RUN, "-q", "--", "sh", "-c", TRAP.format(name)], env=clean_env, cwd=tmp_path,
                          stdout=subprocess.PIPE, text=True, start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        out, _ = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == (f"got {name}\n", 5)


ASKS_AND_COUNTS = """
import signal, sys, tty
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
assert sys.stdin.isatty() and sys.stdout.isatty()
print("name?", flush=True)
name = sys.stdin.readline().strip()
print("hello", name, flush=True)
while not caught:
    signal.pause()
tty.setraw(0)
print("raw", flush=True)
byte = sys.stdin.buffer.read(1)
print("caught", len(caught), byte, flush=True)
sys.exit(9)
"""


def test_an_interactive_command_has_the_terminal(clean_env: dict[str, str], configured: Path) -> None:
    code = ASKS_AND_COUNTS.replace("sys.exit(9)", OPENAI + "sys.exit(9)")
    terminal = Terminal([*RUN, *python(code)], clean_env, configured.parent)
    terminal.wait_for("name?")
    terminal.type("Ada\n")
    terminal.wait_for("hello Ada")
    terminal.type("\x03")  # Ctrl-C: once, for the command; the gateway serves on
    terminal.wait_for("raw")
    terminal.type("\x03")  # now a byte as any other
    assert terminal.ends() == 9
    assert "caught 1 b'\\x03'" in terminal.said
    assert TEXT in terminal.said
    assert "fluxen: 1 request in" in terminal.said


def test_ctrl_c_ends_a_command_that_lets_it_and_the_bill_comes(clean_env: dict[str, str], configured: Path) -> None:
    code = OPENAI + "import time; print('sent', flush=True); time.sleep(600)"
    terminal = Terminal([*RUN, *python(code)], clean_env, configured.parent)
    terminal.wait_for("sent")
    terminal.type("\x03")
    assert terminal.ends() == 128 + signal.SIGINT
    assert "fluxen: 1 request in" in terminal.said


SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
_, status = os.waitpid(pid, os.WUNTRACED)
assert os.WIFSTOPPED(status), status
os.tcsetpgrp(0, os.getpgrp())
print("stopped", flush=True)
os.tcsetpgrp(0, pid)
os.killpg(pid, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    "how", ["os.kill(os.getpid(), signal.SIGSTOP)", "print('now', flush=True); signal.sigwait([signal.SIGCONT])"]
)
def test_a_stopped_command_gives_the_shell_back(clean_env: dict[str, str], tmp_path: Path, how: str) -> None:
    """By itself, as Claude Code does, or by Ctrl-Z; and fg wakes both."""
    # SIGCONT is blocked (it wakes all the same), or it could come before the wait for it
    code = f"import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT]); {how}; os._exit(4)"
    shell = [sys.executable, "-c", SHELL]
    terminal = Terminal([*shell, *RUN, "-q", *python(f"import sys; {code}")], clean_env, tmp_path)
    if "now" in how:
        terminal.wait_for("now")
        terminal.type("\x1a")
    terminal.wait_for("stopped")
    assert terminal.ends() == 4


# --- however it ends


def port_of(line: str) -> int:
    return int(line.partition("127.0.0.1:")[2].partition(";")[0])


def test_the_gateway_dies_with_it(clean_env: dict[str, str], configured: Path, fluxen: Fluxen) -> None:
    command = [*RUN, *python(OPENAI + "import time; time.sleep(600)")]
    with subprocess.Popen(command, env=clean_env, cwd=configured.parent,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        port = port_of(process.stderr.readline())
        answered = until(lambda: fluxen("sql", "select count(*) from requests", "--csv").stdout.endswith("\n1\n"), "it")
        assert answered
        started = children(process.pid)
        family = [*started, *(pid for child in started for pid in children(child))]
        assert len(family) >= 4  # the command, the gateway and its two children
        process.kill()
        (sleeper,) = (pid for pid in started if not children(pid))
        until(lambda: not any(alive(pid) for pid in family if pid != sleeper), "the gateway to end", PATIENCE)
        os.kill(sleeper, signal.SIGKILL)  # it had the test's own pipes
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    found = json.loads(fluxen("ledger", "verify", "--json").stdout)
    assert (found["ok"], found["rows"], found["in_flight"]) == (True, 1, 0)


MANY = """
import os, sys, urllib.request, json, concurrent.futures as futures
url, count = os.environ["OPENAI_BASE_URL"] + "/chat/completions", int(sys.argv[1])
body = json.dumps({"model": "gpt-4o-mini", "messages": []}).encode()
def ask(_):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", "Authorization": "Bearer k"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["x-fluxen-id"]
with futures.ThreadPoolExecutor(4) as pool:
    for id in pool.map(ask, range(count)):
        print(id, flush=True)
"""


def test_many_gateways_write_one_ledger(clean_env: dict[str, str], provider: Provider, tmp_path: Path) -> None:
    """`serve` and four runs at once, compacting all the time; one run is killed. Each answer is one row, never two."""
    settings = "ledger: {segment_seconds: 1, compact_seconds: 1}"
    upstream = f'openai: {{target_url: "{provider.url}", api_key: sk-gw}}'
    (tmp_path / "fluxen.yaml").write_text(f"{settings}\nupstreams: {{{upstream}}}\n")
    fluxen = [sys.executable, "-m", "fluxen_cli"]
    place: dict[str, Any] = {"env": clean_env, "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen([*fluxen, "serve", "--port", "0"], **place) as serving:
        assert serving.stdout is not None
        base = next(line for line in serving.stdout if "OPENAI_BASE_URL=" in line).strip().partition("=")[2]
        many = [sys.executable, "-c", MANY]
        beside = subprocess.Popen([*many, "200"], **{**place, "env": {**clean_env, "OPENAI_BASE_URL": base}})
        runs = [subprocess.Popen([*RUN, "-q", "--", *many, str(count)], **place) for count in (50, 100, 200)]
        doomed = subprocess.Popen([*RUN, "-q", "--", *many, "3000"], **place)
        assert doomed.stdout is not None
        seen = [doomed.stdout.readline() for _ in range(100)]
        killed = children(doomed.pid)
        doomed.kill()
        seen += [line for line in doomed.stdout if line.endswith("\n")]  # the command ends with its gateway
        doomed.communicate(timeout=PATIENCE)
        for process in (beside, *runs):
            out, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
            seen += out.splitlines(keepends=True)
        until(lambda: not any(alive(pid) for pid in killed), "what the killed run had started to end", PATIENCE)
        serving.terminate()
        serving.communicate(timeout=PATIENCE)
        assert serving.returncode == 0
    ids = [line.strip() for line in seen]
    assert len(ids) == len(set(ids)) >= 650
    asked = subprocess.run([*fluxen, "sql", "select id from requests", "--csv"], **place, check=True)
    written = asked.stdout.split()[1:]
    assert len(written) == len(set(written))
    assert set(ids) <= set(written)
    assert len(written) - len(ids) <= 4  # answered when nobody read any more: as many as the killed one had at work
    verified = json.loads(subprocess.run([*fluxen, "ledger", "verify", "--json"], **place, check=True).stdout)
    assert (verified["ok"], verified["problems"], verified["missing"], verified["in_flight"]) == (True, [], 0, 0)


# --- the environment, piece by piece

URL = "http://127.0.0.1:4711"
EVERY = {"openai": True, "anthropic": True, "gemini": True}


def test_variables_in_full() -> None:
    assert clients.environment({"PATH": "/bin"}, "python", URL, EVERY) == {
        "PATH": "/bin",
        "OPENAI_BASE_URL": f"{URL}/v1",
        "OPENAI_API_BASE": f"{URL}/v1",
        "OPENAI_API_KEY": clients.PLACEHOLDER,
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_API_KEY": clients.PLACEHOLDER,
        "GOOGLE_GEMINI_BASE_URL": URL,
        "GEMINI_API_KEY": clients.PLACEHOLDER,
    }
    own = {"OPENAI_API_KEY": "a", "ANTHROPIC_AUTH_TOKEN": "b", "GOOGLE_API_KEY": "c"}
    changed = clients.environment(own, "python", URL, EVERY)
    assert {name: value for name, value in changed.items() if not name.endswith(("_URL", "_BASE"))} == own
    claude = clients.environment({}, "/usr/bin/claude", URL, {"anthropic": True})
    assert claude == {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_AUTH_TOKEN": clients.PLACEHOLDER}
    assert clients.environment({}, "x", URL, {"anthropic": False}) == {"ANTHROPIC_BASE_URL": URL}


@pytest.mark.parametrize(
    ("env", "exempt"),
    [
        ({}, {}),
        ({"HTTP_PROXY": ""}, {}),
        ({"https_proxy": "http://p"}, {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}),
        ({"ALL_PROXY": "http://p", "no_proxy": "corp, .lan"}, {"no_proxy": "corp,.lan,127.0.0.1"}),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "*"}, {"NO_PROXY": "*"}),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "127.0.0.1,x"}, {"NO_PROXY": "127.0.0.1,x"}),
    ],
)
def test_no_proxy_comes_between(env: dict[str, str], exempt: dict[str, str]) -> None:
    assert clients.environment(env, "python", URL, {}) == env | exempt


def test_what_led_elsewhere_is_said() -> None:
    env = {"OPENAI_BASE_URL": "https://router.example/v1", "OPENAI_API_BASE": "https://api.openai.com/v1"}
    assert clients.replaced(env, {"openai": True}) == {"OPENAI_BASE_URL": "https://router.example/v1"}
    assert clients.replaced(env, {"gemini": True}) == {}
    env = {"OPENAI_BASE_URL": "https://me:secret@router.example/v1?key=secret"}
    assert clients.replaced(env, {"openai": True}) == {"OPENAI_BASE_URL": "https://…@router.example/v1"}
    assert clients.replaced({"OPENAI_BASE_URL": "https://api.openai.com.example"}, {"openai": True})


def test_codex_takes_arguments() -> None:
    """Codex 0.169 reads its URL from no variable, and a key from the environment only for a provider of one's own."""
    own = clients.arguments(["/opt/codex", "exec", "hi"], URL, {"openai": True}, {"OPENAI_API_KEY": "k"})
    provider = f'{{name="Fluxen",base_url="{URL}/v1",env_key="OPENAI_API_KEY",wire_api="responses"}}'
    assert own == [
        "/opt/codex", "-c", 'model_provider="fluxen"', "-c", f"model_providers.fluxen={provider}", "exec", "hi",
    ]  # fmt: skip
    login = clients.arguments(["codex"], URL, {"openai": False}, {})
    assert login == ["codex", "-c", f'openai_base_url="{URL}/v1"']
    assert clients.arguments(["codex"], URL, {"gemini": True}, {}) == ["codex"]
    assert clients.arguments(["claude", "codex"], URL, {"openai": True}, {}) == ["claude", "codex"]
