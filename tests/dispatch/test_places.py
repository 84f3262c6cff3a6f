"""So many batches of a job at a time, those that rest not counted, on virtual time (row A15; law 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aembed import Embedder, FakeProvider, Hints, Limits, MemoryStore, RateLimitError, Record
from aembed.dispatch import Places
from tests.chaos.clock import run_virtual
from tests.jobs import rows_of


def now() -> float:
    return asyncio.get_running_loop().time()


def virtual(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    run_virtual(run)


async def rested(places: Places, seconds: float) -> float:
    """A batch has a place, gives it up for so long, and goes on then."""
    await places.take()
    with places.left():
        await asyncio.sleep(seconds)
    return now()


def test_a15_a_batch_that_rests_gives_its_place_to_another_and_waits_for_none() -> None:
    async def test() -> None:
        places = Places(1)
        first = asyncio.create_task(rested(places, 5.0))
        await asyncio.sleep(1.0)
        await places.take()
        assert now() == 1.0
        assert await first == 5.0

    virtual(test)


def test_a15_new_batches_wait_until_there_is_a_place_again() -> None:
    async def test() -> None:
        places = Places(1)
        first = asyncio.create_task(rested(places, 5.0))
        await asyncio.sleep(1.0)
        await places.take()
        await first
        new = asyncio.create_task(places.take())
        places.leave()
        await asyncio.sleep(1.0)
        assert not new.done()
        places.leave()
        await new
        assert now() == 6.0

    virtual(test)


def test_a15_as_many_as_have_a_place_may_rest_besides() -> None:
    async def test() -> None:
        places = Places(2)
        resting = [asyncio.create_task(rested(places, 5.0)) for _ in range(6)]
        await asyncio.sleep(1.0)
        last = asyncio.create_task(places.take())
        await asyncio.sleep(3.0)
        assert not last.done()
        assert [each.done() for each in resting] == [False] * 6
        await asyncio.sleep(1.5)
        assert [each.done() for each in resting] == [True] * 4 + [False] * 2

    virtual(test)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a15_a_source_that_is_slow_does_not_hold_up_what_was_refused(concurrency: int) -> None:
    async def source() -> AsyncIterator[Record]:
        yield Record("early", "one")
        await asyncio.sleep(100.0)
        yield Record("late", "two")

    async def test() -> None:
        store = MemoryStore()
        script = [RateLimitError("429", hints=Hints(retry_after=2.0))]
        provider = FakeProvider(limits=Limits(10, 1_000, 8_191), script=script)
        async with Embedder(provider, concurrency=concurrency) as embedder:
            job = asyncio.create_task(embedder.embed_into(store, source()))
            await asyncio.sleep(10.0)
            assert (await rows_of(store)).keys() == {"early"}
            assert (await job).stored == 2

    virtual(test)
