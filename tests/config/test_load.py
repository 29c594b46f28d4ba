"""The loader: what is accepted, what is refused, and where the finger points."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.access import StaticKey
from fluxen.config.load import Loaded, load_bytes, load_config, written_prices
from fluxen.config.values import Address, Secret
from fluxen.errors import ConfigError

ENV = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-ant", "FLUXEN_ADMIN_KEY": "adm", "HOME": "/home/x"}

INHERITED = """\
version: 1
server: {bind_address: "0.0.0.0:8080", max_connections: 1024}
upstreams:
  request_timeout_ms: 120000
  openai:    {request_path: "/openai",    target_url: "https://api.openai.com",    api_key: "${OPENAI_API_KEY}"}
  anthropic: {request_path: "/anthropic", target_url: "https://api.anthropic.com", api_key: "${ANTHROPIC_API_KEY}"}
api_keys:
  static: [{id: my-key, key: "…", upstreams: [openai]}]
  jwt:    [{id: dev, key: "at least 32 bytes …"}]
admin: {bind_address: "127.0.0.1:8081", key: "${FLUXEN_ADMIN_KEY}"}      # ours
"""


def load(text: str, env: dict[str, str] | None = None) -> Loaded:
    return load_bytes(text.encode(), ENV if env is None else env, None)


def problems(text: str, env: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, env)
    assert caught.value.problems
    return tuple(line.removeprefix("configuration:") for line in caught.value.problems)


def test_the_inherited_file_works_unchanged() -> None:
    loaded = load(INHERITED)
    config = loaded.config
    assert config.server.bind_address == Address("0.0.0.0", 8080)
    assert list(config.upstreams.by_name) == ["openai", "anthropic"]
    openai = config.upstreams.by_name["openai"]
    assert openai.target_url == "https://api.openai.com"
    assert openai.api_key is not None
    assert openai.api_key.reveal() == "sk-openai"
    assert config.upstreams.timeouts(openai) == (10.0, 120.0, 120.0)
    assert config.api_keys is not None
    assert config.api_keys.static[0].upstreams == ("openai",)
    assert [line.split(": ")[1] for line in loaded.warnings] == ["api_keys.static[0].key", "api_keys.jwt[0].key"]
    assert "shorter than 32 bytes" in loaded.warnings[1]


def test_nothing_means_the_defaults() -> None:
    for text in ("", "# only a comment\n", "version: 1\nserver:\nupstreams:\nledger:\n"):
        config = load(text).config
        assert config.api_keys is None
        assert config.server.bind_address.loopback
        assert config.data_dir == Path("/home/x/.local/share/fluxen")


@pytest.mark.parametrize("text", ["api_keys:", "api_keys: {}", "api_keys: {static: []}", "api_keys: {jwt: }"])
def test_an_empty_list_of_keys_is_not_none(text: str) -> None:
    assert load(text).config.api_keys is not None


def test_only_jwt_keys() -> None:
    loaded = load("api_keys: {jwt: [{id: a, key: some signing key with spaces and 32 bytes}]}")
    assert loaded.config.api_keys is not None
    assert loaded.config.api_keys.jwt[0].id == "a"
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("{id: a}", ["api_keys.jwt[0].key: is required, or jwks_file, or jwks_url"]),
        ("{key: a, jwks_file: b, issuer: c, audience: d}", ["api_keys.jwt[0].jwks_file: says once more what key says"]),
        (
            "{jwks_url: 'https://a.example/k'}",
            [f"api_keys.jwt[0].{name}: is required with jwks_url" for name in ("audience", "issuer")],
        ),
        ("{jwks_url: 'http://a.example/k', issuer: a, audience: b}", ["api_keys.jwt[0].jwks_url: expected https://"]),
        ("{key: a, upstreams: [nobody]}", ["api_keys.jwt[0].upstreams[0]: there is no upstream 'nobody'"]),
        ("{key: a, networks: [10.0.0.1/8]}", ["the network's prefix: 10.0.0.0/8 is meant?"]),
        ("{key: a, routes: [v1/chat]}", ["api_keys.jwt[0].routes[0]: expected the beginning '/'"]),
        ("{key: a, claims: {teem: a}}", ["api_keys.jwt[0].claims.teem: unknown field (did you mean 'team'?)"]),
    ],
)
def test_issuers_of_tokens(entry: str, wrong: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"upstreams: {{openai: }}\napi_keys: {{jwt: [{entry}]}}")
    problems = sorted(caught.value.problems)
    assert len(problems) == len(wrong)
    for problem, expected in zip(problems, wrong, strict=True):
        assert expected in problem


@pytest.mark.parametrize(
    ("credentials", "wrong"),
    [
        ("[]", ["credentials: expected at least one"]),
        ("[{name: a b, api_key: x}]", ["credentials[0].name: a name has up to 64 letters"]),
        ("[{name: a, api_key: ''}]", ["credentials[0].api_key: is empty"]),
        ("[{name: a, api_key: x}, {name: a, api_key: y}]", ["credentials[1].name: is the name of another credential"]),
        ("[{name: a, api_key: x}], api_key: y", ["credentials: says once more what api_key says"]),
    ],
)
def test_several_credentials(credentials: str, wrong: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"upstreams: {{openai: {{credentials: {credentials}}}}}")
    assert len(caught.value.problems) == len(wrong)
    for problem, expected in zip(caught.value.problems, wrong, strict=True):
        assert f"upstreams.openai.{expected}" in problem


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", "2027-01-31T00:00:00+00:00"),
        ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00+00:00"),
        ("2027-01-31T18:00:00+02:00", "2027-01-31T16:00:00+00:00"),
        ("2027-01-31T18:00:00", "the time has no offset"),
        ("next year", "expected a day such as 2027-01-31"),
        ("0001-01-01T00:00:00+14:00", "out of range"),
    ],
)
def test_when_a_key_ends(text: str, moment: str) -> None:
    source = f"api_keys: {{static: [{{key: abc, expires: '{text}'}}]}}"
    if not moment.startswith("2027"):
        with pytest.raises(ConfigError) as caught:
            load(source)
        assert moment in caught.value.problems[0]
        return
    keys = load(source).config.api_keys
    assert keys is not None
    assert keys.static[0].expires is not None
    assert keys.static[0].expires.isoformat() == moment


def test_which_addresses_are_this_machines() -> None:
    """Whether one may be listened on without keys is told where the keys are known (tests/keys/test_known.py)."""
    for address in ("127.0.0.1:0", "localhost:8080", "[::1]:8080", "127.9.9.9:80"):
        assert load(f'server: {{bind_address: "{address}"}}').config.server.bind_address.loopback
    for address in ("0.0.0.0:8080", "${BIND}", "[::]:1", "10.0.0.1:1", "gateway:80"):
        config = load(f'server: {{bind_address: "{address}"}}', {"BIND": "192.168.1.1:1"}).config
        assert not config.server.bind_address.loopback


def test_everything_wrong_is_told_at_once_with_its_place() -> None:
    assert problems(
        """\
