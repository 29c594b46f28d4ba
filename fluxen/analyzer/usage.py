"""What an answer used, as its provider reported it.

An unstreamed answer is read whole, in one decode that skips everything but a few fields. Of a stream only two pieces
are kept while it passes, its first 8 KB (`HEAD`) and its last 16 KB (`TAIL`), and they are read once, after its end:
no event is parsed while bytes are relayed. That is enough because providers report usage at the ends. The final count
is in one of the last events; Anthropic sends the input's count in the first one. An event that is larger than the tail
(a response repeats its instructions and tools in `response.completed`) is read from its end, see `fragment`.

Nothing here raises, whatever the bytes, and the work is bounded by the size of the pieces.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from fluxen.analyzer import eventstream, fragment, sse
from fluxen.providers.answer import Billing, Leg, Modalities, Part, Tally, Usage, with_calls
from fluxen.providers.dialect import Dialect, dialects
from fluxen.providers.paths import OTHER

__all__ = [
    "HEAD", "TAIL", "Leg", "Modalities", "Reading", "Usage", "billing", "read_answer", "read_clipped", "read_stream",
    "tells_input_first",
]  # fmt: skip

HEAD: Final = 8192  # bytes kept of the beginning of a stream
TAIL: Final = 16384  # bytes kept of its end
RAW_LIMIT: Final = 4096  # bytes of the provider's usage object that a row keeps

_LOOK_BACK: Final = 12  # events looked at from the end; beyond, only those that mention usage
_MENTIONS: Final = 8  # of these
_EVENTS: Final = 2048  # events of any kind, empty ones and comments included
_LINES: Final = 64  # lines of one event that are tried as events of their own
_FRAMES: Final = 6  # messages of a binary stream that are looked at; its count is in the last but one at the latest
_LOOK_AHEAD: Final = 8  # events looked at from the start

_MENTIONED: Final = re.compile(rb'"usage\w*"\s*:\s*[^n\s]')  # and not null
_BLANK: Final = b" \t\r\n"
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])

Source = Literal["reported", "estimated", "partial", "unknown", "none"]


class Reading(msgspec.Struct, gc=False):
    """`usage` is None unless something was reported; `source` says how far to trust it.

    reported  the provider's final count          partial  a count of one side, or one before the end
    estimated counted here; never by these functions
    unknown   it cost something, nobody said how much   none  nothing to bill: refused, or free of charge

    `legs` (usually none) are parts of `usage` that have a price of their own. `raw` is the provider's usage object, at
    most RAW_LIMIT bytes and valid JSON. `stated_cost_pico` is what the provider itself says it charged, in the field
    `stated_source`; `tier` is its word for how it served the request.
    """

    model: str | None = None
    finish: str | None = None
    usage: Usage | None = None
    source: Source = "none"
    raw: bytes | None = None
    stated_cost_pico: int | None = None
    legs: tuple[Leg, ...] = ()
    stated_source: str | None = None
    tier: str | None = None


def read_answer(dialect: str, endpoint: str, status: int, body: bytes, counts: bytes | None = None) -> Reading:
    """A whole unstreamed body, content coding removed. `counts`: a usage object that the answer's headers made."""
    spoken, billing = _spoken(dialect, endpoint)
    if billing == "free" or not 200 <= status < 300:
        return Reading()
    if body[:64].lstrip(_BLANK)[:1] == b"[":  # Gemini's stream without alt=sse
        part = _last(spoken, reversed(_elements(body, True)), False)
    else:
        part = spoken.part(body) or Part()
    return _reading(spoken, endpoint, part, final=True, counts=counts)


def read_clipped(
    dialect: str, endpoint: str, status: int, head: bytes, tail: bytes, counts: bytes | None = None
) -> Reading:
    """An unstreamed body that was too large to hold or broke off, from its first and last bytes.

    `tail` may be empty: then `head` is all there is. No more than HEAD and TAIL bytes of them are read as JSON.
    """
    spoken, billing = _spoken(dialect, endpoint)
    if billing == "free" or not 200 <= status < 300:
        return Reading()
    end = (tail or head)[-TAIL:].strip()
    part = fragment.read_end(spoken, end.removesuffix(b"]").rstrip() if head[:1] == b"[" else end)
    if not part.full:
        part.complete_from(fragment.read_start(spoken, head[:HEAD], spoken.landmarks))
    part.calls = part.calls or spoken.calls_in(head)
    return _reading(spoken, endpoint, part, final=True, counts=counts)


