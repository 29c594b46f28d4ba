"""`make bench`: nginx, a minimal aiohttp relay and Fluxen in front of the same upstreams, in one run.

Upstreams and load run on core 0, the proxy that is measured on core 1. CPU time is what counts: the scheduler's own
account of the proxy's threads (/proc/PID/task/*/schedstat) over the requests or chunks that went through; wall clock
only shows whether the core was ours. Ratios hold, absolute figures depend on the machine.

Needs nginx and wrk (Debian packages of these names) and two cores. Prints a table, writes JSON.

    python tests/bench/gateway.py [--seconds 5] [--rounds 3] [--json FILE] [--only fluxen,nginx]
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator
from pathlib import Path

import load

HERE = Path(__file__).parent
UNARY, STREAM = 21080, 21081
ANSWER = json.dumps(
    {
        "id": "chatcmpl-AbCdEf0123456789", "object": "chat.completion", "created": 1795369052, "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "lorem ipsum dolor sit amet " * 20, "refusal": None},
             "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 412, "completion_tokens": 118, "total_tokens": 530,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0},
        },
        "service_tier": "default", "system_fingerprint": "fp_0705bf87c0",
    }
)  # fmt: skip
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
    - {{id: bench, key: fx-client-0123456789abcdef0123456789abcdef, team: research, project: bench}}
"""
WRK = """
wrk.method = "POST"
wrk.path = "{path}"
wrk.body = [==[{body}]==]
{headers}
done = function(s, l, r)
  io.write(string.format("RESULT {{\\"requests\\":%d,\\"us\\":%d,\\"p50\\":%d,\\"p99\\":%d,\\"errors\\":%d}}\\n", s.requests,
    s.duration, l:percentile(50), l:percentile(99), s.errors.connect+s.errors.read+s.errors.write+s.errors.timeout+s.errors.status))
end
"""


