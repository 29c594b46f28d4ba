"""Rows of answers that told nothing of what they used, or broke off before they did: counted by a process of its own,
and said to be."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pytest
from gateway import proc
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    PROVIDER_KEY,
    Connection,
    Gateway,
    Request,
    Upstream,
    answer,
    chunked,
    request,
    until,
)

from fluxen.analyzer.estimates import Answer, estimate
from fluxen.gateway.silent import KEPT, LONG_HEAD, SMALL

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: {workers}, shutdown_timeout_ms: 3000}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
  anthropic: {{target_url: "{url}", api_key: "{provider}"}}
  own: {{target_url: "{url}", dialect: openai, api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""
QUESTION = json.dumps(
    {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Why is the sky blue, and the sun?"}]}
).encode()
WORDS = ["Light", " of", " short", " waves", " is", " scattered", " more", " than", " the", " rest", "."]
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def config(upstream: Upstream, workers: int = 1) -> str:
    return CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY, workers=workers)


def event(**delta: str) -> bytes:
    data = {"id": "c", "model": "gpt-4o-2024-08-06", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


EVENTS = [event(role="assistant", content=""), *(event(content=word) for word in WORDS)]
STOP = b'data: {"id":"c","model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
SILENT = [*EVENTS, STOP, DONE]
"""A stream without a word of what it used."""
TOKENS = 11
"""Of WORDS: one each, as OpenAI's tokenizers have them."""


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(config(upstream))


def expected(events: list[bytes], body: bytes = QUESTION, endpoint: str = "/v1/chat/completions") -> tuple[int, int]:
    told = estimate("openai", endpoint, "gpt-4o", body, Answer(b"".join(events), b"", len(b"".join(events)), True))
    return told.input, told.output


