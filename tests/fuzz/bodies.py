"""Bodies of a key that may use certain models only: JSON and forms, and the paths that they are sent to.

Judged by other readers, careful and careless ones. Whatever one of them takes for the model has to be one that the key
may use, or policy must have refused the request.
"""

from __future__ import annotations

import email
import email.policy
import json
import random
import re
from collections.abc import Hashable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from fluxen.config.load import load_bytes
from fluxen.gateway.admission import Fault
from fluxen.gateway.head import HeaderKinds
from fluxen.gateway.opening import Opening, Openings
from fluxen.gateway.snapshot import build

CONFIG = b"""
version: 1
upstreams:
  openai: {target_url: "http://one.example", api_key: sk-provider}
  gemini: {target_url: "http://two.example", api_key: sk-provider}
  azure: {target_url: "http://three.example", api_key: sk-provider, dialect: openai}
api_keys:
  static: [{id: some, key: fx-client-0123456789abcdef, models: ["gpt-5*", "gemini-2*"]}]
"""
ALLOWED = ("gpt-5*", "gemini-2*")
BORDER = b"boundary-0123456789"
FORM = b"multipart/form-data; boundary=" + BORDER
HEADS = (
    (b"/v1/chat/completions", b"application/json"),
    (b"/openai/v1/responses", b"application/json; charset=utf-8"),
    (b"/v1/audio/transcriptions", FORM),
    (b"/openai/v1/images/edits", FORM),
    (b"/v1beta/models/gemini-2:generateContent", b"application/json"),
    (b"/gemini/v1beta/models/gemini-2.0-flash:batchGenerateContent", b"application/json"),
    (b"/azure/openai/deployments/gpt-5/chat/completions", b"application/json"),
    (b"/v1/chat/completions", b"text/plain"),
)
NAMES = (
    "model", "model", "model", "Model", "MODEL", "mod\\u0065l", "model\\u0000", " model", "models", "stream",
    "Stream", "messages",
    "max_tokens", "maxTokens", "n", "N", "fallbacks", "tools", "requests", "mo\u00addel", "\uff4dodel", "model[]", "x",
)  # fmt: skip
VALUES = (
    '"gpt-5"', '"gpt-5-mini"', '"gpt-4o"', '"gemini-2"', '"gpt-5\\u0000"', '"\\u0067pt-4o"', "null", "true", "1",
    "[]", "{}",
    '["gpt-4o"]', '{"model":"gpt-4o"}', '[{"model":"gpt-4o"}]', '[{"model":"gpt-5","model":"gpt-4o"}]',
    '"models/gpt-5"', "NaN",
    '"GPT-5"', '" gpt-5"', "1e999", '"\\ud800"', '[{"request":{"model":"models/gemini-1"}}]', "-0", '"gpt-5*"',
)  # fmt: skip
DISPOSITIONS = (
    b'form-data; name="model"', b"form-data; name=model", b'form-data; name="Model"',
    b'form-data; name="file"; filename="a.wav"',
    b'form-data; name="model"; filename="x"', b'form-data; name="stream"',
    b"form-data; name=\"model\"; filename*=utf-8''x",
    b'form-data; name="mo\\del"', b'form-data; name="x"; name="model"', b'form-data; name*=utf-8\'\'model',
    b'form-data; name="models"',
    b'form-data;name="model" ', b'attachment; name="model"', b'form-data; name="prompt"', b'form-data; name="model[]"',
)  # fmt: skip


