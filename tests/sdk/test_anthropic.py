"""The official `anthropic` SDK by base URL alone."""

from __future__ import annotations

import asyncio

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from sdk.conftest import Place, printed_variables
from sdk.provider import CACHED, INPUT, OUTPUT, TEXT, Seen

HELLO = [{"role": "user", "content": "Say hello — 你好"}]
MODEL = "claude-opus-4-8"
CHANGED = ("x-api-key", "authorization", "host", "connection")


def client(place: Place, retries: int = 0) -> Anthropic:
    return Anthropic(base_url=place.url("anthropic"), max_retries=retries, api_key=place.key)


def arrived(place: Place) -> Seen:
    """The request at the provider, with the right credential on it."""
    seen = place.provider.last
    presented = [
        f"{name.lower()} {value}" for name, value in seen.headers if name.lower() in ("x-api-key", "authorization")
    ]
    key = place.credential("anthropic")
    assert presented in ([f"x-api-key {key}"], [f"authorization Bearer {key}"] if place.own else None)
    return seen


def test_messages(place: Place) -> None:
    with client(place) as anthropic_:
        raw = anthropic_.messages.with_raw_response.create(model=MODEL, max_tokens=50, messages=HELLO)
        answer = raw.parse()
    assert answer.content[0].type == "text"
    assert answer.content[0].text == TEXT
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (INPUT, CACHED)
    seen = arrived(place)
    assert seen.json == {"model": MODEL, "max_tokens": 50, "messages": HELLO}
    assert seen.header("anthropic-version") is not None
    place.check_row(raw.headers["x-fluxen-id"], "/v1/messages")


def test_the_key_as_x_api_key(place: Place) -> None:
    """As older versions of the SDK send it, and Claude Code: today's sends Bearer."""
    with (
        httpx2.Client(headers={"x-api-key": place.key}) as http,
        http.stream(
            "POST", f"{place.url('anthropic')}/v1/messages", json={"model": MODEL, "messages": HELLO}
        ) as answer,
    ):
        assert answer.status_code == 200
    arrived(place)


def test_messages_streamed(place: Place) -> None:
    with (
        client(place) as anthropic_,
        anthropic_.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream,
    ):
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
        id = stream.response.headers["x-fluxen-id"]
    assert said == TEXT
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", OUTPUT)
    arrived(place)
    place.check_row(id, "/v1/messages", stream=True)


def test_leaving_at_the_last_word_is_no_error(keyed: Place) -> None:
    """All there is to say has been said at message_stop, whether or not the end of the body has come."""
    with client(keyed) as anthropic_:
        stream = anthropic_.messages.create(model="hold-end", max_tokens=5, messages=HELLO, stream=True)
        for event in stream:
            if event.type == "message_stop":
                break
        stream.close()
    row = keyed.gateway.row(stream.response.headers["x-fluxen-id"])
    assert (row["status"], row["error"], row["finish"]) == (200, None, "end_turn")
    assert (row["usage_source"], row["output_tokens"]) == ("reported", OUTPUT)


def test_the_sdks_own_headers_arrive_as_they_were_sent(place: Place) -> None:
    """All of them, in order; only Host and the credential differ from a call without the gateway."""
    seen = []
    for url in (place.provider.url, place.url("anthropic")):
        with Anthropic(base_url=url, api_key=place.key, max_retries=0) as anthropic_:
            anthropic_.beta.messages.create(model=MODEL, max_tokens=5, messages=HELLO, betas=["a-1", "b-2"])
            seen.append(place.provider.last)
    direct, through = ([(name, value) for name, value in one.headers if name.lower() not in CHANGED] for one in seen)
    assert direct == through
    assert seen[1].header("anthropic-beta") == "a-1,b-2"
    assert (seen[0].target, seen[0].sha256) == (seen[1].target, seen[1].sha256)


