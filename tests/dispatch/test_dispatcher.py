"""What a Dispatcher does with one provider's answers, on virtual time (rows P10, P16, C4, C5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from aembed.core.changes import Item
from aembed.core.pacing import Pacer
from aembed.dispatch import Answer, Answered, Dispatcher, Refused, Submission
from aembed.errors import AuthenticationError, BadRequestError, RateLimitError, UnavailableError
from aembed.limits import RetryPolicy
from aembed.providers.fake import FakeProvider, Script
from tests.jobs import item_of
from tests.stage.clock import run_virtual


def items(n: int, tokens: float = 1.0) -> list[Item]:
    return [item_of(f"text {number}", tokens=tokens) for number in range(n)]


class Bench:
    """A dispatcher, its provider, and what was delivered."""

    def __init__(self, script: Script | None = None, *, latency: float = 1.0, **options: Any) -> None:
        self.provider = FakeProvider(dimensions=4, latency=latency, script=script)
        settings: dict[str, Any] = {"concurrency": 8, "retry": RetryPolicy(), "timeout": 60.0, "dimensions": None}
        settings["limits"] = lambda: self.provider.limits
        settings |= {"pacer": Pacer(concurrency=8), "random": Random(1)} | options
        self.dispatcher = Dispatcher(self.provider, **settings)
        self.submission = Submission(shares=False)  # the texts of these batches are equal
        self.answers: list[Answer] = []

    async def send(self, batch: Sequence[Item]) -> None:
        await self.dispatcher.send(batch, self.submission, self.deliver)

    async def deliver(self, answer: Answer) -> None:
        self.answers.append(answer)

    @property
    def stored(self) -> int:
        return sum(len(answer.items) for answer in self.answers if isinstance(answer, Answered))

    @property
    def refused(self) -> list[str]:
        return [i.texts[0] for answer in self.answers if isinstance(answer, Refused) for i in answer.items]


def virtual(test: Callable[[], Awaitable[Any]]) -> float:
    async def run() -> float:
        await test()
        return asyncio.get_running_loop().time()

    return run_virtual(run)


def test_an_answer_holds_one_row_for_each_input_in_order() -> None:
    bench = Bench()
    virtual(lambda: bench.send(items(5)))
    (answer,) = bench.answers
    assert isinstance(answer, Answered)
    assert [item.texts[0] for item in answer.items] == [f"text {i}" for i in range(5)]
    assert answer.reply.matrix.shape == (5, 4)


def test_a_hung_request_costs_no_minute_while_its_neighbours_take_a_second() -> None:
    """The first of all hangs: its deadline was a minute when it was sent, and follows what the others take, once it is
    no more than 2 % of what was answered."""
    bench = Bench(lambda number, texts: 3_600.0 if number == 0 else None)

    async def test() -> None:
        await asyncio.gather(*[bench.send(items(10, 100.0)) for _ in range(80)])

    assert virtual(test) < 20.0
    assert bench.stored == 800


def test_p11_the_deadline_is_that_of_the_size() -> None:
    """A batch of a thousand times the tokens is not given up for taking longer."""
    bench = Bench(lambda number, texts: 0.3 + 0.01 * len(texts))

    async def test() -> None:
        for _ in range(6):
            await bench.send(items(1))
        await bench.send(items(2_000))

    virtual(test)
    assert (bench.stored, bench.submission.retries) == (2_006, 0)


def test_c5_a_cancelled_attempt_is_not_tried_again() -> None:
    async def test() -> None:
        bench = Bench(latency=100.0)
        task = bench.dispatcher.start_task(bench.send(items(1)))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await asyncio.sleep(50)
        assert bench.provider.ledger.requests == 1
        assert bench.dispatcher.in_flight == 0

    virtual(test)


def test_c5_a_wait_between_tries_ends_when_the_errand_is_dropped() -> None:
    async def test() -> None:
        bench = Bench(lambda number, texts: UnavailableError("503"), latency=0.0, retry=RetryPolicy(backoff_base=50.0))
        task = bench.dispatcher.start_task(bench.send(items(1)))
        await asyncio.sleep(0.01)
        bench.submission.drop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task.cancelled()
        assert bench.provider.ledger.requests == 1
        assert bench.answers == []

    virtual(test)


class Interrupt(BaseException):
    pass


def test_c5_what_is_no_exception_is_never_tried_again() -> None:
    def script(number: int, texts: Sequence[str]) -> Any:
        raise Interrupt

    async def test() -> None:
        bench = Bench(script)
        with pytest.raises(Interrupt):
            await bench.send(items(1))
        assert bench.provider.ledger.requests == 1
        assert bench.dispatcher.in_flight == 0

    virtual(test)


def test_c5_a_programming_error_is_not_tried_again() -> None:
    async def test() -> None:
        bench = Bench(lambda number, texts: ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            await bench.send(items(1))
        assert bench.provider.ledger.requests == 1

    virtual(test)


def test_what_fails_while_its_errand_is_dropped_is_left_as_it_was() -> None:
    """A job that another request has stopped: its texts are pending, not failed."""

    async def test() -> None:
        bench = Bench(lambda number, texts: UnavailableError("503"))
        task = bench.dispatcher.start_task(bench.send(items(3)))
        await asyncio.sleep(0.5)
        bench.submission.drop()
        await asyncio.gather(task, return_exceptions=True)
        assert (bench.answers, task.cancelled()) == ([], True)

    virtual(test)


def test_a_dropped_errand_starts_no_request_and_what_was_sent_lands() -> None:
    async def test() -> None:
        bench = Bench(concurrency=2)
        tasks = [bench.dispatcher.start_task(bench.send(items(1))) for _ in range(6)]
        await asyncio.sleep(0.5)
        bench.submission.drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (bench.provider.ledger.requests, bench.stored) == (2, 2)

    virtual(test)


def test_p10_one_request_fails_after_its_retries_while_others_succeed() -> None:
    async def test() -> None:
        bench = Bench(lambda number, texts: UnavailableError("500") if "text 0" in texts else None, latency=0.1)
        others = [bench.send([item]) for item in items(200)[1:]]
        await asyncio.gather(bench.send(items(1)), *others)
        assert (bench.refused, bench.stored) == (["text 0"], 199)
        assert bench.provider.ledger.requests == 199 + 4 + 1  # the last one shows that the provider is well

    virtual(test)


def test_p10_without_retries_a_failure_is_final() -> None:
    async def test() -> None:
        bench = Bench(lambda number, texts: UnavailableError("500"), retry=RetryPolicy(max_retries=0))
        await bench.send(items(1))
        assert (bench.refused, bench.provider.ledger.requests) == (["text 0"], 1)

    virtual(test)


def test_p1_a_rate_limit_that_no_batch_of_that_size_passes_is_answered_with_smaller_ones() -> None:
    """As a service does whose window holds less than the batch: it says so in every reply, and no header."""

    def script(number: int, texts: Sequence[str]) -> Any:
        return RateLimitError("429: request too large") if len(texts) > 500 else None

    async def test() -> None:
        bench = Bench(script, latency=0.1)
        await bench.send(items(2_000, tokens=100.0))
        assert (bench.stored, bench.refused) == (2_000, [])

    assert virtual(test) < 600


def test_c4_a_job_error_leaves_the_siblings_alone() -> None:
    def script(number: int, texts: Sequence[str]) -> Any:
        return AuthenticationError("401") if number == 3 else 5.0

    async def test() -> None:
        bench = Bench(script)
        results = await asyncio.gather(*[bench.send(items(2)) for _ in range(8)], return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["AuthenticationError"] + ["NoneType"] * 7
        assert bench.stored == 14

    virtual(test)


def test_law_12_the_pieces_of_one_text_are_never_parted() -> None:
    whole = item_of("a", "b", "bad", tokens=3.0)
    alone = item_of("c")

    def script(number: int, texts: Sequence[str]) -> Any:
        assert ("a" in texts) == ("b" in texts) == ("bad" in texts)
        if "bad" in texts:
            error = BadRequestError("400")
            error.offender = list(texts).index("bad")
            return error
        return None

    bench = Bench(script)
    virtual(lambda: bench.send([alone, whole]))
    assert (bench.refused, bench.stored) == (["a"], 1)


def test_drain_ends_what_does_not_land_in_time() -> None:
    async def test() -> None:
        bench = Bench(latency=1_000.0)
        task = bench.dispatcher.start_task(bench.send(items(1)))
        await asyncio.sleep(0)
        await bench.dispatcher.drain(30.0)
        assert task.cancelled()

    assert virtual(test) == pytest.approx(30.0)


def test_a_drain_that_is_cancelled_leaves_nothing_behind() -> None:
    async def test() -> None:
        bench = Bench(latency=1_000.0)
        task = bench.dispatcher.start_task(bench.send(items(1)))
        drain = asyncio.create_task(bench.dispatcher.drain(30.0))
        await asyncio.sleep(5.0)
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        assert task.cancelled()

    assert virtual(test) == pytest.approx(5.0)
