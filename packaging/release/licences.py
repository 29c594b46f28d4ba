"""THIRD-PARTY-LICENSES.txt: the full text of the terms of everything that is inside the executable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from release.inventory import Part

_HEAD = """\
Fluxen's executable holds the following works of others, under the terms below.

"""
_RULE = "=" * 78
_TITLE = re.compile(r"^--- (.+)\n", re.MULTILINE)


def write(parts: Iterable[Part]) -> bytes:
    own = [part for part in parts if not part.within]
    below = {part.name: [other for other in parts if other.within == part.name] for part in own}
    lines = [_HEAD]
    for part in own:
        lines.append(f"  {part.name} {part.version}: {part.licence}\n")
        lines += [f"      {other.name} {other.version}: {other.licence}\n" for other in below[part.name]]
    told: dict[str, str] = {}  # texts by where they stand
    for part in own:
        lines.append(f"\n{_RULE}\n{part.name} {part.version}\n{part.licence}\n")
        if part.source:
            lines.append(f"Source: {part.source}\n")
        lines.append(f"{_RULE}\n")
        texts = dict.fromkeys(text for one in (part, *below[part.name]) for text in one.texts)
        for name, text in texts:
            for title, plain in _sections(name, _plain(text)):
                place = told.setdefault(" ".join(plain.split()), f"{part.name}: {title}")
                said = plain if place == f"{part.name}: {title}" else f"The words of {place}, above."
                lines.append(f"\n--- {title}\n\n{said}\n")
    return "".join(lines).encode()


def _sections(name: str, text: str) -> Iterator[tuple[str, str]]:
    """A text by its titles, where collect.py has put several into one file."""
    pieces = _TITLE.split(text)
    if pieces[0].strip():
        yield name, pieces[0].strip("\n")
    for title, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        yield title, piece.strip("\n")


def _plain(text: str) -> str:
    """Without form feeds and trailing blanks, and ending in one line end."""
    return "\n".join(line.rstrip() for line in text.replace("\f", "").splitlines()).strip("\n")
