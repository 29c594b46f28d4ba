"""The top-level names of a JSON object, when there must be one reading of them only. Pure.

Of two equal names some parsers take the first, some the last; some find a name whatever its case, or take `maxTokens`
for `max_tokens`. Where policy goes by such a name, an object that can be read in two ways is refused.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Final, cast

import msgspec

from fluxen.gateway.admission import Fault

NAMES: Final = 1000  # top-level names of an object; the protocols know some dozens
LONGEST: Final = 256  # characters of a name

# fmt: off
KIN: Final = frozenset({
    "model", "models", "fallback_model", "fallback_models", "fallbacks", "tools",
    "stream", "stream_options", "n", "best_of", "candidate_count", "service_tier",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample",
    "generationConfig", "generation_config", "cachedContent", "cached_content",
    "requests", "request", "batch", "inputConfig", "input_config", "generateContentRequest", "generate_content_request",
})
# fmt: on
"""Names by which policy goes, or may go, as the protocols spell them."""

MORE_MODELS: Final = ("models", "fallback_model", "fallback_models", "fallbacks")
"""Names of models that some routers go on to."""

NOT_JSON: Final = Fault(400, "invalid_json", "this key is restricted: the body must be one JSON object, in UTF-8")


class Refused(Exception):
    """Why a request is refused."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def ambiguous(what: str) -> Refused:
    return Refused(Fault(400, "ambiguous_request", f"this key is restricted: {what}"))


def folded(name: str) -> str:
    """What a name has in common with all that a careless parser takes for it: no case, no `_`, no look-alikes, nothing
    invisible."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    return "".join(filter(str.isalnum, name.upper().casefold()))


_FOLDED: Final = frozenset(folded(name) for name in KIN)
_SHORT: Final = 64  # characters of a name that is worth remembering


@functools.lru_cache(maxsize=1024)
def _kind(name: str) -> str:
    """What a name is folded to if that is one of KIN, else ''."""
    alike = folded(name)
    return alike if alike in _FOLDED else ""


class Names:
    """The names seen so far in one object or form."""

    __slots__ = ("_kin", "_names")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._kin: set[str] = set()

    def see(self, name: str, *, again: bool = False) -> str:
        """Take in one more; gives back what it is folded to if it is one of KIN, else ''. Raises Refused. again: a name
        that is none of KIN may come again, as in a form."""
        if name in self._names:
            if not again:
                raise ambiguous("a name at the top of the body is there twice")
        elif len(name) > LONGEST:
            raise ambiguous("a name at the top of the body is too long")
        elif len(self._names) >= NAMES:
            raise ambiguous("too many names at the top of the body")
        else:
            self._names.add(name)
        alike = _kind(name) if len(name) <= _SHORT else _kind.__wrapped__(name)
        if not alike:
            return ""
        if name not in KIN or alike in self._kin:
            raise ambiguous(f"what is like the name {_like(alike)} must be written so, and once")
        self._kin.add(alike)
        return alike


def _like(alike: str) -> str:
    return min(name for name in KIN if folded(name) == alike)


class _Name(str):
    """A name as msgspec hands it to us: each time it comes, also the second."""

    __slots__ = ()


_Object = dict[_Name, msgspec.Raw]


def top_level(text: bytes) -> dict[str, msgspec.Raw]:
    """The names of a JSON object with their values, not looked into. Raises Refused when it is none, or can be read in
    two ways."""
    names = Names()

    def see(_type: type, name: str) -> _Name:
        names.see(name)
        return _Name(name)

    try:
        if not text.isascii():
            text.decode()  # somebody who reads invalid UTF-8 may find quotes elsewhere than we do
        found = msgspec.json.Decoder(_Object, dec_hook=see).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(NOT_JSON) from None
    return cast(dict[str, msgspec.Raw], found)
