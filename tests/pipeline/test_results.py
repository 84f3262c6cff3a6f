from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from aembed import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    Embedded,
    Embedder,
    Failure,
    FakeProvider,
    InputError,
    Limits,
    Record,
    SourceError,
)
from tests.jobs import all_of, is_right, one_by_one, records, words
from tests.stage.clock import run_virtual

BATCH = 10
LIMITS = Limits(BATCH, 300_000, 8_191)


async def streamed(embedder: Embedder, source: Any) -> list[Embedded | Failure]:
    async with embedder.stream(source) as results:
        return await all_of(results)


def test_results_come_as_they_complete() -> None:
    def script(number: int, texts: Sequence[str]) -> float:
        return 10.0 if number == 0 else 1.0

    async def job() -> list[float]:
        loop, seen = asyncio.get_running_loop(), {}
        provider = FakeProvider(limits=LIMITS, script=script)
        async with Embedder(provider, concurrency=4) as embedder, embedder.stream(words(30)) as results:
            async for result in results:
                assert isinstance(result, Embedded)
                assert is_right(result)
                assert result.text == f"text {result.index}"
                seen[result.index] = loop.time()
        assert seen.keys() == set(range(30))
        return sorted(seen.values())

    times = run_virtual(job)
    assert times == [1.0] * 20 + [10.0] * 10


@pytest.mark.parametrize("source", [list, iter, one_by_one])
def test_every_input_comes_out_once_as_a_vector_or_a_failure(source: Any) -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return BadRequestError("400: no") if "text 13" in texts else None

    async def job() -> None:
        texts = [*words(20), "", "text 3", None, Record("named", "text 99", {"page": 1}, "notes.md")]
        async with Embedder(FakeProvider(limits=LIMITS, script=script)) as embedder:
            results = await streamed(embedder, source(texts))
        assert sorted(result.index for result in results) == list(range(24))
        failed = {result.index: str(result) for result in results if isinstance(result, Failure)}
        assert failed.keys() == {13, 20, 22}
        assert failed[13] == "13: 400: no"
        [named] = [result for result in results if result.id == "named"]
        assert isinstance(named, Embedded)
        assert (named.metadata, named.source) == ({"page": 1}, "notes.md")

    run_virtual(job)


def test_a_slow_reader_holds_the_job_back() -> None:
    provider = FakeProvider(limits=LIMITS, latency=1.0)

    async def job() -> None:
        async with Embedder(provider, concurrency=3) as embedder, embedder.stream(iter(words(1_000))) as results:
            for read in range(1, 8):
                await asyncio.sleep(1_000)
                # What is read came in one batch; three more may be on their way or waiting to be read.
                assert provider.ledger.requests <= read + 3
                async for _ in results:
                    break
        assert provider.ledger.max_in_flight <= 3

    run_virtual(job)


def test_leaving_early_cancels_nothing_that_is_paid_for_and_leaks_no_task() -> None:
    provider = FakeProvider(limits=LIMITS, script=[5.0, 10.0, 10.0])

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(provider, concurrency=3) as embedder:
            async with embedder.stream(iter(words(1_000))) as results:
                async for _ in results:
                    break
            assert loop.time() == 5
            assert provider.ledger.in_flight > 0
            requests = provider.ledger.requests
        assert loop.time() == 10
        assert provider.ledger.requests == requests
        assert {request.outcome for request in provider.ledger.log} == {"answered"}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_a_cancelled_reader_leaves_at_once() -> None:
    provider = FakeProvider(limits=LIMITS, latency=5.0)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(provider) as embedder:
            task = asyncio.create_task(streamed(embedder, words(100)))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.time() == 1
        assert provider.ledger.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_what_stops_the_job_is_raised_after_the_results_that_came_before() -> None:
    async def job() -> None:
        provider = FakeProvider(limits=LIMITS, script=[None, None, AuthenticationError("401: key")], latency=0.5)
        async with Embedder(provider, concurrency=1) as embedder, embedder.stream(words(100)) as results:
            seen = []
            with pytest.raises(AuthenticationError, match="key") as raised:
                await into(seen, results)
            assert len(seen) == raised.value.report.stored == 20

    run_virtual(job)


async def into(seen: list[Any], results: AsyncIterator[Any]) -> None:
    async for result in results:
        seen.append(result)


def test_i13_what_came_before_a_source_raised_is_streamed() -> None:
    async def broken() -> AsyncIterator[str]:
        for text in words(25):
            yield text
        raise RuntimeError("boom")

    async def job() -> None:
        seen: list[Any] = []
        provider = FakeProvider(limits=LIMITS, latency=1.0)
        async with Embedder(provider) as embedder, embedder.stream(broken()) as results:
            with pytest.raises(SourceError, match="RuntimeError"):
                await into(seen, results)
        assert sorted(result.index for result in seen) == list(range(25))

    run_virtual(job)


def test_the_report_is_there_once_every_result_was_read() -> None:
    async def job() -> None:
        async with Embedder(FakeProvider(limits=LIMITS)) as embedder, embedder.stream(records(words(25))) as results:
            async for _ in results:
                with pytest.raises(ConfigError, match="every result has been read"):
                    _ = results.report
                break
            await all_of(results)
            assert results.report.stored == 25

    run_virtual(job)


async def test_a_single_str_is_refused() -> None:
    async with Embedder(FakeProvider()) as embedder:
        with pytest.raises(InputError, match="embed_query"):
            await streamed(embedder, "text")
