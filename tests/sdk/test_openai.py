"""The official `openai` SDK by base URL alone."""

from __future__ import annotations

import asyncio
import hashlib

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from sdk.conftest import NARROW_KEY, Place, printed_variables
from sdk.provider import CACHED, INPUT, OUTPUT, TEXT, Seen

HELLO = [{"role": "user", "content": "Say hello — 你好"}]


def client(place: Place, retries: int = 0, key: str | None = None) -> OpenAI:
    return OpenAI(base_url=place.url("openai", "/v1"), api_key=key or place.key, max_retries=retries)


def arrived(place: Place) -> Seen:
    """The request at the provider, with the right credential on it."""
    seen = place.provider.last
    assert seen.header("authorization") == f"Bearer {place.credential('openai')}"
    return seen


def test_chat(place: Place) -> None:
    with client(place) as openai_:
        raw = openai_.chat.completions.with_raw_response.create(model="gpt-5", messages=HELLO)
        answer = raw.parse()
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == INPUT + CACHED + OUTPUT
    assert raw.headers["x-request-id"] == "req_of_provider"
    assert arrived(place).json == {"model": "gpt-5", "messages": HELLO}
    place.check_row(raw.headers["x-fluxen-id"], "/v1/chat/completions")


def test_chat_streamed(place: Place) -> None:
    with client(place) as openai_:
        stream = openai_.chat.completions.create(
            model="gpt-5", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        id = stream.response.headers["x-fluxen-id"]
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage is not None
    arrived(place)
    place.check_row(id, "/v1/chat/completions", stream=True)


def test_a_stream_reports_although_its_client_does_not_ask(keyed: Place) -> None:
    """Fluxen asks, and the SDK sees no chunk that it would not see without."""
    with client(keyed) as openai_:
        stream = openai_.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert arrived(keyed).json["stream_options"] == {"include_usage": True}
    keyed.check_row(stream.response.headers["x-fluxen-id"], "/v1/chat/completions", stream=True)


@pytest.mark.parametrize("options", [{"include_usage": True}, None])
def test_leaving_at_the_last_word_is_no_error(keyed: Place, options: dict[str, bool] | None) -> None:
    """The SDK closes its connection when it reads [DONE]; the end of the body has mostly not come by then."""
    with client(keyed) as openai_:
        stream = openai_.chat.completions.create(
            model="hold-end", messages=HELLO, stream=True, stream_options=options or openai.omit
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    row = keyed.gateway.row(stream.response.headers["x-fluxen-id"])
    assert (row["status"], row["error"], row["finish"]) == (200, None, "stop")
    assert row["usage_source"] == "reported"


def test_responses(place: Place) -> None:
    with client(place) as openai_:
        raw = openai_.responses.with_raw_response.create(model="gpt-5", input="Hello?")
        assert raw.parse().output_text == TEXT
        with openai_.responses.stream(model="gpt-5", input="Hello?") as stream:
            said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
    assert said == final.output_text == TEXT
    assert final.usage is not None
    arrived(place)
    place.check_row(raw.headers["x-fluxen-id"], "/v1/responses")


def test_embeddings_and_models(place: Place) -> None:
    with client(place) as openai_:
        vectors = openai_.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert vectors.data[0].embedding == [0.5, -0.25, 1.0]
        arrived(place)
        assert [model.id for model in openai_.models.list()] == ["gpt-x"]
        assert arrived(place).target == "/v1/models"
        assert openai_.models.retrieve("gpt-x").owned_by == "me"


def test_an_upload_of_20_mb(place: Place) -> None:
    content = b"0123456789abcdef" * (20 << 16)
    sizes = []
    for url in (f"{place.provider.url}/v1", place.url("openai", "/v1")):
        with OpenAI(base_url=url, api_key=place.key, max_retries=0) as openai_:
            file = openai_.files.create(file=("batch.jsonl", content), purpose="batch")
            sizes.append(place.provider.last.size)
            assert file.bytes == sizes[-1] > len(content)
    assert sizes[0] == sizes[1]
    arrived(place)
    with client(place) as openai_:
        assert openai_.files.delete("file-1").deleted


def test_a_prompt_of_6_mb_arrives_to_the_byte(keyed: Place) -> None:
    seen = []
    for url in (f"{keyed.provider.url}/v1", keyed.url("openai", "/v1")):
        with OpenAI(base_url=url, api_key=keyed.key, max_retries=0) as openai_:
            openai_.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "wörd " * 1_200_000}])
            seen.append(keyed.provider.last)
    assert seen[0].sha256 == seen[1].sha256
    assert seen[0].size == seen[1].size > 6_000_000


def test_the_sdks_own_headers_arrive_as_they_were_sent(place: Place) -> None:
    """All of them, in order; only Host and the credential differ from a call without the gateway."""
    seen = []
    for url in (f"{place.provider.url}/v1", place.url("openai", "/v1")):
        with OpenAI(base_url=url, api_key=place.key, max_retries=0, organization="org-1") as openai_:
            openai_.responses.create(model="gpt-5", input="x", extra_headers={"x-custom": "Kept"})
            seen.append(place.provider.last)
    direct, through = ([header for header in one.headers if header[0].lower() != "authorization"] for one in seen)
    assert direct[0][0] == through[0][0] == "Host"
    dropped = [header for header in direct if header[0].lower() == "connection"]  # hop-by-hop
    assert [header for header in direct[1:] if header not in dropped] == through[1:]
    assert seen[1].header("x-custom") == "Kept"
    assert seen[0].sha256 == seen[1].sha256


