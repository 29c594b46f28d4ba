"""Functions as OpenAI writes them into a prompt: TypeScript signatures in a namespace.

Not published: the form is inferred from what requests with tools are billed, and fits the recorded ones to two or
three tokens (docs/estimates.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from fluxen.analyzer.declared import Tool

_DEPTH: Final = 6  # beyond, a type is `any`: also where a shape refers to itself
_SHAPES: Final = 5000  # in all tools together
_TYPES: Final = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def signatures(tools: Iterable[Tool]) -> str:
    """All of them as one text."""
    return _Writer().namespace(tools)


class _Writer:
    def __init__(self) -> None:
        self._left = _SHAPES
        self._shapes: dict[str, Any] = {}  # that a `$ref` may name

    def namespace(self, tools: Iterable[Tool]) -> str:
        lines = ["namespace functions {", ""]
        for tool in tools:
            if tool.description:
                lines.append(f"// {tool.description}")
            if isinstance(tool.schema.get("properties"), dict) and tool.schema["properties"]:
                shapes = tool.schema.get("$defs")
                self._shapes = shapes if isinstance(shapes, dict) else {}
                lines += [f"type {tool.name} = (_: {{", *self._properties(tool.schema, 0), "}) => any;"]
            else:
                lines.append(f"type {tool.name} = () => any;")
            lines.append("")
        return "\n".join([*lines, "} // namespace functions"])

    def _properties(self, schema: dict[str, Any], depth: int) -> list[str]:
        required = schema.get("required")
        lines = []
        for name, shape in schema["properties"].items():
            optional = "" if isinstance(required, list) and name in required else "?"
            line = f"{name}{optional}: {self._type(shape, depth)},"
            if isinstance(shape, dict):
                if isinstance(shape.get("description"), str):
                    lines.append(f"// {shape['description']}")
                if "default" in shape:
                    line += f" // default: {shape['default']}"
            lines.append(line)
        return lines

    def _type(self, shape: Any, depth: int) -> str:
        self._left -= 1
        if not isinstance(shape, dict) or depth >= _DEPTH or self._left < 0:
            return "any"
        if isinstance(shape.get("$ref"), str):
            return self._type(self._shapes.get(shape["$ref"].rpartition("/")[2]), depth + 1)
        if isinstance(shape.get("anyOf"), list):
            return " | ".join(self._type(one, depth + 1) for one in shape["anyOf"])
        if isinstance(shape.get("enum"), list):
            return " | ".join(json.dumps(value, ensure_ascii=False, default=str) for value in shape["enum"])
        kind = shape.get("type")
        if isinstance(kind, list):
            return " | ".join(self._type({**shape, "type": one}, depth + 1) for one in kind)
        if kind == "array":
            return f"{self._type(shape['items'], depth + 1)}[]" if shape.get("items") else "any[]"
        if kind == "object":
            if not isinstance(shape.get("properties"), dict):
                return "object"
            return "\n".join(["{", *self._properties(shape, depth + 1), "}"])
        return _TYPES.get(str(kind), "any")
