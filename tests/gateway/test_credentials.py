"""Several keys of one provider: one that is refused is parked, and nobody notices as long as another works."""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import (
    KEY,
    OK,
    OK_BODY,
    Connection,
    Gateway,
    Play,
    Request,
    Upstream,
    answer,
    chunked,
    request,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.load import load_bytes
from fluxen.gateway.credentials import FIRST, MOST, TRIAL, Credential, Parking
from fluxen.gateway.routes import Upstream as Target
from fluxen.gateway.snapshot import build
from fluxen.gateway.state import State, running

KEYS = {name: f"sk-provider-{name}-fedcba9876543210" for name in ("main", "spare", "third")}
BODY = b'{"model":"m","stream":false}'
NO_KEY = b'{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}'
NOT_ALLOWED = b'{"error":{"message":"your account may not","code":"forbidden"}}'
REFUSED = answer(NO_KEY, status=b"401 Unauthorized")
FORBIDDEN = answer(NOT_ALLOWED, status=b"403 Forbidden")

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", credentials: [{credentials}]}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


def config(upstream: Upstream, *names: str) -> str:
    credentials = ", ".join(f'{{name: {name}, api_key: "{KEYS[name]}"}}' for name in names)
    return CONFIG.format(url=upstream.url, credentials=credentials, key=KEY)


class Provider:
    """Answers by the key that a request came with; `says` may be changed at any time."""

    def __init__(self, upstream: Upstream, **says: Play) -> None:
        self.says: dict[str, Play] = says
        self.upstream = upstream
        upstream.plays(self._play)

    def _play(self, connection: Connection, request: Request) -> None:
        play = self.says[key_of(request)]
        if callable(play):
            play(connection, request)
        else:
            connection.send(play)

    @property
    def asked(self) -> list[str]:
        """The names of the keys that requests came with, in order."""
        return [key_of(request) for request in self.upstream.requests]


def key_of(request: Request) -> str:
    (value,) = request.get(b"authorization") + request.get(b"x-goog-api-key")
    names = {key.encode(): name for name, key in KEYS.items()}
    return names[value.removeprefix(b"Bearer ")]


@pytest.fixture
def two(gateway: StartGateway, upstream: Upstream) -> Gateway:
    return gateway(config(upstream, "main", "spare"))


@pytest.fixture
def three(gateway: StartGateway, upstream: Upstream) -> Gateway:
    return gateway(config(upstream, "main", "spare", "third"))


# --- 401


def test_the_next_is_used(two: Gateway, upstream: Upstream) -> None:
    """The client sees one good answer, the ledger one row. Later requests don't knock where they were refused."""
    provider = Provider(upstream, main=REFUSED, spare=OK)
    with two.connect() as client:
        first = client.ask(request(body=BODY))
        second = client.ask(request(body=BODY))
    assert (first.status, first.body, second.status) == (200, OK_BODY, 200)
    assert provider.asked == ["main", "spare", "spare"]
    refused, accepted = upstream.requests[:2]
    assert refused.body == accepted.body == BODY
    assert refused.wire.replace(KEYS["main"].encode(), KEYS["spare"].encode()) == accepted.wire
    row, later = two.row(first), two.row(second)
    assert (row["credential"], row["attempts"], row["status"], row["error"]) == ("spare", 2, 200, None)
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 7, "reported")
    assert (row["request_bytes"], row["response_bytes"]) == (len(BODY), len(OK_BODY))
    assert row["overhead_us"] is not None and row["overhead_us"] <= row["latency_ms"] * 1000 + 1000
    assert (later["credential"], later["attempts"]) == ("spare", 1)
    (line,) = two.logged("parked")
    assert (line["upstream"], line["reason"].count("main"), line["reason"].count("401")) == ("openai", 1, 1)


