"""The executable serves, meters and reports. What a gateway does in detail is tested in tests/gateway."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
import pytest
import zstandard
from gateway import proc
from gateway.rig import Connection, Request, Upstream, answer, request, until

from fluxen.analyzer.prices import PriceBook

if TYPE_CHECKING:
    from packaging.smoke.conftest import Configured, Fluxen, Serving

MODEL = "gpt-4o-mini"
BODY = b'{"model":"%b","stream":true,"stream_options":{"include_usage":true},"messages":[]}' % MODEL.encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORD = b'data: {"model":"%b","choices":[{"delta":{"content":"word"}}]}\n\n' % MODEL.encode()
LAST = (
    b'data: {"model":"%b","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":200}}\n\n' % MODEL.encode()
    + b"data: [DONE]\n\n"
)
JSON = (
    b'{"model":"%b","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":200}}'
    % MODEL.encode()
)


def cost() -> Decimal:
    """Of one such answer, by the prices in the source."""
    price = PriceBook.shipped().find("openai", MODEL, datetime.now(UTC))
    assert price is not None and price.rates.input and price.rates.output
    return Decimal(1000 * price.rates.input + 200 * price.rates.output).scaleb(-12)


def ask(serving: Serving) -> None:
    """One request that is answered in full."""
    with serving.connect() as client:
        found = client.ask(request(b"/v1/chat/completions", BODY, key=None))
        assert (found.status, found.complete) == (200, True), found.wire


def stream(serving: Serving, upstream: Upstream) -> None:
    """One request whose answer comes word by word: the upstream says the next only when the client has the last."""
    said = b""

    def play(connection: Connection, _: Request) -> None:
        connection.send(HEAD)
        for word in (WORD, WORD, WORD, LAST):
            connection.send(b"%x\r\n%b\r\n" % (len(word), word))
            until(lambda word=word: said.endswith(word), "the client to have what was said")
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    with serving.connect() as client:
        client.send(request(b"/v1/chat/completions", BODY, key=None))
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += client.read()
            said = raw.removesuffix(b"0\r\n\r\n").removesuffix(b"\r\n")
    assert raw.count(b"word") == 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_stream_stop_report(
    fluxen: Fluxen, upstream: Upstream, configured: Configured, how: signal.Signals
) -> None:
    serving = fluxen.serve(configured(upstream.url))
    stream(serving, upstream)
    serving.stop(how)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serving.port))

    found = fluxen.json("report", "costs", "--by", "model")
    assert [(row["model"], row["requests"]) for row in found["rows"]] == [(MODEL, 1)]
    assert Decimal(found["totals"]["cost_usd"]) == cost()
    assert fluxen.json("sql", "select status, stream, usage_source from requests")["rows"] == [[200, True, "reported"]]
    checked = fluxen.json("ledger", "verify")
    assert (checked["ok"], checked["rows"], checked["lost"], checked["missing"]) == (True, 1, 0, 0)
    fluxen.run("ledger", "export", "rows.csv")
    assert len((fluxen.elsewhere / "rows.csv").read_text().splitlines()) == 2
    assert fluxen.unpacked() == []


def test_report_while_it_serves(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    serving = fluxen.serve(configured(upstream.url))
    stream(serving, upstream)
    found = fluxen.json("report", "costs")
    assert found["totals"]["requests"] + found["in_flight"] == 1
    serving.stop()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress), ("zstd", zstandard.compress)],
)
def test_packed_answers_are_metered(
    fluxen: Fluxen, upstream: Upstream, configured: Configured, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    upstream.plays(answer(pack(JSON), headers=[b"Content-Encoding: " + encoding.encode()]))
    serving = fluxen.serve(configured(upstream.url))
    ask(serving)
    serving.stop()
    assert Decimal(fluxen.json("report", "costs")["totals"]["cost_usd"]) == cost()


def test_several_workers(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    """All of them serve; one that dies has a successor."""
    upstream.plays(answer(JSON))
    serving = fluxen.serve(configured(upstream.url), "--workers", "3")
    first = until(lambda: len(found := serving.workers()) == 3 and found, "three workers")
    for _ in range(30):
        ask(serving)
    os.kill(first[0], signal.SIGKILL)
    until(lambda: first[0] not in (now := serving.workers()) and len(now) == 3, "a successor")
    for _ in range(30):
        ask(serving)
    serving.stop()
    assert fluxen.json("report", "costs")["totals"]["requests"] == 60


def test_the_address_is_taken(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    serving = fluxen.serve(configured(upstream.url))
    done = fluxen.run("serve", "--port", str(serving.port), code=4)
    assert f"is in use by PID {serving.supervisor}" in done.stderr
    serving.stop()


def test_an_idle_worker_is_small(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    """At most 80 MB each, what it shares with the others included."""
    serving = fluxen.serve(configured(upstream.url), "--workers", "2")
    workers = until(lambda: len(found := serving.workers()) == 2 and found, "two workers")
    sizes = [proc.rss(pid) for pid in workers]
    assert max(sizes) <= 80e6, sizes
    serving.stop()


def test_nothing_is_written_beside_it(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    """A folder in /usr/lib or on a read-only file system does."""
    before = _contents(fluxen)
    serving = fluxen.serve(configured(upstream.url))
    stream(serving, upstream)
    serving.stop()
    fluxen.run("report", "costs")
    assert _contents(fluxen) == before


def _contents(fluxen: Fluxen) -> dict[str, int]:
    parts: list[Path] = [fluxen.binary]
    if not fluxen.one_file:
        parts += fluxen.binary.parent.rglob("*")
    return {str(path): path.stat().st_mtime_ns for path in parts}
