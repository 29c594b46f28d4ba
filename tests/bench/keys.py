"""CPU of 100,000 client keys: python tests/bench/keys.py [--json]

Process time in milliseconds, the best of several runs; made-up keys, plain ones and ones with every field. `create` is
the whole command as a process of its own, with its children's time. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fluxen.keys.client import KeyIndex
from fluxen.keys.generate import new_key
from fluxen.keys.stored import parse

KEYS = 100_000


def entry(number: int, *, full: bool) -> dict[str, Any]:
    plain = {
        "id": f"key-{number}",
        "hash": f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}",
        "created": "2026-11-22T20:00:00Z",
    }
    if not full:
        return plain
    return plain | {
        "name": f"Laptop of customer {number}",
        "team": f"team-{number % 500}",
        "project": "shop",
        "tags": {"customer": f"c{number}"},
        "upstreams": ["openai", "anthropic"],
        "models": ["gpt-5*", "claude-*"],
        "expires": f"2027-01-{1 + number % 28:02d}T00:00:00Z",
    }


def file_of(*, full: bool) -> bytes:
    lines = [json.dumps(entry(number, full=full), separators=(",", ":")).encode() for number in range(KEYS)]
    return b'{"version": 2, "keys": [\n' + b",\n".join(lines) + b"\n]}\n"


def best(work: Callable[[], object], runs: int = 7) -> float:
    """Milliseconds of CPU."""
    times = []
    for _ in range(runs):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) * 1e3


def create(raw: bytes, runs: int = 3) -> float:
    """Milliseconds of CPU that `fluxen keys create` takes with so many keys there."""
    times = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "keys.json").write_bytes(raw)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "fluxen_cli", "keys", "create", f"new-{run}", "--data-dir", folder]
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env={**os.environ, "HOME": folder})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times) * 1e3


def measure() -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, full in (("plain", False), ("every field", True)):
        raw = file_of(full=full)
        stored = parse(raw)
        index = KeyIndex(dict(stored.clients))
        newer = KeyIndex(dict(parse(raw).clients))
        found[f"read and check, {kind}: ms"] = best(lambda raw=raw: parse(raw))  # type: ignore[misc]
        found[f"index, {kind}: ms"] = best(lambda stored=stored: KeyIndex(dict(stored.clients)))  # type: ignore[misc]
        found[f"differences, {kind}: ms"] = best(lambda one=index, two=newer: one.differences(two))  # type: ignore[misc]
        found[f"keys create, {kind}: ms"] = create(raw)
        key = new_key().encode()
        found[f"look-up, {kind}: ns"] = (
            best(lambda index=index, key=key: [index.find(key) for _ in range(10_000)]) * 100
        )  # type: ignore[misc]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    found = measure()
    if options.parse_args().json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:34} {value:10.1f}")


if __name__ == "__main__":
    main()
