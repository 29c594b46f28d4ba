"""Python frameworks against a gateway, those that are installed; see README.md. python sdks.py [URL]"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no look-up at somebody's server

KEY = "fx-by-hand-0123456789"
TEXT = "Hello, wörld 🌍"
failed: list[str] = []


@dataclass(frozen=True)
class Place:
    """Base URLs of one kind of route."""

    route: str
    openai: str
    anthropic: str
    gemini: str

    def check(self, name: str, ask: Callable[[], object]) -> None:
        try:
            said = ask()
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a failure of this client
            said = f"{type(error).__name__}: {error}"[:300]
        right = said is True or said == TEXT
        print("ok  " if right else "FAIL", f"{name}, {self.route}", "" if right else said)
        if not right:
            failed.append(name)


def langchain(place: Place) -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model="gpt-5", api_key=KEY, base_url=place.openai)
    place.check("langchain-openai", lambda: chat.invoke("x").content)
    place.check("langchain-openai streamed", lambda: "".join(str(part.content) for part in chat.stream("x")))
    place.check("langchain-openai async", lambda: asyncio.run(chat.ainvoke("x")).content)
    vectors = OpenAIEmbeddings(
        model="text-embedding-3-small", api_key=KEY, base_url=place.openai, check_embedding_ctx_length=False
    )
    place.check("langchain-openai embeddings", lambda: len(vectors.embed_query("x")) == 3)
    claude = ChatAnthropic(model="claude-x", api_key=KEY, base_url=place.anthropic, max_tokens=9)
    place.check("langchain-anthropic", lambda: claude.invoke("x").content)
    place.check("langchain-anthropic streamed", lambda: "".join(part.text for part in claude.stream("x")))


def pydantic_ai(place: Place) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.google import GoogleProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    async def streamed(agent: Agent) -> str:
        async with agent.run_stream("x") as answer:
            return "".join([text async for text in answer.stream_text(delta=True)])

    def ask(name: str, agent: Agent) -> None:
        place.check(f"pydantic-ai {name}", lambda: asyncio.run(agent.run("x")).output)
        place.check(f"pydantic-ai {name} streamed", lambda: asyncio.run(streamed(agent)))

    theirs = OpenAIProvider(base_url=place.openai, api_key=KEY)
    claude = AnthropicProvider(base_url=place.anthropic, api_key=KEY)
    ask("openai chat", Agent(OpenAIChatModel("gpt-5", provider=theirs)))
    ask("openai responses", Agent(OpenAIResponsesModel("gpt-5", provider=theirs)))
    ask("anthropic", Agent(AnthropicModel("claude-x", provider=claude)))
    ask("google", Agent(GoogleModel("gemini-2.5-flash", provider=GoogleProvider(base_url=place.gemini, api_key=KEY))))


def litellm(place: Place) -> None:
    import litellm

    hello = [{"role": "user", "content": "x"}]

    def ask(model: str, base: str) -> None:
        options = {"model": model, "messages": hello, "api_base": base, "api_key": KEY}

        def streamed() -> str:
            parts = litellm.completion(**options, stream=True)
            return "".join(part.choices[0].delta.content or "" for part in parts)

        place.check(f"litellm {model}", lambda: litellm.completion(**options).choices[0].message.content)
        place.check(f"litellm {model} streamed", streamed)

    def responses() -> str:
        answer = litellm.responses(model="openai/gpt-4o", input="x", api_base=place.openai, api_key=KEY)
        return str(answer.output[0].content[0].text)

    ask("openai/gpt-4o", place.openai)
    ask("anthropic/claude-x", place.anthropic)
    ask("gemini/gemini-2.5-flash", place.gemini)
    place.check("litellm responses", responses)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    unified = Place("unified", f"{url}/v1", url, url)
    mount = Place("mount", f"{url}/openai/v1", f"{url}/anthropic", f"{url}/gemini")
    for module, run in (("langchain_openai", langchain), ("pydantic_ai", pydantic_ai), ("litellm", litellm)):
        if importlib.util.find_spec(module) is not None:
            run(unified)
            run(mount)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
