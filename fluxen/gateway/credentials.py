"""The keys that Fluxen has of a provider, and which of them are parked because the provider refused them.

A credential that was refused is not used for a minute, then for two, up to an hour; one request tries it again when its
time is over, and a success ends it all. Parking is known to one worker: each finds out for itself, at the cost of one
attempt, and none waits for another. Pure: the time is what the caller says it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fluxen.gateway.pool import Origin
    from fluxen.gateway.routes import Upstream

FIRST: Final = 60.0  # seconds
MOST: Final = 3600.0
TRIAL: Final = 10.0
"""Seconds for which the others wait for the one request that tries a parked credential again."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One key of a provider, ready to be sent."""

    name: str
    """What rows and lists call it; never the key itself."""
    value: bytes = field(repr=False)
    """The whole header value, scheme included."""


@dataclass(slots=True)
class Parked:
    """Since when, until when (on the caller's clock), and for how many seconds."""

    name: str
    since: float
    until: float
    seconds: float
    on_trial: bool = False


class Parking:
    """The parked credentials of one worker. Outlives reloads: the same key at the same place stays parked.

    known: those that were refused and have not worked since. While there are none, nobody need ask anything here.
    """

    def __init__(self, tell: Callable[..., None], notice: Callable[[str, str], None]) -> None:
        """tell: called at each change, with "parked", upstream, name, status, until (seconds since 1970 UTC), or with
        "unparked", upstream, name. notice: the same for people, a kind and a text."""
        self.known: dict[tuple[str, Origin, bytes], Parked] = {}
        self._tell = tell
        self._notice = notice

    def choose(self, upstream: Upstream, now: float, may_fail: bool) -> Credential:
        """The first credential that is not parked; of nothing but parked ones, the one that is due first. may_fail: a
        refusal would not reach the client, so that one whose time is over may be tried again."""
        due: tuple[float, Credential] | None = None
        for credential in upstream.credentials:
            parked = self.known.get(_key(upstream, credential))
            if parked is None:
                return credential
            if parked.until <= now and may_fail:
                parked.until, parked.on_trial = now + TRIAL, True
                return credential
            if due is None or parked.until < due[0]:
                due = parked.until, credential
        assert due is not None
        return due[1]

    def heard(
        self, upstream: Upstream, credential: Credential, status: int, refused: list[Credential],
        since: float, now: float, wall: float,
    ) -> Credential | None:  # fmt: skip
        """The provider has answered with this status. Returns one to go on with, if it refused the credential and there
        is another, neither tried nor parked.

        refused: what the same request was refused with before; this one is added. since: when the request came. wall:
        `now` in seconds since 1970 UTC. 401 speaks of the credential; 403 perhaps of the request, so that it parks a
        credential only when another is not refused.
        """
        if len(upstream.credentials) < 2:
            return None  # the only one is never parked: its refusal is for the client to see
        if status not in (401, 403):
            if status < 500:
                for other in refused:
                    self._park(upstream, other, 403, now, wall)
            if status < 400:
                self._worked(upstream, credential, since)
            return None
        if status == 401:
            self._park(upstream, credential, 401, now, wall)
        refused.append(credential)
        for another in upstream.credentials:
            parked = self.known.get(_key(upstream, another))
            if another not in refused and (parked is None or parked.until <= now):
                return another
        return None

    def _park(self, upstream: Upstream, credential: Credential, status: int, now: float, wall: float) -> None:
        key = _key(upstream, credential)
        before = self.known.get(key)
        if before is not None and before.until > now and not before.on_trial:
            return  # several requests were on their way with it
        seconds = FIRST if before is None else min(MOST, before.seconds * 2)
        self.known[key] = Parked(credential.name, now, now + seconds, seconds)
        self._tell("parked", upstream.name, credential.name, status, wall + seconds)
        self._notice(
            f"parked: {upstream.name}",
            f"it refused the credential {credential.name} ({status}): left for {seconds:g} s",
        )

    def _worked(self, upstream: Upstream, credential: Credential, since: float) -> None:
        key = _key(upstream, credential)
        parked = self.known.get(key)
        if parked is not None and parked.since < since:  # a request from before may be answered late
            del self.known[key]
            self._tell("unparked", upstream.name, credential.name)
            self._notice(f"unparked: {upstream.name}", f"it takes the credential {credential.name} again")

    def retain(self, upstreams: Iterable[Upstream]) -> None:
        """After a reload: whatever is not one of theirs any more is forgotten."""
        there = {_key(upstream, credential) for upstream in upstreams for credential in upstream.credentials}
        for key in self.known.keys() - there:
            self._tell("unparked", key[0], self.known.pop(key).name)


def _key(upstream: Upstream, credential: Credential) -> tuple[str, Origin, bytes]:
    return upstream.name, upstream.origin, credential.value
