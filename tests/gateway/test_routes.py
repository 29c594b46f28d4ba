"""Where a request goes: mounts, unified routes, repairs, refusals, and that no trick leads elsewhere."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from gateway.conftest import StartGateway
from gateway.rig import KEY, Gateway, Upstream, request
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fluxen.config.load import load_config
from fluxen.errors import ConfigError
from fluxen.gateway.routes import NoRoute, Router
from fluxen.gateway.snapshot import build
from fluxen.providers.dialect import dialects

Upstreams = Callable[[str], Upstream]


def snapshot_router(tmp_path: Path, upstreams: str) -> Router:
    path = tmp_path / "fluxen.yaml"
    path.write_text(f"version: 1\nupstreams:\n{upstreams}")
    return build(load_config(path, {}), {}).router


SEVERAL = """
  openai: {}
  anthropic: {}
  gemini: {}
  groq: {}
  local: {target_url: "http://127.0.0.1:11434/v1", dialect: openai, models: ["llama-*", "gpt-oss*"]}
  tunnel: {request_path: "/deep/tunnel", target_url: "http://127.0.0.1:1/base/"}
  deeper: {request_path: "/deep", target_url: "http://127.0.0.1:2"}
  with-version: {target_url: "http://127.0.0.1:3/v1", dialect: openai}
  other-version: {target_url: "http://127.0.0.1:4/api/v3", dialect: openai}
"""


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return snapshot_router(tmp_path, SEVERAL)


@pytest.mark.parametrize(
    ("path", "upstream", "sent"),
    [
        # the longest mount, on segment borders
        (b"/deep/tunnel/x", "tunnel", b"/base/x"),
        (b"/deep/tunnel", "tunnel", b"/base/"),
        (b"/deep/tunnelx", "deeper", b"/tunnelx"),
        (b"/deep/x", "deeper", b"/x"),
        (b"/deep", "deeper", b"/"),
        # the version segment, both ways
        (b"/openai/chat/completions", "openai", b"/v1/chat/completions"),
        (b"/openai/v1/chat/completions", "openai", b"/v1/chat/completions"),
        (b"/openai/v2/x", "openai", b"/v2/x"),
        (b"/openai/v1beta/x", "openai", b"/v1beta/x"),
        (b"/with-version/v1/chat/completions", "with-version", b"/v1/chat/completions"),
        (b"/with-version/chat/completions", "with-version", b"/v1/chat/completions"),
        (b"/with-version/v1", "with-version", b"/v1"),
        (b"/with-version/v1x/y", "with-version", b"/v1/v1x/y"),
        # only for what is known to be OpenAI's API
        (b"/tunnel/x", None, None),
        (b"/deep/chat/completions", "deeper", b"/chat/completions"),
        (b"/anthropic/messages", "anthropic", b"/messages"),
        (b"/anthropic/v1/messages", "anthropic", b"/v1/messages"),
        (b"/gemini/v1beta/models/m:generateContent", "gemini", b"/v1beta/models/m:generateContent"),
        # bytes as they are
        (b"/deep/a%20b%2Fc;d=e/", "deeper", b"/a%20b%2Fc;d=e/"),
        (b"/deep/%41", "deeper", b"/%41"),
    ],
)
def test_mounts(router: Router, path: bytes, upstream: str | None, sent: bytes | None) -> None:
    if upstream is None:
        with pytest.raises(NoRoute):
            router.find(path, "openai")
        return
    route = router.find(path, "openai")
    assert route.kind == "mount"
    assert route.upstream is not None
    assert (route.upstream.name, route.path) == (upstream, sent)
    assert router.find(path, "openai") is route


SPOKEN = """
  azure: {target_url: "http://127.0.0.1:1"}
  google-vertex: {target_url: "http://127.0.0.1:1"}
  bedrock: {target_url: "http://127.0.0.1:1"}
  cohere: {target_url: "http://127.0.0.1:1"}
  ollama: {target_url: "http://127.0.0.1:1"}
  huggingface: {target_url: "http://127.0.0.1:1"}
  any: {target_url: "http://127.0.0.1:1", dialect: openai}
