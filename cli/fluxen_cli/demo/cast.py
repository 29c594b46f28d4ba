"""Who calls, what they ask for, and the configuration they do it with. All of it is the same in every show."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

SHARE_WITH_PRICE = ("openai", "anthropic", "gemini")
"""Upstreams by the names of known providers: their models have list prices, whatever the address."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one team uses it. dialect: how it is called; tokens: of a typical request, in and out."""

    name: str
    upstream: str
    dialect: str
    tokens: tuple[int, int]
    cached: float = 0.0
    """How much of the input comes from the provider's cache."""
    reasoning: float = 0.0
    """How much of the output is reasoning."""


@dataclass(frozen=True, slots=True)
class Team:
    """One team with one key. models: what it uses, and how often."""

    name: str
    project: str
    models: Sequence[tuple[Model, int]]

    @property
    def key(self) -> str:
        """What it sends as its API key. The configuration holds the hash of it alone."""
        return f"flx_demo_{self.project}"


TEAMS = (
    Team(
        "support",
        "chatbot",
        (
            (Model("claude-haiku-4-5", "anthropic", "messages", (2_400, 260), cached=0.7), 5),
            (Model("gpt-5.4-mini", "openai", "chat", (1_100, 220), cached=0.3), 3),
        ),
    ),
    Team(
        "search",
        "rag",
        (
            (Model("gemini-3.8-flash", "gemini", "gemini", (6_500, 180)), 5),
            (Model("llama-3.3-70b", "own-gpu", "chat", (3_000, 240)), 2),
        ),
    ),
    Team(
        "research",
        "agents",
        (
            (Model("claude-sonnet-5-5", "anthropic", "messages", (11_000, 900), cached=0.8), 4),
            (Model("gpt-6.1-sol", "openai", "responses", (5_200, 1_400), cached=0.4, reasoning=0.6), 2),
            (Model("gemini-2.5-pro", "gemini", "gemini", (7_000, 1_100), reasoning=0.5), 2),
        ),
    ),
)

MODELS = {model.name: model for team in TEAMS for model, _ in team.models}


@dataclass(frozen=True, slots=True)
class Request:
    """One request to be sent. number tells it from all others, also to the provider."""

    number: int
    team: Team
    model: Model
    stream: bool


def plan(each: int) -> dict[str, list[Request]]:
    """`each` requests for every team, by its name."""
    dice = random.Random("fluxen")
    planned: dict[str, list[Request]] = {}
    for at, team in enumerate(TEAMS):
        models, weights = zip(*team.models, strict=True)
        chosen = dice.choices(models, weights, k=each)
        planned[team.name] = [
            Request(at * each + number, team, model, dice.random() < 0.6) for number, model in enumerate(chosen)
        ]
    return planned


def configuration(provider_port: int) -> str:
    """fluxen.yaml, as one would write it; only the addresses of the providers are the demo's."""
    here = f"http://127.0.0.1:{provider_port}"
    lines = [
        "# Made by `fluxen demo`. Providers are known by name, and so are their prices; target_url leads to the demo's",
        "# own, which is gone when the demo is over. Without it the requests would go to the real ones.",
        "version: 1",
        "data_dir: data",
        'server: {bind_address: "127.0.0.1:0"}',
        "upstreams:",
        *(f'  {name}: {{target_url: "{here}", api_key: demo-key-of-{name}}}' for name in SHARE_WITH_PRICE),
        f'  own-gpu: {{target_url: "{here}", models: ["llama-*"]}}  # nobody has list prices for this one',
        "api_keys:",
        "  static:",
    ]
    for team in TEAMS:
        digest = hashlib.sha256(team.key.encode()).hexdigest()
        lines.append(
            f'    - {{id: {team.project}, team: {team.name}, project: {team.project}, hash: "sha256:{digest}"}}'
        )
    return "\n".join([*lines, ""])
