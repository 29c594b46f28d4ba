"""`fluxen report …` as people and programs run it, over the sample's ledger: forms, filters, times, what is refused."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli.terminal import Terminal
from reports.sample import ROWS, write
from shared import Fluxen

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import End, new_id
from fluxen.reports.named import REPORTS

UNPRICED = "2 requests unpriced: llama-3 (2)"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[str]:
    for folder in write(tmp_path / "data" / "ledger"):
        yield str(folder.parent)


def report(fluxen: Fluxen, data: str, *arguments: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    done = fluxen("report", *arguments, "--data-dir", data, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def answered(fluxen: Fluxen, data: str, *arguments: str) -> dict[str, object]:
    out, _ = report(fluxen, data, *arguments, "--json")
    found: dict[str, object] = json.loads(out)
    return found


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_in_every_form(fluxen: Fluxen, data: str, name: str) -> None:
    named = REPORTS[name]
    found = answered(fluxen, data, name)
    assert (found["schema_version"], found["report"], found["by"]) == (1, name, list(named.by))
    rows = found["rows"]
    assert isinstance(rows, list)
    assert rows
    assert set(rows[0]) == {*named.by, *named.columns}
    assert found["unpriced"] == {"requests": 2, "models": [{"model": "llama-3", "requests": 2}]}
    assert (found["lost"], found["in_flight"], found["known_usd"]) == (1, 1, "4.415000000003")

    out, err = report(fluxen, data, name, "--csv")
    cells = list(csv.DictReader(io.StringIO(out)))
    assert [
        {column: None if value == "" else value for column, value in row.items()} for row in cells
    ] == [
        {column: value if value is None else str(value).replace("True", "true").replace("False", "false")
         for column, value in row.items()}
        for row in rows
    ]  # fmt: skip
    assert UNPRICED in err

    out, err = report(fluxen, data, name, "--md")
    lines = out.splitlines()
    assert lines[0].startswith(f"| {named.by[0]} |")
    assert set(lines[1]) <= set("|-: ")
    assert "2 requests unpriced: llama-3 (2)" in out  # it goes with the table wherever that is put
    assert err == ""

    out, err = report(fluxen, data, name)
    assert len({len(line.split()) for line in out.splitlines()[:1]}) == 1
    assert out.split()[: len(named.by)] == list(named.by)
    assert UNPRICED in err
    assert "█" not in out  # drawn is for terminals
    assert "\x1b" not in out


def test_since_compares_and_says_with_what(fluxen: Fluxen, data: str) -> None:
    at = ["--since", "2026-11-02", "--until", "2026-11-02T20:00"]
    found = answered(fluxen, data, "costs", *at)
    previous = found["previous"]
    assert isinstance(previous, dict)
    assert (previous["since"], previous["until"]) == ("2026-11-01T00:00:00Z", "2026-11-01T20:00:00Z")
    assert previous["totals"]["cost_usd"] == "1.000000000003"
    totals = found["totals"]
    assert isinstance(totals, dict)
    assert (totals["previous_cost_usd"], totals["change_pct"]) == ("1.000000000003", "154")
    out, err = report(fluxen, data, "costs", *at)
    assert out.splitlines()[0].endswith("change_pct")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("gpt-1")] == ["-96.0"]
    assert "before, 2026-11-01T00:00:00Z to 2026-11-01T20:00:00Z: cost_usd 1.000000000003, now +154.0 %" in err
    assert answered(fluxen, data, "costs", *at, "--no-compare")["previous"] is None
    header = report(fluxen, data, "costs", *at, "--csv")[0].splitlines()[0]
    assert "change_pct" not in header
    header = report(fluxen, data, "costs", *at, "--csv", "--compare")[0].splitlines()[0]
    assert header.endswith("unknown_cost,previous_cost_usd,change_pct")


def test_filters_and_sorting(fluxen: Fluxen, data: str) -> None:
    found = answered(
        fluxen, data, "costs", "--where", "model=gpt*,status=200", "--where", "error=", "--by", "key", "--sort", "key"
    )
    assert found["where"] == "model=gpt*,status=200,error="
    rows = found["rows"]
    assert isinstance(rows, list)
    assert [(row["key"], row["requests"]) for row in rows] == [("a", 5), ("b", 2)]
    found = answered(fluxen, data, "costs", "--tag", "customer=o'neil", "--by", "tag:customer")
    assert [row["tag:customer"] for row in found["rows"]] == ["o'neil"]  # type: ignore[attr-defined]
    out, err = report(fluxen, data, "costs", "--where", "model=none*")
    assert (out, err) == ("", "no requests like this\n")
    assert report(fluxen, data, "errors", "--since", "2020-01-01", "--until", "2020-02-01")[1] == (
        "no errors in this time\n"
    )


def test_days_of_a_time_zone(fluxen: Fluxen, data: str) -> None:
    arguments = ["costs", "--by", "day", "--csv", "--until", "2026-11-01"]
    berlin = report(fluxen, data, *arguments, "--timezone", "Europe/Berlin")[0]
    assert [line.split(",")[:2] for line in berlin.splitlines()[1:]] == [["2026-10-25", "4"]]
    assert report(fluxen, data, *arguments, env={"FLUXEN_TIMEZONE": "Europe/Berlin"})[0] == berlin
    utc = report(fluxen, data, *arguments, env={"TZ": "Europe/Berlin"})[0]
    assert [line.split(",")[:2] for line in utc.splitlines()[1:]] == [["2026-10-24", "1"], ["2026-10-25", "3"]]
    keys = report(fluxen, data, "keys", "--timezone", "Asia/Tokyo")[0]
    assert "2026-10-25T07:30:00+09:00" in keys
    assert "2026-10-24T22:30:00Z" in report(fluxen, data, "keys", "--csv", "--timezone", "Asia/Tokyo")[0]


def test_markdown_shows_names_as_they_are(fluxen: Fluxen, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "data" / "ledger", "n", 0)
    for model in ("a|b_c", "[x](http://y)", "_x_ *y* `z`", "<b>&amp;", "new\nline", "- x"):
        assert journal.end(End(id=new_id(), ts=10**15, model=model, usage_source="none", status=200))
    journal.close()
    lines = report(fluxen, str(tmp_path / "data"), "costs", "--md")[0].splitlines()
    assert sorted(line[2:].partition(" | ")[0] for line in lines[2:-1]) == sorted(
        [
            "a\\|b_c", "\\[x\\](http://y)", "\\_x\\_ \\*y\\* \\`z\\`", "&lt;b>&amp;amp;", "new\\\\nline", "\\- x",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["costs", "--json", "--md"], "exclude each other"),
        (["costs", "--compare"], "--compare needs --since"),
        (["costs", "--by", "modle"], "did you mean 'model'?"),
        (["costs", "--where", "modle=x"], "did you mean 'model'?"),
        (["costs", "--where", "cost>many"], "'cost' is a number"),
        (["costs", "--sort", "price"], "sort by model, requests"),
        (["costs", "--sort", "requests:up"], "can't sort by 'requests:up'"),
        (["costs", "--since", "tomorrow"], "'tomorrow' is no moment"),
        (["costs", "--timezone", "Europe/Berln"], "did you mean Europe/Berlin?"),
        (["--timezone", "Mars", "--json"], "there is no time zone 'Mars'"),
        (["--json", "costs"], "behind the report's name"),
    ],
)
def test_what_is_wrong_is_said(fluxen: Fluxen, data: str, arguments: list[str], says: str) -> None:
    done = fluxen("report", *arguments, env={"FLUXEN_DATA_DIR": data})
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_savings_of_caches_know_the_prices_of_the_configuration(fluxen: Fluxen, data: str, tmp_path: Path) -> None:
    """Without its secrets, and for a model that no list has."""
    config = tmp_path / "own.yaml"
    config.write_text(
        "upstreams: {openai: {api_key: '${NOT_SET_HERE}'}}\n"
        "prices: [{models: 'gpt-1', input: 2, cache_read: 0.2, output: 8}]\n"
    )
    arguments = ["cache", "--config", str(config), "--where", "cache_read_tokens>0"]
    rows = {row["model"]: row for row in answered(fluxen, data, *arguments)["rows"]}  # type: ignore[attr-defined]
    assert rows["gpt-1"]["provider_saved_usd"] == "0.00126"  # 700 tokens at 0.2 instead of 2 dollars a million
    rows = {row["model"]: row for row in answered(fluxen, data, "cache")["rows"]}  # type: ignore[attr-defined]
    assert (rows["gpt-1"]["provider_saved_usd"], rows["gpt-1"]["unknown_saving"]) == (None, 1)


def test_the_summary(fluxen: Fluxen, tmp_path: Path) -> None:
    """Of today: the clock is the machine's, so the rows are of an hour that is surely today."""
    now = datetime.now(UTC)
    journal = Journal(tmp_path / "data" / "ledger", "n", 0)
    for cost in (5, 10**12):
        end = End(id=new_id(), ts=int(now.timestamp()) * 10**6, model="gpt-1", key_id="a", status=200, latency_ms=70)
        end.usage_source, end.cost_pico = "reported", cost
        assert journal.end(end)
    failed = End(id=new_id(), ts=int(now.timestamp()) * 10**6, model_asked="gpt", status=429, error="upstream_status")
    failed.usage_source = "none"
    assert journal.end(failed)
    journal.close()
    data = str(tmp_path / "data")
    out, err = report(fluxen, data)
    told = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert told["cost $"][2] == "1.000000000005"
    assert told["requests"][1] == "3"
    assert told["errors %"][2] == "33.33"
    assert "models this month" in out
    assert any(line.split()[:2] == ["429", "upstream_status"] for line in out.splitlines())
    assert err == ""
    found = json.loads(report(fluxen, data, "--json", "--timezone", "Asia/Tokyo")[0])
    assert (found["schema_version"], found["report"], found["timezone"]) == (1, "summary", "Asia/Tokyo")
    assert [period["name"] for period in found["periods"]] == ["today", "this month"]
    assert found["periods"][1]["costs"]["totals"]["cost_usd"] == "1.000000000005"
    assert found["errors"][0]["error_pct"] == "100"
    filtered = json.loads(report(fluxen, data, "--json", "--where", "key=b")[0])
    assert filtered["periods"][0]["costs"]["totals"]["requests"] == 0
    assert "no requests this month like this" in report(fluxen, data, "--where", "key=b")[1]


