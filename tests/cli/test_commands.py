"""`report`, `sql`, `ledger` and `validate`, run as a user runs them, over a ledger the real journal wrote."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import Fluxen

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin, End, new_id

NOON = 1_795_348_800_000_000  # 2026-11-22T12:00:00Z in microseconds


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    journal = Journal(tmp_path / "data" / "ledger", "node", 0)
    rows = [
        ("gpt-1", 1_000_000, 1_234_567_000_001),
        ("gpt-1", 2, 3),
        ("tiny", 1, 400_000),
        ("free", 1, 0),
        ("evil\x1b[2J\n", 1, None),
    ]
    for model, tokens, cost in rows:
        end = End(id=new_id(), ts=NOON, model=model, status=200, usage_source="reported", input_tokens=tokens)
        end.cost_pico = cost
        assert journal.end(end)
    assert journal.begin(Begin(id=new_id(), ts=NOON, model_asked="gpt-1"))
    yield tmp_path / "data"
    journal.close()


def test_report_plain(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("report", "costs", "--data-dir", "data")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["model", "requests", "errors", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
         "cost_usd", "unknown_cost"],
        ["gpt-1", "2", "0", "1000002", "–", "–", "–", "1.234567000004", "0"],
        ["tiny", "1", "0", "1", "–", "–", "–", "0.0000004", "0"],
        ["free", "1", "0", "1", "–", "–", "–", "0", "0"],
        ["evil\\x1b[2J\\n", "1", "0", "1", "–", "–", "–", "–", "1"],
        ["total", "5", "0", "1000005", "–", "–", "–", "1.234567400004", "1"],
    ]  # fmt: skip
    assert done.stderr == (
        "$1.234567400004 + 1 request unpriced: evil\\x1b[2J\\n (1)\n1 request in flight, not counted yet\n"
    )


def test_report_json_is_exact(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("report", "costs", "--data-dir", "data", "--json", "--since", "2026-11-22", "--until", "2026-11-23")
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert (answer["since"], answer["until"]) == ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z")
    assert answer["rows"][0] == {
        "model": "gpt-1", "requests": 2, "errors": 0, "input_tokens": 1_000_002, "cache_read_tokens": None,
        "cache_write_tokens": None, "output_tokens": None, "cost_usd": "1.234567000004", "unknown_cost": 0,
        "previous_cost_usd": None, "change_pct": None,
    }  # fmt: skip
    assert [row["cost_usd"] for row in answer["rows"]] == ["1.234567000004", "0.0000004", "0", None]
    assert answer["totals"]["cost_usd"] == "1.234567400004"
    assert (answer["unknown_cost_at_most_usd"], answer["unknown_cost_without_bound"]) == (None, 1)
    assert (answer["in_flight"], answer["lost"], answer["more_rows"]) == (1, 0, 0)


def test_report_csv(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("report", "costs", "--data-dir", "data", "--csv", "--by", "status,day", "--limit", "1")
    assert done.stdout == (
        "status,day,requests,errors,input_tokens,cache_read_tokens,cache_write_tokens,output_tokens,cost_usd,"
        "unknown_cost\n200,2026-11-22,5,0,1000005,,,,1.234567400004,1\n"
    )


def test_report_of_nothing(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("report", "costs", "--data-dir", "data", "--until", "2020-01-01")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no requests in this time\n")
    answer = json.loads(fluxen("report", "costs", "--data-dir", "data", "--until", "2020-01-01", "--json").stdout)
    assert answer["rows"] == []
    assert answer["totals"]["cost_usd"] == "0"


@pytest.mark.parametrize("command", [["report", "costs"], ["ledger", "export", "out.csv"]])
def test_a_span_that_is_reversed_is_wrong_usage(fluxen: Fluxen, data: Path, command: list[str], tmp_path: Path) -> None:
    done = fluxen(*command, "--since", "1d", "--until", "2d", "--data-dir", "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --since 1d (")
    assert "is after --until 2d (" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def on_a_terminal(arguments: list[str], env: dict[str, str], cwd: Path, columns: int = 140) -> str:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fluxen_cli", *arguments],
        cwd=cwd,
        env={**env, "TERM": "xterm", "COLUMNS": str(columns)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(controller, 65_536)
        except OSError:  # Linux: EIO when the last writer is gone
            break
        if not piece:
            break
        shown += piece
    os.close(controller)
    assert process.wait(30) == 0
    return shown.decode()


def test_a_terminal_gets_a_table(data: Path, clean_env: dict[str, str], tmp_path: Path) -> None:
    arguments = ["report", "costs", "--data-dir", "data"]
    shown = on_a_terminal(arguments, clean_env, tmp_path)
    assert "\x1b[1m" in shown  # headings stand out
    shown = on_a_terminal(arguments, {**clean_env, "NO_COLOR": "1"}, tmp_path)
    assert "\x1b" not in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["gpt-1"][3] == "1,000,002"
    assert lines["gpt-1"][7] == "1.234567"
    assert lines["tiny"][7] == "<0.000001"
    assert lines["free"][7] == "0.000000"
    assert lines["evil\\x1b[2J\\n"][7] == "–"
    assert lines["total"][1] == "5"
    narrow = on_a_terminal(arguments, {**clean_env, "NO_COLOR": "1"}, tmp_path, columns=30)
    # No digit is cut; what is drawn beside them goes first.
    assert [line.split() for line in narrow.splitlines() if "gpt-1" in line] == [lines["gpt-1"][:9]]
    assert lines["gpt-1"][9:] == ["█" * 16]
    assert lines["tiny"][9:] == ["▏"]
    assert lines["free"][9:] == []


def test_sql(fluxen: Fluxen, data: Path) -> None:
    query = "select model, sum(cost_usd) c, max(ts) t from requests group by 1 order by 2 desc nulls first limit 1"
    done = fluxen("sql", query, "--data-dir", "data")
    assert [line.split() for line in done.stdout.splitlines()][1] == ["evil\\x1b[2J\\n", "–", "2026-11-22T12:00:00Z"]
    done = fluxen("sql", query.replace("first", "last"), "--data-dir", "data", "--json")
    answer = json.loads(done.stdout)
    assert answer["columns"][1] == {"name": "c", "type": "DECIMAL(38,12)"}
    assert answer["rows"] == [["gpt-1", "1.234567000004", "2026-11-22T12:00:00Z"]]
    done = fluxen("sql", "select 1 as a, null as b, true as c, [1, 2] as d", "--data-dir", "data", "--csv")
    assert done.stdout == 'a,b,c,d\n1,,true,"[1, 2]"\n'
    done = fluxen("sql", "select * from range(5)", "--data-dir", "data", "--limit", "2", "--json")
    assert (len(json.loads(done.stdout)["rows"]), json.loads(done.stdout)["truncated"]) == (2, True)
    assert "only the first 2 rows" in done.stderr
    done = fluxen("sql", "select now() - now() as a, 'nan'::double as b, uuid() as c", "--data-dir", "data", "--json")
    assert json.loads(done.stdout)["rows"][0][1] is None
    done = fluxen("sql", "select count(*) from in_flight", "--data-dir", "data", "--csv")
    assert done.stdout.splitlines()[1] == "1"


@pytest.mark.parametrize(
    "query",
    ["", "selec", "select 1; select 2", "copy (select 1) to 'x.csv'", "select * from read_text('/etc/passwd')",
     "attach 'x.db'", "select * from nowhere"],
)  # fmt: skip
def test_sql_that_is_refused(fluxen: Fluxen, data: Path, query: str, tmp_path: Path) -> None:
    done = fluxen("sql", query, "--data-dir", "data")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.csv").exists()


def test_an_error_of_several_lines_is_shown_in_lines(fluxen: Fluxen, data: Path) -> None:
    done = fluxen("sql", "select nope\nfrom requests", "--data-dir", "data")
    assert done.returncode == 2
    first, *more = done.stderr.splitlines()
    assert first.startswith("error: Binder Error: ")
    assert "  LINE 1: select nope" in more
    assert set(more[-1].strip()) == {"^"}
    assert more[-1].index("^") == len("  LINE 1: select ")  # points at the name it is about
    assert "\\n" not in done.stderr


def test_what_a_client_sent_forges_no_line_of_an_error(fluxen: Fluxen, data: Path) -> None:
    query = "select (model || 'hint: trust me')::int from requests where model like 'evil%'"
    done = fluxen("sql", query, "--data-dir", "data")
    assert done.returncode == 2
    assert "trust me" in done.stderr
    assert "\x1b" not in done.stderr
    assert not any(line.startswith("hint: ") for line in done.stderr.splitlines())


def test_ledger_commands(fluxen: Fluxen, data: Path, tmp_path: Path) -> None:
    found = json.loads(fluxen("ledger", "verify", "--data-dir", "data", "--json").stdout)
    assert (found["ok"], found["rows"], found["in_flight"]) == (True, 5, 1)
    assert fluxen("ledger", "compact", "--data-dir", "data").returncode == 0
    views = fluxen("ledger", "views", "--data-dir", "data")
    assert Path(views.stdout.strip()).is_file()
    assert fluxen("ledger", "backup", "copy", "--data-dir", "data").returncode == 0
    again = fluxen("ledger", "backup", "copy", "--data-dir", "data")
    assert (again.returncode, "hint: " in again.stderr) == (1, True)
    assert fluxen("ledger", "export", "out.csv", "--data-dir", "data").stderr == "5 rows written to out.csv\n"
    with (tmp_path / "out.csv").open(newline="") as file:
        assert sorted(row["model"] for row in csv.DictReader(file)) == [
            "evil\x1b[2J\n",
            "free",
            "gpt-1",
            "gpt-1",
            "tiny",
        ]
    done = fluxen("ledger", "export", "out.jsonl", "--data-dir", "data", "--until", "2020-01-01")
    assert done.stderr == "0 rows written to out.jsonl\n"
    assert fluxen("ledger", "export", "out.xls", "--data-dir", "data").returncode == 2
    done = fluxen("ledger", "export", "none/x.csv", "--data-dir", "data")
    assert done.returncode == 1
    assert done.stderr.startswith("error: can't write none/x.csv: No such file or directory\nhint: ")


def test_verify_fails_on_a_damaged_ledger(fluxen: Fluxen, data: Path) -> None:
    (data / "ledger" / "MANIFEST.json").write_text("{")
    done = fluxen("ledger", "verify", "--data-dir", "data")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


GOOD = """\
upstreams:
  openai:
  local: {target_url: "http://127.0.0.1:9", dialect: openai}
