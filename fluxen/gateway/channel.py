"""Between the supervisor and each of its children: whole messages in order, and listening sockets with them.

Downwards a message is any object of ours (pickled). Upwards it is a list of plain values (JSON), so that whoever might
get hold of a worker, which reads what strangers send, can say things to the supervisor but not have it run code.

Neither end ever blocks: what the other does not take waits here, and goes out with `flush`.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

_HEAD: Final = struct.Struct("!IB")  # length of the message, number of sockets that come with it
_READ: Final = 262_144
MOST_SOCKETS: Final = 16
"""With one message."""
MOST_WAITING: Final = 10_000
"""Messages upwards that the supervisor has not taken, until further ones are dropped: it must hang, or be stopped."""

Message = tuple[Any, list[int]]
"""What was said, and the descriptors that came with it."""


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._encode = encode
        self._decode = decode
        self._out: deque[tuple[memoryview, list[int]]] = deque()
        self._in = bytearray()
        self._descriptors: list[int] = []
        self.ended = False
        """The other end is closed."""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """The supervisor's end, and the child's."""
        upper, lower = socket.socketpair()
        json = msgspec.json
        return cls(upper, pickle.dumps, json.decode), cls(lower, json.encode, pickle.loads)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> bool:
        """Whether something waits for the other end to take it."""
        return bool(self._out)

    def say(self, message: Any, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message, now or as soon as it can go. The sockets may be closed afterwards."""
        if len(self._out) < MOST_WAITING:
            self.pass_on(self._encode(message), sockets)

    def pass_on(self, encoded: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """The same for a message that is encoded already: one that goes to several."""
        if self.ended:
            return
        head = _HEAD.pack(len(encoded), len(sockets))
        self._out.append((memoryview(head), [os.dup(sock.fileno()) for sock in sockets]))
        self._out.append((memoryview(encoded), []))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it is taken."""
        out = self._out
        try:
            while out:
                data, descriptors = out[0]
                sent = socket.send_fds(self._sock, [data], descriptors) if descriptors else self._sock.send(data)
                for descriptor in descriptors:
                    os.close(descriptor)
                if sent < len(data):
                    out[0] = (data[sent:], [])
                else:
                    out.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._end()

    def hear(self) -> list[Message]:
        """The messages that have come whole. At the other end's end, `ended` is set."""
        while not self.ended:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, _READ, MOST_SOCKETS)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            self._in += data
            self._descriptors += descriptors
            if not data:
                self._end()
        messages: list[Message] = []
        at = 0
        while len(self._in) - at >= _HEAD.size:
            length, count = _HEAD.unpack_from(self._in, at)
            end = at + _HEAD.size + length
            if len(self._in) < end:
                break
            message = self._decode(bytes(self._in[at + _HEAD.size : end]))
            messages.append((message, self._descriptors[:count]))
            del self._descriptors[:count]
            at = end
        del self._in[:at]
        return messages

    def _end(self) -> None:
        self.ended = True
        for _, descriptors in self._out:
            for descriptor in descriptors:
                os.close(descriptor)
        self._out.clear()

    def close(self) -> None:
        self._end()
        self._sock.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
