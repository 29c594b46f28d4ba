"""The request target, taken apart once: path, query without the credential, the credential.

Nothing behind this module sees a `key=` credential. The path is the raw one, percent-encoding and all: what is
routed is what is forwarded. Spellings that two parsers could read as two different paths are refused, so that no
request can reach another upstream, or pass a restriction, by a trick of encoding.
"""

from __future__ import annotations

import re

# A backslash or NUL in any spelling, a fragment, an empty segment, a dot segment (also as "..;" and between slashes
# that are spelled %2f: some servers decode those before they walk the path).
_TWO_READINGS = re.compile(rb"\\|%5c|%00|#|(?:/|%2f)(?:/|%2f)|(?:/|%2f)(?:\.|%2e){1,2}(?=/|%2f|;|%3b|$)", re.IGNORECASE)
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
# What nobody reads in another way: no percent-encoding, and no ';', behind which some servers see a parameter.
_PLAIN = re.compile(rb"[A-Za-z0-9._~!$&'()*+,=:@/-]+")
# What some servers decode into a dot, a slash or a percent sign although it is none: encoded twice, overlong UTF-8
# (%c0%ae), Microsoft's %u002e, fullwidth forms.
_DECODED_ANEW = re.compile(rb"%(?:25|c[01]|e0%[89]|f0%8|u|ef%bc)", re.IGNORECASE)


def split_target(target: bytes) -> tuple[bytes, bytes, bytes | None, bool]:
    """(path, query with its '?' and without `key=`, value of `key=` or None, whether `key=` came twice)."""
    path, mark, query = target.partition(b"?")
    if not mark:
        return path, b"", None, False
    if b"key=" not in query:
        return path, b"?" + query, None, False
    kept: list[bytes] = []
    keys: list[bytes] = []
    for pair in query.split(b"&"):
        (keys if pair.startswith(b"key=") else kept).append(pair)
    if not keys:
        return path, b"?" + query, None, False
    return path, b"?" + b"&".join(kept) if kept else b"", keys[0][4:], len(keys) > 1


def unsafe(path: bytes) -> bool:
    """Whether two parsers could read this path differently."""
    if b"%" not in path and b"//" not in path and b"/." not in path and b"\\" not in path and b"#" not in path:
        return False
    return _TWO_READINGS.search(path) is not None


def plain(path: bytes) -> bool:
    """Whether all parsers read this path as it stands, letter by letter."""
    return _PLAIN.fullmatch(path) is not None and not unsafe(path)


def decoded_anew(path: bytes) -> bool:
    """Whether a server that decodes more than it should could come out elsewhere."""
    return b"%" in path and _DECODED_ANEW.search(path) is not None


def has_encoded_slash(path: bytes) -> bool:
    """Whether a slash is spelled %2f: refused where Fluxen routes by the path, tunnelled behind a mount
    (AWS model ARNs need it)."""
    return b"%" in path and _ENCODED_SLASH.search(path) is not None


def under(path: bytes, mount: bytes) -> bool:
    """Whether `path` is `mount` or lies below it, on a segment border."""
    return path.startswith(mount) and (len(path) == len(mount) or path[len(mount)] == 0x2F)
