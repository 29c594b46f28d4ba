"""Who may come in, what becomes of credentials, and how Fluxen says no."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, Answer, Client, Connection, Gateway, Request, Upstream, request

from fluxen.config.load import load_config
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.opening import Forward, Opening, Openings
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.keys.client import ClientKey

Upstreams = Callable[[str], Upstream]

PROVIDERS = ("openai", "anthropic", "gemini")
THEIRS = {name: f"sk-of-{name}-0123456789" for name in PROVIDERS}
CREDENTIAL = {
    "openai": (b"authorization", b"Bearer " + THEIRS["openai"].encode()),
    "anthropic": (b"x-api-key", THEIRS["anthropic"].encode()),
    "gemini": (b"x-goog-api-key", THEIRS["gemini"].encode()),
}
PATHS = {
    "openai": b"/v1/chat/completions",
    "anthropic": b"/v1/messages",
    "gemini": b"/v1beta/models/gemini-2.0-flash:generateContent",
}
OTHER_KEY = "fx-other-restricted-0123456789-as-long-as-generated"
PLANTED = "planted-secret-of-nobody-42"


def keyed(upstreams: Upstreams) -> str:
    lines = [f'  {name}: {{target_url: "{upstreams(name).url}", api_key: "{THEIRS[name]}"}}' for name in PROVIDERS]
    return f"""
version: 1
server: {{bind_address: "127.0.0.1:0", max_body: 100000}}
upstreams:
{chr(10).join(lines)}
  bare: {{target_url: "{upstreams("bare").url}"}}
api_keys:
  static:
    - {{id: me, key: "{KEY}", team: red, tags: {{env: test}}}}
    - {{id: other, key: "{OTHER_KEY}", upstreams: [openai]}}
"""


def opened(upstreams: Upstreams, env_key: bool = False) -> str:
    lines = [f'  {name}: {{target_url: "{upstreams(name).url}"}}' for name in PROVIDERS[1:]]
    key = ', api_key: "${OPENAI_KEY_OF_TEST}"' if env_key else ""
    return f"""
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{upstreams("openai").url}"{key}}}
{chr(10).join(lines)}
"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstreams: Upstreams) -> Gateway:
    return shared_gateway(keyed(upstreams))


@pytest.fixture
def free(shared_gateway: StartGateway, upstreams: Upstreams) -> Gateway:
    """In open mode."""
    return shared_gateway(opened(upstreams))


def nothing_went_up(upstreams: Upstreams) -> bool:
    return not any(upstreams(name).requests for name in PROVIDERS)


# --- open mode


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8080",
        b"LOCALHOST",
        b"LocalHost:1",
        b"127.0.0.1",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:80",
    ],
)
def test_local_hosts(host: bytes, free: Gateway) -> None:
    assert free.ask(request(host=host, key=None)).status == 200


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"evil.example:80", b"localhost.evil.example", b"evil.localhost", b"127.0.0.1.nip.io",
     b"127.0.0.2", b"0.0.0.0", b"[::]", b"::1", b"", b" ", b"localhost:evil", b"localhost:", b"a@localhost",
     b"localhost,evil", b"127.1", b"[::1].evil", b"[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_other_hosts(host: bytes, free: Gateway, upstreams: Upstreams) -> None:
    """A web page that has its own name resolve to 127.0.0.1 sends its own name."""
    got = free.ask(request(host=host, key=None))
    assert got.status == 403
    assert got.get(b"x-should-retry") == [b"false"]
    assert nothing_went_up(upstreams)


@pytest.mark.parametrize("method", [b"POST", b"GET", b"OPTIONS"])
@pytest.mark.parametrize(
    "line",
    [b"Origin: https://evil.example", b"Origin: null", b"origin: http://localhost:8080", b"Origin:",
     b"Sec-Fetch-Site: cross-site", b"sec-fetch-site: same-site", b"Sec-Fetch-Site: anything", b"Sec-Fetch-Site:"],
)  # fmt: skip
def test_web_pages(line: bytes, method: bytes, free: Gateway, upstreams: Upstreams) -> None:
    got = free.ask(request(method=method, headers=[line], key=None), method)
    assert got.status == 403
    assert not got.get(b"access-control-allow-origin")
    assert nothing_went_up(upstreams)


