"""A column of a SQLite table that is searched by a map: with triggers that note its changes, or in one process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aembed import ConfigError, Embedder, FakeProvider, SQLiteColumn, SQLiteStore
from aembed.stores import open_column
from aembed.stores._search import Best, NearestQuery
from aembed.types import Space, Vector
from tests.stores.samples import rows, vectors
from tests.stores.vector_kinds import KINDS

pytestmark = pytest.mark.usefixtures("small_maps")
D = 24
SPACE = Space("fake", "fake", D)
TABLES = {
    "integer key": "id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, kind INTEGER",
    "text key": "id TEXT PRIMARY KEY, content TEXT, embedding BLOB, kind INTEGER",
    "two keys": "id INTEGER, kind INTEGER, content TEXT, embedding BLOB, PRIMARY KEY (id, kind)",
    "no key": "id INTEGER, content TEXT, embedding BLOB, kind INTEGER",
    "a column rowid": "id INTEGER UNIQUE, rowid TEXT, content TEXT, embedding BLOB, kind INTEGER",
}


def made(path: Path, columns: str = TABLES["integer key"], suffix: str = "", n: int = 400) -> None:
    """Each tenth row has no vector."""
    matrix = KINDS["of_one_direction"](np.random.default_rng(1), n, D)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE notes ({columns}) {suffix}")
        connection.executemany(
            "INSERT INTO notes (id, content, embedding, kind) VALUES (?, ?, ?, ?)",
            [(i, f"text {i}", None if i % 10 == 9 else row.tobytes(), i % 3) for i, row in enumerate(matrix)],
        )


async def column_of(path: Path, **options: Any) -> SQLiteColumn:
    column = SQLiteColumn(path, "notes", text="content", **options)
    await column.prepare(SPACE)
    return column


async def making(column: SQLiteColumn) -> None:
    for maker in column._maps._makers:
        if maker._running:
            await asyncio.wrap_future(maker._running)


async def mapped(column: SQLiteColumn) -> SQLiteColumn:
    for _ in range(3):
        await column.search(vectors(1, D)[0], 1)
        await making(column)
    await column.search(vectors(1, D)[0], 1)
    assert has_map(column)
    return column


def has_map(column: SQLiteColumn) -> bool:
    both = (column._maps._kept, column._maps._passing)
    return any(each is not None and each._mapped is not None for each in both)


def files(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if "-map-" in each.name)


def expected(path: Path, query: Vector, k: int, condition: str = "1") -> list[tuple[str, float]]:
    """Text and score."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        found = connection.execute(
            f"SELECT content, embedding FROM notes WHERE embedding IS NOT NULL AND {condition}"  # noqa: S608
        ).fetchall()
    best = Best(NearestQuery(query, k), [])
    if found:
        best.add([text for text, _ in found], np.stack([np.frombuffer(blob, "<f4") for _, blob in found]))
    return best.found()


async def answer(column: SQLiteColumn, query: Vector, k: int, where: dict[str, Any] | None = None) -> Any:
    return [(match.text, match.score) for match in await column.search(query, k, where=where)]


