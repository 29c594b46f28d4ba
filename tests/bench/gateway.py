"""`make bench`: nginx, a minimal aiohttp relay and Fluxen in front of the same upstreams, in one run.

Upstreams and load run on core 0, the proxy that is measured on core 1. What counts is CPU time: the scheduler's account
of the proxy's threads (/proc/PID/task/*/schedstat) over the requests or chunks that went through. All proxies run all
the time and take turns in short windows, so that a machine whose speed drifts slows all of them; the figure of a proxy
is the median over its windows, a ratio is the median over the rounds. Absolute figures depend on the machine.

    relay   a body nobody looks into, an answer nobody meters: but routing, keys, both journal lines
    full    keys, route, peek, both journal lines, timeouts armed, metering, cost: a chat completion
    heads   the same, each request with a head that was never seen before
    stream  CPU per chunk of 40 streams of 100 chunks a second
    exact   the same on a unified route, where Fluxen asks for the usage and keeps the event with it back
    idle    memory per open stream of which one chunk was relayed
    quiet   the same on a unified route

Fluxen is measured without a line for each request, and, in `full` and `heads`, also with what costs something more:

    +log     a line for each request, into a file
    +keys    100,000 client keys in keys.json
    +limits  a key with models, routes, networks, upstreams and an end: every body is read strictly

Needs nginx, wrk (Debian packages of these names), taskset and two cores. Prints a table, writes JSON.

    python tests/bench/gateway.py [--seconds 2] [--rounds 5] [--json FILE] [--only nginx,fluxen,fluxen+keys]
                                  [--what full,stream]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import load

HERE = Path(__file__).parent
UNARY, STREAM = 21080, 21081
PORTS = {"nginx": 21100, "aiohttp": 21102, "fluxen": 21103, "fluxen+log": 21104, "fluxen+keys": 21105}
PORTS["fluxen+limits"] = 21106
MANY = 100_000
VARIED = ("full", "heads")
"""What is measured of every Fluxen; the rest of the plain one only."""
LIMITS = (
    ', models: ["gpt-4o*", "o3*"], routes: ["/v1/chat/*", "/openai/*"], networks: [127.0.0.0/8, 10.0.0.0/8],'
    " upstreams: [openai, stream], expires: 2099-01-31"
)
UNITS = {
    "relay": ("cpu_us", "CPU µs per request, relay"),
    "full": ("cpu_us", "CPU µs per request, full work"),
    "heads": ("cpu_us", "CPU µs per request, new heads"),
    "stream": ("cpu_us", "CPU µs per chunk"),
    "exact": ("cpu_us", "CPU µs per chunk, exact"),
    "idle": ("bytes", "bytes per idle stream"),
    "quiet": ("bytes", "bytes per idle stream, exact"),
}
_CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "lorem ipsum dolor sit amet " * 20, "refusal": None},
    "logprobs": None,
    "finish_reason": "stop",
}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-AbCdEf0123456789",
        "object": "chat.completion",
        "created": 1795369052,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [_CHOICE],
        "usage": {
            "prompt_tokens": 412,
            "completion_tokens": 118,
            "total_tokens": 530,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_0705bf87c0",
    }
)
UPSTREAM_CONF = """
daemon off; master_process off; pid {folder}/up.pid; error_log {folder}/up.err warn;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 64k;
 server {{ listen 127.0.0.1:{unary} backlog=4096; default_type application/json;
  add_header x-request-id req_0123456789abcdef0123456789abcdef; add_header openai-organization org-abcdef;
  add_header openai-processing-ms 412; add_header openai-version 2020-10-01;
  add_header x-ratelimit-limit-requests 10000; add_header x-ratelimit-limit-tokens 200000;
  add_header x-ratelimit-remaining-requests 9999; add_header x-ratelimit-remaining-tokens 199900;
  add_header x-ratelimit-reset-requests 8.64s; add_header x-ratelimit-reset-tokens 6ms;
  add_header cf-ray 8e0f0f0f0f0f0f0f-FRA; add_header strict-transport-security "max-age=31536000; includeSubDomains";
  location / {{ return 200 '{answer}'; }} }} }}
