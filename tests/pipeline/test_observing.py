"""Callbacks that are `async def` (row B8): awaited, in order, beside the job."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from aembed import AuthenticationError, Embedder, Failure, FakeProvider, Limits, MemoryStore, Progress, StoppedError
from aembed.pipeline.observing import LEAST_PATIENCE, MOST_WAITING, PATIENCE
from tests.jobs import records, words
from tests.stage.clock import run_virtual

TEN = Limits(10, 300_000, 8_191)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_b8_async_functions_are_awaited_in_order_and_the_last_progress_is_the_end() -> None:
    told: list[Progress] = []
    failed: list[str] = []

    async def on_progress(progress: Progress) -> None:
        await asyncio.sleep(0.01)
        told.append(progress)

    async def on_failure(failure: Failure) -> None:
        await asyncio.sleep(0.01)
        failed.append(failure.id)

    async def job() -> None:
        given = records([text for word in words(300) for text in (word, "")])
        async with Embedder(FakeProvider(limits=TEN, latency=1.0)) as embedder:
            report = await embedder.embed_into(MemoryStore(), given, on_progress=on_progress, on_failure=on_failure)
            assert failed == [f"id{n}" for n in range(1, 600, 2)]
            assert told[-1].stored == report.stored == 300
            assert [each.stored for each in told] == sorted(each.stored for each in told)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


class Object:
    """Called as an object; what it returns is awaited."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, _: Any) -> None:
        await asyncio.sleep(0)
        self.calls += 1


async def three(calls: list[int], _: Any) -> None:
    calls.append(3)


def returning(calls: list[int], kind: str) -> Callable[[Any], Awaitable[None]]:
    def observer(_: Any) -> Awaitable[None]:
        if kind == "task":
            return asyncio.get_running_loop().create_task(three(calls, None))
        return three(calls, None)

    return observer


@pytest.mark.parametrize("kind", ["object", "partial", "lambda", "returns a task", "returns a coroutine"])
async def test_b8_whatever_returns_something_to_await(kind: str) -> None:
    calls: list[int] = []
    observers: dict[str, Any] = {
        "object": Object(),
        "partial": functools.partial(three, calls),
        "lambda": lambda progress: three(calls, progress),
        "returns a task": returning(calls, "task"),
        "returns a coroutine": returning(calls, "coroutine"),
    }
    observer = observers[kind]
    async with Embedder("fake:fake") as embedder:
        await embedder.embed_documents(words(5), on_progress=observer)
    assert calls or observer.calls


def test_b8_a_slow_function_does_not_hold_up_the_job_and_is_not_called_over_itself() -> None:
    at_once, most_at_once, calls = 0, 0, 0

    async def slow(_: Progress) -> None:
        nonlocal at_once, most_at_once, calls
        at_once, calls = at_once + 1, calls + 1
        most_at_once = max(most_at_once, at_once)
        await asyncio.sleep(3)
        at_once -= 1

    async def job() -> None:
        landed: list[float] = []
        provider = FakeProvider(limits=TEN, latency=1.0)
        async with Embedder(provider, concurrency=1) as embedder:
            job = embedder.embed_into(Noting(landed), records(words(200)), on_progress=slow)
            await job
        assert landed[-1] == 20.0
        assert 20.0 <= now() <= 20.0 + 2 * 3
        assert (at_once, most_at_once) == (0, 1)
        assert 6 <= calls <= 9

    run_virtual(job)


class Noting(MemoryStore):
    def __init__(self, landed: list[float]) -> None:
        super().__init__()
        self.landed = landed

    async def write(self, *arguments: Any) -> None:
        await super().write(*arguments)
        self.landed.append(now())


@pytest.mark.parametrize("ending", ["returns", "stops", "closes"])
def test_b8_one_that_never_returns_ends_with_the_job_and_its_error_is_logged(
    ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = []

    async def endless(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def job() -> None:
        script = [None, AuthenticationError("401")] if ending == "stops" else None
        embedder = Embedder(FakeProvider(limits=TEN, latency=1.0, script=script), concurrency=1)
        running = asyncio.create_task(
            embedder.embed_into(MemoryStore(), records([*words(25), ""]), on_progress=endless, on_failure=endless)
        )
        if ending == "closes":
            await asyncio.sleep(0.5)
            await embedder.aclose()
        errors = {"stops": AuthenticationError, "closes": StoppedError}
        if error := errors.get(ending):
            with pytest.raises(error):
                await running
        else:
            assert (await running).stored == 25
        assert now() <= 3.0 + PATIENCE
        await embedder.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert cancelled

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)
    assert "took too long" in caplog.text


def test_b8_a_cancelled_job_waits_for_it_a_second_at_most() -> None:
    async def endless(_: Any) -> None:
        await asyncio.Event().wait()

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=1.0)) as embedder:
            running = asyncio.create_task(embedder.embed_documents(words(1_000), on_progress=endless))
            await asyncio.sleep(5.5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert now() <= 5.5 + LEAST_PATIENCE
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


@pytest.mark.parametrize("raised", [RuntimeError("their bug"), TimeoutError(), asyncio.CancelledError()], ids=repr)
def test_b8_what_it_raises_is_logged_and_touches_nothing(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def broken(_: Any) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise raised

    async def job() -> None:
        given = records([*words(30), "", ""])
        async with Embedder(FakeProvider(limits=TEN, latency=1.0), concurrency=1) as embedder:
            report = await embedder.embed_into(MemoryStore(), given, on_progress=broken, on_failure=broken)
        assert (report.stored, report.failed) == (30, 2)

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)
    assert caplog.text.count("raised; the job goes on") == calls >= 5


def test_b8_ten_thousand_failures_that_are_told_slowly_take_no_endless_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting, most = 0, 0

    def on_failure(_: Failure) -> Coroutine[Any, Any, None]:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return told()

    async def told() -> None:
        nonlocal waiting
        await asyncio.sleep(1)
        waiting -= 1

    async def job() -> None:
        given = ["good", *[""] * 10_000]
        async with Embedder(FakeProvider()) as embedder:
            report = await embedder.embed_into(MemoryStore(), records(given), on_failure=on_failure)
        assert report.failed == 10_000
        assert now() <= 2 * PATIENCE + 1

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)
    assert most <= MOST_WAITING + 256
    assert "took too long" in caplog.text


async def test_b8_it_may_close_the_embedder() -> None:
    embedder = Embedder(FakeProvider(limits=TEN, latency=0.01), concurrency=1)

    async def close(progress: Progress) -> None:
        if progress.stored > 20:
            await embedder.aclose()

    with pytest.raises(StoppedError) as raised:
        await embedder.embed_into(MemoryStore(), records(words(5_000)), on_progress=close)
    assert raised.value.report
    assert 20 < raised.value.report.stored < 5_000
