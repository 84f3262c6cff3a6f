from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from threading import get_ident
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    Budget,
    BudgetExceededError,
    Embedder,
    FakeProvider,
    InputError,
    InvalidReplyError,
    Limits,
    MemoryStore,
    Progress,
    ProviderError,
    Record,
    Report,
    RetryPolicy,
    SourceError,
    StoreError,
    UnavailableError,
)
from aembed.pipeline.batches import LINGER
from aembed.pipeline.intake import LONG_CHARACTERS
from aembed.pipeline.job import DRAIN_TIMEOUT
from aembed.pipeline.outcomes import MOST_EQUALS
from aembed.types import Refusal, Reply, Rows, TooLong
from tests.jobs import records, rows_of, words
from tests.stage.clock import run_virtual

BATCH = 10


class SlowStore(MemoryStore):
    """Takes its time to write, and may break after some writes."""

    def __init__(self, seconds: float, good_writes: float = float("inf")) -> None:
        super().__init__()
        self.seconds = seconds
        self.good_writes = good_writes
        self.most_at_once = self._at_once = self.most_rows = 0

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.most_rows = max(self.most_rows, len(rows))
        await anyio.sleep(self.seconds)
        self._at_once -= 1
        self.good_writes -= 1
        if self.good_writes < 0:
            raise StoreError("the disk is full")
        await super().write(rows, refusals)


def small(**options: Any) -> FakeProvider:
    """Takes ten texts a request."""
    return FakeProvider(limits=Limits(BATCH, 300_000, 8_191), keep_texts=True, **options)


def sent(provider: FakeProvider) -> list[str]:
    return [text for request in provider.ledger.log for text in request.texts]


def test_writes_that_overlap_are_all_counted() -> None:
    store = SlowStore(0.5)

    async def job() -> None:
        async with Embedder(small(latency=1.0), concurrency=8) as embedder:
            report = await embedder.embed_into(store, records(words(200)))
        assert store.most_at_once > 1
        assert (report.stored, report.pending, report.billed_tokens) == (200, 0, report.billed_tokens)
        assert len(await rows_of(store)) == 200

    run_virtual(job)


def test_i11_a_text_that_equals_one_being_written_is_not_paid_for() -> None:
    provider, store = small(latency=1.0), SlowStore(5.0)

    async def twice() -> AsyncIterator[Record]:
        yield Record("first", "the same")
        await asyncio.sleep(3)
        yield Record("second", "the same")

    async def job() -> None:
        async with Embedder(provider) as embedder:
            report = await embedder.embed_into(store, twice())
        assert (report.stored, report.duplicates) == (2, 1)
        assert (await rows_of(store)).keys() == {"first", "second"}

    run_virtual(job)
    assert sent(provider) == ["the same"]


def test_i11_a_text_that_comes_three_thousand_times_is_written_in_parts() -> None:
    provider, store = small(latency=1.0), SlowStore(0.5)
    texts = ["the same", "another", *["the same"] * 3_000]

    async def job() -> None:
        async with Embedder(provider) as embedder:
            report = await embedder.embed_into(store, records(texts))
            embeddings = await embedder.embed_documents(texts)
        assert (report.stored, report.duplicates) == (3_002, 3_000)
        assert store.most_rows <= MOST_EQUALS + 2
        assert len(await rows_of(store)) == 3_002
        assert np.array_equal(embeddings.vectors[2:], np.tile(embeddings.vectors[0], (3_000, 1)))

    run_virtual(job)
    assert sorted(sent(provider)) == ["another", "another", "the same", "the same"]


def test_i11_a_text_that_equals_one_being_refused_fails_with_it() -> None:
    provider = small(script=lambda number, texts: BadRequestError("400: no") if "the same" in texts else None)
    store = SlowStore(5.0)

    async def twice() -> AsyncIterator[Record]:
        yield Record("first", "the same")
        await asyncio.sleep(3)
        yield Record("second", "the same")

    async def job() -> None:
        async with Embedder(provider) as embedder:
            report = await embedder.embed_into(store, twice())
        assert (report.failed, report.pending) == (2, 0)
        assert [str(failure) for failure in report.failures] == ["first: 400: no", "second: 400: no"]

    run_virtual(job)
    assert sent(provider) == ["the same", "a", "the same"]