def on_a_terminal(arguments: list[str], env: dict[str, str], folder: Path, columns: int = 200) -> list[str]:
    """What `fluxen report …` shows on a terminal without colours."""
    command = [sys.executable, "-m", "fluxen_cli", "report", *arguments]
    screen = {**env, "TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "COLUMNS": str(columns)}
    terminal = Terminal(command, screen, folder, columns)
    assert terminal.ends() == 0
    return terminal.said.replace("\r", "").splitlines()


def test_a_terminal_sees_courses_and_bars(clean_env: dict[str, str], data: str, tmp_path: Path) -> None:
    arguments = ["costs", "--by", "upstream", "--since", "2026-11-01", "--until", "2026-11-03", "--data-dir", data]
    lines = on_a_terminal(arguments, clean_env, tmp_path)
    assert not any("\x1b" in line for line in lines)
    (heading,) = [line for line in lines if "course" in line]
    assert heading.split()[-3:] == ["course", "cost", "usd"]
    anthropic, openai = (next(line for line in lines if line.split()[:1] == [name]) for name in ("anthropic", "openai"))
    start = heading.index("course")
    # 24 pieces of two hours: a request on the 2nd at 9; others on the 1st at 12 and on the 2nd at 12
    assert anthropic[start : start + 24].rstrip() == " " * 16 + "█"
    assert openai[start : start + 24].rstrip() == " " * 6 + "█" + " " * 11 + "▁"
    assert anthropic.split()[-1] == "█" * 16
    assert len(openai.split()[-1]) == 7  # 1.04 of 2.5 dollars, of 16 characters
    narrow = on_a_terminal(arguments, clean_env, tmp_path, columns=80)
    assert not any("█" in line for line in narrow)
    assert any("2.500000" in line for line in narrow)
    plain = on_a_terminal(arguments, {**clean_env, "PYTHONIOENCODING": "ascii"}, tmp_path)
    assert not any("█" in line or "course" in line for line in plain)


def test_times_on_a_terminal_have_bars(clean_env: dict[str, str], data: str, tmp_path: Path) -> None:
    lines = on_a_terminal(["usage", "--by", "day", "--data-dir", data], clean_env, tmp_path, columns=300)
    bars = {
        line.split()[0]: line.split()[-1] for line in lines if line.startswith(" 2026-") or line.startswith("2026-")
    }
    assert bars["2026-10-25"] == "█" * 16
    assert 0 < len(bars["2026-10-24"]) < 16
    assert "course" not in "".join(lines)


def test_the_sample_is_not_of_today() -> None:
    """Or the terminal's figures would change from day to day."""
    assert max(row["ts"] for row in ROWS) - min(row["ts"] for row in ROWS) < timedelta(days=10)
