"""Signed tokens at a real gateway: what they open, what is written of their bearers, where their keys come from."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, OK, PROVIDER_KEY, Answer, Gateway, Upstream, request, until
from keys.signer import ISSUER, SECRET, Sign, hs256, key_set, rs256, rsa_jwk, rsa_key, token
from keys.web import Authority, Web, reply

HEAD = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams:
  openai: {{target_url: "{url}", api_key: "{provider}"}}
  other: {{target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""
SHARED = """
  jwt:
    - {{id: dev, key: "{secret}", upstreams: [openai], team: blue,
       claims: {{team: team, models: models, tags: {{unit: unit}}}}}}
"""
PUBLIC = """
  jwt:
    - {{id: company, jwks_url: "{url}", issuer: "{issuer}", audience: fluxen}}
"""


def config(upstream: Upstream, more: str = "") -> str:
    return HEAD.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY) + more


def shared() -> str:
    return SHARED.format(secret=SECRET)


def public(web: Web, host: str = "localhost") -> str:
    return PUBLIC.format(url=web.url(host=host), issuer=ISSUER)


def made(kid: str, sign: Sign, **more: object) -> bytes:
    algorithm = "HS256" if kid == "dev" else "RS256"
    said = {"exp": time.time() + 3600, **({} if kid == "dev" else {"iss": ISSUER, "aud": "fluxen"}), **more}
    return token({"alg": algorithm, "kid": kid}, said, sign)


def ask(gateway: Gateway, bearer: bytes, path: bytes = b"/openai/v1/chat/completions", model: str = "m") -> Answer:
    body = json.dumps({"model": model}).encode()
    return gateway.ask(request(path, body, key=b"Authorization: Bearer " + bearer))


def code(answer: Answer) -> str:
    return json.loads(answer.body)["error"]["code"]


@pytest.fixture
def upstream(upstreams: Callable[[str], Upstream]) -> Upstream:
    found = upstreams("openai")
    found.plays(OK)
    return found


@pytest.fixture
def web() -> Iterator[Web]:
    started = Web(reply(key_set(rsa_jwk(rsa_key(), kid="one"))), tls=None)
    yield started
    started.close()


def test_a_token_is_a_key(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, shared()))
    good = made("dev", hs256(), sub="ann", team="red", unit="x", models=["gpt-5*"])
    for carrier in (b"Authorization: Bearer " + good, b"x-api-key: " + good, b"x-goog-api-key: " + good):
        answer = server.ask(request(body=b'{"model":"gpt-5-mini"}', key=carrier))
        assert answer.status == 200
    row = server.row(answer)
    assert (row["key_id"], row["team"], row["tags"]) == ("dev/ann", "red", {"unit": "x"})
    assert all(good not in sent.wire for sent in upstream.requests)
    assert (ask(server, good, model="gpt-4").status, code(ask(server, good, model="gpt-4"))) == (
        403,
        "model_not_allowed",
    )
    refused = ask(server, made("dev", hs256()), b"/other/v1/chat/completions")
    assert (refused.status, code(refused)) == (403, "upstream_not_allowed")
    assert ask(server, KEY.encode()).status == 200
    for wrong, said in (
        (made("dev", hs256("x" * 32)), "invalid_token"),
        (made("dev", hs256(), exp=time.time() - 60), "token_expired"),
        (made("dev", hs256(), nbf=time.time() + 600), "token_not_yet_valid"),
        (made("dev", hs256()) + b".x", "invalid_api_key"),
    ):
        answer = ask(server, wrong)
        assert (answer.status, code(answer)) == (401, said)
    reasons = {"its signature is wrong", "expired", "nbf is in the future"}
    until(lambda: reasons <= {line["reason"] for line in server.logged("token_refused")}, "the log to say why")
    for place in (server.stderr(), server.stdout(), server.journal().decode("latin-1")):
        assert SECRET not in place and good.decode() not in place and good.rpartition(b".")[2].decode() not in place


def test_a_token_ends_also_on_a_connection_that_stays_open(gateway: StartGateway, upstream: Upstream) -> None:
    text = config(upstream, shared()).replace("team: blue", "leeway_seconds: 0")
    server = gateway(text)
    ends = time.time() + 2
    bearer = made("dev", hs256(), exp=ends)
    with server.connect() as client:
        asked = request(key=b"Authorization: Bearer " + bearer)
        assert client.ask(asked).status == 200  # what its head means is remembered from now on
        answer = until(lambda: (found := client.ask(asked)).status == 401 and found, "the end of the token")
        assert time.time() >= ends
    assert code(answer) in ("token_expired", "key_expired")


def test_keys_from_a_url(gateway: StartGateway, upstream: Upstream, web: Web) -> None:
    server = gateway(config(upstream, public(web)))
    good = made("one", rs256(rsa_key()), sub="ann")
    answer = ask(server, good)
    assert answer.status == 200
    assert server.row(answer)["key_id"] == "company/ann"
    assert len(web.heads) == 1

    # The issuer changes its key: the first token that names the new one has the set fetched again.
    web.answer = reply(key_set(rsa_jwk(rsa_key(which=1), kid="two")))
    new = made("two", rs256(rsa_key(which=1)), sub="bob")
    for _ in range(4):  # one of the workers, then the other
        until(lambda: ask(server, new).status == 200, "the new key to be known", 60)
    until(lambda: ask(server, good).status == 401, "the old key to be forgotten")
    assert len(web.heads) == 2

    # A start needs neither the issuer nor the network.
    web.close()
    server.stop()
    server.start()
    assert ask(server, new).status == 200
    assert ask(server, good).status == 401


def test_keys_over_https(gateway: StartGateway, upstream: Upstream, tmp_path: Path) -> None:
    """Believed by the authorities that upstreams are believed by."""
    authority = Authority()
    web = Web(reply(key_set(rsa_jwk(rsa_key(), kid="one"))), tls=authority.server("localhost"))
    try:
        store = tmp_path / "ca.pem"
        store.write_bytes(authority.pem())
        server = gateway(config(upstream, public(web)), env={"SSL_CERT_FILE": str(store)})
        assert ask(server, made("one", rs256(rsa_key()))).status == 200
        other = gateway(config(upstream, public(web)))
        assert code(ask(other, made("one", rs256(rsa_key())))) == "invalid_token"
        assert ask(other, KEY.encode()).status == 200
        (line,) = other.logged("key_set")[:1]
        assert "not trusted" in line["reason"]
    finally:
        web.close()


def test_the_first_issuer_comes_with_a_reload(
    gateway: StartGateway, upstream: Upstream, web: Web, tmp_path: Path
) -> None:
    server = gateway(config(upstream))
    good, shared_one = made("one", rs256(rsa_key())), made("dev", hs256())
    assert (ask(server, good).status, ask(server, shared_one).status) == (401, 401)
    file = server.folder / "fluxen.yaml"
    file.write_text(config(upstream, shared()))
    for _ in range(4):
        until(lambda: ask(server, shared_one).status == 200, "the issuer with a secret")
    file.write_text(config(upstream, public(web)))
    for _ in range(4):
        until(lambda: ask(server, good).status == 200, "the issuer with public keys")
    until(lambda: ask(server, shared_one).status == 401, "the end of the other issuer")
    keys = server.folder / "keys.json"
    keys.write_bytes(key_set(rsa_jwk(rsa_key(which=1), kid="two")))
    file.write_text(config(upstream, public(web).replace(f'jwks_url: "{web.url()}"', "jwks_file: keys.json")))
    until(lambda: ask(server, made("two", rs256(rsa_key(which=1)))).status == 200, "the keys of the file")
    keys.write_bytes(key_set(rsa_jwk(rsa_key(), kid="one")))
    until(lambda: ask(server, good).status == 200, "the file's other key")
    keys.write_bytes(b"{")
    os.kill(server.process.pid, signal.SIGHUP)
    until(lambda: "is no JSON" in server.stderr(), "the word that the file can't be used")
    assert ask(server, good).status == 200