def pinned(core: int, command: list[str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(["taskset", "-c", str(core), *command], text=True, **options)  # type: ignore[call-overload,no-any-return]


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


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


class Proxy:
    """One proxy under test. pid() finds the process that serves."""

    def __init__(self, name: str, port: int, command: list[str], pid: Callable[[int], int], env: dict[str, str] | None = None):
        self.name, self.port, self.command, self._pid, self.env = name, port, command, pid, env

    @contextlib.contextmanager
    def started(self) -> Iterator[int]:
        with running(pinned(1, self.command, env={**os.environ, **(self.env or {})}, stdout=subprocess.DEVNULL)) as process:
            wait_for(self.port)
            time.sleep(0.5)
            yield self._pid(process.pid)


def fluxen_worker(supervisor: int) -> int:
    """The worker; the compactor, which shares nothing with a request, is moved off the core that is measured."""
    compactor, worker = children(supervisor)[:2]
    os.sched_setaffinity(compactor, {0})
    return worker


def wrk(folder: Path, port: int, path: str, seconds: float, kind: str, body: bytes) -> dict[str, float]:
    headers = {**load.HEADERS, "Content-Type": kind}
    del headers["Host"]
    script = folder / "wrk.lua"
    script.write_text(
        WRK.format(path=path, body=body.decode(), headers="\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in headers.items()))
    )
    command = ["wrk", "-t1", "-c64", f"-d{seconds:g}s", "--latency", "-s", str(script), f"http://127.0.0.1:{port}"]
    out = subprocess.run(["taskset", "-c", "0", *command], text=True, capture_output=True, timeout=seconds + 30, check=True).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])  # type: ignore[no-any-return]


def measure_unary(
    folder: Path, proxy: Proxy, path: str, seconds: float, kind: str = "application/json", body: bytes = load.MODEL_BODY
) -> dict[str, float]:
    with proxy.started() as pid:
        wrk(folder, proxy.port, path, 1, kind, body)
        cpu, fault = cpu_us(pid), faults(pid)
        result = wrk(folder, proxy.port, path, seconds, kind, body)
        cpu, fault = cpu_us(pid) - cpu, faults(pid) - fault
    count = result["requests"]
    return {
        "cpu_us": cpu / count, "faults": fault / count, "busy": cpu / result["us"], "rps": count / result["us"] * 1e6,
        "p50_us": result["p50"], "p99_us": result["p99"], "errors": result["errors"],
    }  # fmt: skip


def measure_stream(proxy: Proxy, path: str, seconds: float) -> dict[str, float]:
    with proxy.started() as pid:
        command = [sys.executable, str(HERE / "load.py"), "stream", str(proxy.port), path + "?n=200&every_ms=10", "40", str(seconds)]
        client = pinned(0, command, stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.readline()
        cpu = cpu_us(pid)
        result = json.loads(client.stdout.readline())
        cpu = cpu_us(pid) - cpu
        client.wait(30)
    return {
        "cpu_us": cpu / result["events"], "events": result["events"], "events_per_read": result["events"] / result["reads"],
        "bad": result["bad"] + result["lost"],
    }  # fmt: skip


def measure_idle(proxy: Proxy, path: str, streams: int) -> dict[str, float]:
    with proxy.started() as pid:
        command = [sys.executable, str(HERE / "load.py"), "hold", str(proxy.port), path + "?n=2&hold_ms=60000", str(streams), str(pid)]
        out = subprocess.run(["taskset", "-c", "0", *command], text=True, capture_output=True, timeout=90, check=True).stdout
    result = json.loads(out.splitlines()[-1])
    return {"bytes": result["per_stream"], "streams": streams, "opened": result["opened"], "resident": result["before"]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=4)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path)
    options.add_argument("--only", default="nginx,aiohttp,fluxen")
    options.add_argument("--what", default="relay,full,stream,idle")
    chosen = options.parse_args()
    missing = [tool for tool in ("nginx", "wrk", "taskset") if shutil.which(tool) is None and not Path(f"/usr/sbin/{tool}").exists()]
    if missing:
        raise SystemExit(f"the benchmark needs {', '.join(missing)}: install the packages of these names")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the proxy, one for load and upstream")
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    only = chosen.only.split(",")
    what = chosen.what.split(",")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "up.conf").write_text(UPSTREAM_CONF.format(folder=folder, unary=UNARY, answer=ANSWER))
        (folder / "px.conf").write_text(PROXY_CONF.format(folder=folder, unary=UNARY, stream=STREAM, port=21100))
        (folder / "fluxen.yaml").write_text(FLUXEN_YAML.format(unary=UNARY, stream=STREAM, port=21103))
        proxies = {
            "nginx": Proxy("nginx", 21100, [nginx, "-c", str(folder / "px.conf")], lambda pid: pid),
            "aiohttp": Proxy(
                "aiohttp", 21102,
                [sys.executable, str(HERE / "relay.py"), "21102", f"http://127.0.0.1:{UNARY}", f"http://127.0.0.1:{STREAM}"],
                lambda pid: pid,
            ),
            "fluxen": Proxy(
                "fluxen", 21103, [sys.executable, "-m", "fluxen_cli", "serve", "--config", str(folder / "fluxen.yaml")],
                fluxen_worker, {"FLUXEN_DATA_DIR": str(folder / "data")},
            ),
        }  # fmt: skip
        stack.enter_context(running(pinned(0, [nginx, "-c", str(folder / "up.conf")])))
        stack.enter_context(running(pinned(0, [sys.executable, str(HERE / "upstream.py"), str(STREAM)])))
        wait_for(UNARY)
        wait_for(STREAM)
        rounds: dict[str, dict[str, list[dict[str, float]]]] = {kind: {proxy: [] for proxy in only} for kind in what}
        for number in range(chosen.rounds):
            for proxy in [proxies[name] for name in only]:
                full = "/v1/chat/completions"
                plain = "/openai/v1/files" if proxy.name == "fluxen" else "/v1/files"
                streamed = "/stream/v1/chat/completions" if proxy.name == "fluxen" else "/stream"
                for kind in what:
                    if kind == "relay":
                        opaque = {"kind": "application/octet-stream"}
                        result = measure_unary(folder, proxy, plain, chosen.seconds, **opaque)
                    elif kind == "full":
                        result = measure_unary(folder, proxy, full, chosen.seconds)
                    elif kind == "stream":
                        result = measure_stream(proxy, streamed, chosen.seconds)
                    else:
                        result = measure_idle(proxy, streamed, 1000)
                    rounds[kind][proxy.name].append(result)
                    shown = {key: round(value, 2) for key, value in result.items()}
                    print(f"round {number + 1} {kind:6} {proxy.name:8} {shown}", file=sys.stderr, flush=True)
    report = summary(rounds)
    for line in report["table"]:
        print(line)
    if chosen.json:
        chosen.json.write_text(json.dumps({"report": report, "rounds": rounds}, indent=1))


def summary(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, object]:
    """Medians over the rounds, and ratios to nginx."""
    units = {"relay": "cpu_us", "full": "cpu_us", "stream": "cpu_us", "idle": "bytes"}
    names = {"relay": "CPU µs per request, relay", "full": "CPU µs per request, full work", "stream": "CPU µs per chunk",
             "idle": "bytes per idle stream"}  # fmt: skip
    table, figures = [], {}
    for kind, by_proxy in rounds.items():
        medians = {proxy: statistics.median(r[units[kind]] for r in results) for proxy, results in by_proxy.items()}
        figures[kind] = medians
        base = medians.get("nginx")
        cells = [f"{proxy} {value:8.1f}" + (f" ({value / base:5.2f} x)" if base else "") for proxy, value in medians.items()]
        if kind in ("relay", "full"):
            cells += [f"faults/request {p} {statistics.median(r['faults'] for r in rs):.3f}" for p, rs in by_proxy.items()]
        table.append(f"{names[kind]:32} " + "  ".join(cells))
    return {"table": table, "figures": figures}


if __name__ == "__main__":
    main()
