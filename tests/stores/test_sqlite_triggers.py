"""Triggers of a SQLite table that drop or change vectors: told before money is spent, and never counted as stored."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aembed import Embedder, FakeProvider, SQLiteColumn, StoreError
from tests.jobs import words

DROPPING = {
    "clears": "AFTER UPDATE OF embedding ON notes WHEN {} "
    "BEGIN UPDATE notes SET embedding = NULL WHERE id = new.id; END",
    "changes": "AFTER UPDATE ON notes WHEN {} AND new.embedding <> x'00' "
    "BEGIN UPDATE notes SET embedding = x'00' WHERE id = new.id; END",
    "skips": "BEFORE UPDATE ON notes WHEN {} BEGIN SELECT RAISE(IGNORE); END",
}


def table(path: Path, *triggers: str, rows: int = 30) -> SQLiteColumn:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (content) VALUES (?)", [(text,) for text in words(rows)])
        for trigger in triggers:
            connection.execute(f"CREATE TRIGGER {trigger}")
    return SQLiteColumn(path, "notes", text="content")


@pytest.mark.parametrize("kind", DROPPING)
async def test_t1_a_trigger_that_drops_vectors_is_named_before_anything_is_paid(kind: str, tmp_path: Path) -> None:
    column = table(tmp_path / "notes.db", f'"the {kind} one" {DROPPING[kind].format("true")}')
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match=f"does not keep what is written.*'the {kind} one'"):
            await embedder.backfill(column)
    assert provider.ledger.requests == 0
    await column.aclose()


@pytest.mark.parametrize("kind", DROPPING)
async def test_t1_a_row_that_a_trigger_drops_is_not_told_as_stored(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    column, provider = table(path, f"dropping {DROPPING[kind].format('new.id = 17')}"), FakeProvider(keep_texts=True)
    async with Embedder(provider) as embedder:
        report = await embedder.backfill(column)
    assert report.stored == 29
    assert report.failed == 1
    sent = [text for each in provider.ledger.log for text in each.texts]
    assert max(sent.count(text) for text in sent) <= 2
    await column.aclose()


async def test_t1_a_trigger_that_leaves_the_vectors_alone_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    column = table(path, "counting AFTER UPDATE ON notes BEGIN DELETE FROM notes WHERE id = -1; END")
    async with Embedder(FakeProvider()) as embedder:
        assert (await embedder.backfill(column)).stored == 30
    await column.aclose()
