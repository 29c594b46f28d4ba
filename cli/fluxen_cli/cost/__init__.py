"""`fluxen cost`: what requests cost, cost now, or would cost."""

from __future__ import annotations

import typer

from fluxen_cli.cost import estimate, prices, reprice


def build() -> typer.Typer:
    """The tree of its commands: one line for each, in alphabetical order."""
    app = typer.Typer(
        help="What models cost, what a request would cost, and costs computed anew.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.callback()(lambda: None)  # a group, however many commands it has
    app.command("estimate")(estimate.command)
    app.add_typer(prices.build(), name="prices")
    app.command("reprice")(reprice.command)
    return app
