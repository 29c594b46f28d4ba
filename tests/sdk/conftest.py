"""Gateways before a provider of our own, in the ways a user can set them up, and where to point an SDK in each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway.conftest import environment
from gateway.rig import KEY, Gateway
from sdk.provider import CACHED, INPUT, OUTPUT, REASONING, Provider

NARROW_KEY = "fx-only-for-anthropic-0123456789"
OWN_KEY = "sk-the-clients-own-0123456789"
PROVIDERS = ("openai", "anthropic", "gemini")
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-gateway-openai",
    "ANTHROPIC_API_KEY": "sk-gateway-anthropic",
    "GEMINI_API_KEY": "sk-gateway-gemini",
}


@dataclass(frozen=True)
class Place:
    """One way to be set up. credential: what the provider must see of a client that sends `key`."""

    gateway: Gateway
    provider: Provider
    route: str
    key: str
    own: bool
    """Whether the client's own key goes on."""

    def url(self, name: str, path: str = "") -> str:
        """The base URL for an SDK of this provider."""
        mount = f"/{name}" if self.route == "mount" else ""
        return f"{self.gateway.url}{mount}{path}"

    def credential(self, name: str) -> str:
        return self.key if self.own else ENVIRONMENT[f"{name.upper()}_API_KEY"]

    def check_row(self, id: str, endpoint: str, *, stream: bool = False, used: bool = True) -> None:
        """The row of an answer with the provider's usual usage."""
        row = self.gateway.row(id)
        assert (row["route"], row["endpoint"]) == (self.route, endpoint)
        assert (row["status"], row["error"], row["attempts"]) == (200, None, 1)
        assert bool(row["stream"]) is stream
        if used:
            assert (row["input_tokens"], row["cache_read_tokens"], row["output_tokens"]) == (INPUT, CACHED, OUTPUT)
            assert (row["reasoning_tokens"], row["usage_source"]) == (
                0 if "messages" in endpoint else REASONING,
                "reported",
            )


def _config(provider: Provider, keys: bool, api_keys: str) -> str:
    lines = ["version: 1", 'server: {bind_address: "127.0.0.1:0"}', "upstreams:"]
    for name in PROVIDERS:
        key = f', api_key: "${{{name.upper()}_API_KEY}}"' if keys else ""
        lines.append(f'  {name}: {{target_url: "{provider.url}"{key}}}')
    return "\n".join([*lines, api_keys, ""])


KEYED = f"""
api_keys:
  static:
    - {{id: all, key: "{KEY}"}}
    - {{id: narrow, key: "{NARROW_KEY}", upstreams: [anthropic]}}
"""


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    started = Provider()
    yield started
    started.close()
    assert not started.faults, started.faults


@pytest.fixture(scope="session")
def gateways(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Gateway]]:
    """keyed: client keys. open: none, the provider's keys are the gateway's. through: none, the client's go on."""
    started: dict[str, Gateway] = {}
    for name, keys, api_keys in (("keyed", True, KEYED), ("open", True, ""), ("through", False, "")):
        folder: Path = tmp_path_factory.mktemp(name)
        env = environment(folder / "home", ENVIRONMENT if keys else {})
        started[name] = Gateway(folder, _config(provider, keys, api_keys), env)
    yield started
    for gateway in started.values():
        gateway.stop()


@pytest.fixture(params=[f"{mode}-{route}" for mode in ("keyed", "open", "through") for route in ("unified", "mount")])
def place(request: pytest.FixtureRequest, gateways: Mapping[str, Gateway], provider: Provider) -> Place:
    mode, _, route = request.param.partition("-")
    key = KEY if mode == "keyed" else OWN_KEY
    return Place(gateways[mode], provider, route, key, mode == "through")


@pytest.fixture
def keyed(gateways: Mapping[str, Gateway], provider: Provider) -> Place:
    return Place(gateways["keyed"], provider, "unified", KEY, False)


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or address of the developer's reaches an SDK."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")


def printed_variables(gateway: Gateway) -> dict[str, str]:
    """What `fluxen serve` says to set."""
    lines = (line.strip() for line in gateway.stdout().splitlines())
    return dict(line.split("=", 1) for line in lines if "_BASE_URL=" in line)
