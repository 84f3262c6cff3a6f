from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import numpy as np
import pytest

from aembed import Embedder, MemoryStore
from aembed.errors import InputError, SourceError
from aembed.pipeline.reading import CHUNK, Chunk, Feed, Read, any_record, record_in, text_record
from aembed.results import Failure
from aembed.types import Embedded, Record, Unread
from tests.jobs import all_of, one_by_one, words
from tests.stage.clock import run_virtual

VECTOR = np.ones(2, np.float32)


async def chunks_of(source: Any, record: Callable[[int, Any], Read] = text_record) -> list[Chunk]:
    feed = Feed(source, record)
    async with anyio.create_task_group() as group:
        group.start_soon(feed.fill)
        return await all_of(feed.chunks())


@pytest.mark.parametrize("n", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
@pytest.mark.parametrize("source", [list, iter, one_by_one])
async def test_everything_comes_once_in_order_in_chunks_of_a_bounded_size(
    n: int, source: Callable[[list[str]], Any]
) -> None:
    chunks = await chunks_of(source(words(n)))
    found = [read for start, reads in chunks for read in enumerate(reads, start)]
    assert found == [(i, Record(str(i), f"text {i}")) for i in range(n)]
    assert all(1 <= len(reads) <= CHUNK for _, reads in chunks)
    assert len(chunks) <= n // CHUNK + 1


def test_what_a_slow_source_gave_does_not_wait_for_what_it_will_give() -> None:
    async def slow() -> AsyncIterator[str]:
        for burst in (3, 1, 2):
            await asyncio.sleep(60)
            for text in words(burst):
                yield text

    chunks = run_virtual(chunks_of, slow())
    assert [len(reads) for _, reads in chunks] == [3, 1, 2]


def test_a_source_is_not_read_far_ahead_of_a_slow_job() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "text"

    async def slow_job() -> int:
        feed = Feed(endless(), text_record)
        async with anyio.create_task_group() as group:
            group.start_soon(feed.fill)
            async for start, reads in feed.chunks():
                await asyncio.sleep(60)
                if (last := start + len(reads) - 1) >= 10 * CHUNK:
                    group.cancel_scope.cancel()
                    return last
        raise AssertionError

    worked_on = run_virtual(slow_job)
    assert read <= worked_on + 1 + CHUNK


@pytest.mark.parametrize("k", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 1_000])
@pytest.mark.parametrize("raised", [RuntimeError("boom"), InputError("theirs"), asyncio.CancelledError()])
@pytest.mark.parametrize("waits", [True, False])
async def test_i13_all_that_came_before_a_source_raised_is_given_first(
    k: int, raised: BaseException, waits: bool
) -> None:
    def broken() -> Iterator[str]:
        yield from words(k)
        raise raised

    async def broken_and_waiting() -> AsyncIterator[str]:
        for text in broken():
            yield text

    given: list[tuple[int, Read]] = []
    feed = Feed(broken_and_waiting() if waits else broken(), text_record)

    async def read_all() -> None:
        async for start, reads in feed.chunks():
            given.extend(enumerate(reads, start))

    async with anyio.create_task_group() as group:
        group.start_soon(feed.fill)
        with pytest.raises(SourceError, match=f"the records raised {type(raised).__name__}") as error:
            await read_all()
    assert error.value.__cause__ is raised
    assert [index for index, _ in given] == list(range(k))


async def test_a_cancelled_job_is_no_error_of_its_source() -> None:
    started = asyncio.Event()

    async def waiting() -> AsyncIterator[str]:
        started.set()
        await asyncio.Event().wait()
        yield "never"

    task = asyncio.create_task(chunks_of(waiting()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_record_stays_what_it_is() -> None:
    record, failure = Record("a", "text"), Failure("b", -1, InputError("line 3 is no JSON"))
    assert any_record(7, record) is record
    assert any_record(7, failure) is failure
    assert any_record(7, "text") == Record("7", "text")


def test_a_row_of_a_store_is_a_record_again() -> None:
    row = Embedded("a", 0, VECTOR, "text", {"page": 1}, "notes.md")
    assert any_record(7, row) is row
    assert record_in(row) == Record("a", "text", {"page": 1}, "notes.md")


def test_a_row_without_its_text_fails() -> None:
    read = any_record(7, Embedded("a", 0, VECTOR))
    assert isinstance(read, Failure)
    assert str(read) == "a: the row 'a' was stored without its text; it cannot be re-embedded"


@pytest.mark.parametrize("value", [None, 3, ("a", "text"), {"id": "a"}, b"bytes"])
def test_i2_what_is_not_a_record_fails_by_its_position(value: Any) -> None:
    read = any_record(7, value)
    assert isinstance(read, Failure)
    assert (read.id, read.index) == ("7", 7)
    assert type(value).__name__ in str(read.error)


async def test_records_that_were_not_read_are_unchanged_inputs_and_keep_their_positions() -> None:
    told: list[Failure] = []
    records: list[Any] = [Unread(3), Record("a", "text"), Unread(5), Record("b", " "), Unread(2)]
    async with Embedder("fake:x") as embedder:
        store = MemoryStore()
        plan = await embedder.plan(store, records)
        assert (plan.inputs, plan.unchanged, plan.new, plan.failed) == (12, 10, 1, 1)
        report = await embedder.embed_into(store, iter(records), on_failure=told.append)
    assert (report.inputs, report.unchanged, report.stored, report.failed, report.pending) == (12, 10, 1, 1, 0)
    assert [(failure.id, failure.index) for failure in told] == [("b", 9)]
