"""`fluxen cost prices`, run as a user runs it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.terminal import Terminal
from shared import ROOT, Fluxen

from fluxen.analyzer.prices import PriceBook

SHIPPED = (ROOT / "packaging" / "prices.json").read_bytes()
VERSION = PriceBook.shipped().version
CONFIG = """
upstreams:
  openai: {api_key: "${NOT_HERE}"}
  gpu: {target_url: "http://gpu.internal:8000"}
prices:
- {models: "llama-*", upstream: gpu, input: 0.2, output: 0.6}
- {models: gpt-5, upstream: openai, discount: 15%}
- {models: gpt-5, upstream: openai, since: "2030-01-01", input: 7, output: 8}
"""


def renamed(version: str) -> bytes:
    return SHIPPED.replace(VERSION.encode(), version.encode(), 1)


@pytest.fixture
def data(clean_env: dict[str, str]) -> Path:
    return Path(clean_env["HOME"], ".local", "share", "fluxen")


@pytest.fixture
def config(clean_env: dict[str, str]) -> Path:
    path = Path(clean_env["HOME"], ".config", "fluxen", "fluxen.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(CONFIG)
    return path


def prices(fluxen: Fluxen, *args: str, code: int = 0, **more: Any) -> dict[str, Any]:
    done = fluxen("cost", "prices", *args, "--json", **more)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert next(iter(found)) == "schema_version"
    return found


def by_tier(found: dict[str, Any], provider: str) -> dict[str, dict[str, Any]]:
    return {one["tier"]: one for one in found["prices"] if one["provider"] == provider and not one["own"]}


def test_a_model_at_every_provider_with_its_tiers(fluxen: Fluxen) -> None:
    found = prices(fluxen, "gpt-5")
    assert found["version"] == VERSION and "genai-prices" in found["source"]
    tiers = by_tier(found, "openai")
    assert {"standard", "flex", "priority", "batch"} <= tiers.keys()
    assert tiers["standard"]["usd_per_million_tokens"] == {
        "input": "1.25", "cache_read": "0.125", "cache_write_5m": "1.25", "cache_write_1h": "1.25", "output": "10",
    }  # fmt: skip
    assert tiers["flex"]["usd_per_million_tokens"]["output"] == "5"
    assert tiers["flex"]["since"] == "2026-10-12T00:00:00Z"
    assert tiers["standard"]["usd_per_call"]["web_search"] == "0.01"
    (resold,) = (one for one in found["prices"] if one["provider"] == "azure")
    assert (resold["listed_by"], resold["tier"]) == ("openai", "standard")


def test_prices_of_another_time(fluxen: Fluxen) -> None:
    def price(at: str) -> str:
        tiers = by_tier(prices(fluxen, "o3", "--at", at), "openai")
        return str(tiers["standard"]["usd_per_million_tokens"]["input"])

    assert (price("2025-06-09"), price("2025-06-10")) == ("10", "2")
    done = fluxen("cost", "prices", "o3", "--at", "soon")
    assert done.returncode == 2 and "--at" in done.stderr


def test_prices_above_a_size_of_the_input_are_lines_of_their_own(fluxen: Fluxen) -> None:
    done = fluxen("cost", "prices", "gemini-2.5-pro", "--provider", "gemini")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:5] == ["model", "provider", "tier", "input", "cache_read"]
    assert lines[1][:4] == ["gemini-2.5-pro", "google", "standard", "1.25"]
    assert lines[2][:5] == ["gemini-2.5-pro", "google", ">", "200,000", "in"]
    assert ["web_search" in line for line in lines[1:3]] == [True, False]  # it is of the call, and told once
    assert VERSION in done.stderr


def test_a_pattern_means_every_model_it_meets(fluxen: Fluxen) -> None:
    found = prices(fluxen, "CLAUDE-opus-4-*", "--provider", "anthropic")
    names = {one["model"] for one in found["prices"]}
    assert len(names) > 3 and all(name.startswith("claude-opus-4-") for name in names)


def test_no_model_is_an_overview(fluxen: Fluxen) -> None:
    found = prices(fluxen)
    counts = {one["provider"]: one["models"] for one in found["providers"]}
    assert counts["openai"] > 50 and found["own_prices"] is False
    assert [one["provider"] for one in prices(fluxen, "--provider", "gemini")["providers"]] == ["google"]
    assert fluxen("cost", "prices", "--provider", "nobody").returncode == 5


def test_prices_of_ones_own_are_shown_where_they_hold(fluxen: Fluxen, config: Path) -> None:
    found = prices(fluxen, "gpt-5")
    (own,) = (one for one in found["prices"] if one["own"] and one["tier"] == "standard")
    assert (own["upstream"], own["billed_share"]) == ("openai", "0.85")
    assert found["version"].startswith(f"{VERSION}+own.")
    assert by_tier(found, "openai")["standard"]["billed_share"] is None
    later = prices(fluxen, "gpt-5", "--upstream", "openai", "--at", "2030-06-01")["prices"]
    assert {one["upstream"] for one in later} == {"openai"}
    (standard,) = (one for one in later if one["tier"] == "standard")
    assert standard["usd_per_million_tokens"]["input"] == "7" and standard["billed_share"] == "0.85"
    assert (standard["since"], standard["until"]) == ("2030-01-01T00:00:00Z", None)
    assert (own["since"], own["until"]) == (None, "2030-01-01T00:00:00Z")


def test_a_model_in_nobodys_list_has_the_price_one_gave_it(fluxen: Fluxen, config: Path) -> None:
    (found,) = prices(fluxen, "llama-9-my-own")["prices"]
    assert (found["upstream"], found["provider"], found["listed_by"]) == ("gpu", None, None)
    assert found["usd_per_million_tokens"]["cache_read"] == "0.2"
    assert fluxen("cost", "prices", "llama-9-my-own", "--upstream", "openai").returncode == 1


def test_a_tier_of_ones_own_is_shown_where_it_holds(fluxen: Fluxen, config: Path) -> None:
    """Also one that no list has."""
    own = "- {models: gpt-4o-mini, upstream: openai, tier: flex, input: 0.08, output: 0.3}\n"
    config.write_text(CONFIG.replace("prices:\n", f"prices:\n{own}"))
    found = prices(fluxen, "gpt-4o-mini", "--upstream", "openai")["prices"]
    (flex,) = (one for one in found if one["tier"] == "flex")
    assert (flex["own"], flex["usd_per_million_tokens"]["input"]) == (True, "0.08")
    assert len(prices(fluxen, "llama-9-my-own")["prices"]) == 1  # of which nobody said anything there


def test_a_configuration_without_its_secrets_will_do_but_not_one_whose_prices_are_wrong(
    fluxen: Fluxen, config: Path
) -> None:
    config.write_text(CONFIG.replace("0.2,", "cheap,"))
    done = fluxen("cost", "prices", "gpt-5")
    assert done.returncode == 3
    assert "prices[0].input: expected dollars per million tokens" in done.stderr


def test_an_unknown_model_names_the_nearest(fluxen: Fluxen) -> None:
    done = fluxen("cost", "prices", "claude-sonet-4-5", "--provider", "anthropic")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the price book knows no model claude-sonet-4-5 at anthropic" in done.stderr
    assert "claude-sonnet-4-5" in done.stderr
    done = fluxen("cost", "prices", "gpt-5", "--upstream", "nobody")
    assert done.returncode == 1
    assert "did you mean gpt-5," not in done.stderr


def test_a_terminal_gets_a_table(clean_env: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fluxen_cli", "cost", "prices", "gpt-5", "--provider", "openai"]
    terminal = Terminal(command, {**clean_env, "NO_COLOR": "1"}, tmp_path, columns=160)
    assert terminal.ends() == 0
    assert "priority" in terminal.said and "0.125" in terminal.said and "─" in terminal.said


# ------------------------------------------------------------------------------------------ update


def test_a_newer_book_is_put_in_force_and_taken_back(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    raw = renamed("genai-prices-99.0.0+11111111").replace(b'"gpt-4o"', b'"gpt-4-o"', 1)
    new.write_bytes(raw)
    found = prices(fluxen, "update", str(new))
    assert (found["changed"], found["version"], found["before"]) == (True, "genai-prices-99.0.0+11111111", VERSION)
    assert found["models"]["new"] + found["models"]["gone"] + found["models"]["changed"] >= 1
    installed = data / "prices.json"
    assert installed.read_bytes() == raw
    assert stat.S_IMODE(installed.stat().st_mode) == 0o600
    assert prices(fluxen, "gpt-5")["version"] == "genai-prices-99.0.0+11111111"
    assert prices(fluxen, "update", str(new))["changed"] is False
    assert prices(fluxen, "update", "--revert")["version"] == VERSION
    assert not installed.exists()
    assert prices(fluxen, "update", "--revert")["changed"] is False


def test_a_book_comes_by_a_pipe(clean_env: dict[str, str], data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fluxen_cli", "cost", "prices", "update", "-"],
        input=renamed("mine-1"), env=clean_env, cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    assert b"price book mine-1: 0 models new, 0 models changed, 0 models gone" in done.stderr
    assert (data / "prices.json").read_bytes() == renamed("mine-1")


def test_an_older_book_is_refused(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    for version, code in (("genai-prices-0.0.1+1", 1), ("genai-prices-99.1+1", 0), ("genai-prices-99.0+1", 1)):
        (tmp_path / "book").write_bytes(renamed(version))
        done = fluxen("cost", "prices", "update", "book")
        assert done.returncode == code, (version, done.stderr)
        assert ("older than" in done.stderr) is bool(code)
    assert b"genai-prices-99.1+1" in (data / "prices.json").read_bytes()


def test_one_version_says_one_thing(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "book").write_bytes(SHIPPED.replace(b'"gpt-4o"', b'"gpt-4-o"', 1))
    done = fluxen("cost", "prices", "update", "book")
    assert done.returncode == 1 and "under the same version" in done.stderr


def test_how_a_book_is_laid_out_is_no_difference(fluxen: Fluxen, tmp_path: Path) -> None:
    """Somebody's editor, or jq, put line breaks in."""
    for version, said in ((VERSION, "in force already"), ("mine-1", "0 models new, 0 models changed")):
        (tmp_path / "book").write_text(json.dumps(json.loads(renamed(version)), indent=1))
        done = fluxen("cost", "prices", "update", "book")
        assert done.returncode == 0, done.stderr
        assert said in done.stderr


