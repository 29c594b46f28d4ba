"""What the tests of the data plane are made of: the real `fluxen serve`, an upstream that plays a script over a raw
socket and remembers every byte it got, and a client that is a raw socket, too.

The upstream knows as little HTTP as it can: it finds the end of a request by the framing that Fluxen may send, and
records the bytes. Whatever answers it plays are bytes of the test.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxen.gateway.listening import client_of
from fluxen.ledger.reader import Reader

PATIENCE = 15.0
"""Seconds after which what should happen is taken for not happening. Nothing waits for it when all is well."""

KEY = "fx-client-0123456789abcdef-as-long-as-generated"
"""Too long to be guessed: failed attempts of other tests don't slow it down."""
PROVIDER_KEY = "sk-provider-fedcba9876543210"

KEYED = """
version: 1
server: {{bind_address: "127.0.0.1:0"}}
upstreams:
  openai: {{request_path: "/openai", target_url: "{url}", api_key: "{provider}"}}
api_keys:
  static: [{{id: me, key: "{key}"}}]
"""

Headers = list[tuple[bytes, bytes]]


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Poll until `condition()` is true and return it; fail with `what` when it does not come."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still waiting after {patience:g} s: {what}")
        time.sleep(0.005)
    return found


def split_head(raw: bytes) -> tuple[bytes, Headers]:
    """First line and headers of a head that ends with its empty line. Values as on the wire, less the space behind
    the colon."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon, f"no header: {line!r}"
        headers.append((name, value.removeprefix(b" ")))
    return first, headers


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name.lower()]


def unchunk(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(body, trailers as sent, what is behind) of a chunked body at the beginning of `data`; None if not complete."""
    body, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end].partition(b";")[0], 16)
        at = end + 2
        if not size:
            break
        if len(data) < at + size + 2:
            return None
        assert data[at + size : at + size + 2] == b"\r\n", "a chunk does not end where it should"
        body += data[at : at + size]
        at += size + 2
    if data.startswith(b"\r\n", at):
        return body, b"", data[at + 2 :]
    end = data.find(b"\r\n\r\n", at)
    return None if end < 0 else (body, data[at : end + 4], data[end + 4 :])


