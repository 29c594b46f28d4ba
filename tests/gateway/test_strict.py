"""The strict look into bodies: what policy saw is what every parser behind us sees, or the request is refused."""

from __future__ import annotations

import functools
import gzip
import json
import re
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fluxen.config.load import load_bytes
from fluxen.gateway.admission import Fault
from fluxen.gateway.head import HeaderKinds, RequestHead
from fluxen.gateway.kin import KIN, Refused, folded, top_level
from fluxen.gateway.peek import Peek
from fluxen.gateway.snapshot import Snapshot, build
from fluxen.gateway.strict import Strict
from fluxen.gateway.target import split_target, under
from fluxen.keys.client import ClientKey

CHAT = "POST /v1/chat/completions"
KEY = ClientKey("k", models=("gpt-5*", "gemini-2*", "claude-*", "tunedModels/mine"))
LIMIT = 100_000


@functools.cache
def snapshot() -> Snapshot:
    config = b"upstreams: {openai: , anthropic: , gemini: , azure: {target_url: 'https://x.example/openai'}}\n"
    return build(load_bytes(config, {}, Path("/nowhere/fluxen.yaml")), {})


def strict(line: str = CHAT, *headers: str, key: ClientKey = KEY) -> Strict | Fault:
    raw = "\r\n".join((f"{line} HTTP/1.1", "Host: x", *headers)).encode("latin-1")
    head = RequestHead(raw, HeaderKinds())
    assert head.fault is None
    path, query, _, _ = split_target(head.target)
    route = snapshot().router.find(path, "openai")
    rest = path if route.upstream is None else path[len(route.upstream.mount) :]
    try:
        return Strict(key, route, head, rest, query, LIMIT)
    except Refused as refused:
        return refused.fault


def judged(body: bytes, line: str = CHAT, *headers: str) -> Peek | Fault:
    found = strict(line, *headers)
    return found.judge(body) if isinstance(found, Strict) else found


