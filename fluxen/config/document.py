"""A YAML file as plain values that remember where they stood.

PyYAML would build the values for us, but it keeps the last of two equal keys, expands a "billion laughs" without
end, recurses as deep as the file asks it to, and reads `no` as false and `1:30` as ninety (YAML 1.1). So only its
parser is used (a state machine that yields events), in two passes of our own:

1. events → nodes. An alias points at a node that is already complete, so the result can't contain itself.
2. nodes → dict, list and scalars, with the position of every key and value. Aliases are expanded here, under a
   bound on the number and the depth of what comes out.

Scalars follow the YAML 1.2 core schema: null, true, false, numbers; everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import yaml

MAX_BYTES = 1_048_576  # a configuration of one megabyte is a mistake, not a configuration
MAX_VALUES = 50_000  # after expansion of aliases
MAX_DEPTH = 32

Where: TypeAlias = tuple[str | int, ...]  # ('upstreams', 'openai', 'target_url'), ('api_keys', 'static', 0)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DECIMAL = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Where something stands in the file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the file, where in the structure, and what."""

    mark: Mark | None
    where: Where
    message: str

    def render(self, name: str) -> str:
        """`file:line:column: upstreams.openai.target_url: message`, the line every command prints."""
        place = f"{name}:{self.mark.line}:{self.mark.column}: " if self.mark else f"{name}: "
        return place + (f"{dotted(self.where)}: " if self.where else "") + self.message


def dotted(where: Where) -> str:
    """('api_keys', 'static', 0, 'id') → 'api_keys.static[0].id'."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(slots=True)
class Document:
    """What a file says (`value`), where (`keys`, `values`), and what is wrong with it as YAML (`problems`)."""

    value: object = None
    keys: dict[Where, Mark] = field(default_factory=dict)
    values: dict[Where, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, where: Where, *, key: bool = False) -> Mark | None:
        """The position of a value (or of its key), else of the nearest thing around it that the file does name."""
        if key and where in self.keys:
            return self.keys[where]
        while where and where not in self.values:
            where = where[:-1]
        return self.values.get(where)


@dataclass(slots=True)
class _Node:
    mark: Mark
    scalar: str | None = None  # as written
    quoted: bool = False
    tag: str | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    items: list[_Node] | None = None


class _Unreadable(Exception):
    """The text can't be read further; the problem is already recorded."""


def read_document(raw: bytes) -> Document:
    """Read one YAML document. Never raises: what is wrong stands in `problems`."""
    document = Document()
    try:
        root = _Composer(document).compose(_decode(raw, document))
        if root is not None:
            document.value = _Builder(document).build(root, (), 0)
    except _Unreadable:
        pass
    return document


def _decode(raw: bytes, document: Document) -> str:
    if len(raw) > MAX_BYTES:
        document.problems.append(Problem(None, (), f"larger than {MAX_BYTES} bytes"))
        raise _Unreadable
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        document.problems.append(Problem(_mark_after(before), (), "not UTF-8 text"))
        raise _Unreadable from None
    if found := _UNPRINTABLE.search(text):
        message = f"character U+{ord(found.group()):04X} may not stand in YAML"
        document.problems.append(Problem(_mark_after(text[: found.start()]), (), message))
        raise _Unreadable
    return text


