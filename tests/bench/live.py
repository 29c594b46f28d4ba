"""What following costs: CPU of `fluxen tail` and `fluxen top` beside a journal that gets so many requests a second.

    python tests/bench/live.py [--rate 1000] [--seconds 20] [--json FILE]

One process writes begin and end lines as a gateway does, of 40 models, keys and upstreams, some 30 open at any time;
segments rotate, and a compactor takes them in. The commands are processes of their own; their CPU is what the kernel
says (user and system), start-up and the question to the ledger apart.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id

COMMANDS = {
    "tail --json": ["tail", "--json", "-n", "0"],
    "tail": ["tail", "-n", "0"],
    "tail --filter": ["tail", "-n", "0", "--filter", "status>=500,model=gpt-4o*"],
    "top --json": ["top", "--json"],
    "top": ["top"],
}
SCREEN = "top"
RAW = '{"prompt_tokens":1111,"completion_tokens":57,"total_tokens":1168,"prompt_tokens_details":{"cached_tokens":1000}}'


def write(folder: Path, rate: int) -> None:
    """Requests at this rate until stdin ends."""
    journal = Journal(folder, "bench", 0)
    gone = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), gone.set()), daemon=True).start()
    running: list[Begin] = []
    due, number = time.perf_counter(), 0
    while not gone.is_set():
        for _ in range(rate // 100):
            number += 1
            kind = number % 40
            running.append(
                Begin(
                    new_id(), time.time_ns() // 1000, f"key-{kind}", "team", "project", {"env": "prod"}, None,
                    "OpenAI/Python 2.1.0", "unified", "/v1/chat/completions", "openai", f"upstream-{kind % 4}",
                    "openai", None, f"model-{kind}", True, 2048, None, "book-1",
                )
            )  # fmt: skip
            assert journal.begin(running[-1])
            if len(running) > 30:
                done = End.of(running.pop(0))
                done.status, done.attempts, done.model, done.finish = 200, 1, done.model_asked, "stop"
                done.input_tokens, done.cache_read_tokens, done.output_tokens = 111, 1000, 57
                done.usage_source, done.usage_raw, done.cost_pico = "reported", RAW, 125_850_000
                done.latency_ms, done.ttfb_ms, done.overhead_us, done.response_bytes = 830, 210, 95, 4096
                assert journal.end(done)
        journal.tick()
        due += 0.01
        time.sleep(max(0.0, due - time.perf_counter()))
    journal.close()


def cpu(pid: int) -> float:
    """Seconds of CPU of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, name: str, seconds: float) -> dict[str, float]:
    """Percent of one core, and MB, of a command that has come to rest."""
    env = {**os.environ, "FLUXEN_DATA_DIR": str(folder.parent), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "fluxen_cli", *COMMANDS[name]]
    if name == SCREEN:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(command[0], command, env)
        threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
    else:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        pid = process.pid
    try:
        time.sleep(4)
        before, began = cpu(pid), time.perf_counter()
        time.sleep(seconds)
        share = (cpu(pid) - before) / (time.perf_counter() - began)
        memory = int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return {"cpu_percent": round(100 * share, 2), "mb": round(memory, 1)}


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # its program has ended
        pass


def main(rate: int, seconds: float) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "ledger"
        this = [sys.executable, __file__, "--folder", str(folder)]
        writer = subprocess.Popen([*this, "--rate", str(rate)], stdin=subprocess.PIPE)
        compactor = subprocess.Popen([*this, "--compact"], stdin=subprocess.PIPE)
        try:
            time.sleep(2)
            return {name: measure(folder, name, seconds) for name in COMMANDS}
        finally:
            for process in (writer, compactor):
                process.communicate()


def compact(folder: Path) -> None:
    from fluxen.ledger.compactor import Compactor

    gone = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), gone.set()), daemon=True).start()
    compactor = Compactor(folder)
    while not gone.wait(2):
        compactor.step()
    compactor.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compact", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.compact:
        compact(given.folder)
    elif given.folder:
        write(given.folder, given.rate)
    else:
        figures = main(given.rate, given.seconds)
        for name, figure in figures.items():
            print(f"fluxen {name:15} {figure['cpu_percent']:6.2f} % of a core  {figure['mb']:6.1f} MB")
        if given.json:
            given.json.write_text(json.dumps(figures))