@pytest.mark.parametrize(
    "line", [b"Sec-Fetch-Mode: cors", b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Dest: empty"]
)
def test_no_web_pages(line: bytes, free: Gateway) -> None:
    """node's fetch sends Sec-Fetch-Mode."""
    assert free.ask(request(headers=[line], key=None)).status == 200


@pytest.mark.parametrize(
    "line", [b"X-Forwarded-For: 203.0.113.9", b"Forwarded: for=203.0.113.9", b"x-forwarded-host: ai.example.com",
             b"X-Forwarded-Proto: https", b"X-Real-IP: 127.0.0.1"],
)  # fmt: skip
def test_behind_a_proxy_there_must_be_keys(line: bytes, free: Gateway, server: Gateway, upstreams: Upstreams) -> None:
    """A proxy that calls us by our own address makes the whole world local."""
    got = free.ask(request(host=b"127.0.0.1:8080", headers=[line], key=None))
    assert (got.status, json.loads(got.body)["error"]["code"]) == (403, "proxy_not_allowed")
    assert nothing_went_up(upstreams)
    assert server.ask(request(headers=[line])).status == 200
    (seen,) = upstreams("openai").requests
    assert line.partition(b":")[0].lower() in {name.lower() for name, _ in seen.headers}


CARRIERS = [
    b"Authorization: Bearer sk-mine",
    b"AUTHORIZATION: bearer  sk-mine",
    b"Authorization: Basic c2stbWluZQ==",
    b"X-Api-Key: sk-mine",
    b"x-goog-api-key: sk-mine",
    b"Api-Key: sk-mine",
]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("way", ["mount", "unified"])
def test_the_clients_credential_goes_on_unchanged(
    name: str, carrier: bytes, way: str, free: Gateway, upstreams: Upstreams
) -> None:
    """Same header, same scheme, and only to the provider whose protocol the path speaks."""
    target = PATHS[name] if way == "unified" else b"/" + name.encode() + PATHS[name]
    assert free.ask(request(target, key=carrier)).status == 200
    seen = upstreams(name).request()
    assert carrier in seen.head.split(b"\r\n")
    assert seen.target == PATHS[name]
    assert not any(upstreams(other).requests for other in PROVIDERS if other != name)


def test_the_key_parameter_goes_on_unchanged(free: Gateway, upstreams: Upstreams) -> None:
    got = free.ask(request(PATHS["gemini"] + b"?a=b&key=sk-mine&alt=sse", key=None))
    assert got.status == 200
    assert upstreams("gemini").request().target == PATHS["gemini"] + b"?a=b&key=sk-mine&alt=sse"


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (b"/openai/v1/messages", b'{"model":"claude-x"}'),
        (b"/openai/v1beta/models/gemini-2.0-flash:generateContent", b"{}"),
        (b"/anthropic/v1/chat/completions", b'{"model":"gpt-4o"}'),
        (b"/gemini/v1/messages", b'{"model":"claude-x"}'),
    ],
)
def test_a_credential_never_goes_to_another_provider(
    target: bytes, body: bytes, free: Gateway, upstreams: Upstreams
) -> None:
    got = free.ask(request(target, body, key=b"Authorization: Bearer sk-mine"))
    assert got.status == 401
    assert got.get(b"x-should-retry") == [b"false"]
    assert nothing_went_up(upstreams)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", b"claude-sonnet-4"),
        ("openai", b"gemini-2.0-flash"),
        ("anthropic", b"gpt-4o"),
        ("openai", b"models/gemini-x"),
    ],
)
def test_nor_does_a_model_name_send_it_there(name: str, model: bytes, free: Gateway, upstreams: Upstreams) -> None:
    got = free.ask(request(PATHS[name], b'{"model":"%b"}' % model, key=b"Authorization: Bearer sk-mine"))
    assert got.status in (200, 401, 404)
    assert not any(upstreams(other).requests for other in PROVIDERS if other != name)


def test_a_key_of_ours_replaces_the_clients(shared_gateway: StartGateway, upstreams: Upstreams) -> None:
    server = shared_gateway(opened(upstreams, env_key=True), {"OPENAI_KEY_OF_TEST": THEIRS["openai"] + "\n"})
    for key in (None, b"Authorization: Bearer sk-mine", b"x-api-key: sk-mine"):
        got = server.ask(request(key=key))
        assert got.status == 200
        seen = upstreams("openai").request()
        assert seen.get(b"authorization") == [CREDENTIAL["openai"][1]]
        assert b"sk-mine" not in seen.wire
        row = server.row(got)
        assert row["key_id"] is None
        assert THEIRS["openai"] not in str(row)
    assert server.ask(request(b"/anthropic/v1/messages", key=b"x-api-key: sk-mine")).status == 200
    assert upstreams("anthropic").request().get(b"x-api-key") == [b"sk-mine"]


