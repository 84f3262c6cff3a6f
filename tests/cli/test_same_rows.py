"""`status`, `failures` and `search` of a table see the rows that its backfill sees."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from tests.cli.command import aembed

FAKE = ("-m", "fake:x")


@pytest.fixture
async def sections(database: str) -> str:
    """Six rows, of which two have no title."""
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS seen;"
        "CREATE TABLE seen (id serial PRIMARY KEY, title text, body text, embedding vector(64), hash bytea);"
        "INSERT INTO seen (title, body) SELECT CASE WHEN n > 2 THEN 'Title ' || n END, 'body ' || n"
        " FROM generate_series(1, 6) n"
    )
    await connection.close()
    return database


async def test_t11_status_counts_what_backfill_fills(sections: str, tmp_path: Path) -> None:
    table = ("--store", sections, "--table", "seen", "--text-sql", "title || ': ' || body", "--fingerprint", "hash")
    for where, rows in ((("--where", "id <= 4"), 2), ((), 2)):
        names = (*table, *where)
        planned = aembed(tmp_path, "backfill", *names, *FAKE, "--dry-run", "--json").json["inputs"]
        assert aembed(tmp_path, "status", *names, "--json").json["pending"] == planned == rows
        assert aembed(tmp_path, "backfill", *names, *FAKE, "--json").json["stored"] == rows
        assert aembed(tmp_path, "status", *names, "--json").json["pending"] == 0
    connection = await asyncpg.connect(sections)
    await connection.execute("UPDATE seen SET body = 'edited' WHERE id = 5")
    await connection.close()
    assert aembed(tmp_path, "status", *table, "--json").json["pending"] == 1
    assert aembed(tmp_path, "status", *table, "--where", "id <> 5", "--json").json["pending"] == 0
    assert aembed(tmp_path, "failures", *table).err == "no failures\n"
    (match,) = aembed(tmp_path, "search", "Title 6: body 6", *table, "-k", "1", "--json").json["matches"]
    assert match["id"] == "6"
    assert aembed(tmp_path, "backfill", *table, *FAKE, "--json").json["stored"] == 1


def test_t11_so_it_is_for_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.execute("INSERT INTO t (body) VALUES ('one'), ('two'), (NULL)")
    table = ("--store", "app.db", "--table", "t", "--text", "body")
    assert aembed(tmp_path, "status", *table, "--json").json["pending"] == 2
    assert aembed(tmp_path, "status", *table, "--where", "id > 1", "--json").json["pending"] == 1


@pytest.mark.parametrize("command", ["status", "failures"])
@pytest.mark.parametrize("flag", ["--where", "--fingerprint", "--text", "--text-sql", "--key"])
def test_t11_a_flag_of_a_table_without_a_table_is_refused(command: str, flag: str, tmp_path: Path) -> None:
    ran = aembed(tmp_path, command, flag, "id")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {flag} is about a table of your own; name it with  --table NAME\n"