class Bodies:
    name = "bodies"
    traced = tuple(f"fluxen/gateway/{name}.py" for name in ("strict", "kin", "form"))
    base_steps = 200_000
    words: Sequence[bytes] = (
        *(f'"{name}":'.encode() for name in NAMES), *(value.encode() for value in VALUES), *DISPOSITIONS,
        b"\r\n--" + BORDER + b"\r\n", b"--" + BORDER, b"--" + BORDER + b"--\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b"\n",
        b"Content-Disposition: ", b"Content-Type: text/plain", b"Content-Transfer-Encoding: base64", b"{", b"}", b",",
        b":", b'"',
        b"\\", b"\x00", b"\xff", b"\xef\xbb\xbf", b"/*", b"//", b"gpt-5", b"gpt-4o", b" ", b"\x0b", b"\xc2\x85",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        env = {"FLUXEN_DATA_DIR": str(folder / "data"), "HOME": str(folder)}
        snapshot = build(load_bytes(CONFIG, env, folder / "fluxen.yaml"), env)
        openings = Openings(snapshot, HeaderKinds())
        head = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer fx-client-0123456789abcdef\r\n"
            b"Content-Type: %b\r\nContent-Length: 2"
        )
        self._openings: list[Opening] = [openings.find(head % (target, kind))[0] for target, kind in HEADS]

    def seeds(self) -> list[bytes]:
        chance = random.Random(1)
        return [
            b"%d" % place + body for place in range(len(HEADS)) for body in (b'{"model":"gpt-5"}', _form(chance), b"")
        ]

    def make(self, chance: random.Random) -> bytes:
        place = chance.randrange(len(HEADS))
        return b"%d" % place + (_form(chance) if HEADS[place][1] is FORM else _json(chance))

    def run(self, case: bytes) -> Hashable:
        opening = self._openings[case[0] % len(HEADS) if case else 0]
        body = case[1:]
        if opening.fault is not None:
            return opening.fault.code
        if opening.held:
            seen = opening.judge(body)
            if isinstance(seen, Fault):
                return seen.message
            for model in json_models(body):
                assert may(model), f"{model!r} may be read in it, and policy saw {seen}"
            assert seen.model is None or may(seen.model), seen
            return seen.model is None, seen.stream
        form = opening.form()
        assert form is not None, "a body that nobody reads"
        if isinstance(form, Fault):
            return form.message
        middle = len(body) // 2
        for piece in (body[:middle], body[middle:]):
            if (refused := form.feed(piece)) is not None:
                return refused.message
            if form.model is not None:
                form.released(piece)
        if (fault := form.end()) is not None:
            return fault.message
        assert form.model is not None
        assert may(form.model), form.model
        for model in form_models(body):
            assert may(model), f"{model!r} may be read in the form, and policy saw {form.model!r}"
        return "form", form.stream


def may(model: object) -> bool:
    return isinstance(model, str) and any(fnmatchcase(model.removeprefix("models/"), one) for one in ALLOWED)


def json_models(body: bytes) -> Iterator[object]:
    """What readers of several manners take for the model at the top of a body."""
    for text in {body.decode("latin-1"), body.decode("utf-8", "ignore"), body.decode("utf-8", "replace")}:
        for stripped in (text, text.lstrip("\ufeff \t\r\n\x0b\x0c\x85\xa0")):
            try:
                top, _ = json.JSONDecoder(object_pairs_hook=tuple, strict=False).raw_decode(stripped)
            except (ValueError, RecursionError):
                continue
            for name, value in top if isinstance(top, tuple) else ():
                if re.sub(r"[\W_]", "", name.partition("\0")[0].casefold()) == "model":
                    yield value


def form_models(body: bytes) -> Iterator[str]:
    """What readers of several manners take for the field `model` of a form, wherever it stands."""
    message = email.message_from_bytes(
        b"Content-Type: " + FORM + b"\r\n\r\n" + body, policy=email.policy.compat32
    )  # fmt: skip
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and name.lower() == "model" and not part.is_multipart():
            payload = part.get_payload(decode=True)
            yield payload.decode("latin-1") if isinstance(payload, bytes) else str(payload)
    for piece in re.split(rb"\r?\n?--" + re.escape(BORDER), body):
        head, blank, value = piece.replace(b"\r\n", b"\n").lstrip(b"\n").partition(b"\n\n")
        if blank and re.search(rb'(?i)content-disposition:[^\n]*[; ]name="?model"?\s*(?:[;\n]|$)', head):
            yield unquote(value.decode("latin-1")).removesuffix("\n")


def _json(chance: random.Random) -> bytes:
    members = ['"model":"gpt-5"'] if chance.random() < 0.7 else []
    members += [f'"{chance.choice(NAMES)}":{chance.choice(VALUES)}' for _ in range(chance.randrange(4))]
    chance.shuffle(members)
    return ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass")


def _form(chance: random.Random) -> bytes:
    parts = [(DISPOSITIONS[0], b"gpt-5")] if chance.random() < 0.8 else []
    parts += [
        (chance.choice(DISPOSITIONS), chance.choice((b"gpt-5", b"gpt-4o", b"gpt-5\r\n", b"true", b"\x00\xff", b"")))
        for _ in range(chance.randrange(4))
    ]
    body = b"".join(
        b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (BORDER, disposition, value) for disposition, value in parts
    )
    return body + b"--" + BORDER + b"--\r\n"
