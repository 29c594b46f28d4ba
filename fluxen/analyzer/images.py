"""How many tokens an image in a request is: its size from the first bytes of the file, then the provider's formula."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Any, Final

import msgspec

# OpenAI's (tokens of an image, tokens of each tile), https://platform.openai.com/docs/guides/images-vision
_TILES: Final = {"gpt-4o": (85, 170), "gpt-4o-mini": (2833, 5667), "gpt-5": (70, 140), "o-series": (75, 150)}
_START: Final = 64 * 1024  # characters of base64 that are looked at


class Image(msgspec.Struct, frozen=True, gc=False):
    """Width and height in pixels, None where the request only links to it; `detail` as OpenAI's field says."""

    width: int | None = None
    height: int | None = None
    detail: str | None = None


def data_image(data: str, detail: str | None) -> Image:
    """From base64, with or without `data:…;base64,` before it; anything else is an image nobody knows the size of."""
    if data.startswith("http"):
        return Image(None, None, detail)
    start = data.partition(",")[2] if data.startswith("data:") else data
    start = start[:_START]
    try:
        raw = base64.b64decode(start[: len(start) // 4 * 4])
    except (binascii.Error, ValueError):
        return Image(None, None, detail)
    size = measured(raw)
    return Image(size[0], size[1], detail) if size is not None else Image(None, None, detail)


def measured(raw: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG, GIF, JPEG or WebP from its first bytes."""
    if raw[:8] == b"\x89PNG\r\n\x1a\n" and len(raw) >= 24:
        return struct.unpack(">II", raw[16:24])
    if raw[:6] in (b"GIF87a", b"GIF89a") and len(raw) >= 10:
        return struct.unpack("<HH", raw[6:10])
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP" and len(raw) >= 30:
        return _webp(raw)
    if raw[:2] == b"\xff\xd8":
        return _jpeg(raw)
    return None


def _webp(raw: bytes) -> tuple[int, int] | None:
    kind = raw[12:16]
    if kind == b"VP8X":
        return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", raw[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _jpeg(raw: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", raw[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return None


def image_part(part: dict[str, Any]) -> Image | None:
    """The image that a part of a message is, in any provider's spelling; None if it is none."""
    linked = part.get("image_url")
    if linked is not None or part.get("type") == "input_image":
        url = linked.get("url") if isinstance(linked, dict) else linked
        detail = linked.get("detail") if isinstance(linked, dict) else part.get("detail")
        return data_image(url if isinstance(url, str) else "", detail if isinstance(detail, str) else None)
    if part.get("type") == "image":
        return _sourced(part.get("source", part))
    image = part.get("image")
    if isinstance(image, dict) and "source" in image:  # Bedrock
        return _sourced(image["source"])
    for inline in (part.get(key) for key in ("inlineData", "inline_data", "fileData", "file_data")):
        if isinstance(inline, dict):
            mime = inline.get("mimeType", inline.get("mime_type"))
            if isinstance(mime, str) and mime.startswith("image/"):
                return _sourced(inline)
    return None


def _sourced(source: Any) -> Image:
    data = next((source[key] for key in ("data", "bytes") if key in source), None) if isinstance(source, dict) else None
    return data_image(data if isinstance(data, str) else "", None)


def image_tokens(rule: str, image: Image) -> tuple[int, bool]:
    """(tokens of an image by the provider's published formula, whether its size was known). Without a size or a
    formula: those of a picture of 1024 × 1024."""
    sure = image.width is not None and rule != "unknown"
    width, height = image.width or 1024, image.height or 1024
    if width <= 0 or height <= 0:
        width = height = 1
    if rule in _TILES:
        base, tile = _TILES[rule]
        if image.detail == "low":
            return base, rule != "unknown"
        return base + tile * _tiles(width, height), sure
    if rule.startswith("patches "):
        return round(_patches(width, height) * float(rule.removeprefix("patches "))), sure
    if rule == "claude":
        return _claude(width, height), sure
    if rule == "gemini tiles":
        return 258 * _crops(width, height), sure
    if rule.startswith("rows "):
        edge = int(rule.removeprefix("rows "))
        return math.ceil(height / edge) * (math.ceil(width / edge) + 1), sure
    if rule.isdigit():  # whatever its size
        return int(rule), True
    return 1000, False


def _tiles(width: int, height: int) -> int:
    """Squares of 512 after fitting into 2048 × 2048 and the shorter side to 768."""
    scale = min(1.0, 2048 / max(width, height))
    scale = min(scale, 768 / min(width, height))
    return math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def _patches(width: int, height: int) -> int:
    """Squares of 32, at most 1536 of them."""
    count = math.ceil(width / 32) * math.ceil(height / 32)
    if count <= 1536:
        return count
    shrink = math.sqrt(1536 * 32 * 32 / (width * height))
    return min(1536, math.ceil(width * shrink / 32) * math.ceil(height * shrink / 32))


def _crops(width: int, height: int) -> int:
    """One for a small image; else squares of two thirds of the shorter side, 256 to 768, and the whole."""
    if width <= 384 and height <= 384:
        return 1
    edge = max(256, min(768, int(min(width, height) / 1.5)))
    return math.ceil(width / edge) * math.ceil(height / edge) + 1


def _claude(width: int, height: int) -> int:
    """The area by 750, after fitting the longer side to 1568."""
    scale = min(1.0, 1568 / max(width, height))
    return min(1600, math.ceil(width * scale * height * scale / 750))
