"""A fast streaming upstream for the benchmark: python upstream.py PORT

The path says what to do: /…?n=200&every_ms=10 sends n events that far apart, hold_ms=60000 waits that long after the
first. The request body is read and dropped. One event is 200 bytes, as of a chat completion with one token.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

import uvloop

_TEXT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795369052,"model":"gpt-4o-mini-2024-07-18",'
    b'"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)
EVENT = _TEXT % (b"x" * (202 - len(_TEXT)))
USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o-mini-2024-07-18","choices":[],'
    b'"usage":{"prompt_tokens":412,"completion_tokens":200,"total_tokens":612}}\n\ndata: [DONE]\n\n'
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\nCache-Control: no-cache\r\nx-request-id: req_0123\r\nopenai-processing-ms: 111\r\n"
    b"openai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\n\r\n"
)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
LAST = b"%x\r\n%s\r\n0\r\n\r\n" % (len(USAGE), USAGE)


class Streamer(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.left = 0
        self.every = 0.0
        self.next = 0.0
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if not self.every and self.left:
            asyncio.get_running_loop().call_soon(self.tick)

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        low = self.received[:end].lower()
        at = low.find(b"content-length:")
        length = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.received) < end + 4 + length:
            return
        query = parse_qs(urlsplit(self.received.split(b" ", 2)[1].decode()).query)
        self.received = b""
        self.left = int(query.get("n", ["200"])[0]) - 1
        self.every = float(query.get("every_ms", ["0"])[0]) / 1000
        loop = asyncio.get_running_loop()
        assert self.transport is not None
        self.transport.write(HEAD + CHUNK)
        self.next = loop.time() + float(query.get("hold_ms", ["0"])[0]) / 1000 + self.every
        loop.call_at(self.next, self.tick)

    def tick(self) -> None:
        if self.transport is None:
            return
        if self.left <= 0:
            self.transport.write(LAST)
            return
        self.transport.write(CHUNK)
        self.left -= 1
        loop = asyncio.get_running_loop()
        if self.every:
            self.next += self.every
            loop.call_at(self.next, self.tick)
        elif not self.paused:
            loop.call_soon(self.tick)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Streamer, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
