"""The last look at a text before it is written: no secret may stand in it.

Two nets. What this gateway knows to be a secret (the keys of its configuration) is found wherever it stands, also
percent-encoded. And what looks like one of the keys that people hold (their shapes are public) is found without being
known: a client may put a key of its own, or another's, anywhere.

Secrets of fewer than 8 characters are not looked for: they would be found in every other word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

SHORTEST: Final = 8
FEW: Final = 24
"""Up to so many are looked for one by one; more, by their first characters, at each place of the text."""
MASK: Final = "***"

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_SHAPES: Final = re.compile(
    r"(?:(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|pplx|nvapi|flx|hf|fw|key|csk|tgp|r8|ghp|gho|glpat|AKIA|ASIA)[-_]|AIza|sess-)"
    r"[A-Za-z0-9_\-]{16,}"
    r"|eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"  # a signed token
    r"|(?<![A-Za-z0-9])(?:[Bb]earer|[Bb]asic)(?: |%20|\+)+[^\s\"',;&]{8,}"
)


class Secrets:
    """What must not be written. Shows none of it. `values`: what was given, as far as it is looked for."""

    __slots__ = ("_by_start", "_few", "values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values = frozenset(value for value in values if len(value) >= SHORTEST)
        every = set(self.values)
        for value in self.values:
            if not _PLAIN.fullmatch(value):
                every |= {quote(value, safe=""), quote(value)}
        found = sorted(every, key=len, reverse=True)  # a longer one first: it may begin with a shorter one
        self._few = tuple(found) if len(found) <= FEW else ()
        self._by_start: dict[str, list[str]] = {}
        for value in () if self._few else found:
            self._by_start.setdefault(value[:SHORTEST], []).append(value)

    def __repr__(self) -> str:
        return "Secrets()"

    def scrub(self, text: str) -> str:
        """The text, with a mask in place of every secret."""
        for value in self._few:
            if value in text:
                text = text.replace(value, MASK)
        if self._by_start:
            text = self._replaced(text)
        return _SHAPES.sub(MASK, text)

    def _replaced(self, text: str) -> str:
        starts = self._by_start
        pieces: list[str] = []
        at = done = 0
        last = len(text) - SHORTEST
        while at <= last:
            found = next(
                (value for value in starts.get(text[at : at + SHORTEST], ()) if text.startswith(value, at)), None
            )
            if found is None:
                at += 1
                continue
            pieces += (text[done:at], MASK)
            at = done = at + len(found)
        return "".join((*pieces, text[done:])) if pieces else text
