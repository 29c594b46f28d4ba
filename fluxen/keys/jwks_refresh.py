"""Keeps fetched key sets fresh: when each is due, the thread that fetches it, and the first fetch before a start.

Not for a worker: threads, and sockets that block.
"""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from fluxen.errors import FluxenError
from fluxen.keys.jwks_documents import cache_path, fetched_at
from fluxen.keys.jwks_fetch import FetchError, fetch
from fluxen.keys.private import write_whole

SECONDS: Final = 10.0
FIRST_SECONDS: Final = 5.0
SHORTEST, USUAL, LONGEST = 60.0, 600.0, 86_400.0
"""Between two fetches, in seconds: whatever the server says, if it says nothing, whatever it says."""
_ASKED: Final = 30.0  # between two fetches of one URL that tokens with unknown keys ask for
_RETRY: Final = 30.0

Context = Callable[[], ssl.SSLContext]
Say = Callable[[str, str], None]
"""say(url, what is wrong with it)."""


def refresh(data_dir: Path, url: str, context: ssl.SSLContext, seconds: float) -> float | None:
    """Fetch a key set and keep it, if there is a key in it that can be used; what was kept stays otherwise. Returns how
    long it may be used, in seconds, as the server says. Raises FetchError, also when it can't be written."""
    from fluxen.keys.jwks import LARGEST, KeySet, KeySetError

    document, max_age = fetch(url, context, seconds, LARGEST)
    try:
        KeySet.parse(document)
    except KeySetError as error:
        raise FetchError(f"{url}: what it answers {error}") from None
    path = cache_path(data_dir, url)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == document:
            os.utime(path)  # as fresh as now
        else:
            write_whole(path, document)
    except OSError as error:
        raise FetchError(f"can't write {path}: {error.strerror}", hint="check who owns data_dir") from None
    return max_age


class Schedule:
    """When which URL is due. Pure: times in seconds since 1970 come from the caller."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def follow(self, urls: Collection[str], fetched: Mapping[str, float], now: float) -> None:
        """These are the URLs from now on. fetched: when, of those that ever were."""
        for url in [url for url in self._due if url not in urls]:
            for known in (self._due, self._begun, self._failures):
                known.pop(url, None)
        for url in urls:
            if url not in self._due:
                self._due[url] = min(fetched.get(url, now - USUAL), now) + USUAL

    def ask(self, url: str, now: float) -> None:
        """A token names a key that isn't in the set of this URL. Forged ones do so, too: it is not always obeyed."""
        if url in self._due:
            self._due[url] = min(self._due[url], max(now, self._begun.get(url, 0.0) + _ASKED))

    def next(self) -> float | None:
        return min(self._due.values(), default=None)

    def begin(self, now: float) -> str | None:
        """A URL that is due; it is being fetched from now on."""
        url = next((url for url, due in self._due.items() if due <= now), None)
        if url is not None:
            self._begun[url] = now
            self._due[url] = now + LONGEST
        return url

    def fetched(self, url: str, max_age: float | None, now: float) -> None:
        if url in self._due:
            self._failures[url] = 0
            self._due[url] = now + min(LONGEST, max(SHORTEST, USUAL if max_age is None else max_age))

    def failed(self, url: str, now: float) -> None:
        """It is tried again soon, then ever later."""
        if url in self._due:
            count = self._failures[url] = self._failures.get(url, 0) + 1
            self._due[url] = now + min(USUAL, _RETRY * 2 ** min(count - 1, 10))


class KeySetFetcher:
    """A thread that fetches what is due, one after the other, and keeps it in the data folder. What comes of it shows
    there: whoever watches that folder needs no other sign.

    context: how HTTPS is spoken, asked for at each fetch. say: is told a problem once, from the thread.
    """

    def __init__(self, data_dir: Path, context: Context, say: Say) -> None:
        self._data_dir = data_dir
        self._context = context
        self._say = say
        self._schedule = Schedule()
        self._told: dict[str, str] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def follow(self, urls: tuple[str, ...]) -> None:
        """The configuration names these now."""
        with self._changed:
            self._schedule.follow(urls, fetched_at(self._data_dir, urls), time.time())
            if urls and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="key sets", daemon=True)
                self._thread.start()
            self._changed.notify()

    def ask(self, url: str) -> None:
        """A token names a key that isn't in this set."""
        with self._changed:
            self._schedule.ask(url, time.time())
            self._changed.notify()

    def close(self) -> None:
        """Fetches nothing more. Does not wait for what is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (url := self._schedule.begin(time.time())) is None:
                    due = self._schedule.next()
                    self._changed.wait(None if due is None else min(60.0, max(0.0, due - time.time())))
                if self._closed or url is None:
                    return
            try:
                max_age = refresh(self._data_dir, url, self._context(), SECONDS)
            except (FluxenError, RuntimeError) as error:  # RuntimeError: the system has no thread to spare
                if self._told.get(url) != str(error):
                    self._told[url] = str(error)
                    self._say(url, str(error))
                with self._changed:
                    self._schedule.failed(url, time.time())
            else:
                self._told.pop(url, None)
                with self._changed:
                    self._schedule.fetched(url, max_age, time.time())


def fetch_missing(data_dir: Path, urls: tuple[str, ...], context: Context, seconds: float = FIRST_SECONDS) -> list[str]:
    """Fetch those that never were, all at once, and wait for it no longer than that. Returns what went wrong.

    Done by a child process: the caller stays without threads, and nothing is left running when the time is up.
    """
    known = fetched_at(data_dir, urls)
    wanted = [url for url in urls if url not in known]
    if not wanted:
        return []
    mine, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(mine)
            _fetch_all(data_dir, wanted, context, seconds, theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    lines = bytearray()
    deadline = time.monotonic() + seconds + 1.0  # it is given up in the child, which can say why
    while select.select([mine], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(mine, 65_536)
        if not piece:
            break
        lines += piece
    os.close(mine)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told: dict[int, str] = dict(json.loads(line) for line in lines.splitlines(keepends=True) if line[-1:] == b"\n")
    return [said for at, url in enumerate(wanted) if (said := told.get(at, f"{url}: no answer within {seconds:g} s"))]


def _fetch_all(data_dir: Path, urls: list[str], context: Context, seconds: float, pipe: int) -> None:
    """Writes a line for each: [which, what went wrong]."""

    def one(at: int, url: str) -> None:
        problem = ""
        try:
            refresh(data_dir, url, context(), seconds)
        except (FluxenError, RuntimeError) as error:
            problem = str(error)[:500]  # as JSON still less than a pipe takes at once
        os.write(pipe, json.dumps([at, problem]).encode() + b"\n")

    threads = [threading.Thread(target=one, args=each, daemon=True) for each in enumerate(urls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 0.5)