def test_a_stream(two: Gateway, upstream: Upstream) -> None:
    events = [b'data: {"id":"x","model":"m-1"}\n\n', b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    Provider(upstream, main=REFUSED, spare=head + chunked(*events))
    got = two.ask(request(body=b'{"model":"m","stream":true}'))
    assert (got.status, got.body, got.complete) == (200, b"".join(events), True)


@pytest.mark.parametrize(
    "wire",
    {
        "large": answer(b" " * 300_000, status=b"401 Unauthorized"),
        "in chunks": b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(NO_KEY),
        "without an end": b"HTTP/1.1 401 Unauthorized\r\n\r\nno",
        "head alone, the body never comes": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n",
        "malformed behind the head": b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\nXYZ\r\n",
        "more than its answer": REFUSED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "continue before": b"HTTP/1.1 100 Continue\r\n\r\n" + REFUSED,
        "closing": answer(NO_KEY, status=b"401 Unauthorized", headers=[b"Connection: close"]),
    }.items(),
    ids=lambda case: case[0],
)  # fmt: skip
def test_whatever_the_refusal_looks_like(wire: tuple[str, bytes], two: Gateway, upstream: Upstream) -> None:
    """No byte of it reaches the client, and nobody waits for its end."""
    Provider(upstream, main=wire[1], spare=OK)
    with two.connect() as client:
        for _ in range(3):
            got = client.ask(request(body=BODY))
            assert (got.status, got.body, got.complete) == (200, OK_BODY, True)


def test_the_connection_of_a_refusal_is_used_again(two: Gateway, upstream: Upstream) -> None:
    """Its short body is read, wherever it was cut."""
    half = len(REFUSED) - 20
    may_end = threading.Event()

    def in_two(connection: Connection, _: Request) -> None:
        connection.send(REFUSED[:half])
        may_end.wait(15)
        connection.send(REFUSED[half:])

    def work(connection: Connection, _: Request) -> None:
        connection.send(OK)
        may_end.set()

    provider = Provider(upstream, main=in_two, spare=work)
    assert two.ask(request(body=BODY)).status == 200
    assert two.ask(request(body=BODY)).status == 200
    assert provider.asked == ["main", "spare", "spare"]
    until(lambda: two.ask(request(body=BODY)).status == 200 and len(upstream.connections) == 2, "no third connection")
    assert {one.connection.number for one in upstream.requests} <= {0, 1}


METHODS = {
    "GET": (request(b"/openai/v1/models", b"", method=b"GET", json=False), b"GET", OK),
    "HEAD": (request(b"/openai/v1/models", b"", method=b"HEAD", json=False), b"HEAD", OK[: -len(OK_BODY)]),
    "DELETE": (request(b"/openai/v1/files/x", b"", method=b"DELETE", json=False), b"DELETE", OK),
    "in chunks": (
        request(body=chunked(BODY[:5], BODY[5:]), length=False, headers=[b"Transfer-Encoding: chunked"]), b"POST", OK,
    ),
    "HTTP/1.0": (request(body=BODY, version=b"HTTP/1.0"), b"POST", OK),
    "unified": (request(b"/v1/chat/completions", BODY), b"POST", OK),
}  # fmt: skip


@pytest.mark.parametrize("case", METHODS)
def test_whatever_the_request_looks_like(case: str, two: Gateway, upstream: Upstream) -> None:
    wire, method, good = METHODS[case]
    refused = REFUSED[: -len(NO_KEY)] if method == b"HEAD" else REFUSED
    provider = Provider(upstream, main=refused, spare=good)
    got = two.ask(wire, method)
    assert (got.status, provider.asked) == (200, ["main", "spare"])
    assert upstream.requests[0].body == upstream.requests[1].body
    row = two.row(got)
    assert (row["credential"], row["attempts"]) == ("spare", 2)


def test_an_upload_is_not_repeated(two: Gateway, upstream: Upstream) -> None:
    """What is passed on as it comes is gone: its client sees the refusal, and the next one is well served."""
    provider = Provider(upstream, main=REFUSED, spare=OK)
    upload = request(
        b"/openai/v1/files", b"x" * 100_000, headers=[b"Content-Type: application/octet-stream"], json=False
    )
    got = two.ask(upload)
    assert (got.status, got.body) == (401, NO_KEY)
    assert two.row(got)["credential"] == "main"
    got = two.ask(upload)
    assert (got.status, provider.asked) == (200, ["main", "spare"])


def test_the_only_credential_is_never_parked(gateway: StartGateway, upstream: Upstream) -> None:
    """Its refusal reaches the client as it is, each time."""
    server = gateway(config(upstream, "main"))
    provider = Provider(upstream, main=REFUSED)
    for _ in range(2):
        got = server.ask(request(body=BODY))
        assert (got.status, got.body) == (401, NO_KEY)
        row = server.row(got)
        assert (row["credential"], row["attempts"], row["error"]) == ("main", 1, "upstream_status")
    provider.says["main"] = OK
    assert server.ask(request(body=BODY)).status == 200
    assert server.logged("parked") == []


def test_all_refused(three: Gateway, upstream: Upstream) -> None:
    """The last refusal is the client's. From then on one attempt a request, with the one that is due first; as soon as
    the provider takes it, it is used as before."""
    last = answer(b'{"error":"the third"}', status=b"401 Unauthorized")
    provider = Provider(upstream, main=REFUSED, spare=REFUSED, third=last)
    got = three.ask(request(body=BODY))
    assert (got.status, got.body) == (401, b'{"error":"the third"}')
    row = three.row(got)
    assert (row["credential"], row["attempts"], row["status"], row["error"]) == ("third", 3, 401, "upstream_status")
    got = three.ask(request(body=BODY))
    assert (got.status, got.body) == (401, NO_KEY)
    assert provider.asked == ["main", "spare", "third", "main"]
    provider.says["main"] = OK
    assert [three.ask(request(body=BODY)).status for _ in range(2)] == [200, 200]
    assert provider.asked[4:] == ["main", "main"]
    assert [line["upstream"] for line in three.logged("unparked")] == ["openai"]


# --- 403


def test_forbidden_is_parked_if_another_is_not(two: Gateway, upstream: Upstream) -> None:
    provider = Provider(upstream, main=FORBIDDEN, spare=OK)
    assert [two.ask(request(body=BODY)).status for _ in range(2)] == [200, 200]
    assert provider.asked == ["main", "spare", "spare"]


@pytest.mark.parametrize("other", [FORBIDDEN, answer(b"{}", status=b"503 Service Unavailable")], ids=["403", "503"])
def test_forbidden_whoever_asks(other: bytes, two: Gateway, upstream: Upstream) -> None:
    """It is the request that is refused then, or nobody knows: nothing is parked."""
    provider = Provider(upstream, main=FORBIDDEN, spare=other)
    statuses = [two.ask(request(body=BODY)).status for _ in range(2)]
    assert statuses == [int(other[9:12])] * 2
    assert provider.asked == ["main", "spare"] * 2


def test_forbidden_once_and_refused_once(three: Gateway, upstream: Upstream) -> None:
    provider = Provider(upstream, main=FORBIDDEN, spare=REFUSED, third=OK)
    got = three.ask(request(body=BODY))
    assert (got.status, three.row(got)["attempts"]) == (200, 3)
    assert three.ask(request(body=BODY)).status == 200
    assert provider.asked == ["main", "spare", "third", "third"]


# --- Gemini, which says 400

GEMINI = b'{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}'
WRONG = b'{"error":{"code":400,"message":"Invalid JSON payload received.","status":"INVALID_ARGUMENT"}}'
ASK = request(b"/gemini/v1beta/models/gemini-2.5-flash:generateContent", b'{"contents":[]}')


def bad(body: bytes, *headers: bytes) -> bytes:
    return answer(body, status=b"400 Bad Request", headers=headers)


def slowly(wire: bytes) -> Play:
    """Head and body apart, the body in two."""

    def play(connection: Connection, _: Request) -> None:
        head, body = wire[: wire.index(b"\r\n\r\n") + 4], wire[wire.index(b"\r\n\r\n") + 4 :]
        for piece in (head, body[:7], body[7:]):
            connection.send(piece)
            time.sleep(0.05)  # nothing waits for this: it makes three reads of it, mostly

    return play


CHUNKS = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n"


def and_close(wire: bytes) -> Play:
    def play(connection: Connection, _: Request) -> None:
        connection.send(wire)
        connection.close()

    return play


BAD_KEY: dict[str, Play] = {
    "at once": bad(GEMINI),
    "in pieces": slowly(bad(GEMINI)),
    "in chunks": CHUNKS + chunked(GEMINI[:20], GEMINI[20:]),
    "compressed": bad(gzip.compress(GEMINI), b"Content-Encoding: gzip"),
    "until the end of the connection": and_close(UNFRAMED + GEMINI),
}
OTHER: dict[str, tuple[Play, bytes]] = {
    "at once": (bad(WRONG), WRONG),
    "in pieces": (slowly(bad(WRONG)), WRONG),
    "in chunks": (CHUNKS + chunked(WRONG[:20], WRONG[20:]), WRONG),
    "compressed": (bad(gzip.compress(WRONG, mtime=0), b"Content-Encoding: gzip"), gzip.compress(WRONG, mtime=0)),
    "until the end of the connection": (and_close(UNFRAMED + WRONG), WRONG),
    "large": (bad(b"x" * 100_000 + GEMINI), b"x" * 100_000 + GEMINI),
    "empty": (bad(b""), b""),
}


@pytest.fixture
def gemini(gateway: StartGateway, upstream: Upstream) -> Gateway:
    return gateway(config(upstream, "main", "spare").replace("openai:", "gemini:"))


@pytest.mark.parametrize("case", BAD_KEY)
def test_gemini_says_400(case: str, gemini: Gateway, upstream: Upstream) -> None:
    provider = Provider(upstream, main=BAD_KEY[case], spare=OK)
    with gemini.connect() as client:
        got = client.ask(ASK)
        assert (got.status, got.body) == (200, OK_BODY)
        row = gemini.row(got)
        assert (row["credential"], row["attempts"], row["status"], row["error"]) == ("spare", 2, 200, None)
        assert client.ask(ASK).status == 200
    assert provider.asked == ["main", "spare", "spare"]


@pytest.mark.parametrize("case", OTHER)
def test_any_other_400_is_the_clients(case: str, gemini: Gateway, upstream: Upstream) -> None:
    """As it came, once, with its row."""
    play, body = OTHER[case]
    provider = Provider(upstream, main=play, spare=OK)
    for _ in range(2):
        got = gemini.ask(ASK)
        assert (got.status, got.body, got.complete) == (400, body, True)
        row = gemini.row(got)
        assert (row["credential"], row["attempts"], row["status"], row["error"]) == ("main", 1, 400, "upstream_status")
        assert row["response_bytes"] >= len(body)
    assert provider.asked == ["main", "main"]


def test_all_keys_of_gemini_are_wrong(gemini: Gateway, upstream: Upstream) -> None:
    Provider(upstream, main=bad(GEMINI), spare=bad(GEMINI))
    for attempts in (2, 1):
        got = gemini.ask(ASK)
        assert (got.status, got.body) == (400, GEMINI)
        assert gemini.row(got)["attempts"] == attempts


def test_a_400_that_breaks_off(gemini: Gateway, upstream: Upstream) -> None:
    Provider(upstream, main=and_close(bad(GEMINI)[:-5]), spare=OK)
    got = gemini.ask(ASK)
    assert (got.status, gemini.row(got)["error"]) == (502, "upstream_broke")


# --- what else may happen meanwhile


def test_other_errors_change_nothing(two: Gateway, upstream: Upstream) -> None:
    """400, 404, 429 and 500 are the client's business."""
    for status in (b"400 Bad Request", b"404 Not Found", b"429 Too Many Requests", b"500 Internal Server Error"):
        provider = Provider(upstream, main=answer(b"{}", status=status), spare=OK)
        assert two.ask(request(body=BODY)).status == int(status[:3])
        assert set(provider.asked) == {"main"}


def test_many_at_once(two: Gateway, upstream: Upstream) -> None:
    """Requests that were on their way when the key was withdrawn: not one of them fails, and it is parked once."""
    together = threading.Barrier(12)

    def refuse(connection: Connection, _: Request) -> None:
        together.wait(15)
        connection.send(REFUSED)

    provider = Provider(upstream, main=refuse, spare=OK)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: two.ask(request(body=BODY)), range(12)))
    assert [one.status for one in answers] == [200] * 12
    assert (provider.asked.count("main"), provider.asked.count("spare")) == (12, 12)
    assert len(two.logged("parked")) == 1
    assert two.ask(request(body=BODY)).status == 200
    assert provider.asked[-1] == "spare"


