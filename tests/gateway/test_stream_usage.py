"""`stream_usage: exact`: streams on unified routes report what they used, and their clients notice nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, Gateway, Upstream, chunked, request

CHAT = b"/v1/chat/completions"
BODY = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}'
ASKED = {"include_usage": True}
USAGE = b'{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}'


def event(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"


def piece(content: bytes) -> bytes:
    """An event as OpenAI sends it to who has asked for the usage."""
    return event(
        b'{"id":"x","object":"chat.completion.chunk","model":"gpt-4o-2024-08-06",'
        b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"usage":null}' % content
    )


FINISH = event(
    b'{"id":"x","model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}'
)
REPORT = event(
    b'{"id":"x","object":"chat.completion.chunk","model":"gpt-4o-2024-08-06","choices":[],"usage":%b}' % USAGE
)
DONE = b"data: [DONE]\n\n"
SEEN = piece(b"one") + piece(b"two") + FINISH + DONE
"""What the client is to see of the stream."""
STREAM = piece(b"one") + piece(b"two") + FINISH + REPORT + DONE

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-request-id: req_1\r\n"


def sse(*pieces: bytes, headers: Iterable[bytes] = ()) -> bytes:
    """A stream in chunks."""
    return (
        HEAD + b"".join(line + b"\r\n" for line in headers) + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces)
    )


CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{url}", api_key: "sk-provider-fedcba9876543210"{more}}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""


def config(upstream: Upstream, more: str = "", top: str = "") -> str:
    return CONFIG.format(url=upstream.url, key=KEY, more=more) + top


@pytest.fixture
def served(shared_gateway: StartGateway, upstream: Upstream) -> Gateway:
    return shared_gateway(config(upstream))


def test_the_stream_reports(served: Gateway, upstream: Upstream) -> None:
    """The provider is asked, in the client's own bytes and one name more; the client does not see the answer to that."""
    upstream.plays(sse(STREAM))
    got = served.ask(request(CHAT, BODY))
    assert (got.status, got.complete) == (200, True)
    assert got.body == SEEN
    assert got.get(b"x-fluxen-spliced") == [b"1"]
    assert got.get(b"transfer-encoding") == [b"chunked"]
    sent = upstream.request()
    assert sent.body == BODY[:-1] + b',"stream_options":{"include_usage":true}}'
    assert sent.get(b"content-length") == [b"%d" % len(sent.body)]
    assert sent.get(b"accept-encoding") == [b"identity"]
    row = served.row(got)
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("reported", 11, 7)
    assert (row["attempts"], row["finish"], row["error"]) == (1, "stop", None)
    assert row["request_bytes"] == len(BODY)
    assert row["response_bytes"] == len(got.wire) - len(got.head)
    assert row["cost_usd"] is not None