def test_keys_found_in_the_environment() -> None:
    """Only for the provider itself: a target_url of one's own gets no key that was not written beside it."""
    env = {"OPENAI_API_KEY": "sk-env", "GOOGLE_API_KEY": "g-env"}
    found = {one.name: one for one in build(load_config(None, env), env).upstreams}
    assert found["openai"].credentials[0].value == b"Bearer sk-env"
    assert found["openai"].origin.host == "api.openai.com"
    assert (found["gemini"].credential_header, found["gemini"].credentials[0].value) == (b"x-goog-api-key", b"g-env")
    assert found["anthropic"].credentials == ()


def test_open_mode_binds_loopback_only(tmp_path: object, fluxen: Callable[..., object], clean_env: object) -> None:
    path = tmp_path / "fluxen.yaml"  # type: ignore[operator]
    path.write_text('version: 1\nserver: {bind_address: "0.0.0.0:0"}\n')
    done = fluxen("serve", "--config", str(path))
    assert done.returncode == 3  # type: ignore[attr-defined]
    assert "loopback" in done.stderr or "127.0.0.1" in done.stderr  # type: ignore[attr-defined]


# --- keyed mode


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("way", ["mount", "unified"])
@pytest.mark.parametrize(
    "carrier",
    [
        b"Authorization: Bearer %b",
        b"authorization: BEARER   %b ",
        b"x-api-key: %b",
        b"X-Goog-Api-Key:%b",
        b"api-key: %b",
        None,
    ],
)
def test_carriers(carrier: bytes | None, way: str, name: str, server: Gateway, upstreams: Upstreams) -> None:
    """Whichever carried it is stripped, and the one the provider wants is set: exactly one, and never the client's."""
    target = PATHS[name] if way == "unified" else b"/" + name.encode() + PATHS[name]
    if carrier is None:
        sent = request(target + b"?a=b&key=" + KEY.encode(), key=None)
    else:
        sent = request(target + b"?a=b", key=carrier % KEY.encode())
    got = server.ask(sent)
    assert got.status == 200
    seen = upstreams(name).request()
    assert seen.target == PATHS[name] + b"?a=b"
    assert KEY.encode() not in seen.wire
    wanted, value = CREDENTIAL[name]
    carried = [
        (key.lower(), what)
        for key, what in seen.headers
        if key.lower() in {c for c, _ in CREDENTIAL.values()} | {b"api-key"}
    ]
    assert carried == [(wanted, value)]
    row = server.row(got)
    assert (row["key_id"], row["team"], row["upstream"], row["route"]) == ("me", "red", name, way)
    assert row["tags"] == {"env": "test"}
    assert row["credential"] == name


def test_a_key_in_percents(server: Gateway, upstreams: Upstreams) -> None:
    spelled = "".join(f"%{byte:02x}" for byte in KEY.encode()).encode()
    assert server.ask(request(PATHS["gemini"] + b"?key=" + spelled, key=None)).status == 200
    assert spelled not in upstreams("gemini").request().wire


def test_an_upstream_without_a_key_gets_none(server: Gateway, upstreams: Upstreams) -> None:
    for sent in (request(b"/bare/v1/chat/completions"), request(b"/bare/v1/x?key=" + KEY.encode(), key=None)):
        assert server.ask(sent).status == 200
        seen = upstreams("bare").request()
        assert KEY.encode() not in seen.wire
        assert not seen.get(b"authorization")


UNKNOWN_KEYS = (
    b"Authorization: Bearer wrong", b"Authorization: Bearer", b"Authorization:",
    b"Authorization: Basic " + KEY.encode(), b"Authorization: " + KEY.encode(), b"x-api-key: " + KEY.encode()[:-1],
    b"x-api-key: " + KEY.encode() + b"x", b"x-api-key: Bearer " + KEY.encode(),
    b"Authorization: Bearer " + KEY.upper().encode(), b"Authorization: Bearer \xff\xfe",
)  # fmt: skip
NO_KEYS = (None, b"X-Other: " + KEY.encode(), b"Cookie: key=" + KEY.encode())


