"""The columns of the ledger, the same in Parquet, views, `--json` and the documentation; and how older files are read.

A file says which schema version wrote it (a segment in its header, a Parquet file in the manifest). Columns that were
only added need nothing: files are joined by name and what a file lacks is NULL. Anything else (a rename, another
meaning) is a `Migration`: one function for journal rows, one SELECT list for Parquet files, applied in order.
A file of a NEWER schema is refused with a hint: guessing would make wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxen.errors import LedgerError
from fluxen.ledger.record import Adjustment, Begin, End

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view. `field` is its name in the journal: money is whole pico-dollars there."""

    name: str
    type: str
    description: str

    @property
    def field(self) -> str:
        return self.name.removesuffix("_usd") + "_pico" if self.type == MONEY else self.name


MONEY = "DECIMAL(18,12)"
MOST_PICO = 10**18 - 1
"""What that holds, in pico-dollars: a million dollars. No request costs more; a count that says so is not true."""

COLUMNS: tuple[Column, ...] = (
    Column("id", "UUID", "UUIDv7 of the request; every answer carries it as x-fluxen-id"),
    Column("ts", "TIMESTAMP", "arrival, UTC, microseconds"),
    Column("node", "VARCHAR", "the machine that served the request"),
    Column("worker", "SMALLINT", "the worker process on that machine, from 0"),
    Column("key_id", "VARCHAR", "id of the client key (never the key)"),
    Column("team", "VARCHAR", "team the key belongs to"),
    Column("project", "VARCHAR", "project the key belongs to"),
    Column("tags", "MAP(VARCHAR, VARCHAR)", "tags of the key and of x-fluxen-tags"),
    Column("client_request_id", "VARCHAR", "the client's own id of the request"),
    Column("user_agent", "VARCHAR", "User-Agent of the client"),
    Column("route", "VARCHAR", "mount or unified: the kind of route"),
    Column("endpoint", "VARCHAR", "template of the API path: no ids, no query"),
    Column("dialect", "VARCHAR", "protocol of the path: openai, anthropic, gemini, bedrock, cohere or ollama"),
    Column("upstream", "VARCHAR", "name of the upstream that was chosen"),
    Column("credential", "VARCHAR", "name of the provider credential that was used"),
    Column("rule", "VARCHAR", "name of the rule that decided"),
    Column("attempts", "SMALLINT", "how often the request was sent upstream"),
    Column("model_asked", "VARCHAR", "model named by the client"),
    Column("model", "VARCHAR", "model named by the provider's answer"),
    Column("stream", "BOOLEAN", "whether a streamed answer was asked for"),
    Column("status", "SMALLINT", "HTTP status sent to the client; NULL when none was"),
    Column("error", "VARCHAR", "why it failed, in a word; 'lost': the process ended before the outcome was written"),
    Column("finish", "VARCHAR", "why generation ended, in the provider's word"),
    Column("cache", "VARCHAR", "what our cache did: hit, miss or semantic; NULL when it was not asked"),
    Column("input_tokens", "BIGINT", "input tokens read afresh (neither cache reads nor cache writes)"),
    Column("cache_read_tokens", "BIGINT", "input tokens read from the provider's cache"),
    Column("cache_write_5m_tokens", "BIGINT", "input tokens written to the provider's 5-minute cache"),
    Column("cache_write_1h_tokens", "BIGINT", "input tokens written to the provider's 1-hour cache"),
    Column("output_tokens", "BIGINT", "output tokens, reasoning included"),
    Column("reasoning_tokens", "BIGINT", "of output_tokens: reasoning"),
    Column("audio_tokens", "BIGINT", "of the tokens above: audio, in and out"),
    Column("image_tokens", "BIGINT", "of the tokens above: images"),
    Column("searches", "INTEGER", "searches the provider ran and bills by the call: web, files, maps, rerank units"),
    Column("tool_calls", "INTEGER", "other calls of the provider's own tools"),
    Column("service_tier", "VARCHAR", "the provider's word for how it was served, where that may change the price"),
    Column("usage_source", "VARCHAR", "where the counts come from: reported, estimated, partial, unknown or none"),
    Column("usage_error", "FLOAT", "of an estimate: half its 95 % band as a part of the counts (0.05: ±5 %)"),
    Column("usage_raw", "VARCHAR", "the provider's own usage object as JSON, at most 4 KB"),
    Column("cost_usd", MONEY, "what the request cost, in whole pico-dollars; NULL = unknown"),
    Column("fees_usd", MONEY, "of cost_usd: fees by the call, such as web searches"),
    Column("stated_cost_usd", MONEY, "the cost the provider itself stated"),
    Column("stated_cost_source", "VARCHAR", "the field of its answer in which it stated that"),
    Column("bound_usd", MONEY, "the most it could have cost, as reserved before dispatch; NULL without a budget"),
    Column("saved_usd", MONEY, "what a cache or rule saved"),
    Column("price_version", "VARCHAR", "version of the price book that was used"),
    Column("latency_ms", "INTEGER", "arrival to the last byte sent to the client"),
    Column("ttfb_ms", "INTEGER", "arrival to the first byte of the answer"),
    Column("overhead_us", "INTEGER", "of latency: what Fluxen itself took, microseconds"),
    Column("request_bytes", "BIGINT", "length of the request body"),
    Column("response_bytes", "BIGINT", "length of the answer's body as relayed"),
    Column("upstream_request_id", "VARCHAR", "the provider's id of the request"),
)