@pytest.mark.parametrize("stopping", [None, AuthenticationError("401")])
def test_every_row_that_was_paid_for_comes_out_of_a_broken_store(stopping: Exception | None) -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | float:
        return stopping if number == 7 and stopping else 1.0 + number / 100

    provider, store = small(script=script), SlowStore(0.5, good_writes=2)

    async def job() -> None:
        async with Embedder(provider, concurrency=8) as embedder:
            with pytest.raises(StoreError, match="disk is full") as raised:
                await embedder.embed_into(store, records(words(200)))
        assert raised.value.report is not None
        unsaved = {id for rows in raised.value.unsaved for id in rows.ids}
        stored = set(await rows_of(store))
        assert not unsaved & stored
        assert len(unsaved | stored) == provider.ledger.texts
        assert raised.value.report.stored == len(stored)
        assert raised.value.__cause__ is stopping

    run_virtual(job)


def test_rows_that_a_cancelled_job_could_not_write_are_the_cause_of_the_cancellation() -> None:
    provider, store = small(latency=1.0), SlowStore(0.1, good_writes=0)

    async def job() -> None:
        async with Embedder(provider) as embedder:
            task = asyncio.create_task(embedder.embed_into(store, records(words(30))))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
        cause = raised.value.__cause__
        assert isinstance(cause, StoreError)
        assert sum(map(len, cause.unsaved)) == provider.ledger.texts

    run_virtual(job)


def test_of_rows_that_a_job_left_at_once_could_not_write_the_log_says_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider, store = small(latency=1.0), SlowStore(0.1, good_writes=0)

    async def job() -> None:
        async with Embedder(provider) as embedder:
            task = asyncio.create_task(embedder.embed_into(store, records(words(30))))
            for _ in range(2):
                await asyncio.sleep(0.5 / 2)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_virtual(job)
    said = [record.getMessage() for record in caplog.records if "were paid for and not stored" in record.getMessage()]
    assert sum(int(line.split()[0]) for line in said) == provider.ledger.texts == 30


@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=40, deadline=None)
def test_a_budget_is_used_up_and_never_exceeded(batches: int, affordable: int, write_seconds: float) -> None:
    provider = FakeProvider(limits=Limits(BATCH, 300_000, 8_191, encoding="cl100k_base"), latency=1.0)
    texts = [" information" * 10 + f"{number:08}" for number in range(batches * BATCH)]
    tokens = BATCH * 128 // 4

    async def job() -> None:
        budget = Budget(max_billed_tokens=affordable * tokens)
        async with Embedder(provider, concurrency=3, budget=budget) as embedder:
            embedder._engine.run_in_thread = inline
            report = await report_of(embedder.embed_into(SlowStore(write_seconds), records(texts)))
        assert report.billed_tokens == provider.ledger.billed_tokens <= affordable * tokens
        assert report.stored == min(batches, affordable) * BATCH
        assert report.pending == report.inputs - report.stored
        assert (report.inputs == len(texts)) or report.pending

    run_virtual(job)


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


async def report_of(job: Coroutine[Any, Any, Report]) -> Report:
    try:
        return await job
    except BudgetExceededError as error:
        return error.report or Report()


def test_an_unexpected_error_stops_the_job_as_one_plain_error(caplog: pytest.LogCaptureFixture) -> None:
    fault = ZeroDivisionError("a bug of theirs")

    async def job() -> None:
        async with Embedder(small(script=[None, fault])) as embedder:
            with pytest.raises(AembedError, match="unexpected ZeroDivisionError") as raised:
                await embedder.embed_into(MemoryStore(), records(words(50)))
        assert raised.value.__cause__ is fault
        assert raised.value.report is not None
        assert raised.value.report.pending > 0

    run_virtual(job)
    assert "unexpected" in caplog.text


