"""fluxen.1, the manual page, from the tree of commands: python packaging/release/manual.py > fluxen.1

Everything is read from the commands themselves; only the environment and the files are described here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import typer

from fluxen import __version__
from fluxen_cli.app import build

ENVIRONMENT = {
    "FLUXEN_CONFIG": "The configuration file.",
    "FLUXEN_DATA_DIR": "The data folder: ledger and keys. Wins over data_dir in the configuration.",
    "FLUXEN_LOG": "What is logged and how, such as warning,json. Wins over log in the configuration.",
    "OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY, …": "Keys of providers, used where the configuration has none.",
    "SSL_CERT_FILE, SSL_CERT_DIR": "Certificate authorities to trust instead of the system's.",
    "XDG_CONFIG_HOME, XDG_DATA_HOME": "Where configuration and data of a user lie. Default: ~/.config, ~/.local/share.",
}
FILES = {
    "./fluxen.yaml": "Configuration; of the following the first that is there.",
    "$XDG_CONFIG_HOME/fluxen/fluxen.yaml": "A user's configuration.",
    "/etc/fluxen/fluxen.yaml": "The machine's configuration.",
    "$XDG_DATA_HOME/fluxen": "A user's data: ledger and keys.",
    "/var/lib/fluxen": "Data of the service that packages install.",
}


def page(when: int) -> str:
    root = typer.main.get_command(build())
    about, _, codes = (root.help or "").partition("\n\n")
    name, _, rest = about.partition(", ")
    date = time.strftime("%Y-%m-%d", time.gmtime(when))
    lines = [
        f'.TH FLUXEN 1 "{date}" "fluxen {__version__}" "User Commands"',
        ".SH NAME",
        rf"fluxen \- {escape(rest.partition(':')[0].removeprefix('a '))}",
        ".SH SYNOPSIS",
        *(line for path, command, _ in leaves(root) for line in usage(path, command)),
        ".SH DESCRIPTION",
        *paragraphs(f"{name} is {rest}"),
        ".SH OPTIONS",
        *options(root, typer.Context(root, info_name="fluxen", **root.context_settings)),
        ".SH COMMANDS",
    ]
    for path, command, context in leaves(root):
        lines += [f'.SS "{escape(path)}"', *paragraphs(command.help or ""), *options(command, context)]
    lines.append(".SH EXIT STATUS")
    for number, meaning in re.findall(r"(\d+) ([^,.]+)", codes.replace("\n", " ")):
        lines += [".TP", rf".B {number}", escape(f"{meaning.strip().capitalize()}.")]
    for title, table in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for term, meaning in table.items():
            lines += [".TP", rf".B {escape(term)}", escape(meaning)]
    lines += [".SH EXAMPLES"]
    for text, example in (
        ("A first configuration and client key:", "fluxen init"),
        ("Serve, then see what was spent:", "fluxen serve\nfluxen report costs --since today --by team,model"),
    ):
        lines += [".PP", escape(text), ".PP", ".nf", ".RS", *escape(example).splitlines(), ".RE", ".fi"]
    return "\n".join(lines) + "\n"


def leaves(command: Any, path: str = "fluxen", parent: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Every command that does something: what to type, the command, its context."""
    context = typer.Context(command, info_name=path.split()[-1], parent=parent, **command.context_settings)
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command, context
        return
    for name, child in below.items():
        if not child.hidden:
            yield from leaves(child, f"{path} {name}", context)


def usage(path: str, command: Any) -> Iterator[str]:
    pieces = ["[OPTIONS]"]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = parameter.metavar or parameter.name.upper()
            pieces.append(name if parameter.required else f"[{name}]")
    yield rf".B {escape(path)}"
    yield escape(" ".join(pieces))
    yield ".br"


def options(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or (context.parent and parameter.name == "help"):  # hidden; said once
            continue
        left, right = record
        names, _, value = left.partition(" <")
        yield ".TP"
        yield rf"\fB{escape(names)}\fR" + (rf" \fI{escape('<' + value)}\fR" if value else "")
        yield escape(" ".join(right.split()))


def paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.replace("\b", "").strip().split("\n\n"):
        yield ".PP"
        yield escape(" ".join(paragraph.split()))


def escape(text: str) -> str:
    """Plain text as roff: nothing in it is a command."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in text.split("\n"))


def main() -> None:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    sys.stdout.write(page(when))


if __name__ == "__main__":
    main()
