"""What a key may use, asked of a real gateway: paths, models, networks, its end; and how guessing is slowed down."""

from __future__ import annotations

import functools
import gzip
import json
import posixpath
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, Answer, Gateway, Upstream, request, until
from gateway.test_form import FILE, MODEL, TYPE, part, whole
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.load import load_bytes
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.opening import Forward, Opening, Openings
from fluxen.gateway.snapshot import Snapshot, build

Upstreams = Callable[[str], Upstream]
SHORT = "a-word-of-mine"
KEYS = {
    "models": "models: ['gpt-5*', 'claude-*']",
    "routes": "routes: ['/v1/chat/*', '/openai/v1/emb*', '/v1/models']",
    "here": "networks: [127.0.0.0/8, '::1']",
    "there": "networks: [203.0.113.0/24]",
    "ended": "expires: 2020-01-01",
    "ends": "expires: 2999-01-01T00:00:00Z",
}
TOKENS = {name: f"fx-{name}-0123456789abcdef-as-long-as-generated" for name in KEYS}
CHAT = b"/v1/chat/completions"


def config(upstreams: Upstreams, server: str = "") -> str:
    keys = "".join(f'    - {{id: {name}, key: "{TOKENS[name]}", {more}}}\n' for name, more in KEYS.items())
    return f"""
version: 1
server: {{bind_address: "127.0.0.1:0", max_body: 1000000{server}}}
upstreams:
  openai: {{target_url: "{upstreams("openai").url}", api_key: sk-1}}
  anthropic: {{target_url: "{upstreams("anthropic").url}", api_key: sk-2}}
api_keys:
  static:
    - {{id: me, key: "{KEY}"}}
    - {{id: short, key: "{SHORT}"}}
{keys}"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstreams: Upstreams) -> Gateway:
    return shared_gateway(config(upstreams))


def bearer(token: str) -> bytes:
    return b"Authorization: Bearer " + token.encode()


def ask(server: Gateway, name: str, target: bytes = CHAT, body: bytes = b'{"model":"gpt-5"}', **more: object) -> Answer:
    method = more.get("method", b"POST")
    assert isinstance(method, bytes)
    return server.ask(request(target, body, key=bearer(TOKENS[name]), **more), method)  # type: ignore[arg-type]


def code(got: Answer) -> tuple[int, str]:
    return got.status, json.loads(got.body)["error"]["code"]


def test_an_end_and_networks(server: Gateway, upstreams: Upstreams) -> None:
    with server.connect() as client:
        for _ in range(3):  # also when the head is known
            for name in ("here", "ends", "models", "routes"):
                got = client.ask(request(CHAT, b'{"model":"gpt-5"}', key=bearer(TOKENS[name])))
                assert got.status == 200, name
    seen = len(upstreams("openai").requests)
    for _ in range(3):
        got = ask(server, "ended")
        assert code(got) == (401, "key_expired")
        assert got.get(b"x-should-retry") == [b"false"]
        got = ask(server, "there")
        assert code(got) == (403, "address_not_allowed")
        assert server.row(got)["key_id"] == "there"
    assert len(upstreams("openai").requests) == seen
    assert {row["key_id"] for row in server.rows()}.isdisjoint({"ended"})


def test_paths(server: Gateway, upstreams: Upstreams) -> None:
    assert ask(server, "routes").status == 200
    assert ask(server, "routes", b"/openai/v1/embeddings?x=/v1/files").status == 200
    assert ask(server, "routes", b"/v1/models", b"", method=b"GET").status == 200
    seen = len(upstreams("openai").requests)
    for target in (b"/v1/messages", b"/v1/models/gpt-5", b"/openai/v1/chat/completions", b"/v1/chat", b"/nowhere"):
        got = ask(server, "routes", target)
        assert code(got) == (403, "route_not_allowed")
        assert b"openai" not in got.body, "nor is told what there is"
    got = ask(server, "routes", b"/v1/embeddings")
    assert server.row(got)["error"] == "route_not_allowed"
    for target in (
        b"/v1/chat/%63ompletions", b"/v1/chat/..%2ffiles", b"/v1/chat/%252e%252e/files", b"/v1/chat;/x",
        b"/v1/chat/../files", b"/v1/chat//completions", b"/%761/chat/completions", b"/v1/chat/%c0%ae",
    ):  # fmt: skip
        got = ask(server, "routes", target)
        assert code(got) == (400, "invalid_path"), target
    assert len(upstreams("openai").requests) == seen
    assert server.ask(request(b"/openai/v1/%63hat/x%20y?a=%2f")).status == 200, "an unrestricted key may"


def test_models(server: Gateway, upstreams: Upstreams) -> None:
    got = ask(server, "models", body=gzip.compress(b'{"model":"gpt-5-mini","stream":false}'),
              headers=[b"Content-Encoding: gzip"])  # fmt: skip
    assert server.row(got)["model_asked"] == "gpt-5-mini"
    assert ask(server, "models", b"/v1/messages", b'{"model":"claude-x"}').status == 200
    assert ask(server, "models", b"/v1/models", b"", method=b"GET").status == 200
    seen = len(upstreams("openai").requests) + len(upstreams("anthropic").requests)
    for target, body, expected in (
        (CHAT, b'{"model":"gpt-4"}', (403, "model_not_allowed")),
        (CHAT, b"{}", (403, "model_not_allowed")),
        (CHAT, b"", (403, "model_not_allowed")),
        (CHAT, b'{"model":"gpt-4","model":"gpt-5"}', (400, "ambiguous_request")),
        (CHAT, b'{"model":"gpt-5","Model":"gpt-4"}', (400, "ambiguous_request")),
        (CHAT, b"not json", (400, "invalid_json")),
        (b"/openai/v1/batches", b'{"model":"gpt-5"}', (403, "model_not_allowed")),
    ):
        got = ask(server, "models", target, body)
        assert code(got) == expected, body
        row = server.row(got)
        assert (row["key_id"], row["error"], row["attempts"], row["cost_usd"]) == ("models", expected[1], 0, 0)
    assert len(upstreams("openai").requests) + len(upstreams("anthropic").requests) == seen
    for body in (b'{"model":"gpt-4","Model":"x","model":"y"}', b"not json", b"\xff"):
        assert server.ask(request(CHAT, body)).status == 200, "for others such bodies pass untouched"
        assert upstreams("openai").request().body == body


def form(body: bytes, name: str = "models", length: bool = True) -> bytes:
    headers = [b"Content-Type: " + TYPE.encode()]
    if not length:
        headers.append(b"Transfer-Encoding: chunked")
    return request(
        b"/v1/audio/transcriptions", body if length else b"", json=False, headers=headers, length=length,
        key=bearer(TOKENS[name]),
    )  # fmt: skip


LARGE = part("file", b"x" * 3_000_000, '; filename="a"')


def test_forms_pass_byte_for_byte(server: Gateway, upstreams: Upstreams) -> None:
    for body in (whole(MODEL, FILE), whole(MODEL, LARGE), whole(part("prompt", b"x" * 50_000), MODEL, LARGE)):
        got = server.ask(form(body))
        assert got.status == 200
        assert upstreams("openai").request().body == body
        assert server.row(got)["model_asked"] == "gpt-5-transcribe"


def test_forms_in_small_pieces_and_chunks(server: Gateway, upstreams: Upstreams) -> None:
    body = whole(part("prompt", b"x" * 3000), MODEL, FILE)
    with server.connect() as client:
        client.send(form(b"", length=False))
        for at in range(0, len(body), 7):
            client.send(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]))
        client.send(b"0\r\n\r\n")
        got = client.answer()
    assert got is not None
    assert got.status == 200
    assert upstreams("openai").request().body == body


@pytest.mark.parametrize(
    "body", [whole(FILE, MODEL), whole(part("prompt", b"x")), whole(part("x", b"a" * 100_000), MODEL), b"", b"--border"]
)
def test_nothing_of_a_form_is_sent_on_before_its_model_is_known(
    body: bytes, server: Gateway, upstreams: Upstreams
) -> None:
    with server.connect() as client:
        got = client.ask(form(body))
    assert code(got) == ((400, "ambiguous_request") if body else (403, "model_not_allowed"))
    assert server.row(got)["key_id"] == "models"
    assert not upstreams("openai").requests
    assert not upstreams("openai").connections


def test_a_second_model_behind_the_file_never_arrives_whole(server: Gateway, upstreams: Upstreams) -> None:
    """What came before it may be on its way: the connection is cut, so that no upstream has a whole request."""
    body = whole(MODEL, LARGE, part("model", b"gpt-4"))
    with server.connect() as client:
        client.send(form(body))
        got = client.answer()
    assert got is not None
    assert code(got) == (400, "ambiguous_request")
    assert not upstreams("openai").requests
    for connection in upstreams("openai").connections:
        assert connection.ended.wait(15)
        assert b'name="model"\r\n\r\ngpt-4' not in connection.received
        assert len(connection.received) < len(body)


# --- where it comes from


def test_a_trusted_proxy_says_who_calls(gateway: StartGateway, upstreams: Upstreams) -> None:
    server = gateway(config(upstreams, ', trusted_proxies: ["127.0.0.1"]'))
    for header, there, here in (
        ([], 403, 200),
        ([b"X-Forwarded-For: 203.0.113.9"], 200, 403),
        ([b"X-Forwarded-For: 203.0.113.9, 198.51.100.1"], 403, 403),
        ([b"X-Forwarded-For: 198.51.100.1", b"x-forwarded-for: 203.0.113.9"], 200, 403),
        ([b"X-Forwarded-For: 203.0.113.9, unknown"], 403, 403),
        ([b"X-Real-IP: 203.0.113.9", b"Forwarded: for=203.0.113.9"], 403, 200),
    ):
        assert ask(server, "there", headers=header).status == there, header
        assert ask(server, "here", headers=header).status == here, header


def test_others_say_nothing(server: Gateway) -> None:
    assert ask(server, "there", headers=[b"X-Forwarded-For: 203.0.113.9"]).status == 403


# --- guessing


def test_guessing_is_slowed_down(gateway: StartGateway, upstreams: Upstreams) -> None:
    server = gateway(config(upstreams, ', trusted_proxies: ["127.0.0.1"]'))

    def guess(token: str, source: str = "198.51.100.7") -> Answer:
        return server.ask(request(key=bearer(token), headers=[b"X-Forwarded-For: " + source.encode()]))

    assert guess(SHORT).status == 200
    for number in range(20):
        assert code(guess(f"guess-{number}")) == (401, "invalid_api_key")
    seen = len(upstreams("openai").requests)
    for token in ("guess-20", SHORT, SHORT, "fx-" + "0" * 43):
        got = guess(token)
        assert code(got) == (429, "too_many_failures"), "right or wrong"
        assert 1 <= int(got.get(b"retry-after")[0]) <= 3
        assert got.get(b"connection") == [b"close"]
    assert len(upstreams("openai").requests) == seen
    assert guess(KEY).status == 200, "a generated key can't be guessed: a neighbour's works on"
    assert guess(SHORT, "198.51.100.8").status == 200, "from elsewhere everything does"
    got = server.ask(request(key=None, headers=[b"X-Forwarded-For: 198.51.100.7"]))
    assert code(got) == (401, "invalid_api_key"), "who shows no key guesses none"
    until(lambda: guess(SHORT).status == 200, "an attempt to be free again")
    assert {row["key_id"] for row in server.rows() if row["status"] == 429} == set()


# --- no path spelling reaches another upstream, or a path the key may not call


ROUTES = ("/a/v1/chat/*", "/v1/embeddings", "/b/pub*/x")
OWN = "fx-own-0123456789abcdef-as-long-as-generated"
SPELLINGS = f"""
upstreams:
  a: {{target_url: "http://shared.example/a"}}
  b: {{target_url: "http://shared.example/b"}}
