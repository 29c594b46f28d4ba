"""A provider that answers from a script: OpenAI's, Anthropic's and Gemini's protocols on one port of this machine.

What it answers to a request, how long it takes and whether it fails depends on the request alone, so every show has
the same bill.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Mapping
from typing import Any

from fluxen_cli.demo.answers import Turn, error, events, turn, whole
from fluxen_cli.demo.cast import MODELS, Model
from fluxen_cli.demo.wire import chunk, head, read_body, read_head

NUMBER = "x-demo-request"
"""A header of the demo's clients that tells their requests apart; the gateway passes it on as any other."""

_PATHS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages"}
_GEMINI = re.compile(r"/v1beta/models/([^:]+):(generateContent|streamGenerateContent)")
_REFUSED, _BROKEN = 0.035, 0.05
"""Of all requests: 429, and (up to the second) 500."""


class Provider:
    """Serves in the running event loop."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._talking: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    def close(self) -> None:
        """Close everything, whether or not it was started."""
        for task in self._talking:
            task.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        try:
            while (request := await read_head(reader)) is not None:
                body = b"".join([piece async for piece in read_body(reader, request)])
                await _answer(writer, request.first[1].partition("?")[0], request.headers, json.loads(body))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # whoever asked has gone, or the show is over
        finally:
            self._talking.discard(task)
            writer.close()


def script(model: Model, number: str) -> tuple[int, Turn, random.Random]:
    """What becomes of a request: the status, what is said if that is 200, and dice for how long it takes."""
    dice = random.Random(f"{model.name} {number}")
    fate = dice.random()
    status = 429 if fate < _REFUSED else 500 if fate < _BROKEN else 200
    return status, turn(model, dice), dice


async def _answer(
    writer: asyncio.StreamWriter, path: str, headers: Mapping[str, str], content: Mapping[str, Any]
) -> None:
    gemini = _GEMINI.fullmatch(path)
    dialect = "gemini" if gemini else _PATHS[path]
    name = gemini[1] if gemini else str(content["model"])
    streamed = gemini[2].startswith("stream") if gemini else bool(content.get("stream"))
    dice = random.Random(f"{name} {headers.get(NUMBER)}")
    fate = dice.random()
    said = turn(MODELS[name], dice)
    await asyncio.sleep(dice.uniform(0.04, 0.16))
    if fate < _BROKEN:
        status = 429 if fate < _REFUSED else 500
        more = {"retry-after": "1"} if status == 429 else {}
        await _send(writer, status, json.dumps(error(dialect, status)).encode(), more)
    elif streamed:
        with_usage = bool((content.get("stream_options") or {}).get("include_usage"))
        await _stream(writer, dialect, name, said, with_usage, dice.uniform(0.008, 0.024))
    else:
        await asyncio.sleep(dice.uniform(0.05, 0.3))
        await _send(writer, 200, json.dumps(whole(dialect, name, said)).encode(), {})


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, more: Mapping[str, str]) -> None:
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    writer.write(head(f"HTTP/1.1 {status} Demo", headers) + body)
    await writer.drain()


async def _stream(
    writer: asyncio.StreamWriter, dialect: str, name: str, said: Turn, with_usage: bool, pause: float
) -> None:
    writer.write(head("HTTP/1.1 200 OK", {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
    for event in events(dialect, name, said, with_usage):
        writer.write(chunk(event))
        await writer.drain()
        await asyncio.sleep(pause)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
