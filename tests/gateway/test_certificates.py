"""Where the authorities come from by which HTTPS upstreams are checked."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from shared import Fluxen, missing

from fluxen.errors import ConfigError
from fluxen.gateway.certificates import SYSTEM_BUNDLES, Authorities, Trust, client_context, trust


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def test_the_environment_comes_first(bundle: Path) -> None:
    assert trust({"SSL_CERT_FILE": str(bundle)}) == Trust(str(bundle), None, "SSL_CERT_FILE")
    folder = str(bundle.parent)
    assert trust({"SSL_CERT_DIR": folder}) == Trust(None, folder, "SSL_CERT_DIR")
    both = trust({"SSL_CERT_DIR": folder, "SSL_CERT_FILE": str(bundle)})
    assert both == Trust(str(bundle), folder, "SSL_CERT_FILE and SSL_CERT_DIR")
    assert trust({"SSL_CERT_DIR": f"/nowhere:{folder}"}).capath == f"/nowhere:{folder}"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_environment_that_names_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(ConfigError, match=f"{name} names {gone}") as raised:
        trust({name: gone})
    assert raised.value.exit_code == 3
    assert raised.value.hint


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert trust({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}) == trust({})


def test_without_environment_there_is_always_a_store_that_can_be_read() -> None:
    store = trust({})
    assert store.source
    assert client_context(store).get_ca_certs() or store.capath
    if any(Path(path).is_file() for path in SYSTEM_BUNDLES):
        assert "certifi" not in str(store.cafile), "the system's own list goes before a copy"


def test_which_store_is_taken_of_those_that_are_there(tmp_path: Path) -> None:
    """In a root of its own, with nothing in it but this Python at first; then one more, that goes before, at a time."""
    if os.geteuid() != 0:
        missing("needs root: chroot")
    program = """
import os, ssl, certifi
from fluxen.gateway.certificates import Authorities, trust
copy = os.open(certifi.where(), os.O_RDONLY)
where = certifi.where()
os.chroot(os.environ["EMPTY"])
os.makedirs(os.path.dirname(where))
with open(where, "wb") as there, open(copy, "rb") as here:
    there.write(here.read())
store = trust({})
print(store.source)
assert store.cafile == where, store
assert len(Authorities({}).context(None).get_ca_certs()) > 100
built_in = ssl.get_default_verify_paths()
for path in (built_in.openssl_capath + "/0a775a30.0", "/etc/ssl/ca-bundle.pem", built_in.openssl_cafile):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").close()
    print(trust({}).source)
"""
    env = {"EMPTY": str(tmp_path), "PATH": os.environ["PATH"]}
    ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "Mozilla's list as shipped with Fluxen: this system has none",
        "OpenSSL's default folder",
        "this system's store",
        "OpenSSL's default file",
    ]


def test_a_context_is_made_once_for_each_store(bundle: Path) -> None:
    authorities = Authorities({"SSL_CERT_FILE": str(bundle)})
    own = authorities.context(str(bundle))
    assert authorities.context(str(bundle)) is own
    assert authorities.context(None) is authorities.context(None) is not own
    assert [len(context.get_ca_certs()) for context in (own, authorities.context(None))] == [1, 1]
    assert own.verify_mode is ssl.CERT_REQUIRED
    assert own.check_hostname


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_file_without_certificates_is_an_error_that_names_it(text: str, bundle: Path) -> None:
    bundle.write_text(text)
    with pytest.raises(ConfigError, match=str(bundle)) as raised:
        Authorities({}).context(str(bundle))
    assert "PEM" in str(raised.value.hint)


def test_validate_finds_a_file_without_certificates(bundle: Path, fluxen: Fluxen) -> None:
    bundle.write_text("")
    file = bundle.with_name("fluxen.yaml")
    file.write_text(f'upstreams:\n  local: {{target_url: "https://localhost", ca_file: "{bundle}"}}\n')
    for command in (("validate", str(file)), ("serve", "--port", "0", "--config", str(file))):
        done = fluxen(*command)
        assert done.returncode == 3
        assert f"{file}:2:10: upstreams.local: {bundle} holds no certificate that can be read" in done.stderr
