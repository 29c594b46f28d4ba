"""The numbers of a gateway: 64-bit integers in memory that its processes share, and how Prometheus reads them.

Made by the supervisor before it forks. Each process has a slot of its own and is the only one that writes there, so
nothing is locked, and a worker's successor counts on where the dead one stopped. Whoever is asked for the numbers reads
all slots. Nothing here is on the path of a request: workers count in plain integers of their own and bring them here
about once a second.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from typing import Final

from fluxen import __version__

REFUSED: Final = (
    "invalid_api_key",
    "key_expired",
    "invalid_token",
    "token_expired",
    "token_not_yet_valid",
    "too_many_failures",
    "duplicate_credential",
    "address_not_allowed",
    "host_not_allowed",
    "browser_not_allowed",
    "proxy_not_allowed",
    "invalid_request",
    "request_timeout",
    "headers_too_large",
    "request_too_large",
    "method_not_allowed",
    "not_found",
    "no_route",
    "invalid_path",
    "unsupported_transfer_encoding",
    "expectation_failed",
    "gateway_full",
    "tls_handshake_failed",
    "invalid_admin_key",
    "cross_site",
    "unsupported_media_type",
    "other",
)
"""Codes of refusals that get no row. What a client sends must not make a new series, so the list is closed."""

AUTH_FAILURES: Final = REFUSED[:6]

MALFORMED: Final = (
    "invalid_request",
    "request_timeout",
    "headers_too_large",
    "unsupported_transfer_encoding",
    "expectation_failed",
)

CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Of the status of requests that got a row."""

_FIELDS: Final = (
    "config_generation",
    "reloads_success",
    "reloads_rejected",
    "last_reload_successful",
    "last_reload_success_ms",
    "worker_restarts",
    "parked_credentials",
    "started_ms",
    "connections",
    "requests_in_flight",
    "body_bytes",
    "ledger_lost",
    "log_dropped",
    *(f"requests_{name}" for name in CLASSES),
    *(f"refused_{code}" for code in REFUSED),
)
_AT: Final = {name: index for index, name in enumerate(_FIELDS)}


class Slot:
    """The numbers of one process. Names are those of _FIELDS; any other is a KeyError."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: memoryview) -> None:
        self._numbers = numbers

    def add(self, name: str, amount: int = 1) -> None:
        self._numbers[_AT[name]] += amount

    def set(self, name: str, value: int) -> None:
        self._numbers[_AT[name]] = value

    def get(self, name: str) -> int:
        return int(self._numbers[_AT[name]])

    def count(self, name: str, amount: int) -> None:
        """As add; the code of a refusal (`refused_CODE`) that is not on the list counts as `other`."""
        if amount:
            self._numbers[_AT[name] if name in _AT or not name.startswith("refused_") else _AT["refused_other"]] += (
                amount
            )


class Metrics:
    """All slots. Made before the fork."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        count = (workers + 1) * len(_FIELDS)
        self._memory = mmap.mmap(-1, count * 8)
        numbers = memoryview(self._memory).cast("q")
        width = len(_FIELDS)
        self._slots = [Slot(numbers[start : start + width]) for start in range(0, count, width)]
        self.supervisor.set("started_ms", time.time_ns() // 1_000_000)

    def slot(self, worker: int) -> Slot:
        """Where worker `worker` (0 …) counts."""
        return self._slots[worker]

    @property
    def supervisor(self) -> Slot:
        return self._slots[self.workers]

    def total(self, name: str) -> int:
        return sum(slot.get(name) for slot in self._slots)

    def text(self) -> str:
        """The Prometheus text format, version 0.0.4."""
        return "".join(_family(*family) for family in self._families())

    def _families(self) -> list[tuple[str, str, str, Mapping[str, float]]]:
        """name, type, what it is, values by their labels."""
        main, total = self.supervisor, self.total
        return [
            ("build_info", "gauge", "The version that runs.", {f'version="{__version__}"': 1}),
            ("start_time_seconds", "gauge", "When the gateway was started.", {"": main.get("started_ms") / 1000}),
            ("workers", "gauge", "Worker processes.", {"": self.workers}),
            ("worker_restarts_total", "counter", "Processes started again after they died.",
             {"": main.get("worker_restarts")}),
            ("config_generation", "gauge", "How many configurations have been taken up.",
             {"": main.get("config_generation")}),
            ("config_reloads_total", "counter", "Attempts to take up a changed configuration.",
             {'result="success"': main.get("reloads_success"), 'result="rejected"': main.get("reloads_rejected")}),
            ("config_last_reload_successful", "gauge", "1, or 0 while the file on disk is not what is served.",
             {"": main.get("last_reload_successful")}),
            ("config_last_reload_success_timestamp_seconds", "gauge", "When a configuration was last taken up.",
             {"": main.get("last_reload_success_ms") / 1000}),
            ("requests_total", "counter", "Requests that got a row, by the class of their status.",
             {f'status="{name}"': total(f"requests_{name}") for name in CLASSES}),
            ("requests_in_flight", "gauge", "Requests sent to an upstream and not finished.",
             {"": total("requests_in_flight")}),
            ("refused_total", "counter", "Requests refused without a row, by the code of the answer.",
             {f'code="{code}"': total(f"refused_{code}") for code in REFUSED}),
            ("auth_failures_total", "counter", "Those of them whose credential did not let them in.",
             {f'code="{code}"': total(f"refused_{code}") for code in AUTH_FAILURES}),
            ("throttled_total", "counter", "Requests of sources throttled for failed authentication.",
             {"": total("refused_too_many_failures")}),
            ("malformed_requests_total", "counter", "What was not HTTP/1.1 as Fluxen accepts it.",
             {"": sum(total(f"refused_{code}") for code in MALFORMED)}),
            ("connections", "gauge", "Client connections.", {"": total("connections")}),
            ("request_body_bytes", "gauge", "Bytes of request bodies held.", {"": total("body_bytes")}),
            ("parked_credentials", "gauge", "Provider credentials that are refused and not used.",
             {"": main.get("parked_credentials")}),
            ("ledger_lost_total", "counter", "Lines that could not be written to the journal.",
             {"": total("ledger_lost")}),
            ("log_lines_dropped_total", "counter", "Log lines that nobody took in time.", {"": total("log_dropped")}),
            ("process_resident_memory_bytes", "gauge", "Memory of the process that answers.", {"": _resident()}),
        ]  # fmt: skip


def _family(name: str, kind: str, text: str, values: Mapping[str, float]) -> str:
    lines = [f"# HELP fluxen_{name} {text}", f"# TYPE fluxen_{name} {kind}"]
    for labels, value in values.items():
        shown = f"{{{labels}}}" if labels else ""
        lines.append(
            f"fluxen_{name}{shown} {value:.3f}" if isinstance(value, float) else f"fluxen_{name}{shown} {value}"
        )
    return "\n".join(lines) + "\n"


def _resident() -> int:
    """Bytes; 0 where /proc does not tell."""
    try:
        descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 256).split()[1]) * mmap.PAGESIZE
    finally:
        os.close(descriptor)
