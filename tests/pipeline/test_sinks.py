from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Entry, Fingerprinter
from aembed.errors import BadRequestError, InputError, StoreError, UnavailableError
from aembed.pipeline.channel import Channel
from aembed.pipeline.sinks import ListSink, StreamSink
from aembed.pipeline.store_calls import STORE_TIMEOUT, await_store
from aembed.pipeline.store_sinks import PlanSink, StoreSink
from aembed.results import Failure, Report
from aembed.stores.memory import MemoryStore
from aembed.types import Embedded, Record, Refusal, Rows, Space
from tests.jobs import words
from tests.stage.clock import run_virtual

SPACE = Space("fake", "fake", 4)
FINGERPRINTER = Fingerprinter(SPACE, "document", "error", 8_191)


def entries_of(texts: Sequence[str]) -> list[Entry]:
    return [FINGERPRINTER.make_entry(index, Record(f"id{index}", text)) for index, text in enumerate(texts)]


def matrix_of(entries: Sequence[Entry]) -> np.ndarray[Any, Any]:
    """Row i says i."""
    return np.array([[entry.index] * 4 for entry in entries], np.float32)


@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from([None, 12]))
async def test_a_list_is_in_the_order_of_the_input_whatever_came_first(
    order: list[int], size: int, known: int | None
) -> None:
    sink, entries = ListSink(known), entries_of(words(12))
    for start in range(0, 12, size):
        batch = [entries[index] for index in order[start : start + size]]
        assert await sink.write(batch, matrix_of(batch)) == len(batch)
    embeddings = await sink.make_embeddings(Report(inputs=12), None)
    assert embeddings.vectors[:, 0].tolist() == list(range(12))


async def test_what_failed_is_none_and_what_a_stop_left_out_fails_with_it() -> None:
    sink, entries = ListSink(4), entries_of(words(4))
    await sink.write([entries[2]], matrix_of([entries[2]]))
    await sink.fail([Failure("0", 0, InputError("empty"))])
    stopped = UnavailableError("gone")
    embeddings = await sink.make_embeddings(Report(inputs=3), 4, stopped)
    assert [vector is None for vector in embeddings] == [True, True, False, True]
    assert [str(failure) for failure in embeddings.failures] == ["0: empty", "1: gone", "3: gone"]


@pytest.mark.parametrize("told", [1, 5])
async def test_a_list_that_misjudged_its_length_has_no_rows_out_of_nothing(told: int) -> None:
    sink, entries = ListSink(told), entries_of(words(3))
    await sink.write(entries, matrix_of(entries))
    embeddings = await sink.make_embeddings(Report(inputs=3), None)
    assert embeddings.vectors[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("dimensions", "shape"), [(4, (0, 4)), (None, (0, 0))])
async def test_no_texts_are_no_rows(dimensions: int | None, shape: tuple[int, int]) -> None:
    assert (await ListSink(0).make_embeddings(Report(), dimensions)).vectors.shape == shape


async def test_a_list_knows_what_it_paid_for_however_far_apart() -> None:
    sink, entries = ListSink(), entries_of(words(3))
    await sink.write(entries, matrix_of(entries))
    another = FINGERPRINTER.make_entry(3, Record("id3", "another"))
    [(key, vector)] = (await sink.paid_vectors([entries[1], another])).items()
    assert (key, vector.tolist()) == (entries[1].key, [1, 1, 1, 1])


async def test_a_streamed_vector_does_not_keep_its_whole_batch_alive() -> None:
    channel, entries = Channel(), entries_of(words(3))
    written = asyncio.create_task(StreamSink(channel).write(entries, matrix_of(entries)))
    results = await anext(aiter(channel))
    assert await written == 3
    for index, result in enumerate(results):
        assert isinstance(result, Embedded)
        assert (result.id, result.text, result.vector[0]) == (f"id{index}", f"text {index}", index)
        assert result.vector.base is None


async def test_a_stream_whose_reader_has_left_lets_the_job_end() -> None:
    channel, entries = Channel(), entries_of(words(3))
    sink = StreamSink(channel)
    waiting = asyncio.create_task(sink.write(entries, matrix_of(entries)))
    await asyncio.sleep(0)
    channel.leave()
    assert await waiting == 3
    assert await sink.write(entries, matrix_of(entries)) == 3


