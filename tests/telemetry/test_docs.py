"""docs/logs.md names every field of a request's line, every metric and every event that there is, and no other."""

from __future__ import annotations

import re

import msgspec
from shared import ROOT

from fluxen.gateway.request_log import Line
from fluxen.telemetry.metrics import Metrics

TEXT = (ROOT / "docs" / "logs.md").read_text()
_EVENT = re.compile(
    r"(?:\b_?log\.(?:debug|info|warning|error|event|bug|notice)|\b_?notice|\.say|\.bug)\(\s*f?\"([a-z_]+)(?=[\":])"
)


def table(name: str) -> list[list[str]]:
    """The cells of the rows between `<!-- name -->` and `<!-- end -->`."""
    part = TEXT.partition(f"<!-- {name} -->\n")[2].partition("<!-- end -->")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in part.splitlines()[2:]]


def test_fields_of_a_request() -> None:
    documented = [row[0].strip("`| ") for row in table("fields of a request")]
    names = [field.name for field in msgspec.structs.fields(Line)]
    assert documented == names[names.index("event") + 1 :]


def test_metrics() -> None:
    text = Metrics(1).text()
    labels = dict(re.findall(r"^(fluxen_\w+)\{(\w+)=", text, re.MULTILINE))
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    expected = [
        [f"`{name}{{{labels[name]}}}`" if name in labels else f"`{name}`", types[name], meaning]
        for name, meaning in re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE)
    ]
    assert table("metrics") == expected


def test_events() -> None:
    said = {
        event
        for path in (ROOT / "fluxen").rglob("*.py")
        for event in _EVENT.findall(path.read_text())
        if path.parent.name in ("gateway", "ledger", "telemetry")
    }
    assert {"refused", "unreachable", "broken", "ledger", "crashed", "config_rejected"} <= said
    documented = set(re.findall(r"`([a-z_]+)`", TEXT.partition("## Other events")[2].partition("## Secrets")[0]))
    assert said - documented <= UNDOCUMENTED


UNDOCUMENTED = {
    "ended", "order_failed", "status_not_published", "state_not_written", "unknown_message", "reload_failed",
}  # fmt: skip
"""What hardly anybody will ever see."""
