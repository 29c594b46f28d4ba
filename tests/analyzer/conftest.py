"""The recorded exchanges, paired with the bills they should give."""

from __future__ import annotations

import pytest
from analyzer.recorded import Recorded, lines
from shared import require_shared


@pytest.fixture(scope="session")
def recorded() -> list[Recorded]:
    exchanges = lines(require_shared("traffic", "dev.jsonl.gz"))
    expected = lines(require_shared("traffic", "expected_dev.jsonl.gz"))
    assert len(exchanges) == len(expected) > 2000
    pairs = [Recorded(*pair) for pair in zip(exchanges, expected, strict=True)]
    for pair in pairs:  # one id is spelt differently in the two files
        assert pair.id.replace("-", "_") == pair.expected["id"].replace("-", "_")
    return pairs
