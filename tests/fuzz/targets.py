"""What there is to fuzz, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fuzz.bodies import Bodies
from fuzz.documents import Documents
from fuzz.engine import Target
from fuzz.heads import Heads
from fuzz.stored import Stored
from fuzz.tokens import TokensTarget
from fuzz.wire import serving


def _plain(make: Callable[[Path], Target]) -> Callable[[Path], AbstractContextManager[Target]]:
    @contextmanager
    def made(folder: Path) -> Iterator[Target]:
        yield make(folder)

    return made


TARGETS: dict[str, Callable[[Path], AbstractContextManager[Target]]] = {
    "heads": _plain(Heads),
    "bodies": _plain(Bodies),
    "wire": serving,
    "yaml": _plain(Documents),
    "keys": _plain(Stored),
    "jwt": _plain(TokensTarget),
}
"""Each is given an empty folder."""