@pytest.mark.parametrize("error", [BadRequestError("400: refused"), InvalidReplyError("nonsense")], ids=str)
async def test_a_text_that_was_refused_is_not_sent_again_under_another_id(error: ProviderError) -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return error if "poison" in texts else None

    provider, store = small(script=script), MemoryStore()
    given = records([*words(300), "poison", *words(300, start=300), "poison", "poison"])
    async with Embedder(provider, concurrency=1) as embedder:
        report = await embedder.embed_into(store, given)
        refused = [sent for sent in provider.ledger.log if sent.texts == ("poison",)]
        assert (report.stored, report.failed) == (600, 3)
        assert len(refused) == (2 if isinstance(error, InvalidReplyError) else 1)
        assert {refusal.id for refusal in await store.refusals()} == {"id300", "id601", "id602"}
        requests = provider.ledger.requests
        again = await embedder.embed_into(store, given)
        assert (again.refused_earlier, provider.ledger.requests) == (3, requests)


class Unreadable(MemoryStore):
    async def known(self, *_: Any) -> Any:
        raise StoreError("the database is gone")


async def test_a_store_that_cannot_be_read_stops_the_job_and_blames_no_record() -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match="database is gone"):
            await embedder.embed_into(Unreadable(), records(words(50)))
    assert provider.ledger.requests == 0


@pytest.mark.parametrize("k", [0, 1, 255, 256, 257, 700])
@pytest.mark.parametrize("raised", [RuntimeError("boom"), StoreError("gone"), asyncio.CancelledError()])
def test_i13_what_came_before_a_source_raised_is_stored(k: int, raised: BaseException) -> None:
    def broken() -> Iterator[Record]:
        yield from records(words(k))
        raise raised

    async def job() -> None:
        store = MemoryStore()
        async with Embedder(small(latency=1.0)) as embedder:
            with pytest.raises(SourceError) as error:
                await embedder.embed_into(store, broken())
        assert error.value.__cause__ is raised
        assert error.value.report is not None
        assert (error.value.report.inputs, error.value.report.stored) == (k, k)
        assert len(await rows_of(store)) == k

    run_virtual(job)


def test_i14_an_endless_source_is_read_no_further_than_the_window() -> None:
    read = 0

    def endless() -> Iterator[Record]:
        nonlocal read
        while True:
            yield Record(str(read), f"text {read}")
            read += 1

    most_ahead = 0

    def watch(progress: Progress) -> None:
        nonlocal most_ahead
        most_ahead = max(most_ahead, read - progress.stored)

    async def job() -> None:
        provider = small(latency=1.0)
        async with Embedder(provider, concurrency=3) as embedder:
            with anyio.move_on_after(60):
                await embedder.embed_into(MemoryStore(), endless(), on_progress=watch)
        assert provider.ledger.max_in_flight == 3

    run_virtual(job)
    assert read > 1_000
    # Three batches on their way, four in the window, and two chunks of 256 that are being read.
    assert most_ahead <= 3 * BATCH + 4 * BATCH + 2 * 256


def test_a_slow_source_is_sent_as_it_comes() -> None:
    provider, latency, waited = small(latency=0.5), 0.5, []

    async def slow() -> AsyncIterator[Record]:
        for number in range(20):
            await asyncio.sleep(10)
            yield Record(str(number), f"text {number}")
            given = asyncio.get_running_loop().time()
            asyncio.get_running_loop().call_later(latency + 2 * LINGER, lambda: waited.append(provider.ledger.texts))
            assert given == 10 * (number + 1)

    async def job() -> None:
        async with Embedder(provider) as embedder:
            report = await embedder.embed_into(MemoryStore(), slow())
            await asyncio.sleep(1)
        assert report.requests == 20

    run_virtual(job)
    assert waited == list(range(1, 21))


def test_a_limit_that_grows_while_the_window_is_full_stops_nothing() -> None:
    class Growing(FakeProvider):
        async def embed(self, *args: Any, **options: Any) -> Reply:
            reply = await super().embed(*args, **options)
            self.limits = Limits(1_000, 300_000, 8_191)
            return reply

    async def job() -> None:
        async with Embedder(Growing(limits=Limits(BATCH, 300_000, 8_191), latency=1.0), concurrency=2) as embedder:
            with anyio.fail_after(60):
                report = await embedder.embed_into(MemoryStore(), iter(records(words(3_000))))
        assert report.stored == 3_000

    run_virtual(job)


