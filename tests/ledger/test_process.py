"""The compactor as a process: it works until its supervisor is gone, and takes the last segments with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ledger.samples import begin, count, serve
from ledger.test_compactor import line, write_segment
from ledger.test_journal import poll, segments

from fluxen.ledger import process
from fluxen.ledger.compactor import exclusive
from fluxen.ledger.journal import Journal
from fluxen.ledger.schema import SCHEMA

PROGRAM = """
import sys
from pathlib import Path
from types import SimpleNamespace
from fluxen.ledger.process import run
from fluxen.telemetry.log import Log
settings = SimpleNamespace(retention_days=None, grace_seconds=0, compact_seconds=float(sys.argv[2]))
run(Path(sys.argv[1]), settings, 0, Log("compactor"))
"""


def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(pause)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(compactor: subprocess.Popen[bytes]) -> bytes:
    """Close its end of the pipe, as the death of the supervisor does, and wait."""
    _, said = compactor.communicate(timeout=60)
    assert compactor.returncode == 0, said
    return said


def status(folder: Path) -> process.Status:
    return process.status(folder) or process.Status()


def test_it_drains_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    assert process.status(tmp_path) is None
    journal = Journal(tmp_path, "node", 0)
    compactor = start(tmp_path, 3600)
    poll(lambda: status(tmp_path).stepped > 0, "the first step")
    assert status(tmp_path).pid == compactor.pid
    serve(journal, 20)
    journal.begin(begin())
    journal.close()
    finish(compactor)
    assert not segments(tmp_path)
    assert count(tmp_path) == (20, 1, 0)
    assert status(tmp_path).ingested > 0
    assert status(tmp_path).error is None


def test_ctrl_c_is_the_supervisors(tmp_path: Path) -> None:
    compactor = start(tmp_path, 0.05)
    poll(lambda: status(tmp_path).stepped > 0, "the first step")
    compactor.send_signal(signal.SIGINT)
    seen = status(tmp_path).stepped
    poll(lambda: status(tmp_path).stepped > seen, "a step after Ctrl-C")
    assert b"KeyboardInterrupt" not in finish(compactor)


def test_it_outlives_what_an_operator_mends(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 3)
    journal.close()
    newer = tmp_path / "journal" / write_segment(tmp_path, line(begin()), b"", schema=SCHEMA + 1)
    compactor = start(tmp_path, 0.05)
    poll(lambda: status(tmp_path).error is not None, "an error to be published")
    assert "schema" in str(status(tmp_path).error)
    newer.unlink()
    poll(lambda: status(tmp_path).error is None and not segments(tmp_path), "it to recover")
    assert b"compaction_failed" in finish(compactor)
    assert count(tmp_path) == (3, 0, 0)


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "node", 0)
    serve(journal, 3)
    journal.close()
    with exclusive(tmp_path) as ours:
        assert ours
        compactor = start(tmp_path, 0.05)
        poll(lambda: "another" in str(status(tmp_path).error), "it to find the lock taken")
        assert segments(tmp_path)
    poll(lambda: not segments(tmp_path), "it to take over")
    finish(compactor)
    assert count(tmp_path) == (3, 0, 0)


def test_workers_import_no_duckdb() -> None:
    program = "import sys, fluxen.ledger.journal, fluxen.ledger.record; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False).returncode == 0
