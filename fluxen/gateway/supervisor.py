"""The supervisor: it owns the listening sockets and the processes, and serves nothing itself.

One SO_REUSEPORT socket per worker, bound here and kept open for the supervisor's whole life: when a worker dies its
queue waits for the successor. (Closing one of two such listeners reset 21 of 40 queued connections.) Workers and the
compactor are forked children, so that they share the memory of what is imported; the supervisor has no thread and no
event loop, which is what makes forking safe.

Every child holds the reading end of a pipe whose writing end is only here. However the supervisor ends, the pipe
closes, and the children finish what they do and end, too. It may itself be bound to the process that started it.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluxen.errors import AddressInUseError, FluxenError
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics

BACKLOG = 4096
_RESTART_FIRST = 0.1  # seconds until a dead child's successor, doubled each time it dies young
_RESTART_MOST = 5.0
_YOUNG = 10.0
_GRACE = 5.0  # seconds beyond shutdown_timeout_ms until a worker that does not end is killed
_COMPACTOR_GRACE = 20.0
_PARENT_SECONDS = 1.0  # between two looks at whether the parent still lives
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Signals as values to wait for: each is a byte in a pipe (macOS has no sigtimedwait)."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)

    def wait(self, limit: float | None) -> int | None:
        """The next signal, or None after `limit` seconds."""
        ready, _, _ = select.select([self._out], [], [], limit)
        return os.read(self._out, 1)[0] if ready else None

    def fork(self) -> int:
        """As os.fork. No signal of the child is taken for one of the parent: they wait until the two are apart."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.close(self._out)
            os.close(self._in)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid


@dataclass(slots=True)
class Child:
    """One process to be kept running. run is its body, called in the fork."""

    name: str
    run: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    delay: float = _RESTART_FIRST
    due: float = 0.0
    """When to start it again; 0 while it runs."""


class Supervisor:
    """Runs until SIGTERM or SIGINT, then ends its children in order: workers first, the compactor last.

    parent: end, too, when this process is no longer the parent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        workers: int,
        shutdown_seconds: float,
        log: Log,
        metrics: Metrics,
        parent: int | None = None,
    ) -> None:
        _raise_file_limit()
        self.sockets = bind(host, port, workers)
        self.address: tuple[str, int] = self.sockets[0].getsockname()[:2]
        self._shutdown_seconds = shutdown_seconds
        self._parent = parent
        self._life, self._held = os.pipe()
        self._workers: list[Child] = []
        self._compactor: Child | None = None
        self._log = log
        self._metrics = metrics
        self._signals = Signals()

    def run(
        self,
        worker: Callable[[int, socket.socket, int], None],
        compactor: Callable[[int], None],
        started: Callable[[], None],
    ) -> None:
        """worker(number, socket, life) and compactor(life) are the children's bodies; started() is called when the
        children are running."""
        life = self._life
        self._compactor = Child("compactor", lambda: compactor(life))
        self._workers = [
            Child(f"worker {number}", lambda number=number, sock=sock: worker(number, sock, life))  # type: ignore[misc]
            for number, sock in enumerate(self.sockets)
        ]
        for child in (self._compactor, *self._workers):
            self._start(child)
        started()
        while not self.orphaned and self._signals.wait(self._next_look()) not in _STOP:
            self._reap()
            for child in (self._compactor, *self._workers):
                if child.due and child.due <= time.monotonic():
                    self._start(child)
        self._stop()

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.pid = self._signals.fork()
        if child.pid:
            child.started, child.due = time.monotonic(), 0.0
            return
        code = 1
        try:
            os.close(self._held)
            for number, sock in enumerate(self.sockets):
                if child.name != f"worker {number}":
                    sock.close()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if child is self._compactor:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the pipe, after the workers
            child.run()
            code = 0
        except FluxenError as error:
            self._log.child(child.name).error("failed", reason=error.message, hint=error.hint)
        except BaseException as error:  # noqa: BLE001 - the traceback is the message, and a fork must never return
            self._log.child(child.name).bug("crashed", error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    @property
    def orphaned(self) -> bool:
        """Whether the process this one should end with is gone."""
        return self._parent is not None and os.getppid() != self._parent

    def _next_look(self) -> float | None:
        """Seconds until there is something to do without a signal."""
        assert self._compactor is not None
        due = [child.due - time.monotonic() for child in (self._compactor, *self._workers) if child.due]
        if self._parent is not None:
            due.append(_PARENT_SECONDS)
        return max(0.0, min(due)) if due else None

    def _reap(self) -> None:
        """Note the dead, and when their successors are due."""
        assert self._compactor is not None
        children = {child.pid: child for child in (self._compactor, *self._workers)}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = children.get(pid)
            if child is None:
                continue
            now = time.monotonic()
            child.delay = min(child.delay * 2, _RESTART_MOST) if now - child.started < _YOUNG else _RESTART_FIRST
            child.pid, child.due = 0, now + child.delay
            self._metrics.supervisor.add("worker_restarts")
            self._log.warning(
                "process_ended", child=child.name, how=_how(status), restarting_seconds=round(child.delay, 1)
            )

    def _stop(self) -> None:
        for sock in self.sockets:
            sock.close()
        for child in self._workers:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        self._await(self._workers, self._shutdown_seconds + _GRACE)
        os.close(self._held)
        assert self._compactor is not None
        self._await([self._compactor], _COMPACTOR_GRACE)

    def _await(self, children: list[Child], limit: float) -> None:
        """Wait for these to end, and kill what has not ended in time, or when told to stop once more."""
        deadline = time.monotonic() + limit
        running = {child.pid for child in children if child.pid}
        while running:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                running.discard(pid)
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                deadline = float("inf")
            if self._signals.wait(min(max(left, 0.05), 1.0)) in _STOP and left > 0:
                deadline = time.monotonic()


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets listening on one address. Raises AddressInUseError, or FluxenError for any other reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # alone: would another process share the port?
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            if port:
                probe.listen(1)
        sockets: list[socket.socket] = []
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            port = port or sock.getsockname()[1]
            sock.listen(BACKLOG)
            sockets.append(sock)
    except OSError as error:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            owner = _owner(port)
            raise AddressInUseError(
                f"address {shown} is in use{f' by PID {owner}' if owner else ''}", hint="choose another: --port 8081"
            ) from None
        raise FluxenError(f"can't listen on {shown}: {error.strerror or error}") from None
    return sockets


def _owner(port: int) -> int | None:
    """The process that listens on a port, where /proc tells: the eldest of them, if it has handed the socket on."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in inodes for link in folder.iterdir()):
                stat = (folder.parent / "stat").read_text()
                parents[int(folder.parent.name)] = int(stat.rpartition(")")[2].split()[1])
        except OSError:
            continue
    return next((pid for pid, parent in parents.items() if parent not in parents), None)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.waitstatus_to_exitcode(status)}"


def _raise_file_limit() -> None:
    """Each request in flight needs two descriptors: take as many as we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # a system that names no real limit (macOS)