@dataclass
class Request:
    """One request as the upstream saw it."""

    head: bytes
    body: bytes
    wire: bytes
    """Exactly the bytes that came."""
    connection: Connection

    @property
    def line(self) -> bytes:
        return split_head(self.head)[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def headers(self) -> Headers:
        return split_head(self.head)[1]

    def get(self, name: bytes) -> list[bytes]:
        return values(self.headers, name)


class Connection:
    """A connection at the upstream's side."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        """Counted from 0 since the last reset."""
        self.received = b""
        """Every byte that came, while `keep` is set."""
        self.received_bytes = 0
        self.keep = True
        self.ended = threading.Event()
        """The other side closed or reset it."""
        self.was_reset = False
        self._pending = b""

    def read(self, size: int = 65536, patience: float = PATIENCE) -> bytes:
        """Some bytes, b'' when the other side has closed."""
        self.sock.settimeout(patience)
        try:
            data = self.sock.recv(size)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self.was_reset = True
            data = b""
        if not data:
            self.ended.set()
        self.received_bytes += len(data)
        if self.keep:
            self.received += data
        return data

    def read_head(self) -> bytes | None:
        """A request's head; None when the connection ends instead. Idle connections are waited on for ever."""
        data = self._pending
        while b"\r\n\r\n" not in data:
            more = self.read(patience=3600)
            if not more:
                return None
            data += more
        head, _, self._pending = data.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def read_request(self) -> Request | None:
        """A whole request, framed by Content-Length or chunked; None when the connection ends instead."""
        head = self.read_head()
        return None if head is None else self.read_rest(head)

    def read_rest(self, head: bytes) -> Request | None:
        """The body of the request whose head was read."""
        _, headers = split_head(head)
        lengths, codings = values(headers, b"content-length"), values(headers, b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, f"framed twice: {head!r}"
        data = self._pending
        if codings:
            assert codings[0].strip().lower() == b"chunked", codings
            while (parts := unchunk(data)) is None:
                if not (more := self.read()):
                    return None
                data += more
            body, _, self._pending = parts
            return Request(head, body, head + data[: len(data) - len(self._pending)], self)
        size = int(lengths[0]) if lengths else 0
        while len(data) < size:
            if not (more := self.read()):
                return None
            data += more
        self._pending = data[size:]
        return Request(head, data[:size], head + data[:size], self)

    def send(self, data: bytes) -> None:
        """Write, and never mind that the other side may have left."""
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.sendall(data)
        except OSError:
            self.ended.set()

    def close(self) -> None:
        self.sock.close()

    def shut(self) -> None:
        """Close our side only."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self) -> None:
        """Close with RST."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.sock.close()

    def drain(self, patience: float = PATIENCE) -> None:
        """Read and drop until the other side closes."""
        while self.read(patience=patience):
            pass


Play = bytes | Callable[[Connection, Request], object]
"""The answer to one request: bytes, or what to do. A callable that closes the connection ends it."""

OK_BODY = (
    b'{"id":"x","model":"m-1","choices":[{"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}'
)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(OK_BODY), OK_BODY)


class Upstream:
    """Listens on a port of its own. Each request gets the next of `plays`; the last one is played for ever."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._plays: list[Play] = [OK]
        self._raw: Callable[[Connection], object] | None = None
        self.connections: list[Connection] = []
        self._numbered = 0
        self.requests: list[Request] = []
        self.faults: list[BaseException] = []
        """What went wrong in the upstream's threads: checked at the end of a test."""
        threading.Thread(target=self._accept, daemon=True, name="upstream").start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plays(self, *plays: Play) -> None:
        """What to answer from now on."""
        with self._lock:
            self._plays = list(plays)

    def raw(self, handler: Callable[[Connection], object]) -> None:
        """Have new connections handled by `handler`, from their first byte on, instead of plays."""
        self._raw = handler

    def request(self, at: int = -1) -> Request:
        """A request that came, by default the last."""
        until(lambda: self.requests, "a request at the upstream")
        return self.requests[at]

    def reset(self) -> None:
        """Back to the beginning: connections closed by both sides, nothing recorded, plays OK."""
        self._raw = None
        for connection in list(self.connections):
            connection.shut()
        for connection in list(self.connections):
            if not connection.ended.wait(PATIENCE):
                connection.reset()
        with self._lock:
            self._plays = [OK]
            self.connections.clear()
            self._numbered = 0
        self.requests.clear()
        self.faults.clear()

    def close(self) -> None:
        self._listening.close()
        for connection in list(self.connections):
            connection.reset()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                connection = Connection(sock, self._numbered)
                self._numbered += 1
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            if self._raw is not None:
                self._raw(connection)
            else:
                while (request := connection.read_request()) is not None:
                    with self._lock:
                        play = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
                    self.requests.append(request)
                    if isinstance(play, bytes):
                        connection.send(play)
                    else:
                        play(connection, request)
                    if connection.sock.fileno() < 0:
                        break
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            self.faults.append(error)
        finally:
            connection.ended.set()
            connection.sock.close()


@dataclass
class Answer:
    """An answer as the client saw it."""

    head: bytes
    body: bytes
    """Without its framing."""
    wire: bytes
    """Exactly the bytes that came, head included."""
    complete: bool
    """Whether it ended as its head announced."""
    trailers: bytes = b""
    interim: list[bytes] = field(default_factory=list)
    """Heads of 1xx answers before it."""

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def headers(self) -> Headers:
        return split_head(self.head)[1]

    @property
    def id(self) -> str:
        """The row's id."""
        return self.get(b"x-fluxen-id")[0].decode()

    def get(self, name: bytes) -> list[bytes]:
        return values(self.headers, name)


class Client:
    """A client's raw connection."""

    def __init__(self, port: int, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost", suppress_ragged_eofs=False)
        self._pending = b""
        self.ended = False
        self.was_reset = False

    @classmethod
    def over(cls, sock: socket.socket) -> Client:
        """A client on a connection that is made."""
        client = cls.__new__(cls)
        client.sock = sock
        client._pending = b""
        client.ended = client.was_reset = False
        return client

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Write; a gateway that has left is seen when reading."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def read(self, patience: float = PATIENCE) -> bytes:
        """Some bytes; b'' when the gateway has closed or reset the connection. In TLS, an end without a goodbye is no
        better than a reset."""
        self.sock.settimeout(patience)
        try:
            data = self.sock.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):
            self.was_reset = True
            data = b""
        if not data:
            self.ended = True
        return data

    def answer(self, method: bytes = b"POST") -> Answer | None:
        """The next answer, as far as it comes; None when the connection ends before any byte of it."""
        interim: list[bytes] = []
        data = self._pending
        while True:
            while b"\r\n\r\n" not in data:
                more = self.read()
                if not more:
                    assert not data, f"half a head: {data!r}"
                    self._pending = b""
                    return None
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            head += b"\r\n\r\n"
            if head[9:10] != b"1":
                break
            interim.append(head)
            data = rest
        _, headers = split_head(head)
        status = int(head[9:12])
        lengths, codings = values(headers, b"content-length"), values(headers, b"transfer-encoding")
        if method == b"HEAD" or status in (204, 304):
            self._pending = rest
            return Answer(head, b"", head, True, interim=interim)
        if codings:
            while (parts := unchunk(rest)) is None:
                more = self.read()
                if not more:
                    self._pending = b""
                    return Answer(head, rest, head + rest, False, interim=interim)
                rest += more
            body, trailers, self._pending = parts
            wire = head + rest[: len(rest) - len(self._pending)]
            return Answer(head, body, wire, True, trailers, interim)
        if lengths:
            size = int(lengths[0])
            while len(rest) < size:
                more = self.read()
                if not more:
                    self._pending = b""
                    return Answer(head, rest, head + rest, False, interim=interim)
                rest += more
            self._pending = rest[size:]
            return Answer(head, rest[:size], head + rest[:size], True, interim=interim)
        while more := self.read():
            rest += more
        self._pending = b""
        return Answer(head, rest, head + rest, not self.was_reset, interim=interim)

    def ask(self, data: bytes, method: bytes = b"POST") -> Answer:
        """Send and take the answer, which must come."""
        self.send(data)
        answer = self.answer(method)
        assert answer is not None, "the gateway closed the connection without an answer"
        return answer

    def closes(self, patience: float = PATIENCE) -> bool:
        """Whether the gateway closes this connection, sending nothing more before it does."""
        assert not self._pending, f"more than was asked for: {self._pending[:200]!r}"
        try:
            data = self.read(patience)
        except TimeoutError:
            return False
        assert not data, f"more than was asked for: {data[:200]!r}"
        return True

    def is_open(self) -> bool:
        """Whether the connection is usable right now: nothing came, and it was not closed. Ask it again after a
        request on it when it matters: a close may be on its way."""
        assert not self._pending
        if isinstance(self.sock, ssl.SSLSocket):  # readable is also what is no answer, such as a session's ticket
            self.sock.setblocking(False)
            try:
                self._pending = self.sock.recv(65536)
            except ssl.SSLWantReadError:
                return True
            return False
        readable, _, _ = select.select([self.sock], [], [], 0)
        return not readable

    def shut(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def request(
    target: bytes = b"/openai/v1/chat/completions",
    body: bytes = b'{"model":"m","stream":false}',
    *,
    method: bytes = b"POST",
    version: bytes = b"HTTP/1.1",
    headers: Iterable[bytes] = (),
    host: bytes | None = b"localhost",
    key: bytes | None = b"Authorization: Bearer " + KEY.encode(),
    length: bool = True,
    json: bool = True,
) -> bytes:
    """A request's bytes. headers are whole lines; those of host, key, type and length are put before them."""
    lines = [b"%b %b %b" % (method, target, version)]
    if host is not None:
        lines.append(b"Host: " + host)
    if key is not None:
        lines.append(key)
    if json:
        lines.append(b"Content-Type: application/json")
    if length and (body or method in (b"POST", b"PUT")):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


def answer(
    body: bytes = OK_BODY,
    *,
    status: bytes = b"200 OK",
    headers: Iterable[bytes] = (),
    kind: bytes = b"application/json",
) -> bytes:
    """An answer's bytes, framed by Content-Length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    """Pieces as chunks, and the end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def keyed(upstream: Upstream, certificate: Path | None = None) -> str:
    """The configuration that most tests share: one key, one upstream. certificate: speak HTTPS with what is in this
    folder."""
    config = KEYED.format(url=upstream.url, provider=PROVIDER_KEY, key=KEY)
    if certificate is None:
        return config
    tls = f'tls: {{cert_file: "{certificate}/server.pem", key_file: "{certificate}/server.key"}}'
    return config.replace('"127.0.0.1:0"', f'"127.0.0.1:0", {tls}')


class Gateway:
    """`fluxen serve` as a process of its own, with a folder of its own."""

    def __init__(self, folder: Path, config: str, env: Mapping[str, str], args: Iterable[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "data"
        self._config = folder / "fluxen.yaml"
        self._config.write_text(config)
        certificate = re.search(r'cert_file: "([^"]+)"', config)
        self.tls = client_of(Path(certificate[1])) if certificate else None
        """How to speak to it, if it speaks HTTPS."""
        self._env = {**env, "FLUXEN_DATA_DIR": str(self.data_dir)}
        self._args = tuple(args)
        self._stderr = folder / "stderr"
        self._stdout = folder / "stdout"
        self.stopped = False
        self._reader: Reader | None = None
        self.start()

    def start(self) -> None:
        """Start (again), and wait until it serves."""
        self.stopped = False
        with self._stderr.open("ab") as err, self._stdout.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fluxen_cli", "serve", "--config", str(self._config), *self._args],
                env=self._env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        self.port: int = until(self._port, "fluxen serve to say where it listens", 60)
        until(self._ready, "fluxen serve to be ready", 60)

    def _port(self) -> int | None:
        found = re.search(rb" serves on https?://[^\s]*:(\d+)\b", self._stdout.read_bytes())
        if found is None and self.process.poll() is not None:
            raise AssertionError(f"fluxen serve ended with {self.process.returncode}: {self.stderr()}")
        return int(found[1]) if found else None

    def _ready(self) -> bool:
        with self.connect() as client:
            found = client.ask(b"GET /-/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"GET")
            return found.status == 200

    def connect(self, receive_buffer: int | None = None) -> Client:
        return Client(self.port, receive_buffer, self.tls)

    def ask(self, data: bytes, method: bytes = b"POST") -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.ask(data, method)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def ledger(self) -> Path:
        return self.data_dir / "ledger"

    def children(self) -> dict[str, int]:
        """PIDs of the running children: 'worker 0', … in the order they were started, 'compactor', 'counter' and
        'watcher'. Only processes of this gateway."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        names = ["compactor", "counter", *(f"worker {number}" for number in range(len(listed) - 3)), "watcher"]
        return dict(zip(names, sorted(map(int, listed)), strict=False))

    def query(self, sql: str, params: Iterable[object] = ()) -> list[dict[str, Any]]:
        """Rows of a query over the ledger, by column."""
        if self._reader is None:
            self._reader = Reader(self.ledger, threads=1)
        result = self._reader.query(sql, tuple(params))
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows]

    def rows(self, at_least: int = 0) -> list[dict[str, Any]]:
        """All finished rows, the oldest first, once there are `at_least` so many."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = self.query("SELECT * FROM requests ORDER BY id")
            return len(found) >= at_least

        until(enough, f"{at_least} rows in the ledger")
        return found

    def row(self, of: Answer | str) -> dict[str, Any]:
        """The row of an answer (or of an id), which must come."""
        wanted = of if isinstance(of, str) else of.id
        found = until(lambda: self.query("SELECT * FROM requests WHERE id = ?", [wanted]), f"the row of {wanted}")
        assert len(found) == 1, f"{len(found)} rows of {wanted}"
        return dict(found[0])

    def stderr(self) -> str:
        return self._stderr.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, the oldest first."""
        lines = [json.loads(line) for line in self.stderr().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def stdout(self) -> str:
        return self._stdout.read_text()

    def journal(self) -> bytes:
        """Every byte under the data folder."""
        return b"".join(path.read_bytes() for path in sorted(self.data_dir.rglob("*")) if path.is_file())

    def stop(self, patience: float = 60) -> None:
        """SIGTERM; it must end with 0 and without a traceback."""
        if self.stopped:
            return
        self.stopped = True
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"fluxen serve did not end within {patience:g} s of SIGTERM: {self.stderr()}"
            ) from None
        errors = self.stderr()
        assert "Traceback" not in errors, errors
        assert "Error" not in errors, errors
        assert "restarting" not in errors, errors
        assert code == 0, f"exit {code}: {errors}"
        odd = [line for line in errors.splitlines() if not (line.startswith('{"ts":"') and line.endswith("}"))]
        assert not odd, f"no log lines: {odd[:5]}"

    def kill(self) -> None:
        """SIGKILL to the supervisor and its children, all of which we started."""
        self.stopped = True
        for pid in (self.process.pid, *self.children().values()) if self.process.poll() is None else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(30)
