"""Endpoint templates: an API path reduced to one of a fixed, known set of names.

A template is what the ledger and the metrics show. It never carries an id, a model name or anything else a client
made up: a segment is kept only when it is one of the words in the table, so the number of distinct templates is
bounded by the table whatever is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OTHER: Final = "{other}"


class Templates:
    """Paths of one API version against a table of templates such as `/files/{id}/content`."""

    __slots__ = ("_exact", "_longest", "_other", "_tree")

    def __init__(self, version: str, templates: Iterable[str]) -> None:
        self._other = f"{version}/{OTHER}"
        self._exact: dict[str, str] = {}
        self._tree: dict[str, _Node] = {}
        self._longest = 0
        for template in templates:
            self._add(version + template)
            self._exact.setdefault(template, version + template)  # the version left out: the same endpoint

    def _add(self, template: str) -> None:
        segments = template.split("/")[1:]
        self._longest = max(self._longest, len(segments))
        if not any(s.startswith("{") for s in segments):
            self._exact[template] = template
        nodes, node = self._tree, _Node()
        for segment in segments:
            key = "" if segment.startswith("{") else segment
            node = nodes.setdefault(key, _Node())
            nodes = node.children
        node.template = template

    def find(self, path: str) -> str:
        """The template of a path, or `<version>/{other}`."""
        return self._exact.get(path) or self._walk(path)

    def _walk(self, path: str) -> str:
        path = path.rstrip("/")
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        segments = path.split("/", self._longest + 1)[1:]
        nodes, node = self._tree, None
        for segment in segments:
            node = nodes.get(segment) or nodes.get("")
            if node is None or not segment:
                return self._other
            nodes = node.children
        return self._other if node is None or node.template is None else node.template


class _Node:
    __slots__ = ("children", "template")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.template: str | None = None
