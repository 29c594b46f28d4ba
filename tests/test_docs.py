"""The documentation can't lie: generated parts are fresh, links lead somewhere, configurations are valid, and every
block of commands is run by somebody. Its mark says by whom:

    sh run, python run    here, in order, against a real gateway in front of a provider that answers from a script
    sh dist               packaging/smoke, with the executable that `make dist` made
    sh docker             here where a Docker engine runs; packaging/container.sh builds and runs the image without one
    sh make               CI, target by target; here it is checked that the targets exist
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import write_docs
from shared import ROOT, require_program

from fluxen.config.load import load_bytes

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MARKS = {"run", "dist", "docker", "make"}
_BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<mark>\w+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(path: Path, language: str, mark: str | None = None) -> list[str]:
    found = _BLOCK.finditer(path.read_text())
    return [block["text"] for block in found if block["language"] == language and mark in (None, block["mark"])]


@pytest.mark.parametrize("path", [write_docs.CLI, write_docs.CONFIGURATION], ids=lambda path: path.name)
def test_generated_parts_are_fresh(path: Path) -> None:
    text = path.read_text()
    assert "<!-- generated: " in text
    assert write_docs.rewrite(text) == text, "stale: run `make docs`"


def test_every_command_is_documented() -> None:
    text = write_docs.CLI.read_text()
    for command in write_docs.COMMANDS:
        assert f"<!-- generated: {f'help {command}'.strip()} -->" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_configurations_in_the_documentation_are_valid(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for text in blocks(path, "yaml"):
        for name in re.findall(r"file:(secrets/[\w-]+)", text):
            (tmp_path / name).write_text(f"key-of-{name}\n")
        env = {name: f"value-of-{name}" for name in re.findall(r"\$\{(\w+)\}", text)}
        assert load_bytes(text.encode(), {**env, "HOME": "/home/x"}, tmp_path / "fluxen.yaml").warnings == ()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_commands_is_run_by_somebody(path: Path) -> None:
    for block in _BLOCK.finditer(path.read_text()):
        if block["language"] in ("sh", "bash", "python", "console"):
            assert block["mark"] in MARKS, f"nobody runs this:\n{block['text']}"
        if block["mark"] == "make":
            assert all(line.startswith("make ") for line in block["text"].splitlines()), block["text"]


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, path.name


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello from afar"}}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}


class Provider(BaseHTTPRequestHandler):
    """A provider that answers every chat completion alike, to whoever brings the right key."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path == "/v1/chat/completions" and self.headers["Authorization"] == "Bearer sk-of-the-gateway"
        body = json.dumps(ANSWER if known else {"error": {"message": "not scripted"}}).encode()
        self.send_response(200 if known else 418)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Place:
    """A running gateway and a shell beside it."""

    url: str
    env: dict[str, str]
    folder: Path

    def run(self, command: list[str], text: str) -> str:
        """Run a block as written, but for the address."""
        done = subprocess.run(
            [*command, text.replace("127.0.0.1:8080", self.url.removeprefix("http://"))],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def place(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Place]:
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    settings = Path(clean_env["HOME"], ".config", "fluxen", "fluxen.yaml")
    settings.parent.mkdir(parents=True)
    target = f"http://127.0.0.1:{provider.server_address[1]}"
    settings.write_text(f'upstreams: {{openai: {{target_url: "{target}", api_key: sk-of-the-gateway}}}}\n')
    shutil.copy(ROOT / "fluxen.example.yaml", tmp_path)
    fluxen = Path(sys.executable).with_name("fluxen")
    serving = subprocess.Popen(
        [fluxen, "serve", "--port", "0"], cwd=tmp_path, env=clean_env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        url = next(found[1] for line in serving.stdout if (found := re.search(r"OPENAI_BASE_URL=(\S+)/v1", line)))
        env = {
            **clean_env,
            "PATH": f"{fluxen.parent}{os.pathsep}{clean_env['PATH']}",
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "sk-of-the-client",
        }
        yield Place(url, env, tmp_path)
    finally:
        serving.terminate()
        serving.communicate(timeout=60)
        provider.shutdown()
        provider.server_close()
    assert serving.returncode == 0


def test_the_readme_does_what_it_says(place: Place) -> None:
    require_program("curl")
    readme = ROOT / "README.md"
    shell = blocks(readme, "sh", "run")
    before = [place.run(["bash", "-euo", "pipefail", "-c"], text) for text in shell[:7]]
    curl, run, reports, prices, estimate, ledger, init = before
    assert json.loads(curl) == ANSWER
    assert run == ""
    assert "gpt-4o-mini-2024-07-18" in reports
    assert re.search(r"^gpt-5 +openai +standard +1.25 +0.125 ", prices, re.MULTILINE)
    assert re.search(r"^gpt-5 +openai .* 500 .* 0.005 ", estimate, re.MULTILINE), estimate
    assert ledger.startswith("ok: ")
    assert (place.folder / "costs.csv").is_file()
    assert "flx_" in init
    assert "no problem" in init
    (python,) = blocks(readme, "python", "run")
    assert place.run([sys.executable, "-c"], python) == "Hello from afar\n"
    keys = "".join(place.run(["bash", "-euo", "pipefail", "-c"], text) for text in shell[7:])  # from now on it has some
    first, second = re.findall(r"^flx_\S+$", keys, re.MULTILINE)
    assert first != second
    assert re.search(r"^bob +– +research +active", keys, re.MULTILINE)
    report = json.loads(place.run(["bash", "-c"], "fluxen report costs --since 1d --by model --json"))
    (row,) = report["rows"]
    assert (row["model"], row["requests"], row["input_tokens"], row["output_tokens"]) == (
        "gpt-4o-mini-2024-07-18", 3, 33, 21,
    )  # fmt: skip
    assert row["cost_usd"] == "0.00001755"  # 3 × (11 × $0.15 + 7 × $0.60) per million


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name != "README.md"], ids=lambda path: path.name)
def test_commands_of_the_other_pages_work(path: Path, place: Place) -> None:
    commands = blocks(path, "sh", "run")
    if not commands:
        return
    require_program("curl")
    assert json.loads(place.run(["bash", "-c"], blocks(ROOT / "README.md", "sh", "run")[0])) == ANSWER  # a row
    for text in commands:
        place.run(["bash", "-eo", "pipefail", "-c"], text)
