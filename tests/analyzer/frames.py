"""Messages of Amazon's binary event stream, written as its specification says."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any


def message(event: str, payload: bytes, *, last: bool = False) -> bytes:
    """One message. last: with `:event-type` as the last header, which is as good."""
    headers = [(":event-type", event), (":content-type", "application/json"), (":message-type", "event")]
    if last:
        headers.append(headers.pop(0))
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    start = prelude + struct.pack(">I", binascii.crc32(prelude)) + block + payload
    return start + struct.pack(">I", binascii.crc32(start))


def event(name: str, data: dict[str, Any], **how: Any) -> bytes:
    """One of Converse's."""
    return message(name, json.dumps(data, separators=(",", ":")).encode(), **how)


def chunk(data: dict[str, Any]) -> bytes:
    """One of an invoked model's: base64 in JSON, padded with letters, as Bedrock does."""
    encoded = base64.b64encode(json.dumps(data, separators=(",", ":")).encode()).decode()
    return event("chunk", {"bytes": encoded, "p": "abcdefgh"})
