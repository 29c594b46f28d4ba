"""`fluxen keys`: the tree of its commands."""

from __future__ import annotations

import typer

from fluxen_cli.keys import create, importing, listing, provider, revoke, rotate, show, update


def build() -> typer.Typer:
    app = typer.Typer(
        help="Client keys: create, list, change, rotate and revoke them. A running gateway obeys within a second.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("create")(create.command)
    app.command("list")(listing.command)
    app.command("show")(show.command)
    app.command("update")(update.command)
    app.command("rotate")(rotate.command)
    app.command("revoke")(revoke.command)
    app.command("import")(importing.command)
    app.add_typer(provider.build(), name="provider")
    return app
