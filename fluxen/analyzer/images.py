"""How large an image in a request is: from the first bytes of the file, as it stands in base64."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Final

import msgspec

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