"""
PROXY_CONF = """
daemon off; master_process off; pid {folder}/px.pid; error_log {folder}/px.err warn;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 64k;
 upstream unary {{ server 127.0.0.1:{unary}; keepalive 256; keepalive_requests 100000000; }}
 upstream stream {{ server 127.0.0.1:{stream}; keepalive 4096; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{port} backlog=4096; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host api.openai.com; proxy_set_header Authorization "Bearer sk-upstream";
  location / {{ proxy_pass http://unary; }}
  location /stream {{ proxy_pass http://stream; proxy_buffering off; proxy_read_timeout 600s; }} }} }}
"""
FLUXEN_YAML = """
server: {{bind_address: "127.0.0.1:{port}", max_connections: 20000}}
upstreams:
  openai: {{target_url: "http://127.0.0.1:{unary}", api_key: sk-upstream}}
  stream: {{target_url: "http://127.0.0.1:{stream}", api_key: sk-upstream, dialect: openai, models: [none]}}
api_keys:
  static:
    - {{id: bench, key: fx-client-0123456789abcdef0123456789abcdef, team: research, project: bench{limits}}}
log: {{requests: {log}}}
"""
WRK = r"""
wrk.method = "POST"
wrk.path = "{path}"
wrk.body = [==[{body}]==]
{headers}
{each}
done = function(s, l, r)
  local errors = s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout + s.errors.status
  io.write(string.format("RESULT {{\"requests\":%d,\"us\":%d,\"p50\":%d,\"p99\":%d,\"errors\":%d}}\n",
    s.requests, s.duration, l:percentile(50), l:percentile(99), errors))
end
"""
NEW_HEADS = """
local n = 0
request = function()
  n = n + 1
  wrk.headers["X-Stainless-Trace"] = tostring(n)
  return wrk.format(nil, nil, wrk.headers, wrk.body)
end
"""


def pinned(
    core: int, command: list[str], env: dict[str, str] | None = None, errors: IO[bytes] | None = None
) -> subprocess.Popen[str]:
    """errors: where its stderr goes, if not where ours does."""
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command], text=True, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE,
        stderr=errors,
    )  # fmt: skip


def is_fluxen(proxy: str) -> bool:
    return proxy.startswith("fluxen")


def fluxen(folder: Path, proxy: str, ports: dict[str, int]) -> list[str]:
    """The command of a Fluxen in this folder, and what it needs there."""
    data = folder / "data"
    data.mkdir(parents=True)
    values = {"limits": LIMITS if proxy == "fluxen+limits" else "", "log": str(proxy == "fluxen+log").lower()}
    (folder / "fluxen.yaml").write_text(FLUXEN_YAML.format(port=PORTS[proxy], **ports, **values))
    if proxy == "fluxen+keys":
        hashes = (hashlib.sha256(f"fx-key-{number}".encode()).hexdigest() for number in range(MANY))
        entries = [
            {"id": f"key-{number}", "hash": f"sha256:{digest}", "team": f"team-{number % 100}"}
            for number, digest in enumerate(hashes)
        ]
        keys = data / "keys.json"
        keys.write_text(json.dumps({"version": 2, "keys": entries}))
        keys.chmod(0o600)
    return [sys.executable, "-m", "fluxen_cli", "serve", "--config", str(folder / "fluxen.yaml")]


def worker_of(supervisor: int) -> int:
    """The process that serves. The others work in the background and have no part in a request: they are put off the
    core that is measured."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = children(supervisor)
            workers = [pid for pid in found if holds_a_segment(pid)]
            if workers and len(found) > 1:
                for pid in found:
                    if pid not in workers:
                        os.sched_setaffinity(pid, {0})
                return workers[0]
        time.sleep(0.05)
    raise SystemExit("fluxen serve has no worker")


def holds_a_segment(pid: int) -> bool:
    """Whether it writes the ledger's journal, which only a worker does."""
    return any(str(link.readlink()).endswith(".jnl") for link in Path(f"/proc/{pid}/fd").iterdir())


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def cpu_us(pid: int) -> float:
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e3


def faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


def system_us(pid: int) -> float:
    """CPU time in the kernel, in steps of a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[12]) * 1e6 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@dataclass
class Bench:
    """Everything is running: pids are those of the processes that serve."""

    folder: Path
    seconds: float
    pids: dict[str, int]

    def measure(self, what: str, proxy: str) -> dict[str, float]:
        """One window."""
        if what in ("stream", "exact"):
            return self._stream(proxy, what == "exact")
        if what in ("idle", "quiet"):
            return self._idle(proxy, what == "quiet")
        kind = "application/octet-stream" if what == "relay" else "application/json"
        path = "/v1/chat/completions" if what != "relay" else "/openai/v1/files"
        self._wrk(proxy, path, kind, what == "heads", 0.5)
        pid = self.pids[proxy]
        cpu, system, fault = cpu_us(pid), system_us(pid), faults(pid)
        result = self._wrk(proxy, path, kind, what == "heads", self.seconds)
        cpu, system, fault = cpu_us(pid) - cpu, system_us(pid) - system, faults(pid) - fault
        count = result["requests"]
        return {
            "cpu_us": cpu / count,
            "system_us": system / count,
            "faults": fault / count,
            "busy": cpu / result["us"],
            "rps": count / result["us"] * 1e6,
            "p50_us": result["p50"],
            "p99_us": result["p99"],
            "errors": result["errors"],
        }

    def _wrk(self, proxy: str, path: str, kind: str, new_heads: bool, seconds: float) -> dict[str, float]:
        headers = {**load.HEADERS, "Content-Type": kind}
        del headers["Host"]
        script = self.folder / "wrk.lua"
        lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        each = NEW_HEADS if new_heads else ""
        script.write_text(WRK.format(path=path, body=load.MODEL_BODY.decode(), headers=lines, each=each))
        url = f"http://127.0.0.1:{PORTS[proxy]}"
        # wrk takes whole seconds only: a shorter run is interrupted, and still reports
        command = ["wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script), url]
        process = pinned(0, command)
        out, _ = process.communicate(timeout=seconds + 60)
        found = next((line for line in out.splitlines() if line.startswith("RESULT")), None)
        if found is None:
            raise SystemExit(f"wrk failed on {proxy}: {out}")
        return json.loads(found[7:])  # type: ignore[no-any-return]

    def _path(self, proxy: str, exact: bool) -> str:
        unified = "/v1/chat/completions" if exact else "/stream/v1/chat/completions"
        return unified if is_fluxen(proxy) else "/stream"

    def _stream(self, proxy: str, exact: bool) -> dict[str, float]:
        path = self._path(proxy, exact) + "?n=200&every_ms=10"
        script = str(HERE / "load.py")
        client = pinned(0, [sys.executable, script, "stream", str(PORTS[proxy]), path, "40", str(self.seconds)])
        assert client.stdout is not None
        client.stdout.readline()
        cpu = cpu_us(self.pids[proxy])
        result = json.loads(client.stdout.readline())
        cpu = cpu_us(self.pids[proxy]) - cpu
        client.wait(60)
        return {
            "cpu_us": cpu / result["events"],
            "events": result["events"],
            "events_per_read": result["events"] / result["reads"],
            "errors": result["bad"] + result["lost"],
        }

    def _idle(self, proxy: str, exact: bool) -> dict[str, float]:
        path = self._path(proxy, exact) + "?n=2&hold_ms=60000"
        script = str(HERE / "load.py")
        client = pinned(0, [sys.executable, script, "hold", str(PORTS[proxy]), path, "1000", str(self.pids[proxy])])
        out, _ = client.communicate(timeout=120)
        result = json.loads(out.splitlines()[-1])
        return {"bytes": result["per_stream"], "errors": 1200 - result["opened"], "resident": result["before"]}


@contextlib.contextmanager
def started(proxies: list[str], seconds: float) -> Iterator[Bench]:
    """Upstreams and proxies, each on its core."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "up.conf").write_text(UPSTREAM_CONF.format(folder=folder, unary=UNARY, answer=ANSWER))
        ports = {"unary": UNARY, "stream": STREAM}
        (folder / "px.conf").write_text(PROXY_CONF.format(folder=folder, port=PORTS["nginx"], **ports))
        unary, stream = f"http://127.0.0.1:{UNARY}", f"http://127.0.0.1:{STREAM}"
        commands = {
            "nginx": [nginx, "-c", str(folder / "px.conf")],
            "aiohttp": [sys.executable, str(HERE / "relay.py"), str(PORTS["aiohttp"]), unary, stream],
        }
        commands |= {proxy: fluxen(folder / proxy, proxy, ports) for proxy in proxies if is_fluxen(proxy)}
        stack.enter_context(running(pinned(0, [nginx, "-c", str(folder / "up.conf")])))
        stack.enter_context(running(pinned(0, [sys.executable, str(HERE / "upstream.py"), str(STREAM)])))
        wait_for(UNARY)
        wait_for(STREAM)
        pids = {}
        for proxy in proxies:
            errors = stack.enter_context((folder / f"{proxy}.err").open("ab"))
            process = pinned(1, commands[proxy], {"FLUXEN_DATA_DIR": str(folder / proxy / "data")}, errors)
            stack.enter_context(running(process))
            wait_for(PORTS[proxy])
            pids[proxy] = worker_of(process.pid) if is_fluxen(proxy) else process.pid
        time.sleep(0.5)
        yield Bench(folder, seconds, pids)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=2, help="length of a window")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path)
    options.add_argument("--only", default=",".join(PORTS))
    options.add_argument("--what", default="relay,full,heads,stream,exact,idle,quiet")
    chosen = options.parse_args()
    tools = ("nginx", "wrk", "taskset")
    missing = [tool for tool in tools if shutil.which(tool) is None and not Path(f"/usr/sbin/{tool}").exists()]
    if missing:
        raise SystemExit(f"the benchmark needs {', '.join(missing)}: install the packages of these names")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the proxy, one for load and upstream")
    proxies, kinds = chosen.only.split(","), chosen.what.split(",")
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {
        what: {proxy: [] for proxy in proxies if what in VARIED or "+" not in proxy} for what in kinds
    }
    with started(proxies, chosen.seconds) as bench:
        for what in kinds:
            for number in range(1 if what in ("idle", "quiet") else chosen.rounds):
                for proxy in rounds[what]:
                    result = bench.measure(what, proxy)
                    rounds[what][proxy].append(result)
                    shown = {key: round(value, 3) for key, value in result.items()}
                    print(f"round {number + 1} {what:6} {proxy:13} {shown}", file=sys.stderr, flush=True)
    report = summary(rounds)
    for what, by_proxy in report.items():
        cells = [
            f"{proxy} {figures['median']:.1f}" + (f" ({figures['ratio']:.2f} x nginx)" if "ratio" in figures else "")
            for proxy, figures in by_proxy.items()
        ]
        cells += [
            f"{proxy} {figures['faults']:.3f} faults" for proxy, figures in by_proxy.items() if "faults" in figures
        ]
        print(f"{UNITS[what][1]:30} " + "   ".join(cells))
    if chosen.json:
        chosen.json.write_text(json.dumps({"report": report, "rounds": rounds}, indent=1))


def summary(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per kind and proxy: the median and best window, and the median ratio to nginx in the same round."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    for what, by_proxy in rounds.items():
        unit = UNITS[what][0]
        report[what] = {}
        for proxy, windows in by_proxy.items():
            figures = {
                "median": statistics.median(window[unit] for window in windows),
                "best": min(window[unit] for window in windows),
                "errors": sum(window["errors"] for window in windows),
            }
            if "faults" in windows[0]:
                figures["faults"] = statistics.median(window["faults"] for window in windows)
            if proxy != "nginx" and "nginx" in by_proxy:
                pairs = zip(windows, by_proxy["nginx"], strict=True)
                figures["ratio"] = statistics.median(mine[unit] / other[unit] for mine, other in pairs)
            report[what][proxy] = figures
    return report


if __name__ == "__main__":
    main()
