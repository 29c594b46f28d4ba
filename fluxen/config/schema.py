"""The JSON Schema of fluxen.yaml, for editors: made of the models, and shipped as a file beside them.

It accepts whatever the loader may accept: an editor must not underline a file that works. What only the loader can
tell (two mounts that are the same, a variable that isn't set) is for `fluxen validate`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

FILE = "fluxen.schema.json"


def shipped() -> str:
    """The file's text. Needs none of the models."""
    return files("fluxen.config").joinpath(FILE).read_text("utf-8")


def made_of(model: type[BaseModel]) -> str:
    """What the file has to say about this model."""
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fluxen.yaml",
        "description": "The configuration of Fluxen, a self-hosted AI gateway",
    }
    return json.dumps(about | (_plain(model.model_json_schema()) | about), indent=1, ensure_ascii=False) + "\n"


def _plain(value: object, names: bool = False) -> dict[str, object]:
    """Without the titles that are only the fields' names again. names: the keys are names of fields, not keywords."""
    if not isinstance(value, dict):
        return value  # type: ignore[return-value]
    return {
        name: _plain(inner, names=not names and name in ("properties", "$defs"))
        if not isinstance(inner, list)
        else [_plain(item) for item in inner]
        for name, inner in value.items()
        if names or name != "title"
    }
