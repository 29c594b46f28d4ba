"""Endpoint templates that can't leak or grow, models in paths, and refusals in the caller's own shape."""

from __future__ import annotations

import json
import re

import anthropic
import httpx2
import openai
import pytest
from google.genai import errors as google_errors
from hypothesis import given
from hypothesis import strategies as st

from fluxen.providers.dialect import Dialect, dialects, spoken_at

ALL = list(dialects().values())
OPENAI, ANTHROPIC, GEMINI = dialects()["openai"], dialects()["anthropic"], dialects()["gemini"]
BEDROCK, COHERE, OLLAMA = dialects()["bedrock"], dialects()["cohere"], dialects()["ollama"]


@pytest.mark.parametrize(
    ("dialect", "path", "template"),
    [
        (OPENAI, "/v1/chat/completions", "/v1/chat/completions"),
        (OPENAI, "/chat/completions", "/v1/chat/completions"),
        (OPENAI, "/v1/chat/completions/", "/v1/chat/completions"),
        (OPENAI, "/v1/responses/resp_123", "/v1/responses/{id}"),
        (OPENAI, "/v1/responses/input_tokens", "/v1/responses/input_tokens"),
        (OPENAI, "/v1/responses/compact", "/v1/responses/compact"),
        (OPENAI, "/v1/responses/resp_123/cancel", "/v1/responses/{id}/cancel"),
        (OPENAI, "/v1/files/file-abc/content", "/v1/files/{id}/content"),
        (OPENAI, "/v1/models/vendor/model", "/v1/models/{vendor}/{model}"),
        (OPENAI, "/v1/files//content", "/v1/{other}"),
        (OPENAI, "/v2/chat/completions", "/v1/{other}"),
        (OPENAI, "/v1/secret-thing/42", "/v1/{other}"),
        (OPENAI, "", "/v1/{other}"),
        (ANTHROPIC, "/v1/messages", "/v1/messages"),
        (ANTHROPIC, "/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        (ANTHROPIC, "/v1/messages/batches/msgbatch_1/results", "/v1/messages/batches/{id}/results"),
        (ANTHROPIC, "/v1/models/claude-x", "/v1/models/{model}"),
        (GEMINI, "/v1beta/models/gemini-2.5-pro:generateContent", "/v1beta/models/{model}:generateContent"),
        (GEMINI, "/v1/models/gemini-2.5-pro:streamGenerateContent", "/v1/models/{model}:streamGenerateContent"),
        (GEMINI, "/models/gemini-2.5-pro:countTokens", "/v1beta/models/{model}:countTokens"),
        (GEMINI, "/v1beta/models/e:batchEmbedContents", "/v1beta/models/{model}:batchEmbedContents"),
        (GEMINI, "/v1beta/tunedModels/mine:generateContent", "/v1beta/tunedModels/{model}:generateContent"),
        (GEMINI, "/v1beta/models/m:secret-method", "/v1beta/models/{model}:{method}"),
        (GEMINI, "/v1beta/models", "/v1beta/models"),
        (GEMINI, "/v1beta/models/gemini-2.5-pro", "/v1beta/models/{model}"),
        (GEMINI, "/v1beta/files/abc", "/v1beta/files/{id}"),
        (GEMINI, "/upload/v1beta/files", "/v1beta/files"),
        (GEMINI, "/v1beta/openai/models", "/v1beta/openai/models"),
        (
            GEMINI,
            "/v1beta1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
            "/v1/publishers/{publisher}/models/{model}:generateContent",
        ),
        (
            GEMINI,
            "/v1/projects/p/locations/l/publishers/google/models/m:new",
            "/v1/publishers/{publisher}/models/{model}:{method}",
        ),
        (BEDROCK, "/model/anthropic.claude-x%3A0/converse", "/model/{model}/converse"),
        (BEDROCK, "/model/arn%3Aaws%3Abedrock%3Aeu%2Fx/invoke", "/model/{model}/invoke"),
        (BEDROCK, "/guardrail/abc/version/3/apply", "/guardrail/{id}/version/{version}/apply"),
        (BEDROCK, "/agents/abc", "/{other}"),
        (COHERE, "/v2/chat", "/v2/chat"),
        (COHERE, "/v1/chat", "/v1/chat"),
        (COHERE, "/v3/chat", "/v1/{other}"),
        (COHERE, "/v1/connectors/mine", "/v1/connectors/{id}"),
        (OLLAMA, "/api/chat", "/api/chat"),
        (OLLAMA, "/api/blobs/sha256:0123", "/api/blobs/{digest}"),
        (OLLAMA, "/api/secret", "/api/{other}"),
        (GEMINI, "/v1beta/nothing/here", "/v1beta/{other}"),
    ],
)
def test_a_path_becomes_its_template(dialect: Dialect, path: str, template: str) -> None:
    assert dialect.endpoint(path) == template


SEGMENT = st.sampled_from(
    ["v1", "v1beta", "models", "chat", "completions", "files", "messages", "batches", "responses", "upload", "openai"]
) | st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=12)