def _mark_after(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


class _Composer:
    """Pass 1: events → nodes."""

    def __init__(self, document: Document) -> None:
        self._problems = document.problems
        self._anchors: dict[str, _Node] = {}

    def compose(self, text: str) -> _Node | None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
        root: _Node | None = None
        try:
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if root is not None:
                        self._stop(_mark(event), "a second document ('---') in one file")
                elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                    root = self._node(event, events, 0)
        except yaml.MarkedYAMLError as error:
            self._stop(*_explain(error))
        except yaml.YAMLError:
            self._stop(Mark(1, 1), "not valid YAML")
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        mark = _mark(event)
        if depth > MAX_DEPTH:
            self._stop(mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if (target := self._anchors.get(event.anchor or "")) is None:
                # Its name is not quoted: it may be a secret that begins with '*', and nobody put it in quotes
                self._stop(mark, "an alias that stands for nothing before it: quote text that begins with '*'")
            return target
        node = _Node(mark)
        if isinstance(event, yaml.ScalarEvent):
            node.scalar, node.tag = event.value, event.tag
            node.quoted = not event.implicit[0] and event.tag is None
        elif isinstance(event, yaml.SequenceStartEvent):
            node.tag, node.items = event.tag, []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                node.items.append(self._node(inner, events, depth + 1))
        elif isinstance(event, yaml.MappingStartEvent):
            node.tag, node.pairs = event.tag, []
            while not isinstance(inner := next(events), yaml.MappingEndEvent):
                key = self._node(inner, events, depth + 1)
                node.pairs.append((key, self._node(next(events), events, depth + 1)))
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _stop(self, mark: Mark | None, message: str) -> NoReturn:
        self._problems.append(Problem(mark, (), message))
        raise _Unreadable


def _mark(event: yaml.Event) -> Mark:
    at = event.start_mark
    return Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)


def _explain(error: yaml.MarkedYAMLError) -> tuple[Mark | None, str]:
    """libyaml's words, with the two mistakes everybody makes put plainly. None of them quotes the file's text."""
    at = error.problem_mark or error.context_mark
    message = error.problem or "not valid YAML"
    if "cannot start any token" in message:
        message = (
            "a character that can't stand here: indent with spaces, not tabs, and quote text with special characters"
        )
    elif "mapping values are not allowed" in message:
        message = "a second ': ' in one line, or wrong indentation: quote text that contains ': '"
    return (Mark(at.line + 1, at.column + 1) if at else None), message


class _Builder:
    """Pass 2: nodes → values and positions."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = MAX_VALUES

    def build(self, node: _Node, where: Where, depth: int) -> object:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            self._problem(node, where, "too much comes out of the aliases" if self._left < 0 else "nested too deep")
            raise _Unreadable
        self._document.values.setdefault(where, node.mark)
        if node.pairs is not None:
            return self._mapping(node, where, depth)
        if node.items is not None:
            self._check_tag(node, where, "seq")
            return [self.build(item, (*where, index), depth + 1) for index, item in enumerate(node.items)]
        return self._scalar(node, where)

    def _mapping(self, node: _Node, where: Where, depth: int) -> dict[str, object]:
        self._check_tag(node, where, "map")
        result: dict[str, object] = {}
        merged: list[_Node] = []
        for key, value in node.pairs or ():
            if key.scalar == "<<" and not key.quoted:
                merged.extend(value.items if value.items is not None else [value])
                continue
            if key.scalar is None:
                self._problem(key, where, "a name must be text")
                continue
            inner = (*where, key.scalar)
            if key.scalar in result:
                first = self._document.keys[inner]
                self._problem(key, inner, f"named twice (first in line {first.line})")
                continue
            self._document.keys[inner] = key.mark
            result[key.scalar] = self.build(value, inner, depth + 1)
        for source in merged:
            self._merge(source, result, where, depth)
        return result

    def _merge(self, source: _Node, result: dict[str, object], where: Where, depth: int) -> None:
        """`<<: *base`: what the mapping itself says wins, then the earlier of several bases."""
        if source.pairs is None:
            self._problem(source, where, "'<<' takes a mapping or a list of mappings")
            return
        scratch = Document(problems=self._document.problems)
        builder = _Builder(scratch)
        builder._left = self._left
        for name, value in builder._mapping(source, where, depth + 1).items():
            if name in result:
                continue
            result[name] = value
            inner = (*where, name)
            self._document.keys[inner] = scratch.keys[inner]
            prefix = len(inner)
            for table, into in ((scratch.keys, self._document.keys), (scratch.values, self._document.values)):
                into.update((path, mark) for path, mark in table.items() if path[:prefix] == inner)
        self._left = builder._left

    def _scalar(self, node: _Node, where: Where) -> object:
        text = node.scalar or ""
        if node.quoted or node.tag in ("!", _TAG + "str"):
            return text
        if node.tag is not None:
            self._check_tag(node, where, "")
        if text in _NULL:
            return None
        if text in _BOOLEAN:
            return _BOOLEAN[text]
        if _DECIMAL.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text.replace(".inf", "inf").replace(".nan", "nan") if "n" in text.lower() else text)
        return text

    def _check_tag(self, node: _Node, where: Where, allowed: str) -> None:
        if node.tag not in (None, "!", _TAG + allowed):
            self._problem(node, where, "YAML tags ('!…') have no meaning here")

    def _problem(self, node: _Node, where: Where, message: str) -> None:
        self._document.problems.append(Problem(node.mark, where, message))
