"""Which upstream a request goes to, and by which path. Pure: bytes and names in, a Route out.

Two kinds of route. A **mount** `/<upstream>/…` is a tunnel: the rest of the path goes to that upstream as it is. A
**unified** route (`/v1/chat/completions` …) is one of the providers' own paths: its dialect is read from the path
(from a header where providers share one), the upstream among those that speak it from the model.

Precedence: the longest mount on segment borders, then unified. `/-/` is Fluxen's own and never comes here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fluxen.gateway.credentials import Credential
from fluxen.gateway.head import ANTHROPIC_VERSION
from fluxen.gateway.pool import Origin
from fluxen.gateway.target import has_encoded_slash, under, unsafe
from fluxen.providers.catalogue import Provider, provider_for_model
from fluxen.providers.dialect import Dialect, spoken_at

USUAL: Final = ("openai", "anthropic", "gemini")
"""The providers that are there when nobody named any."""

HOME: Final = {name: name for name in (*USUAL, "bedrock", "cohere", "ollama")}
"""The provider that a dialect comes from: it gets the requests whose model tells nothing."""

_VERSION = re.compile(rb"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/|$)")
_ANTHROPIC = re.compile(rb"/v1/(?:messages|complete)(?=/|$)")
_GEMINI = re.compile(rb"(?:/upload)?/v1(?:alpha|beta)(?=/|$)|(?:/v1)?/(?:models|tunedModels)/[^/]+:[A-Za-z]+$")
_UNVERSIONED_GEMINI = re.compile(rb"/(?:models|tunedModels)/[^/]+:[A-Za-z]+$")  # as LiteLLM calls a base of one's own
_SHARED = re.compile(rb"/v1/(?:models|files|batches)(?=/|$)")
_OPENAI = re.compile(
    rb"/v1/(?:chat|responses|completions|embeddings|images|audio|moderations|uploads|vector_stores|fine_tuning|assistants"
    rb"|threads|conversations|containers|evals|videos|rerank)(?=/|$)"
)
_JSON_BODY = re.compile(
    rb"/v1/(?:chat/completions|responses|completions|embeddings|messages|moderations|images/[a-z]+)"
)


_AS_THEY_ARE = ("bedrock", "cohere", "ollama")  # dialects whose paths have no version, or bring their own
_FORMS = ("/v1/images/", "/v1/audio/")  # endpoints that take JSON or a form


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream, ready for use: everything that a request needs of it."""

    name: str
    provider: str
    """Its name in the catalogue, '' for an unknown one. Decides the price."""
    dialect: Dialect
    also: tuple[str, ...]
    """Other dialects that it speaks at addresses of their own."""
    price_lists: tuple[tuple[bytes, str], ...]
    """Whose prices those requests have whose path begins so; other than those of `provider`."""
    origin: Origin
    host: bytes
    base: bytes
    """Path of the target URL, without a slash at its end."""
    version: bytes
    native: tuple[bytes, ...]
    """Paths beside that version of the API, such as Ollama's own `/api`."""
    repairs: bool
    """Whether the version segment of a mounted path is repaired: where it is known to be OpenAI's API."""
    mount: bytes
    credential_header: bytes
    credentials: tuple[Credential, ...]
    """In the order they are tried. None: the client's goes on in open mode, none otherwise."""
    models: re.Pattern[str] | None
    connect_seconds: float
    first_byte_ticks: int
    idle_ticks: int
    exact: bool
    """Whether it is asked for the usage of streams whose client does not ask, on unified routes."""

    def path(self, rest: bytes, unified: bool) -> bytes:
        """The upstream's path of a request path from which the mount is taken off."""
        version = self.version
        if self.dialect.name == "gemini" and _UNVERSIONED_GEMINI.match(rest) and not _VERSION.search(self.base):
            return self.base + version + rest
        if not (self.repairs or unified) or self.dialect.name != "openai":
            return self.base + rest
        has_version = _VERSION.match(rest)
        if not version:
            return self.base + (rest[has_version.end() :] if unified and has_version else rest)
        if self.base.endswith(version):
            return self.base + (rest[len(version) :] if under(rest, version) else rest)
        if self.base and under(rest, self.base):  # an SDK that brings the whole path itself, as Groq's does
            rest = rest[len(self.base) :]
        # Hugging Face names the host of a model before the version
        whole = _VERSION.search(rest) is not None or any(under(rest, path) for path in self.native)
        return self.base + (rest if whole else version + rest)


