"""What counting tokens costs: python tests/bench/tokens.py [--json]

CPU time, the best of several runs, each first use in a process of its own; nothing is asserted here.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

WORDS = (
    "The gateway forwards what it gets, byte for byte, and keeps an account of {n} things: models, tokens, dollars. "
)
PROMPT = "".join(WORDS.format(n=n) for n in range(10_000))  # 1.1 MB
REQUEST = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT[:2000]}]}
STREAM = b"".join(
    b'data: {"choices":[{"index":0,"delta":{"content":" word%d"}}]}\n\n' % n for n in range(400)
)  # what 16 KB of a stream hold

FIRST = {
    "import": "import fluxen.analyzer.estimates",
    "read and unpack o200k_base": "load_ranks('o200k_base')",
    "first small count, o200k_base": "Tokenizer('o200k_base').count('hello')",
    "first small count, cl100k_base": "Tokenizer('cl100k_base').count('hello')",
    "tiktoken's tables, o200k_base": "Tokenizer('o200k_base').warm()",
}
_SETUP = "from fluxen.analyzer.ranks import load_ranks\nfrom fluxen.analyzer.tokens import Tokenizer\n"


def first(statement: str) -> tuple[float, float]:
    """(ms of CPU, MB more in memory) of a statement in a new process."""
    setup = "" if statement.startswith("import") else _SETUP
    program = (
        f"import resource, time\n{setup}"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbegun = time.process_time()\n"
        f"kept = {statement}\n"
        if not statement.startswith("import")
        else "import resource, time\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"begun = time.process_time()\n{statement}\n"
    ) + "print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split()
    return float(seconds) * 1000, int(memory) / 1024


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of CPU."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    from fluxen.analyzer.estimates import Answer, estimate
    from fluxen.analyzer.tokens import SMALL, Tokenizer

    figures: dict[str, float] = {}
    for name, statement in FIRST.items():
        runs = [first(statement) for _ in range(3)]
        figures[f"{name}, ms"] = min(ms for ms, _ in runs)
        figures[f"{name}, MB"] = min(mb for _, mb in runs)
    tables = Tokenizer("o200k_base")
    tables.warm()

    def small() -> int:
        one = Tokenizer("o200k_base")
        one.count("")
        return one.count(PROMPT[: SMALL // 2])

    loaded = best(lambda: Tokenizer("o200k_base").count("a"))
    figures["our own loop, M characters/s"] = SMALL / 2 / (best(small) - loaded) / 1e6
    figures["tiktoken, M characters/s"] = len(PROMPT) / best(lambda: tables.count(PROMPT)) / 1e6
    body = json.dumps(REQUEST).encode()
    answer = Answer(STREAM, streamed=True)
    figures["estimate of a 2 KB request, µs"] = best(lambda: estimate("openai", "", None, body, None), 50) * 1e6
    figures["estimate of a 2 KB request and 24 KB of its stream, µs"] = (
        best(lambda: estimate("openai", "", None, body, answer), 50) * 1e6
    )
    figures["peak of this process, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if chosen.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:60} {value:10.1f}")


if __name__ == "__main__":
    main()
