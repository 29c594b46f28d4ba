"""The client keys of a configuration, for commands: also where the rest of the file would not do.

An administrator's shell has no provider keys, and half of the file may be in work: to revoke a key must be possible
all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from fluxen.config.access import StaticKey
from fluxen.config.document import MAX_BYTES, Document, Where, read_document
from fluxen.config.load import in_words
from fluxen.config.model import Upstreams
from fluxen.config.paths import unreadable
from fluxen.config.values import Sources
from fluxen.errors import ConfigError

_NOBODYS = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class WrittenKey:
    """A key under api_keys.static. where: file:line:column. unread: why its value is not known here; then the one in
    `key` is nobody's."""

    key: StaticKey
    where: str
    unread: str | None = None


@dataclass(slots=True)
class Written:
    """What the file says of keys. upstreams: their names; empty when it names none. problems: lines about keys that
    can't be told."""

    path: Path | None = None
    keys: dict[str, WrittenKey] = field(default_factory=dict)
    upstreams: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


def written_keys(path: Path | None, env: Mapping[str, str]) -> Written:
    """The keys of that file. Raises ConfigError when it is no YAML, so that nobody can tell which ids it uses."""
    if path is None:
        return Written()
    try:
        with path.open("rb") as file:
            document = read_document(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise unreadable(path, error) from error
    top = document.value if isinstance(document.value, dict) else {}
    if document.value is None and document.problems:
        lines = tuple(problem.render(str(path)) for problem in document.problems)
        raise ConfigError(f"{path} can't be read, so its client keys are not known", lines)
    upstreams = top.get("upstreams")
    names = tuple(upstreams) if isinstance(upstreams, dict) else ()
    written = Written(path, upstreams=tuple(name for name in names if name not in Upstreams.model_fields))
    section = top.get("api_keys")
    static = section.get("static") if isinstance(section, dict) else None
    sources = Sources(env, path.parent.absolute())
    for index, entry in enumerate(static if isinstance(static, list) else ()):
        _take(written, entry, _position(document, path, index), sources)
    return written


def _take(written: Written, entry: object, where: str, sources: Sources) -> None:
    unread = None
    try:
        key = StaticKey.model_validate(entry, context=sources)
    except ValidationError as error:
        unread = _said(error)
        proof = {"key", "hash"}
        only_the_key = {str(one["loc"][0]) for one in error.errors() if one["loc"]} <= {*proof, "id"}
        if not (isinstance(entry, dict) and entry.get("id") and only_the_key):
            written.problems.append(f"{where}: {unread}")
            return
        rest = {name: value for name, value in entry.items() if name not in proof}
        try:
            key = StaticKey.model_validate({**rest, "hash": _NOBODYS}, context=sources)
        except ValidationError as wrong:
            written.problems.append(f"{where}: {_said(wrong)}")
            return
    if unread is None and not key.digest:
        written.problems.append(f"{where}: neither key nor hash")
        return
    written.keys.setdefault(key.id, WrittenKey(key, where, unread))


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {in_words(first)}"


def _position(document: Document, path: Path, index: int) -> str:
    where: Where = ("api_keys", "static", index)
    mark = document.mark(where)
    return f"{path}:{mark.line}:{mark.column}" if mark else str(path)
