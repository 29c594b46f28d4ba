"""The `prices` section: what models cost where a price list doesn't say, or says otherwise than one's contract."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from fluxen.config.access import Glob
from fluxen.config.section import Section
from fluxen.config.values import Moment, problem

_EXACT_DIGITS = 15  # a number in YAML with so many digits is read as what is written
_MOST_DIGITS = 40  # of a number in quotes; what is finer than anything billed is a mistake
_LARGEST = Decimal(10**6)
PICO = 10**12

_FEE = r"^[a-z][a-z0-9_]{0,31}$"

CALLS = (
    "attachment_search", "classification", "code_interpreter", "document_search", "file_search", "image_generation",
    "maps_search", "request", "search_unit", "web_fetch", "web_search", "x_search",
)  # fmt: skip
"""What usage counts or a price list bills by the call: a fee of another name is nobody's."""
TIERS = (
    "standard", "batch", "flex", "priority", "fast", "us", "batch_us", "fast_us", "flex_us", "priority_us", "scale",
    "reserved", "performance", "provisioned_throughput",
)  # fmt: skip
"""Tiers of service as answers and price lists have them; a server of one's own may say others."""


def _decimal(value: object, what: str) -> Decimal:
    """Exactly what is written. YAML's numbers arrive as floats: the shortest text that means one is what was written,
    unless it has more digits than a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise problem(f"expected {what}")
    text = value.strip() if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise problem(f"expected {what}") from None
    if not number.is_finite():
        raise problem(f"expected {what}")
    _, digits, exponent = number.as_tuple()
    if isinstance(value, float) and len(digits) > _EXACT_DIGITS:
        raise problem("has more digits than a number in YAML keeps: put it in quotes")
    if len(digits) > _MOST_DIGITS or not -_MOST_DIGITS <= int(exponent) <= _MOST_DIGITS:
        raise problem(f"expected {what}, of at most {_MOST_DIGITS} digits")
    return number


def _dollars(value: object, unit: int, what: str) -> Decimal:
    number = _decimal(value, what)
    if not 0 <= number <= _LARGEST:
        raise problem(f"expected {what}, from 0 to {_LARGEST:,}")
    if (Fraction(number) * unit).denominator != 1:
        raise problem(f"is finer than a pico-dollar: at most {len(str(unit)) - 1} digits after the point")
    return number


def _rate(value: object) -> Decimal:
    return _dollars(value, PICO // 10**6, "dollars per million tokens, such as 2.50")


def _fee(value: object) -> Decimal:
    return _dollars(value, PICO, "dollars per call, such as 0.01")


def _discount(value: object) -> Decimal:
    what = "a part from 0 to 1 such as 0.15, or a percentage such as 15%"
    if isinstance(value, str) and value.rstrip().endswith("%"):
        part = Fraction(_decimal(value.rstrip()[:-1], what)) / 100
    else:
        part = Fraction(_decimal(value, what))
    if not 0 <= part <= 1:
        raise problem(f"expected {what}")
    if (part * PICO).denominator != 1:
        raise problem("has more than 12 digits after the point")
    return Decimal(int(part * PICO)).scaleb(-12).normalize()


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


_AMOUNT: dict[str, Any] = {"type": ["number", "string"], "examples": [2.5, "0.0375"]}
Globs = Annotated[
    tuple[Glob, ...],
    BeforeValidator(_listed),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Rate = Annotated[Decimal, PlainValidator(_rate), WithJsonSchema(_AMOUNT)]
Fee = Annotated[Decimal, PlainValidator(_fee), WithJsonSchema(_AMOUNT)]
Discount = Annotated[
    Decimal, PlainValidator(_discount), WithJsonSchema({"type": ["number", "string"], "examples": [0.15, "15%"]})
]
FeeName = Annotated[str, StringConstraints(pattern=_FEE)]
Tier = Annotated[str, StringConstraints(pattern=_FEE)]


class PriceEntry(Section):
    """What some models cost, somewhere, for some time."""

    models: Globs = Field(description="patterns of model names, one or a list: `gpt-4o`, `[gpt-5*, o3]`, `*`")
    upstream: Globs | None = Field(default=None, description="names or patterns of upstreams; default: all")
    since: Moment | None = Field(default=None, description="from this day or moment on (UTC); default: always")
    until: Moment | None = Field(default=None, description="before this day or moment (UTC); default: for ever")
    tier: Tier | None = Field(
        default=None,
        description="only for requests served in this tier (`batch`, `flex`, `priority` …); default: the standard one "
        "for prices, every one for fees and discounts",
    )
    input: Rate | None = Field(default=None, description="dollars per million input tokens that come from no cache")
    output: Rate | None = Field(default=None, description="dollars per million output tokens")
    cache_read: Rate | None = Field(default=None, description="… input tokens from the cache; default: as input")
    cache_write_5m: Rate | None = Field(default=None, description="… written to the cache; default: as input")
    cache_write_1h: Rate | None = Field(default=None, description="… written for an hour; default: as cache_write_5m")
    reasoning: Rate | None = Field(default=None, description="… output tokens of reasoning; default: as output")
    input_audio: Rate | None = Field(default=None, description="… audio input; default: as input")
    cache_read_audio: Rate | None = Field(default=None, description="… cached audio input; default: as input_audio")
    output_audio: Rate | None = Field(default=None, description="… audio output; default: as output")
    input_image: Rate | None = Field(default=None, description="… image input; default: as input")
    output_image: Rate | None = Field(default=None, description="… image output; default: as output")
    per_request: Fee | None = Field(default=None, description="dollars per request, beside its tokens")
    fees: Mapping[FeeName, Fee] = Field(
        default_factory=dict,
        json_schema_extra={"default": {}},
        description="dollars per call of a tool, by its name: `{web_search: 0.01}`",
    )
    discount: Discount | None = Field(
        default=None, description="off everything billed: a part such as 0.15, or `15%`; on list prices, too"
    )
    free: StrictBool = Field(default=False, description="these cost nothing")

    @property
    def rates(self) -> dict[str, Decimal]:
        """Dollars per million tokens by class, of the classes that are named."""
        return {name: value for name in RATES if (value := getattr(self, name)) is not None}

    def covers(self, other: PriceEntry) -> bool:
        """Whether whatever the other says is said by this one wherever the other applies."""
        fees = {*other.fees, *(["request"] if other.per_request is not None else [])}
        mine = {*self.fees, *(["request"] if self.per_request is not None else [])}
        return (
            ("*" in self.models or set(other.models) <= set(self.models))
            and (self.upstream is None or (other.upstream is not None and set(other.upstream) <= set(self.upstream)))
            and (self.since is None or (other.since is not None and self.since <= other.since))
            and (self.until is None or (other.until is not None and other.until <= self.until))
            and self.tier == other.tier
            and (bool(self.rates) or self.free or not (other.rates or other.free))
            and (self.free or fees <= mine)
            and (self.free or self.discount is not None or other.discount is None)
        )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        says = bool(self.rates or self.fees) or self.per_request is not None or self.discount is not None
        if self.free and says:
            raise problem("free: true leaves nothing to price: take out the prices, or free")
        if not self.free and not says:
            raise problem("says nothing: name a price such as input and output, a fee, a discount, or free: true")
        if self.rates and self.input is None and self.output is None:
            raise problem("names a part without the whole: input or output is missing")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise problem("is over before it begins: since must come before until")
        return self


RATES = (
    "input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "input_audio", "cache_read_audio",
    "output_audio", "input_image", "output_image",
)  # fmt: skip
