"""The request target, taken apart: the credential out of the query, and paths that could be read in two ways."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.target import has_encoded_slash, split_target, under, unsafe

PAIRS = st.lists(
    st.one_of(
        st.sampled_from([b"key=", b"key=abc", b"key", b"Key=x", b"xkey=1", b"alt=sse", b"", b"key%3dx", b"a=key=b"]),
        st.binary(max_size=6).map(lambda raw: raw.replace(b"&", b"").replace(b"?", b"")),
    ),
    max_size=6,
)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a", (b"/a", b"", None, False)),
        (b"/a?", (b"/a", b"?", None, False)),
        (b"/a?x=1", (b"/a", b"?x=1", None, False)),
        (b"/a?key=k", (b"/a", b"", b"k", False)),
        (b"/a?key=", (b"/a", b"", b"", False)),
        (b"/a?key=k&alt=sse", (b"/a", b"?alt=sse", b"k", False)),
        (b"/a?x=1&key=k&y=%20+", (b"/a", b"?x=1&y=%20+", b"k", False)),
        (b"/a?key=k&key=l", (b"/a", b"", b"k", True)),
        (b"/a?monkey=k", (b"/a", b"?monkey=k", None, False)),
        (b"/a?x=key=k", (b"/a", b"?x=key=k", None, False)),
        (b"/a?x?key=k", (b"/a", b"?x?key=k", None, False)),
        (b"/a&key=k", (b"/a&key=k", b"", None, False)),
    ],
)
def test_split(target: bytes, parts: tuple[bytes, bytes, bytes | None, bool]) -> None:
    assert split_target(target) == parts


@given(PAIRS)
def test_the_credential_is_the_only_thing_taken_out(pairs: list[bytes]) -> None:
    path, query, key, twice = split_target(b"/p?" + b"&".join(pairs))
    keys = [pair[4:] for pair in pairs if pair.startswith(b"key=")]
    others = [pair for pair in pairs if not pair.startswith(b"key=")]
    assert path == b"/p"
    assert key == (keys[0] if keys else None)
    assert twice == (len(keys) > 1)
    if keys:
        assert query == (b"?" + b"&".join(others) if others else b"")
        assert not any(pair.startswith(b"key=") for pair in query[1:].split(b"&"))
    else:
        assert query == b"?" + b"&".join(pairs)


UNSAFE = [
    b"//", b"/a//b", b"/a//", b"/./a", b"/a/.", b"/a/..", b"/../a", b"/a/../b", b"/%2e/a", b"/a/%2E%2e", b"/a/.%2e/b",
    b"/a/%2e./b", b"/a\\b", b"/a%5cb", b"/a%5C", b"/a%00", b"/a/%00b", b"/a#b", b"/a/..;/b", b"/a/..%3bx/b", b"/a/..;",
    b"/a%2f..%2fb", b"/a/..%2fb", b"/a%2F../b", b"/a%2f/b", b"/a/%2fb", b"/a%2f%2fb", b"/a%2f.",
]  # fmt: skip
SAFE = [
    b"/", b"/a", b"/a/b/", b"/a/.b", b"/a/b.", b"/a/b..c", b"/a/...", b"/a%2fb", b"/a%20b", b"/v1/models/x:generate",
    b"/a/.well-known", b"/a/%2e%2e%2e", b"/a/..b", b"/a;b/c",
]  # fmt: skip


@pytest.mark.parametrize("path", UNSAFE)
def test_unsafe(path: bytes) -> None:
    assert unsafe(path)


@pytest.mark.parametrize("path", SAFE)
def test_safe(path: bytes) -> None:
    assert not unsafe(path)


@given(
    st.lists(
        st.sampled_from([b"/", b"..", b".", b"%2e", b"%2E", b"%2f", b"%5c", b"a", b"v1", b";", b"%00", b"\\", b"#"]),
        max_size=8,
    )
)
def test_what_is_safe_is_read_the_same_by_all(pieces: list[bytes]) -> None:
    """However a server decodes and walks a path that passes, it does not come out elsewhere."""
    path = b"/a/" + b"".join(pieces)
    if unsafe(path):
        return
    decoded = unquote_to_bytes(path)
    for reading in (path, decoded, decoded.replace(b"\\", b"/")):
        walked = posixpath.normpath(reading.decode("latin-1")).encode("latin-1")
        assert walked == (reading.rstrip(b"/") or b"/")
        assert walked == b"/a" or walked.startswith(b"/a/")


@given(st.text("/ab%2f", max_size=12))
def test_under(text: str) -> None:
    path = b"/" + text.encode()
    assert under(path, b"/a") == (path == b"/a" or path.startswith(b"/a/"))


def test_encoded_slash() -> None:
    assert has_encoded_slash(b"/a%2Fb")
    assert has_encoded_slash(b"/a%2fb")
    assert not has_encoded_slash(b"/a/b%20")
