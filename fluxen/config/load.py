"""One road from a YAML file to a `Config`: `fluxen serve`, `fluxen validate` and a reload all take it.

Everything that is wrong is reported at once: the YAML itself, each field by its model, and what only the whole file
can tell (two mounts that are the same, a key for an upstream that isn't there). The cross checks read the plain
values, not the models, so that they also run when some field is wrong.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fluxen.config import paths
from fluxen.config.access import SIGNING_KEY_BYTES
from fluxen.config.document import MAX_BYTES, Document, Problem, Where, dotted, read_document
from fluxen.config.model import Config, Upstream, Upstreams
from fluxen.config.prices import CALLS, TIERS, PriceEntry
from fluxen.config.section import NAME
from fluxen.config.values import Sources, sendable
from fluxen.errors import ConfigError

NAME_RULE = "a name has up to 64 letters, digits, '-', '.' and '_', and begins with a letter or digit"

# pydantic's words for the mistakes people make; what is not here keeps its own.
_MESSAGES = {
    "missing": "is required",
    "model_type": "expected a mapping (name: value)",
    "model_attributes_type": "expected a mapping (name: value)",
    "dict_type": "expected a mapping (name: value)",
    "tuple_type": "expected a list",
    "int_type": "expected a whole number (without quotes)",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "too_short": "expected at least one",
    "string_pattern_mismatch": NAME_RULE,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds, and what a person should know about it."""

    config: Config
    path: Path | None  # None: no file
    warnings: tuple[str, ...]  # lines like those of ConfigError.problems
    document: Document
    options: Mapping[Where, str] = field(default_factory=dict)
    """Settings that options of the command line gave instead of the file, and what those are called."""
    files: frozenset[Path] = frozenset()
    """What it refers to."""

    def position(self, where: Where) -> str:
        """'fluxen.yaml:12:5' of ('upstreams', 'openai', 'target_url'), or of the nearest thing around it."""
        mark = self.document.mark(where)
        return f"{self.name}:{mark.line}:{mark.column}" if mark else self.name

    def problem(self, where: Where, message: str) -> str:
        """A line for ConfigError.problems, for what only a higher layer can know."""
        if option := self.options.get(where):
            return f"{option}: {message}"
        return Problem(self.document.mark(where), where, message).render(self.name)

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "configuration"


def load_config(explicit: Path | None, env: Mapping[str, str]) -> Loaded:
    """Find, read and check the configuration. Raises ConfigError with every problem in it."""
    path = paths.find_config(explicit, env)
    if path is None:
        return load_bytes(b"", env, None)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise paths.unreadable(path, error) from error
    return load_bytes(raw, env, path)


