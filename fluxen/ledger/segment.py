"""Reading journal segments: bytes in, values out.

What follows the last newline was never acknowledged (a torn tail) and is not read. Any other line that is not a valid
record can only come from power loss or a broken disk: it is set aside as `bad`, never fatal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from fluxen.errors import LedgerError
from fluxen.ledger.journal import FORMAT
from fluxen.ledger.record import Adjustment, Begin, End, Loss
from fluxen.ledger.schema import ADJUSTMENT_FIELDS, BEGIN_FIELDS, END_FIELDS, SCHEMA, check, upgrade


class Header(msgspec.Struct):
    """The first line of a segment."""

    fluxen: int
    schema: int
    node: str
    worker: int
    begin: tuple[str, ...]
    end: tuple[str, ...]
    pid: int = 0
    adjust: tuple[str, ...] = ()


@dataclass(slots=True)
class Segment:
    """What one segment says. Its lines are JSON arrays `[node, worker, …fields]` of the current schema."""

    ends: list[bytes] = field(default_factory=list)
    begins: dict[str, bytes] = field(default_factory=dict)
    """Begin lines without an end in this segment, by request id."""
    lost: list[bytes] = field(default_factory=list)
    """Rows (as in `ends`) of the same requests, should their writer turn out to be dead."""
    adjustments: list[bytes] = field(default_factory=list)
    missing: int = 0
    bad: list[bytes] = field(default_factory=list)


_BEGIN = b'["b","'
_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_line = msgspec.json.Decoder(Begin | End | Loss | Adjustment).decode
_decode_any = msgspec.json.Decoder(list[object]).decode


def parse(content: bytes, name: str) -> Segment:
    """Read a segment. LedgerError when a newer Fluxen wrote it."""
    segment = Segment()
    lines = content.split(b"\n")
    lines.pop()  # the torn tail, or nothing
    if not lines:
        return segment
    try:
        header = _decode_header(lines[0])
    except (msgspec.DecodeError, UnicodeDecodeError):
        segment.bad = [line for line in lines if line]
        return segment
    if header.fluxen > FORMAT:
        raise LedgerError(f"{name} has journal format {header.fluxen}", hint="a newer Fluxen wrote it: upgrade")
    check(header.schema, name)

    current = header.schema == SCHEMA and header.begin == BEGIN_FIELDS and header.end == END_FIELDS
    current = current and header.adjust in ((), ADJUSTMENT_FIELDS)
    prefix = b"[" + _encode(header.node) + b"," + _encode(header.worker) + b","
    begun: dict[bytes, bytes] = {}
    for line in lines[1:]:
        if current and line[:6] == _BEGIN and line[42:44] == b'",':
            begun[line[6:42]] = line  # most have an end: looked at only if not
            continue
        try:
            record = _decode_line(line) if current else from_other(_decode_any(line), header)
        except (msgspec.DecodeError, UnicodeDecodeError):
            segment.bad.append(line)
            continue
        if isinstance(record, Loss):
            segment.missing += record.requests
            continue
        if not current:
            line = _encode(record)
        if isinstance(record, Adjustment):
            segment.adjustments.append(prefix + line[5:])
        elif isinstance(record, End):
            segment.ends.append(prefix + line[5:])
            begun.pop(record.id.encode(), None)
        else:
            begun[record.id.encode()] = line
    for line in begun.values():
        try:
            record = _decode_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            segment.bad.append(line)
            continue
        assert isinstance(record, Begin)
        segment.begins[record.id] = prefix + line[5:]
        segment.lost.append(prefix + _encode(End.lost(record))[5:])
    return segment


def from_other(values: list[object], header: Header) -> Begin | End | Loss | Adjustment:
    """A line of an older schema (or one with other fields), read by the names its header gives."""
    if values[:1] == ["x"]:
        return msgspec.convert(values, Loss)
    if values[:1] == ["a"]:
        row = dict(zip(header.adjust, values[1:], strict=False))
        return msgspec.convert(["a", *(row.get(name) for name in ADJUSTMENT_FIELDS)], Adjustment)
    names, fields = (header.end, END_FIELDS) if values[:1] == ["e"] else (header.begin, BEGIN_FIELDS)
    row = upgrade(dict(zip(names, values[1:], strict=False)), header.schema)
    return msgspec.convert([values[0] if values else None, *(row.get(name) for name in fields)], Begin | End)
