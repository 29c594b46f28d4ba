"""What the ledger costs: µs CPU a line, bytes a row, ms for a report from a cold start; and what repricing costs.

    python tests/bench/ledger.py [--rows 1000000] [--days 30] [--keep FOLDER]

Rows of all columns, spread over 30 days, go through the ledger's own Parquet writer. A cold report is a fresh process:
interpreter, imports, opening and query, with a warm page cache. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fluxen.analyzer.prices import PriceBook
from fluxen.config.prices import PriceEntry
from fluxen.ledger import manifest as manifests
from fluxen.ledger import store
from fluxen.ledger.adjuster import adjusting
from fluxen.ledger.compactor import Compactor
from fluxen.ledger.engine import connect
from fluxen.ledger.journal import Journal
from fluxen.ledger.manifest import DATA, Manifest
from fluxen.ledger.parquet import ParquetWriter
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import Begin, End, new_id
from fluxen.ledger.schema import COLUMNS
from fluxen.reports import named
from fluxen.reports.reprice import Selection, providers_of, reprice

DAY = 86_400_000_000
FIRST_DAY = 1_792_713_600_000_000
"""2026-10-23 00:00 UTC, microseconds."""

REPORTS = {
    "costs by day, model, key": (
        "SELECT ts::DATE AS day, model, key_id, count(*), sum(cost_usd), count(*) FILTER (cost_usd IS NULL), "
        "sum(input_tokens), sum(output_tokens) FROM requests GROUP BY ALL ORDER BY 5 DESC NULLS LAST LIMIT 50"
    ),
    "costs by model": "SELECT model, count(*), sum(cost_usd) FROM requests GROUP BY 1 ORDER BY 3 DESC NULLS LAST",
    "latency by model": "SELECT model, quantile_cont(latency_ms, [0.5, 0.95]) FROM requests GROUP BY 1 ORDER BY 1",
}

COLD = """
import sys, time
from pathlib import Path
from fluxen.ledger.reader import Reader
rows = Reader(Path(sys.argv[1])).query(sys.argv[2]).rows
assert rows
"""


NAMED = """
import sys
from pathlib import Path
from fluxen.ledger.reader import Reader
from fluxen.reports.report import Question, ask
assert ask(Reader(Path(sys.argv[1])), sys.argv[2], Question()).rows
"""
"""A whole `fluxen report`, its totals and what is unknown, without the command line."""


def synthetic(first: int, count: int, step: int) -> str:
    """A SELECT of rows as three providers would make them: log-normal token counts, skewed keys, ids of their shape."""
    return f"""