def code(seen: Peek | Fault | Strict) -> str:
    assert isinstance(seen, Fault), seen
    assert seen.status == (403 if seen.code == "model_not_allowed" else 400)
    return seen.code


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b'{"model":"gpt-5"}', Peek("gpt-5")),
        (b' {"messages" : [{"model":"x"}], "model":"gpt-5-mini", "stream":true}\n', Peek("gpt-5-mini", True)),
        (b'{"model":"gpt-5","stream":false,"max_tokens":1,"n":1}', Peek("gpt-5", False)),
        (b'{"mo\\u0064el":"gpt-\\u0035"}', Peek("gpt-5")),
        (b'{"model":"models/gemini-2.0"}', Peek("models/gemini-2.0")),
        (b'{"model":"gpt-5","metadata":{"a":1,"a":2,"Model":3}}', Peek("gpt-5")),
        (b'{"model":"gpt-5","tools":[{"type":"function","function":{"name":"model"}},{"type":"x","model":"gpt-5"}]}',
         Peek("gpt-5")),
        (b'{"model":"gpt-5","models":["gpt-5-mini"],"fallbacks":[{"model":"gpt-5-nano"}],"fallback_model":null}',
         Peek("gpt-5")),
        ('{"model":"gpt-5","x":"é"}'.encode(), Peek("gpt-5")),
    ],
)  # fmt: skip
def test_bodies_that_pass(body: bytes, seen: Peek) -> None:
    assert judged(body) == seen


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        # another model, or none that can be told
        (b'{"model":"gpt-4"}', "model_not_allowed"),
        (b'{"model":"GPT-5"}', "model_not_allowed"),
        (b'{"model":" gpt-5"}', "model_not_allowed"),
        (b'{"model":"gpt-5\\u0000"}', "model_not_allowed"),
        (b'{"model":"gpt-5\\n"}', "model_not_allowed"),
        ('{"model":"gpt-５"}'.encode(), "model_not_allowed"),
        (b'{"model":""}', "model_not_allowed"),
        (b'{"model":null}', "model_not_allowed"),
        (b'{"model":["gpt-5"]}', "model_not_allowed"),
        (b"{}", "model_not_allowed"),
        (b"", "model_not_allowed"),
        (b'{"model":"gpt-5","models":["gpt-4"]}', "model_not_allowed"),
        (b'{"model":"gpt-5","models":"gpt-4"}', "model_not_allowed"),
        (b'{"model":"gpt-5","models":[["gpt-5"]]}', "model_not_allowed"),
        (b'{"model":"gpt-5","fallbacks":[{"model":"gpt-4"}]}', "model_not_allowed"),
        (b'{"model":"gpt-5","fallback_model":{"x":1}}', "model_not_allowed"),
        (b'{"model":"gpt-5","tools":[{"type":"image_generation","model":"gpt-image-1"}]}', "model_not_allowed"),
        (b'{"model":"gpt-5","tools":[' + b"{}," * 100_000 + b"{}]}", "ambiguous_request"),
        (b'{"model":"gpt-5","fallbacks":[' + b'"gpt-5",' * 100_000 + b'"gpt-5"]}', "ambiguous_request"),
        # two readings
        (b'{"model":"gpt-5","model":"gpt-5"}', "ambiguous_request"),
        (b'{"model":"gpt-4","model":"gpt-5"}', "ambiguous_request"),
        (b'{"model":"gpt-5","mod\\u0065l":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","Model":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","MODEL":"gpt-5"}', "ambiguous_request"),
        (b'{"Model":"gpt-5"}', "ambiguous_request"),
        (b'{"model":"gpt-5","model\\u0000":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","model ":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","_model":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","\\u200bmodel":"gpt-4"}', "ambiguous_request"),
        ('{"model":"gpt-5","ｍodel":"gpt-4"}'.encode(), "ambiguous_request"),
        ('{"model":"gpt-5","ſtream":true}'.encode(), "ambiguous_request"),
        ('{"model":"gpt-5","max_to\u212aens":9}'.encode(), "ambiguous_request"),
        (b'{"model":"gpt-5","maxTokens":9}', "ambiguous_request"),
        (b'{"model":"gpt-5","N":9}', "ambiguous_request"),
        (b'{"model":"gpt-5","' + b"_" * 90_000 + b'model":"gpt-4"}', "ambiguous_request"),
        (b'{"model":"gpt-5","stream":false,"Stream":true}', "ambiguous_request"),
        (b'{"model":"gpt-5","x":1,"y":2,"x":3}', "ambiguous_request"),
        (b'{"model":"gpt-5","generationConfig":{},"generation_config":{}}', "ambiguous_request"),
        (b'{"model":"gpt-5","tools":[{"model":"gpt-5","model":"gpt-4"}]}', "ambiguous_request"),
        (b'{"model":"gpt-5",' + b",".join(b'"%d":0' % n for n in range(2000)) + b"}", "ambiguous_request"),
        # no JSON, or not for everybody
        (b"[]", "invalid_json"),
        (b'"gpt-5"', "invalid_json"),
        (b"model=gpt-5", "invalid_json"),
        (b'{"model":"gpt-5"', "invalid_json"),
        (b'{"model":"gpt-5"}{"model":"gpt-4"}', "invalid_json"),
        (b'{"model":"gpt-5"}\x00', "invalid_json"),
        (b'{"model":"gpt-5",}', "invalid_json"),
        (b'{"model":"gpt-5"/*,*/}', "invalid_json"),
        (b'{"model":"gpt-5","x":NaN}', "invalid_json"),
        (b'\xef\xbb\xbf{"model":"gpt-5"}', "invalid_json"),
        ('{"model":"gpt-5"}'.encode("utf-16"), "invalid_json"),
        ('{"model":"gpt-5"}'.encode("utf-16-le"), "invalid_json"),
        (b'{"model":"gpt-5","x":"\xc3","y":",\\"model\\":\\"gpt-4\\""}', "invalid_json"),
        (b'{"model":"gpt-5","x":"\xff"}', "invalid_json"),
        (b'{"model":"gpt-5","x":"\xed\xa0\x80"}', "invalid_json"),
        (b'{"model":"gpt-5","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "invalid_json"),
    ],
)
def test_bodies_that_are_refused(body: bytes, refusal: str) -> None:
    assert code(judged(body)) == refusal


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("application/json", None),
        ("Application/JSON; charset=UTF-8", None),
        ('application/json;charset="utf-8"', None),
        ("application/vnd.api+json", None),
        ("text/json", None),
        ("application/json; version=1", None),
        ("application/json; charset=utf-7", "ambiguous_request"),
        ("application/json; charset=utf-16", "ambiguous_request"),
        ("application/json; charset=utf-8; charset=ibm037", "ambiguous_request"),
        ("application/json; charset*=utf-7''utf-7", "ambiguous_request"),
        ("application/x-www-form-urlencoded", "invalid_json"),
        ("text/plain", "invalid_json"),
        ("application/json, text/plain", "invalid_json"),
        ("application/jsonp", "invalid_json"),
    ],
)
def test_content_types(kind: str, refusal: str | None) -> None:
    seen = judged(b'{"model":"gpt-5"}', CHAT, f"Content-Type: {kind}")
    if refusal is None:
        assert seen == Peek("gpt-5")
    else:
        assert code(seen) == refusal


