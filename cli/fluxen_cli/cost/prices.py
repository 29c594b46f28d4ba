"""`fluxen cost prices`: what models cost, and where that is known from."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fluxen.errors import FluxenError, NoDataError
from fluxen_cli import output
from fluxen_cli.cost import renew
from fluxen_cli.places import ConfigFile, DataDir, data_folder

if TYPE_CHECKING:
    from fluxen.analyzer.prices import PriceBook
    from fluxen_cli.cost.quote import Quote

_DEFAULT = "show"
_NEAREST = 5


class _Group(TyperGroup):
    """A model's name may stand where a command's name would: `fluxen cost prices gpt-5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


def build() -> typer.Typer:
    app = typer.Typer(
        cls=_Group,
        help="What models cost: `fluxen cost prices MODEL` is short for `fluxen cost prices show MODEL`.",
        rich_markup_mode=None,
    )
    app.command(_DEFAULT)(show)
    app.command("update")(renew.command)
    return app


def show(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model's name or a pattern (gpt-5*); none: an overview.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider's prices.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Only what holds at this upstream of the configuration.")] = None,
    at: Annotated[str | None, typer.Option(help="The prices of this day or moment, UTC; default: now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON; money as text, exact.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """What a model costs at each provider, in dollars per million tokens: its tiers of service, prices for large
    inputs, fees per call, and since when. Prices of the configuration are shown where they hold.

    '–' is a price that nobody knows: what it is for has no cost in the ledger, and is counted as such.
    """
    from fluxen.config.paths import find_config
    from fluxen_cli.cost.book import prices_in_force
    from fluxen_cli.cost.quote import overview, quotes

    moment = _moment(at)
    book = prices_in_force(data_folder(data_dir, config), config)
    if model is None:
        _overview(book, overview(book, provider), as_json)
        return
    found = quotes(book, model, moment, _upstreams(find_config(config, os.environ), upstream), provider, upstream)
    if not found:
        raise _unknown(book, model, provider, upstream)
    if as_json:
        said = {"version": book.version, "source": book.file.source, "model": model, "at": moment}
        output.emit_json({"report": "prices", **said, "prices": [one.as_json() for one in found]})
        return
    _table(found)
    output.note(f"dollars per million tokens; price book {book.version}")


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    from fluxen.config.values import parse_moment

    try:
        return parse_moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from None


def _upstreams(path: Path | None, wanted: str | None) -> dict[str, str]:
    """The configuration's upstreams, and whose prices each has ('': nobody's). wanted: only this one, which need not be
    in the file."""
    from fluxen.config.locate import written_upstreams
    from fluxen.reports.reprice import providers_of

    written = written_upstreams(path, os.environ) if path is not None else {}
    provider = providers_of(written)
    return {name: provider(name) for name in ([wanted] if wanted is not None else written)}


def _table(found: list[Quote]) -> None:
    """One line for each price, those above a size of the input among them. What hardly any has stands together."""
    columns = ("model", "provider", "upstream", "tier", "input", "cache_read", "write_5m", "write_1h", "output")
    lines = [line for one in found for line in one.lines()]
    more = [bool(line[-1]) for line in lines]
    names = (*columns, "since", "and") if any(more) else (*columns, "since")
    used = [index for index, name in enumerate(names) if name != "upstream" or any(line[index] for line in lines)]
    output.emit_table([names[index] for index in used], [[line[index] for index in used] for line in lines], exact=True)


def _overview(book: PriceBook, providers: list[tuple[str, int]], as_json: bool) -> None:
    if not providers:
        raise NoDataError("the price book has no such provider")
    if as_json:
        listed = [{"provider": name, "models": count} for name, count in providers]
        said = {"version": book.version, "source": book.file.source, "own_prices": book.own}
        output.emit_json({"report": "prices", **said, "providers": listed})
        return
    output.emit_table(("provider", "models"), providers)
    output.note(f"price book {book.version}, from {book.file.source}; fluxen cost prices MODEL shows what one costs")


def _unknown(book: PriceBook, model: str, provider: str | None, upstream: str | None) -> FluxenError:
    from fluxen_cli.cost.quote import nearest

    where = f" at {provider or upstream}" if provider or upstream else ""
    close = [name for name in nearest(book, model, provider, _NEAREST) if name != model]
    hint = f"did you mean {', '.join(close)}?" if close else "fluxen cost prices lists the providers it knows"
    return FluxenError(f"the price book knows no model {model}{where}: what it costs is unknown", hint=hint)