@pytest.mark.parametrize("name", PROVIDERS)
def test_unknown_keys(name: str, gateway: StartGateway, upstreams: Upstreams) -> None:
    """Twenty of them; those who show none are not counted."""
    server = gateway(keyed(upstreams))
    for key in (*NO_KEYS, *UNKNOWN_KEYS):
        for target in (PATHS[name], b"/" + name.encode() + PATHS[name]):
            with server.connect() as client:
                got = client.ask(request(target, key=key))
                assert got.status == 401, key
                check_shape(name, got, 401)
                assert got.get(b"x-should-retry") == [b"false"]
                assert client.closes(), "its body was not read"
    assert nothing_went_up(upstreams)


@pytest.mark.parametrize("name", PROVIDERS)
def test_lists_are_refused_in_the_dialect_of_their_mount(name: str, server: Gateway) -> None:
    got = server.ask(request(b"/" + name.encode() + b"/v1/models", b"", method=b"GET", key=None), b"GET")
    assert got.status == 401
    check_shape(name, got, 401)


def test_a_restricted_key(server: Gateway, upstreams: Upstreams) -> None:
    key = b"Authorization: Bearer " + OTHER_KEY.encode()
    assert server.ask(request(key=key)).status == 200
    assert server.ask(request(PATHS["openai"], key=key)).status == 200
    for name in ("anthropic", "gemini"):
        for target in (PATHS[name], b"/" + name.encode() + PATHS[name]):
            with server.connect() as client:
                got = client.ask(request(target, key=key))
                assert got.status == 403
                check_shape(name, got, 403)
                assert got.get(b"x-should-retry") == [b"false"]
                row = server.row(got)
                assert (row["key_id"], row["status"], row["error"]) == ("other", 403, "upstream_not_allowed")
                assert (row["attempts"], row["cost_usd"]) == (0, 0)
        assert not upstreams(name).requests


# --- how Fluxen says no


def check_shape(dialect: str, got: Answer, status: int) -> dict[str, object]:
    """The JSON that this dialect's SDKs parse."""
    assert got.complete
    assert got.get(b"content-type") == [b"application/json"]
    body = json.loads(got.body)
    error = body["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    if dialect == "openai":
        assert set(error) == {"message", "type", "param", "code"}
    elif dialect == "anthropic":
        assert body["type"] == "error"
        assert error["type"].endswith("error") or error["type"] == "request_too_large"
    else:
        assert error["code"] == status
        assert error["status"].isupper()
    return dict(error)


def chat(name: str, **changes: object) -> bytes:
    return request(PATHS[name], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("way", ["mount", "unified"])
def test_refusals_speak_the_callers_dialect(name: str, way: str, server: Gateway, upstreams: Upstreams) -> None:
    target = PATHS[name] if way == "unified" else b"/" + name.encode() + PATHS[name]
    cases = [
        (400, request(target, headers=[b"Host: other"])),
        (400, request(target, headers=[b"Content-Length: 5"])),
        (400, request(target + b"?key=x")),
        (400, request(target, headers=[b"Transfer-Encoding: chunked"])),
        (413, request(target, b'{"x":"' + b"a" * 100_000 + b'"}')),
        (431, request(target, headers=[b"X-A: " + b"a" * 70_000])),
        (431, request(target, headers=[b"X-%d: 1" % n for n in range(300)])),
        (426, request(target, b"", method=b"GET", headers=[b"Connection: Upgrade", b"Upgrade: websocket"])),
        (501, request(target, headers=[b"Transfer-Encoding: gzip"], length=False)),
    ]
    for status, sent in cases:
        with server.connect() as client:
            got = client.ask(sent)
            assert got.status == status or (status == 501 and got.status == 400), sent[:300]
            check_shape(name, got, got.status)
    assert nothing_went_up(upstreams)


def test_chunked_bodies_over_the_limit(server: Gateway, upstreams: Upstreams) -> None:
    sent = request(PATHS["anthropic"], b"", length=False, headers=[b"Transfer-Encoding: chunked"])
    with server.connect() as client:
        client.send(sent)
        for _ in range(30):
            client.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
        got = client.answer()
        assert got is not None
        assert got.status == 413
        check_shape("anthropic", got, 413)
        assert server.row(got)["error"] == "request_too_large"
    assert nothing_went_up(upstreams)


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        (b"/nowhere", "openai"),
        (b"/v1/nowhere", "openai"),
        (b"/", "openai"),
        (b"/openaix/v1/chat/completions", "openai"),
        (b"/nowhere/v1/messages", "anthropic"),
        (b"/-/", "openai"),
        (b"/-/metrics", "openai"),
        (b"/-/healthz/x", "openai"),
    ],
)
def test_no_route(target: bytes, dialect: str, server: Gateway, upstreams: Upstreams) -> None:
    with server.connect() as client:
        for _ in range(2):
            got = client.ask(request(target, b"", method=b"GET"), b"GET")
            assert got.status == 404
            check_shape(dialect, got, 404)
    assert nothing_went_up(upstreams)


