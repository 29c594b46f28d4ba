"""Recorded exchanges whose cost is another than in the expected file, each with the reason.

The expected file prices every answer by its tokens in the standard tier, with genai-prices. docs/usage-and-prices.md
explains each reason; a test holds this list to what is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

TIER = "served in a tier that has its own prices: priority at twice, flex at half of the standard ones"
SEARCH = "billed searches whose price OpenRouter does not publish: the cost is unknown, its own statement stands beside"
UNPRICED = "the source lists the model without a price and counts that as 0; to us it is unknown"
ROUNDED = "$1/12 per million cache writes is no whole number of pico-dollars per token: rounded in the book"

EXPLAINED: Mapping[str, str] = {
    "traces/cassettes/test_chat/test_chat_with_service_tier.yaml#0": TIER,
    "traces/cassettes/test_chat/test_chat_with_service_tier.yaml#1": TIER,
    "traces/cassettes/test_chat/test_chat_with_service_tier.yaml#2": TIER,
    "test_openai_responses/test_openai_responses_streaming_usage.yaml#0": TIER,
    "test_google/test_google_vertex_service_tier_flex.yaml#0": TIER,
    "test_google/test_google_vertex_service_tier_flex_stream.yaml#0": TIER,
    "test_openrouter_web_search_annotations_stream.yaml#0": SEARCH,
    "test_openrouter_web_search_tool_usage.yaml#0": SEARCH,
    "test_openrouter_web_search_tool_usage_stream.yaml#0": SEARCH,
    "test_openai_model_cerebras_provider_qwen_3_coder.yaml#0": UNPRICED,
    "test_openai_model_cerebras_provider_qwen_3_coder.yaml#1": UNPRICED,
    "test_openrouter_cache_instructions_gemini_real_api.yaml#0": ROUNDED,
}


def why(id: str) -> str | None:
    """Why the cost of this exchange differs; None: it must not."""
    return next((reason for end, reason in EXPLAINED.items() if id.endswith(end)), None)


def agrees(cost: int | None, expected: Mapping[str, Any]) -> bool:
    """Whether a cost in pico-dollars is the expected one, by its tokens alone or with the fee for searches."""
    if expected["cost_usd"] is None:
        return cost is None
    tokens, fee = Decimal(expected["cost_usd"]), Decimal(expected["search_fee_usd"] or 0)
    return cost in (tokens * 10**12, (tokens + fee) * 10**12)