WITH base AS (
    SELECT i, hash(i) AS h, hash(i + 7919) AS h2, hash(i * 31 + 5) AS h3, hash(i * 17 + 3) AS h4,
        hash(i * 13 + 1) AS h5,
        make_timestamp({FIRST_DAY} + i * {step} + (hash(i * 3) % {step})::BIGINT) AS ts
    FROM range({first}, {first + count}) AS numbers(i)
), drawn AS (
    SELECT *, (h5 % 15)::INTEGER AS m, floor(60 * power((h % 10007) / 10007.0, 3))::INTEGER AS k,
        h3 % 3 <> 0 AS streamed,
        (40 + exp(6 + 1.5 * sqrt(-2 * ln((1 + h % 9999) / 1e4)) * cos(6.2831853 * (h2 % 9999) / 1e4)))::BIGINT AS tin,
        (1 + exp(5 + sqrt(-2 * ln((1 + h3 % 9999) / 1e4)) * cos(6.2831853 * (h4 % 9999) / 1e4)))::BIGINT AS tout
    FROM base
), shaped AS (
    SELECT *, CASE WHEN m < 8 THEN 'openai' WHEN m < 12 THEN 'anthropic' ELSE 'gemini' END AS p,
        CASE WHEN h2 % 97 = 0 THEN 429 WHEN h2 % 211 = 0 THEN 500 ELSE 200 END AS st, st = 200 AS ok,
        CASE WHEN h4 % 4 = 0 THEN least(tin, 1024 * (1 + h4 % 7)) ELSE 0 END::BIGINT AS hit,
        CASE WHEN m % 3 = 0 THEN tout * (h4 % 60) // 100 ELSE 0 END::BIGINT AS think
    FROM drawn
)
SELECT
    (lpad(to_hex(epoch_ms(ts)), 12, '0') || '7' || substr(md5(i::VARCHAR), 1, 3)
        || (['8', '9', 'a', 'b'])[1 + (h % 4)::INTEGER] || substr(md5((i + 1)::VARCHAR), 1, 15))::UUID AS id,
    ts, 'gateway-' || (h4 % 2) AS node, (h2 % 2)::SMALLINT AS worker,
    'key-' || lpad(k::VARCHAR, 4, '0') AS key_id, 'team-' || (k % 9) AS team, 'project-' || (k % 23) AS project,
    CASE WHEN h3 % 5 = 0 THEN MAP {{'env': 'prod', 'feature': 'f' || (h2 % 12)}}
        WHEN k % 2 = 0 THEN MAP {{'env': 'prod'}} END AS tags,
    CASE WHEN h5 % 20 = 0 THEN md5((i * 7)::VARCHAR) END AS client_request_id,
    (['OpenAI/Python 2.8.1', 'AsyncOpenAI/Python 2.8.1', 'Anthropic/Python 0.80.0', 'ai-sdk/2', 'httpx'])[1 + k % 5]
        AS user_agent,
    CASE WHEN k % 3 = 0 THEN 'unified' ELSE p END AS route,
    CASE p WHEN 'openai' THEN (['/v1/chat/completions', '/v1/responses'])[1 + k % 2]
        WHEN 'anthropic' THEN '/v1/messages' ELSE '/v1beta/models/{{model}}:generateContent' END AS endpoint,
    p AS dialect, p AS upstream, p || '-main' AS credential, CASE WHEN k % 11 = 0 THEN 'cheap-first' END AS rule,
    (1 + (h % 97 = 0)::INTEGER)::SMALLINT AS attempts, 'model-' || m AS model_asked,
    CASE WHEN ok THEN 'model-' || m || '-2026-08-01' END AS model, streamed AS stream, st::SMALLINT AS status,
    CASE st WHEN 429 THEN 'upstream_status' WHEN 500 THEN 'upstream_status' END AS error,
    CASE WHEN ok THEN CASE WHEN h % 9 = 0 THEN 'length' WHEN h % 5 = 0 THEN 'tool_calls' ELSE 'stop' END END AS finish,
    NULL::VARCHAR AS "cache",
    CASE WHEN ok THEN tin - hit END AS input_tokens, CASE WHEN ok THEN hit END AS cache_read_tokens,
    CASE WHEN ok THEN CASE WHEN m BETWEEN 8 AND 11 AND h4 % 10 = 0 THEN 2048 ELSE 0 END END::BIGINT
        AS cache_write_5m_tokens,
    CASE WHEN ok THEN 0 END::BIGINT AS cache_write_1h_tokens, CASE WHEN ok THEN tout END AS output_tokens,
    CASE WHEN ok THEN think END AS reasoning_tokens, CASE WHEN ok THEN 0 END::BIGINT AS audio_tokens,
    CASE WHEN ok THEN 0 END::BIGINT AS image_tokens, NULL::INTEGER AS searches, NULL::INTEGER AS tool_calls,
    CASE WHEN ok AND p = 'anthropic' THEN 'standard' END AS service_tier, NULL::FLOAT AS usage_error,
    CASE WHEN ok THEN 'reported' ELSE 'none' END AS usage_source,
    CASE WHEN ok THEN CASE p
        WHEN 'openai' THEN '{{"prompt_tokens":' || tin || ',"completion_tokens":' || tout || ',"total_tokens":'
            || (tin + tout) || ',"prompt_tokens_details":{{"cached_tokens":' || hit
            || ',"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":' || think
            || ',"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}'
        WHEN 'anthropic' THEN '{{"input_tokens":' || (tin - hit)
            || ',"cache_creation_input_tokens":0,"cache_read_input_tokens":' || hit
            || ',"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":'
            || tout || ',"service_tier":"standard"}}'
        ELSE '{{"promptTokenCount":' || tin || ',"candidatesTokenCount":' || tout || ',"totalTokenCount":'
            || (tin + tout) || ',"promptTokensDetails":[{{"modality":"TEXT","tokenCount":' || tin || '}}]}}'
    END END AS usage_raw,
    CASE WHEN ok THEN ((tin - hit) * (150000 + 100000 * m) + hit * (15000 + 10000 * m) + tout * (600000 + 400000 * m))
        ::DECIMAL(18, 0) * 0.000000000001 END::DECIMAL(18, 12) AS cost_usd,
    NULL::DECIMAL(18, 12) AS fees_usd, NULL::VARCHAR AS stated_cost_source,
    NULL::DECIMAL(18, 12) AS stated_cost_usd, NULL::DECIMAL(18, 12) AS bound_usd, NULL::DECIMAL(18, 12) AS saved_usd,
    '2026-11-20' AS price_version, (200 + h % 9000)::INTEGER AS latency_ms, (150 + h2 % 900)::INTEGER AS ttfb_ms,
    (60 + h3 % 300)::INTEGER AS overhead_us, (300 + tin * 4 + h % 100)::BIGINT AS request_bytes,
    (500 + tout * CASE WHEN streamed THEN 200 ELSE 5 END + h2 % 100)::BIGINT AS response_bytes,
    CASE p WHEN 'openai' THEN 'req_' || md5((i * 3)::VARCHAR)
        WHEN 'anthropic' THEN 'req_011C' || substr(base64(md5((i * 5)::VARCHAR)::BLOB), 1, 20) END
        AS upstream_request_id
