"""Configurations: bytes → document → Config → Snapshot.

Whatever the bytes are: read_document returns, what is wrong with them comes as a ConfigError, and no message quotes a
secret. What is accepted is compared with another reader of YAML 1.2, and without client keys nobody but this machine
gets in.
"""

from __future__ import annotations

import io
import math
import random
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fluxen.config.document import Document, read_document
from fluxen.config.load import load_bytes
from fluxen.errors import ConfigError
from fluxen.gateway.snapshot import build

ROOT = Path(__file__).resolve().parent.parent.parent
SECRETS = (
    "fx-planted-client-4711",
    "sk-planted-provider-4712",
    "planted-signing-key-of-32-bytes-4713",
    "admin-planted-4714",
)
SEED_SHAPE = """\
version: 1
server: {bind_address: "0.0.0.0:8080", max_connections: 1024}
upstreams:
  request_timeout_ms: 120000
  openai:    {request_path: "/openai",    target_url: "https://api.openai.com",    api_key: "sk-planted-provider-4712"}
  anthropic: {request_path: "/anthropic", target_url: "https://api.anthropic.com", api_key: "${ANTHROPIC_API_KEY}"}
api_keys:
  static: [{id: my-key, key: "fx-planted-client-4711", upstreams: [openai]}]
  jwt:    [{id: dev, key: "planted-signing-key-of-32-bytes-4713"}]
admin: {bind_address: "127.0.0.1:8081", key: "admin-planted-4714"}
"""
BLOCK = """\
version: 1
server:
  bind_address: 127.0.0.1:0
  workers: 2
  max_body: 32MiB
  trusted_proxies: [10.0.0.0/8, "::1"]
  head_timeout_ms: 10000
upstreams:
  first:
    target_url: http://127.0.0.1:9
    credentials:
      - {name: a, api_key: sk-planted-provider-4712}
      - {name: b, api_key: "${ANTHROPIC_API_KEY}"}
    models: ["gpt-*"]
api_keys:
  static:
    - &one
      id: one
      key: fx-planted-client-4711
      team: red
      tags: {env: test, n: 1}
      expires: 2099-01-31
      models: ["gpt-5*"]
      routes: ["/v1/chat/*"]
      networks: [127.0.0.0/8]
    - <<: *one
      id: two
      key: another-key
log: {level: info, format: json, requests: true}
ledger: {on_failure: serve}
"""
WORDS = (
    "version: 1", "server:", "bind_address:", "upstreams:", "api_keys:", "static:", "jwt:", "admin:", "key:", "hash:",
    "id:",
    "- ", "  ", "\n", "\t", ": ", "{", "}", "[", "]", ",", "&a ", "*a", "<<: *a", "!!str ",
    "!!python/object:os.system ", "!x ",
    "? ", "| ", ">- ", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "~", "null", "true", "yes", "0x1F", "0o17",
    "1e309", ".nan",
    "-.inf", "9" * 41, "1:30", "2027-01-31", "2027-02-30T25:61:00Z", "\\x00", "\ufeff", "\u2028", "\x85",
    "\U0010ffff", "${HOME}",
    "${", "$X", "file:/nonexistent", "file:.", "0.0.0.0:0", "[::1]:80", "127.0.0.1:99999", "http://u:p@h/",
    "https://h/?q#f",
    "/v1", "/-/", "sha256:" + "a" * 64, "10.0.0.0/33", "::/0", "models: ['[', '*' ]", "upstreams: [openai]",
    "expires: ", "tls: ",
    "networks: ", "-1", "18446744073709551616", "a" * 300, "\n\u00e9: \u00e9\n", *SECRETS,
)  # fmt: skip
LEAF = (
    "1", "0", "-5", "1.5", "true", "null", "", "text", '"quoted"', "'single'", "127.0.0.1:0", "0.0.0.0:8080",
    "/openai", "[]", "{}",
    "https://api.openai.com", "*anchor", "&anchor x", "[a, b]", "{a: b}", "32MiB", "fx-planted-client-4711",
    "${UNSET_NAME}",
    "file:nowhere", "2027-01-31", "planted-signing-key-of-32-bytes-4713", "gpt-*", "[10.0.0.0/8]",
)  # fmt: skip
MODULES = ("document", "load", "model", "access", "section", "values", "paths")
NAMES = re.compile(r"([a-z_]+):")


