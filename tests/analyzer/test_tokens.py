"""Token counts are tiktoken's own, whatever the text; the ranks are the official ones; nothing is downloaded."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as official
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import ROOT, require_shared

from fluxen.analyzer.ranks import ENCODINGS, Encoding, Ranks, load_ranks
from fluxen.analyzer.tokens import LARGE, RUN, Tokenizer, cut, sound, tokenizer

URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def text_form(ranks: Ranks) -> bytes:
    """The file that OpenAI publishes, written again from what is shipped."""
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(ranks.tokens))
    return b"".join(lines)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[Encoding, tiktoken.Encoding]:
    """tiktoken's own encodings, which verify the files: out of a folder, where it would else download them."""
    folder = tmp_path_factory.mktemp("published")
    for name in ENCODINGS:
        cached = hashlib.sha1(URL.format(name).encode(), usedforsecurity=False).hexdigest()
        (folder / cached).write_bytes(text_form(load_ranks(name)))
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        return {name: tiktoken.Encoding(**getattr(official, name)()) for name in ENCODINGS}
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
        if before is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_official_file_can_be_written_again(name: Encoding) -> None:
    ranks = load_ranks(name)
    assert hashlib.sha256(text_form(ranks)).hexdigest() == ranks.sha256
    shared = require_shared("ranks", f"{name}.tiktoken")
    assert text_form(ranks) == shared.read_bytes()
    assert ranks.sha256 in shared.with_name("ORIGIN.txt").read_text()


@pytest.mark.parametrize("name", ENCODINGS)
def test_tiktoken_takes_the_shipped_ranks_for_its_own(
    name: Encoding, published: dict[Encoding, tiktoken.Encoding]
) -> None:
    """tiktoken demands their SHA-256; it splits by the same pattern."""
    ranks = load_ranks(name)
    demanded = getattr(official, name)
    assert ranks.sha256 in demanded.__code__.co_consts
    assert ranks.pattern == published[name]._pat_str
    assert len(ranks.tokens) == len(published[name].token_byte_values())


def test_the_files_are_what_the_builder_writes() -> None:
    folder = require_shared("ranks")
    builder = [sys.executable, str(ROOT / "packaging" / "build_ranks.py"), str(folder), "--check"]
    done = subprocess.run(builder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """Bytes of an installation rot, or are replaced by others."""
    program = (
        "import shutil, sys, zstandard; from pathlib import Path\n"
        "folder = Path(sys.argv[1]); shutil.copytree(sys.argv[2], folder / 'fluxen')\n"
        "file = folder / 'fluxen' / 'analyzer' / 'ranks' / 'o200k_base.zst'\n"
        "raw = zstandard.ZstdDecompressor().decompress(file.read_bytes())\n"
        "file.write_bytes(zstandard.ZstdCompressor().compress(raw.replace(b'the', b'teh', 1)))\n"
        "sys.path.insert(0, str(folder))\n"
        "from fluxen.analyzer import ranks\n"
        "assert ranks.__file__.startswith(str(folder)), ranks.__file__\n"
        "try:\n    ranks.load_ranks('o200k_base')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path), str(ROOT / "fluxen")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "the ranks of o200k_base are not those that were shipped\n"


texts = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(codec=None), max_size=60),  # halves of surrogate pairs, too
    st.text(" \n\t\r'aZ0.é漢🙂", max_size=200),
    st.from_regex(r"([A-Za-z']{1,12}[ .,\n]{1,3}){0,30}", fullmatch=True),
    st.text("ab", min_size=50, max_size=400),  # one long piece
)


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_our_own_count_is_tiktokens(name: Encoding, text: str, published: dict[Encoding, tiktoken.Encoding]) -> None:
    assert tokenizer(name).count(text) == len(published[name].encode_ordinary(text))