async def test_b4_what_lands_in_a_stream_that_is_closed_waits_for_its_reader_and_holds_up_nobody() -> None:
    channel, entries = Channel(), entries_of(words(3))
    sink = StreamSink(channel)
    waiting = [asyncio.create_task(sink.write([entry], matrix_of([entry]))) for entry in entries[:2]]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    sink.let_go()
    assert await asyncio.gather(*waiting) == [1, 1]
    assert await sink.write(entries[2:], matrix_of(entries[2:])) == 1
    channel.end()
    assert [result.id async for results in channel for result in results] == ["id0", "id1", "id2"]


async def prepared(store: MemoryStore) -> MemoryStore:
    await store.prepare(SPACE)
    return store


async def test_a_store_gets_rows_and_remembers_refusals_of_content_only() -> None:
    store = await prepared(MemoryStore())
    sink, entries = StoreSink(store), entries_of(words(4))
    await sink.write(entries[:1], matrix_of(entries[:1]))
    errors = [InputError("too long"), BadRequestError("400"), UnavailableError("503")]
    await sink.refuse(list(zip(entries[1:], errors, strict=True)))
    known = await sink.known(entries)
    assert known.unchanged == {"id0"}
    assert known.refused["id1"] == Refusal("id1", entries[1].fingerprint, "InputError", "too long")
    assert known.refused.keys() == {"id1", "id2"}
    assert not (await StoreSink(store, retry_failed=True).known(entries)).refused


class BrokenStore(MemoryStore):
    """A user's own store that does what it likes."""

    def __init__(self, fault: Exception | None) -> None:
        super().__init__()
        self.fault = fault

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        if self.fault is None:
            await asyncio.Event().wait()
        else:
            raise self.fault


@pytest.mark.parametrize("fault", [sqlite3.OperationalError("disk"), ValueError("what"), StoreError("full")])
async def test_whatever_a_store_raises_becomes_a_store_error_with_the_paid_rows(fault: Exception) -> None:
    entries = entries_of(words(2))
    with pytest.raises(StoreError) as raised:
        await StoreSink(BrokenStore(fault)).write(entries, matrix_of(entries))
    [rows] = raised.value.unsaved
    assert rows.ids == ["id0", "id1"]
    assert rows.texts == ["text 0", "text 1"]
    assert rows.matrix.tolist() == matrix_of(entries).tolist()
    assert raised.value is fault or raised.value.__cause__ is fault


def test_a_store_that_hangs_is_given_up_with_the_paid_rows() -> None:
    async def write() -> float:
        entries = entries_of(words(2))
        with pytest.raises(StoreError, match="did not answer within 120 s") as raised:
            await StoreSink(BrokenStore(None)).write(entries, matrix_of(entries))
        assert len(raised.value.unsaved[0]) == 2
        return asyncio.get_running_loop().time()

    assert run_virtual(write) == STORE_TIMEOUT


async def test_an_error_of_aembed_passes_as_it_is() -> None:
    async def refuses() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        await await_store(refuses())


async def test_a_plan_remembers_what_a_store_would_hold_by_then() -> None:
    store, entries = await prepared(MemoryStore()), entries_of(words(2))
    await StoreSink(store).write(entries[:1], matrix_of(entries[:1]))
    plan = PlanSink(store)
    assert (await plan.paid_vectors(entries)).keys() == {entries[0].fingerprint}
    await plan.write(entries[1:], matrix_of(entries[1:]))
    assert (await plan.paid_vectors(entries)).keys() == {entry.fingerprint for entry in entries}
    assert (await store.info()).rows == 1


async def test_a_plan_counts_as_changed_what_would_be_written_over() -> None:
    store, entries = await prepared(MemoryStore()), entries_of(words(3))
    await StoreSink(store).write(entries, matrix_of(entries))
    edited = [FINGERPRINTER.make_entry(index, Record(f"id{index}", f"edited {index}")) for index in range(5)]
    plan = PlanSink(store)
    assert (await plan.known(edited)).changed == {"id0", "id1", "id2"}
    await plan.write(edited[1:], matrix_of(edited[1:]))
    assert plan.changed == 2


async def test_what_a_provider_said_is_kept_as_one_printable_line() -> None:
    store, [entry] = MemoryStore(), entries_of(["poison"])
    await StoreSink(store).refuse([(entry, BadRequestError("no:\0 not\nthis"))])
    assert [refusal.message for refusal in await store.refusals()] == ["no:  not this"]
