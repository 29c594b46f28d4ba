"""What TLS towards clients costs: nginx and Fluxen, each with and without, in front of the same upstream, in one run.

As in gateway.py: CPU time of the proxy alone, short windows in turns, the least of each. Needs nginx, wrk, openssl,
taskset and two cores.

    python tests/bench/https.py [--seconds 1] [--rounds 5] [--connections 500]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gateway as rig
import load

UNARY, STREAM = 21180, 21181
PORTS = {"nginx": 21110, "nginx-tls": 21111, "fluxen": 21112, "fluxen-tls": 21113}
TLS_CONF = """
 server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host api.openai.com; proxy_set_header Authorization "Bearer sk-upstream";
  location / {{ proxy_pass http://unary; }} }} }}
"""
KEY = load.HEADERS["Authorization"].removeprefix("Bearer ")
YAML = """
server: {{bind_address: "127.0.0.1:{port}", max_connections: 20000{tls}}}
upstreams:
  openai: {{target_url: "http://127.0.0.1:{unary}", api_key: sk-upstream}}
api_keys:
  static: [{{id: bench, key: {key}}}]
log: {{requests: false}}
"""


def configure(folder: Path) -> dict[str, list[str]]:
    """The command of each proxy."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ports = {"unary": UNARY, "stream": STREAM}
    plain = rig.PROXY_CONF.format(folder=folder, port=PORTS["nginx"], **ports)
    both = plain.rstrip()[:-1] + TLS_CONF.format(folder=folder, port=PORTS["nginx-tls"])
    (folder / "px.conf").write_text(both)
    for name in ("fluxen", "fluxen-tls"):
        home = folder / name
        home.mkdir()
        for part in ("cert.pem", "key.pem"):
            (home / part).write_bytes((folder / part).read_bytes())
        tls = ", tls: {cert_file: cert.pem, key_file: key.pem}" if name == "fluxen-tls" else ""
        (home / "fluxen.yaml").write_text(YAML.format(port=PORTS[name], tls=tls, unary=UNARY, key=KEY))
    serve = [sys.executable, "-m", "fluxen_cli", "serve", "--config"]
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return {
        "nginx": [nginx, "-c", str(folder / "px.conf")],
        "fluxen": [*serve, str(folder / "fluxen" / "fluxen.yaml")],
        "fluxen-tls": [*serve, str(folder / "fluxen-tls" / "fluxen.yaml")],
    }


def worker_of(supervisor: int) -> int:
    """The child that answers: the one that has journal and connections."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        for child in rig.children(supervisor):
            with contextlib.suppress(OSError):
                names = [str(link.readlink()) for link in Path(f"/proc/{child}/fd").iterdir()]
                if any(name.endswith(".jnl") for name in names):
                    return child
        time.sleep(0.05)
    raise SystemExit("no worker")


def window(folder: Path, name: str, pid: int, seconds: float) -> dict[str, float]:
    headers = {**load.HEADERS, "Content-Type": "application/json"}
    del headers["Host"]
    script = folder / "wrk.lua"
    lines = "\n".join(f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items())
    body = load.MODEL_BODY.decode()
    script.write_text(rig.WRK.format(path="/v1/chat/completions", body=body, headers=lines, each=""))
    url = f"{'https' if name.endswith('tls') else 'http'}://127.0.0.1:{PORTS[name]}"
    command = ["wrk", "-t1", "-c32", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script), url]
    rig.pinned(0, command).communicate(timeout=60)  # connections' handshakes are not what is measured
    cpu, faults = rig.cpu_us(pid), rig.faults(pid)
    out, _ = rig.pinned(0, command).communicate(timeout=60)
    cpu, faults = rig.cpu_us(pid) - cpu, rig.faults(pid) - faults
    result = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])
    return {"cpu_us": cpu / result["requests"], "faults": faults / result["requests"], "errors": result["errors"]}


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def handshakes(name: str, pid: int, count: int) -> tuple[float, float]:
    """(bytes per idle connection that has been used once, CPU µs per connection: handshake, one request)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    asked = b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def one() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", PORTS[name]), 10)
        if name.endswith("tls"):
            sock = context.wrap_socket(sock)
        sock.sendall(asked)
        while b'"ok"}' not in sock.recv(65536):
            pass
        return sock

    held = [one() for _ in range(100)]
    before, cpu = resident(pid), rig.cpu_us(pid)
    held += [one() for _ in range(count)]
    used, cpu = (resident(pid) - before) / count, (rig.cpu_us(pid) - cpu) / count
    for sock in held:
        sock.close()
    return used, cpu


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--connections", type=int, default=500)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        (folder / "up.conf").write_text(rig.UPSTREAM_CONF.format(folder=folder, unary=UNARY, answer=rig.ANSWER))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        stack.enter_context(rig.running(rig.pinned(0, [nginx, "-c", str(folder / "up.conf")])))
        pids = {}
        for name, command in configure(folder).items():
            process = rig.pinned(1, command, {"FLUXEN_DATA_DIR": str(folder / name / "data")})
            stack.enter_context(rig.running(process))
            rig.wait_for(PORTS[name])
            pids[name] = process.pid if name == "nginx" else worker_of(process.pid)
        pids["nginx-tls"] = pids["nginx"]
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in PORTS}
        for _ in range(chosen.rounds):
            for name, windows in rounds.items():
                windows.append(window(folder, name, pids[name], chosen.seconds))
        for name, windows in rounds.items():
            best = min(windows, key=lambda one: one["cpu_us"])
            errors = sum(one["errors"] for one in windows)
            print(f"{name:12} {best['cpu_us']:6.1f} µs a request, {best['faults']:.2f} faults, {errors:.0f} errors")
        for name in ("fluxen", "fluxen-tls"):
            used, cpu = handshakes(name, pids[name], chosen.connections)
            print(f"{name:12} {used / 1024:6.1f} KB an idle connection, {cpu:.0f} µs to make one and ask once")


if __name__ == "__main__":
    main()
