from __future__ import annotations

import asyncio

from aembed.dispatch._fail_fast import FailFast
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError, UnavailableError
from tests.stage.clock import run_virtual

BAD, BROKEN = BadRequestError("400"), InvalidReplyError("broken")


def doubts(fail_fast: FailFast, *errors: ProviderError, texts: int = 1) -> list[bool]:
    """Whether there is a doubt after each of these, which were sent one after the other."""
    seen = []
    for number, error in enumerate(errors, start=10):
        fail_fast.note_refusal(error, texts=texts, number=number, sent=number)
        seen.append(fail_fast.is_doubting)
    return seen


async def turn_of(fail_fast: FailFast, batch: str, *, doubted: bool) -> None:
    while not fail_fast.takes_turn(batch, doubted=doubted):
        await fail_fast.changed.wait()


def test_p9_the_third_text_that_is_refused_before_any_acceptance_is_a_doubt() -> None:
    assert doubts(FailFast(), BAD, BROKEN, BAD) == [False, False, True]
    assert not any(doubts(FailFast(), *[BAD] * 10, texts=2))


def test_a2_three_refusals_in_a_row_are_a_doubt_also_of_what_was_accepted_before() -> None:
    fail_fast = FailFast()
    fail_fast.note_accepted(20)
    assert doubts(fail_fast, BAD, BROKEN, texts=100) == [False, False]
    fail_fast.note_accepted(20)
    assert doubts(fail_fast, BAD, BROKEN, BAD, texts=100) == [False, False, True]
    fail_fast.note_accepted(20)
    assert not fail_fast.is_doubting


def test_a2_what_was_sent_before_a_refusal_and_accepted_after_it_takes_no_doubt_away() -> None:
    fail_fast = FailFast()
    fail_fast.note_accepted(1)
    doubts(fail_fast, BAD, BROKEN, texts=100)
    fail_fast.note_accepted(9)
    fail_fast.note_refusal(BAD, texts=100, number=12, sent=12)
    assert fail_fast.is_doubting
    fail_fast.note_accepted(11)
    assert not fail_fast.is_doubting


def test_a2_what_was_sent_before_the_first_refusal_came_starts_no_others() -> None:
    fail_fast = FailFast()
    assert fail_fast.takes_turn("first", doubted=True)
    fail_fast.note_refusal(BROKEN, texts=100, number=3, sent=8)
    fail_fast.note_accepted(8)
    assert fail_fast.proven
    assert not fail_fast.takes_turn("another", doubted=False)
    fail_fast.note_accepted(9)
    assert fail_fast.takes_turn("another", doubted=False)


def test_a2_a_refusal_that_names_its_text_or_a_size_is_no_doubt() -> None:
    fail_fast, named, long = FailFast(), BadRequestError("400"), BadRequestError("400")
    named.offender, long.max_tokens = 0, 512
    assert not any(doubts(fail_fast, *[long] * 10))
    fail_fast.note_accepted(20)
    assert not any(doubts(fail_fast, *[named, long] * 10))


def test_what_waiting_may_clear_is_no_refusal() -> None:
    assert not any(doubts(FailFast(), *[UnavailableError("503")] * 100))


def test_a2_while_somebody_vouches_nothing_is_sent() -> None:
    async def test() -> None:
        fail_fast, started = FailFast(), []

        async def batch() -> None:
            await turn_of(fail_fast, "another", doubted=False)
            started.append(1)

        async with fail_fast.vouch():
            other = asyncio.create_task(batch())
            await asyncio.sleep(5)
            assert started == []
        await other
        assert started == [1]

    run_virtual(test)


def test_p9_one_batch_is_split_at_a_time_and_nothing_is_started_beside_it() -> None:
    async def test() -> None:
        fail_fast, started = FailFast(), []

        async def batch(name: str, doubted: bool) -> None:
            await turn_of(fail_fast, name, doubted=doubted)
            started.append(name)
            await asyncio.sleep(1)
            fail_fast.leave(name)

        await turn_of(fail_fast, "first", doubted=True)
        others = [asyncio.create_task(batch(name, name == "doubted")) for name in ("plain", "doubted", "third")]
        await turn_of(fail_fast, "first", doubted=True)
        await asyncio.sleep(5)
        assert started == []
        fail_fast.leave("first")
        await asyncio.sleep(0.5)
        assert started == ["plain", "doubted"]
        fail_fast.note_accepted(20)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert started == ["plain", "doubted", "third"]
        await asyncio.gather(*others)

    run_virtual(test)