def test_the_client_leaves_between_the_attempts(two: Gateway, upstream: Upstream) -> None:
    asked = threading.Event()

    def wait(connection: Connection, _: Request) -> None:
        asked.set()
        connection.drain()

    Provider(upstream, main=REFUSED, spare=wait)
    client = two.connect()
    client.send(request(body=BODY))
    assert asked.wait(15)
    client.close()
    (row,) = two.rows(1)
    assert (row["status"], row["error"], row["credential"], row["attempts"]) == (499, "client_closed", "spare", 2)
    assert row["usage_source"] == "unknown"  # it may have been billed


@pytest.mark.parametrize("break_off", [Connection.close, Connection.reset], ids=["close", "reset"])
def test_the_second_attempt_breaks(break_off: Callable[[Connection], None], two: Gateway, upstream: Upstream) -> None:
    Provider(upstream, main=REFUSED, spare=lambda connection, _: break_off(connection))
    got = two.ask(request(body=BODY))
    assert got.status == 502
    row = two.row(got)
    assert (row["error"], row["credential"], row["attempts"]) == ("upstream_broke", "spare", 2)


def test_memory_for_bodies_is_given_back(gateway: StartGateway, upstream: Upstream) -> None:
    """A body that was sent twice takes its room once, and gives it back."""
    limited = config(upstream, "main", "spare").replace("server: {", 'server: {body_memory: "1MB", ')
    server = gateway(limited)
    Provider(upstream, main=FORBIDDEN, spare=FORBIDDEN)
    body = b'{"model":"m","x":"%b"}' % (b"x" * 700_000)
    assert [server.ask(request(body=body)).status for _ in range(4)] == [403] * 4


