"""The tree of commands, and what becomes of their errors. Each command imports what it works with when it runs."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from fluxen.errors import FluxenError
from fluxen_cli import (
    config,
    cost,
    doctor,
    health,
    init,
    ledger,
    output,
    reload,
    report,
    selftest,
    serve,
    sql,
    validate,
)
from fluxen_cli import run as running
from fluxen_cli.demo import command as demo
from fluxen_cli.keys import command as keys
from fluxen_cli.tail import command as tail
from fluxen_cli.top import command as top

HELP = """Fluxen, a self-hosted AI gateway: forwards bytes untouched, records what every request cost.

Exit codes: 0 done, 1 failed, 2 wrong usage or query, 3 configuration can't be used, 4 address in use, 5 no data found,
130 interrupted."""


def build() -> typer.Typer:
    """The command line. No markup and no pretty tracebacks: they would cost start-up time."""
    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        name="fluxen",
        help=HELP,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=settings,
    )
    app.callback()(_main)
    app.command("init")(init.command)
    app.command("serve")(serve.command)
    app.command("demo")(demo.command)
    app.command("run", context_settings=running.CONTEXT)(running.command)
    app.add_typer(report.build(), name="report")
    app.add_typer(cost.build(), name="cost")
    app.command("tail")(tail.command)
    app.command("top")(top.command)
    app.command("sql")(sql.command)
    app.add_typer(ledger.build(), name="ledger")
    app.add_typer(keys.build(), name="keys")
    app.command("validate")(validate.command)
    app.command("reload")(reload.command)
    app.add_typer(config.build(), name="config")
    app.command("health")(health.command)
    app.command("doctor")(doctor.command)
    app.command("self-test", hidden=True)(selftest.command)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. A bug ends in a traceback, anything a person can mend does not."""
    output.open_streams()
    try:
        build()(args=list(arguments), prog_name="fluxen")
    except FluxenError as error:
        output.fail(error)
        return error.exit_code
    except OSError as error:  # a full disk, a missing folder, a permission: the operator's to mend
        where = f": {error.filename}" if error.filename else ""
        output.fail(FluxenError(f"{error.strerror or error}{where}"))
        return FluxenError.exit_code
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        from fluxen import __version__

        output.emit(f"fluxen {__version__}\n")
        raise typer.Exit


def _main(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass
