"""What programs read to find their provider: the variables, keys and arguments that lead them to a gateway instead.

Seen on the wire with the SDKs and tools named here; what a program sets in its own code wins over all of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLACEHOLDER = "fluxen-has-the-key"
"""For SDKs that refuse to start without a key. Only where the gateway has one: it puts its own in place of this."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the SDKs and tools of one protocol read. urls: variable → what it has behind the gateway's own URL."""

    provider: str
    urls: Mapping[str, str]
    keys: tuple[str, ...]
    home: str
    """The provider's own URL: a variable that says this says nothing."""


CLIENTS: Mapping[str, Client] = {
    # OPENAI_API_BASE: LiteLLM, aider, older LangChain
    "openai": Client(
        "OpenAI", {"OPENAI_BASE_URL": "/v1", "OPENAI_API_BASE": "/v1"}, ("OPENAI_API_KEY",), "https://api.openai.com"
    ),
    "anthropic": Client(
        "Anthropic",
        {"ANTHROPIC_BASE_URL": ""},
        ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
        "https://api.anthropic.com",
    ),
    "gemini": Client(
        "Gemini",
        {"GOOGLE_GEMINI_BASE_URL": ""},
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://generativelanguage.googleapis.com",
    ),
}

_USER = re.compile(r"//[^/?#]*@")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def spoken(keys: Mapping[str, bool]) -> list[str]:
    """The names of the providers whose clients a gateway can serve."""
    return [client.provider for dialect, client in CLIENTS.items() if dialect in keys]


def environment(env: Mapping[str, str], program: str, url: str, keys: Mapping[str, bool]) -> dict[str, str]:
    """`env` for a program whose requests shall go to the gateway at `url`.

    keys: per dialect the gateway speaks, whether it has a provider's key. Variables of other protocols stay as they
    are: those requests go where they went before.
    """
    changed = dict(env)
    for dialect, client in CLIENTS.items():
        if dialect not in keys:
            continue
        changed |= {name: url + path for name, path in client.urls.items()}
        if keys[dialect] and not any(env.get(name) for name in client.keys):
            # Claude Code asks before it uses an API key it finds, but not before it uses a token.
            asks = dialect == "anthropic" and _name(program) == "claude"
            changed["ANTHROPIC_AUTH_TOKEN" if asks else client.keys[0]] = PLACEHOLDER
    return changed | _no_proxy(env)


def replaced(env: Mapping[str, str], keys: Mapping[str, bool]) -> dict[str, str]:
    """Variables that already led somewhere else than to the provider, and will be replaced: where to, without what may
    be secret in a URL."""
    found = {}
    for dialect, client in CLIENTS.items():
        for name in client.urls if dialect in keys else ():
            if (value := env.get(name)) and not f"{value}/".startswith(f"{client.home}/"):
                found[name] = _USER.sub("//…@", value).partition("?")[0]
    return found


def arguments(command: Sequence[str], url: str, keys: Mapping[str, bool], env: Mapping[str, str]) -> list[str]:
    """The command with what it needs in its arguments. Only Codex does: it takes its URL from no variable.

    With a key in the environment it becomes a provider of its own, for Codex reads no key from there otherwise;
    without one Codex keeps its own login.
    """
    first, *rest = command
    if _name(first) != "codex" or "openai" not in keys:
        return [first, *rest]
    if env.get("OPENAI_API_KEY"):
        provider = f'{{name="Fluxen",base_url="{url}/v1",env_key="OPENAI_API_KEY",wire_api="responses"}}'
        settings = ['model_provider="fluxen"', f"model_providers.fluxen={provider}"]
    else:
        settings = [f'openai_base_url="{url}/v1"']
    return [first, *(part for setting in settings for part in ("-c", setting)), *rest]


def _name(program: str) -> str:
    return os.path.basename(program)  # noqa: PTH119 - no path of ours, and '' is allowed


def _no_proxy(env: Mapping[str, str]) -> dict[str, str]:
    """What keeps a proxy out of the way to this machine, where one is configured."""
    if not any(value for name, value in env.items() if name.lower() in _PROXIES):
        return {}
    names = [name for name in ("NO_PROXY", "no_proxy") if env.get(name)] or ["NO_PROXY", "no_proxy"]
    return {name: _with_loopback(env.get(name, "")) for name in names}


def _with_loopback(exempt: str) -> str:
    listed = [entry.strip() for entry in exempt.split(",") if entry.strip()]
    return exempt if {"*", "127.0.0.1"} & set(listed) else ",".join([*listed, "127.0.0.1"])
