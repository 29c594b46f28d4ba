"""Ids and records: what a journal line starts from."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid

import msgspec

from fluxen.ledger.record import LOST, Begin, End, Loss, new_id, scrub


def test_an_id_is_a_uuid7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    value = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before <= value.int >> 80 <= after


def test_ids_of_one_process_ascend_and_never_repeat() -> None:
    ids = [new_id() for _ in range(50_000)]
    assert ids == sorted(set(ids))


FORKS = """
import os, sys
from fluxen.ledger.record import new_id
new_id()
for _ in range(4):
    if os.fork() == 0:
        # The 62 random bits alone: were the generator shared, they would be the same in all children.
        os.write(1, b"".join(new_id()[19:].encode() + b"\\n" for _ in range(100)))
        os._exit(0)
for _ in range(4):
    assert os.wait()[1] == 0
"""


def test_forked_workers_draw_different_ids() -> None:
    drawn = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, check=True).stdout.split()
    assert len(drawn) == len(set(drawn)) == 400


def test_an_end_knows_what_its_begin_knew() -> None:
    begin = Begin(*(f"{name}-value" for name in Begin.__struct_fields__))  # type: ignore[arg-type]
    end = End.of(begin)
    for name in Begin.__struct_fields__:
        assert getattr(end, name) == getattr(begin, name)
    assert end.status is end.error is end.usage_source is None


def test_a_lost_row_has_no_cost_and_no_usage() -> None:
    end = End.lost(Begin(new_id(), 1, bound_pico=5))
    assert (end.error, end.usage_source, end.cost_pico, end.output_tokens, end.bound_pico) == (
        LOST,
        "unknown",
        None,
        None,
        5,
    )


def test_lines_read_back_by_their_tag() -> None:
    decoder = msgspec.json.Decoder(Begin | End | Loss)
    for record in (Begin(new_id(), 1, tags={"a": "b"}), End(new_id(), 2, cost_pico=3), Loss(4, 5)):
        line = msgspec.json.encode(record)
        assert line.startswith(b'["%s",' % {Begin: b"b", End: b"e", Loss: b"x"}[type(record)])
        assert decoder.decode(line) == record


def test_what_json_or_the_store_cannot_hold_is_scrubbed() -> None:
    clean = scrub(End(new_id(), 1, key_id="a\ud800b", tags={"\udfff": "\ud900"}, output_tokens=1 << 70, stream=True))
    assert isinstance(clean, End)
    assert (clean.key_id, clean.tags, clean.output_tokens, clean.stream) == ("a?b", {"?": "?"}, None, True)
    assert msgspec.json.decode(msgspec.json.encode(clean), type=End) == clean