"""
VERTEX = "/v1/projects/p/locations/l/publishers"


@pytest.mark.parametrize(
    ("path", "dialect", "endpoint", "model", "provider"),
    [
        ("/azure/openai/deployments/mine/chat/completions", "openai", "/v1/chat/completions", "mine", "azure"),
        ("/azure/openai/v1/responses", "openai", "/v1/responses", None, "azure"),
        (f"/google-vertex{VERTEX}/google/models/m:generateContent", "gemini",
         "/v1/publishers/{publisher}/models/{model}:generateContent", "m", "vertex"),
        (f"/google-vertex{VERTEX}/anthropic/models/m:rawPredict", "anthropic", "/v1/messages", "m", "vertex"),
        ("/bedrock/model/m%3A0/converse", "bedrock", "/model/{model}/converse", "m:0", "bedrock"),
        ("/cohere/v1/chat", "cohere", "/v1/chat", None, "cohere"),
        ("/cohere/compatibility/v1/chat/completions", "openai", "/v1/chat/completions", None, "cohere"),
        ("/ollama/api/embeddings", "ollama", "/api/embeddings", None, "ollama"),
        ("/ollama/v1/chat/completions", "openai", "/v1/chat/completions", None, "ollama"),
        ("/huggingface/together/v1/chat/completions", "openai", "/v1/chat/completions", None, "huggingface_together"),
        ("/huggingface/v1/chat/completions", "openai", "/v1/chat/completions", None, "huggingface"),
        ("/any/model/m/invoke", "bedrock", "/model/{model}/invoke", "m", ""),
        ("/any/v2/chat", "cohere", "/v2/chat", None, ""),
        ("/any/api/chat", "ollama", "/api/chat", None, ""),
        ("/any/v1/messages", "anthropic", "/v1/messages", None, ""),
    ],
)  # fmt: skip
def test_the_path_says_what_is_spoken_and_goes_on_as_it_is(
    tmp_path: Path, path: str, dialect: str, endpoint: str, model: str | None, provider: str
) -> None:
    route = snapshot_router(tmp_path, SPOKEN).find(path.encode(), "openai")
    assert route.upstream is not None
    assert (route.dialect.name, route.endpoint, route.model) == (dialect, endpoint, model)
    assert route.path == path.encode()[len(route.upstream.mount) :]
    assert route.upstream.provider == provider
    assert route.json_body


def test_googles_openai_door_is_still_googles(router: Router) -> None:
    route = router.find(b"/v1beta/openai/chat/completions", "openai")
    assert (route.dialect.name, route.home.name) == ("openai", "gemini")
    assert router.choose(route.home, "gemini-2.5-pro").name == "gemini"


@pytest.mark.parametrize(
    ("path", "hint", "dialect", "model"),
    [
        (b"/v1/chat/completions", "anthropic", "openai", None),
        (b"/v1/responses", "openai", "openai", None),
        (b"/v1/responses/resp_1/cancel", "openai", "openai", None),
        (b"/v1/embeddings", "openai", "openai", None),
        (b"/v1/messages", "openai", "anthropic", None),
        (b"/v1/messages/count_tokens", "openai", "anthropic", None),
        (b"/v1/models", "openai", "openai", None),
        (b"/v1/models", "anthropic", "anthropic", None),
        (b"/v1/models", "gemini", "gemini", None),
        (b"/v1/models/gpt-4o", "openai", "openai", None),
        (b"/v1/models/gemini-2.0-flash:generateContent", "openai", "gemini", "gemini-2.0-flash"),
        (b"/v1/models/gemini%2D2.0:countTokens", "openai", "gemini", "gemini-2.0"),
        (b"/v1beta/models/gemini-2.0-flash:streamGenerateContent", "openai", "gemini", "gemini-2.0-flash"),
        (b"/v1beta/models", "openai", "gemini", None),
    ],
)
def test_unified(router: Router, path: bytes, hint: str, dialect: str, model: str | None) -> None:
    route = router.find(path, hint)
    assert (route.kind, route.upstream, route.dialect.name, route.model) == ("unified", None, dialect, model)
    assert route.streams == (b"stream" in path)


@pytest.mark.parametrize(
    "path",
    [b"/", b"/v1", b"/v1/", b"/v1/nowhere", b"/v1/chatx", b"/v2/chat/completions", b"/V1/chat/completions",
     b"/openaix", b"/OPENAI/v1/x", b"/x/openai/v1/chat/completions", b"/-", b"/v1/chat%2Fcompletions",
     b"/open%61i/v1/x", b"/v1/models/a%2fb"],
)  # fmt: skip
def test_no_route(router: Router, path: bytes) -> None:
    with pytest.raises(NoRoute) as caught:
        router.find(path, "openai")
    assert caught.value.status in (400, 404)


@pytest.mark.parametrize(
    ("dialect", "model", "upstream"),
    [
        ("openai", "gpt-4o", "openai"),
        ("openai", "llama-3.1-8b", "local"),
        ("openai", "gpt-oss-20b", "local"),
        ("openai", None, "openai"),
        ("openai", "something-of-nobody", "openai"),
        ("anthropic", "claude-sonnet-4", "anthropic"),
        ("anthropic", None, "anthropic"),
        ("anthropic", "anything", "anthropic"),
        ("gemini", "gemini-2.0-flash", "gemini"),
        ("openai", "claude-sonnet-4", None),
        ("openai", "gemini-2.0-flash", None),
    ],
)
def test_choice_by_model(router: Router, dialect: str, model: str | None, upstream: str | None) -> None:
    for _ in range(2):
        if upstream is None:
            with pytest.raises(NoRoute):
                router.choose(dialects()[dialect], model)
        else:
            assert router.choose(dialects()[dialect], model).name == upstream


@given(st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_model_name_breaks_the_choice(router: Router, model: str) -> None:
    try:
        assert router.choose(dialects()["openai"], model).dialect.name == "openai"
    except NoRoute as no:
        assert len(no.message) < 1000


@pytest.mark.parametrize(
    "mount", ["/", "/v1", "/v1beta", "/-", "/-/x", "/v1/", "x", "/a//b", "/a/../b", "/a?b", "/a%2fb"]
)
def test_mounts_that_may_not_be(tmp_path: Path, mount: str) -> None:
    with pytest.raises(ConfigError):
        snapshot_router(tmp_path, f'  a: {{request_path: "{mount}", target_url: "http://h"}}\n')


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "http://u:p@h",
        "http://h?a=b",
        "http://h#f",
        "h",
        "http://",
        "//h",
        "http://h/a/../b",
        "http://h:99999",
        "http://a b",
    ],
)
def test_targets_that_may_not_be(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError):
        snapshot_router(tmp_path, f'  a: {{target_url: "{url}"}}\n')


# --- on the wire


def config(upstreams: Upstreams) -> str:
    return f"""
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{target_url: "{upstreams("openai").url}/tenant/v1", api_key: "sk-mine-0123456789"}}
  anthropic: {{target_url: "{upstreams("anthropic").url}", api_key: "sk-theirs-0123456789"}}
  local: {{target_url: "{upstreams("local").url}", models: ["llama-*"], dialect: openai}}
