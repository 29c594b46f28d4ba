"""The strict look into a request that is restricted by what it says: by its model. Pure.

What is forwarded are the client's bytes, and whoever reads them behind us may read them in his own way. So a body
passes only if there is one reading of what policy goes by: the encoding can be undone, and the bytes mean nothing
without that; it is one JSON object whose names are clear (fluxen.gateway.kin); the model in the path is that in the
body; nothing else (query, method) says otherwise. Forms are passed on as they come, and read in the same spirit
(fluxen.gateway.form).

A model counts as told only where Fluxen knows how an endpoint is told it. All else is refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from fluxen.gateway.admission import Fault, patterns
from fluxen.gateway.head import CONTENT_ENCODING, CONTENT_TYPE, RequestHead
from fluxen.gateway.kin import MORE_MODELS, NOT_JSON, Refused, ambiguous, folded, top_level
from fluxen.gateway.meter import decode_whole
from fluxen.gateway.peek import Peek
from fluxen.gateway.routes import Route
from fluxen.keys.client import ClientKey

# Endpoints (templates) whose top-level `model` is the model, and the only one.
# fmt: off
_BODY_TELLS: Final = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens",
    "/v1/embeddings", "/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/images/variations",
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/videos", "/v1/rerank",
    "/v1/fine_tuning/jobs", "/v1/messages", "/v1/messages/count_tokens", "/v1/complete",
    "/v1beta/openai/chat/completions", "/v1beta/openai/embeddings", "/v1beta/cachedContents", "/v1beta/interactions",
})
_FORMS: Final = frozenset({
    "/v1/images/edits", "/v1/images/variations", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/videos",
})
# fmt: on
_FREE_METHODS: Final = (b"GET", b"HEAD", b"OPTIONS", b"DELETE")
_METHOD_OVERRIDES: Final = (b"x-http-method-override:", b"x-http-method:", b"x-method-override:")
_QUERY_KIN: Final = frozenset({"model", "models", "modelid", "deployment", "engine", "method", "httpmethod", "req"})
_WRAPPERS: Final = frozenset({"requests", "batch", "inputconfig", "request", "generatecontentrequest"})
ITEMS: Final = 2000  # objects within a body that are looked into
_DEPTH: Final = 6  # of requests wrapped in each other

_JSON_TYPE: Final = re.compile(
    rb"(?:application/(?:[a-z0-9.-]+\+)?json|text/json)[ \t]*(?:;[ \t]*[a-z-]+=\"?[a-z0-9./_-]+\"?[ \t]*)*;?"
)
_CHARSET: Final = re.compile(rb"charset[^=;]*=[ \t]*\"?([^\";, \t]*)")
_DEPLOYMENT: Final = re.compile(rb"/(?:deployments|engines)/([^/:]+)(?=/)")
# Behind these words a path names a model, or somebody who has one of his own.
_NAMED_IN_PATH: Final = re.compile(
    rb"/(?:models?|tunedmodels|deployments|engines|endpoints|publishers|presets|agents|assistants|threads|workflows|apps"
    rb"|bots)(?=/)",
    re.IGNORECASE,
)
_LIKE_JSON: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*[{\[]")

_UNTOLD: Final = Fault(
    403, "model_not_allowed", "this key is for certain models, and which one this request is for can't be told"
)
_NOT_ALLOWED: Final = Fault(403, "model_not_allowed", "this key may not use this model")
_UNREADABLE: Final = Fault(400, "unreadable_body", "this key is restricted: the Content-Encoding can't be undone")


class Strict:
    """What one head lets its bodies say."""

    def __init__(self, key: ClientKey, route: Route, head: RequestHead, rest: bytes, query: bytes, limit: int) -> None:
        """rest: the path below a mount. limit: bytes of a decoded body. Raises Refused, whatever the body says."""
        self._allowed = None if key.models is None else patterns(key.models)
        self._route = route
        self._encoding = head.noted.get(CONTENT_ENCODING, b"identity").lower() or b"identity"
        self._content_type = head.noted.get(CONTENT_TYPE, b"")
        self._type = self._content_type.lower()
        self._limit = limit
        self._free = head.method in _FREE_METHODS
        self._path_model = self._named_in(rest)
        self._look_at(head, query)

    def judge(self, body: bytes) -> Peek | Fault:
        """What a whole body says, or why it is refused. Empty where there is none."""
        try:
            return self._read(body) if body else self._without_body()
        except Refused as refused:
            return refused.fault

    def form_type(self) -> bytes | Fault:
        """The Content-Type of a form that is passed on as it comes, or why what is passed on so is refused."""
        if not self._type.startswith(b"multipart/"):
            return NOT_JSON if self._route.json_body else _UNTOLD
        if self._route.endpoint not in _FORMS or self._path_model is not None:
            return NOT_JSON if self._route.json_body else _UNTOLD
        return self._content_type if self._encoding == b"identity" else _UNREADABLE

    def allow(self, model: str) -> None:
        """Raises Refused when this model is not for this key."""
        if not (model.isascii() and model.isprintable()) or len(model) > 512:
            raise Refused(_NOT_ALLOWED)
        names = (model, model.removeprefix("models/"))  # Google's way to say it
        if self._allowed is not None and not any(map(self._allowed.fullmatch, names)):
            raise Refused(_NOT_ALLOWED)

    def _named_in(self, rest: bytes) -> str | None:
        """The model that the path names."""
        named = len(_NAMED_IN_PATH.findall(rest))
        model = self._route.model
        if model is None and (deployed := _DEPLOYMENT.search(rest)) is not None:
            model = deployed[1].decode("latin-1")
        if model is not None:
            if named != 1 or ":" in model:
                raise Refused(_UNTOLD)
            if b"/tunedModels/" in rest:
                model = f"tunedModels/{model}"
            self.allow(model)
        elif not self._free and (named or self._route.endpoint not in _BODY_TELLS):
            raise Refused(_UNTOLD)
        return model

    def _look_at(self, head: RequestHead, query: bytes) -> None:
        """What else could say what is meant."""
        if any(line[:25].lower().startswith(_METHOD_OVERRIDES) for line in head.lines[1:]):
            raise ambiguous("no header may say that another method is meant")
        for pair in re.split(rb"[&;]", query[1:]):
            name = unquote_plus(unquote_plus(pair.partition(b"=")[0].decode("latin-1")))
            if folded(name) in _QUERY_KIN:
                raise ambiguous("the query must not say which model or method is meant")
        if any(charset not in (b"utf-8", b"utf8", b"us-ascii") for charset in _CHARSET.findall(self._type)):
            raise ambiguous("the body must be in UTF-8")

    def _without_body(self) -> Peek:
        if self._path_model is None and not self._free:
            raise Refused(_UNTOLD)
        return Peek(self._path_model)

    def _read(self, body: bytes) -> Peek:
        if self._type and _JSON_TYPE.fullmatch(self._type) is None:
            raise Refused(NOT_JSON)
        fields = top_level(self._decoded(body))
        inner = _Within()
        model = _text(fields.get("model"))
        if self._path_model is not None:
            if "model" in fields and not self._same(model):
                raise ambiguous("the model in the body is not that in the path")
            if not all(self._same(other) for name in fields for other in inner.models(name, fields[name])):
                raise ambiguous("a model in the body is not that in the path")
            model = self._path_model
        elif model is None or self._route.endpoint not in _BODY_TELLS:
            raise Refused(_UNTOLD)
        else:
            self.allow(model)
        for name in MORE_MODELS:
            for other in inner.listed(fields.get(name)):
                self.allow(other)
        for tool in inner.items(fields.get("tools")):  # image generators, advisors
            other_model = _text(inner.look(tool).get("model"))
            if other_model is not None:
                self.allow(other_model)
        stream = fields.get("stream")
        return Peek(model, {b"true": True, b"false": False}.get(b"" if stream is None else bytes(stream)))

    def _decoded(self, body: bytes) -> bytes:
        encoding = self._encoding
        if encoding == b"identity":
            return body
        try:
            text = decode_whole(body, encoding, self._limit)
        except ValueError:
            raise Refused(_UNREADABLE) from None
        if _LIKE_JSON.match(body) or (encoding == b"deflate" and _inflates_twice(body)):
            raise ambiguous("the body means something without its Content-Encoding, too")
        return text

    def _same(self, model: str | None) -> bool:
        return model is not None and model.removeprefix("models/") == self._path_model


def _text(raw: msgspec.Raw | None) -> str | None:
    """A JSON string; None for what is none."""
    return msgspec.json.decode(raw, type=str) if raw is not None and bytes(raw)[:1] == b'"' else None


class _Within:
    """A look below the top of one body, at as many objects as is sensible."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = ITEMS

    def look(self, item: bytes) -> dict[str, msgspec.Raw]:
        """The names of an object; none of what is none. Raises Refused."""
        if item[:1] != b"{":
            return {}
        self._left -= 1
        if self._left < 0:
            raise _too_many()
        return top_level(item)

    def items(self, raw: msgspec.Raw | None) -> list[bytes]:
        """The items of a JSON array; none for what is none."""
        whole = b"" if raw is None else bytes(raw)
        if whole[:1] != b"[":
            return []
        if whole.count(b",") >= ITEMS:
            _count(whole)
        return [bytes(item) for item in msgspec.json.decode(whole, type=list[msgspec.Raw])]

    def listed(self, raw: msgspec.Raw | None) -> Iterator[str]:
        """Models in a list of them, each alone or in an object. Raises Refused for anything else but null."""
        if raw is None or (whole := bytes(raw)) == b"null":
            return
        for item in self.items(raw) if whole[:1] == b"[" else [whole]:
            named = self.look(item).get("model") if item[:1] == b"{" else msgspec.Raw(item)
            model = _text(named)
            if model is None:
                raise Refused(_UNTOLD)
            yield model

    def models(self, name: str, raw: msgspec.Raw, depth: int = _DEPTH) -> Iterator[str | None]:
        """The models of the requests that are wrapped in this one."""
        if folded(name) not in _WRAPPERS:
            return
        if not depth:
            raise _too_many()
        for item in self.items(raw) if bytes(raw)[:1] == b"[" else [bytes(raw)]:
            for inner, value in self.look(item).items():
                if inner == "model":
                    yield _text(value)
                else:
                    yield from self.models(inner, value, depth - 1)


class _Item:
    """One of many."""


def _count(array: bytes) -> None:
    """Raises Refused when there are too many items, before there is one object for each."""
    left = ITEMS

    def see(_type: type, _value: object) -> _Item:
        nonlocal left
        left -= 1
        if left < 0:
            raise _too_many()
        return _Item()

    msgspec.json.Decoder(list[_Item], dec_hook=see).decode(array)


def _too_many() -> Refused:
    return ambiguous(f"more than {ITEMS} objects would have to be looked into")


def _inflates_twice(body: bytes) -> bool:
    """Whether "deflate" can be read both ways that servers read it: with zlib's wrapping and without."""
    for bits in (15, -15):
        try:
            zlib.decompressobj(bits).decompress(body, 1024)
        except zlib.error:
            return False
    return True