def test_compressed_bodies() -> None:
    body = b'{"model":"gpt-5","stream":true}'
    packed = {
        "gzip": gzip.compress(body),
        "x-gzip": gzip.compress(body[:10]) + gzip.compress(body[10:]),
        "deflate": zlib.compress(body),
        "br": brotli.compress(body),
        "zstd": zstandard.compress(body),
        "identity": body,
        "": body,
    }
    for encoding, data in packed.items():
        assert judged(data, CHAT, f"Content-Encoding: {encoding}") == Peek("gpt-5", True), encoding
    raw = zlib.compressobj(wbits=-15)
    assert judged(raw.compress(body) + raw.flush(), CHAT, "Content-Encoding: deflate") == Peek("gpt-5", True)
    for encoding in ("gzip", "br", "zstd", "deflate", "compress", "gzip, br", "aes128gcm", "x"):
        assert code(judged(body, CHAT, f"Content-Encoding: {encoding}")) == "unreadable_body", encoding
    assert code(judged(gzip.compress(body) + b"garbage", CHAT, "Content-Encoding: gzip")) == "unreadable_body"
    bomb = gzip.compress(b'{"model":"gpt-5","x":"' + b" " * LIMIT + b'"}')
    assert code(judged(bomb, CHAT, "Content-Encoding: gzip")) == "unreadable_body"
    other = gzip.compress(b'{"model":"gpt-4"}')
    assert code(judged(other, CHAT, "Content-Encoding: gzip")) == "model_not_allowed"


def test_deflate_that_can_be_read_in_two_ways() -> None:
    """zlib's two bytes are the beginning of an empty stored block to whoever expects none of them."""
    stored = b'{"model":"gpt-4"}'
    seed = b"\x78\x01"  # read without wrapping: a stored block, its length in the two bytes behind the first
    size = seed[1] | 0x00 << 8
    raw = bytes([0x78, size, 0x00, size ^ 0xFF, 0xFF]) + b" " * size + b"\x01" + bytes([len(stored), 0])
    raw += bytes([len(stored) ^ 0xFF, 0xFF]) + stored
    assert zlib.decompressobj(-15).decompress(raw).strip() == stored
    assert code(judged(raw, CHAT, "Content-Encoding: deflate")) in ("unreadable_body", "ambiguous_request")