@pytest.mark.parametrize("name", ENCODINGS)
def test_recorded_texts_by_our_own_count_and_by_tables(
    name: Encoding, recorded: list, published: dict[Encoding, tiktoken.Encoding]
) -> None:
    own, tables = Tokenizer(name), Tokenizer(name)
    tables.warm()
    for one in recorded[::40]:
        for text in (one.exchange["request_body"] or "", one.exchange["response_body"] or ""):
            if not text or len(text) > 100_000:
                continue
            # Cut where a run has no border, which moves the count by one token at most.
            slack = len(cut(sound(text))) - 1
            expected = len(published[name].encode_ordinary(text))
            assert abs(own.count(text) - expected) <= slack
            assert own.count(text) == tables.count(text)


def test_special_tokens_in_a_text_are_text(published: dict[Encoding, tiktoken.Encoding]) -> None:
    for text in ("<|endoftext|>", "<|im_start|>system", "a<|fim_prefix|>b"):
        assert tokenizer("o200k_base").count(text) == len(published["o200k_base"].encode_ordinary(text)) > 2


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize(
    ("what", "least", "most"),
    [
        (" " * 1_000_000, 500, 20_000),  # tiktoken alone panics
        ("x" * 1_000_000, 60_000, 600_000),
        ("\n" * 300_000, 500, 200_000),
        (base64.b64encode(bytes(range(256)) * 1000).decode(), 100_000, 350_000),
        ("漢" * 200_000, 60_000, 600_000),
        ("🙂" * 50_000, 25_000, 200_000),
        ("\ud800" * 1000, 100, 4000),
    ],
    ids=["spaces", "one word", "line ends", "base64", "han", "emoji", "half pairs"],
)
def test_texts_that_tokenizers_dread(name: Encoding, tables: bool, what: str, least: int, most: int) -> None:
    """They are counted; that it doesn't take minutes shows in the time this test takes."""
    one = Tokenizer(name)
    if tables:
        one.warm()
    assert least <= one.count(what) <= most


def test_a_text_that_is_too_long_is_sampled() -> None:
    sentence = "A gateway forwards bytes and counts what they cost, whatever the language. "
    whole = sentence * (LARGE // len(sentence) * 3)
    tokens, error = tokenizer("o200k_base").estimate(whole)
    each = tokenizer("o200k_base").count(sentence * 1000) / 1000
    assert 0 < error < 0.5
    assert abs(tokens - each * len(whole) / len(sentence)) <= error * tokens / 5
    assert tokenizer("o200k_base").estimate(sentence * 1000) == (each * 1000, 0.0)


def test_cut_keeps_every_character() -> None:
    text = "word " * 5 + " " * (3 * RUN + 7) + "x" * (2 * RUN + 1) + "\n漢字"
    parts = cut(text)
    assert "".join(parts) == text
    assert len(parts) > 4
    assert all(len(part) <= 2 * RUN + 60 for part in parts)


def test_without_tiktoken_the_counts_are_the_same(tmp_path: Path) -> None:
    """An executable may leave it out. Also of what is too large for our own loop to be the choice."""
    program = (
        "import base64, sys\n"
        "if sys.argv[1] == 'without': sys.modules['tiktoken'] = None\n"
        "from fluxen.analyzer.tokens import Tokenizer\n"
        "from fluxen.analyzer.estimates import hold\n"
        "hold()\n"
        "one = Tokenizer('o200k_base')\n"
        "one.warm()\n"
        "texts = ['hello world', 'words and ' * 150_000, base64.b64encode(bytes(range(256)) * 400).decode()]\n"
        "print([one.count(text) for text in texts], 'tiktoken._tiktoken' in sys.modules)\n"
    )
    said = []
    for how in ("with", "without"):
        done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True)
        said.append(done.stdout.split("]"))
    assert said[0][0] == said[1][0]
    assert (said[0][1], said[1][1]) == (" True\n", " False\n")


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    """With tiktoken's tables and without; in a process that may open no connection."""
    program = (
        "import socket\n"
        "def never(*a, **k): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = never; socket.getaddrinfo = never\n"
        "from fluxen.analyzer.tokens import Tokenizer\n"
        "for name in ('o200k_base', 'cl100k_base'):\n"
        "    one = Tokenizer(name); own = one.count('hello world'); one.warm()\n"
        "    print(own, one.count('hello world'))\n"
    )
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert done.stdout == "2 2\n2 2\n"
    assert list(tmp_path.iterdir()) == []
