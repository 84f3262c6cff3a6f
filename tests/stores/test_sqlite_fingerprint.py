"""Rows T15 and T6 in SQLite: an edited text gets a vector of its own, and is never found by what it said before."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aembed import BadRequestError, ConfigError, Embedder, FakeProvider, Report, SQLiteColumn
from tests.cli.command import aembed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    execute(path, "CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, seen TEXT)")
    with closing(sqlite3.connect(path)) as connection, connection:
        texts = [(number, f"note {number}") for number in range(1, 101)]
        connection.executemany("INSERT INTO notes (id, content) VALUES (?, ?)", texts)
    return path


def execute(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def filled(path: Path) -> int:
    return int(execute(path, "SELECT count(*) FROM notes WHERE embedding IS NOT NULL")[0][0])


def no_bad(number: int, texts: Sequence[str]) -> BadRequestError | None:
    return BadRequestError("not this one", status_code=400) if "bad" in texts else None


async def backfilled(path: Path, fingerprint: str | None = "seen", **options: Any) -> tuple[Report, list[str]]:
    provider = FakeProvider("fake", 8, keep_texts=True, script=no_bad)
    column = SQLiteColumn(path, "notes", text="content", fingerprint=fingerprint, **options)
    async with Embedder(provider) as embedder:
        report = await embedder.backfill(column)
    await column.aclose()
    return report, [text for request in provider.ledger.log for text in request.texts]


async def test_t15_a_text_that_was_edited_is_filled_again_and_nothing_else(path: Path) -> None:
    assert len((await backfilled(path))[1]) == 100
    assert (await backfilled(path))[1] == []
    execute(path, "UPDATE notes SET content = 'another ' || id WHERE id IN (3, 5)")
    report, bought = await backfilled(path)
    assert (report.stored, sorted(bought)) == (2, ["another 3", "another 5"])
    assert (await backfilled(path))[1] == []


async def test_t15_rows_without_a_fingerprint_are_filled_once_more(path: Path) -> None:
    await backfilled(path, fingerprint=None)
    assert len((await backfilled(path))[1]) == 100
    assert (await backfilled(path))[1] == []


async def test_t15_without_the_option_an_edited_text_keeps_its_vector(path: Path) -> None:
    await backfilled(path)
    execute(path, "UPDATE notes SET content = 'another' WHERE id = 3")
    assert (await backfilled(path, fingerprint=None))[1] == []


async def test_t15_the_column_is_made_where_it_is_missing(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'hash'.*--create-columns"):
        await backfilled(path, fingerprint="hash")
    report, _ = await backfilled(path, fingerprint="hash", create_columns=True)
    assert report.stored == 100
    assert len(execute(path, "SELECT hash FROM notes WHERE length(hash) = 64")) == 100


@pytest.mark.parametrize("text", ["' '", "'bad'"], ids=["empty", "refused"])
async def test_t6_the_vector_of_a_text_that_was_edited_into_one_that_fails_is_cleared(path: Path, text: str) -> None:
    await backfilled(path)
    execute(path, f"UPDATE notes SET content = {text} WHERE id = 7")  # noqa: S608
    for _ in range(2):
        report, _ = await backfilled(path)
        assert [failure.id for failure in report.failures] == ["7"]
        assert filled(path) == 99
    execute(path, "UPDATE notes SET content = 'good again' WHERE id = 7")
    assert (await backfilled(path))[0].stored == 1


async def test_t6_no_search_finds_a_row_by_what_it_said_before(path: Path) -> None:
    await backfilled(path)
    execute(path, "UPDATE notes SET content = 'another' WHERE id = 7")
    execute(path, "UPDATE notes SET content = NULL WHERE id = 8")
    column = SQLiteColumn(path, "notes", text="content", fingerprint="seen")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        found = await embedder.search(column, "note 7", k=100)
        assert {match.id for match in found} == {str(number) for number in range(1, 101)} - {"7", "8"}
    await column.aclose()


async def test_t6_a_vector_whose_text_nobody_noted_is_left_alone(path: Path) -> None:
    await backfilled(path, fingerprint=None)
    execute(path, "UPDATE notes SET content = ' ' WHERE id = 3")
    report, _ = await backfilled(path)
    assert [failure.id for failure in report.failures] == ["3"]
    assert filled(path) == 100


async def test_t15_a_column_named_true_is_no_condition(tmp_path: Path) -> None:
    """SQLite takes the word for that column where there is one (3.54.1; findings/sqlite-true-may-be-a-column.sh)."""
    path = tmp_path / "flags.db"
    execute(path, 'CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, "TRUE")')
    execute(path, "INSERT INTO notes (content) VALUES ('one')")
    assert (await backfilled(path, fingerprint=None))[0].stored == 1
    column = SQLiteColumn(path, "notes", text="content")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        assert [match.id for match in await embedder.search(column, "one")] == ["1"]
    await column.aclose()


@pytest.mark.parametrize("name", ["content", "embedding"])
async def test_t15_a_column_with_another_use_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        await backfilled(path, fingerprint=name)


def test_t15_the_command_takes_it(path: Path) -> None:
    flags = ("--store", path.name, "--table", "notes", "--text", "content", "--fingerprint", "seen")
    first = aembed(path.parent, "backfill", *flags, "-m", "fake:x", "--yes")
    assert (first.code, first.err.count("Traceback")) == (0, 0)
    execute(path, "UPDATE notes SET content = 'another' WHERE id = 7")
    assert "pending   1\n" in aembed(path.parent, "status", *flags).out
    assert ", 1 stored, " in aembed(path.parent, "backfill", *flags, "-m", "fake:x").out
