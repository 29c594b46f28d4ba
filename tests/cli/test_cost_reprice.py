"""`fluxen cost reprice`, run as a user runs it: old rows get the costs of today, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cli.terminal import Terminal
from gateway.conftest import environment
from gateway.rig import Gateway, Upstream, answer, request
from shared import ROOT, Fluxen

from fluxen.ledger import store
from fluxen.ledger.adjuster import adjusting
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import End, new_id
from fluxen_cli.cost.reprice import WORTH_A_BAR

NOON = 1_795_348_800_000_000  # 2026-11-22T12:00:00Z in microseconds
DAY = 86_400_000_000
GPT_4O = 1000 * 2_500_000 + 100 * 10_000_000
"""Pico-dollars of 1,000 input and 100 output tokens, as the list has had it since it exists."""
PRICES = """
upstreams:
  openai: {api_key: "${NOT_IN_THIS_SHELL}"}
  own: {target_url: "http://127.0.0.1:1"}
prices:
  - {models: "llama*", upstream: own, input: 0.10, output: 0.20}
"""


def ended(ts: int, model: str, cost: int | None, upstream: str = "openai", **others: object) -> End:
    done = End(id=new_id(), ts=ts, model=model, model_asked=model, status=200, usage_source="reported")
    done.dialect, done.endpoint, done.upstream = "openai", "/v1/chat/completions", upstream
    done.input_tokens, done.output_tokens = 1000, 100
    done.cache_read_tokens = done.cache_write_5m_tokens = done.cache_write_1h_tokens = 0
    done.reasoning_tokens = done.audio_tokens = done.image_tokens = 0
    done.usage_raw = '{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}'
    done.cost_pico, done.price_version = cost, "long ago"
    for name, value in others.items():
        setattr(done, name, value)
    return done


ROWS = (
    ended(NOON - 40 * DAY, "gpt-4o", 1),  # before any --since here
    ended(NOON, "gpt-4o", 5),
    ended(NOON + 1, "gpt-4o", GPT_4O),
    ended(NOON + 2, "gpt-4o", None),
    ended(NOON + 3, "llama-3", None, "own"),
    ended(NOON + 4, "llama-3", 77, "gone"),  # of an upstream that nobody knows any more
    ended(NOON + 5, "gpt-4o", None, usage_source="unknown", usage_raw=None, input_tokens=None, output_tokens=None),
    ended(NOON + 6, "gpt-4o", 0, usage_source="none", error="upstream_status", status=500),
    ended(NOON + 7, "gpt-4o", 9, usage_raw=None, audio_tokens=7),  # in or out? Nobody can tell
)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "ledger"
    journal = Journal(folder, "node", 0)
    for row in ROWS:
        assert journal.end(row)
    journal.close()
    (tmp_path / "fluxen.yaml").write_text(PRICES)
    return folder


def costs(folder: Path) -> dict[str, tuple[int | None, str]]:
    found = (
        Reader(folder).query("SELECT id::VARCHAR, (cost_usd * 1000000000000)::BIGINT, price_version FROM requests").rows
    )
    return {str(name): (cost, str(version)) for name, cost, version in found}  # type: ignore[misc]


def reprice(fluxen: Fluxen, *args: str, code: int = 0) -> dict[str, object]:
    done = fluxen("cost", "reprice", "--since", "2026-11-01", "--until", "2026-12-01", "--data-dir", "data", "--json",
                  *args)  # fmt: skip
    assert done.returncode == code, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def model(found: dict[str, object], name: str) -> dict[str, object]:
    (row,) = (row for row in found["rows"] if row["model"] == name)  # type: ignore[attr-defined]
    return dict(row)


def test_rows_get_the_costs_of_today_once(fluxen: Fluxen, ledger: Path) -> None:
    before = costs(ledger)
    found = reprice(fluxen, "--yes")
    version = found["price_version"]
    assert version != "long ago"
    assert found["schema_version"] == 1
    assert model(found, "gpt-4o") == {
        "model": "gpt-4o", "requests": 4, "adjusted": 2, "unpriced_before": 1, "unpriced_after": 0,
        "before_usd": "0.003500000014", "after_usd": "0.010500000009", "difference_usd": "0.006999999995",
        "kept_without_price": 0, "not_repriceable": 1,
    }  # fmt: skip
    llama = model(found, "llama-3")
    assert (llama["adjusted"], llama["after_usd"], llama["kept_without_price"]) == (1, "0.000120000077", 1)
    totals = found["totals"]
    assert isinstance(totals, dict)
    assert (totals["requests"], totals["adjusted"]) == (6, 3)

    after = costs(ledger)
    assert {ROWS.index(row) for row in ROWS if after[row.id] != before[row.id]} == {1, 3, 4}
    assert after[ROWS[1].id] == after[ROWS[3].id] == (GPT_4O, version)
    assert after[ROWS[4].id] == (1000 * 100_000 + 100 * 200_000, version)

    again = reprice(fluxen, "--yes")["totals"]
    assert isinstance(again, dict)
    assert (again["requests"], again["adjusted"], again["difference_usd"]) == (6, 0, "0")
    assert costs(ledger) == after
    found_rows = Reader(ledger).query("SELECT count(*), count(DISTINCT made) FROM adjustments").rows
    assert found_rows == [(3, 1)]
    reported = json.loads(fluxen("report", "costs", "--data-dir", "data", "--json").stdout)
    assert reported["totals"]["cost_usd"] == "0.010620000087"
    assert store.verify(ledger).ok
    assert not store.verify(ledger).segments  # no gateway is there to take them in: the command has


def test_a_dry_run_changes_nothing_and_needs_no_rights(
    fluxen: Fluxen, ledger: Path, clean_env: dict[str, str], unprivileged: list[str], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()}
    folders = [ledger, *(path for path in ledger.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        command = [*unprivileged, sys.executable, "-m", "fluxen_cli", "cost", "reprice", "--since", "2026-11-01"]
        command += ["--data-dir", "data"]
        done = subprocess.run([*command, "--dry-run"], env=clean_env, cwd=tmp_path, capture_output=True, text=True)
        refused = subprocess.run([*command, "--yes"], env=clean_env, cwd=tmp_path, capture_output=True, text=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["model", "requests", "adjusted"], ["gpt-4o", "4", "2"], ["llama-3", "2", "1"], ["total", "6", "3"],
    ]  # fmt: skip
    notes = done.stderr.splitlines()
    assert notes[0].startswith("3 requests would be adjusted by the prices ")
    assert notes[1:] == [
        "1 request without a price now: the recorded cost stays, unless --forget: llama-3 (1)",
        "1 request can't be priced again, their rows tell too little: gpt-4o (1)",
    ]
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: the ledger can't be written: {ledger}")
    assert {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        (("--model", "gpt*"), {1, 3}),
        (("--model", "g?t-4o", "--upstream", "own"), set()),
        (("--model", "gpt%"), set()),
        (("--upstream", "o*"), {1, 3, 4}),
        (("--upstream", "own", "--upstream", "gone"), {4}),
        (("--only-unpriced",), {3, 4}),
        (("--where", "upstream=own|gone", "--model", "llama*"), {4}),
        (("--where", "cost>0", "--upstream", "openai"), {1}),
        (("--forget", "--model", "llama*"), {4, 5}),
        (("--until", "2026-11-22T12:00:00.000002Z"), {1}),
        (("--until", "2026-11-22T13:00:00.000002", "--timezone", "Europe/Berlin"), {1}),
    ],
)
def test_what_is_selected(fluxen: Fluxen, ledger: Path, args: tuple[str, ...], changed: set[int]) -> None:
    before = costs(ledger)
    reprice(fluxen, "--yes", *args)
    after = costs(ledger)
    assert {ROWS.index(row) for row in ROWS if after[row.id] != before[row.id]} == changed
    if 5 in changed:
        assert after[ROWS[5].id][0] is None
    assert reprice(fluxen, "--yes", *args)["totals"]["adjusted"] == 0  # type: ignore[index]


def test_another_price_list(fluxen: Fluxen, ledger: Path, tmp_path: Path) -> None:
    content = msgspec.json.decode((ROOT / "packaging" / "prices.json").read_bytes())
    content["version"] = "mine-1"
    (tmp_path / "mine.json").write_bytes(msgspec.json.encode(content))
    found = reprice(fluxen, "--yes", "--prices", "mine.json")
    assert str(found["price_version"]).startswith("mine-1")
    assert costs(ledger)[ROWS[1].id] == (GPT_4O, found["price_version"])
    (tmp_path / "mine.json").write_text('{"format": 1')
    done = fluxen("cost", "reprice", "--since", "2026-11-01", "--data-dir", "data", "--prices", "mine.json", "--yes")
    assert (done.returncode, done.stdout) == (3, "")
    assert "mine.json is no price book that can be used" in done.stderr


def test_nobody_is_asked_where_nobody_is(fluxen: Fluxen, ledger: Path) -> None:
    done = fluxen("cost", "reprice", "--since", "2026-11-01", "--data-dir", "data")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nobody is there to be asked whether to adjust\nhint: ")
    done = fluxen("cost", "reprice", "--data-dir", "data")
    assert done.returncode == 2
    assert "--since" in done.stderr
    # What can't be at all is told first: yes would not help.
    assert fluxen("cost", "reprice", "--since", "2026-02-30", "--data-dir", "data").returncode == 2
    assert fluxen("cost", "reprice", "--since", "7d", "--data-dir", "elsewhere").returncode == 5


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("\n", 1), ("\x04", 1)])
def test_a_person_is_asked(ledger: Path, clean_env: dict[str, str], tmp_path: Path, said: str, code: int) -> None:
    before = costs(ledger)
    command = [sys.executable, "-m", "fluxen_cli", "cost", "reprice", "--since", "2026-11-01", "--data-dir", "data"]
    terminal = Terminal(command, {**clean_env, "NO_COLOR": "1"}, tmp_path, columns=160)
    terminal.wait_for("Adjust 3 requests (+$0.007120)? (y/N)")
    terminal.type(said)
    assert terminal.ends() == code
    assert (costs(ledger) == before) == (code != 0)


def test_what_becomes_cheaper_and_what_has_no_price_is_told(clean_env: dict[str, str], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "data" / "ledger", "node", 0)
    for row in (ended(NOON, "gpt-4o", 10**12), ended(NOON + 1, "nobodys", None), ended(NOON + 2, "nobodys", None)):
        assert journal.end(row)
    journal.close()
    command = [sys.executable, "-m", "fluxen_cli", "cost", "reprice", "--since", "2026-11-01", "--data-dir", "data"]
    terminal = Terminal(command, {**clean_env, "NO_COLOR": "1"}, tmp_path, columns=160)
    terminal.wait_for("Adjust 1 request (-$0.996500)? (y/N)")
    terminal.type("y\n")
    assert terminal.ends() == 0
    assert "1 request is adjusted by the prices" in terminal.said
    assert "2 requests unpriced: nobodys (2)" in terminal.said


def test_a_bar_shows_how_far_a_large_one_is(clean_env: dict[str, str], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "data" / "ledger", "node", 0)
    for place in range(WORTH_A_BAR):
        assert journal.end(ended(NOON + place, "gpt-4o", 5))
    journal.close()
    command = [sys.executable, "-m", "fluxen_cli", "cost", "reprice", "--since", "2026-11-01", "--data-dir", "data"]
    terminal = Terminal([*command, "--dry-run"], {**clean_env, "NO_COLOR": "1"}, tmp_path, columns=160)
    terminal.wait_for(f"{WORTH_A_BAR}/{WORTH_A_BAR}")
    assert terminal.ends() == 0
    assert f"{WORTH_A_BAR:,} requests would be adjusted" in terminal.said


def test_one_at_a_time(fluxen: Fluxen, ledger: Path) -> None:
    with adjusting(ledger, "node"):
        done = fluxen("cost", "reprice", "--since", "2026-11-01", "--data-dir", "data", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "another repricing of this ledger is under way" in done.stderr


def test_prices_that_can_not_be_used_stop_it(fluxen: Fluxen, ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "fluxen.yaml").write_text("prices: [{models: m, inptu: 1}]\n")
    done = fluxen("cost", "reprice", "--since", "2026-11-01", "--data-dir", "data", "--yes")
    assert (done.returncode, done.stdout) == (3, "")
    assert "fluxen.yaml:1:" in done.stderr
    assert "inptu" in done.stderr


def test_no_ledger_and_no_rows(fluxen: Fluxen, ledger: Path) -> None:
    assert fluxen("cost", "reprice", "--since", "1d", "--data-dir", "nowhere", "--yes").returncode == 5
    done = fluxen("cost", "reprice", "--since", "2020-01-01", "--until", "2020-01-02", "--data-dir", "data", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no requests like this with a known usage\n")


# ── beside a gateway ─────────────────────────────────────────────────────────────────────────────────────────────

SERVED = """
server: {{bind_address: "127.0.0.1:0", workers: 2}}
upstreams: {{openai: {{target_url: "{url}", api_key: sk-provider-0123456789}}}}
"""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    yield found
    found.close()
    assert not found.faults


def test_beside_a_gateway_that_serves(fluxen: Fluxen, upstream: Upstream, tmp_path: Path) -> None:
    body = b'{"model":"gpt-4o","usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}'
    upstream.plays(answer(body))
    folder = tmp_path / "gateway"
    gateway = Gateway(folder, SERVED.format(url=upstream.url), environment(folder / "home", {}))
    try:
        ids = [gateway.ask(request(body=b'{"model":"gpt-4o"}')).id for _ in range(6)]
        gateway.rows(6)
        assert {costs(gateway.ledger)[name][0] for name in ids} == {GPT_4O}
        config = folder / "fluxen.yaml"
        config.write_text(config.read_text() + "prices: [{models: gpt-4o, input: 1, output: 1}]\n")
        args = ("cost", "reprice", "--since", "1d", "--yes", "--json", "--config", str(config))
        env = {"FLUXEN_DATA_DIR": str(gateway.data_dir)}
        assert json.loads(fluxen(*args, env=env).stdout)["totals"]["adjusted"] == 6
        assert {costs(gateway.ledger)[name][0] for name in ids} == {1100 * 1_000_000}
        later = gateway.ask(request(body=b'{"model":"gpt-4o"}')).id
        gateway.rows(7)
        assert later in costs(gateway.ledger)
        assert json.loads(fluxen(*args, env=env).stdout)["totals"]["adjusted"] <= 1  # what was priced in between
        assert {costs(gateway.ledger)[name][0] for name in (*ids, later)} == {1100 * 1_000_000}
    finally:
        gateway.stop()
    store.compact(gateway.ledger)
    found = store.verify(gateway.ledger)
    assert (found.ok, found.rows, found.adjustments >= 6, found.segments) == (True, 7, True, 0)
