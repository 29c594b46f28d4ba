"""What the gateway listens with: patience, the TLS of its addresses, and whether those can stand side by side.

Everything that is wrong with it is found before anything listens, by `fluxen validate`, too. A certificate is not only
read: a handshake is made with it, in memory, as a client would make it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fluxen.config.paths import read_file
from fluxen.errors import ConfigError
from fluxen.gateway.timers import ticks

if TYPE_CHECKING:
    from fluxen.config.document import Where
    from fluxen.config.model import Config, Server, Tls

SOON: Final = 14 * 86_400.0  # seconds before a certificate's end from which on it is warned of
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secret and authenticated, without CBC and DHE
_MAX_PEM: Final = 1 << 20
_EXPIRED, _NOT_YET = 10, 9  # of OpenSSL's x509_vfy.h
_PEM: Final = "in PEM form it begins with -----BEGIN "


class Patience(NamedTuple):
    """How long a listener waits for its client, in ticks."""

    head: int
    body: int
    keep_alive: int

    @classmethod
    def of(cls, server: Server) -> Patience:
        return cls(
            *(ticks(ms / 1000) for ms in (server.head_timeout_ms, server.body_timeout_ms, server.keep_alive_timeout_ms))
        )


def server_context(tls: Tls) -> ssl.SSLContext:
    """The server's side of TLS: 1.2 or 1.3, HTTP/1.1, neither compression nor renegotiation.

    Raises ConfigError when the certificate or its key can't be used; the message names the file, and quotes nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls)
    return context


def load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    """Have a context show what is in the files now; connections that are open keep what they have.

    Raises ConfigError, and then the context may hold the new certificate without its key: throw it away.
    """
    certificate, key = tls.cert_file, tls.key_file
    _read(certificate, "a certificate")
    _read(key, "the certificate's key")
    asked: list[bool] = []

    def no_password() -> str:
        """Without this OpenSSL would ask for it on the terminal."""
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else None
        if asked:
            raise ConfigError(
                f"{key} is protected by a password, which nobody could type at a restart",
                hint="take it off: openssl pkey -in KEY -out NEW, and let only Fluxen read NEW",
            ) from None
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key} is not the key of the certificate in {certificate}") from None
        client_of(certificate)
        if reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
            raise ConfigError(f"{certificate} is too weak for TLS: {_words(reason)}") from None
        raise ConfigError(f"{key} holds no private key that can be read", hint=f"{_PEM}PRIVATE KEY") from None


def certificate_warnings(context: ssl.SSLContext, tls: Tls, now: float | None = None) -> Iterator[str]:
    """What clients will not like about the certificate of a server's context. now: seconds since 1970."""
    now = time.time() if now is None else now
    file = tls.cert_file
    client = client_of(file)
    try:
        shown = _shake_hands(context, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            yield f"the certificate in {file} has expired: clients refuse it"
        elif error.verify_code == _NOT_YET:
            yield f"the certificate in {file} is not valid yet: clients refuse it"
        else:
            yield f"clients will refuse the certificate in {file}: {error.verify_message}"
        return
    left = ssl.cert_time_to_seconds(str(shown["notAfter"])) - now
    if left <= 0:
        yield f"the certificate in {file} has expired: clients refuse it"
    elif left < SOON:
        yield f"the certificate in {file} expires in {max(1, round(left / 86_400))} days"
    if not shown.get("subjectAltName"):
        yield f"the certificate in {file} names no host (subjectAltName): clients refuse it"


def client_of(cert_file: Path) -> ssl.SSLContext:
    """A client's side that believes whoever holds the key of this very certificate, whatever it is called by: for the
    machine that the file lies on. Raises ConfigError when it can't be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    pem = _read(cert_file, "a certificate")
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{cert_file} holds no certificate that can be read", hint=f"{_PEM}CERTIFICATE") from None
    return context


def address_problems(config: Config) -> Iterator[tuple[Where, str]]:
    """What is wrong with the two addresses of a configuration."""
    admin = config.admin
    if admin is None:
        return
    public, own = config.server.bind_address, admin.bind_address
    where = ("admin", "bind_address")
    if own.port and own.port == public.port:
        if own.host != public.host:
            yield where, f"has the port of server.bind_address ({public}): the same address, or another port"
        elif admin.key is None:
            yield where, "is the address that clients call: set admin.key, or take another port"
    elif admin.key is None and not own.loopback:
        yield where, "without admin.key only this machine is answered: set it, or bind 127.0.0.1"


def shared(config: Config) -> bool:
    """Whether Fluxen's own endpoints are on the address that clients call."""
    public = config.server.bind_address
    return config.admin is not None and config.admin.bind_address == public and public.port != 0


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """The certificate a client sees. Raises SSLCertVerificationError when it does not believe it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    calling = client.wrap_bio(to_client, to_server)
    for side in (calling, serving, calling):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return dict(calling.getpeercert() or {})


def _read(path: Path, what: str) -> str:
    try:
        return read_file(path, _MAX_PEM).decode("ascii", "ignore")  # comments may be in any language
    except OSError as error:
        raise ConfigError(f"can't read {path}, which should hold {what}: {error.strerror}") from None


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()
