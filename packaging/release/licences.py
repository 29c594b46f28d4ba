"""THIRD-PARTY-LICENSES.txt: the full text of the terms of everything that is inside the executable."""

from __future__ import annotations

from collections.abc import Iterable

from release.inventory import Part

_HEAD = """\
Fluxen's executable holds the following works of others, under the terms below.

"""
_RULE = "=" * 78


def write(parts: Iterable[Part]) -> bytes:
    own = [part for part in parts if not part.within]
    below = {part.name: [other for other in parts if other.within == part.name] for part in own}
    lines = [_HEAD]
    for part in own:
        lines.append(f"  {part.name} {part.version}: {part.licence}\n")
        lines += [f"      {other.name} {other.version}: {other.licence}\n" for other in below[part.name]]
    for part in own:
        lines.append(f"\n{_RULE}\n{part.name} {part.version}\n{part.licence}\n")
        if part.source:
            lines.append(f"Source: {part.source}\n")
        lines.append(f"{_RULE}\n")
        texts = dict.fromkeys(text for one in (part, *below[part.name]) for text in one.texts)
        lines += [f"\n--- {name}\n\n{_plain(text)}\n" for name, text in texts]
    return "".join(lines).encode()


def _plain(text: str) -> str:
    """Without form feeds and trailing blanks, and ending in one line end."""
    return "\n".join(line.rstrip() for line in text.replace("\f", "").splitlines()).strip("\n")