@dataclass(frozen=True, slots=True)
class Route:
    """What a path means. `upstream` is None on unified routes: the model decides."""

    kind: str
    """mount | unified, as in the ledger."""
    upstream: Upstream | None
    path: bytes
    """Mount: the upstream's path. Unified: the request path."""
    dialect: Dialect
    """What the path speaks: the shape of errors, and of the usage in the answer."""
    home: Dialect
    """Whose API the path is a part of: Gemini serves OpenAI's protocol under /v1beta/openai, too."""
    endpoint: str
    model: str | None
    streams: bool
    json_body: bool
    """Whether a body here is JSON, whatever its Content-Type says (curl -d calls it a form)."""


class NoRoute(Exception):
    """No upstream for this request: (status, code, message) are for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Router:
    """The routes of one snapshot. Answers are remembered (bounded): a path costs one dict hit the second time."""

    REMEMBERED = 4096

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        dialects: Mapping[str, Dialect],
        catalogue: Mapping[str, Provider],
        tells: bool,
    ) -> None:
        """tells: whether a caller without a route may be told which there are."""
        self._tells = tells
        self.upstreams = tuple(upstreams)
        self._dialects = dialects
        self._catalogue = catalogue
        self._mounts = sorted(upstreams, key=lambda upstream: -len(upstream.mount))
        self._routes: dict[tuple[bytes, str], Route] = {}
        self._chosen: dict[tuple[str, str | None], Upstream] = {}

    def find(self, path: bytes, hint: str) -> Route:
        """The route of a path. hint: the dialect that the headers speak, for paths that providers share.

        Raises NoRoute."""
        route = self._routes.get((path, hint))
        if route is None:
            route = self._find(path, hint)
            if len(self._routes) < self.REMEMBERED and len(path) <= 512:
                self._routes[path, hint] = route
        return route

    def choose(self, dialect: Dialect, model: str | None) -> Upstream:
        """The upstream of a unified route. Raises NoRoute."""
        upstream = self._chosen.get((dialect.name, model))
        if upstream is None:
            upstream = self._choose(dialect, model)
            if len(self._chosen) < self.REMEMBERED and (model is None or len(model) <= 256):
                self._chosen[dialect.name, model] = upstream
        return upstream

    def speaks(self, path: bytes) -> Dialect:
        """The dialect to answer in when a request is refused before it has a route."""
        text = path.decode("ascii", "replace")
        for upstream in self._mounts:
            if under(path, upstream.mount):
                return spoken_at(text[len(upstream.mount) :], upstream.dialect, upstream.also)[0]
        return spoken_at(text, self._dialects[_dialect_of(path, "openai") or "openai"])[0]

    def sole_or_home(self, upstream: Upstream) -> bool:
        """Whether a client's own credential for `upstream`'s dialect can only be meant for this upstream."""
        same = [other for other in self.upstreams if other.dialect is upstream.dialect]
        return len(same) == 1 or upstream.provider == HOME[upstream.dialect.name]

    def _find(self, path: bytes, hint: str) -> Route:
        if unsafe(path):
            raise NoRoute(400, "invalid_path", "the path has dot segments, empty segments or encoded separators")
        for upstream in self._mounts:
            if under(path, upstream.mount):
                return self._mounted(upstream, path[len(upstream.mount) :] or b"/")
        if has_encoded_slash(path):
            raise NoRoute(400, "invalid_path", "the path has an encoded slash")
        name = _dialect_of(path, hint)
        if name is None:
            raise NoRoute(404, "no_route", f"no route for {_shown(path)}: {self._known()}")
        home = self._dialects[name]
        text = path.decode("ascii", "replace")
        dialect, endpoint = spoken_at(text, home)
        return Route(
            "unified", None, path, dialect, home, endpoint, dialect.model_in_path(text), dialect.streams_by_path(text),
            name != "gemini" and _JSON_BODY.match(path) is not None,
        )  # fmt: skip

    def _mounted(self, upstream: Upstream, rest: bytes) -> Route:
        text = rest.decode("ascii", "replace")
        dialect, endpoint = spoken_at(text, upstream.dialect, upstream.also)
        json_body = dialect.door(text) is not None or dialect.billing(endpoint) == "tokens"
        sold = next((name for path, name in upstream.price_lists if under(rest, path)), None)
        path = upstream.base + rest if dialect.name in _AS_THEY_ARE else upstream.path(rest, unified=False)
        return Route(
            "mount", upstream if sold is None else replace(upstream, provider=sold), path, dialect, upstream.dialect,
            endpoint, dialect.model_in_path(text), dialect.streams_by_path(text),
            json_body and not endpoint.startswith(_FORMS),
        )  # fmt: skip

    def _choose(self, dialect: Dialect, model: str | None) -> Upstream:
        candidates = [upstream for upstream in self.upstreams if upstream.dialect is dialect]
        provider = None
        if model is not None:
            for upstream in candidates:
                if upstream.models is not None and upstream.models.fullmatch(model):
                    return upstream
            provider = provider_for_model(model, self._catalogue)
        general = [upstream for upstream in candidates if upstream.models is None]
        if provider is not None:
            for upstream in general:
                if upstream.provider == provider:
                    return upstream
            elsewhere = next((other for other in self.upstreams if other.provider == provider), None)
            if elsewhere is not None and elsewhere.dialect is not dialect:
                which = f"the upstream {elsewhere.name}, which speaks" if self._tells else "an upstream that speaks"
                raise NoRoute(
                    404, "no_route",
                    f"the model {_clean(model or '')} is served by {which} the {elsewhere.dialect.name} protocol; call "
                    "it by that protocol's path",
                )  # fmt: skip
        if len(general) == 1:
            return general[0]
        if provider is None or provider == HOME[dialect.name]:
            for upstream in general:
                if upstream.provider == HOME[dialect.name]:
                    return upstream
        asked = "a request without a model" if model is None else f"the model {_clean(model)}"
        raise NoRoute(404, "no_route", f"no upstream of the {dialect.name} protocol serves {asked}: {self._known()}")

    def _known(self) -> str:
        if not self._tells:
            return "ask who runs this gateway"
        mounts = ", ".join(sorted(upstream.mount.decode() for upstream in self.upstreams))
        return f"the mounts are {mounts or '(none)'}" if len(mounts) < 400 else "see the gateway's configuration"


def dialect_hint(noted: Mapping[int, bytes], credential_header: bytes) -> str:
    """The dialect that a request's headers speak, for paths that providers share."""
    if ANTHROPIC_VERSION in noted:
        return "anthropic"
    return "gemini" if credential_header.lower() == b"x-goog-api-key" else "openai"


def speaks_for_credential(route: Route, upstream: Upstream) -> bool:
    """Whether the path speaks a protocol of the upstream's own, so that the client's credential is meant for it.

    Gemini serves OpenAI's protocol under /v1beta/openai/: that path is still Gemini's."""
    if route.dialect is upstream.dialect or route.dialect.name in upstream.also:
        return True
    return upstream.dialect.name == "gemini" and b"/v1beta/openai/" in route.path


def _dialect_of(path: bytes, hint: str) -> str | None:
    if _ANTHROPIC.match(path):
        return "anthropic"
    if _GEMINI.match(path):
        return "gemini"
    if _SHARED.match(path):
        return hint
    return "openai" if _OPENAI.match(path) else None


def _shown(path: bytes) -> str:
    return path[:100].decode("ascii", "backslashreplace")


def _clean(text: str) -> str:
    return text[:100] if text[:100].isprintable() else repr(text[:100])
