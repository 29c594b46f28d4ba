"""What a request declares beside its messages: tools, the schema an answer has to follow, how long it may be.

Whatever JSON stands in these fields, nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

_LIMITS: Final = (
    "max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens", "maxTokens", "num_predict",
    "maxTokenCount", "max_gen_len", "max_tokens_to_sample",
)  # fmt: skip
_DEPTH: Final = 8
_LIMITED: Final = ("generationConfig", "generation_config", "inferenceConfig", "options", "textGenerationConfig")
_SCHEMAS: Final = (
    "parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema",
    "parameter_definitions",
)  # fmt: skip


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A function that the model may call. `schema` is the JSON schema of its parameters."""

    name: str
    description: str
    schema: dict[str, Any]


def tools_of(asked: dict[str, Any]) -> tuple[list[Tool], int]:
    """(functions, how many tools the provider itself runs)."""
    own: list[Tool] = []
    hosted = 0
    configured = asked.get("toolConfig")
    inner = configured.get("tools") if isinstance(configured, dict) else None
    for tool in [*_dicts(asked.get("tools")), *_dicts(inner), *_dicts(asked.get("functions"))]:
        found = list(_functions(tool))
        own += found
        if not found and tool.keys() - {"cachePoint"}:
            hosted += 1
    return own, hosted


def _functions(tool: dict[str, Any]) -> Iterator[Tool]:
    declared = tool.get("functionDeclarations", tool.get("function_declarations"))
    if isinstance(declared, list):
        for one in _dicts(declared):
            yield _tool(one)
        return
    for key in ("function", "toolSpec"):
        inner = tool.get(key)
        if isinstance(inner, dict):
            tool = inner
    own = tool.get("type") in (None, "function", "custom") or "input_schema" in tool
    if own and isinstance(tool.get("name"), str):
        yield _tool(tool)


def _tool(tool: dict[str, Any]) -> Tool:
    schema: Any = next((tool[key] for key in _SCHEMAS if isinstance(tool.get(key), dict)), None)
    if schema is not None and isinstance(schema.get("json"), dict):  # Bedrock
        schema = schema["json"]
    return Tool(str(tool.get("name") or ""), str(tool.get("description") or ""), schema or {})


def schema_of(asked: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that the answer has to follow."""
    for key in ("response_format", "text", "output_config", "output_format"):
        place = asked.get(key)
        if isinstance(place, dict):
            inner = place.get("format", place)
            if isinstance(inner, dict):
                named = inner.get("json_schema")
                found = (named.get("schema") if isinstance(named, dict) else None) or inner.get("schema")
                if isinstance(found, dict):
                    return found
    for key in ("generationConfig", "generation_config"):
        configured = asked.get(key)
        if isinstance(configured, dict):
            for name in ("responseSchema", "responseJsonSchema", "response_schema", "response_json_schema"):
                if isinstance(configured.get(name), dict):
                    return dict(configured[name])
    output = asked.get("outputConfig")  # Bedrock: the schema is JSON in a string
    if isinstance(output, dict):
        written = [text for text in _strings(output) if text.lstrip()[:1] == "{"]
        try:
            found = msgspec.json.decode(written[0]) if written else None
        except (msgspec.DecodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    shape = asked.get("format")  # Ollama
    return shape if isinstance(shape, dict) else None


def limit_of(asked: dict[str, Any]) -> int | None:
    """The most tokens that the answer may have."""
    for place in (asked, *(asked.get(key) for key in _LIMITED)):
        if isinstance(place, dict):
            for name in _LIMITS:
                value = place.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and depth < _DEPTH:
        for inner in value.values():
            yield from _strings(inner, depth + 1)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
