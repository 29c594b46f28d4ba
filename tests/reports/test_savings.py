"""What caches saved, against the calculator of costs: request by request, the same tokens afresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from fluxen.analyzer.cost import cost_of
from fluxen.analyzer.prices import PriceBook
from fluxen.config.prices import PriceEntry
from fluxen.ledger.journal import Journal
from fluxen.ledger.reader import Reader
from fluxen.ledger.record import End, new_id
from fluxen.providers.answer import Usage
from fluxen.reports.report import Question, ask
from fluxen.reports.savings import Savings

T0 = datetime(2026, 9, 1, 10, tzinfo=UTC)

# upstream, model, tier, fresh, read, written for five minutes, for an hour
CALLS = (
    ("openai", "gpt-4o", None, 1000, 5000, 0, 0),
    ("anthropic", "claude-sonnet-4-20250514", "batch", 1000, 5000, 200, 0),
    ("anthropic", "claude-sonnet-4-20250514", None, 10, 20_000, 3000, 0),
    (
        "anthropic",
        "claude-sonnet-4-20250514",
        None,
        10,
        150_000,
        3000,
        90_000,
    ),  # above 200,000 tokens prices are others
    ("gemini", "gemini-2.5-pro", None, 5, 200_000, 0, 0),  # 200,005
    ("gemini", "gemini-2.5-pro", None, 5, 199_000, 0, 0),
    ("gemini", "gemini-2.5-pro", None, 5, 199_995, 0, 0),  # 200,000, and not more
    ("cheap", "claude-sonnet-4-20250514", None, 10, 20_000, 0, 500),
)


def write(folder: Path) -> None:
    journal = Journal(folder, "n", 0)
    for number, (upstream, model, tier, fresh, read, short, long) in enumerate(CALLS):
        end = End(id=new_id(), ts=_micros(number), status=200, usage_source="reported", upstream=upstream, model=model)
        end.service_tier, end.input_tokens, end.cache_read_tokens = tier, fresh, read
        end.cache_write_5m_tokens, end.cache_write_1h_tokens = short, long
        assert journal.end(end)
    journal.close()


def _micros(number: int) -> int:
    return int((T0 + timedelta(minutes=7 * number)).timestamp()) * 1_000_000


def test_it_is_what_the_same_tokens_would_have_cost_afresh(tmp_path: Path) -> None:
    """Within tiers of size, tiers of service, and a discount of one's own."""
    write(tmp_path / "ledger")
    discount = PriceEntry.model_validate({"models": "*", "upstream": "cheap", "discount": "25%"})
    book = PriceBook.shipped().with_own([discount])

    def provider(upstream: str | None) -> str:
        return "anthropic" if upstream == "cheap" else upstream or ""

    expected: dict[str, Decimal] = {}
    for number, (upstream, model, tier, fresh, read, short, long) in enumerate(CALLS):
        paid, afresh = (
            cost_of(book, provider(upstream), upstream, model, usage, tier, _micros(number)).total
            for usage in (
                Usage(input=fresh, cache_read=read, cache_write_5m=short, cache_write_1h=long),
                Usage(input=fresh + read + short + long),
            )
        )
        assert paid is not None
        assert afresh is not None
        expected[upstream] = expected.get(upstream, Decimal(0)) + Decimal(afresh - paid) / 10**12
    report = ask(Reader(tmp_path / "ledger"), "cache", Question(("upstream",)), Savings(book, provider))
    place, lacking = report.columns.index("provider_saved_usd"), report.columns.index("unknown_saving")
    assert {row[0]: row[place] for row in report.rows} == expected
    assert all(row[lacking] == 0 for row in report.rows)
    assert report.totals[place - 1] == sum(expected.values())
    assert all(expected.values())


def test_what_has_no_price_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "ledger")

    def provider(upstream: str | None) -> str:
        return upstream if upstream == "gemini" else ""

    report = ask(Reader(tmp_path / "ledger"), "cache", Question(("upstream",)), Savings(PriceBook.shipped(), provider))
    place, lacking = report.columns.index("provider_saved_usd"), report.columns.index("unknown_saving")
    found = {row[0]: (row[place] is None, row[lacking]) for row in report.rows}
    assert found == {"openai": (True, 1), "anthropic": (True, 3), "cheap": (True, 1), "gemini": (False, 0)}
    assert report.totals[lacking - 1] == 5
    (gemini,) = [row[place] for row in report.rows if row[0] == "gemini"]
    assert report.totals[place - 1] == gemini


def test_a_model_that_nobody_knows_costs_what_was_asked_for(tmp_path: Path) -> None:
    """As its cost does; but a router's vendor/model alone says what ran. One's own prices may go by either name."""
    calls = (("deployment-7", "gpt-4o"), ("vendor/deployment-7", "gpt-4o"), ("deployment-7", "ours"))
    journal = Journal(tmp_path, "n", 0)
    for number, (model, asked) in enumerate(calls):
        end = End(id=new_id(), ts=_micros(number), status=200, usage_source="reported", upstream="openai", model=model)
        end.model_asked, end.input_tokens, end.cache_read_tokens = asked, 10, 1_000_000
        assert journal.end(end)
    journal.close()
    own = PriceEntry.model_validate({"models": "ours", "input": 8, "cache_read": 3, "output": 1})
    savings = Savings(PriceBook.shipped().with_own([own]), lambda upstream: upstream)
    report = ask(Reader(tmp_path), "cache", Question(("model", "model_asked")), savings)
    place = report.columns.index("provider_saved_usd")
    assert {row[:2]: row[place] for row in report.rows} == {
        calls[0]: Decimal("1.25"), calls[1]: None, calls[2]: Decimal(5),
    }  # fmt: skip


def test_what_only_the_name_that_was_asked_for_has_a_price_for(tmp_path: Path) -> None:
    """Of one's own, for a model that the list knows under the name that answered."""
    journal = Journal(tmp_path, "n", 0)
    end = End(id=new_id(), ts=_micros(0), status=200, usage_source="reported", upstream="openai", model="gpt-4o")
    end.model_asked, end.cache_read_tokens = "ours", 1_000_000
    assert journal.end(end)
    journal.close()
    own = PriceEntry.model_validate({"models": "ours", "input": 8, "cache_read": 3, "output": 1})
    savings = Savings(PriceBook.shipped().with_own([own]), lambda upstream: upstream)
    report = ask(Reader(tmp_path), "cache", Question(()), savings)
    assert report.totals[report.measures.index("provider_saved_usd")] == Decimal(5)