def test_a_reload_keeps_in_mind_what_is_parked(two: Gateway, upstream: Upstream) -> None:
    """Unless it is another key by then: that one is tried."""
    provider = Provider(upstream, main=REFUSED, spare=OK, third=OK)

    def reload(text: str) -> None:
        before = len(two.logged("config_reloaded"))
        (two.folder / "fluxen.yaml").write_text(text)
        until(lambda: len(two.logged("config_reloaded")) > before, "the reload")

    assert two.ask(request(body=BODY)).status == 200
    same = config(upstream, "main", "spare").replace("me,", "somebody,")
    reload(same)
    assert two.ask(request(body=BODY)).status == 200
    assert provider.asked == ["main", "spare", "spare"]
    until(lambda: [(one.credential, one.status) for one in states(two)[0].parked] == [("main", 401)], "the state file")
    reload(same.replace(KEYS["main"], KEYS["third"]))
    assert two.ask(request(body=BODY)).status == 200
    assert provider.asked[3:] == ["third"]
    until(lambda: not states(two)[0].parked, "the state file to forget it")


def states(gateway: Gateway) -> list[State]:
    """What commands on this machine are told of it."""
    return running(gateway.data_dir)


def test_each_worker_for_itself(gateway: StartGateway, upstream: Upstream) -> None:
    """Both find out; neither lets a client notice."""
    server = gateway(config(upstream, "main", "spare").replace("server: {", "server: {workers: 2, "))
    provider = Provider(upstream, main=REFUSED, spare=OK)
    until(
        lambda: server.ask(request(body=BODY)).status == 200 and len(states(server)[0].parked) == 2, "both to be asked"
    )
    assert provider.asked.count("main") == 2
    assert {row["status"] for row in server.rows(1)} == {200}


