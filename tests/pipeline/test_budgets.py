"""Budgets of every kind (rows A18 and B10, and Z11 for those that last). The judge is the provider's own ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed import (
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    FakeProvider,
    MemoryStore,
    PostgresColumn,
    RateLimitError,
    Record,
    Report,
    SQLiteStore,
    UnavailableError,
)
from aembed.providers.openai import OpenAIProvider
from tests.jobs import records, words
from tests.service.bills import by_script, by_tokenizer, with_special_tokens
from tests.service.faults import Always, Mutate
from tests.service.faults import Faults as Scripted
from tests.service.in_process import DIMENSIONS, KEY, MODEL, InProcess, inline
from tests.service.server import Latency
from tests.service.service import Bill, Rules, Service
from tests.stage.clock import run_virtual
from tests.stage.postgres import run_sql
from tests.test_closing import table_of
from tests.test_money import ALL_KINDS, TEN, Plain, ended, seven

SECOND = Latency(1.0, fixed=1.0, per_token=0.0)
CHINESE = "中文的句子在这里，每个字要三个字节，价钱也不一样。"
CHEROKEE = "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᏂᏴᏫᏯᎢ "


def embedder_at(service: Service, latency: Latency = SECOND, *, counted: bool, **options: Any) -> Embedder:
    """Without `counted` nobody knows the tokenizer of the model, as of most models that are not OpenAI's."""
    client = httpx.AsyncClient(transport=InProcess(service, latency))
    provider = OpenAIProvider(
        MODEL,
        api_key=KEY,
        base_url="https://in-process.test/v1",
        dimensions=DIMENSIONS,
        http_client=client,
        run_in_thread=inline,
    )
    if not counted:
        provider.limits = replace(provider.limits, encoding=None)
    embedder = Embedder(provider, **options)
    embedder._engine.run_in_thread = inline
    return embedder


async def report_of(job: Coroutine[Any, Any, Any]) -> Report:
    try:
        outcome: Any = await job
    except BudgetExceededError as error:
        outcome = error
    report: Report = outcome if isinstance(outcome, Report) else outcome.report
    return report


# A18: what is left is used


