"""Streaming load for the benchmark. Prints one line of JSON.

python load.py stream PORT PATH CONNECTIONS SECONDS   streams one after the other on each connection
python load.py hold PORT PATH CONNECTIONS PID         opens idle streams; memory of PID before and after
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

import uvloop

_MESSAGE = {"role": "user", "content": "lorem ipsum dolor sit amet " * 78}
MODEL_BODY = json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": [_MESSAGE]}).encode()
ELSEWHERE = MODEL_BODY.replace(b"gpt-4o-mini", b"none")
"""For the upstream that streams, where the model decides which."""
HEADERS = {
    "Host": "127.0.0.1",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 3.54.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "3.54.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "Authorization": "Bearer fx-client-0123456789abcdef0123456789abcdef",
}


def request(path: str, body: bytes = MODEL_BODY) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    return f"POST {path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def body_for(path: str) -> bytes:
    return ELSEWHERE if path.startswith("/v1/") else MODEL_BODY


class Client(asyncio.Protocol):
    """Reads streams; `state` counts events, reads and ends over all clients."""

    def __init__(self, raw: bytes, state: dict[str, int]) -> None:
        self.raw = raw
        self.state = state
        self.tail = b""
        self.first = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self.raw)

    def data_received(self, data: bytes) -> None:
        state = self.state
        if self.first:
            self.first = False
            state["opened"] += 1
            state["bad"] += not data.startswith(b"HTTP/1.1 200")
        state["reads"] += 1
        state["events"] += data.count(b'data: {"')
        self.tail = (self.tail + data)[-8:]
        if self.tail.endswith(b"0\r\n\r\n"):
            state["done"] += 1
            self.tail, self.first = b"", True
            if state["stop"]:
                self.transport.close()
            else:
                self.transport.write(self.raw)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state["lost"] += not self.state["stop"]


def fresh() -> dict[str, int]:
    return dict.fromkeys(("opened", "bad", "reads", "events", "done", "lost", "stop"), 0)


async def stream(port: int, path: str, connections: int, seconds: float) -> None:
    loop, state, raw = asyncio.get_running_loop(), fresh(), request(path, body_for(path))
    for _ in range(connections):
        await loop.create_connection(lambda: Client(raw, state), "127.0.0.1", port)
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.5)
    before, start = dict(state), time.monotonic()
    print("go", flush=True)
    await asyncio.sleep(seconds)
    measured = {name: state[name] - before[name] for name in state}
    measured["seconds"] = time.monotonic() - start  # type: ignore[assignment]
    state["stop"] = 1
    print(json.dumps(measured), flush=True)


def resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Rss:"))


async def hold(port: int, path: str, connections: int, pid: int) -> None:
    loop, state, raw = asyncio.get_running_loop(), fresh(), request(path, body_for(path))
    transports = []

    async def more(count: int) -> int:
        for _ in range(count):
            transport, _ = await loop.create_connection(lambda: Client(raw, state), "127.0.0.1", port)
            transports.append(transport)
        deadline = time.monotonic() + 10
        while state["opened"] < len(transports) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        return resident(pid)

    # The first streams pay for what is made once (arenas, tables): they are not counted.
    before = await more(200)
    after = await more(connections)
    state["stop"] = 1
    result = {"opened": state["opened"], "before": before, "after": after, "per_stream": (after - before) / connections}
    print(json.dumps(result))
    for transport in transports:
        transport.abort()


if __name__ == "__main__":
    gc.disable()
    what, port, path, connections, last = sys.argv[1:6]
    if what == "stream":
        uvloop.run(stream(int(port), path, int(connections), float(last)))
    else:
        uvloop.run(hold(int(port), path, int(connections), int(last)))
