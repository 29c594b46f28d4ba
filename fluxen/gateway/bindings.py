"""The addresses that the gateway listens on, and their sockets: one for each worker, kept open by the supervisor.

A socket belongs to its worker's number, not to the process: when a worker dies, its queue waits for the successor.
(Closing one of two SO_REUSEPORT listeners reset 21 of 40 queued connections.) When an address changes, the sockets of
the new one are there first. The old one is accepted from until nobody has come for a second in any worker; then all
let go of it.
"""

from __future__ import annotations

import errno
import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from fluxen.config.values import Address
from fluxen.errors import AddressInUseError, FluxenError

BACKLOG: Final = 4096
LONGEST: Final = 60.0
"""Seconds until an address that was given up is closed though somebody still comes by it."""
_EVERYWHERE: Final = ("0.0.0.0", "::")


class DoorPlan(NamedTuple):
    """What a worker is to do with one of its sockets."""

    number: int
    admin: bool
    """For Fluxen's own endpoints."""
    retiring: bool
    """Accept, and tell when nobody comes any more."""


@dataclass(slots=True)
class Binding:
    """One address, with a socket for each worker. number tells it from every other of this process."""

    number: int
    asked: Address
    admin: bool
    sockets: list[socket.socket]
    retired: float | None = None
    """Since when it is no longer wanted."""
    quiet: set[int] = field(default_factory=set)
    """Workers that nobody comes to by this address."""

    @property
    def address(self) -> tuple[str, int]:
        name = self.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    @property
    def plan(self) -> DoorPlan:
        return DoorPlan(self.number, self.admin, self.retired is not None)

    def covered_by(self, other: Binding) -> bool:
        """Whether who comes by this address would be let in by the other, too."""
        mine, its = self.address, other.address
        return mine[1] == its[1] and (mine == its or its[0] in _EVERYWHERE)


class Bindings:
    """All addresses: those in use, and those that are given up."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._numbers = itertools.count(1)
        self.all: list[Binding] = []

    def current(self, *, admin: bool = False) -> Binding | None:
        return next((one for one in self.all if one.retired is None and one.admin == admin), None)

    def prepare(self, asked: Address, *, admin: bool = False) -> Binding:
        """The binding for an address, open but not yet in use: one that is here, or a new one. Raises
        AddressInUseError, or FluxenError for any other reason."""
        current = self.current(admin=admin)
        if current is not None and current.asked == asked:
            return current
        wanted = _resolved(asked)
        for one in self.all:
            if one.admin == admin and (one.asked == asked or one.address == wanted):
                return one
        if any(one.admin != admin and one.address[1] == asked.port for one in self.all):
            raise FluxenError(
                f"{asked} is Fluxen's other address, or was a moment ago",
                hint="change the two one after the other, so that nobody is taken for a caller of the other one",
            )
        ours = [sock for one in self.all if one.address[1] == asked.port for sock in one.sockets]
        sockets = bind(asked.host, asked.port, self._workers, set(_inodes(ours)) if ours else None)
        return Binding(next(self._numbers), asked, admin, sockets)

    def use(self, binding: Binding | None, *, admin: bool = False) -> bool:
        """From now on this address (None: none) instead of the one before. Whether that is another."""
        current = self.current(admin=admin)
        if binding is current:
            return False
        if binding is not None:
            binding.retired = None
            binding.quiet.clear()
            if binding not in self.all:
                self.all.append(binding)
        if current is not None:
            current.retired = time.monotonic()
            current.quiet.clear()
        return True

    def discard(self, binding: Binding | None) -> None:
        """One that was prepared and won't be used."""
        if binding is not None and binding not in self.all:
            for sock in binding.sockets:
                sock.close()

    def heard(self, worker: int, number: int, quiet: bool) -> None:
        """A worker says whether anybody comes by an address that is given up."""
        for one in self.all:
            if one.number == number and quiet:
                one.quiet.add(worker)
            elif one.number == number:
                one.quiet.discard(worker)

    def restarted(self, worker: int) -> None:
        for one in self.all:
            one.quiet.discard(worker)

    def let_go(self) -> bool:
        """Close what was given up and is not needed any more. Whether there was any."""
        over = [one for one in self.all if self._over(one)]
        for one in over:
            self.all.remove(one)
            for sock in one.sockets:
                sock.close()
        return bool(over)

    def _over(self, one: Binding) -> bool:
        if one.retired is None:
            return False
        if len(one.quiet) == self._workers:
            return True
        successor = self.current(admin=one.admin)
        if successor is not None and one.covered_by(successor):
            return False  # its clients will be served by the same address for ever: nothing is gained by a reset
        return time.monotonic() - one.retired > LONGEST

    def retiring(self) -> bool:
        return any(one.retired is not None for one in self.all)

    def plans(self) -> tuple[DoorPlan, ...]:
        return tuple(one.plan for one in self.all)

    def of_worker(self, worker: int) -> list[tuple[DoorPlan, socket.socket]]:
        return [(one.plan, one.sockets[worker]) for one in self.all]

    def keep_only(self, worker: int | None) -> None:
        """In a forked child: the sockets of others are not its business."""
        for one in self.all:
            for number, sock in enumerate(one.sockets):
                if number != worker:
                    sock.close()

    def close(self) -> None:
        for one in self.all:
            for sock in one.sockets:
                sock.close()


def bind(host: str, port: int, count: int, mine: set[str] | None = None) -> list[socket.socket]:
    """`count` sockets listening on one address. mine: inodes of sockets of ours that have this port already; nobody
    else may have it. Raises AddressInUseError, or FluxenError for any other reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        if mine is None:
            with socket.socket(family, socket.SOCK_STREAM) as probe:  # alone: would another process share the port?
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                if port:
                    probe.listen(1)
        elif _listening(port) - mine:
            raise OSError(errno.EADDRINUSE, "in use")  # noqa: TRY301 - as if the system had said so
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            port = port or sock.getsockname()[1]
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            owner = _owner(port, mine or set())
            raise AddressInUseError(
                f"address {shown} is in use{f' by PID {owner}' if owner else ''}", hint="choose another: --port 8081"
            ) from None
        raise FluxenError(f"can't listen on {shown}: {error.strerror or error}") from None
    return sockets


def _resolved(asked: Address) -> tuple[str, int] | None:
    family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
    try:
        found = socket.getaddrinfo(asked.host, asked.port, family, socket.SOCK_STREAM)
    except OSError:
        return None
    return str(found[0][4][0]), int(found[0][4][1])


def _inodes(sockets: list[socket.socket]) -> Iterator[str]:
    for sock in sockets:
        try:
            yield str(Path(f"/proc/self/fd/{sock.fileno()}").readlink())
        except OSError:
            return


def _listening(port: int) -> set[str]:
    """What listens on a port, on whatever address, where /proc tells."""
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
    return inodes


def _owner(port: int, mine: set[str]) -> int | None:
    """The process that listens on a port, where /proc tells: the eldest of them, if it has handed the socket on."""
    inodes = _listening(port) - mine
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in inodes for link in folder.iterdir()):
                stat = (folder.parent / "stat").read_text()
                parents[int(folder.parent.name)] = int(stat.rpartition(")")[2].split()[1])
        except OSError:
            continue
    return next((pid for pid, parent in parents.items() if parent not in parents), None)
