"""The watcher process: it notices that a file has changed, and fetches the keys of those who sign tokens.

Editors, secret managers and Kubernetes replace files rather than write into them, and links on the way rather than
files. So what is watched are the folders, those of every link on the way among them, and what counts is what `stat`
says at the end of the way. watchdog's events only say when to look; twice a second it is looked at anyway, because some
file systems (and a folder that was replaced as a whole) bring no event.

Whoever writes is given time to finish: nothing is said until it was quiet for QUIET seconds, at most LONGEST.
"""

from __future__ import annotations

import contextlib
import os
import select
import ssl
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from fluxen.gateway.channel import Channel
from fluxen.keys.jwks_refresh import KeySetFetcher

QUIET: Final = 0.05
LONGEST: Final = 0.3
LOOK: Final = 0.5
_LINKS: Final = 40  # on the way to a file: more are a loop
_WRITES: Final = frozenset({"created", "modified", "moved", "deleted", "closed"})

Entry = tuple[str, str]
"""A folder and a name in it."""


def way(path: Path) -> list[Entry]:
    """Every entry that decides what is found at a path: its own, and those of the links on the way to it."""
    entries: list[Entry] = []
    parts = list(reversed(path.absolute().parts[1:]))
    at = Path("/")
    links = 0
    while parts:
        part = parts.pop()
        if part == "..":
            at = at.parent
            continue
        here = at / part
        try:
            target = str(here.readlink())
        except OSError:
            if not parts:
                entries.append((str(at), part))
            at = here
            continue
        entries.append((str(at), part))
        links += 1
        if links > _LINKS:
            break
        if target.startswith("/"):
            at = Path("/")
        parts += [one for one in reversed(target.split("/")) if one not in ("", ".")]
    return entries


def signature(path: Path) -> tuple[int, ...]:
    """Changes whenever the file does; () while there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    if not stat.S_ISREG(found.st_mode):
        return (found.st_dev, found.st_ino)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Handler(FileSystemEventHandler):
    """In a thread of watchdog's: says that something happened to an entry that matters."""

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self.entries: frozenset[Entry] = frozenset()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _WRITES:
            return  # reading is an event, too
        for path in (event.src_path, event.dest_path):
            name = os.fsdecode(path)
            if name and os.path.split(name) in self.entries:
                try:
                    os.write(self._wake, b"x")
                except BlockingIOError:
                    pass  # it is awake


class Watcher:
    """Follows files. problem: is told once when the system brings no events; then looking has to do."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        self._problem = problem
        self.woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self.woken, False)
        self._handler = _Handler(wake)
        self._observer: Any = None
        self._folders: dict[str, tuple[tuple[int, int], Any]] = {}
        self._files: tuple[Path, ...] = ()
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._told = False

    def follow(self, files: Iterable[str]) -> bool:
        """These are the files from now on. Whether there are new ones among them: they may have changed since somebody
        read them."""
        self._files = tuple(Path(file) for file in files)
        new = any(file not in self._seen for file in self._files)
        self._seen = {file: self._seen[file] if file in self._seen else signature(file) for file in self._files}
        self._arrange()
        return new

    def changed(self) -> bool:
        """Whether any file is another than when this was asked before."""
        self._arrange()
        now = {file: signature(file) for file in self._files}
        changed, self._seen = now != self._seen, now
        return changed

    def drain(self) -> bool:
        """Whether events have come."""
        try:
            return bool(os.read(self.woken, 65_536))
        except BlockingIOError:
            return False

    def _arrange(self) -> None:
        """Have the folders watched that matter now: links lead elsewhere, and folders are replaced."""
        entries = frozenset(entry for file in self._files for entry in way(file))
        self._handler.entries = entries
        wanted: dict[str, tuple[int, int]] = {}
        for folder in {folder for folder, _ in entries}:
            try:
                found = Path(folder).stat()
            except OSError:
                continue  # its turn comes when it is there
            wanted[folder] = (found.st_dev, found.st_ino)
        for folder in [f for f, (inode, _) in self._folders.items() if wanted.get(f) != inode]:
            watch = self._folders.pop(folder)[1]
            if watch is not None:
                with contextlib.suppress(OSError, KeyError):  # it may be gone by itself
                    self._observer.unschedule(watch)
        for folder, inode in wanted.items():
            if folder not in self._folders:
                self._folders[folder] = (inode, self._events(folder))

    def _events(self, folder: str) -> Any:
        """Have events of a folder; None where there are none to be had, which is not tried again."""
        try:
            if self._observer is None:
                observer = Observer()
                observer.start()
                self._observer = observer
            return self._observer.schedule(self._handler, folder, recursive=False)
        except OSError as error:
            if not self._told:
                self._told = True
                self._problem(f"no events of changed files: {error}; they are looked at every {LOOK:g} s")
            return None


def run(channel: Channel, life: int, data_dir: Path, context: Callable[[], ssl.SSLContext]) -> None:
    """The body of the process, until `life` ends. context: how HTTPS is spoken."""
    watcher = Watcher(lambda text: channel.say(("problem", "watching", text)))
    poll = select.poll()
    for descriptor in (channel.fileno(), life, watcher.woken):
        poll.register(descriptor, select.POLLIN)
    said: SimpleQueue[str] = SimpleQueue()
    fetcher = KeySetFetcher(data_dir, context, lambda _, text: said.put(text))
    first = last = time.monotonic()  # of what is to be told: at the start, that something may have been missed
    waiting = True
    while True:
        pause = min(last + QUIET, first + LONGEST) - time.monotonic() if waiting else LOOK
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, pause) * 1000 + 1)}
        if life in ready:
            fetcher.close()
            return
        new = False
        if channel.fileno() in ready:
            for message, _ in channel.hear():
                match message:
                    case ("watch", files, urls):
                        new = watcher.follow(files)
                        fetcher.follow(urls)
                    case ("unknown_kid", url):
                        fetcher.ask(url)
            if channel.ended:
                return
        while not said.empty():
            channel.say(("problem", "key_set", said.get()))
        now = time.monotonic()
        if watcher.drain() or new or (not waiting and watcher.changed()):
            first, last, waiting = first if waiting else now, now, True
        if waiting and now >= min(last + QUIET, first + LONGEST):
            watcher.changed()
            waiting = False
            channel.say(("changed",))
        channel.flush()