def test_no_key_is_written_anywhere(two: Gateway, upstream: Upstream) -> None:
    Provider(upstream, main=REFUSED, spare=FORBIDDEN)
    two.row(two.ask(request(body=BODY)))
    two.stop()
    everything = two.journal() + two.stderr().encode() + two.stdout().encode()
    for key in KEYS.values():
        assert key.encode() not in everything


# --- for how long: the rules alone, the clock is the test's


def target(credentials: str = "main,spare,third", url: str = "https://api.openai.com", values: str = "") -> Target:
    written = ", ".join(f"{{name: {name}, api_key: {name}{values}}}" for name in credentials.split(","))
    text = f"upstreams: {{openai: {{target_url: '{url}', credentials: [{written}]}}}}"
    return build(load_bytes(text.encode(), {}, None), {}).upstreams[0]


class Clock:
    """A Parking, the time it is told, and what it tells."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.now = 1000.0
        self.parking = Parking(lambda *message: self.told.append(message), lambda _kind, _text: None)

    def choose(self, upstream: Target, may_fail: bool = True) -> str:
        return self.parking.choose(upstream, self.now, may_fail).name

    def hear(self, upstream: Target, name: str, status: int, since: float | None = None) -> Credential | None:
        credential = next(one for one in upstream.credentials if one.name == name)
        when = self.now if since is None else since
        return self.parking.heard(upstream, credential, status, [], when, self.now, self.now + 500)

    def parked_for(self, upstream: Target, name: str) -> float:
        """Seconds until it is chosen again."""
        began = self.now
        while self.choose(upstream, may_fail=False) != name and not self._due(upstream, name):
            self.now += 1
        spent, self.now = self.now - began, self.now
        return spent

    def _due(self, upstream: Target, name: str) -> bool:
        return any(one.name == name and one.until <= self.now for one in self.parking.known.values())


def test_a_minute_then_two_up_to_an_hour() -> None:
    clock, upstream = Clock(), target()
    seconds: list[float] = []
    for _ in range(9):
        clock.hear(upstream, "main", 401)
        assert clock.choose(upstream) == "spare"
        seconds.append(clock.parked_for(upstream, "main"))
        assert clock.choose(upstream) == "main"
    assert seconds == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert clock.told[0] == ("parked", "openai", "main", 401, 1000 + 500 + FIRST)
    clock.hear(upstream, "main", 200, since=clock.now + 1)
    assert clock.told[-1] == ("unparked", "openai", "main")
    clock.hear(upstream, "main", 401)
    assert clock.parked_for(upstream, "main") == FIRST


def test_requests_on_their_way_count_once() -> None:
    clock, upstream = Clock(), target()
    for _ in range(12):
        clock.hear(upstream, "main", 401)
    assert len(clock.told) == 1
    assert clock.parked_for(upstream, "main") == FIRST


def test_one_request_tries_it_again() -> None:
    """The others wait for what it finds out; if it never says, another tries. One whose refusal its client would see
    is not made to."""
    clock, upstream = Clock(), target()
    clock.hear(upstream, "main", 401)
    clock.now += FIRST
    assert clock.choose(upstream, may_fail=False) == "spare"
    assert [clock.choose(upstream) for _ in range(3)] == ["main", "spare", "spare"]
    clock.now += TRIAL
    assert [clock.choose(upstream) for _ in range(2)] == ["main", "spare"]
    clock.hear(upstream, "main", 200, since=clock.now + 1)
    assert clock.choose(upstream) == "main"
    assert not clock.parking.known


def test_an_answer_from_before_does_not_count() -> None:
    """A request that came before the key was refused may be answered long after."""
    clock, upstream = Clock(), target()
    clock.hear(upstream, "main", 401)
    clock.hear(upstream, "main", 200, since=clock.now - 30)
    assert clock.choose(upstream) == "spare"


def test_reload() -> None:
    """The same key at the same place stays parked, under whatever name; another key, or place, begins anew."""
    clock, upstream = Clock(), target()
    clock.hear(upstream, "main", 401)
    clock.parking.retain([target()])
    assert clock.choose(target()) == "spare"
    for changed in (target(values="-new"), target(url="https://eu.api.openai.com")):
        assert clock.choose(changed) == "main"
    clock.parking.retain([target(values="-new")])
    assert clock.told[-1] == ("unparked", "openai", "main")
    assert not clock.parking.known


@given(st.lists(st.tuples(st.sampled_from(["main", "spare", "third"]), st.sampled_from([200, 401, 403, 429, 500]),
                          st.integers(0, 4000)), max_size=30), st.integers(0, 2**32))  # fmt: skip
def test_whatever_is_heard(events: list[tuple[str, int, int]], seed: int) -> None:
    """Nothing is parked for more than an hour, and what is parked is chosen only when nothing else is there."""
    clock, upstream, draw = Clock(), target(), random.Random(seed)
    for name, status, passed in events:
        clock.hear(upstream, name, status)
        clock.now += passed
        parked = {one.name: one for one in clock.parking.known.values()}
        assert all(one.until <= clock.now - passed + MOST for one in parked.values())
        waiting = {one.name for one in parked.values() if one.until > clock.now}
        chosen = clock.choose(upstream, may_fail=draw.random() < 0.5)
        if len(parked) < 3:
            assert chosen not in waiting


def test_a_repr_shows_no_key(tmp_path: Path) -> None:
    upstream = target(values="-secret-value")
    shown = repr(upstream) + repr(upstream.credentials) + repr(upstream.origin) + str(upstream.credentials[0])
    assert "secret-value" not in shown
    assert "main" in shown
