"""Searches of a SQLite file and the writes beside them: neither waits for the other, and nothing stale is found."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aembed import Embedder, FakeProvider, OverloadedError, SQLiteColumn, SQLiteStore, StoreError
from aembed.stores._sqlite._searches import search_rows
from aembed.types import Space
from tests.jobs import records, words
from tests.stores.samples import SPACE, rows, unit, vectors

PLACES = {
    "store": "aembed.stores._sqlite._searched_store.search_rows",
    "column": "aembed.stores._sqlite._searched.search_rows",
}


async def place_of(kind: str, path: Path, dimensions: int = 64, journal: str = "wal") -> SQLiteStore | SQLiteColumn:
    """With one row that has a vector, and for a column some that have none."""
    space = Space("fake", "fake", dimensions)
    if kind == "store":
        store = SQLiteStore(path)
        await store.prepare(space)
        await store.write(rows(["first"], vectors(1, dimensions)))
        return store
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        connection.execute("INSERT INTO notes VALUES (0, 'first', ?)", (vectors(1, dimensions).tobytes(),))
        connection.executemany("INSERT INTO notes (content) VALUES (?)", [(text,) for text in words(500)])
    column = SQLiteColumn(path, "notes", text="content")
    await column.prepare(space)
    return column


class Passes(threading.Event):
    """Set once the first has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = list[int]()


