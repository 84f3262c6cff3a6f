"""Row T3 in SQLite: rows that a table refuses, or drops, fail alone and are bought once; all others are written."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aembed import Embedder, FakeProvider, Report, RowRefusedError, RowsRefusedError, SQLiteColumn, StoreError
from tests.jobs import words

BAD = "new.id IN (17, 18, 40, 99)"
COLUMNS = "id INTEGER PRIMARY KEY, content TEXT, embedding BLOB"
REFUSES = {
    "abort": f"CREATE TRIGGER no BEFORE UPDATE ON notes WHEN {BAD} BEGIN SELECT RAISE(ABORT, 'not this one'); END",
    "fail": f"CREATE TRIGGER no AFTER UPDATE ON notes WHEN {BAD} BEGIN SELECT RAISE(FAIL, 'not this one'); END",
    "rollback": f"CREATE TRIGGER no BEFORE UPDATE ON notes WHEN {BAD} BEGIN SELECT RAISE(ROLLBACK, 'not this'); END",
    "ignore": f"CREATE TRIGGER no BEFORE UPDATE ON notes WHEN {BAD} BEGIN SELECT RAISE(IGNORE); END",
    "clears": f"CREATE TRIGGER no AFTER UPDATE OF embedding ON notes WHEN {BAD} AND new.embedding IS NOT NULL "  # noqa: S608
    "BEGIN UPDATE notes SET embedding = NULL WHERE id = new.id; END",
    "unique": f"CREATE UNIQUE INDEX no ON notes (CASE WHEN {BAD.replace('new.', '')} AND embedding IS NOT NULL "
    "THEN 1 END)",
}
CHECKED = f"{COLUMNS}, CHECK (embedding IS NULL OR id NOT IN (17, 18, 40, 99))"


def table(path: Path, *statements: str, columns: str = COLUMNS) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE notes ({columns})")
        connection.executemany("INSERT INTO notes (content) VALUES (?)", [(text,) for text in words(100)])
        for statement in statements:
            connection.execute(statement)


def execute(path: Path, statement: str) -> int:
    with closing(sqlite3.connect(path)) as connection, connection:
        row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


async def backfilled(path: Path) -> tuple[Report, Counter[str]]:
    column, provider = SQLiteColumn(path, "notes", text="content"), FakeProvider("fake", 8, keep_texts=True)
    async with Embedder(provider, max_batch_size=50) as embedder:
        report = await embedder.backfill(column)
    await column.aclose()
    return report, Counter(text for request in provider.ledger.log for text in request.texts)


FILLED = "SELECT count(*) FROM notes WHERE embedding IS NOT NULL"


@pytest.mark.parametrize("kind", [*REFUSES, "check"])
async def test_t3_rows_that_a_sqlite_table_refuses_fail_alone_and_are_bought_once(kind: str, tmp_path: Path) -> None:
    path, bad = tmp_path / "a.db", 3 if kind == "unique" else 4
    table(path, *([REFUSES[kind]] if kind in REFUSES else []), columns=CHECKED if kind == "check" else COLUMNS)
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, report.pending) == (100 - bad, bad, 0)
    assert all(isinstance(failure.error, RowRefusedError) for failure in report.failures)
    assert (execute(path, FILLED), max(bought.values())) == (100 - bad, 1)
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, bought.total()) == (0, bad, 0), "nothing is paid for them again"


async def test_t3_what_the_table_takes_by_now_is_filled_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    table(path, REFUSES["abort"])
    await backfilled(path)
    execute(path, "DROP TRIGGER no")
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, bought.total(), execute(path, FILLED)) == (4, 0, 4, 100)


@pytest.mark.parametrize("action", ["ABORT", "FAIL", "ROLLBACK"])
async def test_t3_a_table_that_refuses_every_row_is_found_before_anything_is_paid(action: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    table(path, f"CREATE TRIGGER no BEFORE UPDATE ON notes BEGIN SELECT RAISE({action}, 'never'); END")
    provider = FakeProvider("fake", 8)
    column = SQLiteColumn(path, "notes", text="content")
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match="does not keep what is written to it: "):
            await embedder.backfill(column)
    await column.aclose()
    assert provider.ledger.requests == 0


async def test_t3_a_write_tells_which_rows_were_not_taken_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    table(path, REFUSES["rollback"])
    column = SQLiteColumn(path, "notes", text="content")
    ids = [str(number) for number in range(1, 101)]
    with pytest.raises(RowsRefusedError, match="not this") as raised:
        await column.write(ids, words(100), np.ones((100, 8), np.float32))
    assert (set(raised.value.rows), raised.value.written) == ({"17", "18", "40", "99"}, 96)
    assert execute(path, FILLED) == 96
    await column.aclose()