def read_stream(dialect: str, endpoint: str, status: int, head: bytes, tail: bytes, complete: bool) -> Reading:
    """A streamed body from its first HEAD and last TAIL bytes. A `tail` shorter than TAIL means nothing is missing.

    `complete` is False when the upstream broke or the client left before the end.
    """
    spoken, billing = _spoken(dialect, endpoint)
    if billing == "free" or not 200 <= status < 300:
        return Reading()
    gap = len(tail) >= TAIL
    if eventstream.begins(head):
        return _read_events(spoken, endpoint, head, tail, gap, complete)
    head = head.removeprefix(b"\xef\xbb\xbf")
    start = head[:64].lstrip(_BLANK)[:1]
    if start == b"{":
        end = tail if gap else head + tail
        if not _is_lines(end):  # JSON although a stream was asked for
            if gap:
                return read_clipped(dialect, endpoint, status, head, tail)
            return _reading(spoken, endpoint, spoken.part(end.lstrip(_BLANK)) or Part(), final=True)
        part = _last(spoken, (b"data:" + line for line in reversed(end.split(b"\n"))), gap)
    elif start == b"[" and not gap:  # Gemini's stream without alt=sse
        part = _last(spoken, reversed(_elements(head + tail, complete)), False)
    elif start == b"[":
        part = fragment.read_end(spoken, tail.rstrip().removesuffix(b"]").rstrip())
    else:
        first = sse.normalised(head if gap or not tail else head + tail)
        last = sse.normalised(tail) if gap else first
        part = _last(spoken, sse.backwards(last), gap, last)
        if part.model is None:  # Anthropic says it at the start only, together with the input's count
            began = _first(spoken, first, gap)
            part.model, part.tier = began.model, part.tier or began.tier
            if began.opening:
                return _reading(spoken, endpoint, part, complete or part.finish is not None, began.usage)
    return _reading(spoken, endpoint, part, final=complete or part.finish is not None)


def _read_events(spoken: Dialect, endpoint: str, head: bytes, tail: bytes, gap: bool, complete: bool) -> Reading:
    """Amazon's event stream. What Anthropic's models say at the start is there, too, when they were invoked."""
    first = head if gap or not tail else head + tail
    last = [b"data:" + data for data in itertools.islice(eventstream.backwards(tail if gap else first), _FRAMES)]
    part = _last(spoken, iter(last), gap and len(last) < _FRAMES)
    if part.model is None:
        for data in itertools.islice(eventstream.forwards(first), 1):
            began = spoken.part(data)
            if began is not None and began.opening:
                part.model = began.model
                return _reading(spoken, endpoint, part, complete or part.finish is not None, began.usage)
    return _reading(spoken, endpoint, part, final=complete or part.finish is not None)


def _is_lines(end: bytes) -> bool:
    """Whether the end of a body that begins with an object is that of many, one a line."""
    end = end.rstrip()
    at = end.rfind(b"\n")
    return at >= 0 and end[at + 1 : at + 2] == b"{"


def billing(dialect: str, endpoint: str) -> Billing:
    """How an endpoint is billed, as Dialect.billing."""
    return _spoken(dialect, endpoint)[1]


def tells_input_first(dialect: str, endpoint: str) -> bool:
    """As Dialect.tells_input_first, of the protocol spoken at that endpoint."""
    spoken, _ = _spoken(dialect, endpoint)
    return spoken.tells_input_first(endpoint)


def reread(dialect: str, endpoint: str, raw: bytes) -> Tally | None:
    """A usage object that was kept (`Reading.raw`), understood again. None if it can't be, or nobody speaks that."""
    if dialect not in dialects():
        return None
    spoken, _ = _spoken(dialect, endpoint)
    return spoken.tally(endpoint, raw)


@functools.lru_cache(maxsize=1024)  # endpoints are templates: there are fewer
def _spoken(dialect: str, endpoint: str) -> tuple[Dialect, Billing]:
    spoken = dialects()[dialect]
    return spoken, spoken.billing(endpoint)


