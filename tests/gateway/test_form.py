"""Forms that are read while they are passed on: the model before the first file, one reading for all, bounded."""

from __future__ import annotations

import email.parser
import email.policy
import re

import pytest
from gateway.test_strict import code, strict
from hypothesis import given
from hypothesis import strategies as st

from fluxen.gateway.admission import Fault
from fluxen.gateway.form import BEGINNING, Form
from fluxen.gateway.kin import Refused
from fluxen.gateway.peek import Peek
from fluxen.gateway.strict import Strict

LINE = "POST /v1/audio/transcriptions"
TYPE = "multipart/form-data; boundary=border-1"


def form(kind: str = TYPE, line: str = LINE, *headers: str) -> Form | Fault:
    found = strict(line, f"Content-Type: {kind}", *headers)
    if isinstance(found, Fault):
        return found
    assert isinstance(found, Strict)
    of = found.form_type()
    if isinstance(of, Fault):
        return of
    try:
        return Form(found, of)
    except Refused as refused:
        return refused.fault


def part(name: str, value: bytes, more: str = "", headers: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'.encode() + value


def whole(*parts: bytes, border: bytes = b"border-1") -> bytes:
    return b"".join(b"--" + border + b"\r\n" + each + b"\r\n" for each in parts) + b"--" + border + b"--\r\n"


MODEL = part("model", b"gpt-5-transcribe")
FILE = part("file", b"RIFF\x00\r\n--\r\n-- \xff" * 50, '; filename="a b.wav"', "Content-Type: audio/wav\r\n")


def fed(data: bytes, size: int = 1 << 20) -> Peek | Fault:
    """What a form says that comes in pieces of this size; nothing is held back that was sent on before a Fault."""
    one = form()
    assert isinstance(one, Form)
    for at in range(0, len(data), size):
        fault = one.feed(data[at : at + size])
        if fault is not None:
            return fault
    return one.end() or Peek(one.model, one.stream)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (whole(MODEL, FILE), Peek("gpt-5-transcribe")),
        (whole(part("language", b"en"), MODEL, part("stream", b"true"), FILE), Peek("gpt-5-transcribe", True)),
        (whole(MODEL, part("include[]", b"a"), part("include[]", b"b"), FILE, FILE), Peek("gpt-5-transcribe")),
        (whole(MODEL), Peek("gpt-5-transcribe")),
        (whole(MODEL, FILE).removesuffix(b"\r\n"), Peek("gpt-5-transcribe")),
        (whole(MODEL, part("prompt", b"")), Peek("gpt-5-transcribe")),
        (whole(part("model", b"gpt-5", "", "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n"), FILE),
         Peek("gpt-5")),
        (whole(MODEL, part("file", b"x", "; filename=\"a\"; filename*=utf-8''%C3%A4.wav")), Peek("gpt-5-transcribe")),
        (whole(MODEL, part("file", b"x" * 300_000, '; filename="a"')), Peek("gpt-5-transcribe")),
    ],
)  # fmt: skip
def test_forms_that_pass(data: bytes, seen: Peek, size: int) -> None:
    if size > 2 or len(data) < 10_000:
        assert fed(data, size) == seen


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        whole(FILE, MODEL),
        whole(FILE),
        whole(part("prompt", b"x")),
        whole(),
        b"",
        b"--border-1\r\n",
        whole(MODEL, MODEL),
        whole(MODEL, FILE, MODEL),
        whole(MODEL, FILE, part("Model", b"gpt-4")),
        whole(MODEL, part("model[]", b"gpt-4")),
        whole(MODEL, part("model[0]", b"gpt-4")),
        whole(MODEL, part("models", b"gpt-4")),
        whole(MODEL, part("fallbacks", b"gpt-4")),
        whole(MODEL, part("_charset_", b"utf-7")),
        whole(part("model", b"gpt-5", '; filename="x"'), FILE),
        whole(part("model", b"Z3B0LTU=", "", "Content-Transfer-Encoding: base64\r\n"), FILE),
        whole(part("model", b"gpt-5", "", "Content-Type: text/plain; charset=utf-7\r\n"), FILE),
        whole(part("model", b"gpt-5", "", "Content-Type: application/json\r\n"), FILE),
        whole(MODEL, part("stream", b"true", '; filename="x"'), FILE),
        whole(MODEL, part("file", b"eA==", '; filename="a"', "Content-Transfer-Encoding: base64\r\n")),
        whole(part("x", b"a--border-1\r\n" + MODEL), FILE),
        whole(part("x", b"a\n--border-1\r\n" + MODEL), FILE),
        whole(part("model", b"gpt-5", '; name="x"'), FILE),
        whole(part("model", b"gpt-5", "; name*=utf-8''x"), FILE),
        whole(part('x"; name="model', b"gpt-4"), MODEL, FILE),
        whole(MODEL, part("file", b"x", '; filename="a\\"; name=\\"model"')),
        whole(MODEL, part("file", b"x", '; filename="a; name=model"')),
        whole(part("mod%65l", b"gpt-4"), MODEL, FILE),
        whole(b'Content-Disposition: form-data;\r\n name="model"\r\n\r\ngpt-4', MODEL, FILE),
        whole(b'Content-Disposition: form-data; name="model"\n\ngpt-4', MODEL, FILE),
        whole(b'Content-Disposition : form-data; name="model"\r\n\r\ngpt-4', MODEL, FILE),
        whole(b'Content-Disposition: attachment; name="model"\r\n\r\ngpt-4', MODEL, FILE),
        whole(MODEL[:-16] + b"gpt-5", b'content-disposition: form-data; name="x"\r\n' + part("model", b"gpt-4")),
        whole(b"\r\ngpt-4", MODEL, FILE),
        whole(b"X-A: b\r\n\r\ngpt-4", MODEL, FILE),
        whole(part("x", b"a\n--border-1\n" + part("model", b"gpt-4")), MODEL, FILE),
        whole(MODEL, part("x", b"a\n--border-1\n" + part("model", b"gpt-4")), FILE),
        whole(MODEL, part("x", b"a--border-1\r\n" + part("model", b"gpt-4")), FILE),
        whole(MODEL, part("x", b"a\r\n--border-1 \r\n" + part("model", b"gpt-4")), FILE),
        whole(MODEL, part("x", b"a\r\n--border-1\n" + part("model", b"gpt-4")), FILE),
        b"--border-1\n" + whole(MODEL, FILE),
        b"preamble\r\n" + whole(MODEL, FILE),
        b"\r\n" + whole(MODEL, FILE),
        whole(MODEL, FILE) + b"--border-1\r\n" + part("model", b"gpt-4"),
        whole(MODEL, FILE) + b"epilogue",
        whole(part("model", b"g" * 1000), FILE),
        whole(part("x", b"a", "", "X-A: " + "b" * 5000 + "\r\n"), MODEL, FILE),
        whole(part("x", b"a" * BEGINNING), MODEL, FILE),
        whole(b'Content-Disposition: form-data; name="model"\r\n--border-1\r\n\r\ngpt-4', MODEL),
    ],
)
def test_forms_that_are_refused(data: bytes, size: int) -> None:
    if size > 1 or len(data) < 10_000:
        assert code(fed(data, size)) == "ambiguous_request"