def test_counting_and_models(place: Place) -> None:
    with client(place) as anthropic_:
        raw = anthropic_.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO)
        assert raw.parse().input_tokens == INPUT
        arrived(place)
        assert [model.id for model in anthropic_.models.list()] == ["claude-x"]
        assert arrived(place).path == "/v1/models"
    row = place.gateway.row(raw.headers["x-fluxen-id"])
    assert (row["usage_source"], row["cost_usd"]) == ("none", 0)


def test_async(place: Place) -> None:
    async def talk() -> list[str]:
        async with AsyncAnthropic(base_url=place.url("anthropic"), api_key=place.key, max_retries=0) as anthropic_:
            answers = await asyncio.gather(
                *(anthropic_.messages.create(model=MODEL, max_tokens=50, messages=HELLO) for _ in range(8))
            )
            async with anthropic_.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
                said = [text async for text in stream.text_stream]
        assert all(answer.content[0].type == "text" for answer in answers)
        return [*(getattr(answer.content[0], "text", "") for answer in answers), "".join(said)]

    assert asyncio.run(talk()) == [TEXT] * 9
    arrived(place)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, anthropic.AuthenticationError), (404, anthropic.NotFoundError), (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError), (503, anthropic.InternalServerError),
    ],
)  # fmt: skip
def test_errors_of_the_provider_are_the_sdks_errors(
    place: Place, status: int, error: type[anthropic.APIStatusError]
) -> None:
    with client(place) as anthropic_, pytest.raises(error) as caught:
        anthropic_.messages.create(model=f"fail-{status}", max_tokens=5, messages=HELLO)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == "req_f"
    assert caught.value.response.headers.get("retry-after") == ("1" if status == 429 else None)
    row = place.gateway.row(caught.value.response.headers["x-fluxen-id"])
    assert (row["status"], row["error"], row["cost_usd"]) == (status, "upstream_status", 0)


def test_the_sdk_repeats_what_the_provider_asks_to_repeat(keyed: Place) -> None:
    before = len(keyed.provider.seen)
    keyed.provider.failed.clear()
    with client(keyed, retries=2) as anthropic_:
        anthropic_.messages.create(model="fail-429-once", max_tokens=5, messages=HELLO)
    assert len(keyed.provider.seen) - before == 2


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_refusals_are_not_repeated(keyed: Place, stream: bool) -> None:
    answers: list[httpx2.Response] = []
    before = len(keyed.provider.seen)
    for base in (keyed.gateway.url, keyed.gateway.url + "/anthropic"):
        with (
            httpx2.Client(event_hooks={"response": [answers.append]}) as http,
            Anthropic(base_url=base, api_key="fx-unknown", max_retries=3, http_client=http) as anthropic_,
            pytest.raises(anthropic.AuthenticationError) as caught,
        ):
            anthropic_.messages.create(model=MODEL, max_tokens=5, messages=HELLO, stream=stream)
        assert isinstance(caught.value.body, dict)
        assert (caught.value.body["type"], caught.value.body["error"]["type"]) == ("error", "authentication_error")
    assert [answer.headers["x-should-retry"] for answer in answers] == ["false", "false"]
    assert len(keyed.provider.seen) == before


def test_two_credentials_are_refused(keyed: Place) -> None:
    also = {"x-api-key": keyed.key}
    with (
        Anthropic(base_url=keyed.gateway.url, auth_token=keyed.key, default_headers=also) as anthropic_,
        pytest.raises(anthropic.BadRequestError),
    ):
        anthropic_.messages.create(model=MODEL, max_tokens=5, messages=HELLO)


def test_the_variable_that_serve_prints(keyed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", printed_variables(keyed.gateway)["ANTHROPIC_BASE_URL"])
    monkeypatch.setenv("ANTHROPIC_API_KEY", keyed.key)
    with Anthropic() as anthropic_:
        assert anthropic_.messages.create(model=MODEL, max_tokens=5, messages=HELLO).stop_reason == "end_turn"
    arrived(keyed)
