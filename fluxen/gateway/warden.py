"""What is asked of each request anew, although its head is known: when it comes, from where, and what came before.

Most requests are asked nothing: those of generated keys that may be used from anywhere and have no end
(Opening.conditional).
"""

from __future__ import annotations

import math
from typing import Final

from fluxen.gateway.address import inside, source_of
from fluxen.gateway.admission import GUESSED, Fault
from fluxen.gateway.opening import Opening
from fluxen.gateway.throttle import Throttle

_EXPIRED: Final = Fault(401, "key_expired", "this key has expired")
_ELSEWHERE: Final = Fault(403, "address_not_allowed", "this key may not be used from this address")
_SLOWLY: Final = Fault(429, "too_many_failures", "too many attempts with unknown keys came from this address")


class Warden:
    """One worker's. Counts failed attempts by their source.

    Who failed too often gets 429 for whatever fails, and for every key that is short enough to be guessed, known or
    not: so guessing gets nowhere. A generated key is longer, and works on: it may be a neighbour's, behind the same
    address.
    """

    __slots__ = ("throttle",)

    def __init__(self) -> None:
        self.throttle = Throttle()

    def admit(self, opening: Opening, at: float, wall: float, peer: str) -> Opening:
        """The opening, or one that refuses the request. at: when it came, by perf_counter; wall: in seconds since 1970
        UTC; peer: address of who is connected."""
        fault = opening.fault
        guessed = fault is not None and fault.code in GUESSED and opening.presented
        if guessed or (opening.guessable and len(self.throttle)):
            source = source_of(opening.caller(peer))
            wait = self.throttle.wait(source, at)
            if wait > 0.0:
                opening.forget()
                return opening.turned_away(_SLOWLY, nameless=True, retry_after=math.ceil(wait))
            if guessed:
                self.throttle.failed(source, at)
        key = opening.key
        if key is None:
            return opening
        if wall >= key.until:
            return opening.turned_away(_EXPIRED, nameless=True)
        if key.networks is not None and not inside(opening.caller(peer), key.networks):
            return opening.turned_away(_ELSEWHERE)
        return opening
