"""What a request's head means under one snapshot: who calls, where it goes, how its body is read. Pure.

Clients repeat themselves: an SDK sends the same head again and again, but for the body's length. So what a head means
is worked out once and remembered, keyed by its bytes without the digits of Content-Length; a request whose head is new
pays for it, the next one a dict hit. Everything in an Opening is a function of those bytes and the snapshot. Only heads
that were let in are remembered, a bounded number of them.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Final

from fluxen.gateway.address import client_address
from fluxen.gateway.admission import GUESSED, Fault, carried, identify, may_go, may_use
from fluxen.gateway.credentials import Credential
from fluxen.gateway.form import Form
from fluxen.gateway.head import (
    CLIENT_REQUEST_ID,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    FORWARDED_FOR,
    USER_AGENT,
    HeaderKinds,
    RequestHead,
    parse_tags,
)
from fluxen.gateway.kin import Refused
from fluxen.gateway.peek import NOTHING, Peek
from fluxen.gateway.routes import NoRoute, Route, Upstream, dialect_hint
from fluxen.gateway.snapshot import Snapshot
from fluxen.gateway.strict import Strict
from fluxen.gateway.target import split_target
from fluxen.keys.client import ClientKey
from fluxen.providers.dialect import Dialect
from fluxen.providers.openai import STREAM_OPTIONS

LABEL: Final = 256  # bytes of a client-supplied string in the ledger
_JSON: Final = (b"application/json", b"text/json")
_STREAMED: Final = (b"multipart/", b"application/octet-stream")
GUESSABLE: Final = 32  # characters of a key: fewer may be a word that somebody made up


class Forward:
    """A head for one upstream: the bytes before and behind the body's length. `after` is None where it has none.

    credential: the provider's key in it; None where it has none of Fluxen's. plain: the same head, asking for an answer
    without Content-Encoding, once somebody needed it."""

    __slots__ = ("after", "before", "credential", "plain")

    def __init__(self, before: bytes, after: bytes | None, credential: Credential | None) -> None:
        self.before = before
        self.after = after
        self.credential = credential
        self.plain: Forward | None = None


class Opening:
    """One head under one snapshot. Never changes; shared by all requests that begin with the same head.

    fault: why the request is refused whatever its body says. known: whether the caller is known and the route exists,
    so that even a refusal gets a row. own: it is for Fluxen itself. held: its body is read whole before it is sent on.
    snapshot: whatever the request needs to know is asked of this one, also when a newer one is in force by then.
    askable: whether a stream can be asked for its usage where the client does not (Splice).
    conditional: whether it may pass depends on when it comes, from where, and what came before (Warden). guessable: its
    key is so short that trying might find it. strict: what its body may say (`judge`, and `form` for one that is passed
    on as it comes); None where nobody asks.
    """

    __slots__ = (
        "_forwards",
        "_place",
        "askable",
        "client_request_id",
        "conditional",
        "content_encoding",
        "dialect",
        "fault",
        "forwarded_for",
        "guessable",
        "head",
        "held",
        "is_head",
        "is_post",
        "key",
        "key_id",
        "own",
        "path",
        "presented",
        "query",
        "retry_after",
        "route",
        "snapshot",
        "strict",
        "tags",
        "user_agent",
    )

    admin: ClassVar = False
    """Whether it came by the address of Fluxen's own endpoints."""

    def __init__(self, head: RequestHead, snapshot: Snapshot) -> None:
        self.head = head
        self.snapshot = snapshot
        self._forwards: dict[str | tuple[str, str], Forward | Fault] = {}
        self.is_head = head.method == b"HEAD"
        self.is_post = head.method == b"POST"
        self.path, self.query, key_parameter, key_twice = split_target(head.target)
        self.presented = head.credential is not None or key_parameter is not None
        self.own = self.path.startswith(b"/-/")
        token = carried(head, key_parameter)
        two = key_parameter is not None and (head.credential is not None or key_twice)
        self.key, self.route, self.fault = self._decide(snapshot, token, two)
        self.retry_after: int | None = None
        self.dialect: Dialect = self.route.dialect if self.route is not None else snapshot.router.speaks(self.path)
        noted = head.noted
        self.content_encoding = noted.get(CONTENT_ENCODING)
        self.user_agent = _label(noted.get(USER_AGENT))
        self.client_request_id = _label(noted.get(CLIENT_REQUEST_ID))
        self.key_id = (self.key.id or None) if self.key is not None else None
        self.tags = self._tags()
        kind = noted.get(CONTENT_TYPE, b"").lower()
        is_json = kind.startswith(_JSON) or b"+json" in kind
        self.forwarded_for = noted.get(FORWARDED_FOR)
        self.strict = self._strict()
        key, fault = self.key, self.fault
        self.guessable = snapshot.keys is not None and not self.own and 0 < len(token) < GUESSABLE
        self.conditional = self.guessable or (fault is not None and fault.code in GUESSED)
        if key is not None and (key.until != math.inf or key.networks is not None):
            self.conditional = True
        self._place: tuple[dict[tuple[bytes, bytes], Opening], tuple[bytes, bytes]] | None = None
        self.held = is_json or (self.route is not None and self.route.json_body and not kind.startswith(_STREAMED))
        self.askable = self.held and self.is_post and self._tells_when_asked()

    @property
    def known(self) -> bool:
        return self.key is not None and self.route is not None

    def caller(self, peer: str) -> str:
        """The address of who calls. peer: that of who is connected."""
        return client_address(peer, self.forwarded_for, self.snapshot.config.server.trusted_proxies)

    def turned_away(self, fault: Fault, *, nameless: bool = False, retry_after: int | None = None) -> Opening:
        """An opening of the same head that refuses the request. nameless: as if nobody knew whose it is. retry_after in
        seconds."""
        other = copy.copy(self)
        other.fault, other.retry_after = fault, retry_after
        if nameless:
            other.key = other.key_id = other.tags = None
        return other

    def judge(self, body: bytes) -> Peek | Fault:
        """What a whole body says, or why it is refused. Empty where there is none. For a strict opening."""
        return NOTHING if self.strict is None else self.strict.judge(body)

    def form(self) -> Form | Fault | None:
        """What reads a body that is passed on as it comes, or why it is refused; None where nobody asks."""
        if self.strict is None:
            return None
        kind = self.strict.form_type()
        if isinstance(kind, Fault):
            return kind
        try:
            return Form(self.strict, kind)
        except Refused as refused:
            return refused.fault

    def forward(self, upstream: Upstream) -> Forward | Fault:
        """The head for an upstream, or why this request may not go there."""
        forward = self._forwards.get(upstream.name)
        if forward is None:
            first = upstream.credentials[0] if upstream.credentials else None
            forward = self._forwards[upstream.name] = self._compile(upstream, first)
        return forward

    def forward_with(self, upstream: Upstream, credential: Credential) -> Forward | Fault:
        """The same with another than the first of its credentials."""
        forward = self._forwards.get((upstream.name, credential.name))
        if forward is None:
            forward = self._forwards[upstream.name, credential.name] = self._compile(upstream, credential)
        return forward

    def remember(self, known: dict[tuple[bytes, bytes], Opening], key: tuple[bytes, bytes]) -> None:
        known[key] = self
        if self.guessable:
            self._place = known, key

    def forget(self) -> None:
        """So that the same head takes as long the next time as one with a key that nobody knows."""
        if self._place is not None:
            known, key = self._place
            known.pop(key, None)

    def _tells_when_asked(self) -> bool:
        """Whether its streams tell what they used only where they are asked, and a body that can be read may be."""
        route = self.route
        if route is None or route.upstream is not None or route.dialect.name != "openai":
            return False
        return route.endpoint in STREAM_OPTIONS and self.content_encoding in (None, b"", b"identity")

    def _decide(
        self, snapshot: Snapshot, token: bytes, two: bool
    ) -> tuple[ClientKey | None, Route | None, Fault | None]:
        """Head, caller, route, in this order, up to the first reason to refuse."""
        head = self.head
        if head.fault is not None:
            return None, None, Fault(*head.fault)
        if self.own:
            return None, None, None
        key = identify(snapshot, head, token, two)
        if isinstance(key, Fault):
            return None, None, key
        barred = may_go(key, self.path)
        try:
            route = snapshot.router.find(self.path, dialect_hint(head.noted, head.credential_name))
        except NoRoute as no:
            return key, None, barred or Fault(no.status, no.code, no.message)
        if barred is not None:
            return key, route, barred
        if head.upgrade is not None and b"websocket" in head.upgrade:
            message = "WebSocket is not supported by this gateway; use plain HTTP"
            return key, route, Fault(426, "upgrade_required", message)
        if route.upstream is not None:
            return key, route, may_use(snapshot, key, route, route.upstream, self.presented)
        return key, route, None

    def _strict(self) -> Strict | None:
        """What the bodies may say, where that matters. Sets `fault` when the head alone tells."""
        key, route = self.key, self.route
        if key is None or route is None or self.fault is not None or not key.restricts_body:
            return None
        rest = self.path if route.upstream is None else self.path[len(route.upstream.mount) :]
        try:
            return Strict(key, route, self.head, rest, self.query, self.snapshot.max_body)
        except Refused as refused:
            self.fault = refused.fault
            return None

    def _tags(self) -> dict[str, str] | None:
        """The key's tags and the request's; where both name one, the key's."""
        key = self.key
        tags = None if key is None or key.tags is None else dict(key.tags)
        if self.head.tags is not None and (own := parse_tags(self.head.tags)) is not None:
            tags = {**own, **(tags or {})}
        return tags

    def _compile(self, upstream: Upstream, credential: Credential | None) -> Forward | Fault:
        key, route, head = self.key, self.route, self.head
        assert key is not None and route is not None
        fault = may_use(self.snapshot, key, route, upstream, self.presented)
        if fault is not None:
            return fault
        own = credential is None and self.snapshot.open_mode  # the client's own credential goes on as it is
        path = upstream.path(self.path, unified=True) if route.kind == "unified" else route.path
        target = path + (head.target[len(self.path) :] if own else self.query)
        carrier = None if credential is None else (upstream.credential_header, credential.value)
        return Forward(*head.compiled(target, upstream.host, carrier, own, self.held), credential)


