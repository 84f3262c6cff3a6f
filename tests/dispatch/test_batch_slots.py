"""So many batches of a job at a time, those that rest not counted, on virtual time (row A15; law 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aembed import Embedder, FakeProvider, Hints, Limits, MemoryStore, RateLimitError, Record
from aembed.dispatch import BatchSlots
from tests.jobs import rows_of
from tests.stage.clock import run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def virtual(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    run_virtual(run)


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "a batch"


async def rested(batch_slots: BatchSlots, seconds: float) -> float:
    """A batch has a place, gives it up for so long, and has it again then."""
    assert await batch_slots.run_when_free(lambda: after(0.0)) == "a batch"
    async with batch_slots.lend():
        await asyncio.sleep(seconds)
    return now()


def test_a15_a_batch_that_rests_gives_its_place_to_another() -> None:
    async def test() -> None:
        batch_slots = BatchSlots(1)
        first = asyncio.create_task(rested(batch_slots, 5.0))
        await asyncio.sleep(1.0)
        assert await batch_slots.run_when_free(lambda: after(0.0)) == "a batch"
        assert now() == pytest.approx(1.0)
        await asyncio.sleep(6.0)
        assert not first.done()
        batch_slots.leave()
        assert await first == pytest.approx(7.0)

    virtual(test)


def test_a15_it_waits_for_no_batch_that_has_not_come() -> None:
    async def test() -> None:
        batch_slots = BatchSlots(1)
        first = asyncio.create_task(rested(batch_slots, 5.0))
        await asyncio.sleep(1.0)
        second = asyncio.create_task(batch_slots.run_when_free(lambda: after(100.0)))
        assert await first == pytest.approx(5.0)
        await asyncio.sleep(110.0)
        assert not second.done()
        batch_slots.leave()
        await second
        assert now() == pytest.approx(115.0)

    virtual(test)


def test_a15_it_goes_before_one_that_has_not_come_where_it_waits_already() -> None:
    async def test() -> None:
        batch_slots = BatchSlots(1)
        first = asyncio.create_task(rested(batch_slots, 2.0))
        await asyncio.sleep(1.0)
        await batch_slots.run_when_free(lambda: after(0.0))
        second = asyncio.create_task(batch_slots.run_when_free(lambda: after(100.0)))
        await asyncio.sleep(3.0)
        batch_slots.leave()
        assert await first == pytest.approx(4.0)
        batch_slots.leave()
        await second
        assert now() == pytest.approx(104.0)

    virtual(test)


def test_whoever_is_cancelled_leaves_the_place_to_the_next() -> None:
    async def test() -> None:
        batch_slots = BatchSlots(1)
        waiting = asyncio.create_task(batch_slots.run_when_free(lambda: after(100.0)))
        await asyncio.sleep(1.0)
        waiting.cancel()
        assert await batch_slots.run_when_free(lambda: after(0.0)) == "a batch"
        assert now() == pytest.approx(1.0)

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
