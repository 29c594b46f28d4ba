"""What the sections of a configuration have in common: unknown fields are errors, labels, names and times."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fluxen.config.values import problem

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Milliseconds = Annotated[StrictInt, Field(ge=1, le=86_400_000)]


def is_label(text: str) -> bool:
    """1 to 256 printable ASCII characters."""
    return 0 < len(text) <= 256 and text.isascii() and text.isprintable()


def is_title(text: str) -> bool:
    """The same of any script: for people, never in a header or a row."""
    return 0 < len(text) <= 256 and text.isprintable()


def _label(value: object) -> object:
    """Ids, teams, projects and tags: they go into rows and perhaps headers. A number is fine; it becomes text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not is_label(value):
        raise problem("expected 1 to 256 printable ASCII characters")
    return value


def _title(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not is_title(value):
        raise problem("expected 1 to 256 printable characters")
    return value


_TEXT = WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "number"}]})
Label = Annotated[str, BeforeValidator(_label), _TEXT]
Title = Annotated[str, BeforeValidator(_title), _TEXT]


def no_default(schema: dict[str, Any]) -> None:
    """For a field whose default is worked out: the JSON Schema shows none."""
    schema.pop("default", None)


def or_null(schema: dict[str, Any]) -> None:
    """For a list that may be written but empty."""
    schema["type"] = [schema["type"], "null"]


def one_of(*names: str) -> dict[str, Any]:
    """The JSON Schema of a mapping that has exactly one of these."""
    return {"oneOf": [{"required": [name]} for name in names]}


class Section(BaseModel):
    """One mapping of the file. Unknown fields are errors; an empty section (`server:`) means its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return {} if value is None else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        if not schema.get("required"):
            schema["type"] = ["object", "null"]  # as the validator above
        return schema
