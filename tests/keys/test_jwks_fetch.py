"""Fetching key sets from real servers, good ones and others."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keys.signer import key_set, rsa_jwk, rsa_key
from keys.web import Answer, Authority, Web, reply

from fluxen.keys.jwks import LARGEST
from fluxen.keys.jwks_documents import cache_path
from fluxen.keys.jwks_fetch import Fetched, FetchError, fetch
from fluxen.keys.jwks_refresh import KeySetFetcher, Schedule, fetch_missing, refresh

DOCUMENT = key_set(rsa_jwk(rsa_key(), kid="one"))
SHORT = 0.3  # seconds, where no answer comes however long one waits

Start = Callable[..., Web]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(authority: Authority) -> Iterator[Start]:
    started: list[Web] = []

    def begin(answer: Answer = reply(DOCUMENT), *names: str, tls: bool = True) -> Web:  # noqa: B008 - makes nothing
        web = Web(answer, tls=authority.server(*(names or ("localhost", "127.0.0.1"))) if tls else None)
        started.append(web)
        return web

    yield begin
    for web in started:
        web.close()


def problem(url: str, context: ssl.SSLContext, seconds: float = 10.0, largest: int = LARGEST) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(url, context, seconds, largest)
    assert url in caught.value.message
    return caught.value.message.removeprefix(f"{url}: ")


def test_a_key_set(start: Start, authority: Authority) -> None:
    web = start()
    assert fetch(web.url("/a/jwks?v=1"), authority.client(), 10, LARGEST) == Fetched(DOCUMENT, None)
    head = web.heads[0].decode().lower()
    assert head.startswith("get /a/jwks?v=1 http/1.1\r\n")
    assert f"\r\nhost: localhost:{web.port}\r\n" in head and "accept-encoding: identity" in head
    plain = start(tls=False)
    assert fetch(plain.url(), authority.client(), 10, LARGEST).document == DOCUMENT


@pytest.mark.parametrize(
    ("headers", "max_age"),
    [
        ("Cache-Control: public, max-age=3600\r\n", 3600.0),
        ("cache-control: MAX-AGE=60, must-revalidate\r\nAge: 20\r\n", 40.0),
        ("Cache-Control: max-age=60\r\nAge: 100\r\n", 0.0),
        ("Cache-Control: no-store, max-age=60\r\n", 0.0),
        ("Cache-Control: no-cache\r\n", 0.0),
        ("Cache-Control: s-maxage=60\r\n", None),
        ("Cache-Control: max-age=\u00b2\r\n", None),
        ("Cache-Control: max-age=99999999999999999999\r\n", None),
        ("Cache-Control: max-age=-5\r\nAge: x\r\n", None),
    ],
)
def test_how_long_it_may_be_kept(start: Start, authority: Authority, headers: str, max_age: float | None) -> None:
    assert fetch(start(reply(DOCUMENT, headers=headers)).url(), authority.client(), 10, LARGEST).max_age == max_age


def test_whom_it_believes(start: Start, authority: Authority) -> None:
    assert "not trusted" in problem(start().url(), ssl.create_default_context())
    other = start(reply(DOCUMENT), "login.example.com")
    assert "not trusted" in problem(other.url(), authority.client())
    assert not start().heads and not other.heads
    assert problem(start(tls=False).url().replace("http:", "https:"), authority.client(), SHORT)


def chunked(document: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return lambda connection, _: connection.sendall(head + b"%x\r\n%b\r\n" % (len(document), document) + end)


def raw(answer: bytes) -> Answer:
    return lambda connection, _: connection.sendall(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(DOCUMENT, "404 Not Found"), "answered 404"),
        (reply(DOCUMENT, "500 Oh"), "answered 500"),
        (reply(DOCUMENT, "204 None"), "answered 204"),
        (reply(b"", "302 Found", "Location: https://attacker.example/\r\n"), "redirects are not followed"),
        (reply(DOCUMENT, length=len(DOCUMENT) + 1), ""),
        (reply(b"x" * 2000), "larger than 1000 bytes"),
        (chunked(b"x" * 2000), "larger than 1000 bytes"),
        (chunked(DOCUMENT, b""), ""),
        (raw(b""), ""),
        (raw(b"\0\1\2"), ""),
        (raw(b"SSH-2.0-x\r\n\r\n"), ""),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n"), ""),
        (raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n"), ""),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + b"x" * 2000), "larger"),
        (raw(b"HTTP/1.1 99 X\r\n\r\n"), ""),
    ],
)
def test_answers_that_are_none(start: Start, authority: Authority, answer: Answer, said: str) -> None:
    assert said in problem(start(answer).url(), authority.client(), largest=1000)


def test_a_whole_chunked_answer(start: Start, authority: Authority) -> None:
    assert fetch(start(chunked(DOCUMENT)).url(), authority.client(), 10, LARGEST).document == DOCUMENT


def test_nobody_there(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "refused" in problem(f"https://localhost:{port}/", authority.client()).lower()
    assert problem("https://nowhere.invalid/", authority.client())


def test_answers_that_never_end(start: Start, authority: Authority) -> None:
    """The limit is for all of it: a byte now and then doesn't prolong it."""

    def dribble(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX: ")
        while not select.select([connection], [], [], SHORT / 10)[0]:
            connection.sendall(b"y")

    assert "no whole answer" in problem(start(dribble).url(), authority.client(), SHORT)

    def dribble_body(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not select.select([connection], [], [], SHORT / 10)[0]:
            connection.sendall(b"y")

    assert "no whole answer" in problem(start(dribble_body).url(), authority.client(), SHORT)
    silent = start(lambda *_: silent.wait())
    assert "no whole answer" in problem(silent.url(), authority.client(), SHORT)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # its queue takes the connection, nobody the handshake
        assert "no whole answer" in problem(f"https://localhost:{deaf.getsockname()[1]}/", authority.client(), SHORT)


def test_a_proxy(start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    web = start()

    def tunnel(connection: socket.socket, _: bytes) -> None:
        with socket.create_connection(("127.0.0.1", web.port)) as further:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while True:
                for side in select.select([connection, further], [], [], 60)[0]:
                    piece = side.recv(65_536)
                    if not piece:
                        return
                    (further if side is connection else connection).sendall(piece)

    proxy = start(tunnel, tls=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
    assert fetch(web.url(), authority.client(), 10, LARGEST).document == DOCUMENT
    (asked,) = proxy.heads
    assert asked.startswith(b"CONNECT localhost:%d " % web.port) and b"Basic dXNlcjpwQHNz\r\n" in asked
    proxy.answer = reply(b"", "407 No")
    said = problem(web.url(), authority.client())
    assert "407" in said and "p@ss" not in said
    plain = start(tls=False)  # on this machine: nothing for a proxy, which would refuse it
    assert fetch(plain.url(), authority.client(), 10, LARGEST).document == DOCUMENT
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert fetch(web.url(), authority.client(), 10, LARGEST).document == DOCUMENT
    monkeypatch.setenv("NO_PROXY", "")
    for unusable in (
        "socks5://user:secret@127.0.0.1:1",
        "http://user:sec/secret@127.0.0.1:1",
        "http://[secret",
        "http://",
    ):
        monkeypatch.setenv("HTTPS_PROXY", unusable)
        with pytest.raises(FetchError, match="no http:// proxy") as caught:
            fetch(web.url(), authority.client(), 10, LARGEST)
        assert "sec" not in str(caught.value)


def test_what_was_fetched_is_kept(start: Start, authority: Authority, tmp_path: Path) -> None:
    web = start(reply(DOCUMENT, headers="Cache-Control: max-age=100\r\n"))
    data = tmp_path / "data"
    assert refresh(data, web.url(), authority.client(), 10) == 100
    kept = cache_path(data, web.url())
    assert kept.read_bytes() == DOCUMENT
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = kept.stat()
    os.utime(kept, (0, 0))
    refresh(data, web.url(), authority.client(), 10)
    assert kept.stat().st_ino == before.st_ino and kept.stat().st_mtime > 0
    for bad in (b"{}", b"<html>", key_set(), key_set(rsa_jwk(rsa_key(1024)))):
        web.answer = reply(bad)
        with pytest.raises(FetchError):
            refresh(data, web.url(), authority.client(), 10)
        assert kept.read_bytes() == DOCUMENT


def test_all_that_are_missing_are_fetched_at_once(start: Start, authority: Authority, tmp_path: Path) -> None:
    """Each waits for the other: one after the other, none would ever be answered."""
    both = threading.Barrier(2)

    def together(connection: socket.socket, head: bytes) -> None:
        both.wait(60)
        reply(DOCUMENT)(connection, head)

    webs = [start(together), start(together)]
    silent = start(lambda *_: silent.wait())
    missing = (*(web.url() for web in webs), silent.url(), start(reply(b"", "503 No")).url())
    said = fetch_missing(tmp_path, missing, authority.client, seconds=1.5)
    assert [line.partition(": ")[0] for line in said] == list(missing[2:])
    assert "answer within 1.5 s" in said[0] and "answered 503" in said[1]
    assert all(cache_path(tmp_path, web.url()).read_bytes() == DOCUMENT for web in webs)
    assert [thread for thread in threading.enumerate() if "one" in thread.name] == []
    for web in webs:
        web.close()
    assert fetch_missing(tmp_path, missing[:2], authority.client) == []  # neither the network nor the issuer


def test_when_each_is_due() -> None:
    schedule, now = Schedule(), 1e9
    assert schedule.next() is None and schedule.begin(now) is None
    schedule.follow(["a", "b", "c"], {"b": now - 100, "c": now + 1e6}, now)
    assert schedule.begin(now) == "a" and schedule.begin(now) is None  # a is new, b and c were fetched before
    assert schedule.next() == now + 500
    schedule.fetched("a", 3600, now)
    schedule.follow(["a", "c"], {}, now)
    assert schedule.next() == now + 600  # c: a date in the future is none
    schedule.ask("a", now + 10)
    assert schedule.begin(now + 29) is None
    assert schedule.begin(now + 30) == "a"
    schedule.fetched("a", 1e9, now + 30)
    schedule.follow(["a"], {}, now)
    assert schedule.next() == now + 30 + 86_400
    schedule.ask("a", now + 1000)  # nobody asked for long: at once
    schedule.ask("elsewhere", now + 1000)
    assert schedule.begin(now + 1000) == "a"
    waits = []
    for _ in range(7):
        schedule.failed("a", now)
        waits.append((schedule.next() or 0) - now)
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    schedule.fetched("a", 0, now)
    assert schedule.next() == now + 60
    schedule.failed("a", now)
    assert schedule.next() == now + 30


def test_the_fetcher(start: Start, authority: Authority, tmp_path: Path) -> None:
    """It fetches what is new, at once what is asked for, and says what is wrong, once."""
    said: list[str] = []
    heard = threading.Condition()

    def say(url: str, message: str) -> None:
        with heard:
            said.append(message)
            heard.notify()

    answered = threading.Semaphore(0)

    def counted(connection: socket.socket, head: bytes) -> None:
        reply(DOCUMENT)(connection, head)
        answered.release()

    web, broken = start(counted), start(reply(b"", "500 No"))
    fetcher = KeySetFetcher(tmp_path, authority.client, say)
    try:
        fetcher.follow((broken.url(), web.url()))
        with heard:
            assert heard.wait_for(lambda: said, 60)
        assert "answered 500" in said[0]
        assert answered.acquire(timeout=60)
        fetcher.ask("https://not.followed.example/")
        other = start(counted)
        fetcher.follow((web.url(), other.url()))
        assert answered.acquire(timeout=60)
        assert len(web.heads) == len(other.heads) == 1
    finally:
        fetcher.close()
    assert said == [message for message in said if message.startswith(broken.url())]
