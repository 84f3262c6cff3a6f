from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import aembed
from tests.jobs import vector_of
from tests.stage.postgres import sql

FILL = ("backfill", "--store", "notes.db", "--table", "sections", "--text", "content", "-m", "fake:x")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of five texts; the last is empty."""
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, lang TEXT, embedding BLOB)")
        texts = [("one", "en"), ("two", "en"), ("drei", "de"), ("vier", "de"), ("", "en")]
        connection.executemany("INSERT INTO sections (content, lang) VALUES (?, ?)", texts)
    return path


def column(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT embedding FROM sections ORDER BY id")]


def test_fills_the_empty_column(table: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, *FILL)
    assert ran.code == 1
    assert ran.out.startswith("5 texts, 4 stored, 0 unchanged, 1 failed, 1 request, ")
    assert ran.err.splitlines()[0] == "sections.content -> sections.embedding of notes.db, fake:x, 64 dimensions"
    assert "  5: the text of '5' is empty" in ran.err
    vectors = column(table)
    assert [vectors[0], vectors[3]] == [vector_of("one").tobytes(), vector_of("vier").tobytes()]
    assert vectors[4] is None
    assert aembed(tmp_path, *FILL, "--json").json["stored"] == 0


def test_dry_run_writes_nothing(table: Path, tmp_path: Path) -> None:
    before = table.read_bytes()
    ran = aembed(tmp_path, *FILL, "--dry-run", "--json")
    assert ran.code == 0
    assert {"inputs": 5, "new": 4, "failed": 1, "requests": 1}.items() <= ran.json.items()
    assert table.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]


def test_limit_and_where(table: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, *FILL, "--where", "lang = 'de'", "--limit", "1", "--json")
    assert (ran.code, ran.json["stored"]) == (0, 1)
    assert [vector is not None for vector in column(table)] == [False, False, True, False, False]


def test_the_column_keeps_its_model(table: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, *FILL, "--limit", "2").code == 0
    ran = aembed(tmp_path, *FILL[:-2], "--where", "lang = 'de'")
    assert ran.code == 0
    assert "fake:x, 64 dimensions\n" in ran.err
    assert np.frombuffer(column(table)[2], "<f4").tolist() == vector_of("drei").tolist()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--table", "nope"), "nope"),
        (("--text", "body"), "body"),
        (("--vector", "vec"), "vec"),
        (("--key", "uuid"), "uuid"),
        (("--store", "no.db"), "no.db does not exist"),
        (("--store", "memory:"), "memory: has no tables of your own"),
    ],
)
def test_a_wrong_name_is_refused(table: Path, tmp_path: Path, flags: tuple[str, ...], named: str) -> None:
    for dry in ((), ("--dry-run",)):
        ran = aembed(tmp_path, *FILL, *flags, *dry)
        assert (ran.code, ran.out) == (2, "")
        assert named in ran.err.splitlines()[-1]
    assert not (tmp_path / "no.db").exists()


NAMES = ("--store", "notes.db", "--table", "sections", "--text", "content")


def test_what_is_made_is_said_before(table: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(table)) as connection, connection:
        connection.execute("ALTER TABLE sections DROP COLUMN embedding")
    ran = aembed(tmp_path, *FILL)
    assert ran.code == 2
    assert "no column 'embedding'" in ran.err
    dry = aembed(tmp_path, *FILL, "--create-columns", "--dry-run")
    assert dry.err.splitlines()[1:3] == [
        'would be made: column "embedding" BLOB of "sections"',
        "would be made: table aembed_columns, which keeps what the column is for; "
        "aembed_workers and aembed_leases: who works on which rows",
    ]
    ran = aembed(tmp_path, *FILL, "--create-columns")
    assert ran.err.splitlines()[1].startswith('will be made: column "embedding"')
    assert column(table)[0] == vector_of("one").tobytes()


def test_refused_texts_are_skipped_listed_and_tried_again(table: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(table)) as connection, connection:
        connection.execute("UPDATE sections SET content = ? WHERE id = 5", ("word " * 20_000,))
    assert aembed(tmp_path, *FILL).code == 1
    again = aembed(tmp_path, *FILL)
    assert again.code == 1
    assert "1 refused earlier; --retry-failed tries them again" in again.err
    listed = aembed(tmp_path, "failures", *NAMES)
    assert listed.out.startswith("5  InputError: ")
    assert listed.err == f"1 refused; to try them again:  aembed backfill {shlex.join(NAMES)} --retry-failed\n"
    assert "refused earlier" not in aembed(tmp_path, *FILL, "--retry-failed").err
    assert aembed(tmp_path, *FILL, "--too-long", "truncate").code == 0
    assert aembed(tmp_path, "failures", *NAMES).err == "no failures\n"


def test_a_column_is_searched(table: Path, tmp_path: Path) -> None:
    aembed(tmp_path, *FILL)
    ran = aembed(tmp_path, "search", "drei", *NAMES, "-k", "1")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "1.000  3")
    ran = aembed(tmp_path, "search", "drei", *NAMES, "--where", "id=1", "--json")
    assert [match["id"] for match in ran.json["matches"]] == ["1"]
    ran = aembed(tmp_path, "search", "drei", *NAMES, "-m", "fake:other")
    assert ran.code == 2
    assert "fake:other" in ran.err
    ran = aembed(tmp_path, "search", "drei", "--store", "notes.db", "--table", "sections")
    assert ran.code == 2
    assert "--text COLUMN" in ran.err


def test_the_status_of_a_column(table: Path, tmp_path: Path) -> None:
    aembed(tmp_path, *FILL, "--limit", "1")
    ran = aembed(tmp_path, "status", *NAMES)
    assert ran.out.splitlines() == [
        "column    sections.embedding of notes.db",
        "pending   4",
        "model     fake:x, 64 dimensions",
        "failures  0",
    ]
    assert aembed(tmp_path, "status", *NAMES, "--json").json["pending"] == 4


@pytest.mark.parametrize("flags", [("--index", "--index-memory", "1GB"), ("--text-sql", "content")])
def test_what_sqlite_has_not_is_refused(table: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    command = FILL[:5] + FILL[7:] if "--text-sql" in flags else FILL
    ran = aembed(tmp_path, *command, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert "PostgreSQL" in ran.err
    assert column(table) == [None] * 5


def test_a_table_of_sqlite_is_indexed_for_hybrid_search_when_that_is_asked_for(table: Path, tmp_path: Path) -> None:
    before = table.read_bytes()
    announced = aembed(tmp_path, *FILL, "--index", "--dry-run")
    assert "would be made: index aembed_words_" in announced.err
    assert table.read_bytes() == before
    assert aembed(tmp_path, *FILL).code == 1
    search = ("search", "drei", "--table", "sections", "--text", "content", "--store", "notes.db", "--hybrid")
    refused = aembed(tmp_path, *search)
    assert refused.code == 2
    command = shlex.split(refused.err.splitlines()[-1].partition("or by  ")[2])
    assert command[:2] == ["aembed", "backfill"]
    assert command[-1] == "--index"
    ran = aembed(tmp_path, *command[1:])
    assert ran.code == 1
    assert "the index is built" in ran.err
    found = aembed(tmp_path, *search, "--json").json["matches"]
    assert (found[0]["id"], found[0]["rank"]) == ("3", 1)


def test_fills_indexes_and_searches_a_table_of_postgresql(database: str, tmp_path: Path) -> None:
    sql(
        database,
        "CREATE TABLE sections (id int PRIMARY KEY, title text, body text)",
        "INSERT INTO sections SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 40) AS i",
    )
    names = ("--store", database, "--table", "sections", "--text-sql", "title || ': ' || body")
    fill = ("backfill", *names, "--fingerprint", "embedded", "--create-columns", "--index", "-m", "fake:x")
    dry = aembed(tmp_path, *fill, "--dry-run")
    assert (dry.code, sql(database, "SELECT * FROM pg_namespace WHERE nspname = 'aembed'")) == (0, [])
    assert [line.partition(": ")[2].split(" ")[0] for line in dry.err.splitlines()[1:5]] == [
        "column",
        "column",
        "schema",
        "index",
    ]
    ran = aembed(tmp_path, *fill)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("40 texts, 40 stored, ")
    assert ran.err.splitlines()[-1] == "the index is built"
    assert sql(database, "SELECT FROM pg_indexes WHERE indexname LIKE 'aembed_hnsw%'") != []
    (match,) = aembed(tmp_path, "search", "title 7: body 7", *names, "-k", "1", "--json").json["matches"]
    assert (match["id"], round(match["score"], 4)) == ("7", 1.0)
    sql(database, "UPDATE sections SET body = 'another' WHERE id = 7")
    assert aembed(tmp_path, *fill, "--json").json["stored"] == 1


def test_d2_a_table_that_drops_what_is_written_is_no_success(table: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(table)) as connection, connection:
        one_is_filled = "(SELECT count(embedding) FROM sections) > 0"
        connection.execute(
            f"CREATE TRIGGER t BEFORE UPDATE ON sections WHEN {one_is_filled} BEGIN SELECT RAISE(IGNORE); END"
        )
    ran = aembed(tmp_path, *FILL)
    assert ran.code == 1
    assert ran.out.startswith("5 texts, 1 stored, 0 unchanged, 4 failed, ")
    assert "pending" not in ran.out
    assert ran.err.count("after it was written its vector is another; the table has the trigger 't'") == 3
