"""`fluxen cost estimate`, run as a user runs it: offline, on texts, requests and folders of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import Terminal
from shared import Fluxen

from fluxen.analyzer.tokens import tokenizer

PROMPT = "Summarise in three sentences what a gateway does.\n"
TOKENS = tokenizer("o200k_base").count(PROMPT) + 7  # the frame of the one message and the answer's beginning
GPT_4O = (Decimal("2.5"), Decimal("1.25"), Decimal("10"))
"""Dollars per million tokens of input, of cached input and of output, as OpenAI's list has had them for two years."""
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
REQUEST = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 500}


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    return file


def estimated(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer)[:2] == ["schema_version", "report"]
    models: list[dict[str, Any]] = answer["models"]
    return models


def test_a_prompt_with_models_side_by_side(fluxen: Fluxen, prompt: Path) -> None:
    done = fluxen(
        "cost", "estimate", str(prompt), "--models", "gpt-4o, claude-sonnet-4-5", "--output-tokens", "1000", "--json"
    )
    ours, theirs = estimated(done)
    assert (ours["model"], ours["provider"], ours["input_tokens"], ours["output_tokens"]) == (
        "gpt-4o",
        "openai",
        TOKENS,
        1000,
    )
    fresh, cached, out = (price / 10**6 for price in GPT_4O)
    assert Decimal(ours["input_usd"]) == TOKENS * fresh
    assert Decimal(ours["cached_usd"]) == TOKENS * cached
    assert Decimal(ours["output_usd"]) == 1000 * out
    assert Decimal(ours["total_usd"]) == TOKENS * fresh + 1000 * out
    assert Decimal(ours["batch_usd"]) == Decimal(ours["total_usd"]) / 2
    assert (theirs["model"], theirs["provider"], theirs["family"]) == (
        "claude-sonnet-4-5",
        "anthropic",
        "claude 4.1 to 4.6",
    )
    assert theirs["plus_minus"] > 0
    assert Decimal(theirs["cached_usd"]) < Decimal(theirs["input_usd"]) < Decimal(theirs["total_usd"])


