"""Pack the token ranks that Fluxen ships, fluxen/analyzer/ranks/*.zst, from their official text form.

    python packaging/build_ranks.py FOLDER            write the files from FOLDER/<encoding>.tiktoken
    python packaging/build_ranks.py FOLDER --check    exit 1 if the files don't hold what would be written

FOLDER holds o200k_base.tiktoken and cl100k_base.tiktoken as OpenAI publishes them, a line per token: base64, rank. They
must have the SHA-256 that tiktoken itself demands; the splitting pattern comes from tiktoken, too. Nothing is lost: the
text form can be written again from the packed one, byte for byte (tests/analyzer/test_tokens.py does).

Packed, an encoding is one Zstandard frame: a line of JSON (name, pattern, count, SHA-256 of the text form), a byte per
token with its length, then the tokens, both in the order of their ranks. Ranks are 0, 1, 2 … without a gap.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import inspect
import json
import re
import sys
from pathlib import Path

import tiktoken_ext.openai_public as official
import zstandard

TARGET = Path(__file__).resolve().parent.parent / "fluxen" / "analyzer" / "ranks"
ENCODINGS = ("o200k_base", "cl100k_base")
LEVEL = 22


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    for name in ENCODINGS:
        raw = contents(name, (chosen.folder / f"{name}.tiktoken").read_bytes())
        target = TARGET / f"{name}.zst"
        if chosen.check:
            if not target.is_file() or zstandard.ZstdDecompressor().decompress(target.read_bytes()) != raw:
                print(f"{target} does not hold what would be written", file=sys.stderr)
                return 1
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress(raw))
        digest = hashlib.sha256(raw).hexdigest()
        print(f"{name}: {target.stat().st_size} bytes; unpacked, as fluxen/analyzer/ranks.py demands: {digest}")
    return 0


def contents(name: str, text: bytes) -> bytes:
    """What is packed. Raises ValueError when `text` is not the official file."""
    demanded, pattern = _official(name)
    digest = hashlib.sha256(text).hexdigest()
    if digest != demanded:
        raise ValueError(f"{name}: sha256 {digest}, tiktoken demands {demanded}")
    pairs = [line.split() for line in text.splitlines()]
    if [int(rank) for _, rank in pairs] != list(range(len(pairs))):
        raise ValueError(f"{name}: the ranks are not 0, 1, 2 …")
    tokens = [base64.b64decode(token, validate=True) for token, _ in pairs]
    header = {"name": name, "pattern": pattern, "count": len(tokens), "sha256": digest}
    return json.dumps(header).encode() + b"\n" + bytes(len(token) for token in tokens) + b"".join(tokens)


def _official(name: str) -> tuple[str, str]:
    """(SHA-256 of the text form, pattern) as tiktoken has them, without letting it download anything."""
    source = inspect.getsource(getattr(official, name))
    digest = re.search(r'expected_hash="([0-9a-f]{64})"', source)
    if digest is None:
        raise ValueError(f"this tiktoken has no hash for {name}")
    taken: dict[str, object] = {"load_tiktoken_bpe": lambda *_, **__: {}}
    names = {**vars(official), **taken}
    exec(compile(source, name, "exec"), names)
    return digest[1], names[name]()["pat_str"]  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
