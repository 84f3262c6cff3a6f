from __future__ import annotations

import asyncio

from aembed.dispatch._guard import MOST_BROKEN_IN_A_ROW, Guard
from aembed.errors import BadRequestError, InvalidReplyError, UnavailableError
from tests.chaos.clock import run_virtual

BAD, BROKEN = BadRequestError("400"), InvalidReplyError("broken")


def test_p9_the_third_refusal_before_any_acceptance_stops_the_job() -> None:
    guard = Guard()
    assert [guard.stops(BAD), guard.stops(BROKEN), guard.stops(BAD)] == [False, False, True]


def test_p9_after_an_acceptance_no_number_of_refusals_does() -> None:
    guard = Guard()
    guard.accepted()
    assert not any(guard.stops(BAD) for _ in range(100))


def test_a_row_of_broken_replies_stops_the_job_unless_a_right_one_comes_between() -> None:
    guard = Guard()
    guard.accepted()
    for _ in range(5):
        assert not any(guard.stops(BROKEN) for _ in range(MOST_BROKEN_IN_A_ROW - 1))
        guard.accepted()
    assert [guard.stops(BROKEN) for _ in range(MOST_BROKEN_IN_A_ROW)][-1]


def test_what_waiting_may_clear_is_no_refusal() -> None:
    guard = Guard()
    assert not any(guard.stops(UnavailableError("503")) for _ in range(100))


def test_p9_one_batch_is_split_at_a_time_and_nothing_is_started_beside_it() -> None:
    async def test() -> None:
        guard, started = Guard(), []

        async def batch(name: str, doubted: bool) -> None:
            await guard.turn(name, doubted=doubted)
            started.append(name)
            await asyncio.sleep(1)
            guard.leave(name)

        await guard.turn("first", doubted=True)
        others = [asyncio.create_task(batch(name, name == "doubted")) for name in ("plain", "doubted", "third")]
        await guard.turn("first", doubted=True)
        await asyncio.sleep(5)
        assert started == []
        guard.leave("first")
        await asyncio.sleep(0.5)
        assert started == ["plain", "doubted"]
        guard.accepted()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert started == ["plain", "doubted", "third"]
        await asyncio.gather(*others)

    run_virtual(test)
