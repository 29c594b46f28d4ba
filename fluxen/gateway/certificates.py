"""Whose certificates are believed: the authorities that HTTPS upstreams are checked against.

OpenSSL looks where it was built to look, and a frozen executable's was built on another machine. So the store is
searched for here, in this order: SSL_CERT_FILE and SSL_CERT_DIR, OpenSSL's own places, where the common systems keep
theirs, and at last the copy of Mozilla's list in certifi, which is part of the installation.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fluxen.errors import ConfigError
from fluxen.gateway.listening import server_context

if TYPE_CHECKING:
    from fluxen.config.model import Tls

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
    """The TLS contexts of upstreams, one for each store, and of the listener. All are made at the start: later a file
    may be gone."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._serving: dict[Tls, ssl.SSLContext] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """ca_file: these authorities instead of the system's. Raises ConfigError when they can't be read."""
        context = self._contexts.get(ca_file)
        if context is None:
            store = trust(self._env) if ca_file is None else Trust(ca_file, None, "ca_file")
            context = self._contexts[ca_file] = client_context(store)
        return context

    def serving(self, tls: Tls) -> ssl.SSLContext:
        """What is spoken to clients. Made before the workers fork, it lets a client that comes back to another one
        resume its session. Raises ConfigError when certificate or key can't be used."""
        context = self._serving.get(tls)
        if context is None:
            context = self._serving[tls] = server_context(tls)
        return context


def client_context(store: Trust) -> ssl.SSLContext:
    """Verifies by that store, speaks HTTP/1.1 only. Raises ConfigError when the store can't be read."""
    try:
        context = ssl.create_default_context(cafile=store.cafile, capath=store.capath)
    except ssl.SSLError as error:
        raise ConfigError(f"{store.cafile} holds no certificate that can be read", hint=_PEM) from error
    except OSError as error:
        raise ConfigError(f"can't read {store.cafile or store.capath}: {error.strerror}", hint=_PEM) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