def test_deflate_that_is_whole_both_ways() -> None:
    """With zlib's wrapping it says one thing; without, everything up to another block is in a stored one."""
    said = b'{"model":"gpt-5"}'.ljust(0x07FE)
    wrapped = b"\x78\x01" + b"\xf8\xfe\x07\x01\xf8" + said + b"\x01\x00\x00\xff\xff"
    wrapped += zlib.adler32(said).to_bytes(4, "big")
    assert zlib.decompress(wrapped) == said
    assert zlib.decompressobj(-15).decompress(wrapped).endswith(wrapped[5:])
    assert code(judged(wrapped, CHAT, "Content-Encoding: deflate")) == "ambiguous_request"


def test_compressed_and_json_at_once() -> None:
    """To whoever does not look at Content-Encoding the first bytes are those of an object."""
    size = int.from_bytes(b'{"', "little")
    body = b' {"' + (size ^ 0xFFFF).to_bytes(2, "little") + b'{"model":"gpt-5"}'.ljust(size) + b"\x01\x00\x00\xff\xff"
    assert zlib.decompress(body, -15).rstrip() == b'{"model":"gpt-5"}'
    assert code(judged(body, CHAT, "Content-Encoding: deflate")) == "ambiguous_request"


@pytest.mark.parametrize(
    ("line", "body", "seen"),
    [
        # reads without a body say no model
        ("GET /v1/models", b"", Peek()),
        ("GET /v1/models/gpt-4", b"", Peek()),
        ("GET /v1/files/f", b"", Peek()),
        ("DELETE /v1/files/f", b"", Peek()),
        ("HEAD /openai/v1/batches", b"", Peek()),
        ("GET /openai/v1/responses/r", b'{"model":"gpt-5"}', "model_not_allowed"),
        # a path that names the model
        ("POST /v1beta/models/gemini-2.0:generateContent", b"{}", Peek("gemini-2.0")),
        ("POST /v1beta/models/gemini-2.0:generateContent", b"", Peek("gemini-2.0")),
        ("POST /v1/models/gemini-2.0:streamGenerateContent?alt=sse", b'{"model":"models/gemini-2.0"}',
         Peek("gemini-2.0")),
        ("POST /gemini/v1beta/models/gemini-2.0:countTokens", b'{"model":"gemini-2.0"}', Peek("gemini-2.0")),
        ("POST /v1beta/tunedModels/mine:generateContent", b"{}", Peek("tunedModels/mine")),
        ("POST /v1beta/tunedModels/gemini-2x:generateContent", b"{}", "model_not_allowed"),
        ("POST /v1beta/models/gemini-3:generateContent", b"{}", "model_not_allowed"),
        ("GET /v1beta/models/gemini-3:generateContent", b"", "model_not_allowed"),
        ("GET /v1beta/models/gemini-3", b"", "model_not_allowed"),
        ("GET /v1beta/models", b"", Peek()),
        ("POST /v1beta/models/gemini-2.0:generateContent", b'{"model":"gemini-2.5"}', "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:generateContent", b'{"model":1}', "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:x:generateContent", b"{}", "model_not_allowed"),
        ("POST /v1beta/models/gemini-2.0:batchEmbedContents",
         b'{"requests":[{"model":"models/gemini-2.0"},{"model":"models/gemini-2.0","content":{"model":"x"}}]}',
         Peek("gemini-2.0")),
        ("POST /v1beta/models/gemini-2.0:batchEmbedContents",
         b'{"requests":[{"model":"models/gemini-2.0"},{"model":"models/gemini-3"}]}', "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:batchGenerateContent",
         b'{"batch":{"input_config":{"requests":{"requests":[{"request":{"model":"models/gemini-3"}}]}}}}',
         "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:countTokens", b'{"generateContentRequest":{"model":"models/gemini-3"}}',
         "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:batchEmbedContents",
         b'{"requests":' * 500 + b'[{"model":"gemini-3"}]' + b"}" * 500, "ambiguous_request"),
        ("POST /v1beta/models/gemini-2.0:batchEmbedContents",
         b'{"requests":[' + b",".join([b'{"requests":[' + b",".join([b"{}"] * 1000) + b"]}"] * 100) + b"]}",
         "ambiguous_request"),
        ("POST /openai/v1/agents/completions", b'{"model":"gpt-5","agent_id":"a"}', "model_not_allowed"),
        ("POST /openai/v1/threads/t/completions", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /azure/deployments/gpt-5/chat/completions?api-version=1", b'{"model":"gpt-5"}', Peek("gpt-5")),
        ("POST /azure/deployments/gpt-5/chat/completions", b"{}", Peek("gpt-5")),
        ("POST /azure/deployments/gpt-4/chat/completions", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /azure/deployments/gpt-5/chat/completions", b'{"model":"gpt-4"}', "ambiguous_request"),
        ("POST /azure/deployments/gpt-5/models/gpt-4/chat/completions", b"{}", "model_not_allowed"),
        ("POST /azure/Deployments/gpt-4/chat/completions", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /azure/engines/gpt-4/completions", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /azure/models/gpt-4/v1/chat/completions", b'{"model":"gpt-5"}', "model_not_allowed"),
        # endpoints that are told the model elsewhere, or not at all
        ("POST /v1/batches", b'{"model":"gpt-5","input_file_id":"f"}', "model_not_allowed"),
        ("POST /openai/v1/files", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /v1/responses/r/cancel", b"", "model_not_allowed"),
        ("POST /anthropic/v1/messages/batches", b'{"model":"claude-1","requests":[]}', "model_not_allowed"),
        ("POST /openai/v1/threads/runs", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /openai/v1/realtime/client_secrets", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("POST /openai/v2/chat", b'{"model":"gpt-5"}', "model_not_allowed"),
        ("PUT /openai/v1/x", b"", "model_not_allowed"),
        ("PATCH /gemini/v1beta/cachedContents/c", b'{"model":"models/gemini-2"}', "model_not_allowed"),
        ("BREW /openai/v1/x", b"", "model_not_allowed"),
        ("POST /v1/messages", b'{"model":"claude-1"}', Peek("claude-1")),
        ("POST /v1/messages/count_tokens", b'{"model":"claude-1"}', Peek("claude-1")),
        ("POST /openai/chat/completions", b'{"model":"gpt-5"}', Peek("gpt-5")),
        ("POST /v1/embeddings", b'{"model":"gpt-5"}', Peek("gpt-5")),
        ("POST /gemini/v1beta/openai/chat/completions", b'{"model":"gemini-2.0"}', Peek("gemini-2.0")),
        # what else could name a model, or another method
        ("POST /v1/chat/completions?model=gpt-4", b'{"model":"gpt-5"}', "ambiguous_request"),
        ("POST /v1/chat/completions?a=b&%6dODEL=gpt-4", b'{"model":"gpt-5"}', "ambiguous_request"),
        ("POST /v1/chat/completions?a=b;%256dodel=gpt-4", b'{"model":"gpt-5"}', "ambiguous_request"),
        ("POST /v1/chat/completions?model[]=gpt-4", b'{"model":"gpt-5"}', "ambiguous_request"),
        ("GET /gemini/v1beta/files?$httpMethod=POST", b"", "ambiguous_request"),
        ("POST /v1/chat/completions?beta=true&api-version=1", b'{"model":"gpt-5"}', Peek("gpt-5")),
    ],
)  # fmt: skip
def test_where_a_model_is_told(line: str, body: bytes, seen: Peek | str) -> None:
    found = judged(body, line)
    if isinstance(seen, Peek):
        assert found == seen
    else:
        assert code(found) == seen


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_no_header_makes_another_method_of_it(name: str) -> None:
    assert code(strict("GET /v1/models", f"{name}: POST")) == "ambiguous_request"


def test_the_names_that_count_are_told_apart() -> None:
    for name in KIN:
        assert folded(name).isalnum()
    with pytest.raises(Refused):
        top_level(b'{"generation_config":1,"generationConfig":2}')


# --- what policy saw, and what others see


NAME = st.sampled_from(
    ["model", "Model", "MODEL", "mo\\u0064el", "\\u006dodel", "modeL", "model\\u0000", "model ", "stream", "Stream",
     "\\u0073tream", "n", "N", "max_tokens", "Max_Tokens", "maxTokens", "ſtream", "messages", "x", "y", "metadata"]
)  # fmt: skip
SCALAR = st.sampled_from(
    ['"gpt-5"', '"gpt-4"', '"gpt-\\u0034"', "true", "false", "null", "1", "1e3", '"\\""', '"a\\\\"', '"}"', '"é"']
)
SPACE = st.sampled_from(["", " ", "\n", "\t "])


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(SPACE, NAME, SPACE, SPACE, values).map(lambda m: f'{m[0]}"{m[1]}"{m[2]}:{m[3]}{m[4]}')
    return st.lists(member, max_size=5).map(lambda members: "{" + ",".join(members) + "}")


VALUE = st.recursive(
    SCALAR, lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda v: "[" + ",".join(v) + "]")
)
BODY = st.one_of(
    objects(VALUE).map(str.encode),
    objects(VALUE).map(lambda text: text.replace("{", '{"model":"gpt-5",', 1).replace(",}", "}").encode()),
    st.tuples(objects(VALUE), st.integers(0, 80), st.binary(max_size=3)).map(
        lambda t: t[0].encode()[: t[1]] + t[2] + t[0].encode()[t[1] :]
    ),
)
Pairs = list[tuple[str, object]]


def readings(body: bytes) -> list[dict[str, object]]:
    """What parsers of several manners find at the top of a body, by lower-cased names as well; none for those that
    refuse it."""
    found: list[dict[str, object]] = []
    for text in (body.decode("latin-1"), body.decode("utf-8", "ignore"), body.decode("utf-8", "replace")):
        try:
            top = json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs))
        except (ValueError, RecursionError):
            continue
        if not isinstance(top, tuple):
            continue
        pairs: Pairs = top[1]
        careless = [(re.sub(r"[\W_]", "", name.casefold()), value) for name, value in pairs]
        cut = [(name.partition("\0")[0], value) for name, value in pairs]
        found += [dict(each) for each in (pairs, pairs[::-1], careless, careless[::-1], cut, cut[::-1])]
    return found


@given(BODY)
def test_what_policy_saw_is_what_every_parser_sees(body: bytes) -> None:
    seen = judged(body)
    if isinstance(seen, Fault):
        return
    assert seen.model is not None
    assert seen.model.startswith("gpt-5")
    read = readings(body)
    assert len(read) >= 6, "policy understood what nobody else does"
    for reading in read:
        assert reading["model"] == seen.model
        stream = reading.get("stream")
        assert (stream if isinstance(stream, bool) else None) == seen.stream


@given(st.lists(st.tuples(NAME, SCALAR), max_size=6))
def test_plain_bodies_are_not_refused(members: list[tuple[str, str]]) -> None:
    """Names that are there once and spelled as the protocols do: never ambiguous."""
    once = {name: value for name, value in members if name in ("stream", "n", "max_tokens", "messages", "x", "y")}
    body = json.dumps({**{name: json.loads(value) for name, value in once.items()}, "model": "gpt-5"})
    assert isinstance(judged(body.encode()), Peek)


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br", "zstd", "x"]))
def test_no_bytes_break_it(body: bytes, encoding: str) -> None:
    seen = judged(body, CHAT, f"Content-Encoding: {encoding}")
    assert isinstance(seen, Fault)


def test_the_rest_of_a_path_is_what_lies_below_its_mount() -> None:
    assert under(b"/azure/deployments", b"/azure")
