"""Failed attempts by source: how many are free, how fast they come back, and that nobody fills the memory."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.load import load_bytes
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.opening import GUESSABLE, Openings
from fluxen.gateway.snapshot import build
from fluxen.gateway.throttle import BURST, REFILL, Throttle
from fluxen.gateway.warden import Warden


def spend(throttle: Throttle, source: str, now: float, times: int = BURST) -> None:
    for _ in range(times):
        assert throttle.wait(source, now) == 0.0
        throttle.failed(source, now)


def test_twenty_are_free_then_one_in_three_seconds() -> None:
    throttle = Throttle()
    spend(throttle, "a", 100.0)
    assert throttle.wait("a", 100.0) == REFILL
    assert throttle.wait("b", 100.0) == 0.0
    assert throttle.wait("a", 101.0) == REFILL - 1.0
    spend(throttle, "a", 103.0, 1)
    assert throttle.wait("a", 103.0) == REFILL
    spend(throttle, "a", 100.0 + REFILL * (BURST + 1))


def test_who_has_all_his_attempts_again_is_forgotten() -> None:
    throttle = Throttle()
    throttle.failed("a", 1.0)
    assert len(throttle) == 1
    assert throttle.wait("a", 1.0 + REFILL) == 0.0
    assert len(throttle) == 0


def test_memory_is_bounded_and_the_worst_are_kept() -> None:
    throttle = Throttle()
    spend(throttle, "worst", 0.0)
    for number in range(3 * Throttle.SOURCES):
        throttle.failed(f"{number}", 0.0)
        assert len(throttle) <= Throttle.SOURCES
    assert throttle.wait("worst", 0.0) == REFILL


def test_those_who_are_free_again_make_room_first() -> None:
    throttle = Throttle()
    for number in range(Throttle.SOURCES):
        throttle.failed(f"{number}", 0.0)
    throttle.failed("new", REFILL + 1.0)
    assert len(throttle) == 1


@given(st.lists(st.floats(0, 40), max_size=200))
def test_never_more_than_the_burst_and_what_came_back(pauses: list[float]) -> None:
    """Over any stretch of time, however the attempts are spread."""
    throttle, now, passed = Throttle(), 0.0, [-1e9]
    for pause in pauses:
        now += pause
        if throttle.wait("a", now) == 0.0:
            throttle.failed("a", now)
            passed.append(now)
            assert len(passed) <= BURST + 1 or now - passed[-BURST - 1] >= REFILL - 1e-6


def test_a_short_key_that_is_throttled_is_not_remembered() -> None:
    """A head that is known is answered sooner: whoever tries would see by that which key is right."""
    short, long = "s" * (GUESSABLE - 1), "l" * GUESSABLE
    config = f"api_keys: {{static: [{{id: short, key: {short}}}, {{id: long, key: {long}}}]}}\n"
    openings = Openings(build(load_bytes(config.encode(), {}, Path("/nowhere/fluxen.yaml")), {}), HeaderKinds())
    warden = Warden()

    def heard(key: str, now: float) -> str | None:
        raw = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nx-api-key: {key}".encode()
        opening = warden.admit(openings.find(raw)[0], now, now, "192.0.2.1")
        assert (openings.recall(raw) is None) == (opening.fault is not None)
        assert opening.known == (opening.fault is None)
        return None if opening.fault is None else opening.fault.code

    assert heard(short, 0.0) is None
    for _ in range(BURST):
        assert heard("x" * 50, 0.0) == "invalid_api_key"
    for _ in range(2):
        assert heard(short, 1.0) == heard("x" * 50, 1.0) == "too_many_failures"
        assert heard(long, 1.0) is None
    assert heard(short, REFILL) is None
