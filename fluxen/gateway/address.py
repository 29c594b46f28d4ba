"""Where a request comes from: the address of who calls, also when a proxy hands it on, and networks. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Network = IPv4Network | IPv6Network

UNKNOWN: Final = "unknown"
"""The address of somebody whom a trusted proxy does not name: it lies in no network."""

_HOPS: Final = 16  # proxies in a row that are looked at
_LONGEST: Final = 64  # characters of an address with its port
_SITE: Final = 64  # bits of an IPv6 address that one customer has for himself


def client_address(peer: str, forwarded_for: bytes | None, trusted: Sequence[Network]) -> str:
    """The address of who calls: `peer`, who is connected; or, where that is a trusted proxy, the last in its
    X-Forwarded-For that isn't one. What stands further left could be written by anybody."""
    if not trusted:
        return peer if peer[:7] != "::ffff:" else _plain(peer)
    peer = _plain(peer)
    if forwarded_for is None or not inside(peer, trusted):
        return peer
    caller = peer
    for hop in reversed(forwarded_for.decode("latin-1").rsplit(",", _HOPS)[-_HOPS:]):
        if not (text := hop.strip(" \t")):
            continue
        parsed = _parsed(_without_port(text))
        if parsed is None:
            return UNKNOWN
        caller = str(parsed)
        if not inside(caller, trusted):
            break
    return caller


def inside(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of these networks; one that is none lies in none."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def source_of(address: str) -> str:
    """Whom failed attempts are counted against: an IPv4 address, or the /64 network of an IPv6 address, in which one
    machine may have any address it likes."""
    if ":" not in address:
        return address
    parsed = _parsed(address)
    if not isinstance(parsed, IPv6Address):
        return address if parsed is None else str(parsed)
    return str(IPv6Network((int(parsed) >> (128 - _SITE) << (128 - _SITE), _SITE)))


def _plain(address: str) -> str:
    parsed = _parsed(address)
    return address if parsed is None else str(parsed)


def _without_port(text: str) -> str:
    """`1.2.3.4:80` and `[::1]:80`, as some proxies write it."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Without a scope (`%eth0`); an IPv4 address in IPv6's clothes is what it is."""
    if len(text) > _LONGEST:
        return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
