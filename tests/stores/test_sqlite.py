from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.stores.sqlite import SQLiteStore
from aembed.types import Refusal, Space
from tests.stores.samples import SPACE, count, digests, files, fingerprints, query, rows, vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    yield store
    await store.aclose()


# The file


async def test_a_question_creates_no_file(path: Path) -> None:
    store = SQLiteStore(path)
    await store.known(digests(["a"]), fingerprints(["a"]))
    await store.vectors({b"x"})
    await store.search(vectors(1)[0], 1)
    await store.info()
    await store.refusals()
    await store.stale("x", set())
    assert [row async for row in store.rows()] == []
    with pytest.raises(StoreError, match="does not exist; call prepare"):
        await store.write(rows(["a"]))
    assert files(path.parent) == []
    await store.aclose()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
async def test_z8_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        store = SQLiteStore(path)
        await store.prepare(SPACE)
        await store.write(rows(["a"]))
        modes = {name: stat.S_IMODE((path.parent / name).stat().st_mode) for name in files(path.parent)}
    finally:
        os.umask(before)
        await store.aclose()
    assert modes == {"notes.db": 0o600, "notes.db-shm": 0o600, "notes.db-wal": 0o600}


async def test_pages_are_large_and_the_log_is_written_ahead(store: SQLiteStore, path: Path) -> None:
    assert query(path, "PRAGMA page_size") == [(32768,)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    synchronous = await store._database.read(lambda c: c.execute("PRAGMA synchronous").fetchone(), None)
    assert synchronous == (2,)


async def test_a_file_of_smaller_pages_is_used_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 16384")
        connection.execute("PRAGMA journal_mode = WAL")
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    await store.write(rows(["a", "b"]))
    await store.aclose()
    assert query(path, "PRAGMA page_size") == [(16384,)]
    assert query(path, "SELECT id FROM aembed_rows ORDER BY id") == [("a",), ("b",)]


async def test_vectors_are_little_endian_float32(store: SQLiteStore, path: Path) -> None:
    matrix = vectors(2)
    await store.write(rows(["a", "b"], matrix))
    blobs = query(path, "SELECT typeof(embedding), embedding FROM aembed_rows ORDER BY id")
    assert blobs == [("blob", row.astype("<f4").tobytes()) for row in matrix]


async def test_the_tables_live_beside_a_users_own(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO rows (name) VALUES ('mine')")
    store = SQLiteStore(path)
    assert (await store.info()).rows == 0
    with pytest.raises(StoreError, match="has no tables of aembed; call prepare"):
        await store.write(rows(["a"]))
    await store.prepare(SPACE)
    await store.write(rows(["a"]))
    await store.aclose()
    assert query(path, "SELECT name FROM rows") == [("mine",)]
    names = query(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'rows'")
    assert all(str(name).startswith("aembed_") for (name,) in names)


async def test_what_one_process_wrote_another_reads(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["a", "b"]), [Refusal("c", b"f", "BadRequestError", "no")])
    other = SQLiteStore(f"sqlite:///{path}")
    assert (await other.info()).rows == 2
    assert (await other.info()).space == SPACE
    assert [refusal.id for refusal in await other.refusals()] == ["c"]
    await other.aclose()


async def test_search_sees_what_another_process_wrote(store: SQLiteStore, path: Path) -> None:
    vector = np.array([1, 0, 0, 0], np.float32)
    await store.write(rows(["a"], -vector[None]))
    assert [match.id for match in await store.search(vector, 1)] == ["a"]
    other = SQLiteStore(path)
    await other.write(rows(["b"], vector[None]))
    await other.aclose()
    assert [match.id for match in await store.search(vector, 1)] == ["b"]


async def test_a_search_over_many_chunks_finds_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    await store.write(rows([f"{i:03d}" for i in range(500)], vectors(500)))
    vector = vectors(1, seed=3)[0]
    whole = await store.search(vector, 20)
    await store.aclose()
    monkeypatch.setattr("aembed.stores._sqlite._searched_store.CACHE_BYTES", 0)
    monkeypatch.setattr("aembed.stores._sqlite._kept.BLOCK_BYTES", 7 * 16)
    store = SQLiteStore(path)
    assert await store.search(vector, 20) == whole
    await store.aclose()


async def test_known_asks_in_pieces_within_the_limit_on_variables(store: SQLiteStore) -> None:
    ids = [f"{i:05d}" for i in range(3000)]
    await store.write(rows(ids))
    limit = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
    await store._database.read(lambda connection: connection.setlimit(limit, 99), None)
    assert len((await store.known(digests(ids), fingerprints(ids))).unchanged) == 3000
    assert len(await store.vectors(set(fingerprints(ids).values()))) == 3000
    assert len(await store.search(vectors(1)[0], 2500)) == 2500


async def test_a_newer_schema_asks_for_an_upgrade(store: SQLiteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE aembed_meta SET value = '4' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="pip install --upgrade aembed"):
        await store.info()
    with pytest.raises(StoreError, match="pip install --upgrade aembed"):
        await store.prepare(SPACE)


async def test_i16_the_way_out_is_a_line_to_type(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["a"]))
    with pytest.raises(SpaceMismatchError) as caught:
        await store.prepare(Space("openai", "text-embedding-3-small", 1536))
    new = path.with_name("notes-new.db")
    line = f"aembed index sqlite:///{path} --store sqlite:///{new} -m openai:text-embedding-3-small"
    assert str(caught.value).endswith(f"{line} --dimensions 1536")


# Threads, loops, the end


def test_one_store_serves_several_event_loops(path: Path) -> None:
    store = SQLiteStore(path)
    asyncio.run(store.prepare(SPACE))
    asyncio.run(store.write(rows(["a"])))
    assert asyncio.run(store.info()).rows == 1
    asyncio.run(store.aclose())


async def test_closing_ends_the_thread_and_removes_the_log(path: Path) -> None:
    before = set(threading.enumerate())
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    (thread,) = set(threading.enumerate()) - before
    await store.aclose()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert files(path.parent) == ["notes.db"]
    with pytest.raises(StoreError, match="was closed"):
        await store.info()


async def test_a_store_that_is_forgotten_closes_itself(path: Path) -> None:
    before = set(threading.enumerate())
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    (thread,) = set(threading.enumerate()) - before
    del store
    gc.collect()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert files(path.parent) == ["notes.db"]


def test_a_process_ends_cleanly_with_a_store_open(path: Path) -> None:
    code = f"""
        import asyncio
        from aembed.stores.sqlite import SQLiteStore
        from tests.stores.samples import SPACE, rows
        store = SQLiteStore({str(path)!r})
        async def main():
            await store.prepare(SPACE)
            await store.write(rows(["a"]))
        asyncio.run(main())
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert count(path) == 1


@pytest.mark.parametrize("name", ["", ":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "a\0b"])
def test_a_name_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        SQLiteStore(name)