api_keys: {static: [{key: abc}], jwt: [{key: too-short}]}
admin: {bind_address: "127.0.0.1:1"}
"""


def test_validate(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    done = fluxen("validate", "good.yaml")
    assert done.returncode == 0
    assert done.stdout == "ok: good.yaml, 2 upstreams (openai, local), 1 client key, 1 warning\n"
    assert done.stderr.startswith("warning: good.yaml:4:46: api_keys.jwt[0].key: ")
    answer = json.loads(fluxen("validate", "good.yaml", "--json").stdout)
    assert (answer["ok"], answer["upstreams"], answer["warnings"][0]["where"]) == (
        True, ["openai", "local"], "api_keys.jwt[0].key",
    )  # fmt: skip
    assert fluxen("validate").stdout.startswith("ok: no configuration file, ")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}\n"])
def test_validate_says_what_an_empty_file_means(fluxen: Fluxen, tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    said = "note: empty.yaml is empty (or only comments): that is open mode with the defaults\n"
    done = fluxen("validate", "empty.yaml")
    assert (done.returncode, done.stderr) == (0, said)
    assert done.stdout.startswith("ok: empty.yaml, ")
    assert done.stdout.endswith(", open mode: no keys\n")
    done = fluxen("validate", "empty.yaml", "--json")
    assert (done.returncode, done.stderr) == (0, said)
    assert json.loads(done.stdout)["open_mode"] is True
    (tmp_path / "empty.yaml").write_text(text.replace("{}", "") + "version: 1\n")
    assert fluxen("validate", "empty.yaml").stderr == ""


def test_validate_of_a_folder(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = fluxen("validate", "etc")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[0] == "error: etc is a directory, not a configuration file"


def test_validate_prints_every_problem(fluxen: Fluxen, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("servr: {}\nserver: {workers: 0}\n")
    done = fluxen("validate", "bad.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == [
        "error: bad.yaml has 2 problems",
        "bad.yaml:1:1: servr: unknown field (did you mean 'server'?)",
        "bad.yaml:2:19: server.workers: value should be greater than or equal to 1",
    ]
    done = fluxen("validate", "bad.yaml", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["problems"][1] == {
        "file": "bad.yaml", "line": 2, "column": 19, "where": "server.workers",
        "message": "value should be greater than or equal to 1",
    }  # fmt: skip
    (tmp_path / "far.yaml").write_text("upstreams:\n  nobody: {}\n")
    done = fluxen("validate", "far.yaml")  # what only the catalogue knows has a place, too
    assert done.returncode == 3
    assert "far.yaml:2:11: upstreams.nobody: " in done.stderr


def test_the_schema_knows_every_section(fluxen: Fluxen) -> None:
    schema = json.loads(fluxen("validate", "--schema").stdout)
    assert set(schema["properties"]) == {"version", "data_dir", "server", "upstreams", "api_keys", "admin", "ledger",
                                         "log", "prices", "stream_usage"}  # fmt: skip
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Upstreams"]["additionalProperties"]["$ref"].endswith("/Upstream")
    assert schema["$defs"]["StaticKey"]["oneOf"] == [{"required": ["key"]}, {"required": ["hash"]}]
    assert "/root" not in json.dumps(schema)