def sections(n: int, size_bytes: int) -> list[str]:
    return [f"{number:08d}" + " information" * ((size_bytes - 8) // 12) for number in range(n)]


@pytest.mark.parametrize("concurrency", [1, 3, 8])
@pytest.mark.parametrize(("counted", "least"), [(True, 0.99), (False, 0.98)])
def test_a18_a_budget_smaller_than_one_request_is_used_up(counted: bool, least: float, concurrency: int) -> None:
    """The next request would be of 299,248 tokens."""
    service = Service()

    async def job() -> Report:
        options: dict[str, Any] = {"budget": Budget(max_billed_tokens=250_000), "concurrency": concurrency}
        async with embedder_at(service, counted=counted, **options) as embedder:
            return await report_of(embedder.embed_into(MemoryStore(), records(sections(2_000, 1_000))))

    report = run_virtual(job)
    assert least * 250_000 <= service.ledger.billed_tokens == report.billed_tokens <= 250_000
    assert service.ledger.requests <= (20 if counted else 50)
    assert service.ledger.texts_again == 0


@pytest.mark.parametrize("counted", [True, False])
def test_a18_a_budget_that_is_enough_costs_no_job_its_end(counted: bool) -> None:
    service = Service()
    texts = sections(2_000, 1_000)
    cost = sum(map(len, texts)) // 4

    async def job() -> Report:
        budget = Budget(max_billed_tokens=round(1.02 * cost))
        async with embedder_at(service, counted=counted, budget=budget) as embedder:
            return await embedder.embed_into(MemoryStore(), records(texts))

    report = run_virtual(job)
    assert (report.stored, report.pending) == (2_000, 0)
    assert service.ledger.max_in_flight == 8


def test_a18_the_last_batches_are_sent_side_by_side() -> None:
    """Where each is noted with four times what it costs, a job is not one request after another."""
    service = Service()

    async def job() -> float:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"budget": Budget(max_billed_tokens=900_000)}
        async with embedder_at(service, counted=False, **options) as embedder:
            await report_of(embedder.embed_into(MemoryStore(), records(sections(4_000, 1_000))))
        return loop.time()

    seconds = run_virtual(job)
    assert service.ledger.max_in_flight == 8
    assert seconds < 0.4 * service.ledger.requests


@given(
    st.lists(st.integers(8, 3_000), min_size=1, max_size=80),
    st.integers(0, 60_000),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_a18_what_stays_unspent_is_less_than_any_text_that_is_left(
    lengths: list[int], budget: int, concurrency: int, counted: bool, seed: int
) -> None:
    service, store = Service(), MemoryStore()
    random = Random(seed)
    given = [Record(f"id{n}", f"{n:08d}" + " word" * (length // 5)) for n, length in enumerate(lengths)]
    random.shuffle(given)

    async def job() -> Report:
        options: dict[str, Any] = {"concurrency": concurrency, "budget": Budget(max_billed_tokens=budget)}
        latency = Latency(1.0, sigma=0.7, seed=seed)
        async with embedder_at(service, latency, counted=counted, max_batch_size=10, **options) as embedder:
            embedder._engine.random = random
            return await report_of(embedder.embed_into(store, given))

    report = run_virtual(job)
    assert service.ledger.billed_tokens <= budget
    stored = {row.id for row in run_virtual(rows_in, store)}
    left = [record for record in given if record.id not in stored]
    assert (report.stored, report.pending > 0 or report.inputs < len(given)) == (len(stored), bool(left))
    if left:
        cheapest = min(len(record.text) for record in left) / (1 if not counted else 4)
        assert budget - service.ledger.billed_tokens < cheapest + 1


async def rows_in(store: Any) -> list[Any]:
    return [row async for row in store.rows()]


def test_a18_a_text_that_costs_more_than_is_left_leaves_the_others_their_turn() -> None:
    service, store = Service(), MemoryStore()
    given = [Record("long", "long " * 800), *records(sections(5, 200))]

    async def job() -> BudgetExceededError:
        async with embedder_at(service, counted=True, budget=Budget(max_billed_tokens=600)) as embedder:
            with pytest.raises(BudgetExceededError, match=r"about 1,000 tokens, and of the 600 for this job") as raised:
                await embedder.embed_into(store, given)
        return raised.value

    error = run_virtual(job)
    assert error.report
    assert (error.report.stored, error.report.pending) == (5, 1)
    assert {row.id for row in run_virtual(rows_in, store)} == {f"id{n}" for n in range(5)}


@pytest.mark.parametrize("seed", range(10))
def test_a18_runs_and_workers_that_share_an_account_use_it_up_and_no_more(seed: int) -> None:
    """Each knows of the others only by what the account tells it."""
    service, store, random = Service(script=Scripted(seed, 0.2, ALL_KINDS)), MemoryStore(), Random(seed)

    async def worker(part: int, budget: int) -> Report:
        options: dict[str, Any] = {"concurrency": 3, "budget": Budget(max_billed_tokens=budget), "max_batch_size": 20}
        async with embedder_at(service, counted=bool(seed % 2), **options) as embedder:
            embedder._engine.random = random
            given = [Record(f"{part} {n}", text) for n, text in enumerate(sections(200, 400), 1_000 * part)]
            return await report_of(embedder.embed_into(store, given))

    async def job() -> None:
        for budget in (5_000, 20_000):
            await asyncio.gather(*(worker(part, budget) for part in range(3)))
            assert service.ledger.billed_tokens <= budget

    run_virtual(job)
    assert service.ledger.billed_tokens > 0.25 * 20_000, "what was lost is counted as the most that it may have cost"


# never exceeded, whatever a text costs


def in_scripts(n: int, random: Random) -> list[str]:
    """English first; later texts are of other scripts, which no reply has told the cost of."""
    plain = [f"{number} these are the words of an English text, as there are many" for number in range(n)]
    kinds = [CHINESE, CHEROKEE, "".join(random.choices("0123456789abcdefABCDEFxyz+/=", k=100))]
    foreign = [f"{number} {random.choice(kinds) * random.randint(1, 4)}" for number in range(n)]
    return plain + foreign


BILLS = {
    "bytes / 4": None,
    "a quarter and a third": by_script(0.25, 0.33),
    "a quarter and one": by_script(0.25, 1.0),
    "all one": by_script(1.0, 1.0),
    "cl100k": "cl100k_base",
    "o200k": "o200k_base",
}


@pytest.mark.parametrize("in_dollars", [True, False])
@pytest.mark.parametrize("name", BILLS)
def test_z11_no_script_and_no_tokenizer_exceeds_a_budget(name: str, in_dollars: bool) -> None:
    for seed in range(4):
        random = Random(seed)
        rule: Any = BILLS[name]
        bill: Bill | None = by_tokenizer(rule) if isinstance(rule, str) else rule
        service = Service(Rules(bills=bill), script=Scripted(seed, 0.1, ALL_KINDS))
        texts, store = in_scripts(300, random), MemoryStore()
        most = random.randint(500, 40_000)
        budget = Budget(max_cost_usd=most * 0.02 / 1_000_000) if in_dollars else Budget(max_billed_tokens=most)

        async def job(service: Service = service, texts: Any = texts, store: Any = store, budget: Any = budget) -> None:
            options: dict[str, Any] = {"concurrency": 4, "max_batch_size": 50, "budget": budget}
            for _ in range(3):
                async with embedder_at(service, counted=False, **options) as embedder:
                    await ended(embedder.embed_into(store, records(texts)))

        run_virtual(job)
        assert service.ledger.billed_tokens <= most
        left = 600 - run_virtual(count_of, store)
        lost = service.ledger.lost_tokens
        assert not left or service.ledger.billed_tokens - lost >= 0.5 * most - 8 * lost - 2_000


async def count_of(store: MemoryStore) -> int:
    return (await store.info()).rows


def test_z11_where_the_tokenizer_is_known_its_count_is_what_is_noted() -> None:
    """As OpenAI bills: four bytes a token for English, one to three for other scripts."""
    service, store = Service(Rules(bills=by_tokenizer("cl100k_base"))), MemoryStore()
    texts = in_scripts(300, Random(1))

    async def job() -> Report:
        budget = Budget(max_billed_tokens=12_000)
        async with embedder_at(service, counted=True, budget=budget, max_batch_size=50) as embedder:
            return await report_of(embedder.embed_into(store, records(texts)))

    run_virtual(job)
    assert 0.97 * 12_000 <= service.ledger.billed_tokens <= 12_000


def test_z11_a_bill_above_the_bytes_is_believed_from_the_first_reply_on() -> None:
    """Marks at the beginning and the end of each text: a text of one letter costs three tokens."""
    service = Service(Rules(bills=with_special_tokens(by_script(1.0, 1.0), 2)))
    texts = [chr(97 + n % 26) + chr(97 + n // 26) for n in range(600)]

    async def job() -> None:
        options: dict[str, Any] = {"concurrency": 1, "max_batch_size": 20, "budget": Budget(max_billed_tokens=1_000)}
        async with embedder_at(service, counted=False, **options) as embedder:
            await report_of(embedder.embed_into(MemoryStore(), records(texts)))

    run_virtual(job)
    assert 900 <= service.ledger.billed_tokens <= 1_000


# B10: calls without a store


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("per", ["job", "embedder"])
def test_b10_without_a_store_a_budget_holds_for_the_life_of_the_embedder(per: Any, at_once: bool) -> None:
    provider = FakeProvider(limits=TEN, latency=1.0)

    async def job() -> None:
        async with Embedder(provider, budget=Budget(max_billed_tokens=100, per=per)) as embedder:
            embedder._engine.run_in_thread = inline
            texts = seven(60)
            jobs = [embedder.embed_documents(texts[start : start + 3]) for start in range(0, 60, 3)]
            if at_once:
                reports = await asyncio.gather(*map(report_of, jobs))
            else:
                reports = [await report_of(each) for each in jobs]
            assert 94 <= provider.ledger.billed_tokens == sum(report.billed_tokens for report in reports) <= 100
            with pytest.raises(BudgetExceededError, match="raise the budget"):
                await embedder.embed_documents(seven(1))
            with pytest.raises(BudgetExceededError):
                await read(embedder)

    run_virtual(job)


async def read(embedder: Embedder) -> None:
    async with embedder.stream(seven(1)) as results:
        async for _ in results:
            pass


def test_b10_what_was_refused_is_given_back_to_those_that_come_later() -> None:
    script = [RateLimitError("429", status_code=429), UnavailableError("500", status_code=500)] * 3
    provider = FakeProvider(limits=TEN, script=script)

    async def job() -> None:
        async with Embedder(provider, budget=Budget(max_billed_tokens=70)) as embedder:
            embedder._engine.run_in_thread = inline
            for _ in range(10):
                assert (await embedder.embed_documents(seven(1))).report.stored == 1
            with pytest.raises(BudgetExceededError):
                await embedder.embed_documents(seven(1))

    run_virtual(job)


def test_b10_a_store_has_an_account_of_its_own_and_all_stores_share_that_of_an_embedder() -> None:
    provider = FakeProvider(limits=TEN)

    async def spent(*budgets: Budget) -> list[int]:
        before, spent = provider.ledger.billed_tokens, []
        async with Embedder(provider, budget=budgets, concurrency=1) as embedder:
            embedder._engine.run_in_thread = inline
            for store in (MemoryStore(), MemoryStore(), None):
                given = records(seven(30))
                texts = [record.text for record in given]
                job: Any = embedder.embed_into(store, given) if store else embedder.embed_documents(texts)
                await report_of(job)
                spent.append(provider.ledger.billed_tokens - before)
                before = provider.ledger.billed_tokens
        return spent

    async def job() -> None:
        assert await spent(Budget(max_billed_tokens=70)) == [70, 70, 70]
        assert await spent(Budget(max_billed_tokens=105, per="embedder")) == [105, 0, 0]
        assert await spent(Budget(max_billed_tokens=70), Budget(max_billed_tokens=161, per="embedder")) == [70, 70, 21]
        assert await spent(Budget(max_billed_tokens=70), Budget(max_billed_tokens=35)) == [35, 35, 35]
        assert await spent() == [210, 210, 210]

    run_virtual(job)


# budgets of the clock


async def a_run(
    provider: FakeProvider, store: Any, day: date, n: int, *budgets: Budget, first: int = 0
) -> tuple[int, str]:
    """What was billed in it, and what the error said."""
    before, said = provider.ledger.billed_tokens, ""
    async with Embedder(provider, budget=budgets, max_batch_size=2) as embedder:
        embedder._engine.run_in_thread = inline
        embedder._engine.budgets.today = lambda: day
        try:
            await embedder.embed_into(store, records(seven(n))[first:])
        except BudgetExceededError as error:
            said = str(error)
    return provider.ledger.billed_tokens - before, said


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_z11_a_budget_of_the_day_or_the_month_is_shared_by_all_runs_until_it_is_over(kind: str, tmp_path: Path) -> None:
    provider = FakeProvider(limits=TEN)

    async def job() -> None:
        store: Any = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "rows.db")
        daily, monthly = Budget(max_billed_tokens=70, per="day"), Budget(max_billed_tokens=161, per="month")
        first, second, third = date(2026, 11, 28), date(2026, 11, 29), date(2026, 12, 1)
        assert await a_run(provider, store, first, 5, daily, monthly) == (35, "")
        spent, said = await a_run(provider, store, first, 100, daily, monthly)
        assert spent == 35
        assert "of the 70 for this day (UTC) and store 0 are left; run the same again in the next day" in said
        assert (await a_run(provider, store, first, 100, daily, monthly))[0] == 0
        assert (await a_run(provider, store, second, 100, daily, monthly))[0] == 70
        spent, said = await a_run(provider, store, date(2026, 11, 30), 100, daily, monthly)
        assert spent == 21
        assert "of the 161 for this month (UTC)" in said
        assert (await a_run(provider, store, third, 100, daily, monthly))[0] == 70
        assert provider.ledger.billed_tokens == (await store.info()).rows * 7 == 231
        await store.aclose()

    asyncio.run(job())


def test_z11_a_job_that_goes_on_after_midnight_has_the_next_days_budget() -> None:
    provider, store = FakeProvider(limits=TEN, latency=3_600.0), MemoryStore()

    async def job() -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"budget": Budget(max_billed_tokens=7 * 12, per="day"), "timeout": 10_000.0}
        async with Embedder(provider, max_batch_size=1, concurrency=1, **options) as embedder:
            embedder._engine.run_in_thread = inline
            embedder._engine.budgets.today = lambda: date(2026, 11, 28 + int(loop.time() // 86_400) % 3)
            await asyncio.sleep(86_400 - 6 * 3_600 + 1)
            report = await report_of(embedder.embed_into(store, records(seven(40))))
        assert report.stored == 6 + 12
        assert provider.ledger.billed_tokens == 7 * 18

    run_virtual(job)


@pytest.mark.parametrize("per", ["day", "month"])
async def test_z11_a_budget_of_the_clock_without_a_store_that_keeps_it_is_refused_first(per: Any) -> None:
    provider, read_of = FakeProvider(limits=TEN), []

    async def source() -> AsyncIterator[str]:
        read_of.append(True)
        yield "text"

    message = f'a budget per="{per}" is kept by a store'
    async with Embedder(provider, budget=[Budget(5), Budget(max_billed_tokens=10_000, per=per)]) as embedder:
        with pytest.raises(ConfigError, match=message):
            await embedder.embed_documents(source())
        with pytest.raises(ConfigError, match=message):
            async with embedder.stream(source()):
                pass
        with pytest.raises(ConfigError, match=message):
            await embedder.embed_into(Plain(), source())  # type: ignore[arg-type]
    assert (provider.ledger.requests, read_of) == (0, [])
    with pytest.raises(ConfigError, match="queries have none of"):
        Embedder(provider, query_budget=Budget(max_billed_tokens=10_000, per=per))


async def test_z11_workers_on_one_column_of_postgresql_share_the_budget_of_the_day(
    database: str, tmp_path: Path
) -> None:
    provider = FakeProvider(limits=TEN, latency=0.01)
    await run_sql(
        database,
        "CREATE TABLE daily (id bigint PRIMARY KEY, content text, embedding vector(64))",
        "INSERT INTO daily SELECT n, ' information information' || 1000 + n FROM generate_series(0, 99) n",
    )

    async def worker(day: int) -> None:
        budgets = [Budget(max_billed_tokens=210, per="day"), Budget(max_billed_tokens=140)]
        async with (
            aclosing(PostgresColumn(database, "daily", text="content")) as column,
            Embedder(provider, max_batch_size=1, concurrency=2, budget=budgets) as embedder,
        ):
            embedder._engine.budgets.today = lambda: date(2026, 11, day)
            await report_of(embedder.backfill(column))

    for day, most in ((1, 140), (1, 140), (2, 140)):
        await asyncio.gather(*(worker(day) for _ in range(3)))
        assert provider.ledger.billed_tokens <= most
    assert provider.ledger.billed_tokens >= 126
    await run_sql(database, "DELETE FROM aembed.accounts WHERE job NOT LIKE '%2026-11-%'")
    await asyncio.gather(*(worker(2) for _ in range(3)))
    assert 2 * 126 <= provider.ledger.billed_tokens <= 280
    kept = await run_sql(database, "SELECT job FROM aembed.accounts WHERE job LIKE '%2026-11-%' ORDER BY job")
    assert [row[0].rsplit(" ", 1)[1] for row in kept] == ["2026-11-01", "2026-11-02"]


# several at once


def test_z11_the_smallest_stops_it_and_what_the_others_had_noted_is_given_back() -> None:
    provider, store = FakeProvider(limits=TEN), MemoryStore()

    async def job() -> None:
        budgets = [
            Budget(max_billed_tokens=1_000, per="day"),
            Budget(max_billed_tokens=500, per="month"),
            Budget(max_billed_tokens=70, per="embedder"),
            Budget(max_cost_usd=0.0, per="job"),
        ]
        async with Embedder(provider, budget=budgets) as embedder:
            embedder._engine.run_in_thread = inline
            embedder._engine.budgets.today = lambda: date(2026, 11, 28)
            with pytest.raises(BudgetExceededError, match="of the 70 for this Embedder 0 are left; raise the budget"):
                await embedder.embed_into(store, records(seven(30)))
        assert await store.spend("fake:fake 2026-11-28", 0) == await store.spend("fake:fake 2026-11", 0) == 70
        async with Embedder(provider, budget=[Budget(max_billed_tokens=80, per="day")]) as embedder:
            embedder._engine.run_in_thread = inline
            embedder._engine.budgets.today = lambda: date(2026, 11, 28)
            with pytest.raises(BudgetExceededError, match="of the 80 for this day"):
                await embedder.embed_into(store, records(seven(30)))
        assert provider.ledger.billed_tokens == 77

    run_virtual(job)


def test_z11_a_price_turns_dollars_into_tokens_for_each_of_them() -> None:
    with pytest.raises(ConfigError, match="the price of this model is not known"):
        Embedder(FakeProvider(price_usd=None), budget=[Budget(5), Budget(max_cost_usd=1.0, per="day")])
    with pytest.raises(ConfigError, match="the price of this model is not known"):
        Embedder(FakeProvider(price_usd=None), query_budget=Budget(max_cost_usd=1.0))


@pytest.mark.parametrize("value", ["week", "", None, 1, "Job", ["job"]])
def test_b7_how_long_a_budget_lasts_is_one_of_four(value: Any) -> None:
    with pytest.raises(ConfigError, match=r'per=.* must be "job", "embedder", "day" or "month"'):
        Budget(max_billed_tokens=5, per=value)


# queries


def test_b10_queries_have_a_budget_of_their_own() -> None:
    provider = FakeProvider(limits=TEN, latency=1.0)

    async def job() -> None:
        options: dict[str, Any] = {"query_budget": Budget(max_billed_tokens=200), "cache_bytes": 100_000}
        async with Embedder(provider, budget=Budget(max_billed_tokens=70), **options) as embedder:
            embedder._engine.run_in_thread = inline
            assert (await embedder.embed_documents(seven(10))).report.billed_tokens == 70
            answered: list[str] = []
            with pytest.raises(BudgetExceededError, match="of the 200 for queries of this Embedder"):
                await asked(embedder, seven(100), answered)
            assert 200 - 28 < provider.ledger.billed_tokens - 70 <= 200, "28 bytes are what one may cost"
            assert 7 * len(answered) == provider.ledger.billed_tokens - 70
            requests = provider.ledger.requests
            await embedder.embed_query(seven(1)[0])  # out of the cache
            with pytest.raises(BudgetExceededError):
                await embedder.search(await filled(), "what else is there to be found here")
            assert provider.ledger.requests == requests
            assert embedder.stats().waiting == 0

    run_virtual(job)


async def asked(embedder: Embedder, texts: Sequence[str], answered: list[str]) -> None:
    for text in texts:
        await embedder.embed_query(text)
        answered.append(text)


async def filled() -> MemoryStore:
    store = MemoryStore()
    async with Embedder("fake:fake") as embedder:
        await embedder.embed_into(store, records(words(3)))
    return store


@pytest.mark.parametrize("n", [50, 400])
def test_b10_queries_at_once_use_it_up_and_no_more(n: int) -> None:
    """Each is noted with its bytes and costs a fourth: what is left when some have landed lets others go."""
    provider = FakeProvider(limits=TEN, latency=1.0)

    async def job() -> None:
        async with Embedder(provider, query_budget=Budget(max_billed_tokens=1_000), max_queue_size=None) as embedder:
            calls = [asyncio.create_task(embedder.embed_query(text, timeout=600)) for text in seven(n)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            refused = [result for result in results if isinstance(result, BudgetExceededError)]
            assert len(refused) == sum(isinstance(result, BaseException) for result in results)
            assert provider.ledger.billed_tokens <= 1_000
            if n == 50:
                assert not refused
            else:
                assert provider.ledger.billed_tokens >= 970
            assert 7 * (n - len(refused)) == provider.ledger.billed_tokens
            assert (embedder.stats().waiting, embedder.in_flight) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


@pytest.mark.parametrize("seed", range(10))
def test_b10_queries_that_are_lost_tried_again_or_cancelled_never_exceed_it(seed: int) -> None:
    service, random = Service(script=Scripted(seed, 0.3, ALL_KINDS)), Random(seed)

    async def job() -> None:
        options: dict[str, Any] = {"query_budget": Budget(max_billed_tokens=600), "max_batch_size": 5}
        async with embedder_at(service, Latency(1.0), counted=False, **options) as embedder:
            embedder._engine.random = random
            calls = []
            for n in range(300):
                calls.append(asyncio.create_task(embedder.embed_query(f"question {n % 211:05d}", timeout=60)))
                if n % 7 == 0:
                    await asyncio.sleep(0.05)
                if n % 11 == 0:
                    random.choice(calls).cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert any(isinstance(result, BudgetExceededError) for result in results)
            assert embedder.stats().waiting == 0
        assert service.ledger.billed_tokens <= 600

    run_virtual(job)


async def test_b10_without_a_query_budget_queries_cost_what_they_cost(tmp_path: Path) -> None:
    provider = FakeProvider(limits=TEN)
    async with (
        aclosing(table_of(tmp_path / "app.db", words(3))) as column,
        Embedder(provider, budget=Budget(max_billed_tokens=40)) as embedder,
    ):
        await embedder.backfill(column)
        for text in seven(50):
            await embedder.embed_query(text)
    assert provider.ledger.billed_tokens > 350


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_a24_a_budget_in_dollars_counts_the_cost_that_replies_name(factor: float) -> None:
    """From the first reply on: a router that takes five times our price does not take five times the budget."""
    named: list[float] = []

    def priced(reply: dict[str, Any]) -> Any:
        named.append(factor * reply["usage"]["total_tokens"] * 0.02 / 1_000_000)
        reply["usage"]["cost"] = named[-1]
        return reply

    service, store, most = Service(script=Always(Mutate(priced))), MemoryStore(), 0.00001

    async def job() -> Report:
        budget = Budget(max_cost_usd=most)
        async with embedder_at(service, counted=True, budget=budget, max_batch_size=5, concurrency=1) as embedder:
            return await report_of(embedder.embed_into(store, records(words(400))))

    report = run_virtual(job)
    assert sum(named) <= most + max(0.0, factor - 1.0) * named[0] / factor
    assert sum(named) >= 0.8 * most * min(1.0, factor)
    assert report.cost_usd == pytest.approx(sum(named))