def test_a_request_names_its_own_model_and_limit(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    (line,) = estimated(fluxen("cost", "estimate", "request.json", "--json"))
    assert (line["model"], line["input_tokens"], line["output_tokens"], line["requests"]) == ("gpt-4o", TOKENS, 500, 1)


def test_stdin(fluxen: Fluxen, clean_env: dict[str, str], tmp_path: Path) -> None:
    for arguments in ((), ("-",)):
        command = [sys.executable, "-m", "fluxen_cli", "cost", "estimate", *arguments, "--json"]
        done = subprocess.run(
            command, input=json.dumps(REQUEST), capture_output=True, text=True, env=clean_env, cwd=tmp_path, check=False
        )
        assert estimated(done)[0]["input_tokens"] == TOKENS


def test_a_folder_is_added_up(fluxen: Fluxen, tmp_path: Path) -> None:
    """Texts, requests and lines of a batch, folders in folders; what is no text is told, what is hidden is not read."""
    deep = tmp_path / "all" / "more"
    deep.mkdir(parents=True)
    (tmp_path / "all" / "a.txt").write_text(PROMPT)
    (tmp_path / "all" / "b.json").write_text(json.dumps(REQUEST))
    line = json.dumps({"custom_id": "1", "body": REQUEST})
    (deep / "batch.jsonl").write_text(f"{line}\n{line}\n\n")
    (deep / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (deep / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "all" / ".hidden").write_text(PROMPT)
    (tmp_path / "all" / "loop").symlink_to(tmp_path / "all")
    os.mkfifo(tmp_path / "all" / "pipe")
    done = fluxen("cost", "estimate", "all", "--models", "gpt-4o", "--output-tokens", "10", "--json")
    (found,) = estimated(done)
    assert (found["requests"], found["input_tokens"], found["output_tokens"]) == (4, 4 * TOKENS, 40)
    assert json.loads(done.stdout)["skipped_files"] == 3
    assert "3 files are no text" in done.stderr
    assert "the sum of 4 requests" in done.stderr


def test_the_band_of_a_sum_is_that_of_all_its_parts(fluxen: Fluxen, tmp_path: Path) -> None:
    """As if all estimates were wrong the same way, which those of one model family are."""
    (tmp_path / "all").mkdir()
    for name in "abc":
        (tmp_path / "all" / name).write_text(PROMPT * 50)
    arguments = ("--models", "claude-sonnet-4-5", "--json")
    (one,) = estimated(fluxen("cost", "estimate", "all/a", *arguments))
    (three,) = estimated(fluxen("cost", "estimate", "all", *arguments))
    assert three["input_tokens"] == 3 * one["input_tokens"]
    assert one["plus_minus"] > 10
    assert abs(three["plus_minus"] - 3 * one["plus_minus"]) <= 2  # each is rounded


def test_a_table_and_csv(fluxen: Fluxen, prompt: Path) -> None:
    done = fluxen("cost", "estimate", str(prompt), "--models", "gpt-4o,gpt-5", "--output-tokens", "10")
    assert done.returncode == 0, done.stderr
    heading, first, second = done.stdout.splitlines()
    assert heading.split()[:4] == ["model", "provider", "input_tokens", "plus_minus"]
    assert (first.split()[0], second.split()[0]) == ("gpt-4o", "gpt-5")
    done = fluxen("cost", "estimate", str(prompt), "--models", "gpt-4o", "--csv")
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert (row["input_tokens"], row["output_tokens"], row["total_usd"]) == (str(TOKENS), "", "")
    assert "--output-tokens" in done.stderr
    assert fluxen("cost", "estimate", str(prompt), "--models", "gpt-4o", "--csv", "--json").returncode == 2


def test_a_model_nobody_has(fluxen: Fluxen, prompt: Path) -> None:
    done = fluxen("cost", "estimate", str(prompt), "--models", "gpt-4oh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no price list has a model gpt-4oh" in done.stderr
    assert "gpt-4o" in done.stderr.partition("hint:")[2]


def test_a_model_of_ones_own(fluxen: Fluxen, prompt: Path, tmp_path: Path) -> None:
    """Its price is that of the configuration; without one it is not known, and never 0."""
    (tmp_path / "fluxen.yaml").write_text(
        "upstreams:\n  own: {target_url: 'http://127.0.0.1:1', api_key: '${NOT_IN_THIS_SHELL}'}\n"
        "  other: {target_url: 'http://127.0.0.1:2'}\n"
        "prices:\n  - {models: 'llama*', upstream: own, input: 0.10, output: 0.20}\n"
    )
    arguments = ("cost", "estimate", str(prompt), "--models", "llama-3-tuned", "--output-tokens", "100", "--json")
    (line,) = estimated(fluxen(*arguments, "--upstream", "own"))
    assert line["family"] == "llama"
    assert Decimal(line["input_usd"]) == line["input_tokens"] * Decimal("0.10") / 10**6
    assert Decimal(line["output_usd"]) == Decimal("0.00002")
    done = fluxen(*arguments, "--upstream", "other")
    (line,) = estimated(done)
    assert line["input_tokens"] > 0
    assert {line[name] for name in ("input_usd", "cached_usd", "output_usd", "total_usd", "batch_usd")} == {None}
    assert "no price is known of llama-3-tuned" in done.stderr


def test_a_model_that_many_have(fluxen: Fluxen, prompt: Path) -> None:
    lines = estimated(fluxen("cost", "estimate", str(prompt), "--models", "gpt-oss-120b", "--json"))
    providers = [line["provider"] for line in lines]
    assert len(providers) == len(set(providers)) > 1
    one, other = providers[:2]
    (line,) = estimated(
        fluxen("cost", "estimate", str(prompt), "--models", "gpt-oss-120b", "--provider", other, "--json")
    )
    assert (line["provider"], one != other) == (other, True)


def test_what_cannot_be_counted_is_said(fluxen: Fluxen, tmp_path: Path) -> None:
    asked = {**REQUEST, "tools": [{"type": "web_search"}]}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    done = fluxen("cost", "estimate", "request.json", "--json")
    assert estimated(done)[0]["requests_with_unseen_input"] == 1
    assert "at least:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.txt",), "can't read missing.txt"),
        (("binary",), "binary is no text"),
        (("empty",), "there is no file in it"),
        (("text",), "text names no model"),
        (("text", "--models", ""), "text names no model"),
    ],
)
def test_what_is_wrong_is_told(fluxen: Fluxen, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "binary").write_bytes(b"\0\1\2\xff")
    (tmp_path / "text").write_text(PROMPT)
    (tmp_path / "empty").mkdir()
    done = fluxen("cost", "estimate", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal(clean_env: dict[str, str], tmp_path: Path) -> None:
    """A bar while there is much to count; nobody waits for a prompt that nobody types."""
    (tmp_path / "large.txt").write_text("A sentence of some words, over and over again. " * 120_000)
    command = [sys.executable, "-m", "fluxen_cli", "cost", "estimate"]
    terminal = Terminal([*command, "large.txt", "--models", "gpt-4o"], clean_env, tmp_path, columns=160)
    terminal.wait_for("counting")
    assert terminal.ends() == 0
    assert "gpt-4o" in terminal.said
    terminal = Terminal(command, clean_env, tmp_path)
    terminal.wait_for("nothing to estimate")
    assert terminal.ends() == 1


def test_ended_in_the_middle_the_cursor_is_back(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in map(str, range(8)):
        (tmp_path / "many" / name).write_text("A sentence of some words, over and over again. " * 120_000)
    command = [sys.executable, "-m", "fluxen_cli", "cost", "estimate", "many", "--models", "gpt-4o,claude-sonnet-4-5"]
    terminal = Terminal(command, clean_env, tmp_path)
    terminal.wait_for(HIDDEN)
    terminal.wait_for("counting")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ends() == 128 + signal.SIGTERM
    assert terminal.said.rindex(SHOWN) > terminal.said.rindex(HIDDEN)


def test_a_pipe_is_as_good_as_a_file(clean_env: dict[str, str], tmp_path: Path) -> None:
    """As the shell's <(git diff) is one."""
    reading, writing = os.pipe()
    os.write(writing, PROMPT.encode())
    os.close(writing)
    command = [sys.executable, "-m", "fluxen_cli", "cost", "estimate", f"/dev/fd/{reading}", "--models", "gpt-4o"]
    done = subprocess.run(
        [*command, "--json"], env=clean_env, cwd=tmp_path, capture_output=True, text=True, pass_fds=(reading,)
    )
    os.close(reading)
    assert estimated(done)[0]["input_tokens"] == TOKENS


def test_a_short_text_is_no_floor(fluxen: Fluxen, prompt: Path) -> None:
    """However wide the band of a family: all that is read is there."""
    done = fluxen("cost", "estimate", str(prompt), "--models", "gemini-2.5-flash", "--json")
    assert estimated(done)[0]["requests_with_unseen_input"] == 0
    assert "at least:" not in done.stderr


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--provider", "opnai", "there is no provider 'opnai'\nhint: did you mean openai"),
        ("--upstream", "gpuu", "there is no upstream 'gpuu'\nhint: did you mean gpu?"),
    ],
)
def test_a_name_that_nobody_has_is_told(
    fluxen: Fluxen, prompt: Path, tmp_path: Path, option: str, name: str, said: str
) -> None:
    (tmp_path / "fluxen.yaml").write_text("upstreams: {gpu: {target_url: 'http://127.0.0.1:1'}}")
    done = fluxen("cost", "estimate", str(prompt), "--models", "gpt-4o", option, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_it_is_offline(clean_env: dict[str, str], prompt: Path) -> None:
    program = (
        "import socket, sys\n"
        "def never(*a, **k): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = never; socket.getaddrinfo = never\n"
        "from fluxen_cli.__main__ import main\n"
        "sys.argv = ['fluxen', 'cost', 'estimate', sys.argv[1], '--models', 'gpt-4o,claude-sonnet-4-5']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(prompt)], capture_output=True, text=True, env=clean_env, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr
