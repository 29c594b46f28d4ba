"""Sums over the last minute, five minutes and hour, against the plain way of adding up what is in them."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from ledger.samples import begin, serve

from fluxen.ledger.compactor import Compactor
from fluxen.ledger.history import answers, ended_at
from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id
from fluxen.reports.live import BUCKETS, BY, WINDOWS, Live, Sums, View, past

NOW = 1_795_348_800.0
FIELDS = Sums.__slots__


def request(at: float, chance: random.Random) -> End:
    """One that ended at `at`."""
    latency = chance.choice((None, 0, 120, 45_000))
    end = End(new_id(), int(at * 1e6) - (latency or 0) * 1000)
    end.latency_ms = latency
    end.model_asked, end.model = "asked", chance.choice((None, "a", "b"))
    end.key_id, end.upstream = chance.choice((None, "k")), chance.choice(("x", "y"))
    end.status, end.error = chance.choice(((200, None), (429, None), (None, "lost"), (502, "upstream")))
    end.usage_source = chance.choice(("reported", "estimated", "unknown", "none"))
    end.cost_pico = chance.choice((None, 0, 10**12, 7))
    end.input_tokens, end.cache_read_tokens, end.output_tokens = chance.choice(((None, None, None), (5, 6, 7)))
    end.cache_write_5m_tokens, end.cache_write_1h_tokens = chance.choice(((None, None), (1, None), (2, 3)))
    return end


def values(sums: Sums) -> dict[str, int]:
    return {name: getattr(sums, name) for name in FIELDS}


def plain(ends: list[End], now: float, window: str, by: str) -> dict[str | None, dict[str, int]]:
    """The same sums, added up one by one. A window begins where its sixtieth bucket does."""
    step = WINDOWS[window] // BUCKETS
    start = (int(now) // step - BUCKETS + 1) * step
    found: dict[str | None, dict[str, int]] = {}
    for end in ends:
        if not start <= min(ended_at(end) / 1e6, now):
            continue
        name = {"model": end.model or end.model_asked, "key": end.key_id, "upstream": end.upstream}[by]
        into = found.setdefault(name, dict.fromkeys(FIELDS, 0))
        into["requests"] += 1
        into["errors"] += end.error is not None or (end.status or 0) >= 400
        into["unknown"] += end.cost_pico is None and end.usage_source != "none"
        into["estimated"] += end.usage_source == "estimated"
        into["cost"] += end.cost_pico or 0
        into["latency"] += end.latency_ms or 0
        for part in ("input", "cache_read", "cache_write_5m", "cache_write_1h"):
            into["input_tokens"] += getattr(end, f"{part}_tokens") or 0
        into["output_tokens"] += end.output_tokens or 0
    return found


def check(view: View, ends: list[End], now: float) -> None:
    wanted = plain(ends, now, view.window, view.by)
    assert {line.name: values(line.sums) for line in view.lines} == wanted
    costs = [line.sums.cost for line in view.lines]
    assert costs == sorted(costs, reverse=True)
    for window, total in view.totals.items():
        groups = plain(ends, now, window, view.by).values()
        assert values(total) == {name: sum(group[name] for group in groups) for name in FIELDS}


def test_windows_hold_what_ended_in_them() -> None:
    chance = random.Random(1)
    live, ends, now = Live(), [], NOW
    for _ in range(400):
        now += chance.choice((0, 0.1, 1, 7, 60, 400))
        for _ in range(chance.randrange(4)):
            at = (
                now - chance.choice((0, 0, 0.5, 3, 100, 3000, 4000)) + chance.choice((0, 0, 2))
            )  # late ones, fast clocks
            ends.append(request(at, chance))
            live.ended(ends[-1], now)
        check(live.view(now, chance.choice(list(WINDOWS)), chance.choice(BY)), _as_they_were(ends, now), now)
    check(live.view(now + 7200, "1h", "key"), [], now + 7200)
    assert live.view(now + 7200, "1h", "key").lines == []


def _as_they_were(ends: list[End], now: float) -> list[End]:
    """A time in the future counted as the moment it was seen; it is past by now."""
    for end in ends:
        if ended_at(end) / 1e6 > now:
            end.ts -= ended_at(end) - int(now * 1e6)
    return ends


@pytest.mark.parametrize("by", BY)
def test_open_requests_are_shown_though_nothing_ended(by: str) -> None:
    live = Live()
    opened = [Begin(new_id(), 1, key_id="k", model_asked="m", upstream="u"), Begin(new_id(), 1)]
    view = live.view(NOW, "1m", by, [*opened, opened[0]])
    assert [(line.name, line.in_flight) for line in view.lines] == [
        ({"model": "m", "key": "k", "upstream": "u"}[by], 2),
        (None, 1),
    ]
    assert view.in_flight == 3


def test_a_ledgers_past_is_the_same_as_having_seen_it(tmp_path: Path) -> None:
    """Out of files and journal, at every moment after it was loaded."""
    chance = random.Random(2)
    now = float(int(time.time()))
    journal = Journal(tmp_path, "n", 0, segment_seconds=0)
    ends = [request(now - chance.choice((1, 70, 400, 4000)) * chance.random(), chance) for _ in range(300)]
    for number, end in enumerate(ends):
        start = begin(ts=end.ts)
        start.id = end.id
        assert journal.begin(start)
        assert journal.end(end)
        if number == 200:
            journal.tick()
            compactor = Compactor(tmp_path, grace_seconds=0)
            deadline = time.monotonic() + 30
            while not compactor.step().rows:
                assert time.monotonic() < deadline
            compactor.close()
    (rows,) = answers(tmp_path, past(now))
    live = Live()
    live.load(rows, now)
    for later in (0, 1, 3, 31, 59, 61, 250, 301, 1800, 3599, 3661):
        for window in WINDOWS:
            check(live.view(now + later, window, "model"), ends, now + later)
    journal.close()


def test_one_request_of_the_ledger_is_in_every_window(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n", 0)
    (done,) = serve(journal, 1)
    now = done.ts / 1e6
    (rows,) = answers(tmp_path, past(now))
    live = Live()
    live.load(rows, now)
    assert [total.requests for total in live.view(now, "1m", "model").totals.values()] == [1, 1, 1]
    journal.close()