FROM shaped"""


def fill(folder: Path, rows: int, days: int, select: str = "*") -> Manifest:
    """A ledger of one merged file per day."""
    per_day = rows // days
    (folder / DATA).mkdir(parents=True)
    manifest = Manifest()
    names = ", ".join(column.name for column in COLUMNS)
    with connect(threads=1, memory="1GB") as connection:
        writer = ParquetWriter(folder, connection, FIRST_DAY)
        for day in range(days):
            manifest.generation += 1
            source = synthetic(day * per_day, per_day, DAY // per_day)
            connection.execute(f"CREATE OR REPLACE TABLE day AS SELECT {select} FROM (SELECT {names} FROM ({source}))")
            manifest.files += writer.table("day", manifest.generation, level=1)
    manifests.commit(folder, manifest)
    return manifest


def journal_cost(folder: Path, requests: int = 20_000) -> dict[str, float]:
    """CPU of the calling thread and, apart, of the whole process, per call."""
    journal = Journal(folder, "gateway-1", 0)
    usage = (
        '{"prompt_tokens":1234,"completion_tokens":300,"total_tokens":1534,"prompt_tokens_details":{"cached_tokens":0,'
        '"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}'
    )
    made = []
    started = time.thread_time()
    for _ in range(requests):
        new_id()
    ids = time.thread_time() - started
    for _ in range(requests):
        begin = Begin(new_id(), time.time_ns() // 1000, "my-key", "team", "project", {"env": "prod"}, None)
        begin.user_agent, begin.endpoint, begin.model_asked = "OpenAI/Python 2.8.1", "/v1/chat/completions", "gpt-4o"
        begin.route = begin.upstream = begin.dialect = begin.credential = "openai"
        begin.stream, begin.request_bytes, begin.price_version = True, 2048, "2026-11-20"
        end = End.of(begin)
        end.status, end.model, end.finish, end.usage_source, end.usage_raw = 200, "gpt-4o-1", "stop", "reported", usage
        end.input_tokens, end.output_tokens, end.cost_pico = 1234, 300, 6_085_000_000
        end.latency_ms, end.ttfb_ms, end.overhead_us, end.response_bytes = 1200, 300, 90, 40_000
        end.upstream_request_id = "req_0123456789abcdef0123456789abcdef"
        made.append((begin, end))
    begins = ends = 0.0
    whole = time.process_time()
    for at in range(0, requests, 100):
        batch = made[at : at + 100]
        first = time.thread_time()
        for begin, _ in batch:
            journal.begin(begin)
        second = time.thread_time()
        for _, end in batch:
            journal.end(end)
        begins, ends = begins + second - first, ends + time.thread_time() - second
    whole = time.process_time() - whole
    journal.close()
    scale = 1e6 / requests
    return {
        "new_id": round(ids * scale, 2),
        "begin": round(begins * scale, 2),
        "end": round(ends * scale, 2),
        "both, with the syncing thread": round(whole * scale, 2),
    }


def compactor_cost(folder: Path) -> dict[str, float]:
    """Taking in what `journal_cost` wrote."""
    compactor = Compactor(folder, grace_seconds=0)
    rows, started, wall = 0, time.process_time(), time.perf_counter()
    while True:
        step = compactor.step()
        rows += step.rows
        if not step.more:
            break
    spent, waited = time.process_time() - started, time.perf_counter() - wall
    compactor.close()
    return {
        "rows": rows,
        "us_per_row": round(1e6 * spent / rows, 1),
        "seconds": round(waited, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def cold(folder: Path, sql: str, program: str = COLD, runs: int = 7) -> dict[str, int]:
    """Of a fresh process: wall time, and CPU time, which a busy machine does not stretch as much."""
    times, spent = [], []
    for _ in range(runs):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program, str(folder), sql], check=True)
        times.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "min_ms": round(1e3 * min(times)),
        "median_ms": round(1e3 * sorted(times)[runs // 2]),
        "cpu_ms": round(1e3 * min(spent)),
    }


def repricing(folder: Path) -> dict[str, float]:
    """All rows get another price."""
    entries = (PriceEntry.model_validate({"models": ["model-*"], "input": 1, "output": 2}),)
    book = PriceBook.shipped().with_own(entries)
    spent, waited = time.process_time(), time.perf_counter()
    with adjusting(folder, "bench") as adjuster:
        found = reprice(Reader(folder), book, providers_of({}), Selection(), adjuster=adjuster)
        computed = time.process_time() - spent
        adjuster.publish()
    store.take_in(folder)
    made = manifests.load(folder).of("adjustments")
    adjusted, total = sum(file.rows for file in made), found.total
    assert adjusted == total.adjusted > 0.99 * total.requests  # some cost the same by accident
    return {
        "rows": total.requests,
        "us_per_row": round(1e6 * computed / total.requests, 1),
        "us_per_row, with writing": round(1e6 * (time.process_time() - spent) / total.requests, 1),
        "seconds": round(time.perf_counter() - waited, 1),
        "bytes_per_row": round(sum(file.bytes for file in made) / adjusted, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main(rows: int, days: int, root: Path) -> dict[str, object]:
    result: dict[str, object] = {"rows": rows, "days": days}
    result["journal_us_cpu"] = journal_cost(root / "journal")
    result["compactor"] = compactor_cost(root / "journal")
    whole = fill(root / "whole", rows, days)
    bare = fill(root / "bare", rows // 10, max(1, days // 10), "* REPLACE (NULL::VARCHAR AS usage_raw)")
    result["bytes_per_row"] = {
        "with usage_raw": round(sum(f.bytes for f in whole.files) / sum(f.rows for f in whole.files), 1),
        "without": round(sum(f.bytes for f in bare.files) / sum(f.rows for f in bare.files), 1),
    }
    result["cold_report"] = {name: cold(root / "whole", sql) for name, sql in REPORTS.items()}
    result["cold_report, named"] = {name: cold(root / "whole", name, NAMED, runs=5) for name in named.REPORTS}
    result["repricing"] = repricing(root / "whole")
    result["cold_report, all rows adjusted"] = {name: cold(root / "whole", sql) for name, sql in REPORTS.items()}
    result["of which import duckdb"] = cold(root, "", "import duckdb")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--keep", type=Path, help="an empty folder for the ledgers, which stay")
    given = parser.parse_args()
    if given.keep:
        print(json.dumps(main(given.rows, given.days, given.keep), indent=2))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(main(given.rows, given.days, Path(folder)), indent=2))
