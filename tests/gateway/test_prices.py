"""Prices in a running gateway: what a row costs, and when other prices apply."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from gateway.conftest import StartGateway
from gateway.rig import KEY, Gateway, Upstream, answer, request, until
from shared import ROOT

from fluxen.analyzer.prices import PriceBook
from fluxen.gateway.state import running
from fluxen.ledger.reader import Reader

SHIPPED = (ROOT / "packaging" / "prices.json").read_bytes()
VERSION = PriceBook.shipped().version
CONFIG = """
version: 1
server: {{bind_address: "127.0.0.1:0", workers: 2}}
ledger: {{segment_seconds: 1, compact_seconds: 1}}
upstreams:
  openai: {{target_url: "{url}", api_key: sk-provider}}
  gpu: {{target_url: "{url}"}}
api_keys: {{static: [{{id: me, key: "{key}"}}]}}
{prices}
"""
OWN = """
prices:
- {models: "my-*", upstream: gpu, input: 2, output: 4, per_request: 0.5}
- {models: gpt-4o, discount: 50%}
"""


def body(model: str, **more: object) -> bytes:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return json.dumps(
        {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage, **more}
    ).encode()


def config(upstream: Upstream, prices: str = "") -> str:
    return CONFIG.format(url=upstream.url, key=KEY, prices=prices)


def asked(server: Gateway, upstream: Upstream, path: bytes, reply: bytes) -> str:
    upstream.plays(answer(reply))
    found = server.ask(request(path))
    assert found.status == 200
    return found.id


def row(server: Gateway, id: str) -> dict[str, object]:
    columns = "cost_usd, fees_usd, price_version, usage_source, service_tier"

    def there() -> list[tuple[object, ...]]:
        return Reader(server.data_dir / "ledger").query(f"SELECT {columns} FROM requests WHERE id = '{id}'").rows

    (found,) = until(there, f"the row of {id}")
    return dict(zip(columns.split(", "), found, strict=True))


def settled(server: Gateway, generation: int) -> None:
    def there() -> bool:
        (state,) = running(server.data_dir)
        return state.generation >= generation and state.applied == state.workers

    until(there, f"generation {generation} in every worker", 20)


def install(server: Gateway, raw: bytes) -> None:
    fresh = server.data_dir / ".prices.new"
    fresh.write_bytes(raw)
    fresh.rename(server.data_dir / "prices.json")


def test_rows_cost_what_the_configuration_says(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream, OWN))
    chat = b"/v1/chat/completions"
    own = row(server, asked(server, upstream, b"/gpu" + chat, body("my-model")))
    assert own["cost_usd"] == Decimal("0.00204") + Decimal("0.5")
    assert own["fees_usd"] == Decimal("0.5")
    assert str(own["price_version"]).startswith(f"{VERSION}+own.")
    half = row(server, asked(server, upstream, b"/openai" + chat, body("gpt-4o-2024-08-06")))
    assert half["cost_usd"] == Decimal("0.0013")
    assert half["fees_usd"] == 0
    unknown = row(server, asked(server, upstream, b"/gpu" + chat, body("gpt-4o-mini")))
    assert (unknown["cost_usd"], unknown["usage_source"]) == (None, "reported")


def test_changed_prices_hold_from_then_on(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    path = b"/gpu/v1/chat/completions"
    before = asked(server, upstream, path, body("my-model"))
    (server.folder / "fluxen.yaml").write_text(config(upstream, OWN))
    settled(server, 2)
    after = [asked(server, upstream, path, body("my-model")) for _ in range(8)]  # of either worker
    assert row(server, before) == {**row(server, before), "cost_usd": None, "price_version": VERSION}
    for id in after:
        assert row(server, id)["cost_usd"] == Decimal("0.50204")


def test_a_price_book_in_the_data_folder_is_taken_up_and_given_up(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    path = b"/openai/v1/chat/completions"
    dearer = SHIPPED.replace(VERSION.encode(), b"genai-prices-99.0+dearer", 1)
    before, name, section = dearer.partition(b'\n"openai":{')
    model = next(line for line in section.splitlines() if line.startswith(b'["gpt-4o",'))
    dearer = before + name + section.replace(model, model.replace(b'"input":2500000', b'"input":7500000', 1), 1)
    install(server, dearer)
    settled(server, 2)
    found = [row(server, asked(server, upstream, path, body("gpt-4o"))) for _ in range(4)]
    assert {one["cost_usd"] for one in found} == {Decimal("0.0076")}
    assert {one["price_version"] for one in found} == {"genai-prices-99.0+dearer"}

    install(server, dearer[:5000])  # nobody's hand but an editor's
    until(lambda: running(server.data_dir)[0].rejected, "the damaged file to be rejected", 20)
    assert row(server, asked(server, upstream, path, body("gpt-4o")))["cost_usd"] == Decimal("0.0076")

    (server.data_dir / "prices.json").unlink()
    settled(server, 3)
    found = [row(server, asked(server, upstream, path, body("gpt-4o"))) for _ in range(4)]
    assert {(one["cost_usd"], one["price_version"]) for one in found} == {(Decimal("0.0026"), VERSION)}


def test_the_tier_that_served_sets_the_price(gateway: StartGateway, upstream: Upstream) -> None:
    server = gateway(config(upstream))
    costs = {}
    for tier in ("default", "flex", "priority", "scale"):
        id = asked(server, upstream, b"/openai/v1/chat/completions", body("gpt-5", service_tier=tier))
        found = row(server, id)
        assert found["service_tier"] == tier
        costs[tier] = found["cost_usd"]
    assert costs == {
        "default": Decimal("0.00135"), "flex": Decimal("0.000675"), "priority": Decimal("0.0027"), "scale": None,
    }  # fmt: skip


def test_fluxen_cost_prices_update_beside_a_running_gateway(
    gateway: StartGateway, upstream: Upstream, fluxen: object, tmp_path: Path
) -> None:
    server = gateway(config(upstream))
    (tmp_path / "book").write_bytes(SHIPPED.replace(VERSION.encode(), b"mine-1", 1))
    env = {"FLUXEN_DATA_DIR": str(server.data_dir)}
    done = fluxen("cost", "prices", "update", "book", "--json", env=env)  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["gateways"]
    assert told == {"pid": server.process.pid, "obeys": True, "problem": None}
    id = asked(server, upstream, b"/openai/v1/chat/completions", body("gpt-4o"))
    assert row(server, id)["price_version"] == "mine-1"
