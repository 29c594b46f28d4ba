"""What is to be estimated: texts and requests, from files, folders and stdin."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fluxen.errors import FluxenError

if TYPE_CHECKING:
    from fluxen.analyzer.texts import Prompt

MAX_FILE = 64 * 1024 * 1024
MAX_FILES = 100_000
STDIN = "-"
_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Request:
    """`name`: where it was found."""

    name: str
    prompt: Prompt


@dataclass(slots=True)
class Inputs:
    """The files that are meant, `size` bytes of them. Those that were `named` have to be readable; of those that lie in
    folders so many were `skipped`: no text, too large."""

    files: list[Path]
    stdin: bool
    named: set[Path] = field(default_factory=set)
    size: int = 0
    skipped: int = 0

    def read(self, advance: Callable[[int], None]) -> Iterator[Request]:
        """One after the other; `advance` hears how many bytes are done. Raises FluxenError for a file that was named
        and is no text."""
        if self.stdin:
            data = sys.stdin.buffer.read(MAX_FILE + 1)
            if not data.strip():
                raise FluxenError("there is nothing on stdin", hint="name files or folders, or pipe a prompt into it")
            yield from _requests("stdin", _text("stdin", data), lines=False)
        for path in self.files:
            try:
                data = _contents(path)
                found = list(_requests(str(path), _text(str(path), data), lines=path.suffix in _LINES))
            except OSError as error:
                if path in self.named:
                    raise FluxenError(f"can't read {path}: {error.strerror}") from None
                self.skipped += 1
                continue
            except FluxenError:
                if path in self.named:
                    raise
                self.skipped += 1
                continue
            yield from found
            advance(len(data))


def gather(paths: Iterable[str]) -> Inputs:
    """Folders with all that is in them, but for names that begin with a dot, and no links to folders. Raises
    FluxenError for what isn't there or can't be read."""
    named = list(paths) or [STDIN]
    if named == [STDIN] and sys.stdin.isatty():
        raise FluxenError("nothing to estimate", hint="name files or folders, or pipe a prompt into it")
    found = Inputs([], STDIN in named)
    for name in named:
        if name == STDIN:
            continue
        path = Path(name)
        if path.is_dir():
            _walk(path, found)
            continue
        try:
            found.size += path.stat().st_size
        except OSError as error:
            raise FluxenError(f"can't read {name}: {error.strerror}") from None
        found.files.append(path)
        found.named.add(path)
    if not found.files and not found.stdin:
        raise FluxenError("there is no file in it")
    return found


def _walk(folder: Path, found: Inputs) -> None:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            try:
                state = path.stat()
            except OSError:
                found.skipped += 1
                continue
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE or not state.st_size:
                found.skipped += 1
                continue
            found.files.append(path)
            found.size += state.st_size
            if len(found.files) > MAX_FILES:
                raise FluxenError(f"more than {MAX_FILES:,} files in {folder}", hint="name fewer of them at a time")


def _contents(path: Path) -> bytes:
    with path.open("rb") as file:  # or a pipe: <(git diff)
        return file.read(MAX_FILE + 1)


def _text(name: str, data: bytes) -> str:
    if len(data) > MAX_FILE:
        raise FluxenError(f"{name} is larger than {MAX_FILE // 1024 // 1024} MB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text[:8192]:
        raise FluxenError(f"{name} is no text", hint="a prompt as UTF-8, or the body of a request as JSON")
    return text


def _requests(name: str, text: str, *, lines: bool) -> Iterator[Request]:
    if lines:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield Request(f"{name}:{number}", _prompt(line))
    else:
        yield Request(name, _prompt(text))


def _prompt(text: str) -> Prompt:
    """A request's body, if it looks like one; else the text is the prompt."""
    from fluxen.analyzer.texts import as_prompt, read_request

    return read_request(text.encode("utf-8", "surrogatepass")) or as_prompt(text)
