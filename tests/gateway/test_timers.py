"""The timer wheel against a plain list of deadlines."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxen.gateway.timers import LOOK_AHEAD, TICK_SECONDS, TimerWheel, ticks


@dataclass
class Item:
    wheel: TimerWheel
    again: int = 0
    """Arm itself once more, so many ticks ahead, when it fires."""
    due: int = 0
    slot: int = 0
    fired: list[int] = field(default_factory=list)

    def timed_out(self) -> None:
        self.fired.append(self.wheel.now)
        if self.again:
            after, self.again = self.again, 0
            self.wheel.arm(self, after)


AFTER = st.integers(1, 3 * LOOK_AHEAD)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 2), AFTER),
        st.tuples(st.just("postpone"), st.integers(0, 2), AFTER),
        st.tuples(st.just("disarm"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("advance"), st.just(0), st.integers(1, 2 * LOOK_AHEAD)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=400)
def test_fires_at_its_tick_and_once(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is armed, moved nearer or further, and disarmed in between."""
    wheel = TimerWheel()
    items = [Item(wheel) for _ in range(3)]
    deadlines: list[int | None] = [None, None, None]
    expected: list[list[int]] = [[], [], []]
    for what, which, amount in (*steps, ("advance", 0, 4 * LOOK_AHEAD)):
        if what == "arm":
            wheel.arm(items[which], amount)
            deadlines[which] = wheel.now + amount
        elif what == "postpone":
            due = deadlines[which]
            if due is not None and wheel.now + amount >= due:  # the cheap way, allowed for an armed item
                items[which].due = deadlines[which] = wheel.now + amount
        elif what == "disarm":
            items[which].due = 0
            deadlines[which] = None
        else:
            for number, due in enumerate(deadlines):
                if due is not None and due <= wheel.now + amount:
                    expected[number].append(due)
                    deadlines[number] = None
            wheel.advance(wheel.now + amount)
        assert [item.fired for item in items] == expected
    assert not wheel._slots, "nothing is kept that is over"


@given(AFTER, AFTER)
def test_may_arm_itself_when_it_fires(first: int, second: int) -> None:
    wheel = TimerWheel()
    item = Item(wheel, again=second)
    wheel.arm(item, first)
    wheel.advance(1 + first + second + LOOK_AHEAD)
    assert item.fired == [1 + first, 1 + first + second]


def test_lets_go_of_what_is_disarmed() -> None:
    wheel = TimerWheel()
    for _ in range(100):
        item = Item(wheel)
        wheel.arm(item, 10 * LOOK_AHEAD)
        item.due = 0
    wheel.advance(wheel.now + LOOK_AHEAD)
    assert not wheel._slots


def test_postponing_for_ever_keeps_one_entry() -> None:
    wheel = TimerWheel()
    item = Item(wheel)
    for _ in range(1000):
        wheel.arm(item, 30)
        wheel.advance(wheel.now + 1)
    assert sum(map(len, wheel._slots.values())) <= 2
    assert not item.fired


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, 1), (0.001, 1), (0.1, 1), (0.11, 2), (0.3, 3), (10.0, 100), (600.0, 6000)]
)
def test_ticks(seconds: float, expected: int) -> None:
    assert ticks(seconds) == expected + 1  # the tick at hand may be nearly over


@given(st.floats(0.001, 86_400))
def test_ticks_are_never_too_few(seconds: float) -> None:
    assert (ticks(seconds) - 1) * TICK_SECONDS >= seconds - 1e-6
    assert ticks(seconds) * TICK_SECONDS < seconds + 3 * TICK_SECONDS
