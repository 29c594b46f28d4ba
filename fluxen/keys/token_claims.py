"""What the claims of a token make of its bearer. Pure; the signature has been checked before.

A claim can only narrow what the issuer's entry in the configuration allows.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

from fluxen.config.access import JwtKey
from fluxen.keys.client import ClientKey
from fluxen.keys.token_parts import LABEL, TokenError, moment

_ENTRIES: Final = 64  # of a list
_TEXT: Final = re.compile(r"[\x20-\x7e]+")
_ANONYMOUS: Final = "jwt"  # stands for an issuer without id: a claim alone could be the id of somebody's key

Claims = dict[str, object]


def is_for(issuer: JwtKey, claims: Claims) -> bool:
    """Whether this issuer made it, for this gateway. An audience that nobody has configured is somebody else."""
    if issuer.issuer is not None and claims.get("iss") != issuer.issuer:
        return False
    if "aud" not in claims:
        return issuer.audience is None
    audience = claims["aud"]
    return issuer.audience is not None and issuer.audience in (audience if isinstance(audience, list) else [audience])


def client_of(issuer: JwtKey, claims: Claims, now: float) -> ClientKey:
    """Raises TokenError when it isn't the time for it, or a claim is not what it should be."""
    until = _until(issuer, claims, now)
    name = issuer.id or _ANONYMOUS
    mapping = issuer.claims
    user = _text(claims, mapping.user)
    identity = name if user is None else f"{name}/{user}"
    if len(identity) > LABEL:
        raise TokenError(f"{mapping.user} is too long")
    tags = dict(issuer.tags or {})
    for tag, claim in (mapping.tags or {}).items():
        if (value := _text(claims, claim)) is not None:
            tags[tag] = value
    upstreams = _words(claims, mapping.upstreams)
    ours = None if issuer.upstreams is None else frozenset(issuer.upstreams)
    return ClientKey(
        identity,
        team=_text(claims, mapping.team) or issuer.team,
        project=_text(claims, mapping.project) or issuer.project,
        tags=tags or None,
        upstreams=ours if upstreams is None else frozenset(upstreams) if ours is None else ours.intersection(upstreams),
        models=_narrowed(issuer.models, _words(claims, mapping.models)),
        routes=_narrowed(issuer.routes, _words(claims, mapping.routes)),
        networks=issuer.networks,
        until=until,
    )


def _until(issuer: JwtKey, claims: Claims, now: float) -> float:
    leeway = issuer.leeway_seconds
    ends, begins, made = (moment(claims, name) for name in ("exp", "nbf", "iat"))
    if ends is None:
        raise TokenError("exp is missing")
    if now >= ends + leeway:
        raise TokenError("expired", "token_expired")
    for name, from_when in (("nbf", begins), ("iat", made)):
        if from_when is not None and from_when > now + leeway:
            raise TokenError(f"{name} is in the future", "token_not_yet_valid")
    return ends + leeway


def _at(claims: Claims, name: str) -> object:
    """The claim of this name; or, without one, `a.b` is the claim b in the claim a. None: it isn't there."""
    if name in claims:  # names such as https://example.com/team hold dots
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def _text(claims: Claims, name: str | None) -> str | None:
    value = None if name is None else _at(claims, name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LABEL or not _TEXT.fullmatch(value):
        raise TokenError(f"{name} is not 1 to {LABEL} printable ASCII characters")
    return value


def _words(claims: Claims, name: str | None) -> list[str] | None:
    """A list of texts, or one text with spaces between them."""
    value = None if name is None else _at(claims, name)
    if value is None:
        return None
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > _ENTRIES:
        raise TokenError(f"{name} is no list of at most {_ENTRIES} texts")
    for word in words:
        if not isinstance(word, str) or len(word) > LABEL or not _TEXT.fullmatch(word):
            raise TokenError(f"{name} holds something else than 1 to {LABEL} printable ASCII characters")
    return words


def _narrowed(ours: tuple[str, ...] | None, theirs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Patterns that allow what both allow, as far as it can be told: of two that only overlap, nothing."""
    if theirs is None:
        return ours
    if ours is None:
        return tuple(theirs)
    within = [their for their in theirs if any(_covers(our, their) for our in ours)]
    within += [our for our in ours if any(_covers(their, our) for their in theirs)]
    return tuple(dict.fromkeys(within))


def _covers(pattern: str, other: str) -> bool:
    """Whether all that `other` matches is matched by `pattern`, for certain. A `*` of the pattern takes in whatever
    `other` has in that place, its letters only the same; of `?` and `[…]` nothing is said when `other` is a pattern."""
    if pattern == other or not pattern.strip("*"):
        return bool(pattern)
    if "[" in other or (("*" in other or "?" in other) and ("?" in pattern or "[" in pattern)):
        return False
    return fnmatch.fnmatchcase(other, pattern)
