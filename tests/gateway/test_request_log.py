"""The log of a running gateway: a line for each request, in JSON and on a terminal, and a gateway that nobody reads."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, PROVIDER_KEY, Client, Gateway, Upstream, answer, keyed, request, until
from shared import Fluxen

USAGE = (
    b'{"id":"c","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'
)
BODY = b'{"model":"gpt-4o-mini","messages":[]}'


def lines(server: Gateway, count: int) -> list[dict[str, Any]]:
    """The lines of requests, once there are so many."""
    return list(until(lambda: len(found := server.logged("request")) >= count and found, f"{count} lines of requests"))


def test_a_line_says_what_the_row_says(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(keyed(upstream))
    upstream.plays(answer(USAGE))
    got = server.ask(request(body=BODY))
    [line] = lines(server, 1)
    row = server.row(got)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert (line["level"], line["process"], line["id"]) == ("info", "worker 0", got.id)
    assert (line["client_ip"], line["method"], line["status"]) == ("127.0.0.1", "POST", 200)
    assert line["url"].endswith("/v1/chat/completions")
    assert line["duration_ms"] == row["latency_ms"]
    assert (line["bytes_in"], line["bytes_out"]) == (row["request_bytes"], row["response_bytes"])
    same = (
        "key_id",
        "route",
        "upstream",
        "credential",
        "ttfb_ms",
        "model",
        "input_tokens",
        "output_tokens",
        "attempts",
    )
    assert {name: line[name] for name in same} == {name: row[name] for name in same}
    assert line["model"] == "gpt-4o-mini-2024-07-18"
    assert (line["input_tokens"], line["output_tokens"]) == (1000, 200)
    assert str(line["cost_usd"]) == f"{row['cost_usd'].normalize():f}"


def test_every_row_has_one_line(gateway: StartGateway, upstream: Upstream) -> None:
    """Also what is refused, broken or left. What gets no row gets none."""
    server = gateway(keyed(upstream))
    asked = [server.ask(request(body=BODY)) for _ in range(20)]
    asked.append(server.ask(request(b"/v1/messages", body=b'{"model":"claude-sonnet-4-5"}')))
    server.ask(request(body=BODY, key=b"Authorization: Bearer nobody"))
    server.ask(b"GET / HTTP/1.1\r\n\r\n")
    rows = server.rows(21)
    written = lines(server, len(rows))
    assert sorted(line["id"] for line in written) == [str(row["id"]) for row in rows]
    for line, row in zip(sorted(written, key=lambda line: str(line["id"])), rows, strict=True):
        assert (line["status"], line.get("error")) == (row["status"], row["error"])
    assert {line["code"] for line in server.logged("refused")} >= {"invalid_api_key", "invalid_request"}
    assert all(line["client_ip"] == "127.0.0.1" for line in server.logged("refused"))


def test_nothing_that_opens_a_door_is_written(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(keyed(upstream))
    path = b"/v1/chat/completions?api_key=hidden-1&x=" + KEY.encode() + b"&y=sk-proj-0123456789abcdefghij&q=%1b%5bm"
    upstream.plays(answer(b'{"error":{"message":"bad key %b"}}' % PROVIDER_KEY.encode(), status=b"400 Bad Request"))
    server.ask(request(path, body=b'{"model":"%b"}' % PROVIDER_KEY.encode()))
    [line] = lines(server, 1)
    assert line["url"].endswith("?api_key=***&x=***&y=***&q=%1b%5bm")
    assert line["model"] == "***"
    for secret in ("hidden-1", KEY, PROVIDER_KEY, "sk-proj-0123"):
        assert secret not in server.stderr()


@pytest.mark.parametrize("wanted", ["warning", "requests=off"])
def test_no_lines_where_none_are_wanted(gateway: StartGateway, upstream: Upstream, wanted: str) -> None:
    server = gateway(keyed(upstream), env={"FLUXEN_LOG": wanted})
    server.ask(request(body=BODY))
    server.rows(1)
    server.stop()
    assert server.logged("request") == []


def test_a_reload_changes_what_is_logged(gateway: StartGateway, upstream: Upstream) -> None:
    """In every worker; secrets that came with it are masked, those that went still are."""
    text = keyed(upstream) + "log: {requests: false}\n"
    server = gateway(text, args=["--workers", "2"])
    server.ask(request(body=BODY))
    server.rows(1)
    file = server.folder / "fluxen.yaml"
    fresh = "sk-provider-of-a-later-day"
    file.write_text(text.replace("false", "true").replace(PROVIDER_KEY, fresh))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.logged("config_reloaded"), "the reload")
    path = f"/openai/v1/chat/completions?x={PROVIDER_KEY}&y={fresh}".encode()
    for _ in range(20):
        server.ask(request(path))
    assert {line["url"] for line in lines(server, 20)} == {"/openai/v1/chat/completions?x=***&y=***"}
    file.write_text(text.replace("requests: false", "level: error"))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: quiet(server), "the log to be quiet")


def quiet(server: Gateway) -> bool:
    """Whether a request leaves no line."""
    before = len(server.logged("request"))
    rows = len(server.rows())
    server.ask(request(body=BODY))
    server.rows(rows + 1)
    return len(server.logged("request")) == before


@contextmanager
def on_a_terminal(fluxen_env: dict[str, str], folder: Path, config: str) -> Iterator[tuple[int, int]]:
    """`fluxen serve` on a terminal of its own: (port, the terminal's other side)."""
    (folder / "fluxen.yaml").write_text(config)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0"],
        cwd=folder, env={**fluxen_env, "FLUXEN_DATA_DIR": str(folder / "data"), "TERM": "xterm"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        yield int(said.strip().rpartition(":")[2]), master
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()
        os.close(slave)
        os.close(master)


def shown(master: int, count: int) -> list[str]:
    """So many lines of a terminal."""
    got = b""
    deadline = time.monotonic() + 30
    while got.count(b"\n") < count and time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            got += os.read(master, 65536)
    return got.decode().splitlines()


@pytest.mark.parametrize("colour", [True, False])
def test_a_person_at_a_terminal(clean_env: dict[str, str], tmp_path: Path, upstream: Upstream, colour: bool) -> None:
    env = clean_env if colour else {**clean_env, "NO_COLOR": "1"}
    upstream.plays(answer(USAGE))
    with on_a_terminal(env, tmp_path, keyed(upstream)) as (port, master), Client(port) as client:
        assert client.ask(request(body=BODY)).status == 200
        assert client.ask(request(b"/v1/messages", body=b'{"model":"claude-sonnet-4-5"}')).status >= 400
        first, second = shown(master, 2)
    assert ("\x1b[32m200\x1b[0m" in first) is colour
    assert ("\x1b" in first + second) is colour
    plain = re.sub(r"\x1b\[[0-9]*m", "", first)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d 200 POST +\d+ms    1,000→200   \$0\.000270  /\S+  gpt-4o-mini-2024-07-18  \S+", plain
    )
    plain = re.sub(r"\x1b\[[0-9]*m", "", second)
    assert re.fullmatch(r"\d\d:\d\d:\d\d 404 POST +\d+ms {26,}/v1/messages  me  no_route", plain)


def test_a_terminal_that_is_stopped_stops_nothing(
    clean_env: dict[str, str], tmp_path: Path, upstream: Upstream
) -> None:
    """As with Ctrl-S, or a window that nobody drains."""
    with on_a_terminal(clean_env, tmp_path, keyed(upstream)) as (port, _master), Client(port) as client:
        for _ in range(600):
            assert client.ask(request(body=BODY)).status == 200


def test_nobody_reads_the_pipe(clean_env: dict[str, str], tmp_path: Path, upstream: Upstream) -> None:
    """Requests go on; whoever reads in the end gets whole lines."""
    (tmp_path / "fluxen.yaml").write_text(keyed(upstream))
    with subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", "serve", "--port", "0", "--workers", "2"],
        cwd=tmp_path, env={**clean_env, "FLUXEN_DATA_DIR": str(tmp_path / "data")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline().decode().strip().rpartition(":")[2])
        for _ in range(8):  # connections, so that both workers write
            with Client(port) as client:
                for _ in range(60):
                    assert client.ask(request(body=BODY)).status == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
    said = [json.loads(line) for line in err.splitlines()]
    assert len(said) > 100, "a pipe holds 64 KB"
    assert {line["event"] for line in said} - {"started", "stopping", "stopped"} == {"request"}


def test_run_keeps_the_terminal_for_the_command(fluxen: Fluxen, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "fluxen.yaml").write_text(keyed(upstream))
    done = fluxen("run", "-v", "--", sys.executable, "-c", ASK)
    assert done.stdout.strip() == "200"
    assert "Point your application here" in done.stderr, "what the gateway says"
    assert '"event"' not in done.stderr, "it speaks to a person"
    assert "/chat/completions" not in done.stderr


ASK = """
import os, urllib.request
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
ask = urllib.request.Request(url, b'{"model":"gpt-4o-mini"}', {"Content-Type": "application/json"})
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask) as answer:
    print(answer.status)
"""