@pytest.mark.parametrize("triggers", [None, "search"], ids=["in one process", "with triggers"])
@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
async def test_t24_a_column_is_searched_by_its_map(columns: str, triggers: str | None, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    made(path, columns)
    column = await mapped(await column_of(path, create_triggers=triggers))
    for seed in range(20):
        query = KINDS["of_one_direction"](np.random.default_rng(seed), 1, D)[0]
        assert await answer(column, query, 6) == expected(path, query, 6)
        assert await answer(column, query, 6, {"kind": 1}) == expected(path, query, 6, "kind = 1")
    assert has_map(column)
    assert len(files(path)) == (1 if triggers else 0)
    await column.aclose()


async def test_t24_conditions_are_those_of_the_rows_as_they_are_now(tmp_path: Path) -> None:
    """Also where they ask other tables, whose changes nobody notes."""
    path = tmp_path / "notes.db"
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE hidden (id INTEGER)")
    column = await mapped(
        await column_of(path, create_triggers="search", where="t.id NOT IN (SELECT id FROM hidden) -- comment")
    )
    query = KINDS["of_one_direction"](np.random.default_rng(3), 1, D)[0]
    hidden: list[str] = []
    for _ in range(30):
        ((text, _),) = await answer(column, query, 1)
        assert text not in hidden
        hidden.append(text)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO hidden VALUES (?)", (int(text.split()[1]),))
    assert hidden == [text for text, _ in expected(path, query, 30)]
    assert has_map(column)
    await column.aclose()


def change(connection: sqlite3.Connection, chance: Random, step: int) -> None:
    id, blob = chance.randrange(500), vectors(1, D, seed=step)[0].tobytes()
    statements: Sequence[tuple[str, tuple[object, ...]]] = [
        ("UPDATE notes SET embedding = ? WHERE id = ?", (blob, id)),
        ("UPDATE notes SET embedding = NULL WHERE id = ?", (id,)),
        ("UPDATE OR REPLACE notes SET id = ? WHERE id = ?", (chance.randrange(500), id)),
        ("DELETE FROM notes WHERE id = ?", (id,)),
        ("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (id, f"text {id} of {step}", blob, 1)),
        ("VACUUM", ()),
        ("UPDATE notes SET kind = 7", ()),
    ]
    statement, parameters = chance.choice(statements)
    connection.execute(statement, parameters)


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("triggers", [None, "search"], ids=["in one process", "with triggers"])
async def test_t24_what_others_write_to_a_table_is_seen(
    triggers: str | None, journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._making._MOST_UNKNOWN", 30)
    path, chance, by_map = tmp_path / "notes.db", Random(4), 0
    made(path)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        column = await mapped(await column_of(path, create_triggers=triggers))
        for step in range(120):
            change(connection, chance, step)
            for number in range(chance.choice([1, 1, 4])):
                query = vectors(1, D, seed=9 * step + number)[0]
                assert await answer(column, query, 5) == expected(path, query, 5), step
                by_map += has_map(column)
                if chance.random() < 0.5:
                    await making(column)
    assert by_map > 20
    await column.aclose()


async def test_t24_a_job_fills_a_column_that_has_a_map(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    made(path)
    column = await mapped(await column_of(path, create_triggers="search"))
    async with Embedder(FakeProvider(dimensions=D)) as embedder:
        report = await embedder.backfill(column)
        assert report.stored == 40
        found = await embedder.search(column, "text 9", k=1)
    assert found[0].text == "text 9"
    await column.aclose()
    column = await column_of(path)
    await column.search(vectors(1, D)[0], 1)
    assert has_map(column), "who opens the table next has its map, without the option"
    await column.aclose()


async def test_t24_triggers_are_told_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    made(path)
    column = SQLiteColumn(path, "notes", text="content", create_triggers="search")
    told = await column.preflight(SPACE)
    assert [line for line in told if line.startswith("triggers aembed_notes.embedding_insert, ")]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall() == []
    await column.prepare(SPACE)
    assert await column.preflight(SPACE) == []
    await column.aclose()
    made(tmp_path / "other.db", suffix="WITHOUT ROWID")
    column = SQLiteColumn(tmp_path / "other.db", "notes", text="content", create_triggers="search")
    with pytest.raises(ConfigError, match="WITHOUT ROWID"):
        await column.prepare(SPACE)
    await column.aclose()
    with pytest.raises(ConfigError, match='write "search"'):
        SQLiteColumn(path, "notes", text="content", create_triggers="all")
    with pytest.raises(ConfigError, match="SQLite"):
        open_column("postgresql://localhost/x", "notes", text="content", create_triggers="search")


async def test_t24_a_table_without_numbers_is_searched_without_a_map(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    made(path, suffix="WITHOUT ROWID")
    column = await column_of(path)
    for seed in range(4):
        query = vectors(1, D, seed=seed)[0]
        assert await answer(column, query, 5) == expected(path, query, 5)
        await making(column)
    assert not has_map(column)
    assert files(path) == []
    await column.aclose()


async def test_t24_a_vacuum_that_numbers_the_rows_anew(tmp_path: Path) -> None:
    """As SQLite does in a table without a key and without an index; no trigger tells of it."""
    path = tmp_path / "notes.db"
    made(path, TABLES["no key"])
    column = await mapped(await column_of(path, create_triggers="search"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM notes WHERE id % 3 = 0")
        before = connection.execute("SELECT max(rowid) FROM notes").fetchone()
        connection.execute("VACUUM")
        assert connection.execute("SELECT max(rowid) FROM notes").fetchone() < before
    for seed in range(20):
        query = KINDS["of_one_direction"](np.random.default_rng(seed), 1, D)[0]
        assert await answer(column, query, 6) == expected(path, query, 6)
    await column.aclose()


async def test_t24_a_store_and_columns_of_one_file_have_a_map_each(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    made(path)
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    await store.write(rows([f"{i:03}" for i in range(300)], vectors(300, D)))
    column = await column_of(path, create_triggers="search")
    # One after the other: whoever finds that another one is at work leaves it for a minute.
    for _ in range(3):
        await store.search(vectors(1, D)[0], 1)
        if store._maker._running:
            await asyncio.wrap_future(store._maker._running)
    await mapped(column)
    await store.search(vectors(1, D)[0], 1)
    assert store._map._mapped is not None
    assert len(files(path)) == 2
    await column.aclose()
    await store.aclose()
