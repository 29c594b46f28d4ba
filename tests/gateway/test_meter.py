"""Our copy of an answer: decoded as the client will decode it, however it is split, and never more than a little."""

from __future__ import annotations

import gzip
import itertools
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway import meter
from fluxen.gateway.meter import HEAD, STEP, TAIL, WHOLE, Meter, decode_whole, decoder_for


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def gzip_members(data: bytes) -> bytes:
    third = len(data) // 3
    return gzip.compress(data[:third]) + gzip.compress(data[third:], 1) + gzip.compress(b"")


def zstd_frames(data: bytes) -> bytes:
    third = len(data) // 3
    return zstandard.compress(data[:third]) + zstandard.compress(data[third:])


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"X-GZip", gzip.compress),
    "gzip of several members": (b"gzip", gzip_members),
    "deflate": (b"deflate", zlib.compress),
    "deflate without its wrapping": (b"deflate", raw_deflate),
    "brotli": (b"br", lambda data: brotli.compress(data, quality=3)),
    "zstd": (b"zstd", zstandard.compress),
    "zstd of several frames": (b"zstd", zstd_frames),
    "identity": (b"identity", bytes),
}

# Text, noise and long runs: what packs well, badly, and beyond all measure. Drawn as recipes, which can be shown.
MAKERS: dict[str, Callable[[int], bytes]] = {
    "spaces": lambda size: b" " * size,
    "events": lambda size: b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n' * (size // 50),
    "noise": lambda size: random.Random(size).randbytes(size // 20),
}
RECIPES = st.lists(st.tuples(st.sampled_from(sorted(MAKERS)), st.integers(0, 3 * STEP)), max_size=4)


def cook(recipe: list[tuple[str, int]]) -> bytes:
    return b"".join(MAKERS[name](size) for name, size in recipe)


def split(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize("packer", PACKERS)
@given(recipe=RECIPES, cuts=st.lists(st.floats(0, 1), max_size=6))
def test_any_split(packer: str, recipe: list[tuple[str, int]], cuts: list[float]) -> None:
    encoding, pack = PACKERS[packer]
    data = cook(recipe)
    packed = pack(data)
    copy = Meter(False, encoding)
    for piece in split(packed, cuts):
        copy.add(piece)
    assert not copy.failed
    assert copy.head() == data[:WHOLE]
    assert copy.clipped == (len(data) > WHOLE)
    assert decode_whole(packed, encoding, len(data) + 1) == data


@pytest.mark.parametrize("packer", PACKERS)
def test_byte_by_byte(packer: str) -> None:
    encoding, pack = PACKERS[packer]
    data = b'{"usage":{"prompt_tokens":11}}' * 20
    copy = Meter(False, encoding)
    for byte in pack(data):
        copy.add(bytes([byte]))
    assert copy.head() == data


@pytest.mark.parametrize("around", [STEP - 1, STEP, STEP + 1, 2 * STEP, 3 * STEP + 258])
@pytest.mark.parametrize("packer", PACKERS)
def test_nothing_is_left_in_the_decoder(packer: str, around: int) -> None:
    """Output that ends just at the end of a step, of input whose last bits stand for much."""
    encoding, pack = PACKERS[packer]
    data = b"a" * around
    assert decode_whole(pack(data), encoding, around) == data
    with pytest.raises(ValueError, match="too large"):
        decode_whole(
            pack(data) if packer != "identity" else gzip.compress(data),
            b"gzip" if packer == "identity" else encoding,
            around - 1,
        )


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "identity"])
def test_truncated(packer: str) -> None:
    """What came of a broken answer is kept: a stream's first event may hold the usage."""
    encoding, pack = PACKERS[packer]
    data = random.Random(1).randbytes(30_000) + b"x" * 1000
    packed = pack(data)
    copy = Meter(True, encoding)
    copy.add(packed[: len(packed) // 2])
    assert data.startswith(copy.head())
    if packer not in ("brotli", "zstd", "zstd of several frames"):  # which decode whole blocks
        assert copy.head()


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "identity"])
@given(where=st.floats(0, 1), flip=st.integers(1, 255))
def test_damaged(packer: str, where: float, flip: int) -> None:
    """No damage raises; what is believed to be undamaged has no more than a little to show."""
    encoding, pack = PACKERS[packer]
    packed = bytearray(pack(b'{"usage":{"prompt_tokens":11}}' * 50))
    packed[int(where * (len(packed) - 1))] ^= flip
    copy = Meter(False, encoding)
    copy.add(bytes(packed))
    copy.add(b"more")
    assert len(copy.head()) <= WHOLE


@given(st.binary(max_size=500), st.sampled_from([b"gzip", b"deflate", b"br", b"zstd"]))
def test_no_bytes_break_it(data: bytes, encoding: bytes) -> None:
    copy = Meter(True, encoding)
    copy.add(data)
    copy.add(data)


@pytest.mark.parametrize("encoding", [b"compress", b"gzip, gzip", b"br;q=1", b"\xff", b"gzip, identity"])
def test_unknown_encodings(encoding: bytes) -> None:
    copy = Meter(False, encoding)
    copy.add(b"whatever")
    assert copy.failed
    with pytest.raises(ValueError, match="unknown"):
        decoder_for(encoding)


BOMBS = {
    "gzip": (b"gzip", lambda: gzip.compress(b" " * 16_000_000, 1) * 17),
    "brotli": (b"br", lambda: brotli.compress(b" " * 272_000_000, quality=1)),
    "zstd": (b"zstd", lambda: zstandard.compress(b" " * 16_000_000) * 17),
    "zstd in one frame": (b"zstd", lambda: zstandard.compress(b" " * 272_000_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_bounded(name: str) -> None:
    """Given up at the limit, with little memory taken on the way."""
    encoding, make = BOMBS[name]
    packed = make()
    copy = Meter(True, encoding)
    tracemalloc.start()
    copy.add(packed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert copy.failed
    assert most < 24 * 1024 * 1024


@given(st.lists(st.integers(0, 20_000), max_size=60), st.booleans(), st.sampled_from([HEAD, 5 * HEAD]))
def test_head_and_tail(sizes: list[int], streamed: bool, kept: int) -> None:
    """The first and the last bytes, neither doubled nor with a gap that should not be."""
    copy = Meter(streamed, None)
    copy.keep_more(kept)  # so that a small answer is a large one
    rng = random.Random(len(sizes))
    data = b""
    for size in sizes:
        piece = rng.randbytes(size)
        data += piece
        copy.add(piece)
    assert copy.head() == data[:kept]
    assert copy.tail() == data[kept:][-TAIL:]
    assert copy.clipped == (not streamed and len(data) > kept)
    assert copy.ends() == (data[:HEAD], data[HEAD:][-TAIL:])
    assert copy.total == len(data)


def test_a_long_stream_keeps_little() -> None:
    copy = Meter(True, None)
    tracemalloc.start()
    for _ in range(20_000):
        copy.add(b"data: {}\n\n" * 50)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 100_000
    assert len(copy.head()) == HEAD
    assert len(copy.tail()) == TAIL
    assert meter.DECODED_LIMIT > WHOLE
