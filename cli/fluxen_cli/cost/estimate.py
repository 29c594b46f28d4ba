"""`fluxen cost estimate`: what a prompt would cost, before it is sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxen.errors import FluxenError
from fluxen_cli import output
from fluxen_cli.places import ConfigFile, DataDir, data_folder

if TYPE_CHECKING:
    from fluxen.analyzer.prices import PriceBook
    from fluxen_cli.cost.compare import Comparison, Line, Target
    from fluxen_cli.cost.inputs import Inputs

WORTH_A_BAR = 4 * 1024 * 1024
"""From so many bytes on, a terminal shows how far it is."""
NEAREST = 5
COLUMNS = (
    "model", "provider", "input_tokens", "plus_minus", "output_tokens", "input_usd", "cached_usd", "output_usd",
    "total_usd", "batch_usd",
)  # fmt: skip


def command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", help="Prompts as text, bodies of requests as JSON, folders of them; none or -: stdin."
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="With these models; default: the one that a request names.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Answers of so many tokens; default: what requests allow.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="At the prices of this provider.")] = None,
    upstream: Annotated[str | None, typer.Option(help="At the prices of this upstream of the configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON; money as text, exact.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV; money exact.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """How many tokens a prompt has and what it would cost, with several models side by side. Nothing is sent anywhere.

    Tokens of OpenAI's models are counted as OpenAI does, those of others are estimated: plus_minus is half of the band
    in which 95 % lie. cached_usd is the input when all of it is read from the provider's cache, total_usd input and
    output, batch_usd the same sent as a batch. '–' is not known.
    """
    import time

    from fluxen_cli.cost.book import prices_in_force
    from fluxen_cli.cost.compare import Comparison
    from fluxen_cli.cost.inputs import gather

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    found = gather(paths or ())
    book = prices_in_force(data_folder(data_dir, config), config)
    chosen = [name.strip() for name in (models or "").split(",") if name.strip()]
    whose = _whose(book, config, provider, upstream)
    now = time.time_ns() // 1000
    compared = Comparison(book, now, output_tokens)
    known = {name: _targets(book, name, now, whose, upstream) for name in chosen}
    with _progress(found) as advance:
        for request in found.read(advance):
            names = chosen or [request.prompt.model or ""]
            if names == [""]:
                raise FluxenError(f"{request.name} names no model", hint="say which: --models gpt-5,claude-sonnet-4-5")
            for name in names:
                if name not in known:
                    known[name] = _targets(book, name, now, whose, upstream)
                compared.add(request.prompt, known[name])
    if not compared.lines:
        raise FluxenError("there is no text in it")
    _emit(compared, found, as_json, as_csv)


def _whose(book: PriceBook, config: Path | None, provider: str | None, upstream: str | None) -> str | None:
    """The provider whose prices are meant, None when nobody said. Raises FluxenError for a name that nobody has."""
    from fluxen.config.locate import written_upstreams
    from fluxen.config.paths import find_config
    from fluxen.providers.catalogue import load_catalogue, provider_of_upstream

    catalogue = load_catalogue()
    if provider is not None:
        if provider in catalogue:
            return catalogue[provider].name
        if book.list_name(provider) not in book.file.providers:
            raise _nobody("provider", provider, {*catalogue, *book.file.providers})
        return provider
    if upstream is None:
        return None
    path = find_config(config, os.environ)
    written = written_upstreams(path, os.environ) if path is not None else {}
    if upstream not in written and upstream not in catalogue:
        raise _nobody("upstream", upstream, written or catalogue)
    target_url, dialect = written.get(upstream, (None, None))
    known = provider_of_upstream(upstream, target_url, catalogue, dialect)
    return known.name if known is not None else ""


def _nobody(what: str, name: str, known: Iterable[str]) -> FluxenError:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=NEAREST)
    return FluxenError(f"there is no {what} '{name}'", hint=f"did you mean {', '.join(close)}?" if close else None)


def _targets(book: PriceBook, model: str, now: int, provider: str | None, upstream: str | None) -> tuple[Target, ...]:
    from fluxen_cli.cost.compare import targets
    from fluxen_cli.cost.quote import nearest

    found = tuple(targets(book, model, now, provider, upstream))
    if not found:
        close = nearest(book, model, None, NEAREST)
        hint = f"did you mean {', '.join(close)}?" if close else "fluxen cost prices lists what is known"
        raise FluxenError(f"no price list has a model {model}", hint=f"{hint} Of your own: --upstream NAME")
    return found


@contextmanager
def _progress(found: Inputs) -> Iterator[Callable[[int], None]]:
    if found.size < WORTH_A_BAR or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from fluxen_cli.unwinding import unwinding

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    columns = (TextColumn("counting"), BarColumn(28), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with unwinding(), bar:
        task = bar.add_task("", total=found.size)
        yield lambda done: bar.update(task, advance=done)


def _emit(compared: Comparison, found: Inputs, as_json: bool, as_csv: bool) -> None:
    lines = list(compared.lines.values())
    if as_json:
        said = {"price_version": compared.book.version, "skipped_files": found.skipped}
        output.emit_json({"report": "estimate", **said, "models": [_named(line) for line in lines]})
    elif as_csv:
        output.emit_csv(COLUMNS, [_cells(line) for line in lines])
    else:
        output.emit_table(COLUMNS, [_cells(line) for line in lines])
    for note in _notes(lines, found):
        output.note(note)


def _cells(line: Line) -> list[object]:
    counts = [line.input, round(line.band), line.output]
    money = [line.dollars(name) for name in ("input_cost", "cached_cost", "output_cost", "total", "batch")]
    return [line.target.model, line.target.provider or line.target.upstream or None, *counts, *money]


def _named(line: Line) -> dict[str, object]:
    cells = dict(zip(COLUMNS, _cells(line), strict=True))
    more = {"upstream": line.target.upstream or None, "family": line.family, "requests": line.requests}
    return {**cells, **more, "requests_with_unseen_input": line.floor}


def _notes(lines: list[Line], found: Inputs) -> Iterator[str]:
    if found.skipped:
        files = "file is" if found.skipped == 1 else "files are"
        yield f"{found.skipped:,} {files} no text of at most 64 MB: left out"
    requests = max(line.requests for line in lines)
    if requests > 1:
        yield f"the sum of {requests:,} requests"
    if any(line.floor for line in lines):
        yield "at least: files, the provider's own tools or an earlier conversation are read, too, and can't be counted"
    unpriced = [line.target.model for line in lines if line.input_cost is None]
    if unpriced:
        yield f"no price is known of {', '.join(dict.fromkeys(unpriced))}"
    if any(line.output is None for line in lines):
        yield "how long answers may be is not said: --output-tokens N counts them in"
