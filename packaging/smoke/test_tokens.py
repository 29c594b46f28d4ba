"""The executable checks signed tokens: cryptography's native module is in it, and is loaded before it is needed."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.rig import Upstream, answer, request, until
from keys.signer import ISSUER, SECRET, ec_jwk, ec_key, es256, hs256, key_set, rs256, rsa_jwk, rsa_key, token

if TYPE_CHECKING:
    from packaging.smoke.conftest import Configured, Fluxen, Serving

BODY = b'{"model":"gpt-4o-mini","messages":[]}'


def issuers(folder: Path) -> str:
    (folder / "jwks.json").write_bytes(key_set(rsa_jwk(rsa_key(), kid="rsa"), ec_jwk(ec_key(), kid="ec")))
    return (
        f'api_keys:\n  jwt:\n    - {{id: dev, key: "{SECRET}"}}\n'
        f'    - {{id: company, jwks_file: jwks.json, issuer: "{ISSUER}", audience: fluxen}}\n'
    )


def status(serving: Serving, bearer: bytes) -> int:
    with serving.connect() as client:
        return client.ask(request(b"/v1/chat/completions", BODY, key=b"Authorization: Bearer " + bearer)).status


def tokens() -> list[bytes]:
    said = {"exp": time.time() + 3600, "sub": "me"}
    public = {**said, "iss": ISSUER, "aud": "fluxen"}
    return [
        token({"alg": "HS256", "kid": "dev"}, said, hs256()),
        token({"alg": "RS256", "kid": "rsa"}, public, rs256(rsa_key())),
        token({"alg": "ES256", "kid": "ec"}, public, es256(ec_key())),
    ]


def test_tokens_of_each_kind(fluxen: Fluxen, upstream: Upstream, configured: Configured) -> None:
    upstream.plays(answer(b"{}"))
    serving = fluxen.serve(configured(upstream.url) + issuers(fluxen.elsewhere))
    for made in tokens():
        assert status(serving, made) == 200
        assert status(serving, made[:-8] + b"AAAAAAAA") == 401
    serving.stop()


def test_the_first_issuer_comes_when_the_folder_is_gone(
    unpacking: Fluxen, upstream: Upstream, configured: Configured
) -> None:
    """A reload imports nothing any more."""
    upstream.plays(answer(b"{}"))
    before = f'api_keys:\n  static: [{{id: me, key: "{SECRET}"}}]\n'
    serving = unpacking.serve(configured(upstream.url) + before)
    assert status(serving, SECRET.encode()) == 200
    (folder,) = unpacking.unpacked()
    compactor = unpacking.home / ".local/share/fluxen/ledger/compactor.json"
    until(compactor.exists, "all processes to have loaded what they need")
    shutil.rmtree(folder)
    (unpacking.elsewhere / "gateway-0.yaml").write_text(configured(upstream.url) + issuers(unpacking.elsewhere))
    serving.process.send_signal(signal.SIGHUP)
    for made in tokens():
        until(lambda made=made: status(serving, made) == 200, "the issuers to be known")
    serving.stop()