@given(st.sampled_from(ALL), st.lists(SEGMENT, max_size=8), st.sampled_from(["", ":", ":generateContent", ":x"]))
def test_a_template_is_never_made_of_what_a_client_sent(dialect: Dialect, segments: list[str], method: str) -> None:
    """Whatever the path, the template is one of a fixed set: those of paths with every id replaced by another one."""
    path = "/" + "/".join(segments) + method
    template = dialect.endpoint(path)
    assert re.fullmatch(r"(/[A-Za-z0-9_-]+|/\{[a-z]+\})+(:[A-Za-z]+|:\{method\})?", template)
    assert len(template) < 80
    as_path = re.sub(r"\{(model|id|vendor|digest|version)\}", "zzz", template).replace("{publisher}", "google")
    assert dialect.endpoint(as_path) == template or "{other}" in template or "{method}" in template


def test_templates_know_nothing_of_ids() -> None:
    for dialect in ALL:
        seen = {
            dialect.endpoint(f"/v1/{word}/{n}/{n}:{n}")
            for n in range(200)
            for word in ("files", "models", "x", "responses")
        }
        assert len(seen) <= 6


def test_the_model_in_a_path() -> None:
    assert GEMINI.model_in_path("/v1beta/models/gemini-2.5-pro:generateContent") == "gemini-2.5-pro"
    assert GEMINI.model_in_path("/v1/models/a%20b%3Ac:streamGenerateContent") == "a b:c"
    assert GEMINI.model_in_path("/v1beta/models/gemini-2.5-pro") == "gemini-2.5-pro"
    assert GEMINI.model_in_path("/v1beta/tunedModels/mine:generateContent") == "mine"
    for path in (
        "/v1beta/models",
        "/v1beta/models/",
        "/v1beta/models/:generateContent",
        "/v1beta/files/a",
        "",
        ":",
        "/x:y",
    ):
        assert GEMINI.model_in_path(path) is None
    assert OPENAI.model_in_path("/v1/models/gpt-4o") is None
    assert ANTHROPIC.model_in_path("/v1/messages") is None
    vertex = "/v1/projects/p/locations/l/publishers"
    assert GEMINI.model_in_path(f"{vertex}/google/models/gemini-2.5-pro:generateContent") == "gemini-2.5-pro"
    assert ANTHROPIC.model_in_path(f"{vertex}/anthropic/models/claude-x@20250101:rawPredict") == "claude-x@20250101"
    assert ANTHROPIC.model_in_path(f"{vertex}/anthropic/models/count-tokens:rawPredict") is None
    assert OPENAI.model_in_path(f"{vertex}/mistralai/models/mistral-x:streamRawPredict") == "mistral-x"
    assert OPENAI.model_in_path("/openai/deployments/my%20gpt/chat/completions") == "my gpt"
    assert OPENAI.model_in_path("/deployments/my%20gpt/chat/completions") == "my gpt"  # below a target_url with /openai
    assert BEDROCK.model_in_path("/model/us.anthropic.claude-x%3A0/converse") == "us.anthropic.claude-x:0"
    assert BEDROCK.model_in_path("/model/arn%3Aaws%3Abedrock%2Fx/invoke") == "arn:aws:bedrock/x"
    assert BEDROCK.model_in_path("/model/x/other") is None


