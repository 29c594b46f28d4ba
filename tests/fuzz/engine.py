"""Fuzzing: inputs from a grammar and from mutations of those that reached new code, and a judge for each.

A `Target` makes inputs, runs one, and raises AssertionError when what came of it is wrong; any other exception is a
finding, too. Which lines of the product an input reaches is traced, so that one that reaches new ones is kept and bred
from. The same trace counts steps: an input that takes more of them than its size allows is a finding. Inputs
follow from the seed alone, so what is found once is found again.
"""

from __future__ import annotations

import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn, Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
HANG_SECONDS = 60
"""Beyond it an input is taken to hang in code that is not traced (C). Steps are what finds slow ones."""
STEPS_PER_BYTE = 400
CORPUS = 4000


class Target(Protocol):
    """What is fuzzed."""

    name: str
    traced: tuple[str, ...]
    """Files whose lines count, as paths below the repository."""
    base_steps: int
    """Steps that the shortest input may take."""
    words: Sequence[bytes]
    """What mutations put in."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""

    def make(self, chance: random.Random) -> bytes:
        """A fresh input, of the grammar."""

    def run(self, case: bytes) -> Hashable:
        """Take one input and judge what comes of it. Raises AssertionError. Returns what came of it, in short, where
        no trace tells one outcome from another."""


@dataclass
class Finding:
    """An input that is handled wrongly."""

    target: str
    case: bytes
    why: str

    def __str__(self) -> str:
        return f"{self.target}: {self.why}\n  found with {self.case!r}"


@dataclass
class Outcome:
    """What a run did."""

    target: str
    cases: int = 0
    lines: int = 0
    kept: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.cases} inputs in {self.seconds:.0f} s, {self.kept} kept, {self.lines} steps or "
            f"outcomes reached, {len(self.findings)} findings"
        )


class Tracer:
    """Which steps from line to line of some files an input takes, and how many."""

    def __init__(self, files: Sequence[str]) -> None:
        self._wanted = {str(ROOT / name) for name in files}
        self._numbers: dict[CodeType, int] = {}
        self.arcs: set[tuple[int, int, int]] = set()
        self.steps = 0
        self.most = 0

    @contextmanager
    def watching(self, most: int) -> Iterator[None]:
        """Trace what happens inside. Raises AssertionError there after `most` steps."""
        self.arcs, self.steps, self.most = set(), 0, most
        if self._wanted:
            sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename not in self._wanted:
            return None
        number = self._numbers.setdefault(code, len(self._numbers))
        last = 0
        arcs = self.arcs

        def line(inner: FrameType, what: str, _: Any) -> Callable[..., Any]:
            nonlocal last
            if what == "line":
                now = inner.f_lineno
                arcs.add((number, last, now))
                last = now
                self.steps += 1
                if self.steps > self.most:
                    raise AssertionError(f"more than {self.most} steps")
            return line

        return line


def mutate(case: bytes, other: bytes, words: Sequence[bytes], chance: random.Random) -> bytes:
    """A few changes to `case`: bytes, words, pieces of it or of `other`."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        size = len(case)
        at = chance.randrange(size + 1)
        end = min(size, at + chance.choice((1, 1, 2, 4, 8, 32, 200)))
        kind = chance.randrange(8)
        if kind == 0:
            case = case[:at] + bytes((chance.randrange(256),)) + case[at + 1 :]
        elif kind == 1:
            case = case[:at] + chance.choice(words) + case[at:]
        elif kind == 2:
            case = case[:at] + chance.choice(words) + case[end:]
        elif kind == 3:
            case = case[:at] + case[end:]
        elif kind == 4:
            to = chance.randrange(size + 1)
            case = case[:to] + case[at:end] + case[to:]
        elif kind == 5:
            start = chance.randrange(len(other) + 1)
            case = case[:at] + other[start : start + chance.choice((4, 16, 64, 400))] + case[at:]
        elif kind == 6:
            start = chance.randrange(len(other) + 1)
            case = case[:at] + other[start:]
        else:
            case = case[:at] + case[at:end] * chance.choice((2, 3, 20)) + case[end:]
    return case


def fuzz(
    target: Target, seed: int, *, cases: int | None = None, seconds: float | None = None, limit: int = 65536
) -> Outcome:
    """Run so many inputs, or for so long; stops at ten findings. limit: bytes of an input."""
    chance = random.Random(seed)
    outcome = Outcome(target.name)
    tracer = Tracer(target.traced)
    reached: set[Hashable] = set()
    corpus: list[bytes] = []
    waiting = target.seeds()[::-1]
    begun = time.monotonic()

    def hangs(*_: object) -> NoReturn:
        raise AssertionError(f"hangs for {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    whys: set[str] = set()
    try:
        while len(outcome.findings) < 10:
            if (cases is not None and outcome.cases >= cases) or (
                seconds is not None and time.monotonic() - begun > seconds
            ):
                break
            if waiting:
                case = waiting.pop()
            elif not corpus or chance.random() < 0.3:
                case = target.make(chance)
            else:
                # Half of the time one of the latest, which reached what others have not
                pool = corpus[-200:] if chance.random() < 0.5 else corpus
                case = mutate(chance.choice(pool), chance.choice(corpus), target.words, chance)
            case = case[:limit]
            outcome.cases += 1
            came: Hashable = None
            signal.alarm(HANG_SECONDS)
            try:
                with tracer.watching(target.base_steps + STEPS_PER_BYTE * len(case)):
                    came = target.run(case)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
                why = _why(error)
                place = traceback.extract_tb(error.__traceback__)[-1]
                if (known := f"{type(error).__name__} {place.filename}:{place.lineno}") not in whys:
                    whys.add(known)
                    outcome.findings.append(Finding(target.name, case, why))
            signal.alarm(0)
            if not reached.issuperset(new := {*tracer.arcs, came}):
                reached |= new
                corpus.append(case)
                del corpus[:-CORPUS]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    outcome.lines, outcome.kept, outcome.seconds = len(reached), len(corpus), time.monotonic() - begun
    return outcome


def _why(error: BaseException) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    return "".join(traceback.format_exception(error)[-4:])
