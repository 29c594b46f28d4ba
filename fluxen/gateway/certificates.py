"""Whose certificates are believed: the authorities that HTTPS upstreams are checked against.

OpenSSL looks where it was built to look, and a frozen executable's was built on another machine. So the store is
searched for here, in this order: SSL_CERT_FILE and SSL_CERT_DIR, OpenSSL's own places, where the common systems keep
theirs, and at last the copy of Mozilla's list in certifi, which is part of the installation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fluxen.config.paths import read_file
from fluxen.errors import ConfigError
from fluxen.gateway.listening import load_certificate, server_context

if TYPE_CHECKING:
    from fluxen.config.model import Tls

_LARGEST_STORE: Final = 16 << 20  # bytes
SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora 43 and its kin, which drop the link above
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine without ca-certificates, macOS, OpenBSD
    "/usr/local/share/certs/ca-root-nss.crt",  # FreeBSD
)
_PEM: Final = "a certificate in PEM form begins with -----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Trust:
    """A store: a file of certificates, a folder of them by hash, or both. source says why it is this one."""

    cafile: str | None
    capath: str | None
    source: str


def trust(env: Mapping[str, str]) -> Trust:
    """The store that upstreams without a ca_file are checked against.

    Raises ConfigError when SSL_CERT_FILE or SSL_CERT_DIR names nothing: an empty store refuses every upstream.
    """
    file, folder = env.get("SSL_CERT_FILE") or None, env.get("SSL_CERT_DIR") or None
    if file is not None and not Path(file).is_file():
        raise ConfigError(f"SSL_CERT_FILE names {file}, which is no file", hint="unset it, or mend the path")
    if folder is not None and not any(Path(part).is_dir() for part in folder.split(":")):
        raise ConfigError(f"SSL_CERT_DIR names {folder}, which is no folder", hint="unset it, or mend the path")
    if file is not None or folder is not None:
        return Trust(file, folder, " and ".join(filter(None, (file and "SSL_CERT_FILE", folder and "SSL_CERT_DIR"))))
    built_in = ssl.get_default_verify_paths()
    if built_in.openssl_cafile and Path(built_in.openssl_cafile).is_file():
        return Trust(built_in.openssl_cafile, None, "OpenSSL's default file")
    for bundle in SYSTEM_BUNDLES:
        if Path(bundle).is_file():
            return Trust(bundle, None, "this system's store")
    if built_in.openssl_capath and any(Path(built_in.openssl_capath).glob("*.0")):
        return Trust(None, built_in.openssl_capath, "OpenSSL's default folder")
    import certifi

    return Trust(certifi.where(), None, "Mozilla's list as shipped with Fluxen: this system has none")


class Authorities:
    """The TLS contexts of upstreams, one for each store, and of the listener. The supervisor makes them before it
    forks; what is new or has changed later, workers get as bytes: they read no file."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._system: Trust | None = None
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._known: dict[str | None, bytes] = {}  # digests of what they were made of
        self._serving: dict[Tls, ssl.SSLContext] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """ca_file: these authorities instead of the system's. Raises ConfigError when they can't be read."""
        if ca_file not in self._contexts:
            self.learn({ca_file: self._read(self._store(ca_file))})
        return self._contexts[ca_file]

    def files(self) -> set[Path]:
        """The files of the system's store, as far as it is one: they change with the system's updates."""
        file = None if self._system is None else self._system.cafile
        return set() if file is None else {Path(file).absolute()}

    def changed(self, ca_files: Collection[str | None]) -> dict[str | None, bytes]:
        """What is in those of these stores that are new or hold something else than what is in force. Raises
        ConfigError when one can't be read."""
        found = {ca_file: self._read(self._store(ca_file)) for ca_file in ca_files}
        return {ca_file: pem for ca_file, pem in found.items() if self._known.get(ca_file) != _digest(pem)}

    def learn(self, stores: Mapping[str | None, bytes]) -> None:
        """From now on these are believed. All of them or, with a ConfigError, none."""
        fresh = {ca_file: self._made(ca_file, pem) for ca_file, pem in stores.items()}
        self._contexts.update(fresh)
        self._known.update({ca_file: _digest(pem) for ca_file, pem in stores.items()})

    def serving(self, tls: Tls) -> ssl.SSLContext:
        """What is spoken to clients. Made before the workers fork, it lets a client that comes back to another one
        resume its session. Raises ConfigError when certificate or key can't be used."""
        context = self._serving.get(tls)
        if context is None:
            context = self._serving[tls] = server_context(tls)
        return context

    def show(self, tls: Tls, certificate: bytes, key: bytes) -> ssl.SSLContext:
        """The same with this certificate and key, which the supervisor has read from the files. Connections that are
        open keep theirs; a context that is there goes on, with its sessions."""
        with _as_file(certificate, tls.cert_file) as first, _as_file(key, tls.key_file) as second:
            held = tls.model_copy(update={"cert_file": first, "key_file": second})
            context = self._serving.get(tls)
            if context is None:
                context = self._serving[tls] = server_context(held)
            else:
                load_certificate(context, held)
        return context

    def _store(self, ca_file: str | None) -> Trust:
        if ca_file is not None:
            return Trust(ca_file, None, "ca_file")
        if self._system is None:
            self._system = trust(self._env)
        return self._system

    def _read(self, store: Trust) -> bytes:
        """b'' for a store that is only a folder: OpenSSL looks into it when it needs to."""
        if store.cafile is None:
            return b""
        try:
            return read_file(Path(store.cafile), _LARGEST_STORE)
        except OSError as error:
            raise ConfigError(f"can't read {store.cafile}: {error.strerror}", hint=_PEM) from error

    def _made(self, ca_file: str | None, pem: bytes) -> ssl.SSLContext:
        store = self._store(ca_file)
        return _context(store, None, pem) if store.cafile else client_context(store)


@contextlib.contextmanager
def _as_file(content: bytes, path: Path) -> Iterator[Path]:
    """A path at which OpenSSL, which takes no bytes, finds this content; where the system has no files in memory, the
    path that it was read from."""
    if not hasattr(os, "memfd_create"):
        yield path
        return
    descriptor = os.memfd_create("certificate")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _digest(pem: bytes) -> bytes:
    return hashlib.blake2b(pem, digest_size=16).digest()


def client_context(store: Trust) -> ssl.SSLContext:
    """Verifies by that store, speaks HTTP/1.1 only. Raises ConfigError when the store can't be read."""
    return _context(store, store.cafile, None)


def _context(store: Trust, cafile: str | None, pem: bytes | None) -> ssl.SSLContext:
    text = None if pem is None else pem.decode("ascii", "ignore")  # comments are written in any language
    if text is not None and not text.strip():  # OpenSSL would take nothing for the system's store
        raise ConfigError(f"{store.cafile} holds no certificate that can be read", hint=_PEM)
    try:
        context = ssl.create_default_context(cafile=cafile, capath=store.capath, cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{store.cafile} holds no certificate that can be read", hint=_PEM) from error
    except OSError as error:
        raise ConfigError(f"can't read {store.cafile or store.capath}: {error.strerror}", hint=_PEM) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