@pytest.mark.parametrize(
    ("path", "dialect", "endpoint"),
    [
        ("/v1/messages", "anthropic", "/v1/messages"),
        ("/api/anthropic/v1/messages", "anthropic", "/v1/messages"),
        ("/v1/messages/batches/b1/results", "anthropic", "/v1/messages/batches/{id}/results"),
        ("/v1/threads/t1/messages", "openai", "/v1/{other}"),
        ("/v1/chat/completions/c1/messages", "openai", "/v1/chat/completions/{id}/messages"),
        ("/api/v1/chat/completions", "openai", "/v1/chat/completions"),
        ("/openai/deployments/d/chat/completions", "openai", "/v1/chat/completions"),
        ("/openai/v1/responses/compact", "openai", "/v1/responses/compact"),
        ("/v1beta/openai/chat/completions", "openai", "/v1beta/openai/chat/completions"),
        ("/v1/projects/p/locations/l/endpoints/openapi/chat/completions", "openai", "/v1beta/openai/chat/completions"),
        ("/v1beta/models/m:generateContent", "gemini", "/v1beta/models/{model}:generateContent"),
        ("/google-vertex/v1beta1/publishers/google/models/m:embedContent", "gemini",
         "/v1/publishers/{publisher}/models/{model}:embedContent"),
        ("/v1/publishers/anthropic/models/m:streamRawPredict", "anthropic", "/v1/messages"),
        ("/v1/publishers/anthropic/models/count-tokens:rawPredict", "anthropic", "/v1/messages/count_tokens"),
        ("/v1/publishers/mistralai/models/m:rawPredict", "openai", "/v1/chat/completions"),
        ("/bedrock/model/m/converse-stream", "bedrock", "/model/{model}/converse-stream"),
        ("/v2/chat", "cohere", "/v2/chat"),
        ("/v1/chat", "openai", "/v1/chat"),
        ("/api/generate", "ollama", "/api/generate"),
        ("/nothing/of/this", "openai", "/v1/{other}"),
    ],
)  # fmt: skip
def test_a_protocol_is_recognised_by_its_address(path: str, dialect: str, endpoint: str) -> None:
    """Below any upstream that is not known to speak something else there."""
    spoken, found = spoken_at(path, OPENAI)
    assert (spoken.name, found) == (dialect, endpoint)
    for usual in ALL:
        if not usual.endpoint(path).endswith("{other}"):
            assert spoken_at(path, usual) == (usual, usual.endpoint(path))
        elif not endpoint.endswith("{other}") and OPENAI.endpoint(path).endswith("{other}"):
            assert spoken_at(path, usual) == (spoken, found)


def test_what_a_provider_says_it_speaks_comes_before_what_a_path_looks_like() -> None:
    assert spoken_at("/v1/chat", COHERE) == (COHERE, "/v1/chat")
    assert spoken_at("/api/embeddings", OPENAI, ("ollama",)) == (OLLAMA, "/api/embeddings")
    assert spoken_at("/api/embeddings", OPENAI) == (OPENAI, "/v1/embeddings")


def test_what_streams_by_its_path() -> None:
    assert BEDROCK.streams_by_path("/model/m/converse-stream")
    assert BEDROCK.streams_by_path("/model/m/invoke-with-response-stream")
    assert not BEDROCK.streams_by_path("/model/m/invoke")
    assert ANTHROPIC.streams_by_path("/v1/publishers/anthropic/models/m:streamRawPredict")
    assert GEMINI.streams_by_path("/v1beta/models/m:streamGenerateContent")
    assert not GEMINI.streams_by_path("/v1beta/models/m:generateContent")
    assert not OPENAI.streams_by_path("/v1/chat/completions")


MESSAGE = 'Budget "team" is spent – ask the owner'


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 426, 429, 431, 500, 502, 503, 504, 529])
def test_refusals_have_the_shape_their_sdk_reads(status: int) -> None:
    response = httpx2.Response(
        status,
        request=httpx2.Request("POST", "http://gateway/v1/x"),
        headers={"content-type": "application/json"},
        content=OPENAI.error_body(status, "budget_spent", MESSAGE),
    )
    raised = openai.OpenAI(api_key="x")._make_status_error_from_response(response)
    assert (raised.status_code, raised.code, raised.param) == (status, "budget_spent", None)
    assert MESSAGE in raised.message and raised.type

    response = httpx2.Response(
        status,
        request=response.request,
        headers=response.headers,
        content=ANTHROPIC.error_body(status, "budget_spent", MESSAGE),
    )
    failed = anthropic.Anthropic(api_key="x")._make_status_error_from_response(response)
    assert isinstance(failed.body, dict)
    assert failed.body["type"] == "error" and failed.body["error"]["message"] == MESSAGE

    body = json.loads(GEMINI.error_body(status, "budget_spent", MESSAGE))
    google = google_errors.APIError(status, body)
    assert (google.code, google.message) == (status, MESSAGE)
    assert re.fullmatch(r"[A-Z_]+", google.status or "")
    assert body["error"]["details"][0]["reason"] == "BUDGET_SPENT"


