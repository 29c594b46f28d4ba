"""`fluxen report`: named questions to the ledger, each a subcommand; without one, a summary on one screen."""

from __future__ import annotations

import typer

from fluxen_cli.report import named, summary

HELP = "Answers about what was served and spent. Without a subcommand: a summary of today and this month."


def build() -> typer.Typer:
    app = typer.Typer(help=HELP, invoke_without_command=True, rich_markup_mode=None)
    app.callback()(summary.command)
    for name in named.NAMES:
        app.command(name, help=named.help_of(name))(named.command(name))
    return app
