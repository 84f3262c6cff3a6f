from __future__ import annotations

import asyncio

from aembed.dispatch._guard import Guard
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError, UnavailableError
from tests.stage.clock import run_virtual

BAD, BROKEN = BadRequestError("400"), InvalidReplyError("broken")


def doubts(guard: Guard, *errors: ProviderError, texts: int = 1) -> list[bool]:
    """Whether there is a doubt after each of these."""
    seen = []
    for error in errors:
        guard.refused(error, texts=texts)
        seen.append(guard.doubts)
    return seen


def test_p9_the_third_text_that_is_refused_before_any_acceptance_is_a_doubt() -> None:
    assert doubts(Guard(), BAD, BROKEN, BAD) == [False, False, True]
    assert not any(doubts(Guard(), *[BAD] * 10, texts=2))


def test_a2_three_refusals_in_a_row_are_a_doubt_also_of_what_was_accepted_before() -> None:
    guard = Guard()
    guard.accepted()
    assert doubts(guard, BAD, BROKEN, texts=100) == [False, False]
    guard.accepted()
    assert doubts(guard, BAD, BROKEN, BAD, texts=100) == [False, False, True]
    guard.accepted()
    assert not guard.doubts


def test_a2_a_refusal_that_names_its_text_or_a_size_is_no_doubt() -> None:
    guard, named, long = Guard(), BadRequestError("400"), BadRequestError("400")
    named.offender, long.max_tokens = 0, 512
    assert not any(doubts(guard, *[long] * 10))
    guard.accepted()
    assert not any(doubts(guard, *[named, long] * 10))


def test_what_waiting_may_clear_is_no_refusal() -> None:
    assert not any(doubts(Guard(), *[UnavailableError("503")] * 100))


def test_a2_while_somebody_vouches_nothing_is_sent() -> None:
    async def test() -> None:
        guard, started = Guard(), []

        async def batch() -> None:
            await guard.turn("another", doubted=False)
            started.append(1)

        async with guard.vouching():
            other = asyncio.create_task(batch())
            await asyncio.sleep(5)
            assert started == []
        await other
        assert started == [1]

    run_virtual(test)


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
