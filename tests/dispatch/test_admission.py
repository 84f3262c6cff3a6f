"""Slots, lanes, pace and gate, on virtual time (row C9; law 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from aembed.core.gate import Gate
from aembed.core.pacing import Pacer
from aembed.dispatch import Admission
from aembed.dispatch._admission import Permit
from aembed.errors import OutageError, RateLimitError, UnavailableError
from aembed.types import Hints
from tests.stage.clock import run_virtual

SLOW = 60_000.0
"""Tokens a minute: 970 a second."""


def admission(concurrency: int = 8, tokens_per_minute: float | None = None, max_outage: float = 900.0) -> Admission:
    pacer = Pacer(tokens_per_minute=tokens_per_minute, concurrency=concurrency)
    return Admission(concurrency=concurrency, pacer=pacer, gate=Gate(max_outage=max_outage))


async def sent(entrance: Admission, tokens: float, *, seconds: float = 0.0, interactive: bool = False) -> float:
    """One request that takes so long; returns when it started."""
    permit = await entrance.enter(tokens, interactive=interactive)
    assert permit is not None
    started = asyncio.get_running_loop().time()
    try:
        await asyncio.sleep(seconds)
    except BaseException as error:
        entrance.note_throttled(permit, error)
        raise
    entrance.note_success(permit, Hints())
    return started


def virtual(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    run_virtual(run)


def test_c9_waiters_that_are_cancelled_take_nothing_with_them() -> None:
    async def test() -> None:
        entrance = admission(tokens_per_minute=SLOW)
        tasks = [asyncio.create_task(sent(entrance, 1_000)) for _ in range(12)]
        await asyncio.sleep(0.5)
        for task in tasks[1::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        starts = [result for result in results if isinstance(result, float)]
        assert len(starts) == 6
        gaps = [later - earlier for earlier, later in pairwise(starts)]
        assert all(gap == pytest.approx(1_000 / 970, abs=0.11) for gap in gaps)
        assert entrance.in_flight == 0

    virtual(test)


@pytest.mark.parametrize("seed", range(20))
def test_c9_cancelled_at_any_moment_no_slot_and_no_budget_is_lost(seed: int) -> None:
    async def test() -> None:
        random, entrance = Random(seed), admission(2, tokens_per_minute=SLOW)
        tasks = [
            asyncio.create_task(sent(entrance, 500, seconds=0.3, interactive=random.random() < 0.3)) for _ in range(30)
        ]
        for task in tasks:
            await asyncio.sleep(random.uniform(0.0, 0.4))
            if random.random() < 0.5:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = [asyncio.create_task(entrance.enter(1, interactive=False)) for _ in range(2)]
        async with asyncio.timeout(3):
            assert all(await asyncio.gather(*left))
        assert entrance.in_flight == 2

    virtual(test)


def test_c9_requests_start_in_the_order_of_their_arrival() -> None:
    async def test() -> None:
        entrance, order = admission(1, tokens_per_minute=SLOW), []

        async def one(number: int) -> None:
            await sent(entrance, 400, seconds=0.1)
            order.append(number)

        await asyncio.gather(*[one(number) for number in range(10)])
        assert order == list(range(10))

    virtual(test)


def test_c9_a_large_request_is_not_starved_by_small_ones() -> None:
    async def test() -> None:
        entrance = admission(tokens_per_minute=SLOW)
        small = [asyncio.create_task(sent(entrance, 50)) for _ in range(20)]
        large = asyncio.create_task(sent(entrance, 1_500))
        more = [asyncio.create_task(sent(entrance, 50)) for _ in range(200)]
        assert await large <= 20 * 50 / 970 + 0.1
        await asyncio.gather(*small, *more)

    virtual(test)


def test_bulk_that_waits_for_its_time_holds_up_no_query() -> None:
    """With one slot: the slot is taken only when the time has come."""

    async def test() -> None:
        entrance = admission(1, tokens_per_minute=SLOW)
        bulk = [asyncio.create_task(sent(entrance, 1_600, seconds=0.2)) for _ in range(5)]
        await asyncio.sleep(0.5)
        assert entrance.in_flight == 0
        assert await sent(entrance, 10, interactive=True) == pytest.approx(0.5, abs=0.01)
        await asyncio.gather(*bulk)

    virtual(test)


def test_bulk_leaves_a_slot_to_queries_while_there_are_some() -> None:
    async def test() -> None:
        entrance, most = admission(4), 0

        async def bulk() -> None:
            nonlocal most
            permit = await entrance.enter(1, interactive=False)
            assert permit is not None
            most = max(most, entrance.in_flight)
            await asyncio.sleep(3)
            entrance.note_success(permit, Hints())

        assert await sent(entrance, 1, interactive=True) == 0
        tasks = [asyncio.create_task(bulk()) for _ in range(8)]
        await asyncio.sleep(1)
        assert await sent(entrance, 1, seconds=0.1, interactive=True) == 1
        await asyncio.gather(*tasks)
        assert most == 3
        await asyncio.sleep(60)
        await asyncio.gather(*[bulk() for _ in range(8)])
        assert most == 4

    virtual(test)


def test_no_more_than_concurrency_are_in_flight_in_both_lanes_together() -> None:
    async def test() -> None:
        entrance, most = admission(3), 0

        async def one(interactive: bool) -> None:
            nonlocal most
            permit = await entrance.enter(1, interactive=interactive)
            assert permit is not None
            most = max(most, entrance.in_flight)
            await asyncio.sleep(0.1)
            entrance.note_success(permit, Hints())

        await asyncio.gather(*[one(number % 2 == 0) for number in range(60)])
        assert most == 3
        assert entrance.in_flight == 0

    virtual(test)


def refuse(entrance: Admission, permit: Permit | None, error: UnavailableError | RateLimitError, wait: float) -> None:
    assert permit is not None
    refusal = entrance.note_throttled(permit, error)
    entrance.note_failure(permit, error, wait=wait, hinted=True, closes=refusal.closes)


def exhausted(message: str) -> RateLimitError:
    """Its headers say which limit it is: there is nothing to find out."""
    return RateLimitError(message, hints=Hints(limit_tokens=60_000, remaining_tokens=0, reset_tokens=25.0))


def test_while_the_gate_is_closed_one_probe_goes_at_a_time() -> None:
    async def test() -> None:
        entrance = admission(8)
        for permit in [await entrance.enter(1, interactive=False) for _ in range(5)]:
            refuse(entrance, permit, UnavailableError("503"), 10.0)
        starts = [asyncio.create_task(sent(entrance, 1, seconds=1.0)) for _ in range(4)]
        times = await asyncio.gather(*starts)
        assert times[0] == pytest.approx(10.0, abs=0.001)
        assert times[1:] == pytest.approx([11.0, 11.0, 11.0], abs=0.001)

    virtual(test)


def test_a_reservation_is_given_back_where_the_gate_closes_before_its_time() -> None:
    async def test() -> None:
        entrance = admission(8, tokens_per_minute=SLOW)
        first = await entrance.enter(1_500, interactive=False)
        waiting = asyncio.create_task(sent(entrance, 10))
        await asyncio.sleep(0.1)
        refuse(entrance, first, exhausted("429"), 30.0)
        assert await waiting == pytest.approx(30.1, abs=0.01)

    virtual(test)


def test_p11_who_waits_too_long_hears_what_was_the_matter() -> None:
    async def test() -> None:
        entrance = admission(8, max_outage=60.0)
        for _ in range(3):
            refuse(entrance, await entrance.enter(1, interactive=False), exhausted("429: slow down"), 25.0)
        with pytest.raises(OutageError, match="429: slow down"):
            refuse(entrance, await entrance.enter(1, interactive=False), exhausted("429: slow down"), 25.0)
        with pytest.raises(OutageError, match="429: slow down"):
            await entrance.enter(1, interactive=False)

    virtual(test)


def test_a15_a_rate_limit_that_names_no_limit_holds_up_nobody_else() -> None:
    async def test() -> None:
        entrance = admission(8)
        others = [asyncio.create_task(sent(entrance, 100, seconds=1.0)) for _ in range(4)]
        await asyncio.sleep(0.5)
        refuse(entrance, await entrance.enter(100, interactive=False), RateLimitError("429"), 30.0)
        assert entrance.gate.is_open
        assert [await sent(entrance, 100) for _ in range(20)] == [1.0] * 20  # as soon as one has landed
        await asyncio.gather(*others)

    virtual(test)


def test_too_large_for_the_rate_limit_is_told_only_of_what_can_be_sent_in_parts() -> None:
    async def test() -> None:
        entrance = admission(8)
        for _ in range(3):
            refuse(entrance, await entrance.enter(200_000, interactive=False), RateLimitError("429"), 0.1)
            await asyncio.sleep(0.2)
        assert await entrance.enter(200_000, interactive=False, divisible=True) is None
        assert await entrance.enter(200_000, interactive=False) is not None

    virtual(test)