version: 2
serverr: {}
server:
  bind_address: ":8080"
  max_connection: 5
  workers: "2"
  workers: 3
upstreams:
  request_timeout_m: 5
  openai: {target_ur: x, api_key: "${NOPE}", dialect: opnai}
  v1: {}
  b@d: {request_path: /openai, target_url: "https://u:p@h/x?y"}
api_keys:
  static:
    - {id: 1, upstreams: [opnai], tags: {a: ""}}
    - {id: 1, key: sk-abc, kye: 1}
"""
    ) == (
        "1:10: version: expected 1",
        "2:1: serverr: unknown field (did you mean 'server'?)",
        "4:17: server.bind_address: expected host:port, such as 127.0.0.1:8080 (0.0.0.0:8080 for all IPv4 addresses)",
        "5:3: server.max_connection: unknown field (did you mean 'max_connections'?)",
        "6:12: server.workers: expected a whole number (without quotes)",
        "7:3: server.workers: named twice (first in line 6)",
        "9:22: upstreams.request_timeout_m: expected a mapping: the settings of an upstream "
        "(did you mean 'request_timeout_ms'?)",
        "10:12: upstreams.openai.target_ur: unknown field (did you mean 'target_url'?)",
        "10:35: upstreams.openai.api_key: environment variable NOPE is not set (export NOPE=…)",
        "10:55: upstreams.openai.dialect: expected 'openai', 'anthropic', 'gemini', 'bedrock', 'cohere' or 'ollama'",
        "11:7: upstreams.v1.request_path: would hide Fluxen's own /v1 routes; choose another, such as /openai",
        "12:3: upstreams.b@d: a name has up to 64 letters, digits, '-', '.' and '_', and begins with a letter or digit",
        "12:23: upstreams.b@d.request_path: is the path of upstream 'openai', too",
        "12:44: upstreams.b@d.target_url: holds a user or password; put the credential in api_key",
        "15:7: api_keys.static[0].key: is required, or hash: the SHA-256 of the key",
        "15:27: api_keys.static[0].upstreams[0]: there is no upstream 'opnai' (did you mean 'openai'?)",
        "15:45: api_keys.static[0].tags.a: expected 1 to 256 printable ASCII characters",
        "16:12: api_keys.static[1].id: is the id of another key, too",
        "16:28: api_keys.static[1].kye: unknown field (did you mean 'key'?)",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n\tworkers: 1", "2:1: a character that can't stand here: indent with spaces"),
        ("a: b: c", "1:5: a second ': ' in one line"),
        ("- 1", "1:1: expected a mapping"),
        ("just text", "1:1: expected a mapping"),
        ("version: 1\n---\nversion: 1", "2:1: a second document"),
        ("server: {workers: 1", "2:1: "),
        ("server: *nothing", "1:9: an alias that stands for nothing"),
        ("a: &a [*a]", "1:8: an alias that stands for nothing"),
        ("upstreams: !!python/object:os.system {}", "1:12: upstreams: YAML tags"),
        ("? [a]\n: 1", "1:3: a name must be text"),
        ("server: {workers: 1, workers: 1}", "1:22: server.workers: named twice (first in line 1)"),
        ("[" * 100_000, "1:34: nested deeper"),
        ("server: \x07", "1:9: character U+0007"),
    ],
)
def test_yaml_that_cant_be_used(text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in problems(text)), problems(text)


def test_bytes_that_are_not_text() -> None:
    for raw, expected in ((b"a: \xff", "1:4: not UTF-8"), (b"#" * 1_048_577, "larger than")):
        with pytest.raises(ConfigError) as caught:
            load_bytes(raw, ENV, Path("x.yaml"))
        assert expected in caught.value.problems[0]
    assert load_bytes(b"\xef\xbb\xbfversion: 1\r\n", ENV, None).config.version == 1


def test_a_billion_laughs_is_cheap() -> None:
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    laughs += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    assert any("aliases" in line for line in problems(laughs))


def test_anchors_and_merge_keys() -> None:
    loaded = load(
        """\
