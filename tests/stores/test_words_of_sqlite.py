"""The index of words in a SQLite file: built beside writes, kept by triggers, and not trusted unchecked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aembed.stores._sqlite._words as words
from aembed.errors import ConfigError
from aembed.stores._sqlite._searched_store import WORDS
from aembed.stores.sqlite import SQLiteStore
from aembed.stores.sqlite_column import SQLiteColumn
from tests.stores.samples import SPACE, query, rows, unit

QUERY = unit(1, 0, 0, 0)
ROWS = 100
EDIT = "UPDATE aembed_rows SET text = '{}' WHERE id = '{}'"
INSERT = "INSERT INTO t VALUES ('text name_{}', NULL)"


async def filled(path: Path) -> SQLiteStore:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    ids = [f"{i:03d}" for i in range(ROWS)]
    await store.write(replace(rows(ids), texts=[f"text name_{i}" for i in range(ROWS)]))
    return store


async def found(store: SQLiteStore | SQLiteColumn, question: str) -> list[str]:
    await store.prepare_words()
    return [match.id for match in await store.search_words(question, QUERY, 10)]


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def test_a_store_is_indexed_at_the_first_hybrid_search_and_not_before(tmp_path: Path) -> None:
    store = await filled(tmp_path / "notes.db")
    assert query(tmp_path / "notes.db", "SELECT name FROM sqlite_master WHERE name LIKE 'aembed_word%'") == []
    assert await found(store, "name_7") == ["007"]
    assert query(tmp_path / "notes.db", "SELECT name FROM sqlite_master WHERE name LIKE 'aembed_word%'") != []
    await store.aclose()


async def test_t20_any_writer_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await filled(path)
    assert await found(store, "latecomer_1") == []
    run(
        path,
        "UPDATE aembed_rows SET text = 'the latecomer_1' WHERE id = '003'",
        "DELETE FROM aembed_rows WHERE id = '004'",
        "UPDATE aembed_rows SET id = 'renamed' WHERE id = '005'",
        "INSERT INTO aembed_rows SELECT NULL, 'new', source, fingerprint, digest, updated_at, 'latecomer_1, too', "
        "metadata, embedding FROM aembed_rows WHERE id = '006'",
    )
    assert sorted(await found(store, "latecomer_1")) == ["003", "new"]
    assert await found(store, "name_3") == []
    assert await found(store, "name_4") == []
    assert await found(store, "name_5") == ["renamed"]
    await store.aclose()


async def test_t20_many_changes_are_taken_into_the_index_and_few_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MOST_CHANGES", 5)
    monkeypatch.setattr(words, "PIECE_ROWS", 7)
    path = tmp_path / "notes.db"
    store = await filled(path)
    await store.index_words()
    for count, left in ((5, 5), (30, 0)):
        for edition in ("first", "last"):
            ids = [f"{i:03d}" for i in range(count)]
            await store.write(replace(rows(ids), texts=[f"{edition}_{count}_{i} text" for i in range(count)]))
        await store.delete(["001"])
        assert query(path, "SELECT count(*) >= 5 FROM aembed_words_changes") == [(1,)]
        assert await found(store, f"last_{count}_2") == ["002"]
        assert query(path, "SELECT count(*) FROM aembed_words_changes") == [(left,)]
        for gone in (f"last_{count}_1", f"first_{count}_2", "name_2"):
            assert await found(store, gone) == []
    run(path, "INSERT INTO aembed_words (aembed_words) VALUES ('integrity-check')")
    await store.aclose()


async def test_t20_a_replaced_row_leaves_nothing_of_itself(tmp_path: Path) -> None:
    """INSERT OR REPLACE deletes the old row, and SQLite runs no trigger for that."""
    path = tmp_path / "notes.db"
    store = await filled(path)
    assert await found(store, "name_99") == ["099"]
    run(path, "INSERT OR REPLACE INTO aembed_rows SELECT number, id, source, fingerprint, digest, updated_at, "
        "'other_9', metadata, embedding FROM aembed_rows WHERE id = '099'")  # fmt: skip
    assert await found(store, "name_99") == []
    assert await found(store, "other_9") == ["099"]
    await store.aclose()


@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_t20_a_build_goes_on_where_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """And rows that are written, edited or deleted in the middle of it are in it once."""
    monkeypatch.setattr(words, "PIECE_ROWS", 20)
    path = tmp_path / "notes.db"
    store = await filled(path)
    for _ in range(pieces):
        await store._write(WORDS.build_piece)
    changed = ["005", "050", "200"]
    await store.write(replace(rows(changed), texts=["changed name_5", "changed name_50", "new name_200"]))
    await store.delete(["006", "060"])
    again = SQLiteStore(path)
    for number, expected in ((5, ["005"]), (50, ["050"]), (200, ["200"]), (6, []), (60, []), (99, ["099"])):
        assert await found(again, f"name_{number}") == expected
    assert await found(again, "changed") == ["005", "050"] or await found(again, "changed") == ["050", "005"]
    run(path, "INSERT INTO aembed_words (aembed_words) VALUES ('integrity-check')")
    await store.aclose()
    await again.aclose()


def lost_triggers(path: Path) -> None:
    run(
        path,
        *(f"DROP TRIGGER {name}" for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type='trigger'")),
    )
    run(path, "UPDATE aembed_rows SET text = 'unseen_word' WHERE id = '010'")


def renumbered(path: Path) -> None:
    run(path, "UPDATE aembed_word_indexes SET last = -1", "UPDATE aembed_rows SET rowid = rowid + 1000",
        "UPDATE aembed_word_indexes SET last = 9223372036854775807",
        "UPDATE aembed_rows SET text = 'unseen_word' WHERE id = '010'")  # fmt: skip


@pytest.mark.parametrize("change", [lost_triggers, renumbered])
async def test_t20_an_index_that_does_not_fit_is_built_anew(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "notes.db"
    store = await filled(path)
    assert await found(store, "name_7") == ["007"]
    change(path)
    assert await found(store, "name_7") == ["007"]
    assert await found(store, "unseen_word") == ["010"]
    assert await found(store, "name_10") == []
    await store.aclose()


async def test_t20_an_index_is_built_beside_writes_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "PIECE_ROWS", 10)
    path = tmp_path / "notes.db"
    store, other = await filled(path), SQLiteStore(path)
    told: list[tuple[str, int, int]] = []

    def write(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))
        run(path, EDIT.format(f"beside_{len(told)}", f"{len(told) * 7:03d}"))

    await store.index_words(on_progress=write)
    assert told[-1] == ("words", 100, 100)
    for number in range(1, len(told) + 1):
        assert await found(other, f"beside_{number}") == [f"{number * 7:03d}"]
        assert await found(other, f"name_{number * 7}") == []
    await store.aclose()
    await other.aclose()


BUILDER = """
import asyncio, sys
import aembed.stores._sqlite._words as words
from aembed.stores.sqlite import SQLiteStore
words.PIECE_ROWS = 1
asyncio.run(SQLiteStore(sys.argv[1]).index_words(on_progress=lambda *told: print(*told, flush=True)))
"""


def build_and_kill(path: Path, pieces: int) -> None:
    with subprocess.Popen([sys.executable, "-c", BUILDER, str(path)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        for _ in range(pieces):
            assert builder.stdout.readline()
        builder.kill()


@pytest.mark.parametrize("pieces", [1, 20, 60])
async def test_t20_a_build_whose_process_is_killed_is_gone_on_with(tmp_path: Path, pieces: int) -> None:
    path = tmp_path / "notes.db"
    store = await filled(path)
    build_and_kill(path, pieces)
    await store.delete(["002"])
    for number in (0, 1, 50, 99):
        assert await found(store, f"name_{number}") == [f"{number:03d}"]
    assert await found(store, "name_2") == []
    run(path, "INSERT INTO aembed_words (aembed_words) VALUES ('integrity-check')")
    await store.aclose()


async def test_a_table_without_rowids_is_refused_before_anything_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    run(
        path,
        "CREATE TABLE t (id TEXT PRIMARY KEY, content TEXT, embedding BLOB) WITHOUT ROWID",
        "INSERT INTO t VALUES ('a', 'one', NULL)",
    )
    column = SQLiteColumn(path, "t", text="content")
    for call in (column.index_words(), column.preflight(SPACE, index=True), column.prepare_words()):
        with pytest.raises(ConfigError, match="WITHOUT ROWID"):
            await call
    await column.aclose()


async def test_t20_a_column_whose_rows_were_renumbered_is_not_searched_by_words(tmp_path: Path) -> None:
    """VACUUM numbers the rows of a table anew that has no index and no INTEGER PRIMARY KEY."""
    path = tmp_path / "app.db"
    run(
        path,
        "CREATE TABLE t (content TEXT, embedding BLOB)",
        *(INSERT.format(i) for i in range(ROWS)),
    )
    column = SQLiteColumn(path, "t", text="content")
    await column.prepare(SPACE)
    pending = [record async for record in column.pending()]
    matrix = np.tile(QUERY, (ROWS, 1))
    await column.write([each.id for each in pending], [each.text for each in pending], matrix)
    await column.index_words()
    assert await found(column, "name_70") == ["71"]
    await column.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM t WHERE rowid <= 10")
        connection.execute("VACUUM")
    column = SQLiteColumn(path, "t", text="content")
    with pytest.raises(ConfigError, match="index_words"):
        await found(column, "name_70")
    await column.index_words()
    assert await found(column, "name_70") == ["61"]
    await column.aclose()
