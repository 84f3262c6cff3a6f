from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed import Embedder, FakeProvider, Limits, MemoryStore, Record
from tests.jobs import records, rows_of, words
from tests.stage.clock import run_virtual

LIMITS = Limits(10, 1_000, 8_191)
text = st.sampled_from(["", "x" * 5_000, *(f"{number:08}" for number in range(12))])
good = Record("good", "a text that is not empty")
"""Where every single text fails a verb raises."""
run = st.lists(st.builds(Record, st.sampled_from("abcdefghijkl"), text), max_size=30).map(lambda some: [*some, good])


@given(before=run, now=run)
@settings(max_examples=60, deadline=None)
def test_a_plan_says_what_the_run_then_does(before: list[Record], now: list[Record]) -> None:
    async def job() -> None:
        store = MemoryStore()
        async with Embedder(FakeProvider(limits=LIMITS)) as embedder:
            await embedder.embed_into(store, before)
            held = await texts_of(store)
            plan = await embedder.plan(store, now)
            assert await texts_of(store) == held
            report = await embedder.embed_into(store, now)
        assert plan.new + plan.changed + plan.unchanged + plan.failed == plan.inputs == len(now)
        assert (plan.new + plan.changed, plan.unchanged) == (report.stored, report.unchanged)
        assert (plan.failed, plan.duplicates) == (report.failed, report.duplicates)
        assert (plan.requests, plan.tokens) == (report.requests, report.billed_tokens)

    run_virtual(job)


async def texts_of(store: MemoryStore) -> dict[str, str | None]:
    return {id: row.text for id, row in (await rows_of(store)).items()}


def test_a_plan_sends_nothing_and_writes_nothing() -> None:
    provider, store = FakeProvider(price_usd=0.02, limits=LIMITS), MemoryStore()

    async def job() -> None:
        async with Embedder(provider) as embedder:
            plan = await embedder.plan(store, records(["x" * 400] * 3 + ["y" * 400, "", "z" * 5_000]))
        assert (plan.inputs, plan.new, plan.failed, plan.duplicates) == (6, 4, 2, 2)
        assert (plan.requests, plan.tokens, plan.cost_usd) == (1, 200, pytest.approx(200 * 0.02 / 1e6))
        assert [failure.id for failure in plan.failures] == ["id4", "id5"]

    run_virtual(job)
    assert provider.ledger.requests == 0
    assert run_virtual(lambda: rows_of(store)) == {}


def test_a_plan_finds_equal_texts_however_far_apart() -> None:
    async def job() -> None:
        texts = [f"{number % 1_000:08}" for number in range(2_000)]
        async with Embedder(FakeProvider(limits=LIMITS)) as embedder:
            plan = await embedder.plan(MemoryStore(), iter(records(texts)))
        assert (plan.new, plan.tokens) == (2_000, 1_000 * 8 / 4)

    run_virtual(job)


def test_a_row_that_changed_into_a_text_too_long_is_failed_and_not_changed() -> None:
    async def job() -> None:
        store = MemoryStore()
        async with Embedder(FakeProvider(limits=LIMITS)) as embedder:
            await embedder.embed_into(store, records(words(3)))
            plan = await embedder.plan(store, records(["x" * 5_000, "edited", "text 2", "new"]))
        found: dict[str, Any] = {name: getattr(plan, name) for name in ("new", "changed", "unchanged", "failed")}
        assert found == {"new": 1, "changed": 1, "unchanged": 1, "failed": 1}

    run_virtual(job)


def test_the_shortest_time_at_a_rate_limit() -> None:
    async def job() -> None:
        async with Embedder(FakeProvider(limits=LIMITS)) as embedder:
            plan = await embedder.plan(MemoryStore(), records(["x" * 40 + word for word in words(200)]))
        assert plan.seconds_at(requests_per_minute=None, tokens_per_minute=None) is None
        assert plan.seconds_at(requests_per_minute=60, tokens_per_minute=None) == plan.requests == 20
        assert plan.seconds_at(requests_per_minute=60, tokens_per_minute=1_000) == plan.tokens * 60 / 1_000

    run_virtual(job)
