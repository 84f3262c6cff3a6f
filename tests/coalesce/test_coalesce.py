"""Many small awaits, few requests (rows C1, C2, C4, C8, C9, X6 to X10 for queries). Mostly on virtual time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from aembed import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    ConfigError,
    Embedder,
    FakeProvider,
    InputError,
    Limits,
    MemoryStore,
    OverloadedError,
    RateLimitError,
    RetryPolicy,
    StoreError,
    UnavailableError,
)
from aembed.types import Hints, Vector
from tests.jobs import records, vector_of, words
from tests.service.in_process import inline
from tests.simulation.history import SteppedLoop
from tests.stage.clock import run_virtual

LATENCY = 0.08
MAX_WAIT = 0.005


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(test)


def provider_of(**options: Any) -> FakeProvider:
    return FakeProvider(keep_texts=True, **({"latency": LATENCY} | options))


def poisoned(number: int, texts: Sequence[str]) -> Exception | None:
    return BadRequestError("400: bad text", status_code=400) if any("poison" in text for text in texts) else None


def sizes(provider: FakeProvider) -> list[int]:
    return [request.inputs for request in provider.ledger.log]


def sent(provider: FakeProvider) -> Counter[str]:
    return Counter(text for request in provider.ledger.log for text in request.texts)


def now() -> float:
    return asyncio.get_running_loop().time()


async def after(seconds: float, wait: Coroutine[Any, Any, Vector]) -> float:
    """Asks then; returns when the answer was there."""
    await asyncio.sleep(seconds)
    await wait
    return now()


def nothing_is_left(embedder: Embedder) -> None:
    """No queue place, slot, flight or task."""
    stats = embedder.stats()
    assert (stats.waiting, stats.in_flight, embedder.in_flight) == (0, 0, 0)
    assert not any(coalescer._flights for coalescer in embedder._engine._coalescers.values())
    assert asyncio.all_tasks() == {asyncio.current_task()}


# when texts go, and with whom


def test_a_lone_query_goes_at_once_and_those_of_one_moment_go_together() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider) as embedder:
            await embedder.embed_query("alone")
            assert now() == pytest.approx(LATENCY)
            vectors = await asyncio.gather(*map(embedder.embed_query, words(100)))
            assert now() == pytest.approx(2 * LATENCY)
        assert all(np.array_equal(v, vector_of(text)) for v, text in zip(vectors, words(100), strict=True))
        assert sizes(provider) == [1, 100]

    virtual(test)


def test_what_comes_while_a_query_is_on_its_way_gathers_for_five_milliseconds() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider) as embedder:
            times = [0.0, 0.001, 0.003, 0.0059, 0.0061, 0.02]
            answered = await asyncio.gather(*(after(t, embedder.embed_query(f"at {t}")) for t in times))
        departed = [0.0, 0.006, 0.006, 0.006, 0.0111, 0.025]
        assert answered == pytest.approx([t + LATENCY for t in departed])
        assert sizes(provider) == [1, 3, 1, 1]

    virtual(test)


def test_the_last_reply_ends_the_gathering() -> None:
    async def test() -> None:
        async with Embedder(provider_of()) as embedder:
            first = asyncio.create_task(embedder.embed_query("first"))
            assert await after(LATENCY - 0.001, embedder.embed_query("second")) == pytest.approx(2 * LATENCY)
            await first

    virtual(test)


def test_a_full_request_does_not_wait_for_more() -> None:
    async def test() -> None:
        provider = provider_of(limits=Limits(10, 300_000, 8_191))
        async with Embedder(provider) as embedder:
            first = asyncio.create_task(embedder.embed_query("first"))
            await asyncio.sleep(0.001)
            await asyncio.gather(*map(embedder.embed_query, words(20)))
            assert now() == pytest.approx(0.001 + LATENCY)
            await first
        assert sizes(provider) == [1, 10, 10]

    virtual(test)


def test_what_gathers_while_the_budget_is_waited_for_goes_together() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider, requests_per_minute=6) as embedder:
            waits = (after(n * 0.1, embedder.embed_query(f"text {n}", timeout=60)) for n in range(250))
            await asyncio.gather(*waits)
        assert len(sizes(provider)) <= 5
        assert sum(sizes(provider)) == 250

    virtual(test)


def test_a_request_holds_no_more_tokens_than_the_budget_gives() -> None:
    """What is taken along is charged: in any minute less than the limit and one request."""
    limit, text = 60_000, "x" * 4_000

    async def test() -> None:
        provider, times = provider_of(), []

        class Watched(FakeProvider):
            async def embed(self, texts: Sequence[str], **options: Any) -> Any:
                times.append((now(), sum(map(len, texts)) / 4))
                return await provider.embed(texts, **options)

        async with Embedder(Watched(), tokens_per_minute=limit) as embedder:
            waits = (after(n * 0.5, embedder.embed_query(f"{n} {text}", timeout=600)) for n in range(400))
            await asyncio.gather(*waits)
        assert len(sent(provider)) == 400
        most = max(sum(tokens for at, tokens in times if start <= at < start + 60) for start, _ in times)
        assert 0.9 * limit < most < 1.1 * limit

    virtual(test)


def test_equal_texts_share_one_input_and_each_caller_has_its_own_copy() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider) as embedder:
            early = asyncio.gather(*(embedder.embed_query("same") for _ in range(50)))
            await asyncio.sleep(LATENCY / 2)
            late = await embedder.embed_query("same")
            vectors = [*await early, late]
        assert sent(provider) == {"same": 1}
        for vector in vectors:
            assert np.array_equal(vector, vector_of("same"))
            vector[:] = 0

    virtual(test)


def test_long_queries_are_measured_in_a_thread_and_go_with_the_others() -> None:
    async def test() -> None:
        provider = provider_of(latency=0.0)
        async with Embedder(provider, too_long="truncate") as embedder:
            long, short = "long " * 5_000, "short"
            vectors = await asyncio.gather(embedder.embed_query(long), embedder.embed_query(short))
        assert [len(vector) for vector in vectors] == [64, 64]
        assert len(sent(provider)) == 2

    asyncio.run(test())


@pytest.mark.parametrize("text", ["word " * 20_000, "é" * 900])
def test_a_text_that_fits_in_no_request_fails_alone_and_unsent(text: str) -> None:
    async def test() -> None:
        provider = provider_of(latency=0.0)
        async with Embedder(provider, max_tokens_per_batch=200) as embedder:
            for _ in range(2):
                with pytest.raises(InputError):
                    await embedder.embed_query(text)
            await embedder.embed_query("short")
            nothing_is_left(embedder)
        assert sent(provider) == {"short": 1}

    asyncio.run(test())


# what fails, and for whom


def test_c4_a_poison_fails_its_own_callers_and_nobody_else() -> None:
    async def test() -> None:
        provider = provider_of(script=poisoned)
        async with Embedder(provider) as embedder:
            texts = [f"poison {n}" if n % 10 == 0 else f"text {n}" for n in range(100)] + ["poison 0"]
            results = await asyncio.gather(*map(embedder.embed_query, texts), return_exceptions=True)
            nothing_is_left(embedder)
        for text, result in zip(texts, results, strict=True):
            assert isinstance(result, BadRequestError) if "poison" in text else np.array_equal(result, vector_of(text))
        errors = [result for result in results if isinstance(result, BadRequestError)]
        assert len({id(error) for error in errors}) == 11
        assert {(str(error), error.status_code) for error in errors} == {("400: bad text", 400)}

    virtual(test)


@pytest.mark.parametrize("fault", [AuthenticationError("401: key"), StoreError("away"), RuntimeError("their bug")])
def test_c4_an_error_of_one_request_is_not_that_of_another(fault: Exception) -> None:
    async def test() -> None:
        provider = provider_of(script=[None, fault, None])
        async with Embedder(provider) as embedder:
            waits = [after(n * 0.01, embedder.embed_query(f"text {n}")) for n in range(3)]
            first, second, third = await asyncio.gather(*waits, return_exceptions=True)
            nothing_is_left(embedder)
        assert isinstance(second, type(fault) if isinstance(fault, AembedError) else AembedError)
        assert [first, third] == pytest.approx([LATENCY, 0.025 + LATENCY])

    virtual(test)


def test_c8_callbacks_of_a_job_that_raise_or_block_do_not_reach_the_queries_beside_it() -> None:
    def broken(_: Any) -> None:
        time.sleep(0.01)
        raise RuntimeError("their bug")

    async def test() -> None:
        async with Embedder(provider_of(latency=0.01, limits=Limits(50, 300_000, 8_191))) as embedder:
            job = embedder.embed_into(
                MemoryStore(), records([*words(3_000), ""]), on_progress=broken, on_failure=broken
            )
            queries = [after(n * 0.003, embedder.embed_query(f"query {n}")) for n in range(50)]
            report, *answered = await asyncio.gather(job, *queries)
            nothing_is_left(embedder)
        assert (report.stored, len(answered)) == (3_000, 50)

    asyncio.run(test())


def test_a_server_error_is_tried_again_within_the_callers_time() -> None:
    async def test() -> None:
        provider = provider_of(script=[UnavailableError("503"), UnavailableError("503")])
        async with Embedder(provider) as embedder:
            assert len(await embedder.embed_query("text")) == 64
        assert sizes(provider) == [1, 1, 1]

    virtual(test)


# callers that leave


def outcome(text: str, task: asyncio.Task[Vector]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is not None:
        assert isinstance(error, BadRequestError), f"{text}: {error!r}"
        assert "poison" in text
        return "refused"
    assert np.array_equal(task.result(), vector_of(text))
    return "answered"


@pytest.mark.parametrize("seed", range(2))
def test_c1_of_ten_thousand_calls_a_third_is_cancelled_and_all_others_have_their_own_vector(seed: int) -> None:
    async def test() -> None:
        random = Random(seed)
        provider = provider_of(script=poisoned, latency=0.05, limits=Limits(200, 300_000, 8_191))
        async with Embedder(provider, requests_per_minute=3_000) as embedder:
            texts = [
                f"poison {n}" if random.random() < 0.01 else f"text {random.randrange(8_000)}" for n in range(10_000)
            ]
            calls = []
            loop = asyncio.get_running_loop()
            for text in texts:
                call = loop.create_task(embedder.embed_query(text, timeout=120))
                calls.append((text, call))
                if random.random() < 1 / 3:
                    loop.call_later(random.expovariate(20), call.cancel)
                await asyncio.sleep(random.choice([0, 0, 0.001]))
            await asyncio.wait([call for _, call in calls])
            ended = Counter(outcome(text, call) for text, call in calls)
            assert ended["cancelled"] > 1_500
            assert ended["answered"] > 5_000
            assert 20 < ended["refused"] <= 100 + 50
            await asyncio.sleep(10)
            nothing_is_left(embedder)

    virtual(test)


@pytest.mark.parametrize("shared", [False, True])
def test_c2_a_call_cancelled_at_any_step_leaves_nothing_and_harms_nobody(shared: bool) -> None:
    async def scenario(loop: SteppedLoop, step: int) -> bool:
        provider = provider_of(script=[None, UnavailableError("503"), None])
        async with Embedder(provider, concurrency=1) as embedder:
            first = loop.create_task(embedder.embed_query("first"))
            await asyncio.sleep(0.01)
            victim = loop.create_task(embedder.embed_query("victim"))
            other = "victim" if shared else "other"
            loop.at[loop.steps + step] = victim.cancel
            assert np.array_equal(await embedder.embed_query(other), vector_of(other))
            await asyncio.wait([first, victim])
            nothing_is_left(embedder)
        return victim.cancelled()

    def cancelled(step: int) -> bool:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, SteppedLoop)
            return runner.run(scenario(loop, step))

    steps = 0
    while cancelled(steps + 1):
        steps += 1
    assert 10 < steps < 100


def test_c9_places_and_budget_of_those_that_leave_go_to_the_others() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider, requests_per_minute=60, max_queue_size=50) as embedder:
            for _ in range(10):
                await asyncio.gather(*(embedder.embed_query(f"warm {n}") for n in range(50)))
            before = embedder.stats().requests_last_minute
            for round_ in range(20):
                calls = [asyncio.create_task(embedder.embed_query(f"{round_} {n}")) for n in range(50)]
                await asyncio.sleep(0.001)
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                nothing_is_left(embedder)
            assert embedder.stats().requests_last_minute == before
            began = now()
            await asyncio.gather(*map(embedder.embed_query, words(50)))
            assert now() - began < 1.5
        assert not [text for text in sent(provider) if text.startswith("1 ")]

    virtual(test)


def test_c9_texts_go_in_the_order_in_which_they_came() -> None:
    async def test() -> None:
        provider = provider_of(limits=Limits(7, 300_000, 8_191))
        async with Embedder(provider, requests_per_minute=600) as embedder:
            await asyncio.gather(*map(embedder.embed_query, words(100)))
        assert [text for request in provider.ledger.log for text in request.texts] == words(100)

    virtual(test)


def test_a_call_that_is_out_of_time_is_not_sent_any_more() -> None:
    async def test() -> None:
        provider = provider_of(latency=3.0)
        async with Embedder(provider, concurrency=1) as embedder:
            first = asyncio.create_task(embedder.embed_query("first"))
            await asyncio.sleep(0.1)
            with pytest.raises(UnavailableError, match="no vector within 1 s"):
                await embedder.embed_query("second", timeout=1)
            assert now() == pytest.approx(1.1)
            await first
            nothing_is_left(embedder)
        assert sent(provider) == {"first": 1}

    virtual(test)


def test_each_call_is_out_of_time_at_its_own_moment() -> None:
    async def ends(embedder: Embedder, start: float, timeout: float) -> float:
        with pytest.raises(UnavailableError, match=f"no vector within {timeout:g} s"):
            await after(start, embedder.embed_query(f"from {start}", timeout=timeout))
        return now() - start

    async def test() -> None:
        async with Embedder(provider_of(latency=30.0)) as embedder:
            asked = [(0.0, 2.0), (0.5, 1.0), (0.5, 2.0), (1.9, 2.0), (2.0, 1.0), (2.0, 2.0), (6.0, 2.0)]
            assert await asyncio.gather(*(ends(embedder, *one) for one in asked)) == pytest.approx(
                [t for _, t in asked]
            )
            assert now() == pytest.approx(8.0)
            assert len(await embedder.embed_query("from 0.0", timeout=60.0)) == 64

    virtual(test)


def test_a_call_has_its_whole_time_where_another_just_ran_out_of_its_own() -> None:
    """It is asked for in the very step in which the last of equal timeout is told."""

    async def test() -> None:
        async with Embedder(provider_of(latency=30.0)) as embedder:
            for number in range(3):
                with pytest.raises(UnavailableError):
                    await embedder.embed_query(f"text {number}", timeout=1.0)
                assert now() == pytest.approx(number + 1.0)

    virtual(test)


def test_retries_end_once_nobody_waits_and_go_on_where_another_joined() -> None:
    async def test() -> None:
        provider = provider_of(script=[RateLimitError("429", hints=Hints(retry_after=5.0))] + [None] * 9)
        async with Embedder(provider) as embedder:
            calls = [asyncio.create_task(embedder.embed_query("text", timeout=60)) for _ in range(2)]
            await asyncio.sleep(1)
            calls[0].cancel()
            await asyncio.sleep(1)
            calls[1].cancel()
            joined = asyncio.create_task(embedder.embed_query("text", timeout=60))
            assert np.array_equal(await joined, vector_of("text"))
            assert sent(provider) == {"text": 2}
            nothing_is_left(embedder)

    virtual(test)


# too many, and too late


def test_a_full_queue_refuses_at_once_with_a_hint() -> None:
    async def test() -> None:
        provider = provider_of(latency=2.0)
        async with Embedder(provider, concurrency=1, max_queue_size=3) as embedder:
            first = asyncio.create_task(embedder.embed_query("first"))
            await asyncio.sleep(0.5)
            waiting = [asyncio.create_task(embedder.embed_query(text)) for text in ("a", "b", "c")]
            await asyncio.sleep(0.5)
            assert embedder.stats().waiting == 3
            with pytest.raises(OverloadedError, match="3 queries wait") as raised:
                await embedder.embed_query("d")
            assert (now(), raised.value.retry_after) == (1.0, pytest.approx(0.5))
            assert np.array_equal(await embedder.embed_query("a"), vector_of("a"))
            await asyncio.gather(first, *waiting)
            nothing_is_left(embedder)
        assert sizes(provider) == [1, 3]

    virtual(test)


def test_while_the_gate_is_closed_for_longer_calls_are_refused_at_once() -> None:
    async def test() -> None:
        exhausted = Hints(retry_after=30.0, limit_tokens=60_000, remaining_tokens=0, reset_tokens=30.0)
        script = [RateLimitError("429", hints=exhausted)]
        async with Embedder(provider_of(script=script, latency=1.0)) as embedder:
            patient = asyncio.create_task(embedder.embed_query("patient", timeout=60))
            hasty = asyncio.create_task(embedder.embed_query("hasty", timeout=10))
            await asyncio.sleep(0.5)
            with pytest.raises(UnavailableError) as first:
                await hasty
            assert now() == pytest.approx(1.0)
            with pytest.raises(UnavailableError) as later:
                await after(9.0, embedder.embed_query("more", timeout=10))
            assert now() == pytest.approx(10.0)
            for error, at in ((first.value, 1.0), (later.value, 10.0)):
                assert error.retry_after is not None
                assert 31 <= at + error.retry_after <= 35
            stats = embedder.stats()
            assert (stats.gate_open, stats.retry_after) == (False, later.value.retry_after)
            assert np.array_equal(await patient, vector_of("patient"))
            assert embedder.stats().gate_open

    virtual(test)


def test_a15_a_rate_limit_that_names_no_limit_holds_up_only_its_own_calls() -> None:
    """Those of its request that cannot wait as long as it asks hear it at once; others are answered."""

    async def test() -> None:
        script = [RateLimitError("429", hints=Hints(retry_after=30.0))]
        async with Embedder(provider_of(script=script, latency=1.0)) as embedder:
            patient = asyncio.create_task(embedder.embed_query("patient", timeout=60))
            hasty = asyncio.create_task(embedder.embed_query("hasty", timeout=10))
            with pytest.raises(UnavailableError) as refused:
                await hasty
            assert now() == pytest.approx(1.0)
            assert refused.value.retry_after == pytest.approx(30.0, abs=4.0)
            assert np.array_equal(await embedder.embed_query("more", timeout=10), vector_of("more"))
            assert now() == pytest.approx(2.0, abs=0.01)
            assert np.array_equal(await patient, vector_of("patient"))
            assert 32 <= now() <= 36

    virtual(test)


def test_a13_an_outage_tells_every_query_when_to_come_back() -> None:
    """Those that waited while it began, and those that come in it."""

    async def test() -> None:
        provider = provider_of(script=lambda number, texts: UnavailableError("503"))
        async with Embedder(provider, retry=RetryPolicy(max_outage=20)) as embedder:
            calls = [asyncio.create_task(embedder.embed_query(text, timeout=300)) for text in words(20)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {UnavailableError}
            assert all(result.retry_after > 0 for result in results)
            assert len({id(result) for result in results}) == 20
            with pytest.raises(UnavailableError) as raised:
                await embedder.embed_query("later", timeout=300)
            assert raised.value.retry_after
            nothing_is_left(embedder)

    virtual(test)


def test_a13_a_search_in_an_outage_tells_when_to_come_back() -> None:
    async def test() -> None:
        store = MemoryStore()
        provider = provider_of(script=lambda number, texts: UnavailableError("503") if number else None)
        async with Embedder(provider, retry=RetryPolicy(max_outage=3)) as embedder:
            await embedder.embed_into(store, records(words(5)))
            for _ in range(3):
                with pytest.raises(UnavailableError) as raised:
                    await embedder.search(store, "a question")
                assert raised.value.retry_after
                assert 0 < raised.value.retry_after <= 10
            nothing_is_left(embedder)

    virtual(test)


@pytest.mark.parametrize("most_inputs", [32, 2_048])
def test_a19_twenty_thousand_calls_at_once_wait_where_they_may(most_inputs: int) -> None:
    async def test() -> None:
        provider = provider_of(limits=Limits(most_inputs, 300_000, 8_191))
        async with Embedder(provider, max_queue_size=None, requests_per_minute=100_000) as embedder:
            calls = [asyncio.create_task(embedder.embed_query(text, timeout=600)) for text in words(20_000)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert embedder.stats().waiting > 5_000
            vectors = await asyncio.gather(*calls)
            nothing_is_left(embedder)
        assert np.array_equal(vectors[::999], [vector_of(text) for text in words(20_000)[::999]])
        assert len(sizes(provider)) < 20_000 / most_inputs + 30
        assert set(sent(provider).values()) == {1}

    virtual(test)


def test_a19_those_that_wait_too_long_or_go_leave_the_queue() -> None:
    async def test() -> None:
        provider = provider_of(limits=Limits(1, 300_000, 8_191), latency=1.0)
        async with Embedder(provider, max_queue_size=None, concurrency=1) as embedder:
            calls = [asyncio.create_task(embedder.embed_query(text, timeout=5.5)) for text in words(12_000)]
            await asyncio.sleep(0.5)
            for call in calls[6_000:]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert Counter(type(result) for result in results) == {
                np.ndarray: 5,
                UnavailableError: 5_995,
                asyncio.CancelledError: 6_000,
            }
            assert embedder.stats().waiting == 0
            queue = embedder._engine.coalescer_of(embedder._engine.preparing.own)._queue
            assert (queue.inputs, queue.tokens) == (0, 0)
        nothing_is_left(embedder)

    virtual(test)


# the two lanes


def test_a_bulk_job_slows_down_for_queries_and_goes_on() -> None:
    async def test() -> None:
        provider = provider_of(limits=Limits(100, 300_000, 8_191))
        async with Embedder(provider, requests_per_minute=600, concurrency=4) as embedder:
            embedder._engine.run_in_thread = inline
            job = asyncio.create_task(embedder.embed_documents(words(60_000)))
            await asyncio.sleep(5)
            began, waits = now(), []
            for n in range(100):
                asked = now()
                await embedder.embed_query(f"query {n}")
                waits.append(now() - asked)
                await asyncio.sleep(0.2)
            elapsed = now() - began
            inputs = Counter(request.input_type for request in provider.ledger.log)
            assert sorted(waits)[95] < 2 * LATENCY
            assert not job.done()
            assert inputs["document"] > 0.85 * 10 * (elapsed + 5) - 100
            await job

    virtual(test)


# closing, loops and processes


def test_b4_closing_lets_what_was_sent_land_and_tells_the_rest_at_once() -> None:
    async def test(timeout: float) -> list[str]:
        provider = provider_of(latency=1.0, limits=Limits(1, 300_000, 8_191))
        embedder = Embedder(provider, concurrency=1)
        calls = [asyncio.create_task(embedder.embed_query(text, timeout=60)) for text in words(10)]
        await asyncio.sleep(0.5)
        closing = asyncio.create_task(embedder.aclose(timeout=timeout))
        heard, _ = await asyncio.wait(calls, timeout=0.01)
        assert (now(), len(heard)) == (pytest.approx(0.51), 9)
        await closing
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert now() == pytest.approx(min(1.0, 0.5 + timeout))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert provider.ledger.requests == 1
        with pytest.raises(ConfigError, match="closed"):
            await embedder.embed_query("later")
        return [type(result).__name__ for result in results]

    assert run_virtual(test, 30.0) == ["ndarray"] + ["UnavailableError"] * 9
    assert run_virtual(test, 0.2) == ["UnavailableError"] * 10


def test_x7_two_event_loops_at_the_same_time_get_a_clear_error() -> None:
    provider = provider_of(latency=0.0)

    async def test() -> None:
        async with Embedder(provider) as embedder:
            await embedder.embed_query("here")
            with pytest.raises(ConfigError, match="another event loop that still runs"):
                await asyncio.to_thread(asyncio.run, embedder.embed_query("there"))
            with pytest.raises(ConfigError, match="another event loop that still runs"):
                await asyncio.to_thread(asyncio.run, embedder.aclose())
            assert embedder.stats().accepted == 1, "closed from there"
            assert len(await embedder.embed_query("here again")) == 64

    asyncio.run(test())


# eyes


def test_the_stats_are_one_value_that_any_thread_may_read() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider, requests_per_minute=600, concurrency=1) as embedder:
            assert embedder.stats().in_flight == 0
            first = asyncio.create_task(embedder.embed_query("first"))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(embedder.embed_query("second"))
            await asyncio.sleep(0.01)
            stats = embedder.stats()
            assert (stats.waiting, stats.in_flight, stats.accepted, stats.throttled) == (1, 1, 0, 0)
            assert (stats.requests_per_minute, stats.tokens_per_minute, stats.gate_open) == (600, None, True)
            await asyncio.gather(first, second)
            stats = embedder.stats()
            assert (stats.waiting, stats.in_flight, stats.accepted) == (0, 0, 2)
            assert (stats.requests_last_minute, stats.tokens_last_minute) == (2, 3)

    virtual(test)


def test_the_log_has_one_line_a_job_and_none_a_query(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        provider = provider_of(script=[None, None, None, AuthenticationError("401: sk-secret")])
        async with Embedder(provider) as embedder:
            embedder._engine.run_in_thread = inline
            await embedder.embed_query("a secret question")
            await embedder.embed_documents(["a secret"])
            await embedder.embed_into(MemoryStore(), records(["a secret text"]))
            with pytest.raises(AuthenticationError):
                await embedder.embed_documents(["another secret"])

    with caplog.at_level(logging.INFO, "aembed"):
        virtual(test)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == ["embed_documents", "embed_into", "embed_documents"]
    assert "1 text, 1 stored" in said[0]
    assert said[2].endswith(", stopped by AuthenticationError")
    assert "secret" not in "".join(said)