def _reading(
    spoken: Dialect,
    endpoint: str,
    part: Part,
    final: bool,
    opening: bytes | None = None,
    counts: bytes | None = None,
) -> Reading:
    """`final`: whether the usage is the last word, not a count on the way; `opening`: one from before the answer;
    `counts`: one for what the body leaves out."""
    usage = part.usage
    if usage is None:
        usage, final = opening, final and opening is None
    elif opening is not None and not part.spare:
        usage = _merged(opening, usage)
    tally = spoken.tally(endpoint, usage) if usage is not None else None
    if counts is not None and (tally is None or not tally.usage.output):
        usage = counts if usage is None else _merged(counts, usage)
        tally = spoken.tally(endpoint, usage)
    stated_only = spoken.billing(endpoint) == "stated"
    if usage is None or tally is None:
        return Reading() if stated_only else Reading(part.model, part.finish, None, "unknown")
    if part.calls:
        usage = with_calls(usage, part.calls)
        tally = spoken.tally(endpoint, usage) or tally
    raw = usage if len(usage) <= RAW_LIMIT and usage.isascii() else _fitted(usage)
    source: Source = "reported" if final and tally.whole else "partial"
    # Where tokens are not what is billed, a part of them tells nothing; nor does anything at an unknown address.
    if spoken.billing(endpoint) == "other" and (source == "partial" or endpoint.endswith(OTHER)):
        return Reading(part.model, part.finish, None, "unknown", raw)
    return Reading(
        part.model, part.finish, tally.usage, source, raw, tally.stated_cost_pico if final else None, tally.legs,
        tally.stated_source if final else None, part.tier or tally.tier,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ streams


def _last(spoken: Dialect, blocks: Iterator[bytes], gap: bool, text: bytes | None = None) -> Part:
    """What the end of a stream says, later events before earlier ones. With a gap the last block is a fragment.

    `text` is what the blocks were cut from: where it mentions no usage, not all of them are looked at.
    """
    found = Part()
    looked = mentions = 0
    blocks = itertools.islice(blocks, _EVENTS)
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        looked += 1
        if looked > _LOOK_BACK:
            if found.counted or mentions == _MENTIONS:
                break
            if looked == _LOOK_BACK + 1 and text is not None and _MENTIONED.search(text) is None:
                break
            if b'"usage' not in block:
                block = following
                continue
            mentions += 1
        fragmentary = gap and following is None
        for data in _data(b"data:" + block if fragmentary else block):
            part = spoken.part(data)
            if part is not None and not part.opening:
                found.complete_from(part)
        if found.counted and found.finish is not None:
            break
        if fragmentary:
            found.complete_from(fragment.read_end(spoken, sse.data(b"data:" + block).strip()))
        block = following
    return found


def _data(block: bytes) -> list[bytes]:
    data = sse.data(block)
    if len(data) < 8:  # nothing, or [DONE]
        return []
    if b"\n" in data:  # JSON over several lines, or a server that leaves out the blank line between events
        return [data, *reversed(data.split(b"\n")[-_LINES:])]
    return [data]


def _first(spoken: Dialect, stream: bytes, gap: bool) -> Part:
    """The first event that names a model. With a gap the last block may be cut off."""
    last = stream.rfind(b"\n\n") if gap else -1
    at = 0
    for block in itertools.islice(sse.forwards(stream), _LOOK_AHEAD):
        cut = gap and at > last
        at += len(block) + 2
        data = sse.data(block)
        if cut:
            part: Part | None = fragment.read_start(spoken, data.lstrip(), spoken.landmarks[-1:])
        else:
            part = spoken.part(data) if data else None
        if part is not None and part.model is not None:
            return part
    return Part()


def _elements(array: bytes, complete: bool) -> list[bytes]:
    """The elements of a JSON array, which may be cut off, as events."""
    text = array.lstrip(_BLANK).rstrip()
    end = len(text)
    for attempt in range(_LOOK_BACK):
        try:
            found = _ARRAY.decode(text if attempt == 0 else text[:end] + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if complete:
                break
            end = text.rfind(b"}", 0, end - 1) + 1
            if end == 0:
                break
        else:
            return [b"data:" + bytes(element).replace(b"\n", b" ") for element in found]
    return []


def _merged(older: bytes, newer: bytes) -> bytes:
    """Two usage objects, field by field; a null overwrites nothing."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(older)
        fields.update((k, v) for k, v in msgspec.json.decode(newer).items() if v is not None)
        return msgspec.json.encode(fields)
    except _UNREADABLE:
        return newer


def _fitted(usage: bytes) -> bytes | None:
    """The usage object without its lists, then without its objects, then without its strings, until it fits."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(usage.decode("utf-8", "replace"))
        for kind in (list, dict, str, None):
            raw = msgspec.json.encode(fields)
            if len(raw) <= RAW_LIMIT:
                return raw
            fields = {k: v for k, v in fields.items() if kind and not isinstance(v, kind)}
    except _UNREADABLE:
        return None
    return None