api_keys:
  static:
    - {{id: routes, key: "{TOKENS["routes"]}", routes: {json.dumps(ROUTES)}}}
    - {{id: upstreams, key: "{OWN}", upstreams: [a]}}
"""
PIECE = st.sampled_from(
    ["/", "//", "a", "b", "v1", "chat", "files", "embeddings", "pub", "x", ".", "..", "%2e", "%2E%2e", "%252e", "%2f",
     "%252f", "%252e%252e/", "/%252e./x", "%5c", "\\", ";", ";x=1", "..;", "%3b", "%00", "%0a", "%c0%ae", "%61", "%62",
     "%", "%u002e", "A", "*", "?", "#", "~", "%25", "%2", "%ef%bc%8f"]
)  # fmt: skip


def readings(path: bytes) -> set[bytes]:
    """The paths that servers of several manners make of one."""
    found = set()
    for times in (0, 1, 2, 3):
        for without_parameters in (False, True):
            text = path
            for _ in range(times):
                text = unquote_to_bytes(text)
            if without_parameters:
                text = b"/".join(segment.partition(b";")[0] for segment in text.split(b"/"))
            text = (
                text.partition(b"\0")[0].replace(b"\\", b"/").replace(b"\xc0\xae", b".").replace(b"\xef\xbc\x8f", b"/")
            )
            walked = posixpath.normpath(text.decode("latin-1")).encode("latin-1")
            found |= {b"/" + walked.lstrip(b"/")}
    return found


@functools.cache
def snapshot() -> Snapshot:
    return build(load_bytes(SPELLINGS.encode(), {}, Path("/nowhere/fluxen.yaml")), {})


def opened(token: str, path: str) -> Opening:
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}".encode("latin-1")
    opening, _ = Openings(snapshot(), HeaderKinds()).find(raw)
    return opening


def forwarded(opening: Opening) -> bytes | None:
    """The path that an upstream would get."""
    if opening.fault is not None or opening.route is None or opening.route.upstream is None:
        return None
    forward = opening.forward(opening.route.upstream)
    assert isinstance(forward, Forward)
    return forward.before.split(b" ")[1].partition(b"?")[0]


@given(st.sampled_from(["/a/v1/chat/", "/a/", "/b/pub", "/v1/", "/"]), st.lists(PIECE, max_size=8))
def test_no_spelling_reaches_another_upstream(start: str, pieces: list[str]) -> None:
    sent = forwarded(opened(OWN, start + "".join(pieces)))
    if sent is not None:
        for reading in readings(sent):
            assert reading == b"/a" or reading.startswith(b"/a/"), sent


@given(st.sampled_from(["/a/v1/chat/", "/a/v1/chat/x/", "/b/pub", "/b/", "/v1/"]), st.lists(PIECE, max_size=4))
def test_no_spelling_reaches_another_path(start: str, pieces: list[str]) -> None:
    path = start + "".join(pieces)
    if forwarded(opened(TOKENS["routes"], path)) is not None:
        for reading in readings(path.partition("?")[0].encode("latin-1")):
            assert reading.startswith((b"/a/v1/chat", b"/b/pub")), path
            assert reading.startswith(b"/a/v1/chat") or reading.endswith(b"/x"), path


def test_plain_spellings_do() -> None:
    """So that the two tests above are about something."""
    assert forwarded(opened(OWN, "/a/v1/x%20y/z")) == b"/a/v1/x%20y/z"
    assert forwarded(opened(OWN, "/b/v1")) is None
    assert forwarded(opened(TOKENS["routes"], "/a/v1/chat/x?y=%2f")) == b"/a/v1/chat/x"
    assert forwarded(opened(TOKENS["routes"], "/b/public/x")) == b"/b/public/x"