def test_a_stream_that_tells_nothing_is_counted(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(SSE + chunked(*SILENT))
    got = server.ask(request(body=QUESTION))
    assert (got.status, got.complete) == (200, True)
    assert got.body == b"".join(SILENT)
    row = server.row(got)
    assert (row["usage_source"], row["error"], row["finish"]) == ("estimated", None, "stop")
    assert (row["input_tokens"], row["output_tokens"]) == expected(SILENT)
    assert abs(row["output_tokens"] - TOKENS) <= 1
    assert 0 < row["usage_error"] < 1
    assert row["model"] == "gpt-4o-2024-08-06"
    assert row["cost_usd"] > 0


def test_it_is_counted_as_the_model_that_answered_counts(server: Gateway, upstream: Upstream) -> None:
    """Whatever the name was by which it was asked for."""
    body = QUESTION.replace(b'"gpt-4o"', b'"our-name-for-it"')
    upstream.plays(SSE + chunked(*SILENT))
    row = server.row(server.ask(request(body=body)))
    assert (row["model_asked"], row["model"]) == ("our-name-for-it", "gpt-4o-2024-08-06")
    assert (row["input_tokens"], row["output_tokens"]) == expected(SILENT, body)


def test_whoever_has_the_whole_answer_has_its_row(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(SSE + chunked(*SILENT))
    for _ in range(20):
        got = server.ask(request(body=QUESTION))
        assert got.complete
        [row] = server.query("SELECT usage_source FROM requests WHERE id = ?", [got.id])
        assert row["usage_source"] == "estimated"


def test_one_that_tells_is_not_counted(server: Gateway, upstream: Upstream) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    upstream.plays(SSE + chunked(*EVENTS, STOP, usage, DONE))
    row = server.row(server.ask(request(body=QUESTION)))
    assert (row["usage_source"], row["usage_error"]) == ("reported", None)
    assert (row["input_tokens"], row["output_tokens"]) == (3, 4)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_an_answer_that_is_no_stream(server: Gateway, upstream: Upstream, coding: str) -> None:
    import gzip

    told = {"model": "gpt-4o", "choices": [{"message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]}
    body = json.dumps(told).encode()
    if coding == "gzip":
        upstream.plays(answer(gzip.compress(body), headers=[b"Content-Encoding: gzip"]))
    else:
        upstream.plays(answer(body))
    row = server.row(server.ask(request(body=QUESTION)))
    assert row["usage_source"] == "estimated"
    assert row["input_tokens"] == expected([])[0]
    assert abs(row["output_tokens"] - TOKENS) <= 1


def test_a_request_that_was_compressed(server: Gateway, upstream: Upstream) -> None:
    import gzip

    upstream.plays(SSE + chunked(*SILENT))
    row = server.row(server.ask(request(body=gzip.compress(QUESTION), headers=[b"Content-Encoding: gzip"])))
    assert (row["usage_source"], row["input_tokens"]) == ("estimated", expected(SILENT)[0])


def test_a_server_of_ones_own_has_tokens_and_no_cost(server: Gateway, upstream: Upstream) -> None:
    upstream.plays(SSE + chunked(*SILENT))
    row = server.row(server.ask(request(b"/own/v1/chat/completions", body=QUESTION)))
    assert (row["usage_source"], row["cost_usd"]) == ("estimated", None)
    assert row["output_tokens"] > 0


def row_of(server: Gateway, number: str) -> dict[str, Any]:
    sql = "SELECT * FROM requests WHERE client_request_id = ?"
    [row] = until(lambda: server.query(sql, [number]), f"the row of {number}")
    return dict(row)


def test_a_client_that_leaves_pays_for_what_it_got(server: Gateway, upstream: Upstream) -> None:
    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + chunked(*EVENTS[:6]).removesuffix(b"0\r\n\r\n"))
        connection.drain()

    upstream.plays(play)
    with server.connect() as client:
        client.send(request(body=QUESTION, headers=[b"x-client-request-id: leaves"]))
        data = b""
        while b"scattered" not in data and b" is" not in data:
            data += client.read()
    row = row_of(server, "leaves")
    assert (row["error"], row["usage_source"], row["finish"]) == ("client_closed", "estimated", None)
    assert (row["input_tokens"], row["output_tokens"]) == expected(EVENTS[:6])
    assert row["output_tokens"] == 5
    assert row["cost_usd"] > 0


def test_what_was_told_of_the_input_stands(server: Gateway, upstream: Upstream) -> None:
    start = {
        "type": "message_start",
        "message": {
            "model": "claude-sonnet-4-20250514",
            "usage": {"input_tokens": 25, "cache_read_input_tokens": 1000, "output_tokens": 1},
        },
    }
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "".join(WORDS) * 5}}
    events = [b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), json.dumps(e).encode()) for e in (start, delta)]

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + chunked(*events).removesuffix(b"0\r\n\r\n"))
        connection.drain()

    upstream.plays(play)
    body = b'{"model":"claude-sonnet-4-20250514","stream":true,"max_tokens":9,"messages":[]}'
    with server.connect() as client:
        client.send(request(b"/anthropic/v1/messages", body, headers=[b"x-client-request-id: told"]))
        data = b""
        while b"text_delta" not in data:
            data += client.read()
    row = row_of(server, "told")
    assert (row["error"], row["usage_source"]) == ("client_closed", "estimated")
    assert (row["input_tokens"], row["cache_read_tokens"]) == (25, 1000)
    assert 40 < row["output_tokens"] < 80
    assert 0 < row["usage_error"] < 0.1, "the input is known: only a part of it all is a guess"
    assert row["cost_usd"] > 0


def test_a_stream_that_ends_with_an_error(server: Gateway, upstream: Upstream) -> None:
    """To HTTP it is complete. What came before the error is billed."""
    start = {"type": "message", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 25, "output_tokens": 1}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lorem ipsum " * 20}}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events = [{"type": "message_start", "message": start}, text, error]
    data = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in events]
    upstream.plays(lambda connection, _: connection.send(SSE + chunked(*data)))
    body = b'{"model":"claude-sonnet-4-5","max_tokens":999,"stream":true,"messages":[]}'
    got = server.ask(request(b"/anthropic/v1/messages", body))
    assert got.complete
    [row] = server.query("SELECT * FROM requests WHERE id = ?", [got.id])
    assert (row["error"], row["usage_source"], row["input_tokens"]) == (None, "estimated", 25)
    assert 40 < row["output_tokens"] < 80
    assert row["cost_usd"] > 0


