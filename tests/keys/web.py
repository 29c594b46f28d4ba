"""A web server of an issuer, over real TLS, that answers whatever a test wants, also nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

import trustme

Answer = Callable[[socket.socket, bytes], None]
"""Is given the connection and the request's head."""


def reply(document: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> Answer:
    size = len(document) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n".encode()
    return lambda connection, _: connection.sendall(head + document)


class Web:
    """On a port of its own until closed. `answer` is what it does; `heads` are the requests that it has had."""

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def url(self, path: str = "/jwks", host: str = "localhost") -> str:
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}{path}"

    def wait(self) -> None:
        """Until the server is closed: for an answer that never ends."""
        self._closing.wait(60)

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(65_536)
                    if not piece:
                        return
                    head += piece
                self.heads.append(head)
                self.answer(connection, head)


class Authority:
    """Signs the server's certificates, and is trusted by those who are given its context."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def pem(self) -> bytes:
        return self._ca.cert_pem.bytes()

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context