ADJUSTMENTS: tuple[Column, ...] = (
    Column("id", "UUID", "the request whose cost this is"),
    Column("ts", "TIMESTAMP", "arrival of that request"),
    Column("cost_usd", MONEY, "what it costs by this adjustment; NULL = unknown"),
    Column("fees_usd", MONEY, "of cost_usd: fees by the call"),
    Column("price_version", "VARCHAR", "version of the price book that was used"),
    Column("made", "TIMESTAMP", "when it was made; of several, the last one counts"),
)
"""The columns of the view `adjustments`. What they say replaces the columns of the same name in `requests`."""

IN_FLIGHT: tuple[Column, ...] = tuple(
    column for column in COLUMNS if column.field in ("node", "worker", *Begin.__struct_fields__)
)
"""The columns of the view `in_flight`: what is known before the outcome."""


@dataclass(frozen=True, slots=True)
class Migration:
    """The step from schema `version - 1` to `version`."""

    version: int
    row: Callable[[dict[str, object]], dict[str, object]]
    """Changes a journal row (field name → value) of either kind of line."""
    select: str = "*"
    """SELECT list over a Parquet file, e.g. ``* RENAME (old AS new)``."""


def _as_it_is(row: dict[str, object]) -> dict[str, object]:
    return row


MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, _as_it_is),  # added: searches, tool_calls, service_tier, usage_error, fees_usd, stated_cost_source
)


def check(version: int, what: str, known: int = SCHEMA) -> None:
    """Refuse what a newer Fluxen wrote."""
    if version > known:
        raise LedgerError(
            f"{what} has ledger schema {version}, this Fluxen reads up to {known}",
            hint="a newer Fluxen wrote it: upgrade this one (the ledger is never written downwards)",
        )


def upgrade(row: dict[str, object], version: int, migrations: Sequence[Migration] = MIGRATIONS) -> dict[str, object]:
    """A journal row of schema `version` as the current schema would have written it."""
    for migration in migrations:
        if migration.version > version:
            row = migration.row(row)
    return row


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def parquet_path(path: str) -> str:
    """A path as a SQL literal for read_parquet, which would expand `*`, `?` and `[` in a folder's name."""
    return literal("".join(f"[{char}]" if char in "*?[" else char for char in path))


def empty(columns: Sequence[Column] = COLUMNS) -> str:
    """A SELECT of no rows with the right names and types."""
    nulls = ", ".join(f"NULL::{column.type} AS {column.name}" for column in columns)
    return f"SELECT {nulls} WHERE false"


def from_parquet(
    files: Sequence[tuple[str, int]],
    migrations: Sequence[Migration] = MIGRATIONS,
    columns: Sequence[Column] = COLUMNS,
) -> str:
    """A SELECT of all columns over Parquet files (absolute path, schema version); no files: an empty table."""
    names = ", ".join(column.name for column in columns)
    versions = sorted({version for _, version in files})
    if versions == [SCHEMA]:
        paths = ", ".join(parquet_path(path) for path, _ in files)
        return f"SELECT {names} FROM read_parquet([{paths}])"
    parts = [empty(columns)]
    for version in versions:
        paths = ", ".join(parquet_path(path) for path, of in files if of == version)
        part = f"SELECT * FROM read_parquet([{paths}], union_by_name = true)"
        for migration in migrations:
            if migration.version > version:
                part = f"SELECT {migration.select} FROM ({part})"
        parts.append(part)
    return f"SELECT {names} FROM (" + " UNION ALL BY NAME ".join(parts) + ")"


def lines(source: str) -> str:
    """A SELECT of one column `l`, a list of texts, over a file of JSON arrays, one a line."""
    shape = "format = 'newline_delimited', records = false, columns = {json: 'VARCHAR[]'}"
    return f"SELECT json AS l FROM read_json({parquet_path(source)}, {shape})"


def from_lines(table: str, columns: Sequence[Column], fields: Sequence[str]) -> str:
    """A SELECT over a table of `lines` that hold `[node, worker, …fields]`.

    Ids and times are known to be valid; any other value that does not fit its type is NULL, as unknown as it is.
    """
    place = {name: index for index, name in enumerate(("node", "worker", *fields), start=1)}
    values = ", ".join(f"{_value(column, f'l[{place[column.field]}]')} AS {column.name}" for column in columns)
    return f"SELECT {values} FROM {table}"


def _value(column: Column, text: str) -> str:
    if column.type == "VARCHAR":
        return text
    if column.type == "TIMESTAMP":
        return f"make_timestamp({text}::BIGINT)"
    if column.type == MONEY:  # exact: scaled integers, never a float
        return f"TRY_CAST(TRY_CAST({text} AS DECIMAL(18,0)) * 0.000000000001 AS {MONEY})"
    if column.type.startswith("MAP"):
        return f"TRY_CAST({text}::JSON AS {column.type})"
    return f"TRY_CAST({text} AS {column.type})"


END_FIELDS: tuple[str, ...] = End.__struct_fields__
BEGIN_FIELDS: tuple[str, ...] = Begin.__struct_fields__
ADJUSTMENT_FIELDS: tuple[str, ...] = Adjustment.__struct_fields__