@pytest.mark.parametrize("model", [b"gpt-4", b"", b" gpt-5", b"gpt-5\r\n", b"gpt-5\x00", b"gpt-5\xff"])
def test_models_that_are_not_allowed(model: bytes) -> None:
    seen = fed(whole(part("model", model), FILE))
    assert isinstance(seen, Fault)
    assert seen.code == "model_not_allowed"


@pytest.mark.parametrize(
    ("kind", "line", "headers", "refusal"),
    [
        ("multipart/form-data", LINE, (), "ambiguous_request"),
        ("multipart/form-data; boundary=short", LINE, (), "ambiguous_request"),
        ("multipart/form-data; boundary=border-1; boundary=border-2", LINE, (), "ambiguous_request"),
        ("multipart/form-data; boundary*=utf-8''border-1", LINE, (), "ambiguous_request"),
        ('multipart/form-data; boundary="border\\-1"', LINE, (), "ambiguous_request"),
        ("multipart/form-data; charset=utf-7; boundary=border-1", LINE, (), "ambiguous_request"),
        ("multipart/mixed; boundary=border-1", LINE, (), "ambiguous_request"),
        ("multipart/related; boundary=border-1", "POST /openai/v1/videos", (), "ambiguous_request"),
        (TYPE, LINE, ("Content-Encoding: gzip",), "unreadable_body"),
        (TYPE, "POST /v1/chat/completions", (), "invalid_json"),
        (TYPE, "POST /openai/v1/messages", (), "invalid_json"),
        (TYPE, "POST /openai/v1/files", (), "model_not_allowed"),
        (TYPE, "GET /openai/v1/files", (), "model_not_allowed"),
        (TYPE, "POST /v1beta/models/gemini-2.0:generateContent", (), "model_not_allowed"),
        (TYPE, "POST /azure/deployments/gpt-5/audio/transcriptions", (), "model_not_allowed"),
        ("application/octet-stream", LINE, (), "model_not_allowed"),
        ("application/octet-stream", "POST /v1/chat/completions", (), "invalid_json"),
        ("audio/wav", LINE, (), "model_not_allowed"),
    ],
)
def test_heads_of_forms(kind: str, line: str, headers: tuple[str, ...], refusal: str) -> None:
    found = form(kind, line, *headers)
    assert isinstance(found, Fault)
    assert found.code == refusal