def test_a_book_that_can_not_be_used_changes_nothing(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    (tmp_path / "book").write_bytes(renamed("mine-1"))
    assert fluxen("cost", "prices", "update", "book").returncode == 0
    (tmp_path / "book").write_bytes(renamed("mine-2").replace(b'"input":', b'"inputs":', 3))
    done = fluxen("cost", "prices", "update", "book")
    assert done.returncode == 3
    assert done.stderr.count("inputs is no class of tokens") == 3
    assert (data / "prices.json").read_bytes() == renamed("mine-1")
    assert fluxen("cost", "prices", "update", "not-there").returncode == 3
    for args in ((), ("book", "--revert")):
        assert fluxen("cost", "prices", "update", *args).returncode == 2


def test_a_damaged_file_in_the_data_folder_is_told_and_taken_back(fluxen: Fluxen, data: Path) -> None:
    data.mkdir(parents=True)
    (data / "prices.json").write_bytes(SHIPPED[:1000])
    done = fluxen("cost", "prices", "gpt-5")
    assert done.returncode == 3 and "--revert" in done.stderr
    assert fluxen("validate").returncode == 3
    said = prices(fluxen, "update", "--revert")
    assert (said["changed"], said["version"], said["before"], said["models"]) == (True, VERSION, None, None)
    assert fluxen("validate").returncode == 0


def test_what_a_damaged_file_said_is_not_compared(fluxen: Fluxen, data: Path) -> None:
    """Nobody knows which models it had: none of the shipped ones is new."""
    data.mkdir(parents=True)
    (data / "prices.json").write_bytes(SHIPPED[:1000])
    done = fluxen("cost", "prices", "update", "--revert")
    assert done.returncode == 0
    assert done.stderr.startswith(f"{data / 'prices.json'} could not be read and is gone: price book {VERSION} of this")
    assert "used again" in done.stderr
    assert "models new" not in done.stderr
    assert not (data / "prices.json").exists()


def test_an_older_file_stands_back_and_is_warned_of(fluxen: Fluxen, data: Path) -> None:
    data.mkdir(parents=True)
    (data / "prices.json").write_bytes(renamed("genai-prices-0.0.1+1"))
    assert prices(fluxen, "gpt-5")["version"] == VERSION
    done = fluxen("validate")
    assert done.returncode == 0 and "genai-prices-0.0.1+1 is older than the shipped price book" in done.stderr


def test_the_build_script_writes_what_update_takes(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    script = ROOT / "packaging" / "build_prices.py"
    subprocess.run([sys.executable, script, "--output", "book"], cwd=tmp_path, check=True, capture_output=True)
    assert prices(fluxen, "update", "book")["changed"] is False
    assert not (data / "prices.json").exists()
