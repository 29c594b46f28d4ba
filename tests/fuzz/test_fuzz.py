"""A short run of each fuzzer, always with the same inputs; `make fuzz SECONDS=600` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz import judge
from fuzz.engine import fuzz
from fuzz.heads import KEY
from fuzz.targets import TARGETS

CASES = {"heads": 20_000, "bodies": 8_000, "wire": 2_000, "yaml": 1_500, "keys": 8_000, "jwt": 8_000}
LEAST = {"heads": 300, "bodies": 150, "wire": 45, "yaml": 450, "keys": 180, "jwt": 250}
"""Steps or outcomes that so many inputs have to reach: an input that is refused at the door tests nothing behind it."""


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str, tmp_path: Path) -> None:
    with TARGETS[name](tmp_path) as target:
        outcome = fuzz(target, 20261122, cases=CASES[name])
    assert not outcome.findings, "\n".join(map(str, outcome.findings))
    assert outcome.cases == CASES[name]
    assert outcome.lines >= LEAST[name], outcome


FOUND = {
    "heads": [
        # llhttp took it for HTTP/0.9 and a header, and the line went on as it was
        b"POST /a/b\nX: HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY + b"\r\nContent-Length: 0",
    ],
    "yaml": [
        b"api_keys: {static: [{id: a, key: *fx-planted-client-4711}]}",  # a message quoted it: an alias, to YAML
    ],
    "bodies": [
        # a second model where a form was cut off: careless readers take what has come for a part
        b"3--boundary-0123456789\r\nContent-Disposition: form-data; name=model\r\n\r\ngpt-5\r\n"
        b"--boundary-0123456789\r\nContent-Disposition: form-data; name=model\n\ngpt-4o",
    ],
    "keys": [
        b'{"version":2,"keys":[{"id":"a","hash":"sha256:%b","tags":{"a":1},"tags":{}}]}' % (b"0" * 64),
        b'{"version":2,"keys":[{"id":"a","hash":"sha256:%b","later\xff":1}]}' % (b"0" * 64),
    ],
}
"""What long runs have found."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name: str, tmp_path: Path) -> None:
    with TARGETS[name](tmp_path) as target:
        for case in FOUND[name]:
            target.run(case)


class Fragile:
    """Falls over an input that no grammar makes: four steps away from the first."""

    name = "fragile"
    traced = ("tests/fuzz/test_fuzz.py",)
    base_steps = 1000
    words = (b"x",)

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def seeds(self) -> list[bytes]:
        return [b"begin"]

    def make(self, chance: random.Random) -> bytes:
        return bytes(chance.randrange(256) for _ in range(4))

    def run(self, case: bytes) -> None:
        if case[:1] != b"F":
            return
        if case[1:2] != b"U":
            return
        if case[2:3] != b"Z":
            return
        if self._fault == "raises":
            raise KeyError("here")
        while self._fault == "loops":
            case += b"x"


@pytest.mark.parametrize(("fault", "told"), [("raises", "KeyError"), ("loops", "more than")])
def test_the_engine_finds_what_is_there(fault: str, told: str) -> None:
    """By the steps that bring an input nearer: by chance it would take sixteen million of them."""
    outcome = fuzz(Fragile(fault), 1, cases=100_000)
    assert [told in finding.why for finding in outcome.findings] == [True]
    assert outcome.findings[0].case.startswith(b"FUZ")


@pytest.mark.parametrize(
    ("stream", "bodies", "rest"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", [b""], "nothing"),
        (b"\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET /", [b"ab"], "unfinished"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: x\r\n\r\n", [b"ab"], "nothing"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", [], "wrong"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nab", [], "wrong"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", [], "wrong"),
        (b"POST / HTTP/1.1\r\nContent-Length : 2\r\n\r\nab", [], "wrong"),
        (b"POST / HTTP/1.1\r\nX: a\nY: b\r\n\r\n", [], "wrong"),
        (b"POST / HTTP/1.1\r\nX: a\r\n Y: b\r\n\r\n", [], "wrong"),
        (b"POST /a b HTTP/1.1\r\n\r\n", [], "wrong"),
    ],
)
def test_the_judge(stream: bytes, bodies: list[bytes], rest: str) -> None:
    reading = judge.read(stream)
    assert ([request.body for request in reading.requests], reading.rest) == (bodies, rest)


def test_the_judge_finds_every_credential() -> None:
    raw = b"GET /x?a=b&key=%66x HTTP/1.1\r\nAuthorization: Bearer " + KEY + b"\r\nX-Api-Key: y\r\n\r\n"
    assert judge.read(raw).requests[0].credentials() == [KEY, b"y", b"fx"]
