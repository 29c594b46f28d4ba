"""What stands in a URL or a text and must not be shown."""

from __future__ import annotations

import secrets
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.keys.generate import new_key
from fluxen.telemetry.masking import shown_target
from fluxen.telemetry.secrets import FEW, Secrets


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models?limit=5&after=m", "/v1/models?limit=5&after=m"),
        ("/v1/m?key=K1&alt=sse", "/v1/m?key=***&alt=sse"),
        ("/v1/m?alt=sse&KEY=K1", "/v1/m?alt=sse&KEY=***"),
        ("/v1/m?api_key=K1&access_token=K2", "/v1/m?api_key=***&access_token=***"),
        ("/v1/m?X-Amz-Signature=K1;sig=K2", "/v1/m?X-Amz-Signature=***;sig=***"),
        ("/v1/m?%6bey=K1&%256Bey=K2", "/v1/m?%6bey=***&%256Bey=***"),
        ("/v1/m?client_secret=K1=K2&x", "/v1/m?client_secret=***&x"),
        ("/v1/m?password=&authorization=K", "/v1/m?password=&authorization=***"),
        ("/v1/m?a=1?key=K", "/v1/m?a=1?key=K"),  # one parameter, named a; its value is masked if it is a known secret
        ("/v1/m?", "/v1/m?"),
    ],
)
def test_targets(target: str, shown: str) -> None:
    assert shown_target(target.encode()) == shown


@given(st.binary())
def test_any_target_can_be_shown(target: bytes) -> None:
    assert len(shown_target(target)) >= len(target.partition(b"?")[0])


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(new_key(), id="a key of ours"),
        "sk-proj-" + "Ab1_" * 10,
        "sk-ant-api03-" + "a-B" * 20,
        "AIza" + "SyA1" * 9,
        "gsk_" + "x9" * 20,
        "xai-" + "k" * 40,
        "hf_" + "Q" * 34,
        "Bearer 0123456789abcdef",
        "Basic dXNlcjpwYXNzd29yZA==",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl",
    ],
)
def test_what_looks_like_a_key_is_masked_without_being_known(key: str) -> None:
    for text in (key, f"the key {key}, it says", f"x={key}&y", f'{{"key":"{key}"}}', f"/v1/{key}/x"):
        shown = Secrets().scrub(text)
        assert key.split(" ")[-1] not in shown
        assert "***" in shown


@pytest.mark.parametrize(
    "text",
    ["gpt-4o-mini", "claude-sonnet-4-5-20250929", "models/gemini-2.5-flash:streamGenerateContent", "sk-learn",
     "no connection within 10 s", "key-value stores", "/v1/threads/thread_abc123def456ghi789", "task-force-of-a-year"],
)  # fmt: skip
def test_what_looks_like_none_stays(text: str) -> None:
    assert Secrets(["a-secret-of-ours"]).scrub(text) == text


SECRET = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=40)


@given(st.lists(SECRET, min_size=1, max_size=60, unique=True), st.text(max_size=30), st.data())
def test_a_known_secret_is_found_wherever_it_stands(known: list[str], around: str, data: st.DataObject) -> None:
    secret = data.draw(st.sampled_from(known))
    shown = Secrets(known).scrub(around + secret + around[::-1] + secret)
    assert secret not in shown


def test_many_secrets_are_found_as_few_are() -> None:
    letters = string.ascii_letters + string.digits
    many = ["".join(secrets.choice(letters) for _ in range(20)) for _ in range(20 * FEW)]
    text = "-".join(many[:40])
    assert Secrets(many).scrub(text) == "-".join(["***"] * 40)
    assert Secrets(many[:4]).scrub(text) == "-".join(["***"] * 4 + many[4:40])


def test_a_short_secret_is_not_looked_for() -> None:
    assert Secrets(["admin"]).scrub("the admin listener") == "the admin listener"


def test_it_shows_nothing_of_itself() -> None:
    assert repr(Secrets(["a-secret-of-ours"])) == "Secrets()"