@pytest.mark.parametrize(
    "kind",
    [TYPE, 'Multipart/Form-Data;boundary="border-1"', "multipart/form-data; boundary=border-1; charset=utf-8"],
)
def test_content_types_of_clients(kind: str) -> None:
    one = form(kind, "POST /openai/v1/images/edits")
    assert isinstance(one, Form)
    assert one.feed(whole(MODEL, FILE)) is None
    assert one.model == "gpt-5-transcribe"


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "tail",
    [
        b'Content-Disposition: form-data; name="model"\n\ngpt-4o',  # email.parser takes this for a part
        b'Content-Disposition: form-data; name="model"\r\ngpt-4o',
        b"Content-Disposition: form-da",
        b"",
    ],
)
def test_nobody_gets_the_headers_of_a_part_that_is_cut_off(tail: bytes, size: int) -> None:
    one = form()
    assert isinstance(one, Form)
    before = whole(MODEL, FILE).removesuffix(b"--\r\n") + b"\r\n"
    data = before + tail
    sent = b""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        assert one.feed(piece) is None
        sent += piece if one.model is None else one.released(piece)
    assert sent == before
    assert code(one.end()) == "ambiguous_request"
    rest = b'Content-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--border-1--\r\n'
    if not tail:
        assert one.feed(rest) is None
        assert one.released(rest) == rest
        assert one.end() is None


def test_what_waits_is_bounded() -> None:
    """Of a large file nothing is kept but what may be a piece of its border."""
    one = form()
    assert isinstance(one, Form)
    assert one.feed(whole(MODEL, FILE)[:-20]) is None
    for _ in range(50):
        assert one.feed(b"\r\n--border-" * 10_000) is None
    assert len(one._rest) < 64


# --- what policy saw, and what others see


def lenient(data: bytes) -> list[bytes]:
    """The models that a parser finds who takes lines to end as they please, names in any case and spelling."""
    models = []
    for piece in re.split(rb"(?:^|\r\n|\n|\r)--border-1(?:--)?[ \t]*(?:\r\n|\n|\r|$)", data):
        head, _, value = re.sub(rb"\r\n|\r", b"\n", piece).partition(b"\n\n")
        names = re.findall(rb"name\*?=\"?([^\";\n]*)", re.sub(rb"\n[ \t]", b" ", head), re.IGNORECASE)
        if any(re.sub(rb"\W", b"", name.lower()) == b"model" for name in names):
            models.append(value)
    return models


def mail(data: bytes) -> list[bytes]:
    """… and what the standard library's parser of mail finds."""
    raw = f"Content-Type: {TYPE}\r\n\r\n".encode() + data
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    found = []
    for each in message.walk():
        if str(each.get_param("name", "", "content-disposition")).lower() == "model":
            payload = each.get_payload(decode=True)
            found.append(payload if isinstance(payload, bytes) else b"")
    return found


PIECE = st.sampled_from(
    [b"--border-1", b"--border-1--", b"\r\n", b"\n", b"\r", b" ", b"--", b"x", b"gpt-4", b"gpt-5", b"\x00", b"\xff",
     b"border-1", b'name="model"', b'; filename="a"', b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-4\r\n',
     b'\n--border-1\nContent-Disposition: form-data; name="model"\n\ngpt-4\n', b";", b'"', b"\\"]
)  # fmt: skip
PARTS = st.sampled_from([MODEL, FILE, part("x", b"y"), part("model", b"gpt-4"), part("Model", b"gpt-5")])
FORMS = st.tuples(
    st.lists(PARTS, max_size=4) | st.lists(PARTS, max_size=3).map(lambda parts: [MODEL, *parts]),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 3), PIECE), max_size=3),
)  # fmt: skip


@given(FORMS, st.integers(1, 400))
def test_what_policy_saw_is_what_every_parser_sees(
    made: tuple[list[bytes], list[tuple[int, int, bytes]]], size: int
) -> None:
    parts, changes = made
    data = whole(*parts)
    for at, gone, piece in changes:
        at %= len(data) + 1
        data = data[:at] + piece + data[at + gone :]
    seen = fed(data, size)
    if isinstance(seen, Fault):
        return
    assert seen.model is not None
    assert seen.model.startswith("gpt-5")
    for models in (lenient(data), mail(data)):
        assert {model.strip(b"\r\n") for model in models} == {seen.model.encode()}


@given(st.lists(st.sampled_from([part("x", b"y"), part("language", b"en"), FILE]), max_size=5), st.integers(1, 300))
def test_plain_forms_are_not_refused(parts: list[bytes], size: int) -> None:
    assert fed(whole(MODEL, *parts), size) == Peek("gpt-5-transcribe")


@given(st.binary(max_size=300))
def test_no_bytes_break_it(data: bytes) -> None:
    assert isinstance(fed(data, 17), Fault)