def test_refusals_of_the_others() -> None:
    """Bedrock's kind is what its SDK raises by; Cohere's and Ollama's SDKs go by the status and show the message."""
    for status, kind in [(400, "ValidationException"), (429, "ThrottlingException"), (502, "InternalServerException")]:
        body = json.loads(BEDROCK.error_body(status, "budget_spent", MESSAGE))
        assert body == {"__type": kind, "message": MESSAGE, "code": "budget_spent"}
    assert json.loads(COHERE.error_body(429, "budget_spent", MESSAGE))["message"] == MESSAGE
    assert json.loads(OLLAMA.error_body(429, "budget_spent", MESSAGE))["error"] == MESSAGE


def test_the_kind_of_error_is_the_providers_own_word() -> None:
    def kind(dialect: Dialect, status: int) -> str:
        error = json.loads(dialect.error_body(status, "c", "m"))["error"]
        return str(error.get("type") or error.get("status"))

    assert [kind(ANTHROPIC, s) for s in (400, 401, 403, 404, 413, 429, 502, 504)] == [
        *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
        *("request_too_large", "rate_limit_error", "api_error", "timeout_error"),
    ]
    assert [kind(GEMINI, s) for s in (400, 401, 403, 404, 429, 502, 504)] == [
        *("INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED"),
        *("UNAVAILABLE", "DEADLINE_EXCEEDED"),
    ]
    assert [kind(OPENAI, s) for s in (400, 401, 429, 502)] == [
        *("invalid_request_error", "authentication_error", "rate_limit_error", "server_error"),
    ]


@pytest.mark.parametrize(
    ("dialect", "billed", "paths"),
    [
        ("openai", "tokens", "/v1/chat/completions /v1/completions /v1/responses /v1/embeddings"),
        ("openai", "other", "/v1/images/generations /v1/audio/speech /v1/audio/transcriptions /v1/videos /v1/rerank"),
        ("openai", "free", "/v1/models /v1/responses/resp_1 /v1/responses/input_tokens /v1/files /v1/moderations"),
        ("anthropic", "tokens", "/v1/messages /v1/complete"),
        ("anthropic", "other", "/v1/messages/batches/b_1/results /v1/what/is/this"),
        ("anthropic", "free", "/v1/messages/count_tokens /v1/messages/batches /v1/models"),
        ("gemini", "tokens", "/v1beta/models/g:generateContent /v1beta/models/g:streamGenerateContent"),
        ("gemini", "tokens", "/v1beta/models/g:embedContent /v1beta/models/g:batchEmbedContents /v1beta/interactions"),
        ("gemini", "other", "/v1beta/models/g:predict /v1beta/models/g:whatIsThis"),
        ("gemini", "free", "/v1beta/models/g:countTokens /v1beta/models"),
        ("bedrock", "tokens", "/model/m/converse /model/m/converse-stream /model/m/invoke"),
        ("bedrock", "tokens", "/model/m/invoke-with-response-stream"),
        ("bedrock", "other", "/model/m/invoke-with-bidirectional-stream /async-invoke /what/is/this"),
        ("bedrock", "free", "/model/m/count-tokens /foundation-models"),
        ("cohere", "tokens", "/v2/chat /v1/generate /v2/embed"),
        ("cohere", "other", "/v2/rerank /v1/classify /v1/what/is/this"),
        ("cohere", "free", "/v1/tokenize /v1/models"),
        ("ollama", "tokens", "/api/chat /api/generate /api/embed"),
        ("ollama", "free", "/api/tags /api/show"),
    ],
)
def test_how_it_is_billed(dialect: str, billed: str, paths: str) -> None:
    """What may cost something and is not known to be free must never be taken for it: its cost would be 0."""
    spoken = dialects()[dialect]
    for path in paths.split():
        assert spoken.billing(spoken.endpoint(path)) == billed, path
