"""`make bench`: what counting costs the event loop that serves requests, and how fast the counter answers.

    python tests/bench/counting.py [--megabytes 1] [--times 20]

A loop like a worker's has prompts counted by a counter that is a process of its own, and turns as often as it can. The
stall is the CPU time of this thread between two turns (the time of day says more about who else uses the machine), the
answer's time is the time of day. Then the same for small answers, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from fluxen.gateway import counter
from fluxen.gateway.counter import Lines
from fluxen.gateway.counting import Counting
from fluxen.gateway.questions import Counted, Question
from fluxen.telemetry.log import Log

WORDS = (
    "In the beginning there was a gateway, and 17 of its 4,096 requests were (mostly) counted; naïve, but über-right. "
)


@contextmanager
def counting_process(lines: Lines) -> Iterator[int]:
    life, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        lines.keep_only(None, counter=True)
        counter.run(lines.of_counter, life, Log("counter"))
        os._exit(0)
    try:
        yield pid
    finally:
        os.close(held)
        lines.close()
        os.waitpid(pid, 0)


def prompt(size: int) -> bytes:
    text = "".join(f"{number}. {WORDS}" for number in range(size // len(WORDS)))
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()


async def count(side: Counting, body: bytes, answer: bytes) -> tuple[float, float, Counted]:
    """(the longest stall, seconds until the answer, the answer)"""
    done: asyncio.Future[Counted | None] = asyncio.get_running_loop().create_future()
    question = Question(
        "openai", "/v1/chat/completions", "gpt-4o", 0.0, len(body), 0, None, len(answer), 0, len(answer), True
    )
    stall = 0.0
    begun = time.perf_counter()
    before = time.thread_time()
    assert side.ask(question, [body, answer, b""], done.set_result)
    while not done.done():
        now = time.thread_time()
        stall = max(stall, now - before)
        before = now
        await asyncio.sleep(0)
    told = done.result()
    assert told is not None
    return max(stall, time.thread_time() - before), time.perf_counter() - begun, told


async def run(lines: Lines, size: int, times: int) -> None:
    side = Counting(lines.of_worker(0).dup(), asyncio.get_running_loop())
    side.start()
    event = b'data: {"id":"c","model":"gpt-4o","choices":[{"delta":{"content":" word"}}]}\n\n'
    _, first, _ = await count(side, prompt(200), event * 50)
    print(f"first answer, tables and all: {first * 1e3:.0f} ms")
    small = [await count(side, prompt(2000), event * 100) for _ in range(10 * times)]
    report("2 KB prompt, 100 events", small)
    report(f"{size / 1e6:g} MB prompt", [await count(side, prompt(size), event) for _ in range(times)])
    side.end()


def report(what: str, found: list[tuple[float, float, Counted]]) -> None:
    stalls, times = [one[0] * 1e3 for one in found], [one[1] * 1e3 for one in found]
    print(
        f"{what} ({found[0][2].input:,} tokens): longest stall of the loop {max(stalls):.2f} ms,"
        f" median {statistics.median(stalls):.2f} ms; answer after {statistics.median(times):.1f} ms"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--megabytes", type=float, default=1)
    options.add_argument("--times", type=int, default=20)
    asked = options.parse_args()
    lines = Lines(1)
    with counting_process(lines):
        uvloop.run(run(lines, int(asked.megabytes * 1e6), asked.times))


if __name__ == "__main__":
    sys.exit(main())