def test_health(server: Gateway) -> None:
    """Without a key, without detail, in one of two methods."""
    with server.connect() as client:
        for path in (b"/-/healthz", b"/-/readyz"):
            for method in (b"GET", b"HEAD"):
                got = client.ask(request(path, b"", method=method, key=None, json=False), method)
                assert got.status == 200
                assert got.body in (b"", b'{"status":"ok"}')
        assert client.ask(request(b"/-/healthz", key=None)).status == 405


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_upstreams_failures(name: str, gateway: StartGateway, upstreams: Upstreams) -> None:
    """502 unreachable and broken, 504 too slow: in the caller's dialect, with a row."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        slow = upstreams(name)
        server = gateway(f"""
version: 1
server: {{bind_address: "127.0.0.1:0", max_connections: 3}}
upstreams:
  gone: {{target_url: "{url}", dialect: {name}}}
  slow: {{target_url: "{slow.url}", dialect: {name}, first_byte_timeout_ms: 200}}
""")

        def play(connection: Connection, _: Request) -> None:
            connection.drain()

        slow.plays(play)
        for mount, status, code in ((b"/gone", 502, "upstream_unreachable"), (b"/slow", 504, "upstream_timeout")):
            got = server.ask(request(mount + PATHS[name], key=None))
            assert got.status == status
            check_shape(name, got, status)
            row = server.row(got)
            assert (row["status"], row["error"], row["upstream"]) == (status, code, mount[1:].decode())
        held = [server.connect() for _ in range(3)]
        for one in held:
            assert one.ask(request(b"/-/healthz", b"", method=b"GET", key=None), b"GET").status == 200
        with server.connect() as one_too_many:
            got_full = one_too_many.answer()
            assert got_full is not None
            assert got_full.status == 503
            assert one_too_many.closes()
        for one in held:
            one.close()


# --- secrets


def test_no_secret_is_written_anywhere(gateway: StartGateway, upstreams: Upstreams) -> None:
    """Neither ours nor the client's nor one that somebody tried: not on stderr or stdout, not in the ledger."""
    server = gateway(keyed(upstreams))
    tried = PLANTED.encode()
    upstreams("openai").plays(lambda connection, _: connection.reset())
    for sent in (
        request(),
        request(PATHS["openai"]),
        request(PATHS["anthropic"]),
        request(PATHS["gemini"] + b"?key=" + KEY.encode(), key=None),
        request(PATHS["gemini"] + b"?key=" + tried, key=None),
        request(b"/nowhere?key=" + KEY.encode(), key=None),
        request(b"/openai/v1/x?key=" + tried),
        request(key=b"Authorization: Bearer " + tried),
        request(key=b"Authorization: Bearer " + tried, headers=[b"Host: x"]),
        request(headers=[b"x-api-key: " + tried]),
        request(headers=[b"Content-Length: 3"], key=b"x-api-key: " + tried),
        b"POST " + tried + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer " + tried + b"\r\nX\x00: y\r\n\r\n",
    ):
        server.ask(sent)
    server.ask(request(b"/openai/v1/files/" + tried[::-1]))
    server.rows(at_least=4)
    server.stop()
    assert tried[::-1] not in server.journal(), "a path is for the log, rows have templates only"
    written = server.stderr().encode() + server.stdout().encode() + server.journal()
    assert len(written) > 1000
    for secret in (KEY, OTHER_KEY, PLANTED, *THEIRS.values()):
        assert secret.encode() not in written, secret