api_keys:
  static:
    - {{id: me, key: "{KEY}"}}
    - {{id: bound, key: "{KEY}-bound", upstreams: [openai]}}
"""


@pytest.fixture
def server(shared_gateway: StartGateway, upstreams: Upstreams) -> Gateway:
    return shared_gateway(config(upstreams))


BOUND = b"Authorization: Bearer " + KEY.encode() + b"-bound"


@pytest.mark.parametrize(
    ("target", "body", "headers", "upstream", "sent"),
    [
        (b"/openai/chat/completions?a=b", b'{"model":"x"}', [], "openai", b"/tenant/v1/chat/completions?a=b"),
        (b"/openai/v1/chat/completions", b'{"model":"x"}', [], "openai", b"/tenant/v1/chat/completions"),
        (b"/v1/chat/completions", b'{"model":"gpt-4o"}', [], "openai", b"/tenant/v1/chat/completions"),
        (b"/v1/chat/completions", b'{"model":"llama-3"}', [], "local", b"/v1/chat/completions"),
        (b"/v1/chat/completions", b'{"model":"llama-3"}', [b"Host: x"][:0], "local", b"/v1/chat/completions"),
        (b"/v1/messages", b'{"model":"claude-x"}', [], "anthropic", b"/v1/messages"),
        (b"/v1/models", b"", [], "openai", b"/tenant/v1/models"),
        (b"/v1/models?limit=5", b"", [b"anthropic-version: 2023-06-01"], "anthropic", b"/v1/models?limit=5"),
    ],
)
def test_on_the_wire(
    target: bytes, body: bytes, headers: list[bytes], upstream: str, sent: bytes, server: Gateway, upstreams: Upstreams
) -> None:
    method = b"POST" if body else b"GET"
    got = server.ask(request(target, body, method=method, headers=headers), method)
    assert got.status == 200
    seen = upstreams(upstream).request()
    assert seen.target == sent
    assert seen.get(b"host") == [upstreams(upstream).url[7:].encode()]
    row = server.row(got)
    assert row["upstream"] == upstream
    assert row["route"] == ("mount" if target.startswith(b"/openai") else "unified")


@pytest.mark.parametrize(
    "path",
    [b"/openai/../anthropic/v1/messages", b"/openai/./x", b"/openai//x", b"//openai/x", b"/openai/%2e%2e/x",
     b"/openai/x%5cy", b"/openai\\x", b"/openai/x%00", b"/openai/..%2f..%2fanthropic", b"/openai/v1/..;/x",
     b"/v1/../openai/x", b"/v1//models", b"/v1/chat%2fcompletions", b"/openai/%2e/x", b"/%2e%2e/openai/x",
     b"/openai/%2fx", b"/openai/.."],
)  # fmt: skip
def test_two_readings_are_refused(path: bytes, server: Gateway, upstreams: Upstreams) -> None:
    got = server.ask(request(path))
    assert got.status == 400
    assert b'"invalid_path"' in got.body
    assert not any(upstreams(name).requests for name in ("openai", "anthropic", "local"))


@pytest.mark.parametrize(
    "headers",
    [[b"X-Forwarded-Host: evil.example"], [b"Forwarded: host=evil.example"], [b"X-Original-URL: /anthropic/x"],
     [b"X-Rewrite-URL: /anthropic/x"], [b"X-HTTP-Method-Override: DELETE"], [b"X-Target-URL: http://evil.example"],
     [b"x-fluxen-upstream: anthropic"], [b"Location: http://evil.example"]],
)  # fmt: skip
def test_nothing_in_a_request_can_name_a_host(headers: list[bytes], server: Gateway, upstreams: Upstreams) -> None:
    body = b'{"model":"x","base_url":"http://evil.example","upstream":"anthropic","target_url":"http://evil.example"}'
    assert (
        server.ask(request(b"/openai/v1/x?url=http://evil.example&upstream=anthropic", body, headers=headers)).status
        == 200
    )
    assert (
        upstreams("openai").request().line == b"POST /tenant/v1/x?url=http://evil.example&upstream=anthropic HTTP/1.1"
    )
    assert upstreams("openai").request().get(b"host") == [upstreams("openai").url[7:].encode()]
    assert not upstreams("anthropic").requests


PIECES = st.sampled_from(
    [b"/", b"/", b"/openai", b"/anthropic", b"/v1", b"/messages", b"/models", b"/chat/completions", b"..",
     b".", b"%2e", b"%2E%2e", b"%2f", b"%2F", b"%5c", b"\\", b";", b":", b"@", b"#", b"%23", b"%3f", b"?",
     b"%00", b"%0d%0a", b"%61nthropic", b"a", b"*", b"http://evil", b"%252e", b"%c0%af", b"-", b"&", b"=", b"//"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(PIECES, max_size=8), st.sampled_from([b"", b"/openai", b"/openai/v1", b"/anthropic", b"/v1", b"/local"])
)
def test_no_spelling_leads_elsewhere(server: Gateway, upstreams: Upstreams, pieces: list[bytes], start: bytes) -> None:
    """A key that may use one upstream reaches that one only, and there only what lies below its base path, however
    the path is spelled and however the upstream decodes and walks it."""
    target = b"/" + start.lstrip(b"/") + b"".join(pieces)
    got = server.ask(request(target, b'{"model":"llama-3","model":"claude-x","Model":"x"}', key=BOUND))
    event(f"answered {got.status}")
    assert got.status in (200, 400, 401, 403, 404)
    assert not upstreams("anthropic").requests
    assert not upstreams("local").requests
    for seen in upstreams("openai").requests:
        path = seen.target.partition(b"?")[0]
        for reading in (path, unquote_to_bytes(path)):
            walked = posixpath.normpath(reading.decode("latin-1").replace("\\", "/"))
            assert walked == "/tenant" or walked.startswith("/tenant/"), seen.target
    upstreams("openai").requests.clear()
