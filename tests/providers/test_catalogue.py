"""The catalogue: complete entries, and model names that are recognised only where one provider can be meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fluxen.analyzer.prices import PriceBook
from fluxen.config.load import load_config
from fluxen.errors import ConfigError
from fluxen.gateway.snapshot import build
from fluxen.providers.catalogue import load_catalogue, provider_for_model, provider_of_upstream
from fluxen.providers.dialect import dialects

CATALOGUE = load_catalogue()


def test_every_provider_can_be_called() -> None:
    assert {"openai", "anthropic", "gemini", "groq", "mistral", "deepseek", "xai", "openrouter"} <= CATALOGUE.keys()
    for provider in CATALOGUE.values():
        assert {provider.dialect, *provider.also} <= dialects().keys()
        assert provider.env or provider.name == "lmstudio"
        assert provider.version_segment in ("", "/v1", "/v1beta")
        assert provider.credential_header == provider.credential_header.lower()
        if provider.base_url is None:
            assert provider.hosts
            continue
        target = urlsplit(provider.base_url)
        assert target.scheme == "https" or target.hostname == "127.0.0.1", provider.name
        assert not target.query and not target.username and not provider.base_url.endswith("/")
        assert not provider.base_url.endswith(("/v1", "/v1beta"))  # the version is inserted, not part of the address


def test_a_model_to_try_is_the_providers_and_has_a_price() -> None:
    tried = [provider for provider in CATALOGUE.values() if provider.try_model is not None]
    assert {provider.dialect for provider in tried} == {"openai", "anthropic", "gemini"}
    for provider in tried:
        assert provider.try_model is not None
        assert provider_for_model(provider.try_model, CATALOGUE) == provider.name
        assert PriceBook.shipped().find(provider.name, provider.try_model, datetime.now(UTC)) is not None


def test_aliases_are_the_same_provider() -> None:
    assert CATALOGUE["google"] is CATALOGUE["gemini"]
    assert CATALOGUE["gemini"].env == ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    assert (CATALOGUE["gemini"].credential_header, CATALOGUE["gemini"].credential_scheme) == ("x-goog-api-key", "")
    assert (CATALOGUE["openai"].credential_header, CATALOGUE["openai"].credential_scheme) == (
        "authorization",
        "Bearer ",
    )


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("gpt-5.2-codex", "openai"),
        ("chatgpt-4o-latest", "openai"),
        ("o1", "openai"),
        ("o3-mini-2025-01-31", "openai"),
        ("o4-mini", "openai"),
        ("codex-mini-latest", "openai"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "openai"),
        ("text-embedding-3-small", "openai"),
        ("dall-e-3", "openai"),
        ("whisper-1", "openai"),
        ("tts-1-hd", "openai"),
        ("claude-sonnet-4-5-20250929", "anthropic"),
        ("gemini-2.5-pro", "gemini"),
        ("models/gemini-2.5-pro", "gemini"),
        ("gemini-embedding-001", "gemini"),
        ("text-embedding-004", "gemini"),
        ("mistral-large-latest", "mistral"),
        ("codestral-2501", "mistral"),
        ("deepseek-chat", "deepseek"),
        ("grok-4", "xai"),
        ("sonar-pro", "perplexity"),
        ("embed-v4.0", "cohere"),
        ("rerank-v3.5", "cohere"),
        ("palmyra-x5", "writer"),
        ("voyage-3.5", "voyageai"),
        # Served by many, or by nobody we know: no guess.
        ("gpt-oss-120b", None),
        ("llama-3.3-70b-versatile", None),
        ("gemma-3-27b-it", None),
        ("qwen3-coder", None),
        ("command-r", None),
        ("whisper-large-v3", None),
        ("openai/gpt-4o", None),
        ("deepseek-r1:8b", None),
        ("gpt-4o:latest", None),
        ("mistral-7b/instruct", None),
        ("o1x", None),
        ("my-gpt-4", None),
        ("", None),
    ],
)
def test_a_model_names_its_provider(model: str, provider: str | None) -> None:
    assert provider_for_model(model, CATALOGUE) == provider


def test_a_name_that_two_providers_claim_is_nobodys() -> None:
    one, other = CATALOGUE["openai"], CATALOGUE["mistral"]
    assert provider_for_model("gpt-4o", {"a": one, "alias": one}) == "openai"
    assert provider_for_model("gpt-4o", {"b": other}) is None
    claims = replace(one, name="another", _names=one._names)
    assert provider_for_model("gpt-4o", {"a": one, "b": other, "c": claims}) is None
    assert provider_for_model("mistral-small", {"a": one, "b": other, "c": claims}) == "mistral"
    assert provider_for_model("gpt-4o", {}) is None


@pytest.mark.parametrize(
    ("name", "url", "provider"),
    [
        ("openai", None, "openai"),
        ("openai", "http://127.0.0.1:9200", "openai"),  # its name says whose it is: a proxy of one's own
        ("backup", "https://api.openai.com", "openai"),
        ("backup", "https://api.openai.com/v1", "openai"),
        ("fast", "https://api.groq.com/openai/v1", "groq"),
        ("fast", "https://api.groq.com/other", None),
        ("fast", "https://api.groq.com/openai-too/v1", None),
        ("gpu", "http://10.0.0.7:8000/v1", None),
        ("gpu", "http://127.0.0.1:8000", None),
        ("gpu", "https://api.openai.com.evil.example", None),
        ("gpu", None, None),
        ("google-vertex", "http://127.0.0.1:9200", "vertex"),
        ("eu", "https://europe-west4-aiplatform.googleapis.com", "vertex"),
        ("claude", "https://bedrock-runtime.eu-central-1.amazonaws.com", "bedrock"),
        ("gpt", "https://mine.openai.azure.com", "azure"),
        ("gpt", "https://openai.azure.com.evil.example", None),
        ("lake", "https://org-account.snowflakecomputing.com/api/v2/cortex", "snowflake"),
    ],
)
def test_whose_an_upstream_is(name: str, url: str | None, provider: str | None) -> None:
    found = provider_of_upstream(name, url, CATALOGUE)
    assert (found and found.name) == provider


@pytest.mark.parametrize(
    ("name", "url", "dialect", "provider"),
    [
        ("cohere", None, "cohere", "cohere"),
        ("cohere", None, None, "cohere"),
        ("cohere", "http://10.0.0.7:8000", "openai", None),  # somebody's own server, whatever he calls it
        ("gpu", "https://api.anthropic.com", "openai", None),
        ("gpu", "https://api.anthropic.com", "anthropic", "anthropic"),
    ],
)
def test_who_speaks_another_dialect_is_nobody_we_know(
    name: str, url: str | None, dialect: str | None, provider: str | None
) -> None:
    """And has none of his list prices."""
    found = provider_of_upstream(name, url, CATALOGUE, dialect)
    assert (found and found.name) == provider


def test_where_nothing_else_is_the_address_has_to_be_given(tmp_path: Path) -> None:
    """Azure gives everybody a host of his own: a key in the environment makes no upstream, a section needs its URL."""
    assert CATALOGUE["azure"].base_url is None
    env = {"AZURE_OPENAI_API_KEY": "k-0123456789"}
    loaded = load_config(None, env)
    assert "azure" not in {upstream.name for upstream in build(loaded, env).upstreams}
    file = tmp_path / "fluxen.yaml"
    file.write_text("version: 1\nupstreams: {azure: {}}\n")
    with pytest.raises(ConfigError) as caught:
        build(load_config(file, env), env)
    assert "every azure account has an address of its own: it needs a target_url" in caught.value.problems[0]