def test_an_upstream_that_breaks(server: Gateway, upstream: Upstream) -> None:
    """Its client sees the break when the row is there."""

    def play(connection: Connection, _: Request) -> None:
        connection.send(SSE + chunked(*EVENTS[:6]).removesuffix(b"0\r\n\r\n"))
        connection.reset()

    upstream.plays(play)
    got = server.ask(request(body=QUESTION))
    assert not got.complete
    [row] = server.query("SELECT * FROM requests WHERE id = ?", [got.id])
    assert (row["error"], row["usage_source"]) == ("upstream_broke", "estimated")
    assert row["output_tokens"] <= 5


@pytest.mark.parametrize(
    ("target", "body", "kind", "reply"),
    [
        (b"/openai/v1/audio/speech", QUESTION, b"audio/mpeg", b"ID3"),
        (b"/openai/v1/images/generations", QUESTION, b"application/json", b'{"data":[]}'),
        (b"/openai/v1/nobody/knows", QUESTION, b"application/json", b'{"text":"Light of short waves"}'),
    ],
)
def test_what_is_not_billed_by_tokens_is_not_counted(
    server: Gateway, upstream: Upstream, target: bytes, body: bytes, kind: bytes, reply: bytes
) -> None:
    upstream.plays(answer(reply, kind=kind))
    row = server.row(server.ask(request(target, body)))
    assert (row["usage_source"], row["input_tokens"], row["cost_usd"]) == ("unknown", None, None)


def test_half_of_an_answer_that_is_no_stream_stays_unknown(server: Gateway, upstream: Upstream) -> None:
    """All of it was generated, and billed: nobody knows how much that is."""

    def play(connection: Connection, _: Request) -> None:
        connection.send(answer(b'{"choices":[{"message":{"content":"Light of short')[:-10])
        connection.reset()

    upstream.plays(play)
    got = server.ask(request(body=QUESTION))
    assert server.row(got)["usage_source"] == "unknown"


def test_a_long_stream_is_counted_from_its_beginning_and_its_end(server: Gateway, upstream: Upstream) -> None:
    events = [event(content=" word") for _ in range(3000)]
    upstream.plays(SSE + chunked(*events, STOP, DONE))
    row = server.row(server.ask(request(body=QUESTION)))
    assert row["usage_source"] == "estimated"
    assert abs(row["output_tokens"] - 3000) < 3000 * row["usage_error"]


def test_a_large_prompt_holds_nobody_up(server: Gateway, upstream: Upstream) -> None:
    """While 3 MB are counted, which takes the counter some 100 ms, the worker answers others."""
    text = "".join(
        f"The {number}th of them is a{'b' * (number % 7)} thing, or {number * 7919}. " for number in range(60_000)
    )
    large = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    assert len(large) > 2_500_000
    gate = threading.Event()

    def play(connection: Connection, asked: Request) -> None:
        if len(asked.body) > 1000:
            connection.send(SSE + chunked(*SILENT))
            gate.set()
        else:
            connection.send(answer())

    upstream.plays(play)
    with server.connect() as client:
        client.send(request(body=large))
        assert gate.wait(30)
        quick = [server.ask(request()).status for _ in range(20)]
        got = client.answer()
    assert quick == [200] * 20
    assert got is not None
    row = server.row(got)
    assert row["usage_source"] == "estimated"
    assert row["input_tokens"] > 500_000


def test_the_counter_counts_and_no_worker(server: Gateway, upstream: Upstream) -> None:
    """The tables of a tokenizer are in the counter's memory alone."""
    upstream.plays(SSE + chunked(*SILENT))
    server.ask(request(body=QUESTION))
    children = server.children()
    assert "_tiktoken" not in proc.maps(children["worker 0"])
    used = {name: cpu(pid) for name, pid in children.items()}
    text = " ".join(str(number * 7919) for number in range(150_000))
    large = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    server.row(server.ask(request(body=large)))
    spent = {name: cpu(pid) - used[name] for name, pid in children.items()}
    assert spent["counter"] > 4 * spent["worker 0"]


