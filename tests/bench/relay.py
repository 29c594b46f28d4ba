"""The smallest honest relay on aiohttp, to compare with: python relay.py PORT UNARY_UPSTREAM STREAM_UPSTREAM

It does what a gateway must do at least: replace the credential, pass bodies on as they come, re-encode nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "authorization", "te", "upgrade"}


async def main() -> None:
    port, unary, stream = sys.argv[1:4]
    session = ClientSession(
        connector=TCPConnector(limit=0),
        auto_decompress=False,
        timeout=ClientTimeout(total=None),
        skip_auto_headers=["Accept-Encoding"],
    )

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        base = stream if request.path.startswith("/stream") else unary
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP]
        headers.append(("Authorization", "Bearer sk-upstream"))
        body = await request.read()
        async with session.request(request.method, base + request.path_qs, headers=headers, data=body) as answer:
            reply = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP:
                    reply.headers.add(name, value)
            with contextlib.suppress(ConnectionError):  # the load generator leaves when its time is up
                await reply.prepare(request)
                async for chunk in answer.content.iter_any():
                    await reply.write(chunk)
                await reply.write_eof()
            return reply

    runner = web.ServerRunner(web.Server(handle, access_log=None, handler_cancellation=True))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port), backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