def test_bursts_of_a_slow_source_are_not_torn_apart() -> None:
    provider = small(latency=0.5)

    async def bursts() -> AsyncIterator[Record]:
        for burst in range(5):
            await asyncio.sleep(10)
            for number in range(7):
                yield Record(f"{burst}/{number}", f"text {burst} {number}")

    async def job() -> None:
        async with Embedder(provider) as embedder:
            await embedder.embed_into(MemoryStore(), bursts())

    run_virtual(job)
    assert [request.inputs for request in provider.ledger.log] == [7] * 5


async def test_i4_the_loop_lives_while_large_texts_are_hashed() -> None:
    limits = Limits(2_048, 10**9, 10**9)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with Embedder(FakeProvider(limits=limits)) as embedder:
        await asyncio.sleep(0)
        started, texts = ticks, [f"{number}" * 5_000_000 for number in range(8)]
        await embedder.plan(MemoryStore(), records(texts))
    ticking.cancel()
    assert ticks - started >= len(texts)


class Judge(MemoryStore):
    """Notes in which thread each record was judged; refuses one id."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, int] = {}

    def reject(self, record: Record) -> InputError | None:
        self.threads[record.id] = get_ident()
        return InputError("not here") if record.id == "refused" else super().reject(record)


async def test_a_text_of_megabytes_is_hashed_and_judged_in_a_thread() -> None:
    store, long = Judge(), LONG_CHARACTERS + 1
    given = [Record("short", "x"), Record("long", "x" * long), Record("refused", "y" * long), Record("last", "z")]
    async with Embedder(FakeProvider(), too_long="truncate") as embedder:
        report = await embedder.embed_into(store, given)
    assert {row.id async for row in store.rows()} == {"short", "long", "last"}
    [failure] = report.failures
    assert (failure.id, failure.index, str(failure.error)) == ("refused", 2, "not here")
    elsewhere = {id for id, thread in store.threads.items() if thread != get_ident()}
    assert elsewhere == {"long", "refused"}


@pytest.mark.parametrize("seconds", [0.01, 5.0])
def test_progress_is_told_five_times_a_second_at_most_and_a_last_time(seconds: float) -> None:
    told: list[tuple[float, Progress]] = []

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(small(latency=seconds), concurrency=2) as embedder:
            report = await embedder.embed_into(
                MemoryStore(), records(words(1_000)), on_progress=lambda now: told.append((loop.time(), now))
            )
        assert told[-1][1].stored == report.stored == 1_000

    run_virtual(job)
    times = [at for at, _ in told[:-1]]
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))
    for _, progress in told:
        assert progress.total == 1_000
        assert progress.stored + progress.unchanged + progress.failed + progress.pending == progress.inputs


def test_what_an_observer_raises_is_logged_and_touches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("their bug")

    async def job() -> None:
        async with Embedder(small()) as embedder:
            report = await embedder.embed_into(
                MemoryStore(), records(["good", ""]), on_progress=broken, on_failure=broken
            )
        assert (report.stored, report.failed) == (1, 1)

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)
    assert caplog.text.count("raised; the job goes on") >= 2


def test_nobody_is_told_anything_after_the_end() -> None:
    told: list[float] = []

    async def job() -> float:
        loop = asyncio.get_running_loop()
        async with Embedder(small(latency=5.0)) as embedder:
            task = asyncio.create_task(
                embedder.embed_documents(words(50), on_progress=lambda _: told.append(loop.time()))
            )
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return loop.time()

    ended = run_virtual(job)
    assert max(told) <= ended < 5


def test_a_job_that_is_cancelled_waits_for_its_requests_no_longer_than_the_drain_timeout() -> None:
    async def job() -> None:
        loop = asyncio.get_running_loop()
        embedder = Embedder(small(latency=1_000.0), timeout=2_000.0)
        task = asyncio.create_task(embedder.embed_into(MemoryStore(), records(words(5))))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() == 1 + DRAIN_TIMEOUT
        await embedder.aclose(timeout=0)

    run_virtual(job)


@pytest.mark.parametrize("fields", [{"metadata": {"page": 2}}, {"source": "moved.md"}])
def test_a_change_of_metadata_or_source_is_written_and_not_paid_for(fields: dict[str, Any]) -> None:
    provider, store = small(), MemoryStore()

    async def job() -> None:
        async with Embedder(provider) as embedder:
            await embedder.embed_into(store, records(words(30)))
            requests = provider.ledger.requests
            report = await embedder.embed_into(store, records(words(30), **fields))
            assert (report.stored, report.unchanged, report.requests) == (30, 0, 0)
            assert provider.ledger.requests == requests
        for row in (await rows_of(store)).values():
            assert {"metadata": row.metadata, "source": row.source} == {"metadata": None, "source": None} | fields

    run_virtual(job)


def test_a_failed_batch_marks_only_its_own_texts() -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return BadRequestError("400: no") if "text 17" in texts else None

    async def job() -> None:
        store = MemoryStore()
        async with Embedder(small(latency=0.1, script=script)) as embedder:
            report = await embedder.embed_into(store, records(words(100)))
        assert [str(failure) for failure in report.failures] == ["id17: 400: no"]
        assert (await rows_of(store)).keys() == {f"id{n}" for n in range(100)} - {"id17"}

    run_virtual(job)


@pytest.mark.parametrize("names", [False, True])
def test_a2_a_single_text_that_is_refused_in_passing_is_no_bad_text(names: bool) -> None:
    """Words that name the text are believed at once."""

    def script(number: int, texts: Sequence[str]) -> Exception | None:
        error = BadRequestError("422: not now")
        error.offender = 0 if names else None
        return None if texts == ["a"] or number > 1 else error

    async def job() -> Report:
        async with Embedder(small(script=script)) as embedder:
            return await embedder.embed_into(MemoryStore(), records(["a text"]))

    report = run_virtual(job)
    assert (report.stored, report.failed, report.requests) == ((0, 1, 2) if names else (1, 0, 3))


def test_a_text_that_was_refused_is_not_sent_again_until_asked() -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return BadRequestError("400: no") if "text 3" in texts else None

    provider, store = small(script=script), MemoryStore()

    async def run(**options: Any) -> tuple[int, int, int]:
        async with Embedder(provider, retry=RetryPolicy(max_retries=0)) as embedder:
            report = await embedder.embed_into(store, records(words(20)), **options)
        return report.failed, report.refused_earlier, report.requests

    assert run_virtual(run)[:2] == (1, 0)
    assert run_virtual(run) == (1, 1, 0)
    assert run_virtual(lambda: run(retry_failed=True)) == (1, 0, 3)


def test_a_text_whose_retries_ran_out_fails_and_is_sent_again_by_the_next_run() -> None:
    down = True

    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return UnavailableError("500", status_code=500) if down and "text 7" in texts else None

    provider, store = small(script=script), MemoryStore()

    async def run() -> Report:
        async with Embedder(provider, max_batch_size=1, concurrency=2, retry=RetryPolicy(max_retries=1)) as embedder:
            return await embedder.embed_into(store, records(words(40)))

    first = run_virtual(run)
    assert ([failure.id for failure in first.failures], first.stored) == (["id7"], 39)
    assert run_virtual(store.refusals) == []
    down = False
    again = run_virtual(run)
    assert (again.stored, again.failed, again.refused_earlier, again.requests) == (1, 0, 0, 1)


async def test_a_text_that_was_refused_as_too_long_is_tried_again_where_it_may_be_cut() -> None:
    store, given = MemoryStore(), records(["short", "word " * 9_000])

    async def run(too_long: TooLong) -> Report:
        async with Embedder(FakeProvider(), too_long=too_long) as embedder:
            return await embedder.embed_into(store, given)

    first, again = await run("error"), await run("error")
    assert (first.failed, first.refused_earlier, again.failed, again.refused_earlier) == (1, 0, 1, 1)
    cut = await run("truncate")
    assert (cut.stored, cut.failed, cut.unchanged) == (1, 0, 1)
    assert await store.refusals() == []