@contextmanager
def held(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    """While this lasts no search comes to its end."""
    go, passes = threading.Event(), Passes()
    whole = search_rows

    def held_search(asked: Any, *rest: Any) -> Any:
        passes.searches.append(len(asked))
        passes.set()
        go.wait(30)
        return whole(asked, *rest)

    monkeypatch.setattr(PLACES[kind], held_search)
    try:
        yield passes
    finally:
        go.set()


@pytest.mark.parametrize("kind", PLACES)
async def test_t7_a_job_comes_to_its_end_while_a_search_goes_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await place_of(kind, tmp_path / "notes.db")
    with held(kind, monkeypatch) as passes:
        searches = [asyncio.create_task(place.search(vectors(1, 64)[0], 1)) for _ in range(40)]
        await asyncio.to_thread(passes.wait, 30)
        async with Embedder(FakeProvider(), max_batch_size=10) as embedder:
            if isinstance(place, SQLiteStore):
                report = await embedder.embed_into(place, records(words(500)))
                assert (await place.info()).rows == 501
            else:
                report = await embedder.backfill(place)
                assert await place.count() == 0
        assert report.stored == 500
        assert not any(search.done() for search in searches)
    assert [[match.id for match in await search] for search in searches] == [[("first", "0")[kind == "column"]]] * 40
    assert sum(passes.searches) == 40
    assert len(passes.searches) <= 3, "what waits is searched for together"
    assert len(await place.search(vectors(1, 64)[0], 501)) == 501
    await place.aclose()


@pytest.mark.parametrize("kind", PLACES)
async def test_t7_what_nobody_waits_for_is_not_searched_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await place_of(kind, tmp_path / "notes.db")
    with held(kind, monkeypatch) as passes:
        first = asyncio.create_task(place.search(vectors(1, 64)[0], 1))
        await asyncio.to_thread(passes.wait, 30)
        others = [asyncio.create_task(place.search(vectors(1, 64)[0], 1)) for _ in range(20)]
        await asyncio.sleep(0)
        for other in others[1:]:
            other.cancel()
        await asyncio.wait(others[1:])
    await asyncio.gather(first, others[0])
    assert passes.searches == [1, 1]
    await place.aclose()


async def test_t7_no_more_than_a_bound_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._searches.MOST_WAITING", 5)
    place = await place_of("store", tmp_path / "notes.db")
    with held("store", monkeypatch) as passes:
        searches = [asyncio.create_task(place.search(vectors(1, 64)[0], 1))]
        await asyncio.to_thread(passes.wait, 30)
        searches += [asyncio.create_task(place.search(vectors(1, 64)[0], 1)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match=r"5 searches of .* wait; try again"):
            await place.search(vectors(1, 64)[0], 1)
    assert len(await asyncio.gather(*searches)) == 6
    closing_now = asyncio.create_task(place.search(vectors(1, 64)[0], 1))
    await asyncio.sleep(0)
    await place.aclose()
    assert len(await closing_now) == 1, "what was asked before the end is answered"
    with pytest.raises(StoreError, match="was closed"):
        await place.search(vectors(1, 64)[0], 1)


async def test_t7_one_wrong_query_among_many_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = await place_of("column", tmp_path / "notes.db")
    good, wide = vectors(1, 64)[0], vectors(1, 65)[0]
    asked = [
        place.search(good, 1),
        place.search(wide, 1),
        place.search(good, 1, where={"nothing": 1}),
        place.search(good, 3, where={"id": 0}),
        place.search(good * np.nan, 1),
        place.search(good, 2),
    ]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    kinds = [type(each).__name__ for each in outcomes]
    assert kinds == ["list", "SpaceMismatchError", "ConfigError", "list", "InputError", "list"]
    await place.aclose()


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLiteStore]:
    """It keeps the first 40 rows in blocks of 7, and reads the others each time."""
    monkeypatch.setattr("aembed.stores._sqlite._searched_store.CACHE_BYTES", 40 * 16)
    monkeypatch.setattr("aembed.stores._sqlite._kept.BLOCK_BYTES", 7 * 16)
    store = SQLiteStore(tmp_path / "notes.db")
    await store.prepare(SPACE)
    yield store
    await store.aclose()


@pytest.mark.parametrize("seed", range(20))
async def test_t7_what_is_kept_in_memory_is_what_the_file_holds(small: SQLiteStore, tmp_path: Path, seed: int) -> None:
    """Rows are written, written again under an equal fingerprint, renamed and removed, here and by another process."""
    random, path = Random(seed), tmp_path / "notes.db"
    other = SQLiteStore(path)
    for step in range(40):
        store = random.choice([small, other])
        ids = [f"{random.randrange(90):02}" for _ in range(random.choice([1, 3, 20]))]
        ids = sorted(set(ids), key=lambda id: random.random())
        match random.randrange(5):
            case 0 | 1:
                edition = "1" if store is small else str(step)
                await store.write(rows(ids, vectors(len(ids), seed=step), edition=edition))
            case 2:
                await store.delete(ids)
            case 3:
                with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                    connection.execute("UPDATE OR IGNORE aembed_rows SET id = id || 'x' WHERE id = ?", (ids[0],))
                    held = connection.execute("SELECT max(rowid) FROM aembed_rows").fetchone()[0]
                    connection.execute("UPDATE aembed_rows SET rowid = rowid + 7 WHERE rowid = ?", (held,))
                    if random.random() < 0.3:
                        connection.execute("VACUUM")
            case _:
                pass
        query = vectors(1, seed=1000 + step)[0]
        fresh = SQLiteStore(path)
        assert await small.search(query, 7) == await fresh.search(query, 7), step
        await fresh.aclose()
    await other.aclose()


async def test_t7_the_log_does_not_grow_while_searches_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._database.MOST_LOG_BYTES", most := 4_000_000)
    path, stopped = tmp_path / "notes.db", False
    store = SQLiteStore(path)
    await store.prepare(Space("fake", "fake", 1024))
    await store._database.read(lambda connection: connection.execute("PRAGMA wal_autocheckpoint = 10").fetchone(), None)

    async def search() -> None:
        while not stopped:
            await store.search(vectors(1, 1024)[0], 1)

    searching = [asyncio.create_task(search()) for _ in range(10)]
    sizes = []
    for number in range(40):
        await store.write(rows([f"{number}-{i}" for i in range(100)], vectors(100, 1024)))
        sizes.append(os.stat(f"{path}-wal").st_size)
    stopped = True
    await asyncio.gather(*searching)
    await store.aclose()
    assert os.stat(path).st_size > 3 * most
    # A map that is made meanwhile has a snapshot of its own, which no write waits for: the next one cuts the log.
    assert sum(after < before for before, after in pairwise(sizes)) >= 2
    assert max(sizes) < 4 * most


async def test_t7_a_file_without_a_log_is_searched_beside_its_writes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the user's own, in the journal mode that SQLite has by itself."""
    column = await place_of("column", tmp_path / "notes.db", journal="delete")
    monkeypatch.setattr("aembed.stores._sqlite._searched.CHUNK_BYTES", 50 * 256)
    assert isinstance(column, SQLiteColumn)
    ended = False

    async def search() -> int:
        searches = 0
        while not ended:
            searches += len(await column.search(unit(*[1.0] * 64), 3))
        return searches

    searching = [asyncio.create_task(search()) for _ in range(10)]
    async with Embedder(FakeProvider(), max_batch_size=50) as embedder:
        report = await embedder.backfill(column)
    ended = True
    assert min(await asyncio.gather(*searching)) > 0
    assert (report.stored, await column.count()) == (500, 0)
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    await column.aclose()