def written_prices(path: Path, env: Mapping[str, str]) -> tuple[PriceEntry, ...]:
    """`prices` of a file that need not be valid otherwise: who computes costs has none of its secrets. Raises
    ConfigError with every problem in them."""
    try:
        with path.open("rb") as file:
            document = read_document(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise paths.unreadable(path, error) from error
    problems = [problem for problem in document.problems if document.value is None or problem.where[:1] == ("prices",)]
    said = document.value.get("prices") if isinstance(document.value, dict) else None
    try:
        config = Config.model_validate({} if said is None else {"prices": said}, context=Sources(env, path.parent))
    except ValidationError as error:
        problems += _field_problems(error, document)
    if problems:
        lines = tuple(problem.render(str(path)) for problem in sorted(set(problems), key=_order))
        raise ConfigError(f"the prices of {path} can't be used", lines)
    return config.prices


def load_bytes(raw: bytes, env: Mapping[str, str], path: Path | None, *, files: set[Path] | None = None) -> Loaded:
    """The same for bytes already read; `path` names them and is what relative paths in them start from. files: is
    given the files that they name, also when something is wrong with them."""
    name = str(path) if path else "configuration"
    document = read_document(raw)
    problems = list(document.problems)
    config: Config | None = None
    if document.value is None and not problems:
        document.value = {}  # an empty file, or only comments
    if isinstance(document.value, dict):
        folder = path.parent.absolute() if path else Path.cwd()
        sources = Sources(env, folder, set() if files is None else files)
        try:
            config = Config.model_validate(document.value, context=sources)
            problems += _same_keys(config, document)
        except ValidationError as error:
            problems += _field_problems(error, document)
        problems += _cross_checks(document.value, document)
    elif not problems:
        problems.append(Problem(document.mark(()), (), "expected a mapping such as `server:` at the top level"))
    if problems or config is None:
        lines = tuple(problem.render(name) for problem in sorted(set(problems), key=_order))
        count = f"{len(lines)} problem" + ("s" if len(lines) != 1 else "")
        raise ConfigError(f"{name} has {count}", lines)
    written = config.data_dir if "data_dir" in config.model_fields_set else None
    config = config.model_copy(update={"data_dir": paths.data_dir(written, env)})
    warnings = tuple(warning.render(name) for warning in sorted(_warnings(config, document), key=_order))
    return Loaded(config, path, warnings, document, files=frozenset(sources.files))


def _order(problem: Problem) -> tuple[int, int, str, str]:
    line, column = (problem.mark.line, problem.mark.column) if problem.mark else (0, 0)
    return line, column, dotted(problem.where), problem.message


def _field_problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        if detail["type"] == "too_short" and any(
            other is not detail and other["loc"][: len(detail["loc"])] == detail["loc"] for other in details
        ):
            continue  # there is one, and something is wrong with it
        if detail["type"] == "default_factory_not_called":
            continue  # follows from another problem of the same mapping
        where = tuple(part for part in detail["loc"] if part != "[key]")
        yield Problem(document.mark(where, key=detail["type"] == "extra_forbidden"), where, _message(detail, where))


def _message(detail: ErrorDetails, where: Where) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"unknown field{_nearest(str(where[-1]), _fields_at(where[:-1]))}"
    if kind == "model_type" and len(where) == 2 and where[0] == "upstreams":
        return f"expected a mapping: the settings of an upstream{_nearest(str(where[1]), Upstreams.model_fields)}"
    if kind == "literal_error":
        return f"expected {detail['ctx']['expected']}"
    return in_words(detail)


def in_words(detail: ErrorDetails) -> str:
    """What is wrong with a value, in words of people who write YAML or JSON instead of Python."""
    return _MESSAGES.get(detail["type"]) or detail["msg"].replace("Input", "value")


def _nearest(word: str, candidates: Iterable[str]) -> str:
    found = difflib.get_close_matches(word.lower(), list(candidates), n=1, cutoff=0.6)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _fields_at(where: Where) -> list[str]:
    """Names that may stand in the mapping at `where`."""
    model: type[BaseModel] | None = Config
    for part in where:
        if model is None:
            return []
        if isinstance(part, int):
            continue  # an item of a list: its model was found with the list
        field = model.model_fields.get(part)
        model = _model_in(field.annotation) if field else Upstream if model is Upstreams else None
    return list(model.model_fields) if model else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _mapping(value: object, *names: str) -> dict[str, object]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _entries(value: object, kind: str) -> list[dict[str, object]]:
    """The mappings of api_keys.static or api_keys.jwt."""
    keys = _mapping(value, "api_keys").get(kind)
    return [key if isinstance(key, dict) else {} for key in keys] if isinstance(keys, list) else []


def _cross_checks(value: dict[str, object], document: Document) -> Iterator[Problem]:
    """What no single field can tell."""
    upstreams = {name: up for name, up in _mapping(value, "upstreams").items() if name not in Upstreams.model_fields}
    mounts: dict[str, str] = {}
    for name, fields in upstreams.items():
        where: Where = ("upstreams", name)
        if not re.fullmatch(NAME, name):
            yield Problem(document.mark(where, key=True), where, NAME_RULE)
        mount = fields.get("request_path", f"/{name}") if isinstance(fields, dict) else f"/{name}"
        first = mounts.setdefault(mount.rstrip("/"), name) if isinstance(mount, str) else name
        if first != name:
            where = (*where, "request_path")
            yield Problem(document.mark(where), where, f"is the path of upstream '{first}', too")
    for name, fields in upstreams.items():
        if isinstance(fields, dict):
            yield from _credentials(name, fields, document)
    for kind in ("static", "jwt"):
        ids: set[str] = set()
        for index, key in enumerate(_entries(value, kind)):
            where = ("api_keys", kind, index)
            if (identity := key.get("id")) is not None and str(identity) in ids:
                yield Problem(document.mark((*where, "id")), (*where, "id"), "is the id of another key, too")
            ids.add(str(identity))
            if key:
                yield from _one_of(_PROOFS[kind], key, where, document)
            allowed = key.get("upstreams")
            for position, name in enumerate(allowed if isinstance(allowed, list) and upstreams else ()):
                if isinstance(name, str) and name not in upstreams:
                    where_name = (*where, "upstreams", position)
                    message = f"there is no upstream '{name}'{_nearest(name, upstreams)}"
                    yield Problem(document.mark(where_name), where_name, message)


def _credentials(upstream: str, fields: Mapping[str, object], document: Document) -> Iterator[Problem]:
    """Either one key or several, and each of those with a name of its own."""
    credentials = fields.get("credentials")
    where: Where = ("upstreams", upstream, "credentials")
    if fields.get("api_key") is not None and credentials is not None:
        yield Problem(document.mark(where), where, "says once more what api_key says: either of the two")
    names: set[str] = set()
    for index, credential in enumerate(credentials if isinstance(credentials, list) else ()):
        name = credential.get("name") if isinstance(credential, dict) else None
        if name is not None and str(name) in names:
            place: Where = (*where, index, "name")
            yield Problem(document.mark(place), place, "is the name of another credential, too")
        names.add(str(name))


_PROOFS = {"static": ("key", "hash"), "jwt": ("key", "jwks_file", "jwks_url")}
_REQUIRED = {"static": "or hash: the SHA-256 of the key", "jwt": "or jwks_file, or jwks_url"}


def _one_of(names: Sequence[str], entry: Mapping[str, object], where: Where, document: Document) -> Iterator[Problem]:
    """Exactly one of these has to be there."""
    there = [name for name in names if entry.get(name) is not None]
    if not there:
        yield Problem(document.mark(where), (*where, names[0]), f"is required, {_REQUIRED[str(where[1])]}")
    for name in there[1:]:
        message = f"says once more what {there[0]} says: either of the two"
        yield Problem(document.mark((*where, name)), (*where, name), message)
    if there and there[0].startswith("jwks"):
        for name in ("issuer", "audience"):
            if entry.get(name) is None:
                message = f"is required with {there[0]}: others get tokens signed by the same keys"
                yield Problem(document.mark(where), (*where, name), message)


def _same_keys(config: Config, document: Document) -> Iterator[Problem]:
    """Two static keys of one value: whose request would it be?"""
    first: dict[bytes, int] = {}
    for index, key in enumerate(config.api_keys.static if config.api_keys else ()):
        other = first.setdefault(key.digest, index)
        if other != index and key.digest:
            where: Where = ("api_keys", "static", index, "hash" if key.key is None else "key")
            yield Problem(document.mark(where), where, f"is the same key as that of api_keys.static[{other}]")


def _warnings(config: Config, document: Document) -> Iterator[Problem]:
    upstreams = list(config.upstreams.by_name)
    for index, entry in enumerate(config.prices):
        for position, glob in enumerate(entry.upstream or () if upstreams else ()):
            if not any(fnmatchcase(name.lower(), glob.lower()) for name in upstreams):
                where: Where = ("prices", index, "upstream", position)
                message = f"meets no upstream of this file{_nearest(glob, upstreams)}: nothing has this price"
                yield Problem(document.mark(where), where, message)
        for name in entry.fees:
            if name not in CALLS:
                where = ("prices", index, "fees", name)
                message = f"is no call that any provider bills{_nearest(name, CALLS)}: nothing has this fee"
                yield Problem(document.mark(where, key=True), where, message)
        if entry.tier is not None and entry.tier not in TIERS:
            where = ("prices", index, "tier")
            message = f"is no tier that a provider is known to serve in{_nearest(entry.tier, TIERS)}"
            yield Problem(document.mark(where), where, message)
        first = next((number for number in range(index) if config.prices[number].covers(entry)), None)
        if first is not None:
            where = ("prices", index)
            message = f"never counts: prices[{first}] comes first and says all of it already; write the special first"
            yield Problem(document.mark(where), where, message)
    keys = config.api_keys
    if keys is not None:
        for index, issuer in enumerate(keys.jwt):
            if issuer.secret is not None and len(issuer.secret) < SIGNING_KEY_BYTES:
                where = ("api_keys", "jwt", index, "key")
                message = f"shorter than {SIGNING_KEY_BYTES} bytes, it could be guessed: its tokens are refused"
                yield Problem(document.mark(where), where, message)
        for index, key in enumerate(keys.static):
            if key.key is not None and not sendable(key.key.reveal()):
                where = ("api_keys", "static", index, "key")
                message = "no client can send this key: it holds a space or a character that is not ASCII"
                yield Problem(document.mark(where), where, message)
