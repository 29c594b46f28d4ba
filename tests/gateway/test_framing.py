"""HTTP/1.1 framing, as an attacker and as an odd client speak it."""

from __future__ import annotations

import pytest

from gateway.conftest import StartGateway
from gateway.rig import KEY, OK_BODY, PROVIDER_KEY, Gateway, Upstream, request

CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{request_path: "/openai", target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(CONFIG.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY))


def test_plain(server: Gateway, upstream: Upstream) -> None:
    answer = server.ask(request())
    assert (answer.status, answer.body) == (200, OK_BODY)
    assert len(upstream.requests) == 1
    assert server.row(answer)["status"] == 200
