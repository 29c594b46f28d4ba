"""What /proc tells of a gateway's processes. All PIDs are of processes that the test itself started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from gateway.rig import until


def children(pid: int) -> list[int]:
    """Living children, the oldest first. A zombie is no living child."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return sorted(child for child in map(int, listed) if alive(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def rss(pid: int) -> int:
    """Resident memory in bytes, memory shared with the supervisor included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no memory: it has ended")


def descriptors(pid: int) -> list[str]:
    """What the process's file descriptors are."""
    return list(_descriptors(pid))


def _descriptors(pid: int) -> Iterator[str]:
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return
    for link in links:
        try:
            yield str(link.readlink())
        except OSError:  # closed meanwhile
            continue


def listeners() -> list[tuple[str, int, str]]:
    """(address, port, descriptor) of everything that listens by IPv4 on this machine."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            address, _, port = fields[1].partition(":")
            host = socket.inet_ntoa(bytes.fromhex(address)[::-1])
            found.append((host, int(port, 16), f"socket:[{fields[9]}]"))
    return found


def listening(*pids: int) -> set[str]:
    """The descriptors by which these processes listen."""
    return {name for pid in pids for name in descriptors(pid)} & {name for _, _, name in listeners()}


def maps(pid: int) -> str:
    """The files that the process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()


def roles(supervisor: int) -> tuple[list[int], int | None]:
    """(workers, compactor) among the children of a supervisor, by what they hold: a worker its journal segment."""
    workers, compactor = [], None
    for pid in children(supervisor):
        if any(name.endswith(".jnl") and "/journal/" in name for name in descriptors(pid)):
            workers.append(pid)
        elif "duckdb" in _maps(pid):
            compactor = pid
    return workers, compactor


def counters(supervisor: int) -> list[int]:
    """The process that counts tokens, once it is clear which one that is: no journal, no DuckDB, no eye on files."""
    workers, compactor = roles(supervisor)
    others = [pid for pid in children(supervisor) if pid not in (*workers, compactor)]
    found = [pid for pid in others if not any("inotify" in name for name in descriptors(pid))]
    return found if compactor is not None and len(found) == 1 else []


def _maps(pid: int) -> str:
    try:
        return maps(pid)
    except (FileNotFoundError, ProcessLookupError):
        return ""


def workers(supervisor: int, count: int = 1) -> list[int]:
    """PIDs of the `count` workers, once they all run."""
    return list(until(lambda: len(found := roles(supervisor)[0]) == count and found, f"{count} workers to run", 30))


def compactor(supervisor: int) -> int:
    """PID of the compactor, once it runs."""
    return int(until(lambda: roles(supervisor)[1], "the compactor to run", 30))


def start_time(pid: int) -> str:
    """Tells a process from a later one of the same PID."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