def test_async(place: Place) -> None:
    async def talk() -> list[str | None]:
        async with AsyncOpenAI(base_url=place.url("openai", "/v1"), api_key=place.key, max_retries=0) as openai_:
            answers = await asyncio.gather(
                *(openai_.chat.completions.create(model="gpt-5", messages=HELLO) for _ in range(8))
            )
            stream = await openai_.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
            response = await openai_.responses.create(model="gpt-5", input="x")
            return [*(answer.choices[0].message.content for answer in answers), "".join(said), response.output_text]

    assert asyncio.run(talk()) == [TEXT] * 10
    arrived(place)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, openai.AuthenticationError), (404, openai.NotFoundError), (429, openai.RateLimitError),
        (500, openai.InternalServerError), (503, openai.InternalServerError),
    ],
)  # fmt: skip
def test_errors_of_the_provider_are_the_sdks_errors(
    place: Place, status: int, error: type[openai.APIStatusError]
) -> None:
    with client(place) as openai_, pytest.raises(error) as caught:
        openai_.chat.completions.create(model=f"fail-{status}", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (status, f"code_{status}")
    assert caught.value.response.headers.get("retry-after") == ("1" if status == 429 else None)
    assert "x-should-retry" not in caught.value.response.headers
    row = place.gateway.row(caught.value.response.headers["x-fluxen-id"])
    assert (row["status"], row["error"], row["cost_usd"]) == (status, "upstream_status", 0)


def test_the_sdk_repeats_what_the_provider_asks_to_repeat(keyed: Place) -> None:
    before = len(keyed.provider.seen)
    keyed.provider.failed.clear()
    with client(keyed, retries=2) as openai_:
        assert openai_.responses.create(model="fail-429-once", input="x").output_text == TEXT
    assert len(keyed.provider.seen) - before == 2


@pytest.mark.parametrize(
    ("key", "error", "status", "code"),
    [
        ("fx-unknown", openai.AuthenticationError, 401, "invalid_api_key"),
        (NARROW_KEY, openai.PermissionDeniedError, 403, "upstream_not_allowed"),
    ],
)
def test_our_own_refusals_are_not_repeated(
    keyed: Place, key: str, error: type[openai.APIStatusError], status: int, code: str
) -> None:
    answers: list[httpx2.Response] = []
    before = len(keyed.provider.seen)
    for route in (keyed.url("openai", "/v1"), keyed.gateway.url + "/openai/v1"):
        with (
            httpx2.Client(event_hooks={"response": [answers.append]}) as http,
            OpenAI(base_url=route, api_key=key, max_retries=3, http_client=http) as openai_,
            pytest.raises(error) as caught,
        ):
            openai_.responses.create(model="gpt-5", input="x", stream=True)
        assert (caught.value.status_code, caught.value.code) == (status, code)
    assert [answer.headers["x-should-retry"] for answer in answers] == ["false", "false"]
    assert len(keyed.provider.seen) == before


def test_a_path_nobody_serves_is_a_404(keyed: Place) -> None:
    url = keyed.gateway.url + "/nobody/v1"
    with OpenAI(base_url=url, api_key=keyed.key) as openai_, pytest.raises(openai.NotFoundError) as caught:
        openai_.chat.completions.create(model="gpt-5", messages=HELLO)
    assert caught.value.code == "no_route"


def test_the_variable_that_serve_prints(keyed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", printed_variables(keyed.gateway)["OPENAI_BASE_URL"])
    monkeypatch.setenv("OPENAI_API_KEY", keyed.key)
    with OpenAI() as openai_:
        assert openai_.responses.create(model="gpt-5", input="x").output_text == TEXT
    arrived(keyed)


def test_a_base_url_without_version(keyed: Place) -> None:
    """`/openai/chat/completions` arrives, too."""
    with OpenAI(base_url=keyed.gateway.url + "/openai", api_key=keyed.key, max_retries=0) as openai_:
        openai_.chat.completions.create(model="gpt-5", messages=HELLO)
    assert arrived(keyed).target == "/v1/chat/completions"


def test_leaving_a_stream_is_fine(keyed: Place) -> None:
    """The SDK gives its connection up; the next call works. Whether all had come by then is a matter of time."""
    with client(keyed) as openai_:
        stream = openai_.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
        assert openai_.responses.create(model="gpt-5", input="x").output_text == TEXT
    row = keyed.gateway.row(stream.response.headers["x-fluxen-id"])
    assert row["error"] in ("client_closed", None)
    assert row["usage_source"] in ("estimated", "reported")
    assert row["cost_usd"] > 0


def test_the_body_is_the_bytes_the_sdk_sent(keyed: Place) -> None:
    body = b'{"model" : "gpt-5",  "input":"\\u00e9\\ud83d\\ude00", "x_unknown":1.50}'
    with client(keyed) as openai_:
        openai_.post(
            "/responses",
            cast_to=httpx2.Response,
            content=body,
            options={"headers": {"Content-Type": "application/json"}},
        )
    assert arrived(keyed).sha256 == hashlib.sha256(body).hexdigest()
