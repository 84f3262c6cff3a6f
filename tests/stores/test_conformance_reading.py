"""Every store gives its rows and vectors back in the same way (ReadsRows); for columns see test_conformance_backlog."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aembed.errors import ConfigError, StoreError
from aembed.protocols import ReadsRows, Store
from aembed.types import Metadata
from tests.stores.samples import SPACE, fingerprint, rows, vectors

IDS = [f"{number:04d}" for number in range(450)]
METADATA: list[Metadata | None] = [
    {"year": 2000 + number % 10, "n": "é"} if number % 3 else None for number in range(450)
]
WHERE = {"year": {"gte": 2005}}
PASSING = [id for id, held in zip(IDS, METADATA, strict=True) if held and held["year"] >= 2005]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.stores._row_pages.ROWS_PER_PAGE", 7)
    monkeypatch.setattr("aembed.stores._row_pages.BULK_BYTES", 100 * 4 * 4)
    monkeypatch.setattr("aembed.stores._row_pages.IDS_AT_ONCE", 3)


@pytest.fixture
async def filled(store: Store) -> ReadsRows:
    await store.write(rows(IDS[::-1], vectors(450)[::-1], metadata=METADATA[::-1], source="notes"))
    assert isinstance(store, ReadsRows)
    return store


async def test_rows_are_got_by_their_ids_in_the_order_asked(filled: ReadsRows) -> None:
    asked = ["0007", "nobody", "0449", "0007", "", "0000", "nul\0", "\ud800", "0100"]
    found = await filled.get(asked)
    assert [row.id if row else None for row in found] == [
        "0007",
        None,
        "0449",
        "0007",
        None,
        "0000",
        None,
        None,
        "0100",
    ]
    for index, row in enumerate(found):
        if row:
            number = int(row.id)
            assert (row.index, row.text, row.metadata) == (index, f"text 1 of {row.id}", METADATA[number])
            assert (row.source, row.space, row.fingerprint) == ("notes", SPACE, fingerprint(row.id))
            assert np.array_equal(row.vector, vectors(450)[number])
    assert await filled.has(asked) == {"0007", "0449", "0000", "0100"}
    assert (await filled.get([]), await filled.has([])) == ([], set())
    with pytest.raises(ConfigError, match="a list of ids"):
        await filled.get("0007")


async def test_rows_are_read_by_a_filter_and_behind_an_id(filled: ReadsRows) -> None:
    assert [row.id async for row in filled.rows()] == IDS
    found = [row async for row in filled.rows(WHERE)]
    assert [row.id for row in found] == PASSING
    assert [row.index for row in found] == list(range(len(PASSING)))
    assert [row.metadata for row in found] == [METADATA[int(id)] for id in PASSING]
    assert [row.id async for row in filled.rows(after="0440")] == IDS[441:]
    assert [row.id async for row in filled.rows(after="04")] == IDS[400:]
    assert [row.id async for row in filled.rows(WHERE, "0300")] == [id for id in PASSING if id > "0300"]
    assert [row.id async for row in filled.rows({"year": 1})] == []
    with pytest.raises(ConfigError, match="no operator"):
        [row async for row in filled.rows({"year": {"$gt": 1}})]


async def test_each_vector_is_one_of_its_own(filled: ReadsRows) -> None:
    held = [row.vector async for row in filled.rows()]
    assert all(vector.base is None and vector.flags.writeable for vector in held)


async def test_all_vectors_are_one_array(filled: ReadsRows, tmp_path: Path) -> None:
    ids, matrix = await filled.matrix()
    assert (sorted(ids), matrix.shape, matrix.dtype) == (IDS, (450, 4), np.float32)
    assert np.array_equal(matrix, vectors(450)[list(map(int, ids))])
    path = tmp_path / "vectors.npy"
    again, mapped = await filled.matrix(path=path)
    assert isinstance(mapped, np.memmap)
    assert (again, np.array_equal(mapped, matrix), np.array_equal(np.load(path), matrix)) == (ids, True, True)
    ids, some = await filled.matrix(WHERE, str(tmp_path / "some.npy"))
    assert (sorted(ids), np.array_equal(some, vectors(450)[list(map(int, ids))])) == (PASSING, True)
    ids, none = await filled.matrix({"year": 1}, tmp_path / "none.npy")
    assert (ids, none.shape, np.load(tmp_path / "none.npy").shape) == ([], (0, 4), (0, 4))
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


async def test_d21_more_than_a_gigabyte_wants_a_file_and_a_file_is_never_written_over(
    filled: ReadsRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._matrix.MOST_BYTES", 449 * 4 * 4)
    with pytest.raises(ConfigError, match=r"more than 1 GB: give the path"):
        await filled.matrix()
    _, mapped = await filled.matrix(path=tmp_path / "all.npy")
    assert mapped.shape == (450, 4)
    before = (tmp_path / "all.npy").read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        await filled.matrix(path=tmp_path / "all.npy")
    assert (tmp_path / "all.npy").read_bytes() == before
    with pytest.raises(ConfigError, match=r"must end in \.npy"):
        await filled.matrix(path=tmp_path / "all.bin")
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        await filled.matrix(path=tmp_path / "nowhere" / "all.npy")
    monkeypatch.setattr("aembed.stores._matrix.MOST_BYTES", 450 * 4 * 4)
    assert (await filled.matrix())[1].shape == (450, 4)


async def test_d21_a_file_that_cannot_be_finished_is_not_left(filled: ReadsRows, tmp_path: Path) -> None:
    """A reading that is broken off leaves nothing, and neither does a disk that is full (here: files may have 1 kB)."""
    folder = tmp_path / "out"
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"vectors\.npy cannot be written: File too large"):
            await filled.matrix(path=folder / "vectors.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    reading = asyncio.ensure_future(filled.matrix(path=folder / "vectors.npy"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert os.listdir(folder) == []


async def batches_of(batches: AsyncIterator[Any]) -> list[Any]:
    return [batch async for batch in batches]


async def test_rows_come_as_record_batches(filled: ReadsRows) -> None:
    batches = await batches_of(filled.to_arrow())
    assert [batch.num_rows for batch in batches] == [100, 100, 100, 100, 50]
    table = pa.Table.from_batches(batches)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert json.loads(table.schema.metadata[b"aembed.space"])["model"] == SPACE.model
    table = table.sort_by("id")
    assert table["id"].to_pylist() == IDS
    assert table["text"].to_pylist() == [f"text 1 of {id}" for id in IDS]
    assert [held and json.loads(held) for held in table["metadata"].to_pylist()] == METADATA
    assert set(table["source"].to_pylist()) == {"notes"}
    assert np.array_equal(table["vector"].combine_chunks().flatten().to_numpy().reshape(450, 4), vectors(450))
    some = pa.Table.from_batches(await batches_of(filled.to_arrow(WHERE)))
    assert sorted(some["id"].to_pylist()) == PASSING
    (none,) = await batches_of(filled.to_arrow({"year": 1}))
    assert (none.num_rows, none.schema.field("vector").type) == (0, pa.list_(pa.float32(), 4))


async def test_a_store_that_is_not_there_has_nothing_to_give(empty: Store) -> None:
    assert isinstance(empty, ReadsRows)
    assert [row async for row in empty.rows()] == []
    assert await empty.get(["a"]) == [None]
    assert await empty.has(["a"]) == set()
    ids, matrix = await empty.matrix()
    assert (ids, matrix.shape) == ([], (0, 0))
    assert await batches_of(empty.to_arrow()) == []


async def test_each_row_comes_once_while_others_are_written(filled: ReadsRows, store: Store) -> None:
    seen: list[str] = []
    again = [id for id in IDS if id[-1] == "5"]
    async for batch in filled.to_arrow():
        seen += batch["id"].to_pylist()
        await store.delete(again)
        await store.write(rows(again))
        await store.write(rows([f"{id}+{len(seen)}" for id in IDS[:3]]))
    assert len(seen) == len(set(seen))
    assert set(IDS) - set(again) <= set(seen)


async def test_a_reading_that_is_left_ends(filled: ReadsRows, store: Store) -> None:
    before = asyncio.all_tasks()
    batches = filled.to_arrow()
    assert (await anext(batches)).num_rows == 100
    await batches.aclose()
    assert asyncio.all_tasks() == before
    await store.write(rows(["new"]))
    assert await filled.has(["new"]) == {"new"}