def cpu(pid: int) -> int:
    """Clock ticks of CPU time."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# ── processes that die ───────────────────────────────────────────────────────────────────────────────────────────


def numbered(number: int) -> bytes:
    return request(body=QUESTION, headers=[b"x-client-request-id: %d" % number])


def sole_rows(server: Gateway, count: int) -> list[dict[str, Any]]:
    """The rows of requests 0 … count-1, each of which must have exactly one."""
    rows = [row for row in server.rows(at_least=count) if row["client_request_id"] is not None]
    assert sorted(int(row["client_request_id"]) for row in rows) == list(range(count))
    return rows


def test_the_counter_is_killed_under_load(gateway: StartGateway, upstream: Upstream) -> None:
    """Every answer is whole, and has its one row, counted or not."""
    server = gateway(config(upstream, workers=2))
    upstream.plays(SSE + chunked(*SILENT))
    server.ask(request(body=QUESTION))
    numbers = iter(range(200))
    complete: list[bool] = []
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            complete.append(server.ask(numbered(number)).complete)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    for so_many in (40, 100):
        until(lambda so_many=so_many: len(complete) >= so_many, f"{so_many} answers", 60)
        counters = until(lambda: proc.counters(server.process.pid), "a counter", 30)
        os.kill(counters[0], signal.SIGKILL)
    for thread in clients:
        thread.join()
    assert complete == [True] * 200
    rows = sole_rows(server, 200)
    assert {row["usage_source"] for row in rows} <= {"estimated", "unknown"}
    assert sum(row["usage_source"] == "estimated" for row in rows) > 150
    assert all(row["cost_usd"] is None for row in rows if row["usage_source"] == "unknown")
    assert len([line for line in server.logged("process_ended") if line["child"] == "counter"]) == 2
    server.kill()


def test_a_worker_is_killed_while_its_rows_are_counted(gateway: StartGateway, upstream: Upstream) -> None:
    """Its successor asks by the same line, and is not told of what it never asked."""
    server = gateway(config(upstream))
    silent = SSE + chunked(*SILENT)
    upstream.plays(silent)
    server.ask(request(body=QUESTION))
    [counter] = until(lambda: proc.counters(server.process.pid), "a counter")
    os.kill(counter, signal.SIGSTOP)
    end = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send(silent.removesuffix(b"0\r\n\r\n"))
        assert end.wait(30)
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    waiting = [server.connect() for _ in range(5)]
    for number, client in enumerate(waiting):
        client.send(numbered(number))
    for client in waiting:
        data = b""
        while DONE not in data:
            data += client.read()
    upstream.plays(silent, answer())
    end.set()
    with server.connect() as client:
        client.send(numbered(6))  # its row waits, too
        assert server.ask(numbered(5)).status == 200, "what came before this is through"
    os.kill(server.children()["worker 0"], signal.SIGKILL)
    for client in waiting:
        client.close()
    os.kill(counter, signal.SIGCONT)
    proc.workers(server.process.pid)
    upstream.plays(silent)
    until(lambda: server.ask(numbered(7)).status == 200, "the next worker to serve")
    rows = {int(row["client_request_id"]): row for row in sole_rows(server, 8)}
    assert [rows[number]["error"] for number in (0, 1, 2, 3, 4, 6)] == ["lost"] * 6
    assert (rows[5]["error"], rows[5]["usage_source"]) == (None, "reported")
    assert (rows[7]["error"], rows[7]["usage_source"]) == (None, "estimated")
    server.kill()


def test_the_gateway_ends_while_rows_are_counted(gateway: StartGateway, upstream: Upstream) -> None:
    """A counter that does not answer holds nothing up for long, and no row is lost."""
    server = gateway(config(upstream))
    upstream.plays(SSE + chunked(*SILENT))
    server.ask(request(body=QUESTION))
    [counter] = until(lambda: proc.counters(server.process.pid), "the counter to run")
    os.kill(counter, signal.SIGSTOP)
    clients = [server.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(numbered(number))
    for client in clients:
        data = b""
        while DONE not in data:
            data += client.read()
    server.process.send_signal(signal.SIGTERM)
    rows = {row["client_request_id"]: row for row in server.rows(at_least=4)}
    assert {rows[str(number)]["usage_source"] for number in range(3)} == {"unknown"}
    assert {rows[str(number)]["error"] for number in range(3)} == {None}
    os.kill(counter, signal.SIGCONT)
    server.stop()
    for client in clients:
        client.close()


def test_a_counter_that_is_slow_costs_a_row_its_count_and_no_more(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    upstream.plays(SSE + chunked(*SILENT))
    [counter] = until(lambda: proc.counters(server.process.pid), "a counter")
    os.kill(counter, signal.SIGSTOP)
    got = server.ask(request(body=QUESTION))
    assert got.complete
    row = server.row(got)
    assert (row["usage_source"], row["cost_usd"], row["finish"]) == ("unknown", None, "stop")
    until(lambda: server.logged("uncounted"), "a word of it in the log")
    os.kill(counter, signal.SIGCONT)
    until(lambda: server.row(server.ask(request(body=QUESTION)))["usage_source"] == "estimated", "it to count again")


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [100, 2_000, 20_000, 2_000_000])
def test_requests_of_any_size_are_kept_for_it(server: Gateway, upstream: Upstream, size: int) -> None:
    text = ("Sentence after sentence, until it is enough. " * (size // 40))[:size]
    body = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    upstream.plays(SSE + chunked(*SILENT))
    row = server.row(server.ask(request(body=body)))
    assert (row["usage_source"], row["request_bytes"]) == ("estimated", len(body))
    assert row["input_tokens"] == expected(SILENT, body)[0]


def test_what_was_kept_is_let_go_of(server: Gateway, upstream: Upstream) -> None:
    """After many a stream there is as much room for the next one."""
    upstream.plays(SSE + chunked(*SILENT))
    with server.connect() as client:
        for _ in range(KEPT // LONG_HEAD + 10):
            assert client.ask(request(body=QUESTION)).complete
    body = QUESTION.replace(b"Why is", b"Why, and tell me at length, " * 1000)
    assert len(body) > SMALL
    row = server.row(server.ask(request(body=body)))
    assert (row["usage_source"], row["input_tokens"]) == ("estimated", expected(SILENT, body)[0])


def test_beyond_what_may_be_kept_a_length_is_a_rough_guess(gateway: StartGateway, upstream: Upstream) -> None:
    """And for images, whose length tells nothing, no guess at all."""
    server = gateway(config(upstream))
    go_on = threading.Event()

    def play(connection: Connection, _: Request) -> None:
        connection.send((SSE + chunked(*SILENT)).removesuffix(b"0\r\n\r\n"))
        assert go_on.wait(60)
        connection.send(b"0\r\n\r\n")

    upstream.plays(play)
    text = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"content": "word " * 3_000_000}]}).encode()
    image = text.replace(b"word word word ", b";base64,iVBORw0", 1)
    clients = [server.connect() for _ in range(4)]
    for number, (client, body) in enumerate(zip(clients, (text, text, text, image), strict=True)):
        client.send(request(body=body, headers=[b"x-client-request-id: %d" % number]))
        data = b""
        while DONE not in data:
            data += client.read()
    go_on.set()
    rows = {row["client_request_id"]: row for row in server.rows(at_least=4)}
    for client in clients:
        client.close()
    tokens, error = (rows["0"][name] for name in ("input_tokens", "usage_error"))
    assert rows["2"]["usage_source"] == "estimated"
    assert rows["2"]["usage_error"] > error
    assert rows["2"]["usage_error"] > 0.3
    assert tokens / 3 < rows["2"]["input_tokens"] < tokens * 3
    assert rows["3"]["usage_source"] == "unknown"