class Documents:
    name = "yaml"
    traced = tuple(f"fluxen/config/{name}.py" for name in MODULES)
    base_steps = 3_000_000  # 50,000 values may come out of few bytes
    words: Sequence[bytes] = tuple(word.encode() for word in WORDS)

    def __init__(self, folder: Path) -> None:
        """folder: an empty one."""
        self._path = folder / "fluxen.yaml"
        self._env = {
            "FLUXEN_DATA_DIR": str(folder / "data"),
            "HOME": str(folder),
            "ANTHROPIC_API_KEY": "sk-of-env-4715",
        }
        self._example = (ROOT / "fluxen.example.yaml").read_text()
        self._names = sorted(set(NAMES.findall(self._example)) | {"<<", "x", "key", "hash"})

    def seeds(self) -> list[bytes]:
        uncommented = re.sub(r"(?m)^(\s*)# ?(?=[a-z_-]+:)", r"\1", self._example)
        return [
            text.encode() for text in (SEED_SHAPE, BLOCK, self._example, uncommented, "", "a: &a [*a]", "a: *a")
        ] + [
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%b]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(8)),
            b"[" * 100_000,
            b"{a: " * 20_000,
            b"- " * 20_000,
            b"? " * 20_000,
        ]

    def make(self, chance: random.Random) -> bytes:
        lines: list[str] = []
        depth = 0
        for _ in range(chance.randrange(1, 40)):
            depth = max(0, min(6, depth + chance.choice((-2, -1, 0, 0, 1))))
            item = "- " if chance.random() < 0.15 else ""
            leaf = chance.choice(LEAF) if chance.random() < 0.6 else ""
            lines.append(f"{'  ' * depth}{item}{chance.choice(self._names)}: {leaf}")
        return "\n".join(lines).encode()

    def run(self, case: bytes) -> None:
        document = read_document(case)
        if not document.problems:
            agrees(case, document)
        elif document.value is None:
            assert all(problem.message for problem in document.problems)
        try:
            loaded = load_bytes(case, self._env, self._path)
            snapshot = build(loaded, self._env)
        except ConfigError as error:
            self._silent(document, error)
            return
        assert not document.problems, "accepted in spite of problems"
        if snapshot.open_mode:
            assert loaded.config.api_keys is None, "open in spite of api_keys"
            assert loaded.config.server.bind_address.loopback, "open to everybody"
        shown = repr(loaded.config) + repr(snapshot.upstreams) + "".join((*loaded.warnings, *snapshot.warnings))
        for secret in SECRETS:
            assert secret not in shown or said_openly(document, secret), "a secret is shown"

    def _silent(self, document: Document, error: ConfigError) -> None:
        text = "\n".join((error.message, *error.problems, error.hint or ""))
        assert text.strip()
        for secret in SECRETS:
            if secret in text:
                assert said_openly(document, secret), f"a message quotes a secret: {text}"


def said_openly(document: Document, secret: str) -> bool:
    """Whether it stands where nothing is secret, which a mutation may have put it into: a name, the path of a file, or
    the value of what holds no secret. (A document that can't be read has no names: nothing of its text may be quoted at
    all.)"""
    if any(secret in str(part) for where in document.keys for part in where):
        return True
    return any(
        secret in text and (text.startswith("file:") or not {"key", "api_key"} & set(map(str, where)))
        for where, text in _texts(document.value, ())
    )


def _texts(value: object, where: tuple[object, ...]) -> list[tuple[tuple[object, ...], str]]:
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in _texts(inner, (*where, name))]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in _texts(inner, (*where, index))]
    return [(where, str(value))]


PLAIN = re.compile(rb"[\n\x20-\x7e]*")
DIFFERENT = re.compile(
    rb"[!%]|<<|[-+]?[0-9._]*[eE_][-+0-9]|0o|0x|[0-9]{3}-|[-+]?[0-9]{19}|:[0-9]{2}|\.\.\.|=|[&*][\w-]*[^\w\s,\[\]{}-]"
)
"""Where the other reader is known to read differently: tags and directives, merges, numbers, names of anchors, tabs."""


def agrees(case: bytes, document: Document) -> None:
    """What is accepted as YAML is accepted by another reader, too, and means the same."""
    if not PLAIN.fullmatch(case) or DIFFERENT.search(case) or len(case) > 20_000:
        return
    reader = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings(action="ignore"):  # an anchor named twice is fine
            expected = reader.load(io.StringIO(case.decode("ascii")))
    except (YAMLError, ValueError, RecursionError) as error:
        raise AssertionError(f"accepted, and another reader says: {error}") from error
    assert same(document.value, expected), f"means {document.value!r}, to another reader {expected!r}"


def same(mine: object, other: object) -> bool:
    if isinstance(mine, dict) and isinstance(other, dict):
        return len(mine) == len(other) and all(
            same(value, _found(other, name)) for name, value in mine.items()
        )  # fmt: skip
    if isinstance(mine, list) and isinstance(other, list):
        return len(mine) == len(other) and all(map(same, mine, other))
    if isinstance(mine, float) and isinstance(other, float) and math.isnan(mine):
        return math.isnan(other)
    return type(mine) is type(other) and mine == other


def _found(other: dict[object, object], name: str) -> object:
    """Names are text here, and numbers or null there."""
    return next((value for key, value in other.items() if _named(key, name)), object())


def _named(key: object, name: str) -> bool:
    if isinstance(key, str):
        return key == name
    return read_document(name.encode()).value == key
