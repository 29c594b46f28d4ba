"""One fetch of a key set from its URL, with the standard library: no redirect is followed, nothing lasts for ever.

Not for a worker: it blocks.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import threading
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from fluxen.errors import FluxenError

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})\"?(?:$|[\s,])", re.IGNORECASE)
_UNKEPT: Final = re.compile(r"\bno-(?:store|cache)\b", re.IGNORECASE)


class FetchError(FluxenError):
    """What came was no answer, or not one that can be used."""


class Fetched(NamedTuple):
    """max_age: how many seconds the answer says that it may be kept; None when it doesn't."""

    document: bytes
    max_age: float | None


def fetch(url: str, context: ssl.SSLContext, seconds: float, largest: int) -> Fetched:
    """GET it. seconds: for all of it, apart from looking up the name. largest: bytes of the document. HTTPS_PROXY and
    NO_PROXY are obeyed. Raises FetchError."""
    connection = _Connection(urlsplit(url), context, seconds)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        connection.break_off()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        return connection.get(largest)
    except (OSError, HTTPException, ValueError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise FetchError(f"{url}: no whole answer within {seconds:g} s") from None
        raise FetchError(f"{url}: {_told(error)}") from None
    finally:
        timer.cancel()
        connection.close()


class _Connection(HTTPConnection):
    """To the server of one URL, be it through a proxy."""

    def __init__(self, url: SplitResult, context: ssl.SSLContext, seconds: float) -> None:
        self._url = url
        self._context = context if url.scheme == "https" else None
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        proxy = _proxy(host) if self._context is not None else None  # plain http is for this machine only
        if proxy is None:
            super().__init__(host, port, timeout=seconds)
        else:
            super().__init__(proxy.hostname or "", proxy.port or 80, timeout=seconds)
            self.set_tunnel(host, port, _proxy_headers(proxy))

    def connect(self) -> None:
        super().connect()
        if self._context is not None:
            # The handshake comes after the assignment, so that break_off reaches it.
            self.sock = self._context.wrap_socket(
                self.sock, server_hostname=self._url.hostname, do_handshake_on_connect=False
            )
            self.sock.do_handshake()

    def break_off(self) -> None:
        """From another thread: whatever waits for the socket ends with an error."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # an SSLSocket's own would take itself apart

    def get(self, largest: int) -> Fetched:
        url = self._url
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Host": url.netloc, "Accept": "application/json", "Accept-Encoding": "identity"}
        self.request("GET", target, headers=headers | {"User-Agent": "fluxen", "Connection": "close"})
        with self.getresponse() as answer:
            if answer.status in range(300, 400):
                raise ValueError(f"answered {answer.status}: name the URL that it leads to, redirects are not followed")
            if answer.status != 200:
                raise ValueError(f"answered {answer.status}")
            document = answer.read(largest + 1)
            if len(document) > largest:
                raise ValueError(f"the answer is larger than {largest} bytes")
            if answer.length:
                raise ValueError("the answer ends in its middle")
            return Fetched(document, _max_age(answer.getheader("Cache-Control") or "", answer.getheader("Age") or ""))


def _max_age(control: str, age: str) -> float | None:
    if _UNKEPT.search(control):
        return 0.0
    found = _MAX_AGE.search(control)
    spent = int(age) if age.isascii() and age.isdigit() and len(age) < 10 else 0
    return None if found is None else float(max(0, int(found[1]) - spent))


def _proxy(host: str) -> SplitResult | None:
    proxies = getproxies()
    named = proxies.get("https") or proxies.get("all")
    if not named or proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:  # which would quote a part of the password
        usable = False
    if not usable:
        raise FetchError("HTTPS_PROXY names no http:// proxy, and Fluxen speaks to no other")
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