class AdminOpening(Opening):
    """One by the address of Fluxen's own endpoints: there is nothing else, and client keys mean nothing there."""

    __slots__ = ()
    admin = True

    def _decide(
        self, _snapshot: Snapshot, _token: bytes, _two: bool
    ) -> tuple[ClientKey | None, Route | None, Fault | None]:
        if self.head.fault is not None:
            return None, None, Fault(*self.head.fault)
        return None, None, None if self.own else Fault(404, "not_found", "only Fluxen's own endpoints are here: /-/…")


class Openings:
    """The openings of one snapshot, by their heads."""

    REMEMBERED: Final = 1024
    LONGEST: Final = 4096  # bytes of a head that is worth remembering

    def __init__(self, snapshot: Snapshot, kinds: HeaderKinds) -> None:
        self._snapshot = snapshot
        self._kinds = kinds
        self._known: dict[tuple[bytes, bytes], Opening] = {}

    def find(self, raw: bytes) -> tuple[Opening, int | None]:
        """What a head means that llhttp has accepted (`raw`, without the empty line), and its Content-Length."""
        key, digits = _key(raw)
        opening = self._known.get(key)
        if opening is None:
            opening = Opening(RequestHead(raw, self._kinds), self._snapshot)
            if opening.fault is None and len(raw) <= self.LONGEST and opening.head.upgrade is None:
                if len(self._known) >= self.REMEMBERED:
                    self._known.clear()
                opening.remember(self._known, key)
        return opening, opening.head.length if digits is None else int(digits)

    def recall(self, raw: bytes) -> tuple[Opening, int] | None:
        """The same for a head that nobody has looked at yet, if llhttp has accepted it before: byte for byte, but for
        the digits of its length. None if not, and for a body in chunks."""
        key, digits = _key(raw)
        opening = self._known.get(key)
        if opening is None or opening.head.chunked:
            return None
        if digits is None:
            return opening, opening.head.length or 0
        return (opening, int(digits)) if digits.isdigit() and len(digits) < 16 else None

    def own(self, raw: bytes) -> tuple[Opening, int | None]:
        """As find, on the address of Fluxen's own endpoints. Nothing is remembered."""
        opening = AdminOpening(RequestHead(raw, self._kinds), self._snapshot)
        return opening, opening.head.length

    def refused(self, seen: bytes, fault: Fault) -> Opening:
        """The opening of what is no request. seen: its first bytes; they tell whose protocol to answer in."""
        head = RequestHead(seen[:1024].partition(b"\r\n")[0], self._kinds)
        head.fault = fault
        head.keep_alive = False
        return Opening(head, self._snapshot)


def _key(raw: bytes) -> tuple[tuple[bytes, bytes], bytes | None]:
    """A head without the digits of its Content-Length, and those digits; None where they are not spelled in one of the
    two usual ways, or there are none: then they are a part of the key."""
    at = raw.find(b"\r\nContent-Length: ")
    if at < 0:
        at = raw.find(b"\r\ncontent-length: ")
        if at < 0:
            return (raw, b""), None
    at += 18
    end = raw.find(b"\r\n", at)
    return ((raw[:at], b""), raw[at:]) if end < 0 else ((raw[:at], raw[end:]), raw[at:end])


def _label(value: bytes | None) -> str | None:
    return None if value is None else value[:LABEL].decode("latin-1")
