"""What a provider's answer says about itself: the values that every dialect's file reads out of its own JSON.

Token classes are disjoint and add up: `input` (uncached), `cache_read`, `cache_write_5m`, `cache_write_1h`, `output`.
Everything else is "of which": `reasoning` is a part of output, and `Modalities` tells how much of input and output was
not text, because some models price those tokens differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

# A count that can't be one (negative, a string, beyond what any ledger column holds) fails validation: it is
# reported as damaged and never turned into money.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]

Billing = Literal["tokens", "other", "stated", "free"]
"""How an endpoint is billed: by tokens; by something else, of which what is reported is read; by what it reports and
otherwise not at all; never."""

NAME_LIMIT: Final = 256  # bytes of a model name or stop reason that are kept


class Modalities(msgspec.Struct, frozen=True, gc=False):
    """Tokens that were not text. `input_*` includes cached ones, as providers report it; `cache_read_*` is of which."""

    input_audio: int = 0
    input_image: int = 0
    input_video: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    cache_read_video: int = 0
    output_audio: int = 0
    output_image: int = 0
    output_video: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens by class (see above). `audio` and `image` are the sums over input and output of `modalities`.

    `calls` are what the provider bills by the call, by the price book's name of the fee: `web_search`, `file_search` ….
    """

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio: int = 0
    image: int = 0
    modalities: Modalities | None = None
    calls: Mapping[str, int] | None = None


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A part of one answer that ran on its own: `model` is None where it is the answer's."""

    model: str | None
    usage: Usage


class Part(msgspec.Struct, gc=False):
    """One JSON object of an answer: the whole body, or one event of a stream.

    `usage` is the provider's usage object as it was sent. `opening` marks one sent before anything was generated,
    `spare` one that counts only if no other comes. `tier` is the provider's word for how the request was served,
    `calls` what is billed by the call and told outside the usage object.
    """

    model: str | None = None
    finish: str | None = None
    usage: bytes | None = None
    opening: bool = False
    tier: str | None = None
    calls: dict[str, int] | None = None
    spare: bool = False

    @property
    def counted(self) -> bool:
        """Whether it has a usage object that no other one overrules."""
        return self.usage is not None and not self.spare

    @property
    def full(self) -> bool:
        """Whether nothing is left to look for."""
        return self.counted and self.model is not None and self.finish is not None

    def complete_from(self, other: Part) -> None:
        """Take from another part of the same answer what this one doesn't say."""
        self.model = self.model or other.model
        self.finish = self.finish or other.finish
        self.tier = self.tier or other.tier
        self.calls = self.calls or other.calls
        if self.usage is None or (self.spare and other.counted):
            self.usage, self.opening, self.spare = other.usage, other.opening, other.spare


class Tally(msgspec.Struct, gc=False):
    """A usage object, understood. `whole` is False when a side is missing or a count made no sense.

    `legs` is empty unless parts are priced apart; `usage` is the sum of all legs. `stated_source` names the field in
    which the provider states a cost; `tier` is its word for how it served, where the usage object says so.
    """

    usage: Usage
    whole: bool
    legs: tuple[Leg, ...] = ()
    stated_cost_pico: int | None = None
    stated_source: str | None = None
    tier: str | None = None


def total(usages: Iterable[Usage]) -> Usage:
    """The sum, class by class."""
    counts = dict.fromkeys(Usage.__struct_fields__[:-2], 0)
    modal = dict.fromkeys(Modalities.__struct_fields__, 0)
    calls: dict[str, int] = {}
    for usage in usages:
        for name in counts:
            counts[name] += getattr(usage, name)
        if usage.modalities is not None:
            for name in modal:
                modal[name] += getattr(usage.modalities, name)
        for name, count in (usage.calls or {}).items():
            calls[name] = calls.get(name, 0) + count
    return Usage(**counts, modalities=Modalities(**modal) if any(modal.values()) else None, calls=calls or None)


def with_modalities(usage: Usage, modalities: Modalities) -> Usage:
    """The usage with its non-text parts, or as it is where there are none."""
    if not any(msgspec.structs.astuple(modalities)):
        return usage
    return msgspec.structs.replace(
        usage,
        audio=modalities.input_audio + modalities.output_audio,
        image=modalities.input_image + modalities.output_image,
        modalities=modalities,
    )


def bounded(text: str | None) -> str | None:
    """A name a provider sent, at most NAME_LIMIT bytes of it; None for an empty one."""
    if not text:
        return None
    if len(text) * 4 <= NAME_LIMIT:
        return text
    return text.encode("utf-8", "replace")[:NAME_LIMIT].decode("utf-8", "ignore")


CALLS: Final = "billed_calls"
"""The member of a kept usage object in which calls stand that its provider told outside of it."""


def with_calls(usage: bytes, calls: Mapping[str, int]) -> bytes:
    """A usage object with the calls in it, so that it alone tells what was billed."""
    return b'{"%b":%b,%b' % (CALLS.encode(), msgspec.json.encode(calls), usage[1:])


def called(**calls: int | None) -> dict[str, int] | None:
    """The calls that were made; None if none were."""
    return {name: count for name, count in calls.items() if count} or None


def json_object(raw: msgspec.Raw) -> bytes | None:
    """A raw JSON value as bytes if it is an object that says something: not null, not absent, not {}."""
    value = bytes(raw)
    return value if value[:1] == b"{" and len(value) > 2 else None


# ------------------------------------------------------------------------------------------ decoding

Shape = TypeVar("Shape", bound=msgspec.Struct)

# What a decoder raises on bytes it can't read as its type.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def recovered(decoder: msgspec.json.Decoder[Shape], data: bytes) -> tuple[Shape | None, bool]:
    """(value, damaged): what can be had where `decoder` failed, field by field. Not a JSON object: (None, True).

    Damaged means that a field had to be left out because its value can't be one. Counts written as 12.0 can.
    """
    try:
        loose = msgspec.json.decode(data)
    except UNREADABLE:
        return None, True
    return _salvage(decoder.type, loose) if isinstance(loose, dict) else (None, True)


def _salvage(shape: type[Shape], loose: dict[str, Any]) -> tuple[Shape, bool]:
    kept: dict[str, Any] = {}
    damaged = False
    for field in msgspec.structs.fields(shape):
        if field.encode_name not in loose:
            continue
        value = loose[field.encode_name]
        try:
            if field.type is msgspec.Raw:
                kept[field.name] = msgspec.Raw(msgspec.json.encode(value))
            else:
                kept[field.name] = msgspec.convert(_integral(value), field.type)
        except (msgspec.ValidationError, OverflowError, RecursionError):
            damaged = True
    return shape(**kept), damaged


def _integral(value: Any) -> Any:
    """Counts sent as `12.0` are counts; looked at here and one object deeper, where counts are."""
    if isinstance(value, dict):
        return {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