def test_client_strings_are_cut(server: Gateway) -> None:
    headers = [b"User-Agent: " + b"u" * 1000, b"x-client-request-id: " + b"r" * 1000, b"x-fluxen-tags: a=b, env=mine"]
    got = server.ask(request(body=b'{"model":"' + b"m" * 1000 + b'"}', headers=headers))
    row = server.row(got)
    assert [len(row[name]) for name in ("user_agent", "client_request_id", "model_asked")] == [256, 256, 256]
    assert row["tags"] == {"a": "b", "env": "test"}, "the key's tags win"


def test_clients_do_not_share_what_a_head_means(server: Gateway, upstreams: Upstreams) -> None:
    """The same head but for the key, on one connection and on two: each has its own rights and rows."""

    def as_whom(client: Client, key: str, target: bytes) -> Answer:
        return client.ask(request(target, key=b"Authorization: Bearer " + key.encode()))

    with server.connect() as one, server.connect() as two:
        for client in (one, two, one):
            assert server.row(as_whom(client, KEY, PATHS["anthropic"]))["key_id"] == "me"
            refused = as_whom(client, OTHER_KEY, b"/anthropic/v1/complete")
            assert refused.status == 403
            if client is one:
                break
    with server.connect() as client:
        assert as_whom(client, OTHER_KEY[:-1] + "x", PATHS["anthropic"]).status == 401
    upstreams("openai").plays(OK)
    with server.connect() as client:
        for key, name in ((KEY, "me"), (OTHER_KEY, "other"), (KEY, "me")):
            assert server.row(as_whom(client, key, PATHS["openai"]))["key_id"] == name


# --- everybody is somebody (`fluxen run`)


def meaning(snapshot: Snapshot, raw: bytes) -> Opening:
    """What a request's head means: the first time, and again from memory."""
    openings = Openings(snapshot, HeaderKinds())
    head = raw.partition(b"\r\n\r\n")[0]
    first, _ = openings.find(head)
    again, _ = openings.find(head)
    assert first.fault is not None or again is first
    return again


def test_everyone_is_who_was_named_whatever_api_keys_say(tmp_path: Path) -> None:
    path = tmp_path / "fluxen.yaml"
    path.write_text(f"upstreams: {{openai: , anthropic: }}\napi_keys: {{static: [{{id: me, key: {KEY}}}]}}\n")
    loaded = load_config(path, {})
    everyone = ClientKey("", team="blue", project="shop", tags={"run": "r-1"})
    snapshot = build(loaded, {"OPENAI_API_KEY": "sk-env"}, everyone)
    assert snapshot.open_mode
    for carried in (None, b"Authorization: Bearer sk-mine", b"Authorization: Bearer " + KEY.encode()):
        opening = meaning(snapshot, request(PATHS["openai"], key=carried, headers=[b"x-fluxen-tags: run=forged,a=b"]))
        assert (opening.fault, opening.known, opening.key, opening.key_id) == (None, True, everyone, None)
        assert opening.tags == {"run": "r-1", "a": "b"}
        sent = opening.forward(snapshot.upstreams[0])
        assert isinstance(sent, Forward)
        assert b"Bearer sk-env\r\n" in sent.before + (sent.after or b"")
        assert b"sk-mine" not in sent.before + (sent.after or b"")
    # Nobody configured a key for this one: the client's own goes on, to it and to no other.
    name, value = CREDENTIAL["anthropic"]
    opening = meaning(snapshot, request(PATHS["anthropic"], key=name + b": " + value))
    sent = opening.forward(snapshot.upstreams[1])
    assert isinstance(sent, Forward)
    assert value in sent.before + (sent.after or b"")
    refused = meaning(snapshot, request(b"/anthropic/v1/chat/completions")).fault
    assert refused is not None
    assert refused.code == "credential_not_forwarded"
    for unwanted in (request(host=b"attacker.example"), request(headers=[b"Origin: http://localhost"])):
        refused = meaning(snapshot, unwanted).fault
        assert refused is not None
        assert refused.status == 403
    assert not build(loaded, {}).open_mode


def test_what_everyone_may_use_is_what_the_key_says() -> None:
    snapshot = build(load_config(None, {}), {}, ClientKey("demo", upstreams=frozenset({"openai"})))
    assert meaning(snapshot, request(PATHS["openai"])).key_id == "demo"
    assert meaning(snapshot, request(PATHS["openai"])).fault is None
    refused = meaning(snapshot, request(b"/anthropic/v1/messages", key=None)).fault
    assert refused is not None
    assert refused.code == "upstream_not_allowed"