upstreams:
  one: &base {target_url: "http://127.0.0.1:1", idle_timeout_ms: 5, models: [a, "b*"]}
  two: {<<: *base, target_url: "http://127.0.0.1:2"}
  three: *base
"""
    )
    two = loaded.config.upstreams.by_name["two"]
    assert (two.request_path, two.target_url, two.idle_timeout_ms) == ("/two", "http://127.0.0.1:2", 5)
    assert two.models == ("a", "b*")
    assert loaded.config.upstreams.by_name["three"].request_path == "/three"
    # what is wrong in a shared mapping is wrong where it stands
    line, same = problems("upstreams:\n  one: &b {idle_timeout_ms: 0}\n  two: {<<: *b}\n")
    assert line.startswith("2:29: upstreams.one.idle_timeout_ms: value should be greater")
    assert same.startswith("2:29: upstreams.two.idle_timeout_ms")


def test_yaml_1_2_words_stay_words() -> None:
    key = load("api_keys: {static: [{key: k, id: no, team: 0o17, project: 1:30, tags: {on: 2026-11-01}}]}").config
    assert key.api_keys is not None
    static = key.api_keys.static[0]
    assert (static.id, static.team, static.project, static.tags) == ("no", "15", "1:30", {"on": "2026-11-01"})


class TestSecrets:
    def secret(self, written: str, env: dict[str, str], folder: Path) -> Secret:
        text = f"upstreams: {{openai: {{api_key: '{written}'}}}}"
        found = load_bytes(text.encode(), env, folder / "fluxen.yaml").config.upstreams.by_name["openai"].api_key
        assert found is not None
        return found

    def test_environment_and_files(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("from-file\n")
        secret = self.secret("file:key", {}, tmp_path)
        assert (secret.reveal(), secret.reference) == ("from-file", "file:key")
        assert self.secret(f"file:{tmp_path}/key", {}, Path("/")).reveal() == "from-file"
        assert self.secret("file:${D}/key", {"D": str(tmp_path)}, Path("/")).reveal() == "from-file"
        assert self.secret("${KEY}", {"KEY": "value\n"}, tmp_path).reveal() == "value"
        mixed = self.secret("a-${X}-${Y}", {"X": "1", "Y": "${X}"}, tmp_path)
        assert (mixed.reveal(), mixed.reference) == ("a-1-${X}", "${X}, ${Y}")
        assert self.secret("literal", {}, tmp_path).reference is None

    @pytest.mark.parametrize(
        "value",
        ["sec ret", "secret\n\n", "secret\r\n", "\tsecret", "secr\u00e9t", "secret\x00", "secret\x7f", "\udc80secret"],
    )
    def test_a_byte_that_cant_stand_in_a_header_names_the_reference_only(self, value: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            self.secret("${KEY}", {"KEY": value}, tmp_path)
        said = "".join(caught.value.problems)
        assert "${KEY} holds a character" in said
        assert "secr" not in said
        assert "ret" not in said.replace("can't stand", "")
        (tmp_path / "key").write_bytes(value.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigError, match="problem") as caught:
            self.secret("file:key", {}, tmp_path)
        assert "file:key holds a character" in caught.value.problems[0]

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("${MISSING}", "environment variable MISSING is not set"),
            ("${EMPTY}", "${EMPTY} is empty"),
            ("${", "'${' must be followed"),
            ("${A B}", "'${' must be followed"),
            ("$OPENAI_API_KEY", "is written ${NAME}"),
            ("", "is empty"),
            ("file:none", "can't read file:none: No such file"),
            ("file:", "can't read file:: Is a directory"),
            ("file:/dev/zero", "can't read file:/dev/zero: it is no regular file"),
            ("with space", "only 0x21 to 0x7E"),
        ],
    )
    def test_what_is_refused(self, written: str, expected: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            self.secret(written, {"EMPTY": "\n"}, tmp_path)
        assert expected in caught.value.problems[0]

    def test_no_message_and_no_repr_shows_a_secret(self) -> None:
        text = "upstreams: {openai: {api_key: [sk-hidden]}}\napi_keys: {static: [{key: sk-hidden}, {key: sk-hidden}]}"
        assert "sk-hidden" not in "".join(problems(text))
        loaded = load(
            "api_keys: {static: [{key: sk-hidden}], jwt: [{key: sk-hidden}]}\nupstreams: {a: {api_key: sk-hidden}}"
        )
        assert "sk-hidden" not in repr(loaded.config) + str(loaded.config) + loaded.config.model_dump_json()

    def test_two_equal_keys(self) -> None:
        text = 'api_keys: {static: [{key: abc}, {key: "${K}"}]}'
        (line,) = problems(text, {"K": "abc"})
        assert line == "1:39: api_keys.static[1].key: is the same key as that of api_keys.static[0]"


HASH = "sha256:" + hashlib.sha256(b"abc").hexdigest()


class TestHashes:
    def test_a_key_may_be_given_by_its_hash(self) -> None:
        for written in (HASH, HASH.replace("ba7816", "BA7816")):
            config = load(f"api_keys: {{static: [{{hash: '{written}', team: red}}, {{key: abd}}]}}").config
            assert config.api_keys is not None
            first, second = config.api_keys.static
            assert (first.key, first.hash, first.digest) == (None, HASH, hashlib.sha256(b"abc").digest())
            assert second.digest == hashlib.sha256(b"abd").digest()

    def test_a_key_that_becomes_its_hash_keeps_its_id(self) -> None:
        plain, hashed = (load(f"api_keys: {{static: [{{{one}}}]}}").config for one in ("key: abc", f"hash: '{HASH}'"))
        assert plain.api_keys is not None
        assert hashed.api_keys is not None
        assert plain.api_keys.static[0].id == hashed.api_keys.static[0].id

    @pytest.mark.parametrize("written", ["abc", "md5:00", "'sha256:'", HASH[:-1], HASH + "0", "1", "[]"])
    def test_what_is_no_hash_is_not_quoted(self, written: str) -> None:
        (line,) = problems(f"api_keys: {{static: [{{hash: {written}}}]}}")
        expected = "expected sha256: and the 64 hexadecimal digits of the key's SHA-256"
        assert line == f"1:28: api_keys.static[0].hash: {expected}"

    def test_one_of_the_two(self) -> None:
        assert problems(
            f"api_keys:\n  static:\n  - {{key: abc, hash: '{HASH}'}}\n  - {{team: red}}\n  - {{hash: }}\n"
        ) == (
            "3:22: api_keys.static[0].hash: says once more what key says: either of the two",
            "4:5: api_keys.static[1].key: is required, or hash: the SHA-256 of the key",
            "5:5: api_keys.static[2].key: is required, or hash: the SHA-256 of the key",
        )

    def test_a_key_and_the_hash_of_it(self) -> None:
        (line,) = problems(f"api_keys: {{static: [{{key: abc}}, {{hash: '{HASH}'}}]}}")
        assert line == "1:40: api_keys.static[1].hash: is the same key as that of api_keys.static[0]"


def test_an_omitted_id_is_derived_and_stable() -> None:
    def key(text: str) -> StaticKey:
        config = load(f"api_keys: {{static: [{text}]}}").config
        assert config.api_keys is not None
        return config.api_keys.static[-1]

    first = key("{key: abc}")
    assert first.id == key("{key: other}, {key: abc}").id
    assert first.id.startswith("key-")
    assert first.id != key("{key: abd}").id
    assert "abc" not in first.id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert load(f'server: {{bind_address: "{text}"}}').config.server.bind_address == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "::1:8080", "1.2.3.4", "1.2.3.4:65536", "1.2.3.4:x", "1.2.3.4:-1", "[1.2.3.4]:80",
             "[::1", "1.2.3:80", "1.2.3.400:80", "a b:80", "http://localhost:80", "[localhost]:80", "1.2.3.4:８0"],
)  # fmt: skip
def test_no_addresses(text: str) -> None:
    (line,) = problems(f'api_keys: {{static: [{{key: k}}]}}\nserver: {{bind_address: "{text}"}}')
    assert line.startswith("2:24: server.bind_address: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("32MB", 32_000_000), ("256 MiB", 268_435_456), ("1048576", 1_048_576), ("1.5kib", 1536), ("1 GB", 10**9)],
)
def test_sizes(text: str, expected: int) -> None:
    assert load(f"server: {{max_body: {text}}}").config.server.max_body == expected


@pytest.mark.parametrize(
    "text", ["0", "-1", "1TB", "MB", "'1.3B'", "1e3", "true", "[1]", "0.0001kb", "''", "99999999999GB"]
)
def test_no_sizes(text: str) -> None:
    (line,) = problems(f"server: {{max_body: {text}}}")
    assert line.startswith("1:20: server.max_body: expected a size")


@pytest.mark.parametrize("mount", ["/", "", "//", "/v1", "/v1/", "/v1beta", "/-", "/-/", "/-/x", "x", "/a b", "/a//b",
                                   "/a/../b", "/a/.", "/a?x", "/%41", "/a\\b"])  # fmt: skip
def test_mounts_that_hide_something(mount: str) -> None:
    (line,) = problems(f"upstreams: {{openai: {{request_path: '{mount}'}}}}")
    assert line.startswith("1:36: upstreams.openai.request_path: ")


@pytest.mark.parametrize(
    ("mount", "kept"), [("/openai/", "/openai"), ("/v1/x", "/v1/x"), ("/v1x", "/v1x"), ("/a/b", "/a/b")]
)
def test_mounts(mount: str, kept: str) -> None:
    assert (
        load(f"upstreams: {{openai: {{request_path: {mount}}}}}").config.upstreams.by_name["openai"].request_path
        == kept
    )


def test_two_equal_mounts() -> None:
    (line,) = problems("upstreams:\n  a: {request_path: /b/}\n  b:\n")
    assert line == "3:5: upstreams.b.request_path: is the path of upstream 'a', too"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "h",
        "http://",
        "http:///x",
        "https://u@h",
        "https://h?x",
        "https://h#x",
        "https://h/?",
        "http://h:0",
        "http://h:x",
        "http://h:99999",
        "http://[::1",
        "http://h/a/../b",
        "http://h//x",
        "http://h/%2e",
        "http://h /",
        "http://a..b",
        "http://.a",
        "http://a..",
        "http://.",
        f"http://a.{'b' * 64}.c",
    ],
)
def test_targets_that_are_refused(url: str) -> None:
    (line,) = problems(f"upstreams: {{openai: {{target_url: '{url}'}}}}")
    assert line.startswith("1:34: upstreams.openai.target_url: ")


def test_a_host_that_no_name_server_could_find_is_told_why() -> None:
    target = "upstreams: {{openai: {{target_url: '{}'}}}}".format
    (line,) = problems(target("http://a..b"))
    assert line == "1:34: upstreams.openai.target_url: not a URL: the host has a dot too many"
    (line,) = problems(target(f"https://{'a' * 64}.example:8/v1"))
    assert line.startswith("1:34: upstreams.openai.target_url: not a URL: ")
    assert "63 characters" in line
    for url in (f"http://{'a' * 63}.{'b' * 63}", "http://a.b.", "http://[fe80::1.2.3.4]", "http://10.0.0.1"):
        assert load(target(url)).config.upstreams.by_name["openai"].target_url == url


def test_targets() -> None:
    upstreams = load(
        "upstreams: {a: {target_url: 'http://[::1]:9/base/'}, b: {target_url: '${U}'}}", {"U": "https://h"}
    )
    assert [up.target_url for up in upstreams.config.upstreams.by_name.values()] == ["http://[::1]:9/base", "https://h"]


def test_position_of_what_is_named_and_of_what_is_not() -> None:
    loaded = load_bytes(b"upstreams:\n  acme:\n    api_key: x\n", ENV, Path("f.yaml"))
    assert loaded.position(("upstreams", "acme", "api_key")) == "f.yaml:3:14"
    assert loaded.position(("upstreams", "acme", "target_url")) == "f.yaml:3:5"
    assert loaded.problem(("upstreams", "acme"), "x") == "f.yaml:3:5: upstreams.acme: x"


def test_numbers_are_numbers() -> None:
    for text in ("true", "1.5", "'1'", "one", ""):
        (line,) = problems(f"server: {{workers: {text}}}")
        assert "server.workers: expected a whole number" in line
    assert "less than or equal" in problems("server: {workers: 1000}")[0]


def test_files_are_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert load_config(None, env).path is None
    (tmp_path / "xdg" / "fluxen").mkdir(parents=True)
    (tmp_path / "xdg" / "fluxen" / "fluxen.yaml").write_text("data_dir: state")
    found = load_config(None, env)
    assert found.path == tmp_path / "xdg" / "fluxen" / "fluxen.yaml"
    assert found.config.data_dir == tmp_path / "xdg" / "fluxen" / "state"
    assert load_config(None, {**env, "FLUXEN_DATA_DIR": "/srv/f"}).config.data_dir == Path("/srv/f")
    (tmp_path / "fluxen.yaml").write_text("version: 1")
    assert load_config(None, env).path == Path("fluxen.yaml")
    other = tmp_path / "other.yaml"
    other.write_text("version: 1")
    assert load_config(None, {**env, "FLUXEN_CONFIG": str(other)}).path == other
    assert load_config(other, {**env, "FLUXEN_CONFIG": "/nowhere"}).path == other
    with pytest.raises(ConfigError, match=r"no configuration file /nowhere \(named by FLUXEN_CONFIG\)"):
        load_config(None, {**env, "FLUXEN_CONFIG": "/nowhere"})
    with pytest.raises(ConfigError, match="is a directory, not a configuration file"):
        load_config(tmp_path, env)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_configuration_or_a_config_error(raw: bytes) -> None:
    try:
        load_bytes(raw, {}, None)
    except ConfigError as error:
        assert error.problems


def test_prices_are_read_without_the_rest_of_the_file(tmp_path: Path) -> None:
    """Who computes costs has no provider keys, and half of the file may be in work."""
    path = tmp_path / "x.yaml"
    path.write_text(
        "server: {no_such: 1}\nupstreams: {a: {api_key: '${NOWHERE}'}}\nprices: [{models: m*, free: true}]\n"
    )
    (entry,) = written_prices(path, {})
    assert (entry.models, entry.free) == (("m*",), True)
    for nothing in ("", "server: {}\n", "prices:\n"):
        path.write_text(nothing)
        assert written_prices(path, {}) == ()
    for text, where in (
        ("a: 1\nprices:\n  - {models: m, inputs: 1}\n", ":3:"),
        ("prices: {models: m}\n", ":1:"),
        ("prices: [{models: m, free: true, free: true}]\n", ":1:"),
        ("prices: [\n", ""),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="prices") as caught:
            written_prices(path, {})
        assert all(line.startswith(f"{path}{where}") for line in caught.value.problems)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        written_prices(tmp_path / "no" / "x.yaml", {})


YAML_BITS = st.sampled_from(
    [
        "server",
        "upstreams",
        "api_keys",
        "static",
        "jwt",
        "ledger",
        "<<",
        "key",
        "id",
        "workers",
        ": ",
        ":\n  ",
        "\n",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "!!str ",
        "null",
        "1",
        "'x'",
        "openai",
        "request_path",
        "/v1",
        "${X}",
        "file:x",
        "#",
    ]
)


@given(st.lists(YAML_BITS, max_size=40).map("".join))
def test_any_almost_yaml_too(text: str) -> None:
    try:
        load_bytes(text.encode(), {"X": "y"}, None)
    except ConfigError as error:
        assert all(line.startswith("configuration:") for line in error.problems)
