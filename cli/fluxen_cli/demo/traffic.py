"""The clients of the demo: a few for each team, each with a connection of its own, as fast as they are answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fluxen_cli.demo.cast import Request
from fluxen_cli.demo.provider import NUMBER
from fluxen_cli.demo.wire import head, read_body, read_head

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Seen:
    """What the clients have seen. Every answer carries the id of its row in the ledger."""

    answered: set[str] = field(default_factory=set)
    """Ids of complete answers, refusals included."""
    cut: list[str | None] = field(default_factory=list)
    """Requests whose connection broke: the id, if the head of the answer had come."""
    statuses: dict[int, int] = field(default_factory=dict)
    open: int = 0
    """Sent and not yet answered."""
    last_answer: float = 0.0


class Crowd:
    """Sends what is planned. `told` is called with each request that was answered."""

    def __init__(self, port: int, planned: dict[str, list[Request]], told: Callable[[Request], None]) -> None:
        self.seen = Seen()
        self._port = port
        self._left = {name: deque(requests) for name, requests in planned.items()}
        self._told = told

    async def talk(self, each: int) -> None:
        """Have `each` clients for every team send all there is."""
        async with asyncio.TaskGroup() as group:
            for team in self._left:
                for _ in range(each):
                    group.create_task(self._client(self._left[team]))

    async def _client(self, left: deque[Request]) -> None:
        connection: Connection | None = None
        try:
            while left:
                request = left.popleft()
                connection = connection or await self._connect()
                broken = await self._ask(connection, request)
                if broken:
                    connection[1].close()
                    connection = None
                    left.append(request)  # as an SDK would: once more
                else:
                    self._told(request)
        finally:
            if connection is not None:
                connection[1].close()

    async def _connect(self) -> Connection:
        """While a worker is being replaced, connections wait in the kernel's queue: none is refused."""
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _ask(self, connection: Connection, request: Request) -> bool:
        """Send one request and take its whole answer; whether the connection broke instead."""
        reader, writer = connection
        id: str | None = None
        self.seen.open += 1
        try:
            writer.write(_bytes(request))
            answer = await read_head(reader)
            if answer is None:
                self.seen.cut.append(None)
                return True
            id = answer.headers["x-fluxen-id"]
            async for _ in read_body(reader, answer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            self.seen.cut.append(id)
            return True
        finally:
            self.seen.open -= 1
        self.seen.answered.add(id)
        status = int(answer.first[1])
        self.seen.statuses[status] = self.seen.statuses.get(status, 0) + 1
        self.seen.last_answer = time.monotonic()
        return False


def _bytes(request: Request) -> bytes:
    """A request as the SDK of its protocol would send it."""
    model, key = request.model, request.team.key
    text = f"An invented question, number {request.number}"
    messages = [{"role": "user", "content": text}]
    content: dict[str, Any] = {"model": model.name, "stream": request.stream}
    credential = {"authorization": f"Bearer {key}"}
    match model.dialect:
        case "chat":
            path, content = "/v1/chat/completions", {**content, "messages": messages}
            if request.stream:
                content["stream_options"] = {"include_usage": True}
        case "responses":
            path, content = "/v1/responses", {**content, "input": text}
        case "messages":
            path, content = "/v1/messages", {**content, "max_tokens": 4096, "messages": messages}
            credential = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        case _:
            method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
            path = f"/v1beta/models/{model.name}:{method}"
            content = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
            credential = {"x-goog-api-key": key}
    body = json.dumps(content).encode()
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": "fluxen-demo",
        NUMBER: str(request.number),
        **credential,
    }
    return head(f"POST {path} HTTP/1.1", headers) + body
