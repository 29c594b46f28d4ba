"""The official `google-genai` SDK by base URL alone. Its asynchronous half uses aiohttp where that is installed."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from gateway.rig import KEY
from google import genai
from google.genai import errors, types
from sdk.conftest import Place, printed_variables
from sdk.provider import CACHED, INPUT, OUTPUT, REASONING, TEXT, Seen

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

MODEL = "gemini-2.5-flash"
ENDPOINT = "/v1beta/models/{model}:"


def client(place: Place, version: str = "v1beta", key: str | None = None) -> genai.Client:
    options = types.HttpOptions(base_url=place.url("gemini"), api_version=version)
    return genai.Client(api_key=key or place.key, http_options=options)


def arrived(place: Place) -> Seen:
    """The request at the provider, with the right credential on it."""
    seen = place.provider.last
    assert seen.header("x-goog-api-key") == place.credential("gemini")
    assert seen.header("authorization") is None
    return seen


def row_id(answer: types.GenerateContentResponse) -> str:
    assert answer.sdk_http_response is not None
    headers = {name.lower(): value for name, value in (answer.sdk_http_response.headers or {}).items()}
    return headers["x-fluxen-id"]


@pytest.mark.parametrize("version", ["v1beta", "v1"])
def test_generate(place: Place, version: str) -> None:
    with client(place, version) as gemini:
        answer = gemini.models.generate_content(model=MODEL, contents="Say hello — 你好")
    assert answer.text == TEXT
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count == INPUT + CACHED
    assert answer.usage_metadata.candidates_token_count == OUTPUT - REASONING
    assert arrived(place).target == f"/{version}/models/{MODEL}:generateContent"
    place.check_row(row_id(answer), f"/{version}/models/{{model}}:generateContent")


def test_generate_streamed(place: Place) -> None:
    with client(place) as gemini:
        parts = list(gemini.models.generate_content_stream(model=MODEL, contents="Hello?"))
    assert "".join(part.text or "" for part in parts) == TEXT
    assert arrived(place).target == f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
    place.check_row(row_id(parts[0]), ENDPOINT + "streamGenerateContent", stream=True)


def test_counting_embeddings_and_models(place: Place) -> None:
    with client(place) as gemini:
        assert gemini.models.count_tokens(model=MODEL, contents="x").total_tokens == INPUT
        arrived(place)
        embedded = gemini.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
        assert embedded.embeddings is not None
        assert [one.values for one in embedded.embeddings] == [[0.5, -0.25]] * 2
        arrived(place)
        assert [model.name for model in gemini.models.list()] == ["models/gemini-x"]
        assert arrived(place).path == "/v1beta/models"


def test_async(place: Place) -> None:
    async def talk() -> list[str | None]:
        async with client(place).aio as gemini:
            answers = await asyncio.gather(
                *(gemini.models.generate_content(model=MODEL, contents="Hello?") for _ in range(8))
            )
            stream = await gemini.models.generate_content_stream(model=MODEL, contents="Hello?")
            said = [part.text or "" async for part in stream]
        return [*(answer.text for answer in answers), "".join(said)]

    assert asyncio.run(talk()) == [TEXT] * 9
    arrived(place)


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_a_path_without_version(place: Place, method: str) -> None:
    """As LiteLLM builds it from a base URL of one's own."""
    url = f"{place.url('gemini')}/models/{MODEL}:{method}"
    with httpx2.Client(headers={"x-goog-api-key": place.key}) as http:
        answer = http.post(url, json={"contents": [{"parts": [{"text": "x"}]}]})
    assert answer.status_code == 200
    assert arrived(place).target == f"/v1beta/models/{MODEL}:{method}"
    name = method.partition("?")[0]
    place.check_row(answer.headers["x-fluxen-id"], ENDPOINT + name, stream=name.startswith("stream"))


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_errors_of_the_provider_are_the_sdks_errors(place: Place, status: int) -> None:
    expected = errors.ServerError if status >= 500 else errors.ClientError
    with client(place) as gemini, pytest.raises(expected) as caught:
        gemini.models.generate_content(model=f"fail-{status}", contents="x")
    assert caught.value.code == status
    assert place.provider.last.path == f"/v1beta/models/fail-{status}:generateContent"


@pytest.mark.parametrize("route", ["unified", "mount"])
def test_our_own_refusals_are_the_sdks_errors(keyed: Place, route: str) -> None:
    before = len(keyed.provider.seen)
    place = Place(keyed.gateway, keyed.provider, route, KEY, False)
    with client(place, key="fx-unknown") as gemini, pytest.raises(errors.ClientError) as caught:
        gemini.models.generate_content(model=MODEL, contents="x")
    assert (caught.value.code, caught.value.status) == (401, "UNAUTHENTICATED")
    assert "API key" in str(caught.value.message)
    assert len(keyed.provider.seen) == before


def test_the_variable_that_serve_prints(keyed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", printed_variables(keyed.gateway)["GOOGLE_GEMINI_BASE_URL"])
    monkeypatch.setenv("GEMINI_API_KEY", keyed.key)
    with genai.Client() as gemini:
        assert gemini.models.generate_content(model=MODEL, contents="x").text == TEXT
    arrived(keyed)
