"""Who may come in, and who may use what. Pure: a head and a snapshot in, a caller or a Fault out.

A client key comes as `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key` or `?key=`; never two of them.
It is looked up among the client keys, and if it is none of them, judged as a signed token.
In open mode (no client keys) whoever is on this machine may call, except a web page and what a reverse proxy hands on.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import time
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from fluxen.gateway.head import FETCH_SITE, ORIGIN, PROXIED, RequestHead
from fluxen.gateway.routes import Route, Upstream, speaks_for_credential
from fluxen.gateway.snapshot import Snapshot
from fluxen.gateway.target import decoded_anew, plain
from fluxen.keys.client import ClientKey

LONGEST_KEY: Final = 8192
"""Bytes of a key or token; nothing longer is looked at."""
GUESSED: Final = frozenset({"invalid_api_key", "invalid_token"})
"""Codes of refusals after which the same caller may be trying further keys."""
_LOCAL_HOSTS: Final = (b"localhost", b"127.0.0.1", b"[::1]")


class Fault(NamedTuple):
    """Why a request is refused. code is for programs, message for people."""

    status: int
    code: str
    message: str


_TWO = Fault(400, "duplicate_credential", "the request carries more than one credential")
_UNKNOWN = Fault(401, "invalid_api_key", "the API key is missing or not known to this gateway")
_UPSTREAM = Fault(403, "upstream_not_allowed", "this key may not use this upstream")
_ROUTE = Fault(403, "route_not_allowed", "this key may not call this path")
_SPELLED = Fault(400, "invalid_path", "this key is restricted: its paths are written without %, ';' and the like")
_TRESPASS: Final = {
    "host": Fault(403, "host_not_allowed", "without api_keys this gateway answers to localhost only"),
    "proxy": Fault(403, "proxy_not_allowed", "without api_keys this gateway does not answer what a proxy hands on"),
    "browser": Fault(403, "browser_not_allowed", "without api_keys this gateway does not answer web pages"),
}


def carried(head: RequestHead, key_parameter: bytes | None) -> bytes:
    """The key or token that a request carries; empty for none. key_parameter is the value of `?key=`."""
    if key_parameter is not None:
        return unquote_to_bytes(key_parameter)
    return b"" if head.credential is None else _token(head.credential_name, head.credential)


def identify(snapshot: Snapshot, head: RequestHead, token: bytes, two: bool) -> ClientKey | Fault:
    """The caller. token: what the request carries; two: besides it another one. Whether the key still works (`until`)
    is asked of each request, not here."""
    if two:
        return _TWO
    if snapshot.keys is None:
        reason = trespass(head)
        return snapshot.everyone if reason is None else _TRESPASS[reason]
    if not token or len(token) > LONGEST_KEY:
        return _UNKNOWN
    key = snapshot.keys.find(token)
    if key is not None:
        return key
    if snapshot.tokens is None or token.count(b".") != 2:
        return _UNKNOWN
    bearer = snapshot.tokens.identify(token, time.time())
    return bearer if isinstance(bearer, ClientKey) else Fault(401, bearer.code, bearer.message)


def may_go(key: ClientKey, path: bytes) -> Fault | None:
    """Why this caller may not call this path, wherever it leads. path: as it stands in the request.

    A key with patterns of paths or models is held to spellings that nobody can read in two ways; one that is only kept
    to its upstreams, to those that no server decodes into another path."""
    if key.routes is None and key.models is None:
        return _SPELLED if key.upstreams is not None and decoded_anew(path) else None
    if not plain(path):
        return _SPELLED
    if key.routes is not None and patterns(key.routes).fullmatch(path.decode("ascii")) is None:
        return _ROUTE
    return None


def may_use(snapshot: Snapshot, key: ClientKey, route: Route, upstream: Upstream, presented: bool) -> Fault | None:
    """Why this caller may not send this request to this upstream. presented: it carries a credential."""
    if key.upstreams is not None and upstream.name not in key.upstreams:
        return _UPSTREAM  # no name: what a model leads to is not for everybody
    if not snapshot.open_mode or upstream.credentials or not presented:
        return None
    # The client's own credential goes on, so it must be meant for this upstream.
    if speaks_for_credential(route, upstream) and (route.kind == "mount" or snapshot.router.sole_or_home(upstream)):
        return None
    return Fault(
        401, "credential_not_forwarded",
        f"no key for {upstream.name} is configured, and this request's credential may be another provider's",
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def patterns(globs: tuple[str, ...]) -> re.Pattern[str]:
    """What matches one of these patterns, letter by letter: `*`, `?` and `[…]` as in a shell. For fullmatch."""
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")


def _token(name: bytes, value: bytes) -> bytes:
    """The key in a credential header's value."""
    if name.lower() == b"authorization":
        scheme, _, token = value.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" else b""
    return value.strip()


def trespass(head: RequestHead) -> Literal["host", "browser", "proxy"] | None:
    """What tells that a request without a key does not come from a program on this machine, although its connection
    does: no web page and no stranger may do anything in the user's name."""
    host = b"localhost" if head.host is None else head.host.lower()  # HTTP/1.0 may leave it out, a browser can't
    name, colon, port = host.rpartition(b":")
    if colon and port.isdigit():
        host = name
    if host not in _LOCAL_HOSTS:
        return "host"
    if ORIGIN in head.noted or head.noted.get(FETCH_SITE, b"none") not in (b"none", b"same-origin"):
        return "browser"
    if PROXIED in head.noted:  # most proxies call what is behind them by its own address: everybody would be local
        return "proxy"
    return None
