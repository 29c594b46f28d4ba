"""Errors by who must act on them: each carries a message for a person and, where there is one, a hint what to do.

The exit code of a command that ends with such an error is the error's `exit_code` (documented in docs/cli.md).
"""

from __future__ import annotations


class FluxenError(Exception):
    """Something the user or operator can act on; anything else that escapes is a bug and ends in a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(FluxenError):
    """The configuration can't be used. `problems` holds one line per problem, each with file:line:column."""

    exit_code = 3

    def __init__(self, message: str, problems: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.problems = problems


class AddressInUseError(FluxenError):
    """The address to listen on is taken."""

    exit_code = 4


class NoDataError(FluxenError):
    """No ledger where one was looked for; the message names every folder."""

    exit_code = 5


class LedgerError(FluxenError):
    """The ledger can't be read or written."""


class QueryError(FluxenError):
    """A query that is not allowed or not valid."""

    exit_code = 2
