"""Messages between supervisor and child: whole, in order, with their sockets, and never waiting for the other end."""

from __future__ import annotations

import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.channel import MOST_WAITING, Channel


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def everything(channel: Channel, other: Channel) -> list[object]:
    """What comes through, until nothing waits any more at the other end."""
    heard: list[object] = []
    while True:
        other.flush()
        messages = channel.hear()
        heard += [message for message, _ in messages]
        if not other.waiting and not messages:
            return heard


@given(st.lists(st.one_of(st.text(max_size=50), st.integers(0, 400_000).map(lambda size: "x" * size)), max_size=8))
def test_whole_and_in_order(messages: list[str]) -> None:
    upper, lower = Channel.pair()
    try:
        for message in messages:
            upper.say(("down", message))
            lower.say(["up", message])
        assert everything(lower, upper) == [("down", message) for message in messages]
        assert everything(upper, lower) == [["up", message] for message in messages]
    finally:
        upper.close()
        lower.close()


def test_what_is_not_taken_waits_and_nothing_blocks() -> None:
    upper, lower = Channel.pair()
    large = "x" * 3_000_000
    upper.say(large)
    assert upper.waiting
    upper.say("behind it")
    assert everything(lower, upper) == [large, "behind it"]
    for number in range(2 * MOST_WAITING):
        lower.say([number])
    heard = everything(upper, lower)
    assert heard[:3] == [[0], [1], [2]]
    assert MOST_WAITING // 2 <= len(heard) < 2 * MOST_WAITING  # two pieces each
    upper.close()
    lower.close()


def test_sockets_come_with_their_message() -> None:
    before = descriptors()
    upper, lower = Channel.pair()
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [sock.getsockname()[1] for sock in listening]
    upper.say("none")
    upper.say("x" * 2_000_000, listening[:1])
    upper.say("two", listening[1:])
    for sock in listening:
        sock.close()
    heard = []
    while len(heard) < 3:
        upper.flush()
        heard += lower.hear()
    assert [len(sockets) for _, sockets in heard] == [0, 1, 2]
    received = [socket.socket(fileno=number) for _, sockets in heard for number in sockets]
    assert [sock.getsockname()[1] for sock in received] == ports
    for sock in received:
        sock.close()
    upper.close()
    lower.close()
    assert descriptors() == before


def test_an_end_that_is_gone_keeps_nothing_open() -> None:
    before = descriptors()
    upper, lower = Channel.pair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        upper.say("x" * 3_000_000)
        upper.say("behind", [listening])
        lower.say(["last words"])
        lower.close()
        upper.flush()
        assert upper.hear() == [(["last words"], [])] or upper.ended
        assert upper.hear() == []
        assert upper.ended
        upper.say("nobody hears", [listening])
        upper.close()
    assert descriptors() == before


def test_what_comes_upwards_is_data() -> None:
    """A worker reads what strangers send: nothing it says may run in the supervisor."""
    upper, lower = Channel.pair()
    lower.say(["parked", "openai", 401, 12.5, None, True])
    [(message, _)] = upper.hear()
    assert message == ["parked", "openai", 401, 12.5, None, True]
    upper.close()
    lower.close()
