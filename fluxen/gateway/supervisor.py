"""The supervisor: it owns the processes, and serves nothing itself.

Workers, the compactor, the counter and the watcher are forked children, so that they share the memory of what is
imported; the supervisor has no thread and no event loop, which is what makes forking safe. With those it talks to it
has a channel; what comes and goes there is the conductor's business.

Every child holds the reading end of a pipe whose writing end is only here. However the supervisor ends, the pipe
closes, and the children finish what they do and end, too. It may itself be bound to the process that started it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxen.errors import FluxenError
from fluxen.gateway.channel import Channel
from fluxen.gateway.conductor import Conductor
from fluxen.telemetry.libraries import follow
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics

_RESTART_FIRST = 0.1  # seconds until a dead child's successor, doubled each time it dies young
_RESTART_MOST = 5.0
_YOUNG = 10.0
_GRACE = 5.0  # seconds beyond shutdown_timeout_ms until a worker that does not end is killed
_OTHERS_GRACE = 20.0
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

    def fileno(self) -> int:
        return self._out

    def read(self) -> bytes:
        """Those that have come; there must be one."""
        return os.read(self._out, 64)

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
    """One process to be kept running. run is its body, called in the fork with its end of the channel, and the reading
    end of the pipe that tells it to end. worker: its number, if it is one."""

    name: str
    run: Callable[[Channel, int], None]
    worker: int | None = None
    talks: bool = True
    """Whether it has a channel."""
    counts: bool = False
    """Whether it is the counter."""
    pid: int = 0
    started: float = 0.0
    delay: float = _RESTART_FIRST
    due: float = 0.0
    """When to start it again; 0 while it runs."""
    channel: Channel | None = None


class Supervisor:
    """Runs until SIGTERM or SIGINT, then ends its children in order: workers first, the others last.

    parent: end, too, when this process is no longer the parent.
    """

    def __init__(self, conductor: Conductor, log: Log, metrics: Metrics, parent: int | None = None) -> None:
        self._conductor = conductor
        self._parent = parent
        self._life, self._held = os.pipe()
        self._children: list[Child] = []
        self._log = log
        self._metrics = metrics
        self._signals = Signals()

    def run(self, children: Sequence[Child], started: Callable[[], None]) -> None:
        """started() is called when all the children are running."""
        self._children = list(children)
        for child in self._children:
            self._start(child)
        started()
        while not self.orphaned:
            told = self._turn()
            if any(number in _STOP for number in told):
                break
            if signal.SIGHUP in told:
                self._conductor.reload(again=True)
            self._reap()
            for child in self._children:
                if child.due and child.due <= time.monotonic():
                    self._start(child)
        self._stop()

    def _turn(self) -> bytes:
        """Wait for something to do, and listen to the children; the signals that came."""
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        talking = {child.channel.fileno(): child for child in self._children if child.channel is not None}
        for descriptor, child in talking.items():
            waiting = child.channel is not None and child.channel.waiting
            poll.register(descriptor, select.POLLIN | (select.POLLOUT if waiting else 0))
        limit = self._next_look()
        ready = poll.poll(None if limit is None else limit * 1000 + 1)
        for descriptor, _ in ready:
            if (talker := talking.get(descriptor)) is not None:
                self._listen(talker)
        return self._signals.read() if any(descriptor == self._signals.fileno() for descriptor, _ in ready) else b""

    def _listen(self, child: Child) -> None:
        channel = child.channel
        if channel is None:
            return
        channel.flush()
        for message, _ in channel.hear():
            self._conductor.heard(child.worker, message)
        if channel.ended:  # its end is noted when it is reaped
            channel.close()
            child.channel = None

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        upper, lower = Channel.pair()
        if child.talks:
            child.channel = upper
            self._conductor.begins(child.worker, upper)
        child.pid = self._signals.fork()
        if child.pid:
            child.started, child.due = time.monotonic(), 0.0
            lower.close()
            if not child.talks:
                upper.close()
            if child.worker is not None:
                self._conductor.began(child.worker, child.pid)
            return
        code = 1
        try:
            os.close(self._held)
            upper.close()
            for other in self._children:
                if other.channel is not None:
                    other.channel.close()
            self._conductor.in_child(child.worker, counter=child.counts)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if child.worker is None:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the pipe, after the workers
            follow(self._log.child(child.name))
            child.run(lower, self._life)
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
        """Seconds until there is something to do without a signal or a message."""
        due = [child.due - time.monotonic() for child in self._children if child.due]
        if self._parent is not None:
            due.append(_PARENT_SECONDS)
        if (look := self._conductor.look()) is not None:
            due.append(look)
        return max(0.0, min(due)) if due else None

    def _reap(self) -> None:
        """Note the dead, and when their successors are due."""
        children = {child.pid: child for child in self._children}
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
            self._listen(child)  # its last words
            if child.channel is not None:
                child.channel.close()
                child.channel = None
            if child.talks:
                self._conductor.ended(child.worker)
            now = time.monotonic()
            child.delay = min(child.delay * 2, _RESTART_MOST) if now - child.started < _YOUNG else _RESTART_FIRST
            child.pid, child.due = 0, now + child.delay
            if child.worker is not None:
                self._metrics.supervisor.add("worker_restarts")
            self._log.warning(
                "process_ended", child=child.name, how=_how(status), restarting_seconds=round(child.delay, 1)
            )

    def _stop(self) -> None:
        self._log.event("stopping")
        self._conductor.bindings.close()
        self._conductor.lines.close()
        workers = [child for child in self._children if child.worker is not None]
        for child in workers:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        self._await(workers, self._conductor.snapshot.config.server.shutdown_timeout_ms / 1000 + _GRACE)
        os.close(self._held)
        self._await([child for child in self._children if child.worker is None], _OTHERS_GRACE)
        self._conductor.close()
        self._log.event("stopped")
        self._log.close()

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


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.waitstatus_to_exitcode(status)}"


def raise_file_limit() -> None:
    """Each request in flight needs two descriptors: take as many as we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # a system that names no real limit (macOS)
