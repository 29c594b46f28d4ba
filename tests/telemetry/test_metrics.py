"""Numbers that processes share, and their text."""

from __future__ import annotations

import os
import re

import pytest

from fluxen.telemetry.metrics import AUTH_FAILURES, REFUSED, Metrics

SAMPLE = re.compile(r"(fluxen_[a-z_]+)(?:\{([a-z_]+)=\"([^\"\\]*)\"\})? (-?[0-9.]+)")


def samples(text: str) -> dict[str, float]:
    """Values by name and labels; every line is of the format, every sample has its HELP and TYPE before it."""
    found: dict[str, float] = {}
    described: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, _ = line.split(" ", 3)
            assert kind in ("HELP", "TYPE")
            described.add(f"{kind} {name}")
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert {f"HELP {match[1]}", f"TYPE {match[1]}"} <= described
        key = f"{match[1]}{{{match[3]}}}" if match[2] else match[1]
        assert key not in found
        found[key] = float(match[4])
    assert text.endswith("\n")
    return found


def test_text_of_a_gateway_that_just_began() -> None:
    found = samples(Metrics(2).text())
    assert found["fluxen_workers"] == 2
    assert found["fluxen_start_time_seconds"] > 1.7e9
    assert found["fluxen_process_resident_memory_bytes"] > 1e6
    assert found["fluxen_connections"] == found["fluxen_requests_total{2xx}"] == 0
    assert {f"fluxen_refused_total{{{code}}}" for code in REFUSED} <= set(found)


def test_processes_count_in_slots_of_their_own() -> None:
    metrics = Metrics(3)
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            slot = metrics.slot(number)
            for _ in range(1000):
                slot.add("requests_2xx")
            slot.count("refused_invalid_api_key", number + 1)
            slot.count("refused_something_else", 2)
            slot.set("connections", 7)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    metrics.slot(1).set("connections", 0)
    metrics.supervisor.set("last_reload_success_ms", 1_700_000_000_500)
    metrics.supervisor.add("reloads_rejected")
    found = samples(metrics.text())
    assert found["fluxen_requests_total{2xx}"] == 3000
    assert found["fluxen_refused_total{invalid_api_key}"] == found["fluxen_auth_failures_total{invalid_api_key}"] == 6
    assert found["fluxen_refused_total{other}"] == 6
    assert found["fluxen_connections"] == 14
    assert found["fluxen_config_last_reload_success_timestamp_seconds"] == 1_700_000_000.5
    assert found["fluxen_config_reloads_total{rejected}"] == 1


def test_a_name_that_there_is_not() -> None:
    slot = Metrics(1).slot(0)
    for wrong in (lambda: slot.add("nothing"), lambda: slot.count("nothing", 1), lambda: slot.set("nothing", 1)):
        with pytest.raises(KeyError):
            wrong()


def test_large_numbers() -> None:
    metrics = Metrics(1)
    metrics.slot(0).add("body_bytes", 1 << 60)
    metrics.slot(0).add("body_bytes", 1 << 60)
    assert metrics.total("body_bytes") == 1 << 61


def test_what_fails_authentication_is_refused() -> None:
    assert set(AUTH_FAILURES) < set(REFUSED)
