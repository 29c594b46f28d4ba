"""Who may come in, and who may use what. Pure: a head and a snapshot in, a caller or a Fault out.

A client key comes as `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key` or `?key=`; never two of them.
In open mode (no client keys) whoever is on this machine may call, except a web page and what a reverse proxy hands on.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from fluxen.gateway.head import FETCH_SITE, ORIGIN, PROXIED, RequestHead
from fluxen.gateway.routes import Route, Upstream, speaks_for_credential
from fluxen.gateway.snapshot import Snapshot
from fluxen.keys.client import ClientKey

_LOCAL_HOSTS: Final = (b"localhost", b"127.0.0.1", b"[::1]")


class Fault(NamedTuple):
    """Why a request is refused. code is for programs, message for people."""

    status: int
    code: str
    message: str


_TWO = Fault(400, "duplicate_credential", "the request carries more than one credential")
_UNKNOWN = Fault(401, "invalid_api_key", "the API key is missing or not known to this gateway")
_HOST = Fault(403, "host_not_allowed", "without api_keys this gateway answers to localhost only")
_PROXY = Fault(403, "proxy_not_allowed", "without api_keys this gateway does not answer what a proxy hands on")
_BROWSER = Fault(403, "browser_not_allowed", "without api_keys this gateway does not answer web pages")


def identify(snapshot: Snapshot, head: RequestHead, key_parameter: bytes | None, key_twice: bool) -> ClientKey | Fault:
    """The caller. key_parameter is the value of `?key=`; key_twice, whether there were two."""
    if key_parameter is not None and (head.credential is not None or key_twice):
        return _TWO
    if snapshot.keys is None:
        return _open_mode_fault(head) or snapshot.everyone
    if key_parameter is not None:
        token = unquote_to_bytes(key_parameter)
    elif head.credential is not None:
        token = _token(head.credential_name, head.credential)
    else:
        return _UNKNOWN
    return snapshot.keys.find(token) or _UNKNOWN


def may_use(snapshot: Snapshot, key: ClientKey, route: Route, upstream: Upstream, presented: bool) -> Fault | None:
    """Why this caller may not send this request to this upstream. presented: it carries a credential."""
    if key.upstreams is not None and upstream.name not in key.upstreams:
        return Fault(403, "upstream_not_allowed", f"this key may not use the upstream {upstream.name}")
    if not snapshot.open_mode or upstream.credentials or not presented:
        return None
    # The client's own credential goes on, so it must be meant for this upstream.
    if speaks_for_credential(route, upstream) and (route.kind == "mount" or snapshot.router.sole_or_home(upstream)):
        return None
    return Fault(
        401, "credential_not_forwarded",
        f"no key for {upstream.name} is configured, and this request's credential may be another provider's",
    )  # fmt: skip


def _token(name: bytes, value: bytes) -> bytes:
    """The key in a credential header's value."""
    if name.lower() == b"authorization":
        scheme, _, token = value.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" else b""
    return value.strip()


def _open_mode_fault(head: RequestHead) -> Fault | None:
    """Open mode is for programs on this machine: no web page and no stranger may spend the user's money."""
    host = b"localhost" if head.host is None else head.host.lower()  # HTTP/1.0 may leave it out, a browser can't
    name, colon, port = host.rpartition(b":")
    if colon and port.isdigit():
        host = name
    if host not in _LOCAL_HOSTS:
        return _HOST
    if ORIGIN in head.noted or head.noted.get(FETCH_SITE, b"none") not in (b"none", b"same-origin"):
        return _BROWSER
    if PROXIED in head.noted:  # most proxies call what is behind them by its own address: everybody would be local
        return _PROXY
    return None
