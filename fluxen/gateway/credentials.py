"""The keys that Fluxen has of a provider. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credential:
    """One key of a provider, ready to be sent."""

    name: str
    """What rows and lists call it; never the key itself."""
    value: bytes = field(repr=False)
    """The whole header value, scheme included."""
