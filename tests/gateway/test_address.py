"""Who calls: the peer, or whom a trusted proxy names; networks; whom failures are counted against."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.address import UNKNOWN, client_address, inside, source_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "header", "caller"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", b"198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b" , ", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", b"1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", b"1.1.1.1, 198.51.100.1,10.0.0.7 , 10.9.9.9", "198.51.100.1"),
        ("10.0.0.1", b"10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", b"198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", b"[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", b"2001:DB8:0::1", "2001:db8::1"),
        ("10.0.0.1", b"::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", b"198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.9", b"198.51.100.1", "203.0.113.9"),
        ("fd00::5", b"198.51.100.1", "198.51.100.1"),
        ("fe80::5%eth0", b"198.51.100.1", "fe80::5"),
        ("10.0.0.1", b"unknown", UNKNOWN),
        ("10.0.0.1", b"198.51.100.1, _hidden", UNKNOWN),
        ("10.0.0.1", b"198.51.100.1, evil\xff", UNKNOWN),
        ("10.0.0.1", b"198.51.100.1\r", UNKNOWN),
        ("10.0.0.1", b"fe80::1%<script>", "fe80::1"),
        ("10.0.0.1", b"010.0.0.1", UNKNOWN),
        ("10.0.0.1", b"1" * 10_000, UNKNOWN),
        ("10.0.0.1", b"10.0.0.2," * 5000 + b"10.0.0.3", "10.0.0.2"),
        ("", b"198.51.100.1", ""),
    ],
)
def test_caller(peer: str, header: bytes | None, caller: str) -> None:
    assert client_address(peer, header, PROXIES) == caller


def test_without_trusted_proxies_the_header_says_nothing() -> None:
    assert client_address("10.0.0.1", b"198.51.100.1", ()) == "10.0.0.1"
    assert client_address("::ffff:10.0.0.1", b"198.51.100.1", ()) == "10.0.0.1"


@given(st.binary(max_size=60), st.sampled_from([b"", b"203.0.113.5", b"9.9.9.9, 203.0.113.5"]))
def test_nobody_chooses_his_address(forged: bytes, appended: bytes) -> None:
    """Whatever a client writes in front: the proxy appends who called it, and that is what counts."""
    header = forged.replace(b"\r", b"").replace(b"\n", b"") + b"," + appended
    caller = client_address("10.0.0.1", header, PROXIES)
    if appended:
        assert caller == "203.0.113.5"
    else:
        assert caller in (UNKNOWN, "10.0.0.1") or ip_address(caller)


def test_inside() -> None:
    assert inside("10.1.2.3", PROXIES)
    assert inside("::ffff:10.1.2.3", PROXIES)
    assert inside("fd12::1%eth0", PROXIES)
    for address in ("11.0.0.1", "", UNKNOWN, "10.0.0", "fe80::1", "10.0.0.1, 10.0.0.2", "٠.٠.٠.٠"):
        assert not inside(address, PROXIES)
    assert not inside("10.0.0.1", ())


def test_failures_are_counted_by_network() -> None:
    assert source_of("198.51.100.1") == "198.51.100.1"
    assert source_of("2001:db8:1:2::1") == source_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert source_of("2001:db8:1:3::1") != source_of("2001:db8:1:2::1")
    assert source_of("::ffff:198.51.100.1") == "198.51.100.1"
    assert source_of("not:an:address") == "not:an:address"
