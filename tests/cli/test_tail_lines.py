"""One line of `fluxen tail`, as a pipe gets it: what is estimated says so, what is unknown is no number."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from datetime import UTC
from pathlib import Path

import pytest
from cli.live import FLUXEN
from gateway.rig import until
from ledger.samples import serve

from fluxen.ledger.history import Ended
from fluxen.ledger.journal import Journal
from fluxen.ledger.record import End, new_id
from fluxen_cli.tail.lines import Lines

NOON = 1_795_348_800_000_000


def request(**fields: object) -> End:
    end = End(new_id(), NOON, key_id="k", model="m", upstream="u", status=200, latency_ms=1500)
    end.usage_source = "reported"
    for name, value in fields.items():
        setattr(end, name, value)
    return end


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"input_tokens": 5, "cache_read_tokens": 6, "cache_write_5m_tokens": 7, "cache_write_1h_tokens": 8,
          "output_tokens": 9, "cost_pico": 12_300_000}, ["26", "6", "9", "0.0000123", "1.500s"]),
        ({"input_tokens": 5, "output_tokens": 9, "cost_pico": 10**12, "usage_source": "estimated"},
         ["~5", "–", "~9", "~1", "1.500s"]),
        ({"input_tokens": 5, "output_tokens": 9}, ["5", "–", "9", "–", "1.500s"]),
        ({"cost_pico": 0, "latency_ms": None}, ["–", "–", "–", "0", "–"]),
        ({"usage_source": "partial", "output_tokens": 3}, ["–", "–", "3", "–", "1.500s", "partial"]),
        ({"error": "client_gone", "usage_source": "partial", "attempts": 2, "cache": "hit"},
         ["–", "–", "–", "–", "1.500s", "client_gone, partial, 2 attempts, cache hit"]),
        ({"attempts": 1, "cache": "miss"}, ["–", "–", "–", "–", "1.500s"]),
    ],
)  # fmt: skip
def test_figures(capsys: pytest.CaptureFixture[str], fields: dict[str, object], shown: list[str]) -> None:
    Lines(UTC).events([Ended("n", 0, request(**fields))])
    assert re.split(" {2,}", capsys.readouterr().out.strip())[5:] == shown


def test_a_writers_confession_is_passed_on(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """Requests that got no line because the disk was full are in no report: somebody who watches should know."""
    writer = Journal(tmp_path / "data" / "ledger", "n", 0)
    serve(writer, 1)
    command = [*FLUXEN, "tail", "--data-dir", "data"]
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=tmp_path, env=clean_env)
    try:
        until(lambda: out.read_bytes().count(b"\n") == 1, "the first line", 30)
        (segment,) = (tmp_path / "data" / "ledger" / "journal").iterdir()
        with segment.open("ab") as file:
            file.write(b'["x",1,3]\n')
        until(lambda: "3 requests could not be written" in err.read_text(), "a note", 30)
    finally:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
    assert out.read_bytes().count(b"\n") == 1
    writer.close()
