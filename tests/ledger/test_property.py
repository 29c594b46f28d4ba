"""Any order of begin, end, rotate, adjust, kill, compact and read: nothing lost, doubled or in two states."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from ledger.kill import COMPACTOR_POINTS, JOURNAL_POINTS
from ledger.test_journal import locked, poll
from ledger.test_reader import LOOKS, during
from ledger.writers import Writers

from fluxen.ledger import store
from fluxen.ledger.adjuster import adjusting
from fluxen.ledger.compactor import Compactor
from fluxen.ledger.journal import segment_name
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Adjustment
from fluxen.ledger.snapshot import list_journal, streams

SELECT = (
    "SELECT id::VARCHAR, coalesce(error, 'finished'), (cost_usd * 1000000000000)::BIGINT FROM requests "
    "UNION ALL SELECT id::VARCHAR, 'open', NULL FROM in_flight"
)
ADJUSTER_POINTS = ("adjustments created", "adjustments written", "adjustments renamed")


class Killed(BaseException):
    """Ends a compactor in the middle of a step: what it had not committed is gone with its objects."""


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "ledger"
        self.writers = Writers(self.folder)
        self.names: list[str] = []
        self.open: dict[str, str] = {}  # request → writer
        self.state: dict[str, str] = {}  # request → finished, lost or open
        self.costs: dict[str, int] = {}  # request → what the adjustment made last says
        self.adjusted = 0
        self.compactor: Compactor | None = None
        self.born = 0
        for _ in range(2):
            self.bear()

    def bear(self, die: str = "") -> str:
        self.born += 1
        self.writers.start(f"w{self.born}", die)
        self.names.append(f"w{self.born}")
        return self.names[-1]

    def bury(self, name: str) -> None:
        self.names.remove(name)
        for request in [request for request, writer in self.open.items() if writer == name]:
            del self.open[request]
            self.state[request] = "lost"

    def writer(self, place: int) -> str:
        return self.names[place % len(self.names)]

    @rule(place=st.integers(0, 1), number=st.integers(1, 4))
    def begin(self, place: int, number: int) -> None:
        for _ in range(number):
            request = self.writers.begin(self.writer(place))
            self.open[request] = self.writer(place)
            self.state[request] = "open"

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 50), number=st.integers(1, 4))
    def end(self, place: int, number: int) -> None:
        for _ in range(min(number, len(self.open))):
            request = list(self.open)[place % len(self.open)]
            self.writers.end(self.open.pop(request), request)
            self.state[request] = "finished"

    @rule(place=st.integers(0, 1), sealed=st.booleans())
    def rotate(self, place: int, sealed: bool) -> None:
        assert self.writers.rotate(self.writer(place))
        if sealed:
            found = streams(list_journal(self.folder))
            old = [self.folder / "journal" / segment_name(name, n) for name in found for n in found[name][:-1]]
            poll(lambda: not any(map(locked, old)), "all but the newest segments to be sealed")

    @rule(place=st.integers(0, 1))
    def kill(self, place: int) -> None:
        name = self.writer(place)
        self.writers.kill(name)
        self.bury(name)
        self.bear()

    @rule(point=st.sampled_from(JOURNAL_POINTS), requests=st.integers(1, 3))
    def kill_in_rotation(self, point: str, requests: int) -> None:
        name = self.bear(f"{point}:2")  # the first is when it opens its first segment
        for _ in range(requests):
            request = self.writers.begin(name)
            self.open[request] = name
            self.state[request] = "open"
        assert not self.writers.rotate(name)
        self.bury(name)

    @rule(whole_days=st.booleans())
    def compact(self, whole_days: bool) -> None:
        if self.compactor is None:
            self.compactor = Compactor(self.folder, grace_seconds=0)
        assert not self.compactor.step(whole_days=whole_days).busy

    @rule(point=st.sampled_from(COMPACTOR_POINTS), whole_days=st.booleans())
    def compact_and_die(self, point: str, whole_days: bool) -> None:
        def checkpoint(here: str) -> None:
            if here == point:
                raise Killed

        if self.compactor is not None:
            self.compactor.close()
            self.compactor = None
        victim = Compactor(self.folder, grace_seconds=0, checkpoint=checkpoint)
        try:
            victim.step(whole_days=whole_days)
        except Killed:
            pass
        victim.close()

    @precondition(lambda self: "finished" in self.state.values())
    @rule(number=st.integers(1, 6), point=st.sampled_from((None, *ADJUSTER_POINTS)), segment=st.integers(1, 2))
    def adjust(self, number: int, point: str | None, segment: int) -> None:
        """New costs, one or more to a segment; whoever writes them may be killed at its second one."""
        finished = [request for request, state in self.state.items() if state == "finished"]
        left = [2 if point else 0]

        def checkpoint(here: str) -> None:
            left[0] -= here == point
            if here == point and left[0] == 0:
                raise Killed

        names = [finished[(self.adjusted + place) % len(finished)] for place in range(min(number, len(finished)))]
        seen = {row[0] for row in Reader(self.folder).query("SELECT epoch_us(made) FROM adjustments").rows}
        made = {}
        with (
            contextlib.suppress(Killed),
            adjusting(self.folder, "command", segment_bytes=segment * 100, checkpoint=checkpoint) as adjuster,
        ):
            for name in names:
                self.adjusted += 1
                made[self.adjusted] = name
                at = int(name.replace("-", "")[:12], 16) * 1000
                adjuster.add(Adjustment(name, at, self.adjusted, None, None, made=self.adjusted))
            adjuster.publish()
        now = {row[0] for row in Reader(self.folder).query("SELECT epoch_us(made) FROM adjustments").rows}
        assert seen <= now
        assert now - seen <= made.keys()
        if point is None:
            assert now - seen == made.keys()
        for number in sorted(now - seen):
            self.costs[made[number]] = number

    @rule()
    def read(self) -> None:
        self.check(Reader(self.folder))

    @rule(look=st.sampled_from(LOOKS))
    def read_while_compacting(self, look: str) -> None:
        self.check(Reader(self.folder, checkpoint=during(look, lambda: self.compact(False))))

    def check(self, reader: Reader) -> None:
        found = reader.query(SELECT).rows
        states = {str(name): state for name, state, _ in found}
        assert len(found) == len(states)
        assert states == self.state
        assert {str(name): cost for name, _, cost in found if cost is not None} == self.costs

    def teardown(self) -> None:
        try:
            for name in list(self.names):
                self.writers.kill(name)
                self.bury(name)
            self.check(Reader(self.folder))
            store.compact(self.folder, grace_seconds=0)
            self.check(Reader(self.folder))
            found = store.verify(self.folder)
            assert found.ok, found.problems
            assert (found.rows, found.segments) == (len(self.state), 0)
            assert found.adjustments >= len(self.costs)
        finally:
            if self.compactor is not None:
                self.compactor.close()
            self.writers.close()
            shutil.rmtree(self.root)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
